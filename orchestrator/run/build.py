# SPDX-License-Identifier: GPL-2.0-only
"""Build the kernels of a run: ``orchestrate build``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.core.errors import OrchestrateError, UserError
from orchestrator.core.store import Store
from orchestrator.kernel import build as kernels
from orchestrator.plan.inputs import Inputs, kernel_spec, not_applicable


def build_all(
    inputs: Inputs, store: Store, *, say: Callable[[str], None], configure_only: bool = False
) -> Iterator[tuple[str, OrchestrateError | None]]:
    """Build every kernel of the choices; yield the path of its image, or a message and the error.

    :param configure_only: stop after the configuration and yield its path.
    :raises UserError: a choice does not exist, or a kconfig symbol of the user is lost.
    """
    choices = inputs.choices
    for target in inputs.targets.values():
        assert target.tree_class is not None
        say(f"{target.describe}: per-VMA locks are {target.tree_class.value}")
        for arch in choices.arches:
            for variant in choices.variants:
                if reason := not_applicable(inputs, target, variant):
                    say(f"{arch} {variant}: not applicable: {reason}")
                    continue
                spec = kernel_spec(inputs, target.label, arch, variant)
                try:
                    differing = kernels.pair_difference(spec, store)
                    if configure_only:
                        pair = ", ".join(differing) or "nothing: there is no pair"
                        say(f"{arch} {variant}: the variants differ in {pair}")
                        yield str(kernels.configure(spec, store).path), None
                        continue
                    kernel = kernels.build(spec, store, say=say, jobs=choices.jobs)
                except UserError:
                    raise
                except OrchestrateError as error:
                    yield f"{arch} {variant}: {error}", error
                else:
                    yield str(kernel.image), None
