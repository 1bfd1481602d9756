# SPDX-License-Identifier: GPL-2.0-only
"""A cell to execute, as data: what an engine hands to a worker, on this machine or on another."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from orchestrator.core import codec
from orchestrator.plan.inputs import Inputs
from orchestrator.plan.plan import CellPlan
from orchestrator.results.model import Case, CellResult, Verdict

#: Property of a cell: the variant that a prebuilt kernel was found to be.
PREBUILT_VARIANT = "variant of the prebuilt kernel"
_BUILD_CASES = ("config", "build")

#: Returns the folder of incremental builds for an arch and a variant, if there is one.
ObjectFolder = Callable[[str, str], Path | None]


class CellJob(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to execute a cell. It goes to JSON and back.

    ``attempt`` identifies this attempt; only the result of the current attempt counts. ``prebuilt_variant``
    and ``build_failure`` are facts about the kernel from earlier cells of the run. ``objects`` is a folder
    for incremental builds.
    """

    plan: CellPlan
    inputs: Inputs
    attempt: str
    prebuilt_variant: str = ""
    build_failure: Case | None = None
    objects: Path | None = None

    @classmethod
    def of(
        cls, plan: CellPlan, inputs: Inputs, results: Mapping[str, CellResult], objects: ObjectFolder
    ) -> CellJob:
        """A new attempt at a cell of a run.

        :param inputs: those of the whole run.
        :param results: the results of its earlier cells, by cell id.
        """
        return cls(
            plan=plan,
            inputs=inputs.of_cell(plan.label, plan.suites),
            attempt=f"{plan.id}.{secrets.token_hex(4)}",
            prebuilt_variant=_prebuilt_variant(plan, results),
            build_failure=_build_failure(plan, results),
            objects=objects(plan.arch, plan.variant),
        )

    def to_json(self) -> bytes:
        """The job as JSON."""
        return codec.encode(self)

    @classmethod
    def from_json(cls, content: bytes) -> CellJob:
        """The job from the output of ``to_json``.

        :raises msgspec.MsgspecError: not a job.
        """
        return codec.decode(content, cls)


def _prebuilt_variant(plan: CellPlan, results: Mapping[str, CellResult]) -> str:
    for result in results.values():
        if result.label == plan.label and (variant := result.properties.get(PREBUILT_VARIANT)):
            return variant
    return ""


def _build_failure(plan: CellPlan, results: Mapping[str, CellResult]) -> Case | None:
    kernel = (plan.label, plan.arch, plan.variant)
    for result in results.values():
        if (result.label, result.arch, result.variant) == kernel:
            for case in result.cases:
                if case.id in _BUILD_CASES and case.verdict is Verdict.FAIL:
                    return case
    return None
