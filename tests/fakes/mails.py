# SPDX-License-Identifier: GPL-2.0-only
"""Mails as real git writes them, and what transports, lists and people do to them."""

from __future__ import annotations

import base64
import re
from binascii import b2a_qp
from pathlib import Path

from fakes.trees import git, git_bytes, make_git_tree

#: What makes patches hard to mail: tabs, CRLF, a byte that is no UTF-8, long lines, trailing space.
LONG = "".join(f"\tint line{n};\n" for n in range(1, 41))


def make_branch(path: Path) -> Path:
    """A repository with the tag ``base`` and four commits on top of it."""
    repository = make_git_tree(path)
    (repository / "mm/long.c").write_text(LONG)
    (repository / "mm/dos.c").write_bytes(b"int a;\r\nint b;\r\nint c;\r\n")
    (repository / "mm/data.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "more files")
    git(repository, "tag", "base")
    (repository / "mm/long.c").write_text(LONG.replace("line5;", "five;\t"))
    _commit(repository, "mm: one")
    (repository / "mm/new.c").write_text(f"/* ü 中 */\nint two;\n// {'long ' * 40}\n\n\tint end; \n")
    (repository / "mm/long.c").write_text(LONG.replace("line5;", "five;\t").replace("line30;", "thirty;"))
    _commit(repository, "mm: two\n\nFrom here on nothing is as before.\n\n- a list\n---- no notes")
    git(repository, "mv", "fs/proc/task_mmu.c", "fs/proc/task.c")
    (repository / "scripts/run.sh").chmod(0o644)
    (repository / "mm/data.bin").write_bytes(bytes(range(255, -1, -1)))
    _commit(repository, "proc: three, zwei ü")
    (repository / "mm/long.c").write_text(LONG.replace("line5;", "five;\t").replace("line30;", "30;"))
    _commit(repository, "mm: four")
    return repository


def _commit(repository: Path, message: str) -> None:
    git(repository, "add", "-A")
    author = ["-c", "user.name=Jörg Ä. Öhm", "-c", "user.email=j@example.invalid"]
    git(repository, *author, "commit", "-q", "-m", message)


def tree_of(repository: Path, revision: str = "HEAD") -> str:
    """The id of a commit's tree."""
    return git(repository, "rev-parse", f"{revision}^{{tree}}").strip()


def format_patch(repository: Path, *words: str, which: str = "base..HEAD") -> list[bytes]:
    """The mails of a range, each as `git format-patch` writes it."""
    text = git_bytes(repository, "format-patch", "--stdout", "--binary", *words, which)
    return [mail for mail in re.split(rb"(?m)^(?=From [0-9a-f]{40} Mon Sep 17)", text) if mail]


def header(mail: bytes, name: str, value: str) -> bytes:
    """The mail with another value of a header, or without it if the value is empty."""
    head, _, body = mail.partition(b"\n\n")
    head = re.sub(rb"(?im)^%s:.*\n?(?:[ \t].*\n?)*" % name.encode(), b"", head).rstrip(b"\n")
    if value:
        head += f"\n{name}: {value}".encode()
    return head + b"\n\n" + body


def subject_of(mail: bytes) -> str:
    """The subject as it stands in the mail."""
    match = re.search(rb"(?m)^Subject: (.*(?:\n[ \t].*)*)", mail)
    assert match
    return match[1].decode()


def encoded(mail: bytes, how: str, charset: str = "utf-8", *, crlf: bool = False) -> bytes:
    """The mail in another transfer encoding."""
    head, _, body = mail.partition(b"\n\n")
    text = body.replace(b"\n", b"\r\n") if crlf else body
    if how == "base64":
        text = base64.encodebytes(text)
    elif how == "quoted-printable":
        # a CR within a line is content
        text = b"".join(b2a_qp(line, istext=False) + b"\n" for line in text.removesuffix(b"\n").split(b"\n"))
    mail = header(head + b"\n\n" + text, "Content-Type", f"text/plain; charset={charset}")
    return header(header(mail, "MIME-Version", "1.0"), "Content-Transfer-Encoding", how)


def multipart(mail: bytes, kind: str, *parts: tuple[str, bytes]) -> bytes:
    """The mail with parts (content type, content) in place of its body."""
    head = mail.partition(b"\n\n")[0] + b"\n\n"
    pieces = [b"--=_x\nContent-Type: %s\n\n%s\n" % (type_.encode(), text) for type_, text in parts]
    mail = header(head + b"".join(pieces) + b"--=_x--\n", "Content-Type", f'{kind}; boundary="=_x"')
    return header(mail, "MIME-Version", "1.0")


def body_of(mail: bytes) -> bytes:
    """The text below the headers."""
    return mail.partition(b"\n\n")[2]


def flowed(mail: bytes) -> bytes:
    """The mail as a program with format=flowed sends it: lines that begin with a space get another one."""
    head, _, body = mail.partition(b"\n\n")
    body = re.sub(rb"(?m)^(?=[ >]|From )", b" ", body)
    return header(head + b"\n\n" + body, "Content-Type", "text/plain; charset=utf-8; format=flowed")


def reply(
    mail: bytes, mark: str = "Re: ", *, body: bytes | None = None, id_: str = "reply@example.invalid"
) -> bytes:
    """An answer to a mail that quotes it, or has another body."""
    quoted = re.sub(rb"(?m)^", b"> ", body_of(mail))
    parent = re.search(rb"(?im)^Message-Id: (.*)", mail)
    thread = b"In-Reply-To: %b\nReferences: %b\n" % (parent[1], parent[1]) if parent else b""
    head = (
        f"From r@example.invalid Mon Jan  1 00:00:00 2024\nFrom: R <r@example.invalid>\nMessage-Id: <{id_}>\n"
    )
    return (
        head.encode()
        + thread
        + f"Date: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: {mark}{subject_of(mail)}\n\n".encode()
        + (quoted + b"\nNo.\n\n" if body is None else body)
    )
