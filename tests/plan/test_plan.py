# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import arch
from orchestrator.core.errors import UserError
from orchestrator.plan.choices import Choices
from orchestrator.plan.plan import Plan, PlannedKernel, make
from orchestrator.suites import catalog

BOTH = ("per-vma-lock", "mmap-lock")
MODES = {name: arch.load(name).vsyscall_modes for name in arch.names()}


def plan(*labels: str, **given: object) -> Plan:
    default = {"arches": ("x86_64",), "variants": BOTH, "suites": ("maps", "map-latency")}
    choices = Choices(**{**default, **given})  # type: ignore[arg-type]
    kernels = [PlannedKernel(label=label, arches=choices.arches) for label in labels or ("7.2.1",)]
    suites = [catalog.load(name) for name in choices.suites]
    return make(choices, kernels=kernels, suites=suites, vsyscall_modes=MODES)


def ids(the_plan: Plan) -> list[str]:
    return [cell.id for cell in the_plan.cells]


def test_benchmarks_come_last_and_are_interleaved() -> None:
    the_plan = plan(boots=2)
    assert ids(the_plan) == [
        "7.2.1-x86_64-per-vma-lock",
        "7.2.1-x86_64-mmap-lock",
        "7.2.1-x86_64-per-vma-lock-map-latency-1",
        "7.2.1-x86_64-mmap-lock-map-latency-1",
        "7.2.1-x86_64-per-vma-lock-map-latency-2",
        "7.2.1-x86_64-mmap-lock-map-latency-2",
    ]
    assert [cell.boot for cell in the_plan.cells] == [0, 0, 1, 1, 2, 2]
    assert [cell.alone for cell in the_plan.cells] == [False, False, True, True, True, True]
    assert [cell.suites for cell in the_plan.cells] == [("maps",)] * 2 + [("map-latency",)] * 4


def test_the_suite_says_how_many_boots() -> None:
    boots = catalog.load("map-latency").boots
    assert len(plan(suites=("map-latency",)).cells) == 2 * boots


def test_several_kernels_are_interleaved() -> None:
    the_plan = plan("old", "new", boots=2, variants=BOTH[:1])
    assert [(cell.label, cell.suites, cell.boot) for cell in the_plan.cells] == [
        ("old", ("maps",), 0),
        ("new", ("maps",), 0),
        ("old", ("map-latency",), 1),
        ("new", ("map-latency",), 1),
        ("old", ("map-latency",), 2),
        ("new", ("map-latency",), 2),
    ]


def test_repeats_are_cells_of_their_own_and_interleaved() -> None:
    the_plan = plan(suites=("maps",), times=2)
    assert ids(the_plan) == [
        "7.2.1-x86_64-per-vma-lock-1",
        "7.2.1-x86_64-mmap-lock-1",
        "7.2.1-x86_64-per-vma-lock-2",
        "7.2.1-x86_64-mmap-lock-2",
    ]
    assert [cell.boot for cell in the_plan.cells] == [1, 1, 2, 2]


def test_a_prebuilt_kernel_is_for_its_own_arch_alone() -> None:
    choices = Choices(arches=("x86_64", "arm64"), variants=BOTH, suites=("maps",))
    kernels = [
        PlannedKernel(label="tree", arches=choices.arches),
        PlannedKernel(label="image", arches=("arm64",)),
    ]
    the_plan = make(choices, kernels=kernels, suites=[catalog.load("maps")], vsyscall_modes=MODES)
    assert {(c.label, c.arch) for c in the_plan.cells} == {
        ("tree", "x86_64"),
        ("tree", "arm64"),
        ("image", "arm64"),
    }


def test_without_suites_there_is_a_cell_a_kernel() -> None:
    the_plan = plan(suites=(), arches=("x86_64", "arm64"))
    assert [(c.arch, c.variant, c.suites) for c in the_plan.cells] == [
        (a, v, ()) for a in ("x86_64", "arm64") for v in BOTH
    ]


def test_every_vsyscall_mode_is_a_boot_of_its_own() -> None:
    cells = plan(suites=("maps", "proc"), vsyscall="all", variants=BOTH[:1], cmdline=("quiet",)).cells
    assert [cell.vsyscall for cell in cells] == list(MODES["x86_64"])
    assert [cell.cmdline for cell in cells] == [("quiet", f"vsyscall={mode}") for mode in MODES["x86_64"]]
    assert [cell.only_vsyscall for cell in cells] == [False, True, True]
    assert cells[0].suites == ("maps", "proc")
    touched = tuple(n for n in ("maps", "proc") if any(p.vsyscall for p in catalog.load(n).program))
    assert [cell.suites for cell in cells[1:]] == [touched, touched]


def test_one_vsyscall_mode() -> None:
    (cell,) = plan(suites=("maps",), vsyscall="none", variants=BOTH[:1]).cells
    assert (cell.id, cell.only_vsyscall) == ("7.2.1-x86_64-per-vma-lock-vsyscall-none", False)
    assert cell.cmdline == ("vsyscall=none",)


def test_where_there_is_no_vsyscall_page() -> None:
    (cell,) = plan(arches=("arm64",), suites=("maps",), vsyscall="all", variants=BOTH[:1]).cells
    assert (cell.vsyscall, cell.cmdline) == ("", ())


def test_an_unknown_vsyscall_mode() -> None:
    with pytest.raises(UserError, match="unknown vsyscall mode 'native'") as caught:
        plan(vsyscall="native")
    assert caught.value.remedy == "Known are: all, xonly, emulate, none."


@pytest.mark.parametrize("suite", catalog.names())
def test_a_machine_that_is_too_small(suite: str) -> None:
    least = catalog.load(suite).min_cpus
    assert plan(suites=(suite,), smp=least).cells
    with pytest.raises(UserError, match=rf"suite '{suite}' needs {least} CPUs, --smp is {least - 1}"):
        plan(suites=(suite,), smp=least - 1)


def test_an_unknown_suite() -> None:
    with pytest.raises(UserError, match="'nosuch'"):
        plan(suites=("maps", "nosuch"))


def some(names: tuple[str, ...], least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), unique=True, min_size=least).map(tuple)


@given(
    arches=some(arch.names()),
    variants=some(BOTH),
    suites=some(catalog.names(), 0),
    vsyscall=st.sampled_from(["", "all", "xonly", "none"]),
    boots=st.integers(0, 4),
    smp=st.integers(2, 8),
    cmdline=st.lists(st.text()).map(tuple),
)
def test_any_plan(**choices: object) -> None:
    the_plan = plan(**choices)
    cells = the_plan.cells
    assert cells
    assert len(set(ids(the_plan))) == len(cells)
    kernels = {(cell.arch, cell.variant) for cell in cells}
    assert kernels == {(a, v) for a in the_plan.choices.arches for v in the_plan.choices.variants}
    for kernel in kernels:
        mine = [cell for cell in cells if (cell.arch, cell.variant) == kernel]
        assert {name for cell in mine for name in cell.suites} == set(the_plan.choices.suites)
    assert all(cell.smp == the_plan.choices.smp for cell in cells)
    # nothing that may disturb follows a benchmark, and no variant is a boot ahead of another
    kinds = [cell.boot > 0 for cell in cells]
    assert kinds == sorted(kinds)
    for a, b in itertools.pairwise(cells):
        if a.boot and b.boot and (a.arch, a.suites) == (b.arch, b.suites):
            assert 0 <= b.boot - a.boot <= 1
