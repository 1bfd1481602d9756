# SPDX-License-Identifier: GPL-2.0-only
"""How the command ends: signals, errors in a line or two, exit codes. Imports late, as ``cli`` does."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

import click

from orchestrator.core.errors import Inconclusive, OrchestrateError, UserError

#: Whether exit codes are for ``git bisect run``, once that is known.
_bisecting: list[bool] = []


def for_bisect(wanted: bool) -> None:
    """Say whether the exit codes of this process are for ``git bisect run``."""
    _bisecting.append(wanted)


@contextlib.contextmanager
def unjudged(bisected: bool) -> Iterator[None]:
    """While bisecting, what cannot be as asked for is something that cannot be judged."""
    try:
        yield
    except UserError as error:
        if not bisected:
            raise
        raise Inconclusive(error.message, remedy=error.remedy) from None


@contextlib.contextmanager
def interrupts(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) cancels and lets results be written; a second one is not waited for."""

    def cancelled(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel()

    signal.signal(signal.SIGINT, cancelled)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def carry_out(verbs: click.Group) -> None:
    """Run a verb; what goes wrong is a line or two and an exit code, never a traceback."""
    # a batch system's way of saying Ctrl-C; guests and builds go down and results are kept likewise
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        verbs(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(_code(2))
    except OrchestrateError as error:
        click.echo(f"orchestrate: {error}", err=True)
        sys.exit(_code(error.exit_code))
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
        sys.exit(_code(3))
    except Exception as error:
        from orchestrator.core import process

        process.end_all()
        _bug(error)
        sys.exit(_code(3))


def _code(code: int) -> int:
    """The exit code for something that went wrong outside a run's cells.

    To ``git bisect run`` 1 to 127 but 125 mean "bad", which a wrong option is not.
    """
    # said in an orchestrate.toml, or on a command line that could not be parsed
    if not any(_bisecting) and "--bisect-exit" not in sys.argv[1:]:
        return code
    from orchestrator.results.model import CANNOT_JUDGE, STOP_BISECT

    return STOP_BISECT if code == UserError.exit_code else CANNOT_JUDGE


def _bug(error: Exception) -> None:
    """A fault of our own: keep the traceback for the report, show the user one line."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="orchestrate-", suffix=".traceback", delete=False) as kept:
        traceback.print_exception(error, file=kept)
    click.echo(f"orchestrate: a fault of its own: {type(error).__name__}: {error}", err=True)
    click.echo(f"  Please report it with {kept.name}.", err=True)
