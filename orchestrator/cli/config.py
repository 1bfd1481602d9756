# SPDX-License-Identifier: GPL-2.0-only
"""Options from ``orchestrate.toml``: a table per verb, a key per long option.

    [run]
    arch = ["x86_64", "arm64"]
    until-fail = true

The command line wins. Every call of the tool imports this module, so it imports only click at the top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.exit import ExitRules
from orchestrator.cli.types import Memory
from orchestrator.core.errors import UserError, unknown

NAME = "orchestrate.toml"
VARIABLE = "ORCHESTRATE_CONFIG"
#: The key in click's ``Context.meta`` for the path of the file.
META = "orchestrator.cli.config"
_BISECT_EXIT = "bisect_exit"
#: Options whose values name files; in a file they are relative to its folder.
PATHS = frozenset(
    {
        "source",
        "kernel",
        "patch",
        "kconfig",
        "config",
        "suite",
        "put",
        "selftests-from",
        "known",
        "out",
        "junit",
    }
)
#: Those that also take other words: a value is a path if it exists or starts with a dot …
_ALSO_WORDS = frozenset({"source", "selftests-from", "kconfig", "suite"})
#: … and if it may also be a name, only with a slash.
_ALSO_NAMES = frozenset({"suite"})
#: ``NAME=PATH``
_LABELLED = frozenset({"source", "patch", "kernel"})

Values = dict[str, dict[str, Any]]


class Verb(click.Command):
    """A command whose options may come from the file; ``--help`` works beside a broken one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, with defaults from the file."""
        rules = ctx.find_object(ExitRules)
        # --bisect-exit also holds for a command line that cannot be parsed
        if rules is not None and f"--{_BISECT_EXIT.replace('_', '-')}" in args:
            rules.bisecting = True
        if not ctx.resilient_parsing and not set(args) & set(ctx.help_option_names):
            group = ctx.find_root().command
            assert isinstance(group, click.Group)
            values, path = load(Path.cwd(), group)
            if path is not None and (mine := values.get(ctx.info_name or "")):
                ctx.default_map = {**mine, **(ctx.default_map or {})}
                ctx.meta[META] = path
                if rules is not None and mine.get(_BISECT_EXIT):
                    rules.bisecting = True
        return super().parse_args(ctx, args)


def load(
    start: Path, group: click.Group, *, path_options: AbstractSet[str] = PATHS
) -> tuple[Values, Path | None]:
    """Values for click's ``default_map``, by verb and parameter name, and the file that they are from.

    :param start: the folder from which the file is looked for; see ``find``.
    :param path_options: long names of options whose relative values are relative to the file.
    :raises UserError: the file cannot be read, or has unknown verbs, options or values.
    """
    path = find(start)
    if path is None:
        return {}, None
    values: Values = {}
    for verb, table in _read(path).items():
        command = group.commands.get(verb)
        if command is None:
            raise unknown("verb", verb, sorted(group.commands), where=str(path))
        if not isinstance(table, dict):
            raise UserError(
                f"{path}: {verb} must be a table", remedy=f"Write [{verb}], and options below it."
            )
        options = _options(command)
        values[verb] = {}
        for key, value in table.items():
            option = options.get(key)
            printable = key if key.isprintable() else repr(key)
            where = f"{path}: [{verb}] {printable}"
            if option is None or option.name is None:
                raise unknown("option", key, sorted(options), where=f"{path}: [{verb}]")
            if key in path_options:
                value = _anchored(value, path.parent, key)
            values[verb][option.name] = _checked(value, option, where)
    return values, path


def find(start: Path) -> Path | None:
    """The file that ``$ORCHESTRATE_CONFIG`` names, else the nearest one.

    The search goes from ``start`` up to the top of the git working tree or the home folder. Outside of both,
    only ``start`` is searched: folders above may belong to somebody else.

    :raises UserError: the variable names no file, or a home folder that is unknown.
    """
    explicit = os.environ.get(VARIABLE)
    if explicit:
        from orchestrator.core.store import absolute

        path = absolute(Path(explicit))
        if not path.exists() or path.is_dir():
            raise UserError(
                f"{VARIABLE} names {path}, which is not a file", remedy=f"Correct it, or unset {VARIABLE}."
            )
        return path
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    start = start.absolute()
    nearest = None
    for folder in (start, *start.parents):
        candidate = folder / NAME
        if nearest is None and os.path.lexists(candidate):
            nearest = candidate
        if folder == home or os.path.lexists(folder / ".git"):
            return nearest
    own = start / NAME
    return own if nearest == own else None


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", remedy="Make it readable, or remove it.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8", remedy="Save it as UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}", remedy="Correct that line.") from None


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options that a file may set, by long name."""
    return {
        name.removeprefix("--"): param
        for param in command.params
        if isinstance(param, click.Option) and not param.is_eager
        for name in param.opts
        if name.startswith("--")
    }


def _anchored(value: Any, folder: Path, key: str) -> Any:
    """The value with relative paths made absolute, based on the file's folder."""
    if isinstance(value, list):
        return [_anchored(each, folder, key) for each in value]
    if not isinstance(value, str) or not value:
        return value
    label, text = "", value
    match = re.fullmatch(r"([^/:@~=]+=)(.+)", value, re.S)
    if match and key in _LABELLED and not os.path.lexists(folder / value):
        label, text = match[1], match[2]
    if text.startswith("~"):
        return label + str(_expanded(text))
    if _is_path(text, folder, key):
        return label + os.path.normpath(folder / text)
    return value


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        # no such user: the verb will report a missing file
        return Path(text)


def _is_path(text: str, folder: Path, key: str) -> bool:
    if key not in _ALSO_WORDS or text.startswith(("./", "../")) or text in (".", ".."):
        return True
    if key in _ALSO_NAMES and "/" not in text:
        return False
    # DIR@REV
    return os.path.lexists(folder / text) or os.path.lexists(folder / re.sub(r"@[^/@]+$", "", text))


def _checked(value: Any, option: click.Option, where: str) -> Any:
    """The value for click's ``default_map``.

    :raises UserError: it does not have the type of the option.
    """
    if option.multiple:
        each = value if isinstance(value, list) else [value]
        return [_scalar(one, option, where, "a list of ") for one in each]
    return _scalar(value, option, where, "")


def _scalar(value: Any, option: click.Option, where: str, several: str) -> Any:
    kind, fits = _kind(option, value)
    if not fits:
        expected = f"{several}{kind[1]}" if several else kind[0]
        raise UserError(f"{where}: expected {expected}, not {_quoted(value)}")
    try:
        if not (option.is_flag or option.count):
            option.type.convert(value, option, None)
    except click.BadParameter as error:
        raise UserError(f"{where}: {error.message.rstrip('.')}") from None
    return value


def _kind(option: click.Option, value: Any) -> tuple[tuple[str, str], bool]:
    """The type of an option in words (singular, plural), and whether the value has it."""
    boolean = isinstance(value, bool)
    if option.is_flag and option.is_bool_flag:
        return ("true or false", "true or false"), boolean
    if isinstance(option.type, Memory):
        amount = isinstance(value, (int, str)) and not boolean
        return ("an integer or a string", "integers or strings"), amount
    if option.count or isinstance(option.type, click.types.IntParamType):
        return ("an integer", "integers"), isinstance(value, int) and not boolean
    if isinstance(option.type, click.types.FloatParamType):
        return ("a number", "numbers"), isinstance(value, (int, float)) and not boolean
    return ("a string", "strings"), isinstance(value, str)


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    text = "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
