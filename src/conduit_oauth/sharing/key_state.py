"""What one process knows of a key of the store: its generation, our lease, our token's fence, and what is void.

Invariant: What was invalidated stays void until its end, whichever fence it has. Nothing of one generation counts in
another.
"""

from __future__ import annotations

import math
import secrets
from typing import NamedTuple

from ..clock import Clock
from ..runtime.landing import LateLock
from ..stores import Entry, Known
from ..token import NO_TOKEN, AccessToken
from .leases import FIRST_LEASE
from .sealing import Seal
from .tier import Tier

# How many invalidated tokens a process remembers for one key; each until its end.
MOST_VOID = 64


# More than any fence: a store that has less is told that it lost data.
NEVER = 2**53


class _Lease(NamedTuple):
    """The fence of a lease (0: none), its generation, and the name that it was asked for by."""

    fence: int = 0
    generation: str = ""
    owner: str = ""


NO_LEASE = _Lease()


class KeyState:
    """What is void grows and is read by anybody; the rest is guarded by the flight, of which there is one at a time."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_doubt",
        "_dropped",
        "_floor",
        "_forget_all",
        "_forgotten",
        "_key",
        "_known",
        "_lease",
        "_lock",
        "_looked_at",
        "_reading",
        "_seal",
        "_stored",
        "_untold",
        "_void",
        "tier",
    )

    def __init__(self, tier: Tier, clock: Clock) -> None:
        self.tier = tier
        self._clock = clock
        self._lock = LateLock()
        self._key: str = ""
        self._seal: Seal | None = None
        # What this process knows of the key, and what is void of that generation.
        self._known = Known()
        self._floor: int = 0
        # What the news tell to be void, and when: whoever may publish can make it up, so the next look decides.
        self._doubt: tuple[int, float] = 0, -math.inf
        # When the store was asked that answered last.
        self._looked_at: float = -math.inf
        # One value, as `_stored` is: the tier's thread looks at it, too.
        self._lease = NO_LEASE
        # The store's clock, and ours at a moment that was not before.
        self._reading: tuple[float, float] = 0.0, 0.0
        # The token that this process holds, and the fence it has in the store; 0 where it has none. One value: other
        # threads look at it while a token lands.
        self._stored: tuple[str, int] = "", 0
        # The tokens that were invalidated, and their ends by our clock; those that the store has yet to be told of.
        self._void: dict[str, float] = {}
        self._untold: dict[str, float] = {}
        # The one that was invalidated last: before there is a seal, it has no digest.
        self._dropped: str = ""
        # What else the store has yet to be told is void.
        self._forget_all = False
        self._forgotten: int = 0

    def begin(self, key: str, seal: Seal) -> None:
        """Know nothing yet, of another key: the floor of one entry is not another's."""
        self._key, self._seal, self._known = key, seal, Known()
        self._floor = self._forgotten = 0
        self._stored = "", 0
        self._doubt = 0, -math.inf
        self._void, self._untold = {}, {}

    @property
    def floor(self) -> int:
        """What was stored under this fence or before is void, as far as this process knows."""
        told, told_at = self._doubt
        return max(self._floor, told) if told_at >= self._looked_at else self._floor

    def hear(self, entry: Entry) -> None:
        """Take in what another process told of the key."""
        if entry.generation == self._known.generation and entry.floor > self.floor:
            self._doubt = entry.floor, self._clock()
        self._remember(dict.fromkeys(entry.void, math.inf))

    def is_void(self, token: AccessToken, *, as_seen: bool = False) -> bool:
        """Whether `token` was invalidated, as far as this process was told, or `as_seen`: as the store had it."""
        if token is NO_TOKEN:
            return False
        floor = self._floor if as_seen else self.floor
        if token.value == self._dropped or 0 < self.fence_of(token) <= floor:
            return True
        return self._seal is not None and self._seal.digest(token.value) in self._void

    def fence_of(self, token: AccessToken) -> int:
        """The fence that `token` has in the store, 0 where it has none."""
        value, fence = self._stored
        return fence if token.value == value else 0

    def forget(self, token: AccessToken, *, everything: bool) -> None:
        """Void `token`, or everything, for the fleet: at once for us, for the others by `tell`."""
        self._dropped = token.value
        if self._seal is not None and token is not NO_TOKEN:
            # Before its fence is looked at: a token that is just being stored is seen to be void.
            digest = self._seal.digest(token.value)
            self._remember({digest: token.expires_at})
            self._untold[digest] = token.expires_at
        if everything:
            self._forget_all = True
        else:
            self._floor = self._forgotten = max(self._floor, self.fence_of(token))

    def tell(self) -> None:
        """Have the store know what we know to be void."""
        with self._lock:
            if not self._key or not (self._forget_all or self._forgotten or self._untold):
                return
            now = self._clock()
            key, generation, told = self._key, self._known.generation, dict(self._untold)
            fence = None if self._forget_all else self._forgotten
            ends = {digest: max(0.0, end - now) for digest, end in told.items()}
            entry = self.tier.call(key, lambda store: store.forget(key, fence, generation, ends), patient=True)
            if entry is None:
                self.tier.remind(self)
            else:
                self._forget_all, self._forgotten = False, 0
                self._untold = {digest: end for digest, end in self._untold.items() if digest not in told}
                self._take_in(entry)

    def _remember(self, void: dict[str, float]) -> None:
        now = self._clock()
        # Of what this process invalidated itself, it knows the end.
        merged = {**self._void, **{digest: min(end, self._void.get(digest, end)) for digest, end in void.items()}}
        ends = {digest: end for digest, end in merged.items() if end > now}
        # What is only heard of, and perhaps made up, drives out nothing that this process invalidated.
        ours = [(digest, end) for digest, end in ends.items() if end < math.inf]
        heard = [(digest, end) for digest, end in ends.items() if end == math.inf]
        self._void = dict(heard[-MOST_VOID:] + ours[-MOST_VOID:])

    def _take_in(self, entry: Entry) -> None:
        """What the store says of the key; of another generation, none of what was known counts."""
        if entry.generation != self._known.generation:
            if self._known.generation and (ours := {name: end for name, end in self._void.items() if end < math.inf}):
                # It lost what this process told it, perhaps before all others heard of that.
                self._untold = {**ours, **self._untold}
                self.tier.remind(self)
            self._known = Known(entry.generation)
            self._floor = self._forgotten = 0
            self._stored = "", 0
            self._doubt = 0, -math.inf
        last = max(self._known.last, entry.last, entry.fence)
        self._known = Known(entry.generation, 0, last, max(self._known.seen, entry.now))
        self._floor = max(self._floor, entry.floor)
        self._remember(dict.fromkeys(entry.void, math.inf))

    def _is_overtaken(self, known: int) -> bool:
        """Whether another process stored what is newer than our lease: this one may have stood still for longer."""
        if self._clock() - self._looked_at <= FIRST_LEASE:
            return False
        entry = self._claim(known, lease=False)
        return entry is not None and entry.value is not None

    def _claim(self, known: int, *, lease: bool = True) -> Entry | None:
        key, seconds, owner = self._key, self.tier.lease if lease else 0.0, secrets.token_hex(8)
        knows = Known(self._known.generation, known, self._known.last, self._known.seen)
        asked_at = self._clock()
        entry = self.tier.claim(key, knows, seconds, owner)
        if entry is not None:
            if not lease and self._known.generation not in (knows.generation, entry.generation):
                # A flight learned of a generation meanwhile, and this may be from before that.
                return self._claim(known, lease=False)
            self._reading = entry.now, self._clock()
            self._take_in(entry)
            self._looked_at = asked_at
            if entry.lease:
                self._lease = _Lease(entry.lease, entry.generation, owner)
        return entry

    def _begin_generation(self) -> None:
        """Have the store do so, unless another process had it already."""
        key, owner = self._key, secrets.token_hex(8)
        knows = self._known._replace(last=NEVER)
        # A name of its own: a flight may get the lease at any moment, and this one is of no use.
        if (entry := self.tier.claim(key, knows, self.tier.lease, owner)) is not None and entry.lease:
            self.tier.release(key, owner)
