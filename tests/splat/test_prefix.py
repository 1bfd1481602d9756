# SPDX-License-Identifier: GPL-2.0-only
"""What collectors put before a line: a log reads the same in every form; only the kernel's lines count."""

from __future__ import annotations

import json

import pytest
from paths import DATA

from orchestrator.splat import prefix
from orchestrator.splat.scanner import Scanner, Splat

LOG = """\
------------[ cut here ]------------
refcount_t: underflow; use-after-free.
WARNING: CPU: 1 PID: 77 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110
Modules linked in: gadget(OE)
CPU: 1 UID: 0 PID: 77 Comm: gadgetd Tainted: G           OE      6.12.9 #1
Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2 04/01/2014
RIP: 0010:refcount_warn_saturate+0xba/0x110
RAX: 0000000000000000 RBX: ffff94a1c0a1e000 RCX: 0000000000000027
Call Trace:
 <TASK>
 ? __warn+0x80/0x120
 gadget_put+0x41/0x50 [gadget]
 gadget_release+0x33/0x60 [gadget]
 </TASK>
---[ end trace 0000000000000000 ]---
usb 1-1: new high-speed USB device number 2 using xhci_hcd
BUG: kernel NULL pointer dereference, address: 0000000000000038
#PF: supervisor read access in kernel mode
Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 1 UID: 0 PID: 78 Comm: gadgetctl Tainted: G        W  OE      6.12.9 #1
RIP: 0010:gadget_lookup+0x24/0x90 [gadget]
Call Trace:
 <TASK>
 gadget_ioctl+0x1a4/0x2f0 [gadget]
 </TASK>
---[ end trace 0000000000000000 ]---
Internal error: Oops: 96000004 [#2] SMP
pc : gadget_seek+0x10/0x20
Call trace:
 gadget_seek+0x10/0x20
 gadget_llseek+0x10/0x20
---[ end trace 0000000000000000 ]---
divide error: 0000 [#3] SMP
RIP: 0010:gadget_ratio+0x24/0x90 [gadget]
Call Trace:
 gadget_ioctl+0x1a4/0x2f0 [gadget]
---[ end trace 0000000000000000 ]---
""".splitlines()

DATE, ISO, STAMP = "Wed May  7 06:29:24 2025", "2025-05-07T06:29:24", "[   62.000001] "
FORMS = {
    # dmesg
    "plain": STAMP,
    "none": "",
    "-T": f"[{DATE}] ",
    "-x": "kern  :warn  : " + STAMP,
    "-x -T": f"kern  :warn  : [{DATE}] ",
    "-H": "[May 7 06:29] ",
    "-H, two digits": "[May17 06:29] ",
    "reltime": "[  +0.000003] ",
    "delta": "[<    0.000003>] ",
    "-d": "[   62.000001 <    0.000003>] ",
    "-T -d": f"[{DATE} <    0.000003>] ",
    "iso": f"{ISO},123456+02:00 ",
    "-x iso": f"kern  :crit  : {ISO},123456+02:00 ",
    "-r": "<4>" + STAMP,
    "-r -t": "<4>",
    "caller": STAMP[:-1] + "[  T77] ",
    "-r caller": "<4>" + STAMP[:-1] + "[  T77] ",
    "caller of dmesg": STAMP + "[   T77] ",
    "-T caller": f"[{DATE}] [   T77] ",
    "colours": "\x1b[32m" + STAMP + "\x1b[0m\x1b[33m",
    # the journal
    "short": "May 07 06:29:24 host kernel: ",
    "short, no host": "May 07 06:29:24 kernel: ",
    "short-iso": f"{ISO}+0200 host kernel: ",
    "short-iso-precise": f"{ISO}.123456+02:00 a-host.example kernel: ",
    "short-precise": "May 07 06:29:24.123456 host kernel: ",
    "short-monotonic": STAMP + "host kernel: ",
    "short-delta": "[   62.000001 <    0.000003 >] host kernel: ",
    "short-full": "Wed 2025-05-07 06:29:24 CEST host kernel: ",
    "short-full, utc": "Wed 2025-05-07 06:29:24.123456 UTC host kernel: ",
    "short-unix": "1746599364.123456 host kernel: ",
    # syslog
    "rfc3164": "<4>May  7 06:29:24 host kernel: " + STAMP,
    "rfc5424": f"<4>1 {ISO}.123456+02:00 host kernel - - - " + STAMP,
    "rfc5424, data": f'<4>1 {ISO}Z host kernel - - [x@1 a="b"] ',
    "rsyslog": f"{ISO}.123456+02:00 host kernel: " + STAMP,
    "busybox": "May  7 06:29:24 host kern.warn kernel: " + STAMP,
    "openwrt": f"{DATE} kern.warn kernel: " + STAMP,
    "no time": "kernel: " + STAMP,
    "only the host": "host kernel: ",
    # netconsole
    "extended": "4,1234,62000001,-;",
    "release": "6.12.9-rc1+,4,1234,62000001,-,caller=T77;",
    "fragment": "6.12.9,4,1234,62000001,-,ncfrag=0/100;",
    "receiver": "2025-05-07 06:29:24 192.0.2.5 4,1234,62000001,-;",
    "address": "192.0.2.5:6666: " + STAMP,
    # laboratories, continuous integration, terminals
    "GitHub": f"{ISO}.1234567Z " + STAMP,
    "GitHub, bare": f"{ISO}.1234567Z ",
    "gh run view": f"build\tRun it\t{ISO}.1234567Z " + STAMP,
    "GitLab": f"{ISO}.123456Z 00O " + STAMP,
    "GitLab, bare": f"{ISO}.123456Z 01E ",
    "GitLab, continued": f"{ISO}.123456Z 00O+" + STAMP,
    "Jenkins": f"[{ISO}.123Z] " + STAMP,
    "Jenkins, bare": f"[{ISO}.123Z] ",
    "Jenkins, clock": "06:29:24  " + STAMP,
    "KernelCI": "06:29:24.123456  <4>" + STAMP,
    "LAVA": f"{ISO}.123456  " + STAMP,
    "ts": "May 07 06:29:24 " + STAMP,
    "ts, bare": "May 07 06:29:24 ",
    "ts %.s": "1746599364.123456 " + STAMP,
    "ts -s": "00:00:24 ",
    "tio": "[06:29:24.123] " + STAMP,
    "conserver": f"[{DATE}] " + STAMP,
    "grabserial": "[62.123456 0.000003] " + STAMP,
    "compose": "guest-1  | " + STAMP,
    "a mail": "> " + STAMP,
    "an answer": "> > ",
    "a mailed CI log": f"> {ISO}.1234567Z <4>[   62.000001][   T77] ",
    # vendors
    "MediaTek": "<4>[   62.000001]  (1)[77:gadgetd]",
    "MediaTek, off": "[   62.000001] -(1)[77:gadgetd]",
    "Samsung": "<4>[   62.000001]  [0:        gadgetd:   77] ",
    "Samsung, level": "[   62.000001] I[0:    kworker/0:1:   77] ",
    "Huawei": "[   62.000001s][pid:77,cpu1,gadgetd]",
    "LG": "[   62.000001 / 05-07 06:29:24.123] ",
    "Unisoc": "[   62.000001] c2     77 ",
    "task and CPU": "[   62.000001][T77@C1] ",
}


def scan(lines: list[str]) -> tuple[Splat, ...]:
    scanner = Scanner()
    scanner.feed("".join(f"{line}\n" for line in lines).encode())
    return scanner.finish()


def told(lines: list[str]) -> list[tuple[object, ...]]:
    return [
        (s.fingerprint, s.access, s.corrupted, s.fatal, s.user, [line.strip() for line in s.excerpt if line])
        for s in scan(lines)
    ]


PLAIN = told([STAMP + line for line in LOG])


def test_the_log_has_four_whole_reports() -> None:
    assert [(s.function, s.first_line, s.last_line, s.corrupted) for s in scan(LOG)] == [
        *[("gadget_put", 1, 15, False), ("gadget_lookup", 17, 26, False)],
        *[("gadget_seek", 27, 32, False), ("gadget_ratio", 33, 37, False)],
    ]


@pytest.mark.parametrize("before", FORMS.values(), ids=FORMS)
def test_a_log_reads_the_same_in_every_form(before: str) -> None:
    assert told([before + line for line in LOG]) == PLAIN


@pytest.mark.parametrize("before", FORMS.values(), ids=FORMS)
def test_a_clean_boot_is_clean_in_every_form(before: str) -> None:
    log = (DATA / "splat" / "clean-boot.log").read_text()
    lines = (line.partition("] ")[2] for line in log.splitlines() if line.startswith("["))
    assert scan([before + line for line in lines]) == ()


def logcat(line: str) -> str:
    """Android takes what is before the first colon for a tag."""
    tag, colon, rest = line.partition(": ")
    tag, rest = (tag, rest) if colon and line[0].isalpha() else ("", line)
    return f"05-07 06:29:24.123     0     0 W {tag:8}: {rest}"


@pytest.mark.parametrize(
    "form",
    [
        lambda line: json.dumps({"_TRANSPORT": "kernel", "MESSAGE": line, "SYSLOG_IDENTIFIER": "kernel"}),
        lambda line: f"_TRANSPORT=kernel\nPRIORITY=4\nMESSAGE={line}\n_SOURCE_MONOTONIC_TIMESTAMP=1\n",
        lambda line: (
            f"{DATE[:3]} {ISO[:10]} 06:29:24 UTC [s=a;i=1]\n    _PID=1\n    MESSAGE={line}\n    _HOSTNAME=h"
        ),
        lambda line: (
            '      },{\n         "fac": "kern",\n         "time": 62.1,\n         "msg": ' + json.dumps(line)
        ),
        lambda line: f'- {{"dt": "{ISO}.1", "lvl": "target", "msg": {json.dumps(STAMP + line)}}}',
        lambda line: json.dumps({"log": STAMP + line + "\n", "stream": "stdout", "time": ISO}),
        logcat,
    ],
    ids=["journal", "export", "verbose", "dmesg", "LAVA", "container", "logcat"],
)
def test_so_it_does_where_a_record_is_an_object_or_several_lines(form: object) -> None:
    assert callable(form)
    assert [one[:5] for one in told("\n".join(map(form, LOG)).splitlines())] == [one[:5] for one in PLAIN]


OTHERS = [
    "May  7 06:29:26 host watcher[17]: ",
    "May  7 06:29:26 host watcher: ",
    f"{ISO}+0200 host watcher[17]: ",
    f"{ISO}.123456+02:00 host watcher: ",
    "<14>May  7 06:29:26 host watcher[17]: ",
    f"<14>1 {ISO}Z host watcher 17 - - ",
    "Wed 2025-05-07 06:29:24 CEST host watcher[17]: ",
    "Wed 2025-05-07 06:29:24 UTC host a.service[17]: ",
    STAMP + "host watcher[17]: ",
    "[   62.000001 <    0.000003 >] host watcher[17]: ",
    "1746599364.123456 host watcher[17]: ",
    "May 07 06:29:26 watcher[17]: ",
    "05-07 06:29:24.123   812   813 W Watcher : ",
    f"{DATE} daemon.info watcher[17]: ",
    f"{DATE} user.notice watcher: ",
    "May  7 06:29:24 host daemon.info watcher: ",
    "May  7 06:29:26 host (systemd)[17]: ",
    f"> {ISO}.1Z May  7 06:29:26 host CRON[17]: ",
]
SAID = [
    'about "BUG: KASAN: use-after-free in foo+0x1/0x2"',
    "Kernel panic - not syncing: x",
    "Oops: 0000 [#1]",
]


@pytest.mark.parametrize("before", OTHERS)
def test_what_another_process_logs_is_no_report_of_the_kernel(before: str) -> None:
    assert scan([before + text for text in SAID]) == ()


def test_another_process_that_logs_in_json_is_not_the_kernel_either() -> None:
    objects = [{"_TRANSPORT": "syslog", "SYSLOG_IDENTIFIER": "watcher", "MESSAGE": text} for text in SAID]
    assert scan([json.dumps(one) for one in objects]) == ()
    assert scan([json.dumps({"dt": ISO, "lvl": "debug", "msg": text}) for text in SAID]) == ()


def test_lines_of_other_processes_are_not_in_a_report() -> None:
    lines = ["May  7 06:29:24 host kernel: " + line for line in LOG]
    for at in range(len(lines) - 1, 0, -1):
        lines.insert(at, "May  7 06:29:24 host watcher[17]:  other_frame+0x1/0x2")
    assert told(lines) == PLAIN


def test_a_program_that_writes_into_the_log_under_its_name_is_a_program() -> None:
    found = scan([STAMP + "watcher[17]: " + text for text in SAID])
    assert [(one.user, one.fatal) for one in found] == [(True, False)] * len(found) != []


@pytest.mark.parametrize("line", LOG)
def test_what_the_kernel_says_is_no_prefix(line: str) -> None:
    assert prefix.peel(line.encode()) == prefix.Prefix(line.encode())
