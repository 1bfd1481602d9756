# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from paths import ROOT
from under_test import ORCHESTRATE, SOURCE

from orchestrator.core import arch as arches
from orchestrator.core import data
from orchestrator.core.errors import UserError
from orchestrator.core.toolchain import Toolchain
from orchestrator.kernel import flavor, kconfig
from orchestrator.plan import prepare
from orchestrator.plan.options import Options, choose
from orchestrator.suites import catalog


@pytest.mark.parametrize("name", flavor.names())
def test_every_flavor_says_what_it_is_for(name: str) -> None:
    each = flavor.load(name)
    assert each.reason
    assert each.slower >= 1
    assert each.fragment.built_in
    assert each.fragment.requests()
    assert set(each.not_with) <= set(flavor.names()) - {name}
    # what the pair is about stays the pair's
    decided = {
        r.symbol for v in kconfig.variants() for r in kconfig.own_fragments("x86_64", v)[-1].requests()
    }
    assert not decided & {request.symbol for request in each.fragment.requests()}
    for other in each.not_with:
        assert name in flavor.load(other).not_with


def test_docs_have_the_same_factors() -> None:
    text = (ROOT / "docs/reference/kconfigs.md").read_text()
    for name in flavor.names():
        each = flavor.load(name)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == f"× {each.slower:g}"
        assert cells[3] == (f"{each.mem_mib} MiB" if each.mem_mib else "")
        assert set(re.findall(r"`([\w-]+)`", cells[4])) == set(each.not_with)


def test_together_they_are_one_kernel_with_all_limits() -> None:
    names = ("lockdep", "kasan", "lockdep")
    assert [each.name for each in flavor.combine(names)] == ["kasan", "lockdep"]
    assert flavor.slower(names) == flavor.load("kasan").slower * flavor.load("lockdep").slower
    assert flavor.mem_mib(names) == 1024
    assert flavor.word(names) == "kasan+lockdep"
    assert not flavor.kmemleak(names)
    assert flavor.kmemleak((*names, "memleak"))
    assert (flavor.combine(()), flavor.slower(()), flavor.mem_mib(()), flavor.word(())) == ((), 1.0, 0, "")


def test_what_cannot_be_one_kernel_is_refused() -> None:
    with pytest.raises(UserError, match="flavors 'kasan' and 'kcsan' at once: a kernel is compiled for one"):
        flavor.combine(("kcsan", "kasan"))
    with pytest.raises(UserError, match="unknown flavor 'nosuch'"):
        flavor.combine(("nosuch",))


def test_suites_that_race_are_of_no_use_on_a_slow_kernel() -> None:
    assert "300-fold" in flavor.no_races(("lockdep", "maple"))
    assert flavor.no_races(("lockdep", "kasan")) == ""
    options = Options(flavors=("maple",), suites=("progress",))
    with pytest.raises(UserError, match=r"'progress' needs .* full speed; flavor 'maple': its checks"):
        choose(options, tests=True)


def test_default_suites_are_those_that_can_show_something() -> None:
    assert prepare.default_suites(()) == catalog.DEFAULT
    diagnosis = prepare.default_suites(("lockdep",))
    assert diagnosis == (*(name for name in catalog.DEFAULT if name != "map-latency"), "mm-stress")
    slow = prepare.default_suites(("maple",))
    assert set(diagnosis) - set(slow) == {"maps-coherency", "progress"}


def test_a_kernel_may_be_too_old() -> None:
    assert flavor.too_old(("kasan", "lockdep"), "6.11.4") == "flavor 'kasan' needs Linux 6.12 or later"
    assert flavor.too_old(("kasan", "lockdep"), "6.12-rc1") == ""
    assert flavor.too_old((), "2.6.39") == ""


def test_a_compiler_may_be_too_old() -> None:
    old = Toolchain("gcc", "gcc", "gcc", "gcc (Debian 10.2.1-6) 10.2.1 20210110")
    flavor.check_compiler(("lockdep",), old)
    with pytest.raises(UserError, match=r"flavor 'kcsan' needs gcc 11 or later, gcc is .*10\.2\.1") as caught:
        flavor.check_compiler(("kcsan", "lockdep"), old)
    assert "--toolchain" in caught.value.remedy
    for family, said in (("gcc", "gcc (Debian 12.2.0-14) 12.2.0"), ("clang", "Debian clang version 14.0.6")):
        found = Toolchain(family, family, family, said)
        assert (found.family, found.major) == (family, int(said.split()[-1].split(".")[0]))
        flavor.check_compiler(("kcsan",), found)


@pytest.mark.long
@pytest.mark.parametrize("arch", arches.usual())
@pytest.mark.parametrize("name", flavor.names())
def test_what_a_flavor_asks_for_survives(name: str, arch: str) -> None:
    """On the newest kernel that the tests know, every request, for both variants."""
    argv = [*ORCHESTRATE, "build", "--configure-only", "--flavor", name]
    done = subprocess.run(
        [*argv, "--arch", arch, "--source", SOURCE], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    configs = [kconfig.parse_config(Path(line.split()[-1]).read_text()) for line in done.stdout.splitlines()]
    assert len(configs) == 2
    for config in configs:
        for request in flavor.load(name).fragment.requests():
            assert config.get(request.symbol, "n") == request.value


@pytest.mark.parametrize(
    ("text", "message"),
    [("CONFIG_X=y\n", "no reason"), ("#: reason: x\n#: speed: 3\nCONFIG_X=y\n", "unknown: speed")],
)
def test_a_file_that_says_too_little_or_too_much(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.config").write_text(text)
    monkeypatch.setattr(data, "flavors", lambda: {"odd": tmp_path / "odd.config"})
    with pytest.raises(ValueError, match=message):
        flavor.load("odd")
