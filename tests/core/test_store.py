# SPDX-License-Identifier: GPL-2.0-only
"""An entry of the cache is whole or it is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.mounts import SMALL, mounted
from fakes.processes import until
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InfraError, Interrupted, KernelError
from orchestrator.core.store import Seal, Store, default_cache, digest_of, file_digest


def make(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a").write_text("content of a")
    (folder / "sub/b").write_text("content of b")


def unused(_: Path) -> None:
    raise AssertionError("it was there already")


def test_a_wait_for_another_ends_when_the_run_is_cancelled(store: Store) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 1

    with store.lock("things-key"), pytest.raises(Interrupted):
        Store(store.root, cancelled).entry("things", "key", unused)
    assert len(asked) == 2
    assert store.entry("things", "key", make)


def test_an_entry_is_made_once(store: Store) -> None:
    assert store.find("things", "key") is None
    entry = store.entry("things", "key", make)
    assert entry == store.root / "things/key"
    assert (entry / "sub/b").read_text() == "content of b"
    assert store.entry("things", "key", unused) == store.find("things", "key") == entry
    assert store.find("things", "other") is None


def _forget(entry: Path, name: str) -> None:
    """Take a file out of the manifest, and alter it."""
    manifest = json.loads((entry / "manifest.json").read_text())
    del manifest[name]
    (entry / "manifest.json").write_text(json.dumps(manifest))
    (entry / name).write_text("altered")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda e: os.truncate(e / "a", 3),
    "empty": lambda e: os.truncate(e / "sub/b", 0),
    "deleted": lambda e: (e / "sub/b").unlink(),
    "altered": lambda e: (e / "a").write_text("CONTENT OF A"),
    "no manifest": lambda e: (e / "manifest.json").unlink(),
    "torn manifest": lambda e: os.truncate(e / "manifest.json", 20),
    "empty manifest": lambda e: os.truncate(e / "manifest.json", 0),
    "odd manifest": lambda e: (e / "manifest.json").write_text("[1]"),
    "manifest of nothing": lambda e: (e / "manifest.json").write_text("{}"),
    "manifest of some files": lambda e: _forget(e, "sub/b"),
    "manifest of other files": lambda e: (e / "c").write_text("of no maker"),
    "binary manifest": lambda e: (e / "manifest.json").write_bytes(b"\xff\0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_entry_is_made_again(store: Store, damage: str) -> None:
    entry = store.entry("things", "key", make)
    DAMAGE[damage](entry)
    assert store.find("things", "key") is None
    assert store.entry("things", "key", make) == entry
    assert (entry / "a").read_text() == "content of a"
    assert store.find("things", "key") == entry


@pytest.mark.parametrize("manifest", ["{}", '{"digest": ""}', '{"digest": 1}', "null"])
def test_a_digest_that_is_wrong_is_no_seal(store: Store, manifest: str) -> None:
    entry = store.entry("things", "key", make, seal=Seal.TREE)
    assert store.find("things", "key", seal=Seal.TREE) == entry
    (entry / "manifest.json").write_text(manifest)
    assert store.find("things", "key", seal=Seal.TREE) is None


def test_a_maker_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise KernelError("does not compile")

    with pytest.raises(KernelError, match="does not compile"):
        store.entry("things", "key", fail)
    assert list((store.root / "things").iterdir()) == []
    assert (store.entry("things", "key", make) / "a").exists()


MAKER = """
import os, sys, time
from pathlib import Path
from orchestrator.core.store import Store
def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    while Path(sys.argv[2] + ".hold").exists():
        time.sleep(0.01)
    (folder / "a").write_text("content")
print("ready", flush=True)
sys.stdin.read()
print(Store(Path(sys.argv[1])).entry("things", "key", make, waiting=lambda: print("waiting", flush=True)))
"""


def makers(store: Store, log: Path, number: int) -> list[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", MAKER, str(store.root), str(log)]
    return [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]


def test_of_two_processes_one_makes_it(store: Store, tmp_path: Path) -> None:
    log, hold = tmp_path / "log", tmp_path / "log.hold"
    hold.touch()
    first, second = makers(store, log, 2)
    for process in (first, second):
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
    assert first.stdin
    assert second.stdin
    assert second.stdout
    first.stdin.close()
    assert until(log.exists)
    second.stdin.close()
    assert second.stdout.readline() == "waiting\n"
    hold.unlink()
    for process in (first, second):
        assert process.stdout
        assert process.stdout.read() == f"{store.root}/things/key\n"
        assert process.wait(30) == 0
        process.stdout.close()
    assert log.read_text() == "made\n"


def test_a_killed_maker_neither_blocks_nor_litters(store: Store, tmp_path: Path) -> None:
    log, hold = tmp_path / "log", tmp_path / "log.hold"
    hold.touch()
    (process,) = makers(store, log, 1)
    with process:
        assert process.stdin
        process.stdin.close()
        assert until(log.exists)
        process.send_signal(signal.SIGKILL)
    entry = store.entry("things", "key", make)
    assert [path.name for path in (store.root / "things").iterdir()] == ["key"]
    assert store.find("things", "key") == entry


FULL = """
import sys
from pathlib import Path
from orchestrator.core.errors import InfraError
from orchestrator.core.store import Store
def make(folder):
    with (folder / "a").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            if sys.argv[2] == "content":
                raise
store = Store(Path(sys.argv[1]) / "cache")
try:
    store.entry("things", "key", make)
except InfraError as error:
    print(error)
print([path.name for path in (store.root / "things").iterdir()])
"""


@pytest.mark.parametrize("what", ["content", "manifest"])
def test_a_full_disk(tmp_path: Path, what: str) -> None:
    done = mounted(SMALL.format("1m"), tmp_path, [sys.executable, "-c", FULL, tmp_path, what])
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert "ORCHESTRATE_CACHE" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_a_cache_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfraError, match=r"cannot write to the cache .*file"):
        Store(tmp_path / "file").entry("things", "key", make)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATE_CACHE", "here")
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("ORCHESTRATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg/orchestrate"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(values), st.lists(values))
def test_a_digest_stands_for_its_values(one: list[object], other: list[object]) -> None:
    # the text of values tells True from 1, which == does not
    assert (digest_of(*one) == digest_of(*other)) == (repr(one) == repr(other) or _same(one, other))


def _same(one: object, other: object) -> bool:
    """Equal but for the order of dictionaries."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def test_digests() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of("a", "bc") != digest_of("ab", "c")
    assert len(digest_of()) == 32


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
