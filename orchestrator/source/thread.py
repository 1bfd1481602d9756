# SPDX-License-Identifier: GPL-2.0-only
"""Which mails of a file are the series: the newest version, complete, in the order of its numbers.

The rules are those of `b4 am`. It cannot do this itself: it passes over mails without a message-id, which
`git format-patch` writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from orchestrator.core.errors import UserError
from orchestrator.source.mail import Mail

_LINES = re.compile(rb"^(?:diff |[-+@ \\]).*$", re.M)
_CHANGE_ID = re.compile(rb"^change-id: *(\S+)", re.M)
_REMEDY = "fetch the whole thread again, or name a folder with the patches and a quilt `series` file"


class Selection(msgspec.Struct, frozen=True):
    """The patches of a series in order, their cover letters, and sentences about what was left out.

    ``version`` is as in the subject: ``v2``; ``title`` is that of the cover letter, if there is one.
    """

    patches: tuple[Mail, ...]
    covers: tuple[Mail, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    version: str = ""


@dataclass
class _Group:
    """The mails of one version of a series; ``mails`` by number. A patch without a number has 1."""

    version: tuple[int, int, int]
    root: str
    first: int
    numbered: bool
    mails: dict[int, Mail] = field(default_factory=dict)
    total: int = 1
    series: list[_Group] = field(default_factory=list)

    @property
    def patches(self) -> list[Mail]:
        return [mail for n, mail in sorted(self.mails.items()) if n]

    @property
    def missing(self) -> list[int]:
        return [n for n in range(1, self.total + 1) if n not in self.mails]

    @property
    def name(self) -> str:
        major, minor, again = self.version
        return f"v{major}" + (f".{minor}" if minor else "") + (" RESEND" if again else "")

    def keys(self) -> set[bytes]:
        """What it has in common with its other versions: titles, and the change-id of b4."""
        titles = {mail.parts.title.lower().encode("utf-8", "replace") for mail in self.mails.values()}
        return titles - {b""} | {m[0] for mail in self.mails.values() for m in _CHANGE_ID.finditer(mail.text)}


def select(mails: Sequence[Mail], name: str) -> Selection:
    """Read mails as a thread.

    :param name: the file, for messages.
    :raises UserError: a patch is missing or there twice with different content; there are only replies.
    """
    notes: list[str] = []
    mails = _without_copies(mails, notes)
    candidates, answers = _candidates(mails)
    groups = _groups(candidates, mails, notes, name)
    if not groups:
        if answers:
            raise UserError(
                f"{name}: the mail {answers[0].name} is a reply with a diff in it, and no patch is there",
                remedy="name the mbox of its thread (`b4 am` makes one), or the diff alone",
            )
        return Selection(())
    notes += [f"{mail.name} is left out: a reply with a diff" for mail in answers]
    chosen = [group for series in _series(groups) for group in _newest(series, notes)]
    chosen.sort(key=lambda group: group.first)
    lone = len(candidates) == 1
    for group in chosen:
        _check_complete(group, name, notes, lone=lone)
    if len(chosen) > 1 and any(group.numbered for group in chosen):
        notes.append(f"{len(chosen)} series follow one another in it")
    covers = tuple(group.mails[0] for group in chosen if 0 in group.mails)
    return Selection(
        patches=tuple(mail for group in chosen for mail in group.patches),
        covers=covers,
        notes=tuple(notes),
        title=covers[0].parts.title if covers else "",
        version=chosen[0].name if len(chosen) == 1 else "",
    )


def digest(mail: Mail) -> str:
    """A digest of the diff of a mail, without what a mailing list adds below."""
    text = mail.text[mail.diff_at :].partition(b"\n-- \n")[0]
    return hashlib.sha256(b"\n".join(_LINES.findall(text))).hexdigest()


def _without_copies(mails: Sequence[Mail], notes: list[str]) -> list[Mail]:
    """The mails, each once: a mail that came by two lists has one id, or at least one content."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for mail in mails:
        content = digest(mail) if mail.diff_at >= 0 else ""
        id_ = ("id", mail.id, mail.subject, content)
        names: list[tuple[str, ...]] = [id_] if mail.id else []
        if content and mail.parts.tagged and not mail.parts.reply:
            names.append((repr(mail.parts), content))
        if seen.isdisjoint(names):
            kept.append(mail)
        elif id_ not in seen:
            notes.append(f"{mail.name} is in it twice, with the same diff: it counts once")
        seen.update(names)
    return kept


def _candidates(mails: Sequence[Mail]) -> tuple[list[Mail], list[Mail]]:
    """Patches and cover letters; and the replies with a diff."""
    tagged = any(mail.parts.tagged and not mail.parts.reply and mail.diff_at >= 0 for mail in mails)
    candidates, answers = [], []
    for mail in mails:
        parts = mail.parts
        has_diff = mail.diff_at >= 0
        if (
            parts.reply
            or (tagged and not parts.tagged and not mail.bare)
            or (not parts.tagged and _answers_its_title(mail, mails))
        ):
            answers += [mail] if has_diff else []
        elif has_diff or parts.order:
            candidates.append(mail)
    return candidates, answers


def _answers_its_title(mail: Mail, mails: Sequence[Mail]) -> bool:
    """Whether a mail without a tag has the title of one that it answers."""
    titles = [each.parts.title for each in mails if each.id and each.id in mail.references]
    return any(title and mail.parts.title.endswith(title) for title in titles)


def _groups(candidates: Sequence[Mail], mails: Sequence[Mail], notes: list[str], name: str) -> list[_Group]:
    by_id = {mail.id: mail for mail in mails if mail.id}
    answered = {each for mail in mails for each in mail.references}
    roots = {id(mail): _root(mail, by_id, answered) for mail in candidates}
    numbered_roots = {roots[id(mail)] for mail in candidates if mail.parts.order} - {""}
    groups: list[_Group] = []
    for at, mail in enumerate(candidates):
        root, parts = roots[id(mail)], mail.parts
        if parts.order is None and root in numbered_roots and mail.id != root:
            notes.append(f"{mail.name} is left out: a patch in reply to the series, without a number")
            continue
        number, total = parts.order or (1, 1)
        group = next(
            (
                g
                for g in reversed(groups)
                if parts.order and (g.root, g.version) == (root, parts.version) and g.numbered
            ),
            None,
        )
        if group is not None and not root and _begins_another(group, number, total):
            group = None
        if group is None:
            group = _Group(parts.version, root, at, bool(parts.order))
            groups.append(group)
        if number in group.mails:
            raise UserError(
                f"{name}: two different mails are {number}/{total} of {group.name}: "
                f"{group.mails[number].name} and {mail.name}",
                remedy="remove the one that does not count",
            )
        group.mails[number] = mail
        group.total = max(group.total, number, total)
    return [group for group in _without_splits(groups) if group.patches]


def _begins_another(group: _Group, number: int, total: int) -> bool:
    """Whether a mail of no thread begins the next series in the same file."""
    return not group.missing and (number in group.mails or (total != group.total and number <= total))


def _root(mail: Mail, by_id: dict[str, Mail], answered: set[str]) -> str:
    """The id of the first mail of a thread; empty for a mail that stands alone."""
    if not mail.references:
        return mail.id if mail.id in answered else ""
    top = mail.references[0]
    for _ in by_id:
        if top not in by_id or not by_id[top].references:
            break
        top = by_id[top].references[0]
    return top


def _without_splits(groups: list[_Group]) -> list[_Group]:
    """The groups, those joined that are halves of one series: a mail program broke the thread."""
    whole: list[_Group] = []
    for group in groups:
        half = next((each for each in whole if _completes(group, each)), None)
        if half is None:
            whole.append(group)
        else:
            half.mails |= group.mails
    return whole


def _completes(one: _Group, other: _Group) -> bool:
    return (
        one.numbered
        and (one.version, one.total) == (other.version, other.total)
        and one.mails.keys().isdisjoint(other.mails)
        and bool(one.missing)
        and set(one.missing) <= other.mails.keys() | set(other.missing)
        and set(other.missing) & one.mails.keys() != set()
    )


def _series(groups: Sequence[_Group]) -> list[list[_Group]]:
    """The groups, those together that are versions of one series."""
    series: list[list[_Group]] = []
    for group in groups:
        related = [each for each in series if any(_related(group, other) for other in each)]
        merged = [other for each in related for other in each] + [group]
        series = [each for each in series if each not in related] + [merged]
    return series


def _related(one: _Group, other: _Group) -> bool:
    if one.version == other.version:
        return False
    if one.keys() & other.keys():
        return True
    if one.numbered or other.numbered:
        return bool(one.root) and one.root == other.root
    ids = [{mail.id for mail in each.mails.values()} for each in (one, other)]
    answered = [{r for mail in each.mails.values() for r in mail.references[-1:]} for each in (one, other)]
    return bool(ids[0] & answered[1] or ids[1] & answered[0])


def _newest(series: list[_Group], notes: list[str]) -> list[_Group]:
    """The newest version of a series. Patches that alone were sent again complete the version before."""
    version = max(group.version for group in series)
    newest = [group for group in series if group.version == version]
    older = sorted((g for g in series if g.version != version), key=lambda g: g.version, reverse=True)
    if older and len(newest) == 1 and newest[0].missing and _replaces_single_patches(newest[0], older[0]):
        group, before = newest[0], older[0]
        taken = [n for n in group.missing if n in before.mails]
        group.mails |= {n: before.mails[n] for n in taken}
        group.mails.setdefault(0, before.mails[0]) if 0 in before.mails else None
        names = ", ".join(f"{n}/{group.total}" for n in taken)
        notes.append(f"{group.name} has only some of the patches: {names} are those of {before.name}")
        older = older[1:]
    for each in older:
        count = len(each.patches)
        notes.append(
            f"{each.name} ({count} patch{'' if count == 1 else 'es'}) is left out: {newest[0].name} is newer"
        )
    return newest


def _replaces_single_patches(group: _Group, before: _Group) -> bool:
    """Whether each patch answers the one that it replaces."""
    ids = {n: mail.id for n, mail in before.mails.items() if mail.id}
    return group.total == before.total and all(
        ids.get(n, "") in mail.references for n, mail in group.mails.items() if n
    )


def _check_complete(group: _Group, name: str, notes: list[str], *, lone: bool) -> None:
    if not group.missing:
        return
    patches = group.patches
    if lone:
        notes.append(f"{patches[0].name} is one patch of a series: the others are not applied")
        return
    numbers = _listed(f"{n}/{group.total}" for n in group.missing)
    there = _listed((mail.name for mail in patches), most=3)
    raise UserError(
        f"{name}: {group.name} lacks {numbers}; there is {there}",
        remedy=_REMEDY,
    )


def _listed(words: Iterable[str], most: int = 8) -> str:
    every = list(words)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
