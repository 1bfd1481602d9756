# SPDX-License-Identifier: GPL-2.0-only
"""How the command ends: signals, short error messages, exit codes. Imports late, as ``cli`` does."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.cli import completion, streams
from orchestrator.core.errors import InfraError, OrchestrateError, UserError

#: Longer words in a message are cut to this length.
_WORD = 300


@dataclass
class ExitRules:
    """How the command ends; the ``obj`` of click's context. ``bisecting``: for ``git bisect run``."""

    bisecting: bool = False

    def code(self, code: int) -> int:
        """The exit code for an error outside the cells of a run.

        To ``git bisect run`` 1 to 127 except 125 mean "bad", which a wrong option is not.
        """
        if not self.bisecting or code >= 128:
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
    streams.guard()
    try:
        try:
            _catch_signals()
            code = _invoke(verbs, rules)
        finally:
            # nothing is left to stop or to write: a further Ctrl-C just ends the process
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except BaseException as error:
        code = _report(error, rules)
    sys.exit(streams.exit_code(code, rules.code))


def _catch_signals() -> None:
    # batch systems send SIGTERM instead of Ctrl-C: guests and builds end, results are kept
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _invoke(verbs: click.Group, rules: ExitRules) -> int:
    """Parse the command line and run the verb, without the exit codes of click's own ``main``."""
    if instruction := os.environ.get(completion.VARIABLE):
        return completion.complete(verbs, instruction)
    with verbs.make_context(completion.PROGRAM, sys.argv[1:], obj=rules) as context:
        verbs.invoke(context)
    return 0


def _report(error: BaseException, rules: ExitRules) -> int:
    """Tell the user about an error; returns the exit code."""
    if isinstance(error, SystemExit | click.exceptions.Exit):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else 0
    if isinstance(error, click.ClickException):
        message = io.StringIO()
        error.show(message)
        click.echo(_printable(message.getvalue()), err=True, nl=False)
        return rules.code(UserError.exit_code)
    from orchestrator.core import process

    process.end_all()
    if isinstance(error, KeyboardInterrupt | click.Abort):
        if streams.lost() is None:
            # on a terminal, the message would follow ^C
            click.echo(("\n" if sys.stderr.isatty() else "") + "orchestrate: interrupted", err=True)
        return 130
    if isinstance(error, OSError | UnicodeEncodeError):
        error = _trouble(error)
    if not isinstance(error, OrchestrateError):
        error = _bug(error)
    click.echo(f"orchestrate: {_printable(str(error))}", err=True)
    return rules.code(error.exit_code)


def _printable(message: str) -> str:
    """A message without control characters, and with long words cut: it may quote anything."""
    from orchestrator.core.text import clean_str

    return re.sub(rf"(\S{{{_WORD // 2}}})\S{{{_WORD},}}(\S{{{_WORD // 2}}})", r"\1…\2", clean_str(message))


def _trouble(error: OSError | UnicodeEncodeError) -> BaseException:
    """The message for an error of the host that no room has caught."""
    if isinstance(error, UnicodeEncodeError):
        name = error.object if isinstance(error.object, str) else ""
        if error.reason != "surrogates not allowed":
            return error
        return UserError(f"{name!r} is not UTF-8", remedy="Rename that file or folder.")
    reason = error.strerror or str(error)
    if name := _file_of(error):
        # no file of ours has such a name
        kind = UserError if error.errno == errno.ENAMETOOLONG else InfraError
        return kind(f"{name}: {reason}")
    try:
        Path.cwd()
    except OSError as deleted:
        return UserError(f"the current directory: {deleted.strerror}", remedy="Change to another one.")
    return InfraError(reason)


def _file_of(error: OSError) -> str:
    """The name of the file that an error is about; empty if it is unknown.

    Errors of ``write`` and ``read`` have no name of their own, but the frame that called them has the file.
    """
    import traceback

    if isinstance(error.filename, str | bytes):
        return os.fsdecode(error.filename)
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        for value in frame.f_locals.values():
            # pathlib's own frames: write_bytes and its like
            if isinstance(value, Path) and frame.f_globals.get("__name__") == "pathlib":
                return str(value)
            if isinstance(value, io.IOBase) and isinstance(name := getattr(value, "name", None), str):
                return name
    return ""


def _bug(error: BaseException) -> OrchestrateError:
    """Write the traceback of a bug to a file; returns the error to show."""
    import tempfile
    import traceback

    what = f"internal error: {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="orchestrate-", suffix=".traceback", errors="backslashreplace", delete=False
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError as full:
        return InfraError(what, remedy=f"Please report it. Its traceback cannot be written: {full.strerror}.")
    return InfraError(what, remedy=f"Please report it with {file.name}.")
