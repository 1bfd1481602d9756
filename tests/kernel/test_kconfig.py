# SPDX-License-Identifier: GPL-2.0-only
"""Fragments, what became of them and why, on text and made-up trees."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import arch as arches
from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.kernel import kconfig
from orchestrator.kernel.kconfig import Fragment, Lost, Request

symbols = st.from_regex(r"[A-Z0-9][A-Z0-9_a-z]{0,20}", fullmatch=True)
values = st.one_of(
    st.sampled_from(["y", "m", "n"]),
    st.integers(-(2**31), 2**31).map(str),
    st.integers(0, 2**64).map(hex),
    st.from_regex(r'"[^"\n\r\x00-\x1f\x7f-\xa0\u2028\u2029]{0,30}"', fullmatch=True),
)


@given(st.dictionaries(symbols, values))
def test_a_config_round_trip(config: dict[str, str]) -> None:
    lines = ["#", "# Automatically generated", "# CONFIG_WORD=y in a comment", ""]
    lines += [f"# CONFIG_{s} is not set" if v == "n" else f"CONFIG_{s}={v}" for s, v in config.items()]
    expected = {s: v for s, v in config.items() if v != "n"}
    assert kconfig.parse_config("\n".join(lines)) == expected
    requests = Fragment("x", "\n".join(lines)).requests()
    assert {r.symbol: r.value for r in requests} == config
    assert [r.line for r in requests] == list(range(5, 5 + len(config)))


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    kconfig.parse_config(text)


@pytest.mark.parametrize(
    "line", ["CONFIG_X", "X=y", "config X", "CONFIG_X =y", "CONFIG_=y", "#include", "CONFIG_Ä-B=y", "; x"]
)
def test_what_is_no_kconfig_line(line: str) -> None:
    if line.startswith("#"):
        assert Fragment("f", line).requests() == []
        return
    with pytest.raises(UserError, match=r"f:2: not a kconfig line"):
        Fragment("f", f"# fine\n{line}\n").requests()


def test_what_was_lost() -> None:
    one = Fragment("one", "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_N=64\n")
    two = Fragment("two", '# CONFIG_B is not set\nCONFIG_D=m\nCONFIG_S="x"\n', built_in=False)
    assert kconfig.lost([one, two], {"A": "y", "D": "m", "N": "64", "S": '"x"'}) == []
    config = {"B": "y", "C": "m", "D": "y", "N": "32", "S": '"y"'}
    assert {str(loss) for loss in kconfig.lost([one, two], config)} == {
        "CONFIG_A=y (one:1) became n",
        "CONFIG_B=n (two:1) became y",
        "CONFIG_C=n (one:3) became m",
        "CONFIG_D=m (two:2) became y",
        "CONFIG_N=64 (one:4) became 32",
        'CONFIG_S="x" (two:3) became "y"',
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "Kconfig": 'mainmenu "made up"\nsource "mm/Kconfig"\nsource "drivers/Kconfig"\n',
        "mm/Kconfig": 'config QUIET\n\tdef_bool y\n\nconfig LOUD\n\tbool "Loud"\n\thelp\n\t  Config CHILD.\n',
        "drivers/Kconfig": """
config CHILD
	bool "Child"

	depends on PARENT && !ENEMY
	depends on LOUD

menuconfig OTHER_CHILD
	bool "Other"
	depends on LEVEL = 3 && (PARENT || QUIET)
""",
        "drivers/sub/Kconfig.more": 'config LAST\n\tbool "Last"\n\tdepends on CHILD\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def explained(tree: Path, line: str, config: dict[str, str]) -> str:
    (loss,) = kconfig.lost([Fragment("f", line)], config)
    (explained,) = kconfig.explain([loss], tree, config)
    assert (explained.request, explained.got) == (loss.request, loss.got)
    return explained.why


def test_why_a_dependency(tree: Path) -> None:
    why = explained(tree, "CONFIG_CHILD=y", {"LOUD": "y"})
    assert why == "it depends on PARENT && !ENEMY, and PARENT is not set (drivers/Kconfig)"
    why = explained(tree, "CONFIG_CHILD=y", {"PARENT": "y"})
    assert why == "it depends on LOUD, and LOUD is not set (drivers/Kconfig)"
    why = explained(tree, "CONFIG_LAST=y", {})
    assert why == "it depends on CHILD, and CHILD is not set (drivers/sub/Kconfig.more)"
    why = explained(tree, "CONFIG_OTHER_CHILD=y", {"QUIET": "y"})
    assert why == ("it depends on LEVEL = 3 && (PARENT || QUIET), and PARENT is not set (drivers/Kconfig)")


def test_why_an_unknown_symbol(tree: Path) -> None:
    for symbol in ("NOSUCH", "CHIL", "CHILD_X", "PARENT"):
        assert explained(tree, f"CONFIG_{symbol}=y", {}) == "this tree has no such symbol"


def test_why_no_prompt(tree: Path) -> None:
    why = explained(tree, "# CONFIG_QUIET is not set", {"QUIET": "y"})
    assert why == "it has no prompt, or something selects it"


def test_why_remains_open(tree: Path) -> None:
    assert explained(tree, "CONFIG_LOUD=y", {}) == ""
    assert str(Lost(Request("A", "y", "f", 1), "n")) == "CONFIG_A=y (f:1) became n"
    assert str(Lost(Request("A", "y", "f", 1), "n", "so")) == "CONFIG_A=y (f:1) became n; so"


def test_the_wrapper_leaves_the_tree_alone(tree: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    (folder := tmp_path / "out").mkdir()
    wrapper = kconfig.write_wrapper(tree, folder)
    assert wrapper.parent == folder
    text = wrapper.read_text()
    assert text.startswith((tree / "Kconfig").read_text())
    added = text.removeprefix((tree / "Kconfig").read_text())
    assert added.split("\n\t") == [
        "\nconfig PER_VMA_LOCK",
        'bool "Per-VMA locks"',
        "depends on ARCH_SUPPORTS_PER_VMA_LOCK && MMU && SMP\n",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_users_fragment(tmp_path: Path) -> None:
    assert kconfig.user_fragment("CONFIG_A=y") == Fragment("--kconfig", "CONFIG_A=y", built_in=False)
    assert kconfig.user_fragment("# CONFIG_A is not set").requests()[0].value == "n"
    path = tmp_path / "my.config"
    path.write_text("# mine\nCONFIG_A=y\n")
    assert kconfig.user_fragment(str(path)) == Fragment(str(path), path.read_text(), built_in=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"CONFIG_A=y\nnonsense\n", ":2: not a kconfig line: 'nonsense'"),
        (b"\xff\xfe\0", "not a text file"),
        (b"", "it requests nothing"),
        (b"# CONFIG_A\n", "it requests nothing"),
        (b"\x1f\x8b\x08", "it is compressed"),
    ],
)
def test_a_users_fragment_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "my.config"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        kconfig.user_fragment(str(path))
    assert str(path) in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line of it sets a symbol; the file is empty"),
        (b"\n\n", "no line of it sets a symbol"),
        (b"#\n# Automatically generated file; DO NOT EDIT.\n", "no line of it sets a symbol"),
        (b"<html><body>404 Not Found</body></html>\n", ":1: no line of a .config: '<html>"),
        (b"CONFIG_A=y\n404: Not Found\n", ":2: no line of a .config: '404: Not Found'"),
        (b'config A\n\tbool "a"\n', ":1: no line of a .config: 'config A'"),
        (b"CONFIG_A is not set\n", ":1: no line of a .config"),
        (b"\x1f\x8b\x08", "it is compressed"),
        (b"\x7fELF\xff", "not a text file"),
        (None, "No such file or directory"),
    ],
)
def test_a_base_that_is_no_config(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "base.config"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        kconfig.user_base(str(path))
    assert f"--config {path}" in caught.value.message
    assert message in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "content", [b"CONFIG_A=y\n", b"\n# x\n# CONFIG_A is not set\n", b"\xef\xbb\xbfCONFIG_A=y\r\n"]
)
def test_a_base(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "base.config").write_bytes(content)
    assert kconfig.user_base(str(tmp_path / "base.config")).endswith("\n")
    assert "\r" not in kconfig.user_base(str(tmp_path / "base.config"))
    assert kconfig.user_base("") == ""


@pytest.mark.parametrize(
    ("head", "arch", "fits"),
    [
        ("# Linux/x86 6.12.0 Kernel Configuration", "x86_64", True),
        ("# Linux/x86_64 3.10.0 Kernel Configuration", "x86_64", True),
        ("# Linux/arm64 7.1.0 Kernel Configuration", "arm64", True),
        ("# a defconfig", "arm64", True),
        ("# Linux/x86 6.12.0 Kernel Configuration", "arm64", False),
        ("# Linux/arm64 7.1.0 Kernel Configuration", "x86_64", False),
        ("# Linux/arm 7.1.0 Kernel Configuration", "arm64", False),
    ],
)
def test_a_base_of_another_architecture(head: str, arch: str, fits: bool) -> None:
    text = f"#\n# Automatically generated file; DO NOT EDIT.\n{head}\n#\nCONFIG_A=y\n"
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match=f"a kernel for {arch}"):
        kconfig.check_base(text, arches.load(arch))


def test_many_losses_are_a_line_and_one_walk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f"CONFIG_D{number}=y\n" for number in range(6000)) + f'CONFIG_D0="{"x" * 9999}"\n'
    losses = kconfig.lost([Fragment("f", lines)], {})
    walks: list[Path] = []

    def rglob(path: Path, _pattern: str) -> list[Path]:
        walks.append(path)
        return []

    monkeypatch.setattr(Path, "rglob", rglob)
    text = kconfig.listing(losses, tree, {})
    assert walks == [tree]
    assert text.endswith("; and 5995 more requests")
    assert text.count("this tree has no such symbol") == 4
    assert len(text) < 1000
    assert (
        kconfig.listing(losses[1:2], tree, {}) == "CONFIG_D1=y (f:2) became n; this tree has no such symbol"
    )


def test_a_folder_is_no_fragment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        kconfig.user_fragment(str(tmp_path))
    with pytest.raises(UserError, match="not a kconfig line"):
        kconfig.user_fragment("CONFIG_A")


@pytest.mark.parametrize("line", ["CONFIG_PER_VMA_LOCK=y", "# CONFIG_PER_VMA_LOCK is not set"])
def test_the_variant_decides(line: str) -> None:
    fragment = Fragment("my.config", f"CONFIG_A=y\n{line}\n", built_in=False)
    with pytest.raises(
        UserError, match=r"PER_VMA_LOCK=. \(my.config:2\): this symbol is decided by the variant"
    ):
        kconfig.check_user_fragments([fragment], "x86_64")
    kconfig.check_user_fragments([Fragment("my.config", "CONFIG_A=y\n", built_in=False)], "x86_64")


def test_differences() -> None:
    one, other = {"A": "y", "B": "y", "C": "1"}, {"A": "y", "C": "2", "D": "m"}
    assert kconfig.difference(one, other) == {"B": ("y", "n"), "C": ("1", "2"), "D": ("n", "m")}
    assert kconfig.difference({"A": "n"}, {}) == {}


@pytest.mark.parametrize("path", sorted(data.kconfigs().rglob("*.config")), ids=lambda p: p.stem)
def test_every_file_of_ours_can_be_read(path: Path) -> None:
    requests = Fragment(path.name, path.read_text()).requests()
    assert requests
    names = [request.symbol for request in requests]
    assert sorted(set(names)) == sorted(names), "a symbol is asked for twice"


def test_the_pair_of_variants() -> None:
    assert kconfig.variants() == ("per-vma-lock", "mmap-lock")
    by_variant = {
        variant: {r.symbol: r.value for r in kconfig.own_fragments("x86_64", variant)[-1].requests()}
        for variant in kconfig.variants()
    }
    assert by_variant["per-vma-lock"]["PER_VMA_LOCK"] == "y"
    assert by_variant["mmap-lock"]["PER_VMA_LOCK"] == "n"


@pytest.mark.parametrize("name", arches.names())
@pytest.mark.parametrize("variant", kconfig.variants())
def test_our_fragments_do_not_contradict_each_other(name: str, variant: str) -> None:
    fragments = kconfig.own_fragments(name, variant)
    assert [f.name for f in fragments] == [
        "kconfigs/base.config",
        f"kconfigs/{name}.config",
        f"kconfigs/variants/{variant}.config",
    ]
    wanted: dict[str, str] = {}
    for request in (r for f in fragments for r in f.requests()):
        assert wanted.setdefault(request.symbol, request.value) == request.value, request


def test_an_unknown_variant() -> None:
    with pytest.raises(UserError, match="unknown variant 'no-lock'") as caught:
        kconfig.own_fragments("x86_64", "no-lock")
    assert caught.value.remedy == "Known are: per-vma-lock, mmap-lock."
