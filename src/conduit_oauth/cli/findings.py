"""What `doctor` finds, step by step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one step found: `cause` names it for a program, `said` and `advice` tell a person."""

    step: str
    verdict: Verdict
    cause: str
    said: str
    advice: str = ""


Checks = Generator[Diagnosis]


def good(step: str, said: str) -> Diagnosis:
    """Nothing is wrong here."""
    return Diagnosis(step, Verdict.GOOD, "ok", said)


def warning(step: str, cause: str, said: str, advice: str) -> Diagnosis:
    """It works, and may not for long."""
    return Diagnosis(step, Verdict.WARNING, cause, said, advice)


def bad(step: str, cause: str, said: str, advice: str) -> Diagnosis:
    """It cannot work so."""
    return Diagnosis(step, Verdict.BAD, cause, said, advice)
