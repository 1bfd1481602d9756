# SPDX-License-Identifier: GPL-2.0-only
"""Standard input, output and error: closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import click

from orchestrator.core.errors import InfraError, UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NAMES = {1: "standard output", 2: "standard error"}
#: What a shell reports for a program that SIGPIPE ends.
BROKEN_PIPE = 128 + signal.SIGPIPE


class _Output(io.FileIO):
    """A standard stream that interrupts the command at its first error, and ignores what follows.

    So an error of the terminal is never taken for one of a cell, of a kernel or of a file, whichever thread
    prints. The interrupt is the same as Ctrl-C: a run writes its results and can be resumed.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the bytes, or ignore them."""
        while self.error is None:
            try:
                written = super().write(data)
                if written is not None:
                    return written
                # somebody has made the pipe non-blocking
                select.select([], [self], [])
            except OSError as error:
                self.error = error
                if callable(signal.getsignal(signal.SIGINT)):
                    signal.raise_signal(signal.SIGINT)
        return memoryview(data).nbytes


def guard() -> None:
    """Make the standard streams safe to use.

    A closed one becomes ``/dev/null``: the next file that is opened would otherwise take its number, and get
    the output of a child. Characters that the locale lacks are escaped.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # the lowest free number is the closed one; reading it fails: nothing was given, not even nothing
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    # a test or a caller may have its own streams
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.stderr)


def _text(descriptor: int, before: TextIO | None) -> TextIO:
    output = _Output(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",
        line_buffering=before is None or before.isatty() or descriptor == 2,
    )


def lost() -> OSError | None:
    """The first error of standard output, else of standard error; its ``filename`` says which."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        output = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(output, _Output):
            stream.flush()
            if output.error is not None:
                return OSError(output.error.errno, output.error.strerror, _NAMES[descriptor])
    return None


def exit_code(code: int, rule: Callable[[int], int]) -> int:
    """The exit code of a command that would end with ``code``, after the last output.

    Output that did not arrive counts for more: the code of a broken pipe is that of SIGPIPE, of any other
    error 3, unless the usage was wrong.

    :param rule: ``ExitRules.code``.
    """
    error = lost()
    if error is None:
        return code
    if error.errno == errno.EPIPE:
        return BROKEN_PIPE
    click.echo(f"orchestrate: {error.filename}: {error.strerror}", err=True)
    return code if code == rule(UserError.exit_code) else rule(InfraError.exit_code)
