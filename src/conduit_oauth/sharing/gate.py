"""The circuit of a token endpoint: what all providers of a process, and of a fleet with a shared store, know of its
failures.

Invariant: While an endpoint is in trouble, nobody asks it before its pause has ended. Then one process of the fleet
tries it, and the others wait for the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..clock import jitter
from ..errors import DiscoveryError, InvalidTokenResponse, OAuthError, TokenRequestError, TransportError
from ..masking import clean
from ..protocol.pauses import RETRY_AFTER_CAP, WAITING_CAP, backoff, demanded_pause, latest_pause
from ..refusals import Explanation
from ..runtime.landing import Flag
from ..stores import NOTHING, Entry, Known
from .tier import Tier

if TYPE_CHECKING:
    from .sealing import Seal

# Seconds for which the count of failures outlives its pause, so that the next failure is not taken for the first.
MEMORY = 60.0
# More than that is no count of ours.
MOST_FAILURES = 1_000_000
# Characters of a text in a record.
_LONGEST_TEXT = 2048


@dataclass(frozen=True, slots=True)
class Refused:
    """Not before `seconds` are over, because of `error`."""

    error: OAuthError
    seconds: float


@dataclass(frozen=True, slots=True)
class Busy:
    """Another process is asking; worth another look after `seconds`, or when the ticket is set."""

    ticket: Flag
    seconds: float


def remembered(error: OAuthError) -> dict[str, object]:
    """What is told to others of an error: never more than its message told here, from which secrets were taken."""
    said: dict[str, object] = {"url": getattr(error, "url", "")}
    if isinstance(error, TokenRequestError):
        said |= {"status": error.status, "error": error.error, "error_description": error.error_description}
        said |= {"cause": error.cause, "advice": error.advice}
    elif isinstance(error, TransportError):
        said |= {"problem": error.problem, "advice": error.advice, "final": not error.retryable}
    elif isinstance(error, InvalidTokenResponse):
        said["problem"] = f"the token response's {error.field} was malformed"
    return said


def recalled(said: dict[str, object], seconds: float) -> OAuthError:
    """The error that another process met. Asking again within `seconds` would only repeat it."""
    names = ("url", "cause", "problem", "advice")
    url, cause, problem, advice = (_text_of(said, name) for name in names)
    status = said.get("status")
    if isinstance(status, int) and 100 <= status < 600:
        texts = {name: text for name in ("error", "error_description") if (text := _text_of(said, name))}
        told = Explanation(cause, advice) if cause and advice else None
        return TokenRequestError(url, status, retry_after=seconds, explanation=told, **texts)
    return TransportError(url, problem or "could not be asked", advice or None, retryable=not said.get("final"))


def _text_of(said: dict[str, object], name: str) -> str:
    """A text of a record, which anybody could have made up who writes to the store and knows the endpoint."""
    text = said.get(name)
    return clean(text[:_LONGEST_TEXT]) if isinstance(text, str) else ""


class Gate:
    """One flight's way to one endpoint. It disregards failures from before the last `forgiven_for` seconds."""

    __slots__ = (
        "_failures",
        "_forgiven_for",
        "_generation",
        "_key",
        "_lease",
        "_local",
        "_now",
        "_owner",
        "_seen",
        "_shared",
        "_tier",
        "_url",
    )

    def __init__(self, shared: Tier | None, local: Tier, url: str, forgiven_for: float = math.inf) -> None:
        self._shared = shared
        self._tier = self._local = local
        self._url = url.encode()
        self._key = "endpoint-3-" + hashlib.sha256(self._url).hexdigest()[:32]
        self._seen = self._lease = self._failures = 0
        self._generation = self._owner = ""
        self._now = 0.0
        self._forgiven_for = forgiven_for

    def admit(self) -> Refused | Busy | None:
        """None where the endpoint may be asked now."""
        if self._lease:
            return None
        # A fault of this machine is known here only.
        if self._shared is not None and (told := self._refusal(self._local)) is not None:
            return told
        # The process's own memory stands in for a store that is out of reach.
        self._tier = self._shared if self._shared is not None and self._shared.up else self._local
        ticket = self._tier.subscribers.ticket(self._key)
        if (told := self._refusal(self._tier)) is not None:
            return told
        if not self._failures or self._take():
            return None
        self._tier.waiting.add(id(self))
        return Busy(ticket, self._tier.poll)

    def told(self) -> OAuthError | None:
        """What the endpoint failed with last, for one who has no time left to wait until it may be asked."""
        for tier in (self._local, self._shared):
            if tier is not None and tier.up:
                said, wait = self._remembered(tier)
                if said is not None:
                    return recalled(said, max(wait, 0.0))
        return None

    def _refusal(self, tier: Tier) -> Refused | None:
        """Why `tier` says not to ask now."""
        said, wait = self._remembered(tier)
        return None if said is None or wait <= 0 else Refused(recalled(said, wait), wait)

    def _remembered(self, tier: Tier) -> tuple[dict[str, Any] | None, float]:
        """What `tier` knows of the last failure, and the seconds that are left of its pause."""
        entry = tier.claim(self._key, NOTHING, 0.0)
        said = _said(entry, self._seal(tier))
        self._seen = 0 if entry is None or entry.value is None else entry.fence
        self._generation = "" if entry is None else entry.generation
        self._failures = 0 if said is None else said["failures"]
        if said is None or entry is None or (not said["demanded"] and entry.now - said["at"] > self._forgiven_for):
            return None, 0.0
        return said, min(entry.remaining - MEMORY, RETRY_AFTER_CAP)

    def answered(self) -> None:
        """The endpoint answered: whatever it said, it is well."""
        if seen := self._seen:
            generation = self._generation
            self._tier.call(self._key, lambda store: store.forget(self._key, seen, generation, {}))
        self.leave()

    def failed(self, error: OAuthError, pause: float, left: float) -> float:
        """The endpoint did not answer, or not as a sound one; the seconds before anybody may ask again.

        `left` is how long those who asked wait for at most: the pause leaves them time for one last attempt.
        """
        if isinstance(error, TransportError) and error.local and self._tier is not self._local:
            self.leave()
            self._tier = self._local
            self._refusal(self._local)
        if not self._lease and not self._take():
            # Another process is writing that down: not before it can be read.
            return max(pause, min(2 * self._tier.bound, latest_pause(left)))
        self._failures += 1
        # Half of the jitter: of those who wait for the endpoint, one alone tries it then.
        ours = min(backoff(self._failures, (1 + jitter()) / 2, WAITING_CAP), latest_pause(left))
        # An endless Retry-After would be as bad as none.
        pause = min(max(pause, ours), RETRY_AFTER_CAP)
        counted = {"failures": self._failures, "at": self._now, "demanded": demanded_pause(error) > 0}
        said = json.dumps({**remembered(error), **counted}).encode()
        lease, generation = self._lease, self._generation
        # By the store's clock as it was when the lease was granted, which is just now.
        end = self._now + pause + MEMORY
        if (seal := self._seal(self._tier)) is not None:
            said = seal.close(said, generation, lease, end)
        self._tier.call(self._key, lambda store: store.write(self._key, said, lease, end, generation))
        self.leave()
        return pause

    def leave(self) -> None:
        """Let another process try, where we held the right to."""
        if self._lease:
            self._tier.release(self._key, self._owner)
        self._lease = self._seen = 0
        for tier in (self._shared, self._local):
            if tier is not None:
                tier.waiting.discard(id(self))

    def _seal(self, tier: Tier) -> Seal | None:
        """What closes the record of a store, for all who know the URL; this process's own memory needs none."""
        if tier is self._local:
            return None
        from .sealing import Seal

        return Seal(self._url, b"", "endpoint", pepper=b"endpoint")

    def _take(self) -> bool:
        self._owner = secrets.token_hex(8)
        known = Known(self._generation, self._seen)
        entry = self._tier.claim(self._key, known, self._tier.lease, self._owner)
        if entry is not None and entry.lease:
            self._lease, self._generation, self._now = entry.lease, entry.generation, entry.now
        return self._lease != 0


def _said(entry: Entry | None, seal: Seal | None) -> dict[str, Any] | None:
    """What a record says; None where there is none, or one that nobody of ours wrote."""
    if entry is None or (plain := entry.value) is None:
        return None
    if seal is not None:
        plain = seal.open(plain, entry.generation, entry.fence, entry.expires)
    try:
        said: dict[str, Any] = {} if plain is None else json.loads(plain)
        said |= {"at": float(said["at"]), "demanded": bool(said["demanded"])}
        return said if 0 < said["failures"] <= MOST_FAILURES and said["at"] <= math.inf else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def is_trouble(error: OAuthError) -> bool:
    """Whether an error says that the endpoint is unwell, and not that it has something against this client."""
    if isinstance(error, TokenRequestError):
        return error.retryable and error.status != 429
    if isinstance(error, DiscoveryError | InvalidTokenResponse):
        return error.retryable
    return isinstance(error, TransportError)
