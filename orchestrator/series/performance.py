# SPDX-License-Identifier: GPL-2.0-only
"""Compare the performance of base and tip, and find the patch that made a metric worse.

Kernels boot in turn, and each boot is one sample. Every metric is judged (``analysis.regression``). While a
metric is perhaps worse, base and tip boot again; what is worse is then searched for by halves of the series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from orchestrator.analysis.compare import usable
from orchestrator.analysis.regression import MetricChange, MetricDifference, difference
from orchestrator.analysis.stats import Like, Ratio, decide
from orchestrator.kernel import build
from orchestrator.plan.inputs import kernel_spec
from orchestrator.plan.target import Target
from orchestrator.results.model import AT_FAULT, Blame, Case, CellResult, Verdict
from orchestrator.series.model import BENCH, Change, KernelId, Patch, RowResult, Series, Step
from orchestrator.series.steps import (
    Workspace,
    inputs_of,
    label_of,
    object_folders,
    run_of,
    target_of,
)

#: Boots of each side, and the most of them if a metric is perhaps worse.
BOOTS, MOST_BOOTS = 5, 12


class Slower(msgspec.Struct, frozen=True, kw_only=True):
    """A metric that is worse at the tip: a patch after ``good`` and not after ``bad`` made it so."""

    kernel: KernelId
    change: Change
    good: int
    bad: int


def measure(series: Series, workspace: Workspace) -> Series:
    """Measure base and tip for each kernel in which they differ, and patches between where a metric is worse.

    The results are added to the steps. Finished measurements are not repeated. A kernel that one of the two
    lacks is left out.
    """
    steps = {step.number: step for step in series.steps}
    tip = series.patches[-1]
    first, last = steps.get(0), steps.get(tip.number)
    if not series.scope.bench or first is None or last is None or workspace.engine.cancelled():
        return series
    if any(name.startswith(f"{BENCH} ") for name in last.rows):
        return series
    unmeasured = series
    equal, differing = _split_kernels(first, last)
    same = Case(id=BENCH, verdict=Verdict.PASS, reason="the kernel equals the base's, byte for byte")
    for id_ in equal:
        series = _with_row(series, tip.number, id_, RowResult(cases=(same,), same=True))
    if not differing:
        return series
    cells, changes, run = _base_and_tip(series, workspace, differing)
    if workspace.engine.cancelled():
        return msgspec.structs.replace(series, interrupted=True)
    for id_ in differing:
        own_cells = [cell for cell in cells if KernelId.of(cell) == id_]
        cases = _cases(own_cells, _of_kernel(changes, id_), label_of(tip))
        series = _with_row(series, tip.number, id_, RowResult(cases=cases, run=run))
    series = msgspec.structs.replace(series, changes=changes)
    slower = [
        Slower(kernel=KernelId(change.arch, change.variant), change=change, good=0, bad=tip.number)
        for change in changes
        if change.says is MetricChange.WORSE
    ]
    searched = _search(series, workspace, slower, cells)
    if workspace.engine.cancelled():
        # without these rows the search goes on where it was, since finished boots are kept
        return msgspec.structs.replace(unmeasured, interrupted=True)
    return _with_equal_kernels(searched, differing)


def _with_row(series: Series, number: int, id_: KernelId, result: RowResult) -> Series:
    steps = tuple(
        msgspec.structs.replace(step, rows=step.rows | {id_.row(BENCH).name: result})
        if step.number == number
        else step
        for step in series.steps
    )
    return msgspec.structs.replace(series, steps=steps)


def _of_kernel(changes: Iterable[Change], id_: KernelId) -> list[Change]:
    return [change for change in changes if KernelId(change.arch, change.variant) == id_]


def _base_and_tip(
    series: Series, workspace: Workspace, kernels: Sequence[KernelId]
) -> tuple[Sequence[CellResult], tuple[Change, ...], str]:
    """The boots of base and tip, what they show, and the name of their run."""
    ends = (series.patches[0], series.patches[-1])
    boots = series.scope.choices.boots or BOOTS
    while True:
        cells, run = _boot(series, workspace, ends, kernels, boots, "bench")
        changes = compare(cells, base=label_of(ends[0]), tip=label_of(ends[1]))
        more = max(
            (change.boots for change in changes if change.says is MetricChange.PERHAPS_WORSE), default=0
        )
        if workspace.engine.cancelled() or min(more, MOST_BOOTS) <= boots:
            return cells, changes, run
        boots = min(more, MOST_BOOTS)
        workspace.events.emit("", "", f"a metric is perhaps worse: {boots} boots of base and tip")


def _boot(
    series: Series,
    workspace: Workspace,
    patches: Sequence[Patch],
    kernels: Sequence[KernelId],
    boots: int,
    name: str,
) -> tuple[Sequence[CellResult], str]:
    """Boot kernels of several patches in turn; finished boots of that run are not repeated."""
    choices = msgspec.structs.replace(
        series.scope.choices, suites=series.scope.bench, selftests_from="", boots=boots
    )
    # they share one tree: the kernels of each must be in the store before the next is checked out
    targets = [_built_target(series, patch, workspace, kernels) for patch in patches]
    result = run_of(choices, targets, workspace, name, kernels=kernels)
    return result.cells, result.id


def _search(
    series: Series, workspace: Workspace, slower: Sequence[Slower], ends: Sequence[CellResult]
) -> Series:
    """Measure patches between base and tip until each worse metric is attributed, or cannot be."""
    open_ = [each for each in slower if _middle(series, each) is not None]
    while open_ and not workspace.engine.cancelled():
        middle = _middle(series, open_[0])
        assert middle is not None
        here = [each for each in open_ if each.good < middle < each.bad]
        kernels = list(dict.fromkeys(each.kernel for each in here))
        patch = series.patches[middle]
        workspace.events.emit("", "", f"worse than the base: measuring {patch}")
        # the tip boots beside it, since the host may have changed
        patches = (series.patches[0], patch, series.patches[-1])
        boots = series.scope.choices.boots or BOOTS
        cells, run = _boot(series, workspace, patches, kernels, boots, f"bench-{middle:04}")
        if workspace.engine.cancelled():
            break
        found = {id(each): _like(each, [*ends, *cells], series.patches[-1], patch) for each in here}
        for kernel in kernels:
            cases = [_case_between(each, found[id(each)]) for each in here if each.kernel == kernel]
            series = _with_row(series, middle, kernel, RowResult(cases=tuple(cases), run=run))
        open_ = [
            narrowed
            for each in open_
            if (narrowed := _narrowed(each, middle, found.get(id(each)))) is not None
            and _middle(series, narrowed) is not None
        ]
    return series


def _middle(series: Series, slower: Slower) -> int | None:
    """The patch to measure next; ``None`` if no kernel between differs from those at both ends."""
    images = _images(series, slower.kernel)
    ends = (images[slower.good], images[slower.bad])
    between = [
        number
        for number in range(slower.good + 1, slower.bad)
        if images.get(number) and images[number] not in (images.get(number - 1), *ends)
    ]
    return between[len(between) // 2] if between else None


def _images(series: Series, id_: KernelId) -> dict[int, str]:
    """The digests of a kernel's images by patch."""
    return {step.number: step.kernels[id_.key].image for step in series.steps if id_.key in step.kernels}


def _with_equal_kernels(series: Series, kernels: Sequence[KernelId]) -> Series:
    """Share the measurements among neighbours with equal images, so that the first of them is named."""
    numbers = range(1, len(series.patches))
    for id_ in kernels:
        images = _images(series, id_)
        for number in reversed(numbers[:-1]):
            later = _row(series, number + 1, id_)
            equal = bool(images.get(number)) and images[number] == images.get(number + 1)
            if equal and later is not None and _row(series, number, id_) is None:
                series = _with_row(series, number, id_, later)
                series = _with_row(series, number + 1, id_, msgspec.structs.replace(later, same=True))
        for number in numbers:
            before = _row(series, number - 1, id_)
            equal = bool(images.get(number)) and images[number] == images.get(number - 1)
            if equal and before is not None and _row(series, number, id_) is None:
                series = _with_row(series, number, id_, msgspec.structs.replace(before, same=True))
    return series


def _row(series: Series, number: int, id_: KernelId) -> RowResult | None:
    """The measurement of a patch; that of the base is good by definition."""
    if not number:
        return RowResult(cases=(Case(id=BENCH, verdict=Verdict.PASS),))
    return next((step.rows.get(id_.row(BENCH).name) for step in series.steps if step.number == number), None)


def _like(slower: Slower, cells: Sequence[CellResult], tip: Patch, patch: Patch) -> Like:
    change = slower.change

    def values(label: str) -> list[float]:
        own = [cell for cell in cells if cell.label == label and KernelId.of(cell) == slower.kernel]
        return usable(
            [s.metrics for cell in own for s in cell.suites if s.suite == change.suite], change.metric
        )

    try:
        return decide(values("base"), values(label_of(tip)), values(label_of(patch))).like
    except ValueError:
        # boots that were discarded, or ends that no longer differ
        return Like.MORE


def _narrowed(slower: Slower, middle: int, like: Like | None) -> Slower | None:
    """The search after a measurement; ``None`` if it did not tell."""
    if like is Like.BAD:
        return msgspec.structs.replace(slower, bad=middle)
    if like is Like.GOOD:
        return msgspec.structs.replace(slower, good=middle)
    return slower if like is None else None


def _case_between(slower: Slower, like: Like) -> Case:
    name = f"{slower.change.suite}/{slower.change.metric}"
    if like is Like.MORE:
        reason = "neither like the base nor like the tip, as far as these boots show"
        return Case(id=name, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)
    if like is Like.BAD:
        return msgspec.structs.replace(
            _case(slower.change), reason=f"like the tip: {_ratio_text(slower.change)}"
        )
    return Case(id=name, verdict=Verdict.PASS, reason="like the base")


def _split_kernels(base: Step, tip: Step) -> tuple[list[KernelId], list[KernelId]]:
    """The kernels of base and tip with equal images, and those with different ones."""
    equal: list[KernelId] = []
    differing: list[KernelId] = []
    for key, kernel in tip.kernels.items():
        image = base.kernels[key].image if key in base.kernels else ""
        if kernel.image and image:
            (equal if kernel.image == image else differing).append(KernelId.parse(key))
    return equal, differing


def _built_target(series: Series, patch: Patch, workspace: Workspace, kernels: Sequence[KernelId]) -> Target:
    """A patch's target, with its kernels in the store, since the tree will change."""
    target = target_of(series, patch, workspace)
    choices = msgspec.structs.replace(series.scope.choices, suites=(), commands=(), selftests_from="")
    inputs = inputs_of(choices, [target], workspace)
    folder_of = object_folders(choices, workspace.checkout)
    for id_ in kernels:
        spec = kernel_spec(inputs, target.label, *id_, objects=folder_of(*id_))
        build.build(
            spec,
            workspace.store,
            say=lambda text: workspace.events.emit("", "build", text),
            jobs=choices.jobs,
        )
    return target


def compare(cells: Sequence[CellResult], *, base: str, tip: str) -> tuple[Change, ...]:
    """The metrics of the tip over those of the base, for each kernel and benchmark, the gravest first."""
    sides: dict[str, dict[tuple[str, ...], list[CellResult]]] = {base: {}, tip: {}}
    for cell in cells:
        if cell.label in sides:
            sides[cell.label].setdefault(KernelId.of(cell), []).append(cell)
    metrics = difference(sides[base], sides[tip]).metrics
    order = list(MetricChange)
    return tuple(sorted(map(_change, metrics), key=lambda change: order.index(change.says)))


def _change(metric: MetricDifference) -> Change:
    arch, variant = metric.place
    return Change(
        arch=arch,
        variant=variant,
        suite=metric.suite,
        metric=metric.metric,
        better=metric.better,
        base=metric.base,
        tip=metric.new,
        ratio=metric.ratio,
        says=metric.change,
        boots=metric.boots,
    )


def _cases(cells: Sequence[CellResult], changes: Sequence[Change], tip: str) -> tuple[Case, ...]:
    """The cases of one kernel's benchmarks."""
    cases = [_case(change) for change in changes]
    for cell in cells:
        for case in cell.all_cases():
            if case.verdict is Verdict.PASS:
                continue
            at_tip = cell.label == tip
            blind = case.verdict in AT_FAULT and not at_tip
            cases.append(
                msgspec.structs.replace(
                    case,
                    id=f"{cell.cell}/{case.id}",
                    verdict=Verdict.INCONCLUSIVE if blind else case.verdict,
                    log=f"bench/{case.log}" if case.log else "",
                )
            )
    if not cases:
        reason = "no metric was measured on both sides"
        cases = [Case(id=BENCH, verdict=Verdict.INCONCLUSIVE, blame=Blame.INFRA, reason=reason)]
    return tuple(cases)


def _case(change: Change) -> Case:
    verdict, blame = Verdict.PASS, Blame.NONE
    if change.says is MetricChange.WORSE:
        verdict, blame = Verdict.FAIL, Blame.KERNEL
    elif change.says in (MetricChange.FEW, MetricChange.PERHAPS_WORSE):
        verdict, blame = Verdict.INCONCLUSIVE, Blame.INFRA
    return Case(
        id=f"{change.suite}/{change.metric}", verdict=verdict, blame=blame, reason=_ratio_text(change)
    )


def _ratio_text(change: Change) -> str:
    return f"tip / base {in_words(change.ratio)}: {change.says} ({change.better} is better)"


def in_words(ratio: Ratio) -> str:
    """``0.52 [0.48 .. 0.57]``."""
    return f"{ratio.estimate:.2f}{ratio.interval}"
