# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator import data
from orchestrator.errors import UserError
from orchestrator.kernel import flavor, kconfig


@pytest.mark.parametrize("name", flavor.names())
def test_every_flavor_says_what_it_is_for(name: str) -> None:
    each = flavor.load(name)
    assert each.reason
    assert each.slower >= 1
    assert each.fragment.ours
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
    text = (Path(__file__).parents[1] / "docs/kconfigs.md").read_text()
    for name in flavor.names():
        each = flavor.load(name)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == f"× {each.slower:g}"
        assert cells[3] == (f"{each.mem_mib} MiB" if each.mem_mib else "")
        assert tuple(re.findall(r"`(\w+)`", cells[4])) == each.not_with


def test_together_they_are_one_kernel_with_all_limits() -> None:
    names = ("lockdep", "kasan", "lockdep")
    assert [each.name for each in flavor.combine(names)] == ["kasan", "lockdep"]
    assert flavor.slower(names) == flavor.load("kasan").slower * flavor.load("lockdep").slower
    assert flavor.mem_mib(names) == 1024
    assert flavor.word(names) == "kasan+lockdep"
    assert (flavor.combine(()), flavor.slower(()), flavor.mem_mib(()), flavor.word(())) == ((), 1.0, 0, "")


def test_what_cannot_be_one_kernel_is_refused() -> None:
    with pytest.raises(UserError, match="flavors 'kasan' and 'kcsan' at once"):
        flavor.combine(("kcsan", "kasan"))
    with pytest.raises(UserError, match="no flavor 'nosuch'"):
        flavor.combine(("nosuch",))


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
