# SPDX-License-Identifier: GPL-2.0-only
"""Mails that real git wrote, as transports, lists and people change them: the tree is that of the branch."""

from __future__ import annotations

import gzip
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import mails
from fakes.trees import git, git_bytes

from orchestrator.core.errors import UserError
from orchestrator.source import Tree, patches
from orchestrator.source.mbox import parse, read

pytestmark = pytest.mark.slow

Mails = list[bytes]
Apply = Callable[[Path], tuple[str, list[str]]]


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mails.make_branch(tmp_path_factory.mktemp("branch") / "linux")


@pytest.fixture(scope="module")
def base(branch: Path) -> Tree:
    clone = branch.parent / "clone"
    git(branch, "clone", "-q", "-s", str(branch), str(clone))
    git(clone, "checkout", "-q", "--detach", "base")
    commit = git(clone, "rev-parse", "base").strip()
    name = "7.2.1"
    return Tree(
        path=clone,
        spec=f"{branch}@base",
        kind="revision",
        digest="",
        commit=commit,
        version=name,
        describe=name,
    )


@pytest.fixture
def apply(base: Tree, tmp_path: Path) -> Apply:
    """The id of the tree that a file of mails makes of the base, and what is said."""

    def make(file: Path) -> tuple[str, list[str]]:
        work, said = tmp_path / "work", list[str]()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        commits = patches.as_commits(base, [file], work, said.append)
        return mails.tree_of(base.path, commits[-1][0]), said

    return make


def as_file(place: Path, content: bytes | Mails, name: str = "s.mbox") -> Path:
    file = place / name
    file.write_bytes(content if isinstance(content, bytes) else b"".join(content))
    return file


# --- forms that are the branch


def _gzip(series: Mails, place: Path) -> Path:
    return as_file(place, gzip.compress(b"".join(series)), "t.mbox.gz")


def _maildir(series: Mails, place: Path) -> Path:
    for name in ("cur", "new", "tmp"):
        (place / "md" / name).mkdir(parents=True)
    for n, mail in enumerate(series):
        folder = "new" if n % 2 else "cur"
        (place / "md" / folder / f"{9 - n}.host:2,S").write_bytes(mail.partition(b"\n")[2])
    return place / "md"


def _eml(series: Mails, place: Path) -> Path:
    (place / "eml").mkdir()
    for n, mail in enumerate(series):
        as_file(place / "eml", mail.partition(b"\n")[2].replace(b"\n", b"\r\n"), f"{'bdac'[n % 4]}{n}.eml")
    # these line ends are the transport's, so a file with CRLF would have lost its own
    return place / "eml"


def _each(change: Callable[[bytes], bytes]) -> Callable[[Mails, Path], Path]:
    return lambda series, place: as_file(place, [change(mail) for mail in series])


def _whole(change: Callable[[bytes], bytes]) -> Callable[[Mails, Path], Path]:
    return lambda series, place: as_file(place, change(b"".join(series)))


def _with_html(mail: bytes) -> bytes:
    html = b"<html><pre>" + mails.body_of(mail) + b"</pre></html>"
    plain = ("text/plain; charset=utf-8", mails.body_of(mail))
    return mails.multipart(mail, "multipart/alternative", plain, ("text/html; charset=utf-8", html))


def _attached(mail: bytes) -> bytes:
    text, _, patch = mails.body_of(mail).partition(b"---\n")
    return mails.multipart(
        mail,
        "multipart/mixed",
        ("text/plain; charset=utf-8", text),
        ('application/octet-stream; name="x.patch"', b"---\n" + patch),
        ("text/plain", b"_______\nlist@example.invalid\n- unsubscribe\n"),
    )


def _signed(mail: bytes) -> bytes:
    parts = (
        ("text/plain; charset=utf-8", mails.body_of(mail)),
        ("application/pgp-signature", b"-----BEGIN PGP\n"),
    )
    return mails.multipart(mail, "multipart/signed", *parts)


def _clear_signed(mail: bytes) -> bytes:
    head, _, body = mail.partition(b"\n\n")
    body = re.sub(rb"(?m)^-", b"- -", body)
    mark = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
    return (
        head + b"\n\n" + mark + body + b"-----BEGIN PGP SIGNATURE-----\n\nabc=\n-----END PGP SIGNATURE-----\n"
    )


def _footer(mail: bytes) -> bytes:
    return mail.rstrip(b"\n") + b"\n_______\nlist mailing list\nlist@example.invalid\n\n"


def _escaped(mail: bytes) -> bytes:
    rest = mail.partition(b"\n")[2]
    rest = re.sub(rb"(?m)^(?=>*From )(?!From: )", b">", rest)
    return b"From mboxrd@z Thu Jan  1 00:00:00 1970\n" + rest


FORMS = {
    "as git writes it": _each(lambda mail: mail),
    "CRLF": _whole(lambda text: text.replace(b"\n", b"\r\n")),
    "one mail with CRLF": lambda s, place: as_file(place, [s[0].replace(b"\n", b"\r\n"), *s[1:]]),
    "quoted-printable": _each(lambda mail: mails.encoded(mail, "quoted-printable")),
    "base64": _each(lambda mail: mails.encoded(mail, "base64")),
    "base64 of CRLF": _each(lambda mail: mails.encoded(mail, "base64", crlf=True)),
    "quoted-printable of CRLF": _each(lambda mail: mails.encoded(mail, "quoted-printable", crlf=True)),
    "8bit": _each(lambda mail: mails.encoded(mail, "8bit")),
    "unknown charset": _each(lambda mail: mails.encoded(mail, "8bit", "x-unknown")),
    "wrong charset": _each(lambda mail: mails.encoded(mail, "8bit", "us-ascii")),
    "a charset of China": _each(lambda mail: mails.encoded(mail, "base64", "gb18030")),
    "byte order mark": _whole(lambda text: b"\xef\xbb\xbf" + text),
    "byte order mark, CRLF": _whole(lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")),
    "a byte order mark in each": _each(lambda mail: b"\xef\xbb\xbf" + mail),
    "UTF-16": _whole(lambda text: text.replace(b"\n", b"\r\n").decode().encode("utf-16")),
    "blank lines first": _whole(lambda text: b"\n\r\n" + text),
    "gzip": _gzip,
    "maildir": _maildir,
    "eml files": _eml,
    "HTML beside": _each(_with_html),
    "attached": _each(_attached),
    "PGP/MIME": _each(_signed),
    "PGP in the text": _each(_clear_signed),
    "footer of a list": _each(_footer),
    "mboxrd": _each(_escaped),
    # but for a mail with a space at the end of a line, which that breaks
    "flowed": _each(lambda mail: mail if b"int end" in mail else mails.flowed(mail)),
    "numbers of patchwork": _each(
        lambda m: m.replace(b"Subject: [PATCH ", b"Subject: [v2,").replace(b"[v2,v2 ", b"[v2,")
    ),
    "name of a list": _each(lambda mail: mail.replace(b"Subject: [", b"Subject: [linux-mm] [")),
    "two tags with slashes": _each(lambda mail: mail.replace(b"[PATCH ", b"[PATCH 5.10/5.15 x86/mm ")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_tree_of_the_branch(
    branch: Path, tmp_path: Path, apply: Apply, form: str
) -> None:
    series = mails.format_patch(branch, "--numbered", "--thread")
    tree, said = apply(FORMS[form](series, tmp_path))
    assert tree == mails.tree_of(branch)
    assert all("format=flowed" in note for note in said)


@pytest.mark.parametrize(
    "words",
    [
        ("--attach",),
        ("--inline",),
        ("--no-numbered",),
        ("--keep-subject",),
        ("--cover-letter", "--thread=deep", "-v3"),
        ("--full-index", "--src-prefix=i/", "--dst-prefix=w/"),
        ("--no-prefix",),
        ("--no-renames",),
        ("-U1",),
        ("--subject-prefix=RFC PATCH mm-unstable",),
        ("--from=Some One <s@example.invalid>",),
        ("--base=base", "--signature=- a\n+ b"),
    ],
    ids=lambda words: words[0],
)
def test_every_option_of_git_gives_the_tree_of_the_branch(
    branch: Path, tmp_path: Path, apply: Apply, words: tuple[str, ...]
) -> None:
    tree, _ = apply(as_file(tmp_path, mails.format_patch(branch, *words)))
    assert tree == mails.tree_of(branch)


def test_author_and_description_are_those_of_git_am(
    branch: Path, base: Tree, tmp_path: Path, apply: Apply
) -> None:
    file = as_file(tmp_path, mails.format_patch(branch, "--from=Some One <s@example.invalid>"))
    apply(file)
    ours = git(base.path, "log", "--format=%an <%ae> %ad%n%B", "base..refs/orchestrate/patched")
    theirs = tmp_path / "am"
    git(branch, "clone", "-q", str(branch), str(theirs))
    git(theirs, "checkout", "-q", "base")
    git(theirs, "am", "-q", str(file))
    assert ours == git(theirs, "log", "--format=%an <%ae> %ad%n%B", "base..HEAD")
    assert mails.tree_of(theirs) == mails.tree_of(base.path, "refs/orchestrate/patched")


def test_files_with_crlf(branch: Path, base: Tree, tmp_path: Path, apply: Apply) -> None:
    work = tmp_path / "dos"
    git(tmp_path, "clone", "-q", str(branch), str(work))
    git(work, "checkout", "-q", "-b", "dos", "base")
    (work / "mm/dos.c").write_bytes(b"int a;\r\nint B;\r\nint c;\r\n")
    (work / "mm/dosnew.c").write_bytes(b"int x;\r\n\r\n")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "dos: it")
    (mail,) = mails.format_patch(work, which="base..dos")
    wanted = mails.tree_of(work)
    for form in (mail, mails.encoded(mail, "quoted-printable"), mails.encoded(mail, "base64")):
        assert apply(as_file(tmp_path, form))[0] == wanted
    assert apply(as_file(tmp_path, mails.body_of(mail), "x.diff"))[0] == wanted
    # git apply takes such a diff, too
    assert apply(as_file(tmp_path, git_bytes(work, "diff", "base..dos"), "y.diff"))[0] == wanted
    lost = as_file(tmp_path, mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    with pytest.raises(UserError, match="does not apply") as caught:
        apply(lost)
    assert "CRLF, which the mail lost" in caught.value.remedy


# --- threads


@pytest.mark.parametrize("seed", range(8))
def test_a_shuffled_thread_with_versions_and_replies(
    branch: Path, tmp_path: Path, apply: Apply, seed: int
) -> None:
    chance = random.Random(seed)
    whole = mails.format_patch(branch, "--cover-letter", "--thread", "-v2", "--base=base")
    old = mails.format_patch(branch, "--cover-letter", "--thread", "-v1", which="base..HEAD~2")
    old = [mail.replace(b"int five;", b"int funf;") for mail in old]
    # another time: git makes message-ids of commit and second
    old = [re.sub(rb"(?<=[0-9a-f]\.)[0-9]{10}(?=\.git\.)", b"1000000000", mail) for mail in old]
    thread = [*whole, *old, *chance.choices(whole, k=2)]
    for n, mail in enumerate(chance.choices(whole[1:] + old[1:], k=4)):
        mark = chance.choice(["Re: ", "AW: ", "SV: ", "回复：", "Antw: [EXT] Re: ", "RE: ", "Vast: "])
        change = mails.body_of(whole[4]).replace(b"30;", b"31;") if n % 2 else None
        thread.append(mails.reply(mail, mark, body=change, id_=f"r{n}@x"))
    chance.shuffle(thread)
    tree, said = apply(as_file(tmp_path, thread))
    assert tree == mails.tree_of(branch)
    assert any("v1 (2 patches) is left out: v2 is newer" in note for note in said), said
    assert sum("a reply with a diff" in note for note in said) == 2


def _first_two(branch: Path, *words: str) -> Mails:
    return mails.format_patch(branch, *words, which="base..HEAD~2")


def test_a_cover_letter_with_an_interdiff_is_no_patch(branch: Path, tmp_path: Path, apply: Apply) -> None:
    git(branch, "branch", "-f", "old", "HEAD~1")
    for option in ("--interdiff=old", "--range-diff=base..old"):
        series = mails.format_patch(branch, "--cover-letter", option)
        assert option[2] == "r" or b"\ndiff --git" in series[0]
        assert apply(as_file(tmp_path, series))[0] == mails.tree_of(branch)


def test_a_single_patch_of_the_next_version_replaces_one(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = _first_two(branch, "--thread", "--cover-letter")
    newer = series[1].replace(b"int five;", b"int FIVE;").replace(b"[PATCH 1/2]", b"[PATCH v2 1/2]")
    id_ = re.search(rb"(?m)^Message-Id: (.*)", series[1])
    assert id_
    newer = mails.header(mails.header(newer, "Message-Id", "<new@x>"), "In-Reply-To", id_[1].decode())
    series[2] = series[2].replace(b"int five;", b"int FIVE;")
    with_reply = as_file(tmp_path, [*series, newer])
    tree, said = apply(with_reply)
    assert "v2 has only some of the patches: 2/2 are those of v1" in said[0]
    assert tree != mails.tree_of(branch, "HEAD~2")
    alone = mails.header(mails.header(newer, "In-Reply-To", ""), "References", "")
    with pytest.raises(UserError, match=r"v2 lacks 2/2; there is '\[PATCH v2 1/2\] mm: one'"):
        apply(as_file(tmp_path, [*series, alone]))


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
@pytest.mark.parametrize("words", [("--cover-letter", "--thread"), ("--numbered",), ("-v2", "--thread=deep")])
def test_a_patch_that_is_missing(
    branch: Path, tmp_path: Path, apply: Apply, lost: int, words: tuple[str, ...]
) -> None:
    series = mails.format_patch(branch, *words)
    series = [mail for mail in series if f" {lost}/4]" not in mails.subject_of(mail)]
    with pytest.raises(UserError, match=rf"s\.mbox: v[12] lacks {lost}/4; there is '\[PATCH"):
        apply(as_file(tmp_path, series))


def test_one_mail_of_a_series_is_what_was_given(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = _first_two(branch)
    tree, said = apply(as_file(tmp_path, series[0]))
    assert tree == mails.tree_of(branch, "HEAD~3")
    assert said == ["s.mbox: '[PATCH 1/2] mm: one' is one patch of a series: the others are not applied"]


def test_two_different_mails_of_one_number(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = _first_two(branch, "--thread")
    other = mails.header(series[1].replace(b"int two", b"int TWO"), "Message-Id", "<other@x>")
    with pytest.raises(UserError, match=r"two different mails are 2/2 of v1: '\[PATCH 2/2\] mm: two' and '"):
        apply(as_file(tmp_path, [*series, other]))


def test_what_a_list_delivered_twice_counts_once(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch, "--thread")
    assert apply(as_file(tmp_path, [*series, *map(_footer, series)])) == (mails.tree_of(branch), [])
    again = [mails.header(mail, "Message-Id", f"<{n}@x>") for n, mail in enumerate(series)]
    tree, said = apply(as_file(tmp_path, [*series, again[2]]))
    assert (tree, len(said)) == (mails.tree_of(branch), 1)
    assert "twice, with the same diff" in said[0]


def test_sent_again(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch, "--numbered")
    again = [mail.replace(b"[PATCH ", b"[PATCH RESEND ") for mail in series]
    old = [mail.replace(b"five;", b"funf;") for mail in series]
    tree, said = apply(as_file(tmp_path, [*again, *old]))
    assert tree == mails.tree_of(branch)
    assert said == ["s.mbox: v1 (4 patches) is left out: v1 RESEND is newer"]


def test_two_series_one_after_another(branch: Path, tmp_path: Path, apply: Apply) -> None:
    two = _first_two(branch, "--cover-letter") + mails.format_patch(
        branch, "--cover-letter", which="HEAD~2..HEAD"
    )
    tree, said = apply(as_file(tmp_path, two))
    assert (tree, said) == (mails.tree_of(branch), ["s.mbox: 2 series follow one another in it"])


def test_a_patch_beyond_the_last_number(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch, "--numbered", which="base..HEAD~1")
    extra = mails.format_patch(branch, which="HEAD~1..HEAD")[0].replace(b"[PATCH]", b"[PATCH 4/3]")
    assert apply(as_file(tmp_path, [extra, *series]))[0] == mails.tree_of(branch)


def test_a_fix_in_reply_to_the_series(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch, "--thread", "--cover-letter")
    fix = mails.reply(series[1], "", body=mails.body_of(series[4]).replace(b"30;", b"31;"))
    for subject in ("[PATCH] mm: fix one", "mm: fix one", "Oops: [PATCH 1/4] mm: one"):
        tree, said = apply(as_file(tmp_path, [*series, mails.header(fix, "Subject", subject)]))
        assert tree == mails.tree_of(branch)
        assert len(said) == 1
        assert f"'{subject}' is left out" in said[0]


def test_a_folder_with_two_versions(branch: Path, tmp_path: Path, apply: Apply) -> None:
    folder = tmp_path / "out"
    for words in (["-v2", "base..HEAD"], ["base..HEAD~1"]):
        git(branch, "format-patch", "-q", "--binary", "-o", str(folder), *words)
    tree, said = apply(folder)
    assert tree == mails.tree_of(branch)
    assert said == ["out: v1 (3 patches) is left out: v2 is newer"]
    next(folder.glob("v2-0002-*")).unlink()
    with pytest.raises(UserError, match="out: v2 lacks 2/4"):
        apply(folder)
    # a quilt series says itself what is to be applied
    (folder / "series").write_text("".join(f"{path.name}\n" for path in sorted(folder.glob("000*"))))
    assert apply(folder)[0] == mails.tree_of(branch, "HEAD~1")


# --- prerequisites


def test_prerequisites(branch: Path, base: Tree, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch, "--base=base", which="HEAD~2..HEAD")
    ids = re.findall(rb"(?m)^prerequisite-patch-id: (.*)", b"".join(series))
    assert len(ids) == 2
    with pytest.raises(UserError, match="does not apply") as caught:
        apply(as_file(tmp_path, series[1]))
    assert "rebase" in caught.value.remedy
    with pytest.raises(UserError, match="does not apply") as caught:
        apply(as_file(tmp_path, series))
    assert f"needs other patches first, which its base does not seem to have: patch-id {ids[0].decode()}" in (
        caught.value.remedy
    )
    # the prerequisites come with it, or are in the base
    first = as_file(tmp_path, mails.format_patch(branch, which="base..HEAD~2"), "first.mbox")
    both = tmp_path / "both"
    both.mkdir()
    assert patches.as_commits(base, [first, as_file(tmp_path, series)], both)


def test_what_else_a_series_needs(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch)
    for line in (
        "prerequisite-message-id: <1@x>",
        "prerequisite-change-id: 20240101-a-1:v2",
        "Depends-on: the other",
    ):
        changed = series[0].replace(b"\n---\n", f"\n---\n{line}\n".encode(), 1)
        tree, said = apply(as_file(tmp_path, [changed, *series[1:]]))
        assert tree == mails.tree_of(branch)
        assert len(said) == 1
        assert line.partition(": ")[2] in said[0]


# --- what is damaged, and what does not fit


def _wrapped(mail: bytes) -> bytes:
    return re.sub(rb"(?m)^(\+// long) ", rb"\1\n", mail, count=1)


DAMAGE: dict[str, tuple[int, Callable[[bytes], bytes], str]] = {
    "wrapped": (1, _wrapped, "corrupt patch"),
    "tabs": (0, lambda mail: mail.replace(b"\t", b"    "), "white space only"),
    "HTML": (1, lambda mail: mail.replace(b"//", b"&lt;").replace(b"\tint line", b"&#9;int line"), "HTML"),
    "still quoted": (0, lambda mail: mail.replace(b"\t", b"=09"), "quoted-printable"),
    "a line more": (
        0,
        lambda m: re.sub(rb"(?m)^( \tint line8;\n)", rb"\1+\tint more;\n", m),
        "belongs to no hunk",
    ),
    "a line less": (0, lambda mail: mail.replace(b" \tint line8;\n", b""), "corrupt patch"),
    "no content": (
        2,
        lambda mail: re.sub(
            rb"GIT binary patch\n(?:.+\n|\n(?=[a-z]))+", b"Binary files a/x and b/x differ\n", mail
        ),
        "without the content",
    ),
    "name broken": (
        2,
        lambda m: m.replace(b"diff --git a/fs/proc/task_mmu.c ", b"diff --git a/fs/proc/task_mmu.c\n"),
        "broken in two",
    ),
    "no diff": (0, lambda mail: mail.partition(b"diff --git")[0], "has no diff in it"),
    "flowed": (1, mails.flowed, "format=flowed"),
    "flowed in a part": (
        1,
        lambda mail: mails.multipart(
            mail, "multipart/mixed", ("text/plain; format=flowed", mails.body_of(mails.flowed(mail)))
        ),
        "format=flowed",
    ),
    "encrypted": (
        0,
        lambda mail: mails.multipart(mail, "multipart/encrypted", ("text/plain", b"x")),
        "encrypted",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_from_a_patch_that_does_not_fit(
    branch: Path, tmp_path: Path, apply: Apply, kind: str
) -> None:
    which, change, words = DAMAGE[kind]
    series = mails.format_patch(branch, "--numbered")
    changed = change(series[which])
    assert changed != series[which]
    series[which] = changed
    with pytest.raises(UserError) as caught:
        apply(as_file(tmp_path, series))
    error = caught.value
    assert words in error.message + error.remedy
    assert "rebase it" not in error.remedy
    subject = {0: "mm: one", 1: "mm: two", 2: "proc: three"}[which]
    assert subject in error.message


def test_nested_parts_without_end(branch: Path, tmp_path: Path) -> None:
    head = b"From: a <a@x>\nSubject: [PATCH] x\nContent-Type: multipart/mixed; boundary=b0\n\n"
    parts = b"".join(
        b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (n, n + 1) for n in range(5000)
    )
    file = as_file(tmp_path, head + parts)
    with pytest.raises(UserError, match=r"s.mbox: the mail '\[PATCH\] x': its MIME parts cannot be read"):
        parse(read(file), file, tmp_path / "w")


def test_a_charset_that_is_not_of_the_file_is_said(branch: Path, tmp_path: Path, apply: Apply) -> None:
    series = mails.format_patch(branch)
    for charset, text in (("iso-8859-1", "ü"), ("koi8-r", "ю"), ("gb18030", "中")):
        mail = series[1].replace("/* ü 中 */".encode(), text.encode()).replace(b"=?UTF-8?q?J=C3=B6rg?=", b"J")
        mail = mail.decode().encode(charset, "replace")
        _, said = apply(as_file(tmp_path, [series[0], mails.encoded(mail, "8bit", charset), *series[2:]]))
        assert said == [
            f"s.mbox: '[PATCH 2/4] mm: two' is in {charset}: bytes of its diff are taken as they are"
        ]
