"""Runs Python as where only some extras are installed: `python -m tests.only EXTRAS MISSING PROGRAM [ARGUMENT…]`.

`EXTRAS` is a list with commas, `-` for none. `MISSING` is a distribution that lacks all the same, `-` for none.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from types import ModuleType

from packaging.requirements import Requirement


def named(distribution: str) -> str:
    """The name of a distribution as requirements write it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def needed(extras: Iterable[str]) -> set[str]:
    """The distributions that an installation of ours with `extras` brings."""
    found: set[tuple[str, str]] = set()
    left = {("conduit-oauth", extra) for extra in ("", *extras)}
    while left:
        found.add(each := left.pop())
        name, extra = each
        try:
            texts = requires(name) or []
        except PackageNotFoundError:  # for another platform
            continue
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left |= {(named(requirement.name), wanted) for wanted in ("", *requirement.extras)} - found
    return {name for name, _ in found}


class Absent:
    """Finds nothing of distributions that are not `kept`."""

    def __init__(self, kept: set[str]) -> None:
        found = packages_distributions()
        self._absent = {name for name, owners in found.items() if not kept.intersection(map(named, owners))}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self._absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


if __name__ == "__main__":
    extras, missing, program, *rest = sys.argv[1:]
    absent = Absent(needed([] if extras == "-" else extras.split(",")) - {missing})
    for module in [name for name in sys.modules if name.partition(".")[0] in absent._absent]:
        del sys.modules[module]
    sys.meta_path.insert(0, absent)
    sys.argv = [program, *rest]
    runpy.run_path(program, run_name="__main__")
