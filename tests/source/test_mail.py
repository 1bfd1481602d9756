# SPDX-License-Identifier: GPL-2.0-only
"""Subjects, threads and the text of diffs; no git."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import UserError
from orchestrator.source import diff, thread
from orchestrator.source.mail import Mail, parse, subject

V1, V2 = (1, 0, 0), (2, 0, 0)


@pytest.mark.parametrize(
    ("text", "version", "order"),
    [
        ("[PATCH] mm: one", V1, None),
        ("[PATCH 1/2] mm: one", V1, (1, 2)),
        ("[PATCH v2 01/10] mm: one", V2, (1, 10)),
        ("[PATCHv2 1/2] mm: one", V2, (1, 2)),
        ("[PATCH V2 1/2] mm: one", V2, (1, 2)),
        ("[RFC v2 PATCH 0/2] mm: one", V2, (0, 2)),
        ("[v2,1/3] mm: one", V2, (1, 3)),
        ("[PATCH 2/3 v2] mm: one", V2, (2, 3)),
        ("[PATCH v12] mm: one", (12, 0, 0), None),
        ("[PATCH v2.1 2/3] mm: one", (2, 1, 0), (2, 3)),
        ("[PATCH RESEND v2] mm: one", (2, 0, 1), None),
        ("[RESEND PATCH v2] mm: one", (2, 0, 1), None),
        ("[PATCH 5.10/5.15 1/2] mm: one", V1, (1, 2)),
        ("[PATCH x86/mm v2 1/2] mm: one", V2, (1, 2)),
        ("[linux-mm] [PATCH mm-unstable 1/2] mm: one", V1, (1, 2)),
        ("[PATCH 1 of 2] mm: one", V1, (1, 2)),
        ("[PATCH v6.6.y 1/2] mm: one", V1, (1, 2)),
        ("[PATCH 1/2][v2] mm: one", V2, (1, 2)),
        ("[PATCH\tv2\n 1/2] mm: one", V2, (1, 2)),
    ],
)
def test_tags(text: str, version: tuple[int, int, int], order: tuple[int, int] | None) -> None:
    got = subject(text)
    assert (got.title, got.version, got.order, got.reply) == ("mm: one", version, order, False)


MARKS = """Re:|RE: |re:|Re :|Re[2]:|Re(3): |Re^2: |Re: Re:|AW: |Antw: |SV: |VS: |Odp: |RV: |R: |TR: |Fwd: |
FW: Re: |WG: |YNT: |回复:|答复: |回复：|转发: |返信: |답장: |Ответ: |ΑΠ: |[linux-mm] Re: |Antw: [EXT] Re: """


@pytest.mark.parametrize("mark", MARKS.split("|"))
def test_marks_of_replies(mark: str) -> None:
    got = subject(f"{mark}[PATCH v2 1/2] mm: one")
    assert (got.reply, got.title) == (True, "mm: one")


@pytest.mark.parametrize("text", ["Vast: [PATCH 1/2] mm: one", "Odg.: [PATCH] x", "Atbilde : [RFC 1/2] x"])
def test_a_mark_of_another_language_counts_in_a_thread(text: str) -> None:
    assert subject(text, answers=True).reply
    assert not subject(text).reply


@pytest.mark.parametrize(
    "text",
    [
        "mm: one",
        "media: [media] one",
        "[PATCH 1/2] media: [media] one",
        "[PATCH] re: one",
        "[PATCH] i: [a] b",
    ],
)
def test_subjects_that_are_no_replies(text: str) -> None:
    assert not subject(text, answers=True).reply


def test_headers_that_are_broken() -> None:
    for line in (b"=?utf-8?b?!!!?=", b"=?x-none?q?a?= b", b"\xff\xfe", b"=?utf-8?q?=ff=fe?=", "ü".encode()):
        mail = parse(b"From: a <a@x>\nSubject: " + line + b"\n\ndiff --git a/x b/x\n")
        assert mail.diff_at > 0
        mail.text.decode()


def test_subjects_of_several_words_in_several_charsets() -> None:
    line = b"=?utf-8?q?[PATCH_1/2]_?= =?koi8-r?b?zc0=?= one\n two"
    assert parse(b"From: a <a@x>\nSubject: " + line + b"\n\nx\n").subject == "[PATCH 1/2] мм one two"


# --- threads


def a_mail(text: str, *references: str, id_: str = "", content: str = "") -> Mail:
    body = f"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+{content or text}\n"
    refs = " ".join(f"<{each.replace(' ', '')}>" for each in references)
    id_ = id_ or text.replace(" ", "")
    head = f"From: a <a@x>\nSubject: {text}\nMessage-Id: <{id_}>\nReferences: {refs}\n\n"
    return parse((head + ("" if "0/" in text else body)).encode())


def titles(*mails: Mail) -> list[str]:
    return [mail.subject for mail in thread.select(mails, "s.mbox").patches]


def test_the_thread_is_broken_in_the_middle() -> None:
    mails = [a_mail("[PATCH 0/3] c", id_="c"), *(a_mail(f"[PATCH {n}/3] {n}", "c") for n in (3, 1))]
    lost = a_mail("[PATCH 2/3] 2", "somewhere@else")
    assert titles(*mails, lost) == [f"[PATCH {n}/3] {n}" for n in (1, 2, 3)]


def test_mails_that_answer_each_other_in_a_circle() -> None:
    one, two = a_mail("[PATCH 1/2] a", "b", id_="a"), a_mail("[PATCH 2/2] b", "a", id_="b")
    assert titles(two, one) == ["[PATCH 1/2] a", "[PATCH 2/2] b"]


def test_no_mail_refers_to_another() -> None:
    assert titles(*(a_mail(f"[PATCH {n}/3] {n}") for n in (2, 3, 1))) == [
        f"[PATCH {n}/3] {n}" for n in (1, 2, 3)
    ]


def test_single_patches() -> None:
    old, new, other = a_mail("[PATCH] a"), a_mail("[PATCH v2] a"), a_mail("[PATCH] b")
    assert titles(new, other, old) == ["[PATCH v2] a", "[PATCH] b"]
    renamed = a_mail("[PATCH v3] c", "[PATCH v2] a")
    assert titles(old, new, renamed) == ["[PATCH v3] c"]
    # it became a series
    series = [a_mail("[PATCH v2 1/2] a"), a_mail("[PATCH v2 2/2] b")]
    assert titles(old, *series) == ["[PATCH v2 1/2] a", "[PATCH v2 2/2] b"]


def test_a_change_id_joins_versions_without_a_common_title() -> None:
    one, two = ([a_mail(f"[PATCH v{v} {n}/2] {v}{n}") for n in (1, 2)] for v in (1, 2))
    assert len(titles(*one, *two)) == 4
    letters = [a_mail(f"[PATCH v{v} 0/2] {v}") for v in (1, 2)]
    letters = [
        parse(b"From: a <a@x>\n" + m.text.partition(b"\n")[2] + b"change-id: 2024-x\n") for m in letters
    ]
    assert titles(*letters, *one, *two) == ["[PATCH v2 1/2] 21", "[PATCH v2 2/2] 22"]


def test_replies_alone() -> None:
    with pytest.raises(UserError, match=r"'SV: \[PATCH\] a' is a reply with a diff"):
        thread.select([a_mail("SV: [PATCH] a")], "s.mbox")
    assert thread.select([a_mail("[PATCH 0/2] a")], "s.mbox").patches == ()


# --- diffs

HUNK = b"@@ -1,2 +1,2 @@\n a\n-b\n+c\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HUNK, ""),
        (HUNK + b"\\ No newline at end of file\n", ""),
        (HUNK + b"-- \n2.39\n", ""),
        (HUNK + b"\n- a list\n", ""),
        (HUNK + b"--- a/y\n+++ b/y\n" + HUNK, ""),
        (b"@@ -1,2 +1 @@\n\n-b\n", ""),
        (b"@@ -1 +1 @@\n---- b\n+++++ c\n", ""),
        (HUNK + b"+d\n", "line 7 of its diff belongs to no hunk"),
        (HUNK + b" d\n", "belongs to no hunk"),
        (HUNK + b"\\ No newline at end of file\n-d\n", "line 8 of its diff belongs to no hunk"),
        (HUNK + b"Binary files a/z and b/z differ\n", "without the content"),
        (HUNK + b"Only in b/mm: z.c\n", "without the content"),
        (HUNK + b"diff --git a/long\n b/long\n", "broken in two"),
        (HUNK + b"diff --cc mm/x.c\n", "combined diff"),
        (
            HUNK + b"-- \n2.39\n\nFrom: A\nSubject: [PATCH 2/2] b\n\ndiff --git a/y b/y\n",
            "another mail begins",
        ),
        (HUNK + b"-- \n2.39\n\nSubject: of the list\n", ""),
    ],
)
def test_what_git_would_pass_over(text: bytes, words: str) -> None:
    got = diff.complaint(b"--- a/x\n+++ b/x\n" + text)
    assert (words in got) if words else got == ""


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (b"diff --git a/mm/x.c b/mm/x.c\n--- a/mm/x.c\n+++ b/mm/x.c\n", {1}),
        (b"diff --git i/mm/x.c w/mm/x.c\n--- i/mm/x.c\n+++ w/mm/x.c\n", {1}),
        (b"diff --git mm/x.c mm/x.c\n--- mm/x.c\n+++ mm/x.c\n", {0}),
        (b"diff --git mm/new.c mm/new.c\n--- /dev/null\n+++ mm/new.c\n", {0}),
        (b"diff --git new/new.c new/new.c\nnew file mode 100644\n", {0}),
        (b"diff --git a/new/new.c b/new/new.c\n--- /dev/null\n+++ b/new/new.c\n", {1}),
        (b"diff --git mm/x.c mm/y.c\nrename from mm/x.c\nrename to mm/y.c\n", {0}),
        (b"diff --git Makefile Makefile\n--- Makefile\n+++ Makefile\n", {0}),
        (b"--- mm/x.c.orig\n+++ mm/x.c\n", {0}),
        (b"--- linux.orig/mm/x.c\t2024-01-01\n+++ linux/mm/x.c\t2024-01-02\n", {1}),
        (b"--- mm/mm/x.c\n+++ mm/mm/x.c\n", {1}),
        (b"--- /dev/null\n+++ mm/new.c\n", {0}),
        (b"diff --git mm/x.c mm/x.c\n" + HUNK + b"diff --git a/mm/x.c b/mm/x.c\n", {0, 1}),
        (b"--- a/mm/x.c\n+++ b/mm/x.c\n@@ -1 +1 @@\n--- mm/x.c\n+++ mm/x.c\n", {1}),
    ],
)
def test_prefixes(tmp_path: Path, text: bytes, levels: set[int]) -> None:
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm/x.c").touch()
    (tmp_path / "Makefile").touch()
    assert diff.strip_levels(text, tmp_path) == levels
