# SPDX-License-Identifier: GPL-2.0-only
"""The two sides of a comparison: kernels of one run, or of two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from orchestrator.analysis.regression import EFFECT, Difference, Place, difference
from orchestrator.core.errors import UserError, unknown
from orchestrator.results.model import CellResult
from orchestrator.run import summary
from orchestrator.run.directory import RunDirectory
from orchestrator.run.summary import RunResult

#: Properties of a cell that change what is measured, besides the kernel.
_ENVIRONMENT = ("host CPU", "accelerator", "QEMU", "toolchain", "flavor", "vCPUs", "memory", "vsyscall")


#: Names the newest run in the history that ended well.
LAST_GOOD = "history:last-good"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side: its name for the reader, its cells, and whether they were chosen by their variant."""

    name: str
    cells: tuple[CellResult, ...]
    by_variant: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its kernels."""
        return tuple(dict.fromkeys(cell.label for cell in self.cells))


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two sides and what differs between them. ``notes`` are sentences about how far they compare."""

    base: str
    new: str
    difference: Difference
    notes: tuple[str, ...]


def compare(base: Side, new: Side, *, effect: float = EFFECT) -> Comparison:
    """Compare two sides.

    :param effect: the least change of a metric that matters.
    :raises UserError: they have no kernel of one arch and variant in common.
    """
    places = _by_place(base, new), _by_place(new, base)
    result = difference(*places, effect=effect)
    if not result.places:
        theirs = " and ".join(
            f"{side.name} has {', '.join(' '.join(place) for place in has) or 'no finished cell'}"
            for side, has in zip((base, new), places, strict=True)
        )
        raise UserError(
            f"there is nothing to compare: {theirs}",
            remedy="Compare kernels of the same arch and variant, or name variants: RUN:VARIANT.",
        )
    return Comparison(
        base=base.name, new=new.name, difference=result, notes=tuple(_notes(base, new, *places))
    )


def sides(runs: Path, names: Sequence[str], *, last_good: Callable[[], RunResult]) -> tuple[Side, Side]:
    """The sides that a user names: ``RUN`` or ``RUN:NAME`` twice, or one run with two labels or variants.

    :param runs: the folder of runs.
    :param last_good: finds the run that ``history:last-good`` names.
    :raises UserError: there is no such run, or no such label or variant in it, or the run must name one.
    """

    def side(name: str) -> Side:
        if name == LAST_GOOD:
            return Side(name=name, cells=last_good().cells)
        return side_of(runs, name)

    if len(names) == 2:
        base, new = map(side, names)
        return base, new
    whole = side(names[0])
    variants = tuple(dict.fromkeys(cell.variant for cell in whole.cells))
    for parts in (whole.labels, variants):
        if len(parts) == 2:
            base, new = (_part(whole, part) for part in parts)
            return base, new
    raise UserError(
        f"{names[0]} has neither two labels nor two variants to compare",
        remedy=f"Name two runs, or two of its parts: {names[0]}:NAME. It has: {_known(whole)}.",
    )


def side_of(runs: Path, name: str) -> Side:
    """A run, or a label or variant of it: ``RUN:NAME``.

    :raises UserError: there is no such run, it has no results, or no such label or variant.
    """
    try:
        result = summary.read(RunDirectory.existing(runs, name).path)
    except UserError:
        run, colon, part = name.rpartition(":")
        if not colon:
            raise
        result = summary.read(RunDirectory.existing(runs, run).path)
        return _part(Side(name=run, cells=result.cells), part)
    return Side(name=name, cells=result.cells)


def _part(whole: Side, name: str) -> Side:
    """The cells of a side with this label, or of this variant."""
    for by_variant, cells in (
        (False, tuple(cell for cell in whole.cells if cell.label == name)),
        (True, tuple(cell for cell in whole.cells if cell.variant == name)),
    ):
        if cells:
            return Side(name=f"{whole.name}:{name}", cells=cells, by_variant=by_variant)
    raise unknown("label or variant", name, _known(whole).split(", "), where=whole.name)


def _known(whole: Side) -> str:
    return ", ".join(dict.fromkeys(part for cell in whole.cells for part in (cell.label, cell.variant)))


def _by_place(side: Side, other: Side) -> dict[Place, list[CellResult]]:
    """The cells of a side by what must be equal on the other: arch and variant, and label where several."""
    several = len(side.labels) > 1 or len(other.labels) > 1
    across_variants = side.by_variant and other.by_variant
    places: dict[Place, list[CellResult]] = {}
    for cell in side.cells:
        place = (
            *((cell.label,) if several else ()),
            cell.arch,
            *(() if across_variants else (cell.variant,)),
        )
        places.setdefault(place, []).append(cell)
    return places


def _notes(
    base: Side, new: Side, in_base: dict[Place, list[CellResult]], in_new: dict[Place, list[CellResult]]
) -> Iterable[str]:
    for side, has, others in ((base, in_base, in_new), (new, in_new, in_base)):
        for place in has:
            if place not in others:
                yield f"only {side.name} has {' '.join(place)}: not compared"
    for name in _ENVIRONMENT:
        differing: dict[tuple[str, str], list[str]] = {}
        for place, cells in in_base.items():
            values = _values(cells, name), _values(in_new.get(place, ()), name)
            if all(values) and values[0] != values[1]:
                differing.setdefault(values, []).append(" ".join(place))
        for (before, after), places in differing.items():
            yield f"{name} differs ({', '.join(places)}): {before} / {after}; times compare only roughly"
    interrupted = [side.name for side in (base, new) if any(cell.interrupted for cell in side.cells)]
    if interrupted:
        yield f"{' and '.join(interrupted)}: interrupted, not all cells are finished"


def _values(cells: Iterable[CellResult], name: str) -> str:
    return ", ".join(sorted({cell.properties[name] for cell in cells if name in cell.properties}))
