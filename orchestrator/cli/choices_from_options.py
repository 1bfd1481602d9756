# SPDX-License-Identifier: GPL-2.0-only
"""What the options of a verb come to: the choices of a run, its kernels among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import UNTIL_FAIL_TIMES
from orchestrator.core.errors import UserError

if TYPE_CHECKING:
    from orchestrator.plan.plan import Choices, Source


def choices(given: dict[str, Any], *, tests: bool = False) -> Choices:
    """What the options of a verb come to.

    :param tests: whether the verb runs suites, by default those of the catalogue.
    :raises UserError: a name that does not exist, before a kernel is fetched for it.
    """
    import msgspec

    from orchestrator.core import arch
    from orchestrator.core.store import absolute
    from orchestrator.kernel import flavor, kconfig, prebuilt
    from orchestrator.plan import prepare
    from orchestrator.plan.plan import Choices
    from orchestrator.suites import catalog

    asked = given["arches"] or (arch.host().name,)
    arches = arch.names() if "all" in asked else tuple(dict.fromkeys(asked))
    commands = given.get("commands", ())
    chosen: tuple[str, ...] = ()
    for name in arches:
        arch.load(name)
        for variant in given["variants"]:
            kconfig.own_fragments(name, variant)
    flavors = tuple(each.name for each in flavor.combine(given.get("flavors", ())))
    if tests:
        chosen = given["suites"] or (() if commands else prepare.default_suites(flavors))
    found = Choices(
        arches=arches,
        variants=tuple(dict.fromkeys(given["variants"])) or kconfig.variants(),
        sources=sources(given),
        suites=tuple(dict.fromkeys(str(s.folder) if s.user else s.name for s in map(catalog.load, chosen))),
        commands=tuple(commands),
        put=tuple(str(absolute(Path(path))) for path in given.get("put", ())),
        selftests_from=_spec(given.get("selftests_from", "")),
        times=given.get("times") or (UNTIL_FAIL_TIMES if given.get("until_fail") else 1),
        until_fail=given.get("until_fail", False),
        vsyscall=given.get("vsyscall", ""),
        boots=given.get("boots") or 0,
        smp=given.get("smp", 2),
        # a flavor that needs more has it, a user who says how much has that
        mem_mib=given.get("mem") or max(512, flavor.mem_mib(flavors)),
        cmdline=tuple(given.get("cmdline", "").split()),
        accel=given.get("accel", "auto"),
        toolchain=given["toolchain"],
        flavors=flavors,
        known=tuple(str(absolute(Path(path))) for path in given.get("known", ())),
        strict=given.get("strict", False),
        decode=given.get("decode", False),
        kconfig=tuple(
            word if word.startswith(("CONFIG_", "# CONFIG_")) else str(absolute(Path(word)))
            for word in given["kconfig"]
        ),
        config=str(absolute(Path(given["config"]))) if given["config"] else "",
        jobs=given["jobs"] or 0,
    )
    try:
        msgspec.json.encode(found)
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not UTF-8", remedy="Rename that file or folder.") from None
    for image in (source.image for source in found.sources if source.image):
        own = prebuilt.inspect(image).arch
        if given["arches"] and own not in arches:
            raise UserError(
                f"--arch {' '.join(asked)}: {image} is a kernel of {own}", remedy="Leave --arch out."
            )
    prepare.check(found, prepare.suites(found) if tests else ())
    return found


def sources(given: dict[str, Any]) -> tuple[Source, ...]:
    """The kernels that ``--source``, ``--patch``, ``--sha256`` and ``--kernel`` name together.

    :raises UserError: a label that no --source has.
    """
    from orchestrator.core.store import absolute
    from orchestrator.plan import prepare
    from orchestrator.plan.plan import Source

    labelled = map(prepare.split_label, given["sources"])
    found = [Source(label=label, spec=_spec(spec)) for label, spec in labelled]
    labelled = map(prepare.split_label, given.get("kernels", ()))
    images = [Source(label=label, image=str(absolute(Path(path)))) for label, path in labelled]
    if images and not found:
        for option in ("kconfig", "flavors", "config", "toolchain"):
            if given.get(option) not in ((), "", "gcc", None):
                raise UserError(
                    f"--{option.removesuffix('s')} is for kernels that are built, --kernel is built already",
                    remedy=f"Leave --{option.removesuffix('s')} out, or name a --source.",
                )
    if not found and not images:
        found = [Source(spec=here())]
    for option, words in (("--patch", given["patches"]), ("--sha256", given["digests"])):
        for word in words:
            label, value = prepare.split_label(word)
            number = next((n for n, s in enumerate(found) if s.label == label), None) if label else 0
            if number is None or not found:
                known = ", ".join(s.label for s in found if s.label) or "none has a name"
                raise UserError(
                    f"{option} {word}: there is no --source called {label!r}",
                    remedy=f"Name the source: --source {label or 'NAME'}=SPEC ({known}).",
                )
            old = found[number]
            found[number] = Source(
                label=old.label,
                spec=old.spec,
                sha256=value if option == "--sha256" else old.sha256,
                patches=(*old.patches, str(absolute(Path(value)))) if option == "--patch" else old.patches,
            )
    return (*found, *images)


def _spec(spec: str) -> str:
    """A source's spec, independent of the working directory."""
    from orchestrator.core.store import absolute
    from orchestrator.source import clone

    if spec and absolute(Path(spec)).exists():
        return str(absolute(Path(spec)))
    split = clone.split(spec)
    return f"{absolute(Path(split[0]))}@{split[1]}" if split else spec


def here() -> str:
    """The kernel tree that the user is in, empty where he is in none."""
    at = Path.cwd()
    return str(at) if (at / "scripts/kconfig").is_dir() and (at / "Kbuild").is_file() else ""
