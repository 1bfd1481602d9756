# SPDX-License-Identifier: GPL-2.0-only
"""One mail: its subject, the mails that it answers, and its text without transport encodings.

Python's ``email`` undoes MIME. `git mailinfo` then tells description and diff apart (``mbox``).
"""

from __future__ import annotations

import email
import email.errors
import re
from email.header import decode_header
from email.message import Message

import msgspec

from orchestrator.core.text import one_line
from orchestrator.source import diff

_HEADER = re.compile(rb"(?:From |(?i:from|subject|date|message-id|received|return-path):)")
_GROUP = re.compile(r"\s*\[([^\[\]]*)\]\s*")
_ORDER = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")
_VERSION = re.compile(r"(?:patch|rfc|resend|repost)*-?v\.?([0-9]{1,3})(?:\.([0-9]{1,3}))?", re.I)
_RESEND = re.compile(r"resen[dt]|repost(?:ed)?", re.I)
#: What mail programs put before the subject of an answer, or of a mail that is passed on.
_WORDS = (
    "re|aw|antw|antwort|sv|vs|vb|vl|odp|od|pd|ynt|ilt|rif|ri|i|r|fw|fwd|tr|wg|doorst|rv|enc|res|ref|rsp|atb|bls|"
    "tb|vá|yml|απ|σχετ|πρθ|отв|ответ|на|回复|回覆|答复|答覆|回信|转发|轉寄|轉發|返信|転送|답장|회신|전달|הועבר|השב"
)
_MARK = r"\s?(?:\[[0-9]+\]|\([0-9]+\)|\^[0-9]+)?\s*[:：]\s*"
_REPLY = re.compile(
    rf"(?:(?:{_WORDS}){_MARK})+(?=\[)|(?:(?:re|aw|fwd?|sv|antw|odp|wg|回复|答复|转发){_MARK})+", re.I
)
#: Any word may be a reply's in some language, if the mail answers another one.
_FOREIGN = re.compile(rf"(?:[^\s\[\]:：]{{1,12}}{_MARK})+(?=\[[^\]]*(?:patch|rfc|[0-9]/[0-9]))", re.I)
_PATCH_TAG = re.compile(r"(?i:patch|rfc)|[0-9]+/[0-9]+$")
_SIGNED = re.compile(
    rb"(.*?)^-----BEGIN PGP SIGNED MESSAGE-----\r?\n(?:\S[^\n]*\n)*\s*?\n(.*?)^-----BEGIN PGP SIGNATURE",
    re.M | re.S,
)
_PATCH_NAME = re.compile(r"\.(?:patch|diff)$", re.I)


class Subject(msgspec.Struct, frozen=True):
    """A subject without its tags, and their meaning.

    ``version`` is (2, 0) for v2; its third part counts up if the mail was sent again. ``order`` is n and m of
    ``[PATCH n/m]``.
    """

    title: str
    tagged: bool = False
    version: tuple[int, int, int] = (1, 0, 0)
    order: tuple[int, int] | None = None
    reply: bool = False


class Mail(msgspec.Struct, frozen=True):
    """A mail; ``text`` is its content for `git mailinfo`, with the headers that count, in UTF-8.

    ``diff_at`` is where the diff begins in ``text``, -1 without one. ``charset`` is given if it is not UTF-8.
    ``references`` are the ids of the mails that it answers. ``bare``: not a mail, but a diff.
    """

    text: bytes
    subject: str
    parts: Subject
    id: str = ""
    references: tuple[str, ...] = ()
    charset: str = ""
    flowed: bool = False
    bare: bool = False
    diff_at: int = -1

    @property
    def name(self) -> str:
        """The subject for messages."""
        return repr(one_line(self.subject, limit=200))


def subject(text: str, *, answers: bool = False) -> Subject:
    """Read a subject.

    :param answers: whether the mail answers another one; then any word before the tags marks a reply.
    """
    text = " ".join(text.split())
    patterns = (_REPLY, _FOREIGN) if answers else (_REPLY,)
    reply, tokens, tagged = False, list[str](), False
    while True:
        # mailing lists put their name before the mark: [list] Re: [PATCH]
        open_ = not any(map(_PATCH_TAG.match, tokens))
        if open_ and (mark := next(filter(None, (pattern.match(text) for pattern in patterns)), None)):
            reply, text = True, text[mark.end() :]
        elif group := _GROUP.match(text):
            tagged, text = True, text[group.end() :]
            tokens += re.split(r"[\s,;]+", re.sub(r"\b([0-9]+) of ([0-9]+)\b", r"\1/\2", group[1]))
        else:
            break
    orders = [(int(m[1]), int(m[2])) for m in map(_ORDER.fullmatch, tokens) if m]
    versions = [(int(m[1]), int(m[2] or 0)) for m in map(_VERSION.fullmatch, tokens) if m]
    again = sum(bool(_RESEND.match(token)) for token in tokens)
    version = versions[-1] if versions else (1, 0)
    return Subject(text, tagged, (*version, again), orders[-1] if orders else None, reply)


def parse(raw: bytes) -> Mail:
    """Read a mail, or a diff without one.

    :raises ValueError: it cannot be read; the text says why.
    """
    if not _is_mail(raw):
        # as `git apply` reads it: also its line ends are content
        return Mail(raw, "", Subject(""), bare=True, diff_at=diff.start(raw))
    raw = diff.without_transport_crs(raw, raw)
    try:
        message = email.message_from_bytes(raw.partition(b"\n")[2] if raw.startswith(b"From ") else raw)
        body, part = _body(message)
    except (RecursionError, LookupError, AttributeError, TypeError) as error:
        raise ValueError("its MIME parts cannot be read") from error
    body = diff.without_marks(body)
    if signed := _SIGNED.match(body):
        body = signed[1] + re.sub(rb"(?m)^- ", b"", signed[2])
    at = diff.start(body)
    body = diff.without_transport_crs(body, body[at:] if at >= 0 else body)
    charset = _charset(part)
    head = _head(message, part)
    # git reads the description as UTF-8; bytes of the diff are content
    at = diff.start(body)
    text = head + (_recoded(body[:at], charset) + body[at:] if at >= 0 else _recoded(body, charset))
    line = _header(message, "Subject")
    references = re.findall(
        r"<([^<>\s]+)>", f"{_header(message, 'References')} {_header(message, 'In-Reply-To')}"
    )
    return Mail(
        text=text,
        subject=line,
        parts=subject(line, answers=bool(references)),
        id=_header(message, "Message-Id").strip(" <>"),
        references=tuple(dict.fromkeys(references)),
        charset=charset if at >= 0 and not _is_utf8(body[at:]) else "",
        flowed=_parameter(part, "format") == "flowed",
        diff_at=diff.start(text),
    )


def _is_mail(raw: bytes) -> bool:
    head = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]
    lines = head.splitlines()
    return bool(lines and re.match(rb"From |[!-9;-~]+:", lines[0]) and any(map(_HEADER.match, lines)))


def _head(message: Message, part: Message) -> bytes:
    lines = [f"{name}: {_header(message, name)}" for name in ("From", "Date", "Subject")]
    kind = "Content-Type: text/plain; charset=UTF-8"
    if _parameter(part, "format") == "flowed":
        kind += f"; format=flowed; delsp={_parameter(part, 'delsp') or 'no'}"
    lines += [kind, "Content-Transfer-Encoding: 8bit", "", ""]
    return "\n".join(lines).encode("utf-8", "replace")


def _parameter(message: Message, name: str) -> str:
    value = message.get_param(name)
    return value.lower() if isinstance(value, str) else ""


def _header(message: Message, name: str) -> str:
    """A header as text on one line, whatever its encoding claims; empty if there is none."""
    value = next((str(v) for k, v in message.raw_items() if k.lower() == name.lower()), "")
    value = re.sub(r"\r?\n\s*", " ", value).strip()
    if not value.isascii():
        return _decoded(value.encode("utf-8", "surrogateescape"), "")
    try:
        parts = decode_header(value)
    except (ValueError, email.errors.MessageError):
        return value
    words = [p if isinstance(p, str) else _decoded(p, charset or "") for p, charset in parts]
    return " ".join("".join(words).replace("\0", "").split())


def _body(message: Message) -> tuple[bytes, Message]:
    """The text of a mail without transfer encodings, and the part with its diff.

    Of several parts these count: plain text, and attached patches.
    """
    if message.get_content_type() == "multipart/encrypted":
        raise ValueError("it is encrypted")
    parts = [part for part in message.walk() if not part.is_multipart()]
    if len(parts) > 1:
        parts = [part for part in parts if _is_text(part)]
    texts = [_payload(part) for part in parts]
    body = b"\n".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)
    with_diff = [part for part, text in zip(parts, texts, strict=True) if diff.start(text) >= 0]
    return body, next(iter(with_diff or parts), message)


def _charset(part: Message) -> str:
    """The charset of a part, empty for UTF-8 and ASCII."""
    charset = (part.get_content_charset() or "").lower()
    return "" if charset in ("utf-8", "us-ascii", "utf8", "ascii") else charset


def _is_text(part: Message) -> bool:
    name = part.get_filename() or ""
    kind = part.get_content_type()
    return bool(_PATCH_NAME.search(name)) or kind == "text/plain" or kind.endswith(("patch", "diff"))


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return diff.without_marks(payload) if isinstance(payload, bytes) else b""


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(text: bytes, charset: str) -> str:
    """Text of a charset that may be wrong or unknown."""
    for name in (charset, "utf-8"):
        try:
            return text.decode(name)
        except (LookupError, UnicodeError, ValueError):
            continue
    return text.decode("latin-1")


def _recoded(text: bytes, charset: str) -> bytes:
    return text if text.isascii() else _decoded(text, charset).encode("utf-8", "replace")
