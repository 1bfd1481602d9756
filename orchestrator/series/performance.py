# SPDX-License-Identifier: GPL-2.0-only
"""Compare the performance of base and tip: they boot in turn, and each boot is one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from orchestrator.analysis.compare import usable
from orchestrator.analysis.stats import Ratio, Says, median, ratio_interval, says
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

#: Five boots per side are enough to judge four kernels together at 90 %.
BOOTS = 5
CONFIDENCE = 0.90
#: A smaller change is not a failure, however significant.
MIN_EFFECT = 1.05
#: The metrics to judge, if a benchmark has them: plain times depend on the host as much as on the kernel.
PREFERRED = ("interference",)


def measure(series: Series, workspace: Workspace) -> Series:
    """Measure base and tip for each kernel in which they differ, and add the results to the tip.

    Finished measurements are not repeated. A kernel that one of the two lacks is left out.
    """
    steps = {step.number: step for step in series.steps}
    tip = series.patches[-1]
    first, last = steps.get(0), steps.get(tip.number)
    if not series.scope.bench or first is None or last is None or workspace.engine.cancelled():
        return series
    if any(name.startswith(f"{BENCH} ") for name in last.rows):
        return series
    equal, differing = _split_kernels(first, last)
    same = Case(id=BENCH, verdict=Verdict.PASS, reason="the kernel equals the base's, byte for byte")
    rows = {id_.row(BENCH).name: RowResult(cases=(same,), same=True) for id_ in equal}
    changes: tuple[Change, ...] = ()
    if differing:
        cells, run = _measure(series, workspace, differing)
        if workspace.engine.cancelled():
            return msgspec.structs.replace(series, interrupted=True)
        changes = compare(cells, base="base", tip=label_of(tip))
        for id_ in differing:
            own_cells = [cell for cell in cells if KernelId.of(cell) == id_]
            own_changes = [c for c in changes if KernelId(c.arch, c.variant) == id_]
            cases = _cases(own_cells, own_changes, label_of(tip))
            rows[id_.row(BENCH).name] = RowResult(cases=cases, run=run)
    step = msgspec.structs.replace(last, rows=last.rows | rows)
    return msgspec.structs.replace(series, steps=(*series.steps[:-1], step), changes=changes)


def _split_kernels(base: Step, tip: Step) -> tuple[list[KernelId], list[KernelId]]:
    """The kernels of base and tip with equal images, and those with different ones."""
    equal: list[KernelId] = []
    differing: list[KernelId] = []
    for key, kernel in tip.kernels.items():
        image = base.kernels[key].image if key in base.kernels else ""
        if kernel.image and image:
            (equal if kernel.image == image else differing).append(KernelId.parse(key))
    return equal, differing


def _measure(
    series: Series, workspace: Workspace, kernels: Sequence[KernelId]
) -> tuple[Sequence[CellResult], str]:
    choices = msgspec.structs.replace(
        series.scope.choices,
        suites=series.scope.bench,
        selftests_from="",
        boots=series.scope.choices.boots or BOOTS,
    )
    # both share one tree: the kernels of each must be in the store before the other is checked out
    ends = (series.patches[0], series.patches[-1])
    targets = [_built_target(series, patch, workspace, kernels) for patch in ends]
    result = run_of(choices, targets, workspace, "bench", kernels=kernels)
    return result.cells, result.id


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
    """The metrics of the tip over those of the base, for each kernel and benchmark.

    One metric of each benchmark is judged. With m of them, their intervals are at 1 - 0.1/m (Bonferroni), so
    that all together hold at 90 %. The intervals of the other metrics, for information, are at 90 % each.
    """
    boots: dict[tuple[str, str, str], dict[str, list[Mapping[str, float]]]] = {}
    better: dict[str, dict[str, str]] = {}
    for cell in cells:
        for result in cell.suites:
            if result.kind == "benchmark":
                sides = boots.setdefault((cell.arch, cell.variant, result.suite), {})
                sides.setdefault(cell.label, []).append(result.metrics)
                better.setdefault(result.suite, {}).update(result.better)
    judged = {name: judged_metric(ways) for name, ways in better.items()}
    several = sum(1 for _, _, suite in boots if judged[suite])
    changes = []
    for (arch, variant, suite), sides in boots.items():
        for metric, way in better[suite].items():
            is_judged = judged[suite] == metric
            at_tip, at_base = (usable(sides.get(label, ()), metric) for label in (tip, base))
            if not at_tip or not at_base:
                continue
            level = 1 - (1 - CONFIDENCE) / several if is_judged else CONFIDENCE
            ratio = ratio_interval(at_tip, at_base, level)
            changes.append(
                Change(
                    arch=arch,
                    variant=variant,
                    suite=suite,
                    metric=metric,
                    better=way,
                    base=median(at_base),
                    tip=median(at_tip),
                    ratio=ratio,
                    says=says(ratio, way),
                    judged=is_judged,
                )
            )
    return tuple(changes)


def judged_metric(better: Mapping[str, str]) -> str:
    """The metric of a benchmark to judge: a preferred one, or else the first."""
    return next((name for name in (*PREFERRED, *better) if name in better), "")


def _cases(cells: Sequence[CellResult], changes: Sequence[Change], tip: str) -> tuple[Case, ...]:
    """The cases of one kernel's benchmarks."""
    cases = [_case(change) for change in changes if change.judged]
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
    effect = max(change.ratio.estimate, 1 / change.ratio.estimate)
    verdict, blame = Verdict.PASS, Blame.NONE
    if change.says is Says.WORSE and effect >= MIN_EFFECT:
        verdict, blame = Verdict.FAIL, Blame.KERNEL
    elif change.says is Says.FEW:
        verdict, blame = Verdict.INCONCLUSIVE, Blame.INFRA
    return Case(
        id=f"{change.suite}/{change.metric}",
        verdict=verdict,
        blame=blame,
        reason=f"tip / base {in_words(change.ratio)}: {change.says} ({change.better} is better)",
    )


def in_words(ratio: Ratio) -> str:
    """``0.52 [0.48 .. 0.57]``."""
    return f"{ratio.estimate:.2f}{ratio.interval}"
