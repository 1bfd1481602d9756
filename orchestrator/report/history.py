# SPDX-License-Identifier: GPL-2.0-only
"""The history of a case or a metric as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.analysis.stats import wilson_interval
from orchestrator.core.text import one_line
from orchestrator.history.queries import CaseRun, MetricRun
from orchestrator.report.answer import count, grouped


def case_text(case: str, runs: Sequence[CaseRun]) -> str:
    """The failure rate of each kernel line, then a line for each run, the newest first."""
    lines = [case]
    for same in grouped(runs, lambda run: run.kernel):
        failed = sum(run.failed for run in same)
        boots = failed + sum(run.passed for run in same)
        low, high = wilson_interval(failed, boots)
        rate = f"{failed} of {count(boots, 'boot')} failed"
        interval = f": 95 % interval {low * 100:.1f} .. {high * 100:.1f} %" if boots else ""
        lines.append(f"  {same[0].kernel}: {rate}{interval}")
    lines.append("")
    for run in runs:
        judged = run.failed + run.passed
        result = f"{run.failed} of {judged} failed" if judged else "not judged"
        lines.append(f"{_when(run.started_at)}  {run.run}  {run.kernel}  {run.release}  {result}")
        if run.reason and not (run.passed and not run.failed):
            lines.append(f"    {one_line(run.reason)}")
    return "\n".join(lines)


def metric_text(metric: str, runs: Sequence[MetricRun]) -> str:
    """A line for each run with the median and the extremes over boots, the newest first."""
    lines = [f"{metric}: median [least .. most] over boots"]
    environment = ""
    for run in runs:
        if run.environment != environment:
            environment = run.environment
            lines += ["", one_line(environment) or "(environment not recorded)"]
        values = f"{run.median:.4g} [{run.low:.4g} .. {run.high:.4g}], {count(run.boots, 'boot')}"
        lines.append(f"{_when(run.started_at)}  {run.run}  {run.kernel}  {run.release}  {values}")
    return "\n".join(lines)


def import_text(changed: Iterable[bool]) -> str:
    """``3 runs imported, 5 were recorded already``."""
    results = list(changed)
    return f"{count(sum(results), 'run')} imported, {len(results) - sum(results)} were recorded already"


def _when(started_at: str) -> str:
    return started_at[:16].replace("T", " ")
