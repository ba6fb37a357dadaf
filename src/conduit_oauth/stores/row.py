"""The rules of a store's entry as a value, for the stores that do their own sums (Redis does them in Lua). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from . import Entry, Known

# A number of a fence that lies so far ahead of the clock was not handed out by it. Seconds.
FUTURE = 60.0
# Nobody asks for a lease that lasts longer: what ends later was made up. Seconds.
LONGEST_GRANT = 120.0
# How many invalidated tokens one entry remembers; each until its end.
MOST_VOID = 32
# Bytes: a token has a million at most, and more when it is quoted and sealed.
LONGEST_VALUE = 1 << 22
# Seconds: what ends later than that was written by another clock.
LONGEST_VOID = 366 * 86_400.0


class Row:
    """One key. `expires`, `lease_until` and `touched` are seconds on the store's clock."""

    def __init__(
        self,
        value: bytes | None = None,
        fence: int = 0,
        expires: float = 0.0,
        owner: str = "",
        lease: int = 0,
        lease_until: float = 0.0,
        last: int = 0,
        floor: int = 0,
        generation: str = "",
        touched: float = 0.0,
        void: dict[str, float] | None = None,
    ) -> None:
        self.value = value
        self.fence = fence
        self.expires = expires
        self.owner = owner
        self.lease = lease
        self.lease_until = lease_until
        self.last = last
        self.floor = floor
        self.generation = generation
        self.touched = touched
        self.void = {} if void is None else void

    def is_sound(self, known: Known, now: float) -> bool:
        """Whether this is what it was: no data were lost, the clock did not go back, and no number is made up."""
        return (
            self.generation != ""
            and now >= self.touched
            and max(self.floor, self.fence) <= self.last <= (now + FUTURE) * 1000
            and (
                known.generation != self.generation or (self.last >= max(known.fence, known.last) and now >= known.seen)
            )
        )

    def begin(self, fresh: str, now: float) -> None:
        """Start again, as the generation `fresh`; what was invalidated stays so."""
        void = {digest: end for digest, end in self.void.items() if now < end < now + LONGEST_VOID}
        self.__init__(generation=fresh, void=void)

    def look(self, known: Known, now: float) -> Entry:
        """What there is to see without taking a lease."""
        if not self.is_sound(known, now):
            return Entry(now=now)
        least = max(self.floor, known.fence if known.generation == self.generation else 0)
        if self.value is not None and self.fence > least and now < self.expires:
            return self._seen(now, value=self.value, expires=self.expires)
        return self._seen(now)

    def leased(self, now: float) -> bool:
        """Whether a process holds the lease."""
        return self.lease != 0 and now < self.lease_until <= now + LONGEST_GRANT

    def is_free_for(self, owner: str, now: float) -> bool:
        """Whether `owner` may have the lease."""
        return not self.leased(now) or owner == self.owner

    def claim(self, known: Known, owner: str, seconds: float, now: float, fresh: str) -> Entry:
        """As `TokenStore.claim`; `fresh` is what a generation that begins now is called."""
        entry = self.look(known, now)
        if entry.value is not None or seconds <= 0:
            return entry
        if not entry.generation:
            self.begin(fresh, now)
        elif not self.is_free_for(owner, now):
            return entry
        if not self.leased(now):
            self.last = self.lease = max(self.last + 1, int(now * 1000))
        self.owner, self.lease_until, self.touched = owner, now + seconds, now
        return self._seen(now, lease=self.lease)

    def write(self, value: bytes, fence: int, expires: float, generation: str, now: float) -> bool:
        """As `TokenStore.write`."""
        if generation != self.generation or now < self.touched or fence <= max(self.fence, self.floor):
            return False
        self.value, self.fence, self.expires, self.touched = value, fence, expires, now
        if fence == self.lease:
            self.lease = 0
        return True

    def renew(self, owner: str, seconds: float, now: float) -> None:
        """As `TokenStore.renew`."""
        if self.lease and owner == self.owner:
            self.lease_until = now + seconds

    def release(self, owner: str) -> bool:
        """As `TokenStore.release`; whether there was anything to release."""
        if not self.lease or owner != self.owner:
            return False
        self.lease = 0
        return True

    def forget(self, fence: int | None, generation: str, void: Mapping[str, float], now: float, fresh: str) -> Entry:
        """As `TokenStore.forget`; `fresh` is what a generation that begins now is called."""
        if not self.is_sound(Known(), now):
            self.begin(fresh, now)
        if fence is None:
            self.floor = self.last = max(self.last + 1, int(now * 1000))
        elif generation == self.generation:
            self.floor = max(self.floor, min(fence, self.last))
        ends = {digest: end for digest, end in self.void.items() if now < end}
        ends |= {digest: now + seconds for digest, seconds in void.items()}
        self.void, self.touched = dict(list(ends.items())[-MOST_VOID:]), now
        return self._seen(now)

    def _seen(self, now: float, *, value: bytes | None = None, expires: float = 0.0, lease: int = 0) -> Entry:
        return Entry(
            value=value,
            fence=self.fence,
            expires=expires,
            lease=lease,
            floor=self.floor,
            last=self.last,
            generation=self.generation,
            void=frozenset(digest for digest, end in self.void.items() if end > now),
            now=now,
        )
