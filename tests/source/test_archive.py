# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import http.server
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.mounts import SMALL, mounted
from fakes.trees import make_tarball, make_tree, snapshot

from orchestrator.core import store
from orchestrator.core.errors import InfraError, UserError
from orchestrator.core.store import file_digest
from orchestrator.source import archive, download
from orchestrator.source.archive import check_sha256, unpack_file
from orchestrator.source.download import BrokenDownload, fetch
from orchestrator.source.identity import content_digest

# they wait for processes and clocks
pytestmark = pytest.mark.slow

SUFFIXES = [
    ".tar",
    ".tar.gz",
    ".tar.xz",
    ".tar.bz2",
    pytest.param(
        ".tar.zst", marks=pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
    ),
]
DIGEST = "ab" * 32


def _leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "sources").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unpacked_tree_is_the_packed_one(tmp_path: Path, suffix: str) -> None:
    tree = make_tree(tmp_path / "t")
    packed = make_tarball(tmp_path / f"linux{suffix}", tree)
    # The content decides, not the name.
    odd = packed.rename(tmp_path / "download")
    found = unpack_file(odd, DIGEST, cache=tmp_path / "cache")
    assert found == tmp_path / "cache/sources" / DIGEST / "tree"
    assert content_digest(found) == content_digest(tree)
    assert _leftovers(tmp_path / "cache") == [DIGEST]


@pytest.mark.parametrize("top", [".", "linux"])
def test_with_and_without_a_directory_at_the_top(tmp_path: Path, top: str) -> None:
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"), top)
    assert (unpack_file(packed, DIGEST, cache=tmp_path / "cache") / "Makefile").is_file()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8])
def test_truncated_archive_leaves_nothing(tmp_path: Path, suffix: str, part: float) -> None:
    tree = make_tree(tmp_path / "t")
    (tree / "noise").write_bytes(os.urandom(100_000))
    packed = make_tarball(tmp_path / f"linux{suffix}", tree)
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=f"{packed.name}: cannot be unpacked"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    with pytest.raises(BrokenDownload):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache", blame=BrokenDownload)
    assert _leftovers(tmp_path / "cache") == []


def test_plain_archive_cut_between_two_members(tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "linux.tar", make_tree(tmp_path / "t"))
    with tarfile.open(packed) as opened:
        last = opened.getmembers()[-1]
    packed.write_bytes(packed.read_bytes()[: last.offset])
    with pytest.raises(UserError, match="no end-of-archive mark"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte(tmp_path: Path, suffix: str) -> None:
    if suffix == ".tar":
        pytest.skip("a plain archive has no checksum of its content")
    tree = make_tree(tmp_path / "t")
    (tree / "noise").write_bytes(os.urandom(100_000))
    packed = make_tarball(tmp_path / f"linux{suffix}", tree)
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    packed.write_bytes(data)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")


@pytest.mark.parametrize("data", [b"", b"hello\n" * 1000, b"PK\x03\x04" + bytes(4096)])
def test_no_tar_archive_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.tar"):
        unpack_file(tmp_path / "x.tar", DIGEST, cache=tmp_path / "cache")


def test_what_is_not_a_kernel_tree(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/README").write_text("no kernel\n")
    packed = make_tarball(tmp_path / "x.tar", tmp_path / "t")
    with pytest.raises(UserError, match=r"x\.tar is not a kernel tree"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache", blame=InfraError)
    assert _leftovers(tmp_path / "cache") == []


def test_what_was_packed_after_a_build(tmp_path: Path) -> None:
    (make_tree(tmp_path / "t") / ".config").write_text("CONFIG_SMP=y\n")
    with pytest.raises(UserError, match="not clean") as caught:
        unpack_file(make_tarball(tmp_path / "x.tar", tmp_path / "t"), DIGEST, cache=tmp_path / "cache")
    # not where it was unpacked: that is gone by now
    assert str(tmp_path) not in caught.value.remedy
    assert "make mrproper" in caught.value.remedy


# --- hostile archives


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 5 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([_member("linux/../../../../../outside/file")], id="dots"),
        pytest.param([_member("{outside}/file")], id="absolute"),
        pytest.param(
            [_member("linux/d", tarfile.SYMTYPE, "{outside}"), _member("linux/d/file")], id="through a link"
        ),
        pytest.param(
            [_member("linux/d", tarfile.SYMTYPE, "../../../../../outside"), _member("linux/d/file")],
            id="through a relative link",
        ),
        pytest.param([_member("linux/h", tarfile.LNKTYPE, "{outside}/secret")], id="hard link"),
        pytest.param([_member("linux/s", tarfile.SYMTYPE, "{outside}/secret")], id="link"),
        pytest.param(
            [_member("linux/s", tarfile.SYMTYPE, "../../../../../outside/secret")], id="relative link"
        ),
        pytest.param(
            [_member("linux/up", tarfile.SYMTYPE, "."), _member("linux/s", tarfile.SYMTYPE, "up/../..")],
            id="link over a link",
        ),
        pytest.param([_member("linux/fifo", tarfile.FIFOTYPE)], id="fifo"),
    ],
)
def test_hostile_archive_reaches_nothing(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret\n")
    before = snapshot(outside)
    packed = make_tarball(tmp_path / "evil.tar", make_tree(tmp_path / "t"), "linux")
    with tarfile.open(packed, "a") as opened:
        for info in members:
            changed = info.replace(
                name=info.name.replace("{outside}", str(outside)),
                linkname=info.linkname.replace("{outside}", str(outside)),
            )
            opened.addfile(changed, io.BytesIO(b"evil\n") if changed.isreg() else None)
    with pytest.raises(UserError):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    assert snapshot(outside) == before
    assert _leftovers(tmp_path / "cache") == []


def _deep(path: Path, depth: int) -> Path:
    """A tarball of a kernel tree with folders in folders."""
    make_tarball(path, make_tree(path.with_name("tree")))
    with tarfile.open(path, "a") as packed:
        for n in range(1, depth):
            packed.addfile(_member("linux-7.2.1/" + "d/" * n, tarfile.DIRTYPE))
    return path


@pytest.mark.parametrize("depth", [150, 1900])
def test_deep_folders_are_refused_and_leave_nothing(tmp_path: Path, depth: int) -> None:
    """More folders than Python's stack has frames, and a process descriptors; a retry says the same."""
    packed = _deep(tmp_path / "x.tar", depth)
    for _ in range(2):
        with pytest.raises(UserError, match="its folders are nested more than 100 deep"):
            unpack_file(packed, DIGEST, cache=tmp_path / "cache")
        assert _leftovers(tmp_path / "cache") == []


def test_what_was_left_deep_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "cache/sources" / _FRESH
    left.mkdir(parents=True)
    subprocess.run(["tar", "-xf", _deep(tmp_path / "x.tar", 1900), "-C", left], check=True)
    packed = make_tarball(tmp_path / "y.tar", make_tree(tmp_path / "t"))
    assert (unpack_file(packed, DIGEST, cache=tmp_path / "cache") / "Makefile").exists()
    assert _leftovers(tmp_path / "cache") == [DIGEST]


def test_folders_as_deep_as_a_kernels_are_fine(tmp_path: Path) -> None:
    packed = _deep(tmp_path / "x.tar", 30)
    assert unpack_file(packed, DIGEST, cache=tmp_path / "cache").joinpath("d/" * 29).is_dir()


def test_links_inside_the_tree_are_fine(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    (tree / "arch").mkdir()
    (tree / "arch/up").symlink_to("../mm/memory.c")
    (tree / "dangling").symlink_to("nowhere")
    found = unpack_file(make_tarball(tmp_path / "x.tar", tree), DIGEST, cache=tmp_path / "cache")
    assert content_digest(found) == content_digest(tree)


@pytest.mark.parametrize(("name", "limit"), [("MAX_BYTES", 20_000), ("MAX_ENTRIES", 5)])
def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    packed = make_tarball(tmp_path / "x.tar.gz", make_tree(tmp_path / "t"))
    unpack_file(packed, "cd" * 32, cache=tmp_path / "cache")
    big = make_tree(tmp_path / "big")
    (big / "zeros").write_bytes(bytes(1_000_000))
    packed = make_tarball(tmp_path / "bomb.tar.gz", big)
    monkeypatch.setattr(archive, name, limit)
    monkeypatch.setattr(archive, "_CHUNK", 4096)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    assert DIGEST not in _leftovers(tmp_path / "cache")


def test_no_space_is_not_the_archives_fault(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    (tree / "noise").write_bytes(os.urandom(3_000_000))
    packed = make_tarball(tmp_path / "x.tar", tree)
    (tmp_path / "cache").mkdir()
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.source.archive import unpack_file\n"
        "from orchestrator.core.errors import InfraError\n"
        "try: unpack_file(Path(sys.argv[1]), 'ab' * 32, cache=Path(sys.argv[2]))\n"
        "except InfraError as error: print(error); sys.exit(33)\n"
    )
    cache = tmp_path / "cache"
    done = mounted(SMALL.format("1m"), cache, [sys.executable, "-c", script, packed, cache])
    assert done.returncode == 33, done.stderr
    assert "No space left on device" in done.stdout


# --- the cache


def test_a_complete_entry_is_not_unpacked_again(tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"))
    found = unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    before = snapshot(found)
    said: list[str] = []
    packed.unlink()
    assert unpack_file(packed, DIGEST, cache=tmp_path / "cache", say=said.append) == found
    assert snapshot(found) == before
    assert said == []


#: A folder in which an entry is made.
_FRESH = f".{DIGEST[:12]}-fresh"


def _lose_file(entry: Path) -> None:
    (entry / "tree/mm/memory.c").unlink()


def _lose_mark(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def _damage_mark(entry: Path) -> None:
    (entry / "manifest.json").write_text("{")


def _build_inside(entry: Path) -> None:
    (entry / "tree/.config").write_text("CONFIG_SMP=y\n")


def _only_tmp(entry: Path) -> None:
    fresh = entry.rename(entry.with_name(_FRESH))
    (fresh / "tree/mm/memory.c").unlink()


@pytest.mark.parametrize("damage", [_lose_file, _lose_mark, _damage_mark, _build_inside, _only_tmp])
def test_a_torn_entry_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    tree = make_tree(tmp_path / "t")
    packed = make_tarball(tmp_path / "x.tar", tree)
    damage(unpack_file(packed, DIGEST, cache=tmp_path / "cache").parent)
    said: list[str] = []
    found = unpack_file(packed, DIGEST, cache=tmp_path / "cache", say=said.append)
    assert said == [f"unpacking {packed}"]
    assert content_digest(found) == content_digest(tree)
    assert _leftovers(tmp_path / "cache") == [DIGEST]


def test_a_killed_unpacking_is_redone(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t")
    packed = make_tarball(tmp_path / "x.tar", tree)
    # The stream stops half way and stays open, so that the kill surely comes in the middle.
    script = (
        "import sys, time; from contextlib import contextmanager; from pathlib import Path\n"
        "from orchestrator.core.errors import UserError; from orchestrator.source.archive import unpack\n"
        "class Half:\n"
        "    done = False\n"
        "    def read(self, size=-1, /):\n"
        "        if self.done: print('half', flush=True); time.sleep(600)\n"
        "        self.done = True\n"
        "        return Path(sys.argv[1]).read_bytes()[:8192]\n"
        "@contextmanager\n"
        "def source(): yield Half()\n"
        "unpack(source, 'ab' * 32, cache=Path(sys.argv[2]), blame=UserError, what='x')\n"
    )
    argv = [sys.executable, "-c", script, str(packed), str(tmp_path / "cache")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert [name[:14] for name in _leftovers(tmp_path / "cache")] == [_FRESH[:14]]
    found = unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    assert content_digest(found) == content_digest(tree)
    assert _leftovers(tmp_path / "cache") == [DIGEST]


def test_what_was_left_is_still_written_to(tmp_path: Path) -> None:
    """As by the tar of a process that was killed: it knows its folder, not the path to it."""
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"))
    left = tmp_path / "cache/sources" / _FRESH / "x"
    left.mkdir(parents=True)
    script = "n=0; while [ $n -lt 8000 ] && : >$n; do n=$((n + 1)); done"
    with subprocess.Popen(["sh", "-c", script], cwd=left, stderr=subprocess.DEVNULL) as writer:
        while sum(1 for _ in left.iterdir()) < 1000:
            assert writer.poll() is None
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")
    assert _leftovers(tmp_path / "cache") == [DIGEST]


def test_what_was_left_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CLEAR_S", 0.2)
    packed = make_tarball(tmp_path / "x.tar", make_tree(tmp_path / "t"))
    left = tmp_path / "cache/sources" / _FRESH
    left.mkdir(parents=True)

    def refuse(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(store, "remove_tree", refuse)
    with pytest.raises(InfraError, match="cannot be removed"):
        unpack_file(packed, DIGEST, cache=tmp_path / "cache")


def test_of_several_processes_one_unpacks(tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "x.tar.xz", make_tree(tmp_path / "t"))
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.Queue[str] = context.Queue()
    options = {"cache": tmp_path / "cache", "say": said.put}
    children = [context.Process(target=unpack_file, args=(packed, DIGEST), kwargs=options) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    said.put("done")
    lines = list(iter(said.get, "done"))
    assert lines.count(f"unpacking {packed}") == 1


def test_digests_are_compared(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    digest = file_digest(tmp_path / "f")
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    check_sha256("f", digest, None)
    check_sha256("f", digest, digest.upper())
    with pytest.raises(UserError, match=f"{digest}.*{DIGEST}"):
        check_sha256("f", digest, DIGEST)
    with pytest.raises(UserError, match="not a SHA-256"):
        check_sha256("f", digest, "abc")


# --- the web


class _Server(http.server.ThreadingHTTPServer):
    body = b"one"
    etag = '"1"'
    status = 200
    cut = 0
    seen: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("If-None-Match", "")
        status = 304 if asked == self.server.etag and self.server.status == 200 else self.server.status
        self.server.seen.append(f"{status} {self.path}")
        self.send_response(status)
        body = self.server.body if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[: len(body) - self.server.cut])

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.seen = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/linux.tar"


def test_fetched_once_while_the_server_has_nothing_newer(tmp_path: Path, server: _Server) -> None:
    said: list[str] = []
    first = fetch(_url(server), cache=tmp_path, say=said.append)
    assert first.read_bytes() == b"one"
    assert fetch(_url(server), cache=tmp_path, say=said.append) == first
    assert said == [f"fetching {_url(server)}"] * 2
    server.body, server.etag = b"two", '"2"'
    assert fetch(_url(server), cache=tmp_path).read_bytes() == b"two"
    assert server.seen == ["200 /linux.tar", "304 /linux.tar", "200 /linux.tar"]


def test_a_known_digest_needs_no_question(tmp_path: Path, server: _Server) -> None:
    digest = file_digest(fetch(_url(server), cache=tmp_path))
    fetch(_url(server), cache=tmp_path, sha256=digest)
    assert len(server.seen) == 1
    fetch(_url(server), cache=tmp_path, sha256=DIGEST)
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("what", "message"), [("status", "404"), ("cut", "cut short, 2 of 3"), ("size", "larger")]
)
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    if what == "status":
        server.status = 404
    elif what == "cut":
        server.cut = 1
    else:
        monkeypatch.setattr(download, "MAX_BYTES", 2)
    with pytest.raises(InfraError, match=message):
        fetch(_url(server), cache=tmp_path)
    assert not list(tmp_path.rglob("archive"))
    monkeypatch.undo()
    server.status, server.cut = 200, 0
    assert fetch(_url(server), cache=tmp_path).read_bytes() == b"one"


def test_without_the_server_the_kept_copy_serves_and_it_is_said(tmp_path: Path, server: _Server) -> None:
    fetch(_url(server), cache=tmp_path)
    server.status = 503
    said: list[str] = []
    assert fetch(_url(server), cache=tmp_path, say=said.append).read_bytes() == b"one"
    assert "using the cached copy" in said[-1]


def test_nobody_listens(tmp_path: Path, server: _Server) -> None:
    url = _url(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(InfraError, match="refused") as caught:
        fetch(url, cache=tmp_path)
    assert "name the file" in caught.value.remedy


def test_a_broken_download_is_forgotten(tmp_path: Path, server: _Server) -> None:
    download.discard(fetch(_url(server), cache=tmp_path))
    assert fetch(_url(server), cache=tmp_path).read_bytes() == b"one"
    assert server.seen == ["200 /linux.tar"] * 2
