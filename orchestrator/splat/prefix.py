# SPDX-License-Identifier: GPL-2.0-only
"""Take off what collectors put before a line of the kernel's log, and learn who wrote the line.

A prefix is a stack of layers: a time, a level, a host and a writer, a quote mark. Each tool adds one at the
front, so they are peeled one after another, in any combination. The kernel's own stamp is the innermost and
belongs to `records`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_MOST = 8
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_ISO = rf"\d{{4}}[-/]\d\d[-/]\d\d[T ]{_CLOCK}(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)\b)?"
_DATE = rf"{_MONTH} [ \d]?\d {_CLOCK}(?: [A-Z]{{3,5}}(?= \d{{4}}))?(?: \d{{4}}\b)?"
_TIME = (
    rf"(?:{_DAY} {_DATE}|{_DATE}|{_DAY} {_ISO}(?: [A-Z][A-Za-z]{{2,4}}(?= ))?|{_ISO}|{_CLOCK}"
    r"|\d{10}\.\d{3,9})"
)
_DELTA = r"< *\+?\d+\.\d+ ?>"
_LEVEL = r"(?:emerg|alert|crit|err|warn|notice|info|debug)"
_FACILITY = r"(?:kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local[0-7])"
#: What a program's name cannot be: the first words of lines that the kernel prints as ``Word word: ``.
_NO_HOST = r"(?!(?:Internal|Hardware|Kernel|Alignment|Unhandled|Call|Krnl|Memory|stack) )"
#: Host, perhaps facility, and writer, as syslog and the journal have them behind a time.
_WRITER = re.compile(
    rf"(?:\S{{1,255}} )?(?:{_FACILITY}\.{_LEVEL} )?(?P<kernel>kernel)(?:\[-?\d+\])?:(?: |$)"
    rf"|(?:[^\s:]{{1,255}} )?(?:{_FACILITY}\.{_LEVEL} )?[^\s:\[\]]{{1,128}}\[\d+\]: "
    # x86 prints exceptions as `divide error: 0000 [#1]`
    rf"|{_NO_HOST}[\w.-]{{1,255}} (?:{_FACILITY}\.{_LEVEL} )?[A-Za-z_(][^\s:\[\]]{{0,127}}: "
    r"(?![0-9a-f]{4} )".encode()
)
#: The same behind the kernel's own stamp, where only a process id tells a writer from what the kernel says.
STAMPED_WRITER = re.compile(
    rb"(?:[\w.-]{1,255} )?(?P<kernel>kernel)(?:\[-?\d+\])?:(?: |$)"
    rb"|(?P<host>[\w.-]{1,255} )?[A-Za-z_(][^\s:\[\]]{0,127}\[\d+\]: "
)
_LAYER = re.compile(
    r"(?P<mark>(?:>{1,8} ){1,8}|\xef\xbb\xbf|\s*MESSAGE=)"
    # /dev/kmsg and netconsole: `6.12.9,6,339,5140900,-,caller=T1;text`
    r"|(?P<kmsg>(?:\d[\w.+~-]{1,64},)?(?P<of>\d{1,4}),\d+,(?P<us>\d{1,15}),[-c]"
    r"(?:,caller=(?P<caller>[TC]\d{1,9}))?[^;]{0,80};)"
    r"|(?P<level><(?P<number>\d{1,4})>)"
    rf"|(?P<names>(?P<facility>{_FACILITY}) *:{_LEVEL} *: )"
    rf"|(?P<rfc5424>1 {_ISO} \S{{1,255}} (?P<program>\S{{1,64}}) \S{{1,128}} \S{{1,32}}"
    r" (?:-|(?:\[[^\]]{0,400}\]){1,4}) ?(?:\xef\xbb\xbf)?)"
    rf"|(?P<logcat>(?:\d{{4}}-)?\d\d-\d\d {_CLOCK} +(?:\w+ +)?(?P<pid>\d{{1,7}}) +\d{{1,7}} [VDIWEF]"
    r" (?P<tag>[^:]{0,40}?) *: )"
    # dmesg -T, -H, -d and both; a console server's time looks like the first
    rf"|(?P<dmesg>\[(?:(?:{_DAY} {_DATE}|{_MONTH} ? ?\d\d? \d\d:\d\d| *\+\d+\.\d+)(?: {_DELTA})?"
    rf"|{_DELTA})\] ?)"
    r"|(?P<task>\[ *(?P<id>[TC]\d{1,9})\] ?)"
    rf"|(?P<bracket>[\[(](?:{_TIME}|\d+\.\d{{6}} \d+\.\d{{6}})[\])] ?)"
    # GitLab has the stream behind the time; a job and a step stand before GitHub's
    rf"|(?P<time>(?:[^\t]{{1,80}}\t[^\t]{{1,80}}\t)?(?:\xef\xbb\xbf)?{_TIME}"
    r"(?: +\d\d[OE]\+|(?: +\d\d[OE])?(?:[ \t]+(?=[<\[\d])|[ \t]|$)))"
    r"|(?P<relay>(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?:? +(?=[<\[\d])|[\w.-]{1,40} +\| )"
    r"|(?P<bare>(?:[\w.-]{1,64} )?kernel:(?: |$))".encode("latin-1")
)
#: What stands around the text of a record that takes several lines: the other fields of the journal's export
#: and verbose forms, and of dmesg's JSON.
_AROUND = re.compile(
    rb"\s*(?:(?!MESSAGE=)(?:_{1,2}[A-Z]|PRIORITY|SYSLOG_|MESSAGE_ID|CODE_|UNIT)[A-Z0-9_]*="
    rb'|"(?:fac|pri|time|caller)": |\[s=[0-9a-f]+;i=)|\s+\}(?:,\{)?$'
)
_ESCAPES = re.compile(rb"\x1b\[[0-9;]{0,16}[A-Za-z]")
_JSON = re.compile(rb'\s*(?:- )?(?:\{|"msg")')
_JSON_TEXT = re.compile(rb'"(?:MESSAGE|msg|log|message)"\s?:\s?"(?P<text>(?:[^"\\]|\\.)*+)')
#: The journal's transport and identifier, LAVA's level.
_JSON_WRITER = re.compile(rb'"(?:_TRANSPORT|SYSLOG_IDENTIFIER|lvl)"\s?:\s?"(?P<who>[^"]*+)"')
_KERNELS = frozenset({b"kernel", b"target", b"feedback"})


class Prefix(NamedTuple):
    """What stood before ``text``.

    ``kernel``: the line says that it is from the kernel's log. ``user``: it says that a program wrote it
    there. ``foreign``: it is from another log, of another process. ``stamp`` and ``caller`` as in `Record`.
    """

    text: bytes
    kernel: bool = False
    user: bool = False
    foreign: bool = False
    stamp: str = ""
    caller: str = ""


_FOREIGN = Prefix(b"", foreign=True)


def peel(line: bytes) -> Prefix:
    """The line without the prefixes of collectors."""
    if b"\x1b" in line:
        line = _ESCAPES.sub(b"", line)
    told = False
    if _JSON.match(line) and (found := _JSON_TEXT.search(line)):
        writers = [match["who"] for match in _JSON_WRITER.finditer(line)]
        if writers and not _KERNELS.intersection(writers):
            return _FOREIGN
        line, told = _unescaped(found["text"]), b"kernel" in writers
    at, kernel, user, caller = 0, told, False, ""
    if _AROUND.match(line):
        return _FOREIGN
    for _ in range(_MOST):
        if not (layer := _LAYER.match(line, at)):
            break
        at = layer.end()
        kind = layer.lastgroup
        if kind == "kmsg":
            us = int(layer["us"])
            stamp = f"{us // 1_000_000}.{us % 1_000_000:06}"
            caller = (layer["caller"] or b"").decode()
            return Prefix(line[at:], True, _by_program(layer["of"]), stamp=stamp, caller=caller)
        if kind == "level":
            user = _by_program(layer["number"])
        elif kind == "names":
            kernel, user = True, layer["facility"] != b"kern"
        elif kind in ("dmesg", "bare"):
            kernel = True
        elif kind == "task":
            caller = layer["id"].decode()
        elif kind == "logcat":
            if int(layer["pid"]):
                return _FOREIGN
            rest = line[at:]
            return Prefix(layer["tag"] + b": " + rest if layer["tag"] else rest, True, user)
        elif kind == "rfc5424":
            if layer["program"] != b"kernel":
                return _FOREIGN
            kernel, user = True, False
        elif kind == "time" and (writer := _WRITER.match(line, at)):
            if not writer["kernel"]:
                return _FOREIGN
            at, kernel, user = writer.end(), True, False
        elif kind == "time" and _AROUND.match(line, at):
            return _FOREIGN
    return Prefix(line[at:], kernel, user, caller=caller)


def _by_program(level: bytes) -> bool:
    """The upper bits of a level are its facility: 0 is the kernel, all others are writes by programs."""
    return int(level) >= 8


def _unescaped(text: bytes) -> bytes:
    try:
        return msgspec.json.decode(b'"' + text + b'"', type=str).encode().rstrip(b"\r\n")
    except (msgspec.MsgspecError, UnicodeError):
        return text
