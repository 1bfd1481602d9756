# SPDX-License-Identifier: GPL-2.0-only
"""Split a console line into its printk records: time, caller and text of each.

The guest is hostile: terminal escapes are removed, and the text of a record is bounded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_TEXT = 512
"""Characters of one printk record that are read: the bound on the time that a hostile line can cost."""

#: ``[    1.000000][  T123] text``; the caller only with CONFIG_PRINTK_CALLER.
_STAMP = re.compile(rb"\[ *(?P<at>\d{1,9}\.\d{6})\](?:\[ *(?P<caller>[TC]\d{1,9})\])? ?")
#: What raw records have before that: ``<6>`` (``dmesg -r``, pstore), ``kern  :info  : `` (``dmesg -x``).
_PREFIX = re.compile(rb"<(?P<level>\d{1,3})>|(?P<name>[a-z]{2,8}) *:[a-z]{2,7} *: ")
#: A record as ``/dev/kmsg`` gives it: ``6,339,5140900,-,caller=T1;text``.
_DEV_KMSG = re.compile(
    rb"(?P<level>\d{1,4}),\d+,(?P<us>\d{1,15}),[-c](?:,caller=(?P<caller>[TC]\d{1,9}))?[^;]{0,80};"
)
#: A printk stamp that begins a line.
STAMPED = re.compile(rb"^(?:<\d{1,3}>)?\[ *\d{1,9}\.\d{6}\]", re.MULTILINE)
#: One that is later than the time at which a kernel begins.
RUNNING = re.compile(rb"^(?:<\d{1,3}>)?\[ *(?!0\.0{6})\d{1,9}\.\d{6}\]", re.MULTILINE)
_JUNK = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)


class Record(NamedTuple):
    """A printk record on a console line; a torn line has several.

    ``caller`` is ``T123`` (a task) or ``C1`` (a CPU in an interrupt), ``stamp`` the seconds as printed; both
    empty where the kernel does not print them. ``user``: the line says that a program wrote it (to
    ``/dev/kmsg``), which a serial console does not tell.
    """

    text: str
    caller: str = ""
    stamp: str = ""
    user: bool = False


def clean(raw: bytes) -> str:
    """Text without control characters, cut to `MAX_TEXT`."""
    text = raw[:MAX_TEXT].decode("utf-8", "replace")
    return text if text.isascii() and text.isprintable() else _JUNK.sub("", text)


def records(line: bytes) -> list[Record]:
    """The printk records of one line, in order; at least one."""
    if line[:1].isdigit() and (kmsg := _DEV_KMSG.match(line)):
        us = int(kmsg["us"])
        stamp = f"{us // 1_000_000}.{us % 1_000_000:06}"
        return [Record(clean(line[kmsg.end() :]), _caller(kmsg), stamp, int(kmsg["level"]) >= 8)]
    first = _STAMP.match(line)
    if first and not _STAMP.search(line, first.end()):
        return [Record(clean(line[first.end() :]), _caller(first), first["at"].decode())]
    stamps = list(_STAMP.finditer(line))
    if not stamps:
        return [Record(clean(line))]
    before = line[: stamps[0].start()]
    prefix = _PREFIX.fullmatch(before) if before else None
    pieces = [Record(clean(before))] if before.strip() and not prefix else []
    ends = [stamp.start() for stamp in stamps[1:]]
    user = prefix is not None and _by_user(prefix)
    for match, end in zip(stamps, [*ends, len(line)], strict=True):
        text = clean(line[match.end() : end])
        pieces.append(Record(text, _caller(match), match["at"].decode(), user))
    return pieces


def _caller(match: re.Match[bytes]) -> str:
    return (match["caller"] or b"").decode()


def _by_user(prefix: re.Match[bytes]) -> bool:
    """The upper bits of a level are its facility: 0 is the kernel, all others are writes by programs."""
    return int(prefix["level"]) >= 8 if prefix["level"] else prefix["name"] != b"kern"
