# SPDX-License-Identifier: GPL-2.0-only
"""How the command ends: signals, short error messages, exit codes. Imports late, as ``cli`` does."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from orchestrator.core.errors import OrchestrateError, UserError


@dataclass
class ExitRules:
    """How the command ends; the ``obj`` of click's context. ``bisecting``: for ``git bisect run``."""

    bisecting: bool = False

    def code(self, code: int) -> int:
        """The exit code for an error outside the cells of a run.

        To ``git bisect run`` 1 to 127 except 125 mean "bad", which a wrong option is not.
        """
        if not self.bisecting:
            return code
        from orchestrator.results.model import CANNOT_JUDGE, STOP_BISECT

        return STOP_BISECT if code == UserError.exit_code else CANNOT_JUDGE


@contextlib.contextmanager
def interrupts(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM cancels the engine, which writes results; a second one does not wait."""

    def cancelled(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel()

    signal.signal(signal.SIGINT, cancelled)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_verb(verbs: click.Group) -> None:
    """Run a verb; an error is a line or two and an exit code, never a traceback."""
    rules = ExitRules()
    # batch systems send SIGTERM instead of Ctrl-C: guests and builds end, results are kept
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        verbs(standalone_mode=False, obj=rules)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(rules.code(2))
    except OrchestrateError as error:
        click.echo(f"orchestrate: {error}", err=True)
        sys.exit(rules.code(error.exit_code))
    except (click.Abort, KeyboardInterrupt):
        from orchestrator.core import process

        process.end_all()
        click.echo("orchestrate: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        from orchestrator.core import process

        process.end_all()
        click.echo(f"orchestrate: {error.filename or 'input or output'}: {error.strerror or error}", err=True)
        sys.exit(rules.code(3))
    except Exception as error:
        from orchestrator.core import process

        process.end_all()
        _bug(error)
        sys.exit(rules.code(3))


def _bug(error: Exception) -> None:
    """Write the traceback of a bug to a file, and show the user one line."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="orchestrate-", suffix=".traceback", delete=False) as file:
        traceback.print_exception(error, file=file)
    click.echo(f"orchestrate: internal error: {type(error).__name__}: {error}", err=True)
    click.echo(f"  Please report it with {file.name}.", err=True)
