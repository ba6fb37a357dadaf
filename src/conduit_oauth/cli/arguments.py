"""Arguments read without the framework of the commands, which takes longer to import than some commands to run.

Invariant: what is read here means what it means to the framework. Anything else is an `Unusual`, for the framework.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..places import expanded, is_file
from .profile import PREFIX, SETTINGS, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SWITCHES = frozenset({"dpop", "no_resource"})
_FILES = ("client_secret_file", "config")
VALUES = frozenset({*SETTINGS, *_FILES, "profile"}) - SWITCHES


class Unusual(Exception):  # noqa: N818 - it is no error
    """The framework has to read this: a wrong option, a rare one, or a secret that can be read only once."""


def read_arguments(arguments: Sequence[str], own: Sequence[str]) -> tuple[Options, dict[str, str]]:
    """The options that all commands share, and the values of `own` options. Raises `Unusual`."""
    given: dict[str, Any] = {}
    for name, value in _pairs(arguments, VALUES | set(own)):
        given[name] = [*given.get(name, []), value] if name == "resource" else value
    if len(several := given.get("resource", [])) == 1:
        (given["resource"],) = several
    if given.pop("no_resource", False):
        given["resource"] = False
    where: dict[str, Any] = {name: Path(given.pop(name)) for name in _FILES if name in given}
    for name in _FILES:
        file = where.get(name) or os.environ.get(PREFIX + name.upper())
        # Standard input and pipes cannot be read again.
        if file and not is_file(expanded(Path(file))):
            raise Unusual(name)
    rest = {name: given.pop(name) for name in own if name in given}
    return Options(given, profile=given.pop("profile", None), **where), rest


def _pairs(arguments: Sequence[str], values: frozenset[str]) -> Iterator[tuple[str, str | bool]]:
    rest = iter(arguments)
    for word in rest:
        option, is_joined, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option != f"--{name.replace('_', '-')}":
            raise Unusual(word)
        if name in SWITCHES and not is_joined:
            yield name, True
            continue
        said = value if is_joined else next(rest, None)
        if name not in values or said is None:
            raise Unusual(word)
        yield name, said
