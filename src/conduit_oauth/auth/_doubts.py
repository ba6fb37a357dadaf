"""Which resources refuse even a fresh token, so that they cause no token request per call."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..clock import elapsed

# A crawler's worth of origins would grow without bound; a service has a handful.
MOST_ORIGINS = 256
# Seconds for which the refusals of a resource cause no token request: the first, and the longest; and after which they
# are forgotten.
_FIRST_REST, _LONGEST_REST, _FORGOTTEN = 1.0, 60.0, 120.0


class _Refusals(NamedTuple):
    """How often an origin refused, when the last time, and for how long its word is not acted on since.

    `replaced`: how many tokens were replaced for it. `counted`: how many of these when a refusal was counted last.
    """

    times: int = 0
    at: float = -math.inf
    rest: float = 0.0
    replaced: int = 0
    counted: int = -1


_NONE = _Refusals()


class Doubts:
    """The resources that refuse even a fresh token of a provider, and until when their word is not acted on.

    Without it each request to such a resource would be a token request, and would void the token of all others.
    """

    def __init__(self) -> None:
        self._refusals: dict[str, _Refusals] = {}

    def is_known(self, origin: str) -> bool:
        """Whether `origin` refused a token, and took none in its place."""
        return origin in self._refusals

    def replaced(self, origin: str) -> int:
        """How many tokens were replaced because `origin` refused them."""
        return self._refusals.get(origin, _NONE).replaced

    def is_acted_on(self, origin: str, replaced: int) -> bool:
        """Whether to take another token because `origin` refused one; `replaced` is as of when that one was taken.

        A token that was taken after another one was replaced is fresh. Refusals of tokens from before count as one.
        """
        now, last = elapsed(), self._refusals.get(origin, _NONE)
        if now < last.at + last.rest:
            return False
        if now - last.at > _FORGOTTEN:
            last = _Refusals(replaced=last.replaced)
        if replaced <= last.counted:
            return True
        # One fresh token may be a bad one.
        rest = min(_LONGEST_REST, _FIRST_REST * 2.0 ** min(last.times - 2, 16)) if last.times > 1 else 0.0
        if origin not in self._refusals and not self._has_room(now):
            # Where so many refuse every token, the word of one more counts for nothing.
            return False
        self._refusals[origin] = _Refusals(last.times + 1, now, rest, last.replaced, replaced)
        return rest == 0.0

    def _has_room(self, now: float) -> bool:
        if len(self._refusals) >= MOST_ORIGINS:
            # A copy: another thread may add one meanwhile.
            known = list(self._refusals.items())
            self._refusals = {each: last for each, last in known if now - last.at <= _FORGOTTEN}
        return len(self._refusals) < MOST_ORIGINS

    def replacing(self, origin: str) -> None:
        """The token that it refused is replaced."""
        if (last := self._refusals.get(origin)) is not None:
            self._refusals[origin] = last._replace(replaced=last.replaced + 1)

    def accepted(self, origin: str, *, instead: bool) -> None:
        """It took a token, `instead` of one that it had refused: of another request that says nothing."""
        if instead or elapsed() - self._refusals.get(origin, _NONE).at > _FORGOTTEN:
            self._refusals.pop(origin, None)
