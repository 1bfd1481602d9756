# SPDX-License-Identifier: GPL-2.0-only
"""Turn click's parameters into requests: no module below knows click."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import msgspec

    from orchestrator.bisect.request import BisectRequest
    from orchestrator.plan.options import Options
    from orchestrator.run.start import RunRequest
    from orchestrator.series.request import SeriesRequest

_Struct = TypeVar("_Struct", bound="msgspec.Struct")


def options(parameters: Mapping[str, Any]) -> Options:
    """The options that select kernels and tests."""
    from orchestrator.plan.options import Options

    return _filled(Options, parameters)


def run(parameters: Mapping[str, Any]) -> RunRequest:
    """The request of ``orchestrate run``.

    :raises UserError: a name does not exist, or options do not fit together.
    """
    from orchestrator.plan.options import choose
    from orchestrator.run.start import RunRequest

    resume = parameters["resume"]
    return RunRequest(
        out=Path(parameters["out"]),
        choices=choose(options(parameters), tests=True) if resume is None else None,
        resume=resume or "",
        junit=Path(parameters["junit"]) if parameters["junit"] else None,
        bisecting=parameters["bisect_exit"],
        fail_fast=parameters["fail_fast"],
    )


def bisect(parameters: Mapping[str, Any]) -> BisectRequest:
    """The request of ``orchestrate bisect``."""
    from orchestrator.bisect.request import BisectRequest

    return _filled(BisectRequest, {**parameters, "options": options(parameters)})


def series(parameters: Mapping[str, Any]) -> SeriesRequest:
    """The request of ``orchestrate series``."""
    from orchestrator.series.request import SeriesRequest

    # the argument SERIES has the name of the option --patch
    others = {**parameters, "patches": None}
    return _filled(SeriesRequest, {**parameters, "options": options(others)})


def _filled(struct: type[_Struct], parameters: Mapping[str, Any]) -> _Struct:
    """A struct with the parameters as fields; those that the user omitted keep their defaults."""
    from msgspec.structs import fields

    names = [field.name for field in fields(struct)]
    return struct(**{name: parameters[name] for name in names if parameters.get(name) is not None})
