"""Reads `WWW-Authenticate` (RFC 9110 §11.6.1): what a server that refuses says it wants. Pure.

Invariant: Any text is read in one pass and without an error. A malformed part is left out, with all that follows it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LENGTH = 8192

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's token (RFC 9110 §5.6.2)
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)*")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN})(?=[ \t]*(?:,|\Z)))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|\Z)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme and parameter names in lower case, the first value of each parameter."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a `WWW-Authenticate` header, or of several that were joined by commas."""
    text = header[:MAX_LENGTH]
    challenges: list[Challenge] = []
    parameters: dict[str, str] | None = None
    position = 0
    while True:
        position = _skip(text, position)
        # A name with a value belongs to the challenge before it; a name alone begins the next one.
        if parameters is not None and (match := _PARAMETER.match(text, position)):
            name, quoted, plain = match.groups()
            parameters.setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
        elif match := _SCHEME.match(text, position):
            parameters = {}
            challenges.append(Challenge(match[1].lower(), parameters))
            # A token68 (as Negotiate has) means nothing to us.
            if not _PARAMETER.match(text, match.end()) and (blob := _TOKEN68.match(text, match.end())):
                match = blob
        else:
            return challenges
        position = match.end()


def bearer_challenge(header: str | None) -> Challenge | None:
    """The first challenge for an access token, bearer (RFC 6750 §3) or DPoP-bound (RFC 9449 §7.1)."""
    wanted = (challenge for challenge in parse_challenges(header or "") if challenge.scheme in ("bearer", "dpop"))
    return next(wanted, None)


def demanded_claims(challenge: Challenge) -> str | None:
    """The `claims` that a challenge demands in the next token request: a JSON object (OpenID Connect Core §5.5).

    Entra ID's continuous access evaluation sends them in base64, of either alphabet; others as they are.
    """
    claims = challenge.parameters.get("claims")
    if claims is None or challenge.parameters.get("error") != "insufficient_claims":
        return None
    try:
        text = claims if claims.lstrip().startswith("{") else base64.urlsafe_b64decode(claims + "==").decode()
        return text if isinstance(json.loads(text), dict) else None
    except (ValueError, RecursionError):
        return None


def _skip(text: str, position: int) -> int:
    match = _SEPARATOR.match(text, position)
    return match.end() if match else position
