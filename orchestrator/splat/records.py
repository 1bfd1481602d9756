# SPDX-License-Identifier: GPL-2.0-only
"""Split a console line into its printk records: time, caller and text of each.

`prefix` takes off what collectors put before them.

The guest is hostile: terminal escapes are removed, and the text of a record is bounded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from orchestrator.splat.prefix import STAMPED_WRITER, Prefix, peel

MAX_TEXT = 512
"""Characters of one printk record that are read: the bound on the time that a hostile line can cost."""

#: What vendors print behind a stamp: CPU, task and pid in several forms, the time of day.
_VENDOR = (
    r" *-?\(\d{1,3}\)\[\d{1,7}:[^\]]{1,32}\]| {0,2}(?:[VDIWE] ?)?\[\d{1,3}: *[^\]]{1,40}: *\d{1,7}\]"
    r"| ?\[pid:\d{1,7},cpu\d{1,3},[^\]]{1,32}\]| c\d{1,2} +\d{1,7} | ?\[\d{8}_[\d:.]{8,18}\]@\d+"
)
#: ``[    1.000000][  T123] text``; the caller only with CONFIG_PRINTK_CALLER. Within the brackets may follow
#: the time since the last record (``dmesg -d``) or the time of day.
_STAMP = re.compile(
    r"\[ *(?P<at>\d{1,9}\.\d{6})(?:s| ?[</] ?[^\]]{1,40})?\]"
    rf"(?: ?\[ *(?P<caller>[TC]\d{{1,9}})(?:@\w{{1,8}})?\])?(?:{_VENDOR})? ?".encode()
)
#: A printk stamp that begins a line.
STAMPED = re.compile(rb"^[^\[\n]{0,60}\[ *\d{1,9}\.\d{6}[\] s]", re.MULTILINE)
#: One that is later than the time at which a kernel begins.
RUNNING = re.compile(rb"^[^\[\n]{0,60}\[ *(?!0\.0{6})\d{1,9}\.\d{6}[\] s]", re.MULTILINE)
_JUNK = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)


class Record(NamedTuple):
    """A printk record on a console line; a torn line has several.

    ``caller`` is ``T123`` (a task) or ``C1`` (a CPU in an interrupt), ``stamp`` the seconds as printed; both
    empty where the kernel does not print them. ``user``: the line says that a program wrote it (to
    ``/dev/kmsg``), which a serial console does not tell. ``kernel``: the line says that it is from the
    kernel's log.
    """

    text: str
    caller: str = ""
    stamp: str = ""
    user: bool = False
    kernel: bool = False

    @property
    def printed(self) -> bool:
        """Whether the line shows that it is from the kernel's log, by its stamp or by its writer."""
        return self.kernel or bool(self.stamp)


def clean(raw: bytes) -> str:
    """Text without control characters, cut to `MAX_TEXT`."""
    text = raw[:MAX_TEXT].decode("utf-8", "replace")
    return text if text.isascii() and text.isprintable() else _JUNK.sub("", text)


def records(line: bytes) -> list[Record]:
    """The printk records of one line, in order; none if the line says that it is of another process's log."""
    first = _STAMP.match(line)
    if first and not _STAMP.search(line, first.end()):
        return _stamped(line, first, len(line), Prefix(b""))
    prefix = peel(line)
    line = prefix.text
    if prefix.foreign:
        return []
    stamps = [] if prefix.stamp else list(_STAMP.finditer(line))
    if not stamps:
        return [Record(clean(line), prefix.caller, prefix.stamp, prefix.user, prefix.kernel)]
    before = line[: stamps[0].start()]
    pieces = [Record(clean(before), kernel=prefix.kernel)] if before.strip() else []
    ends = [stamp.start() for stamp in stamps[1:]]
    for match, end in zip(stamps, [*ends, len(line)], strict=True):
        pieces += _stamped(line, match, end, prefix)
    return pieces


def _stamped(line: bytes, stamp: re.Match[bytes], end: int, prefix: Prefix) -> list[Record]:
    start, user = stamp.end(), prefix.user
    # the journal's short-monotonic form has the writer behind the stamp; so has what a program logs
    if writer := STAMPED_WRITER.match(line, start, end):
        if writer["kernel"]:
            start = writer.end()
        elif writer["host"]:
            return []
        else:
            user = True
    caller = (stamp["caller"] or b"").decode() or prefix.caller
    return [Record(clean(line[start:end]), caller, stamp["at"].decode(), user, prefix.kernel)]
