"""The rules of a store's entry as a value, for the stores that do their own sums (Redis does them in Lua). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from . import Entry


@dataclass(slots=True)
class Row:
    """One key. `expires` and `lease_until` are seconds on the store's clock."""

    value: bytes | None = None
    fence: int = 0
    expires: float = 0.0
    lease: int = 0
    lease_until: float = 0.0
    last: int = 0
    floor: int = 0

    def look(self, known: int, now: float) -> Entry:
        """What there is to see without taking a lease."""
        if self.value is not None and self.fence > max(known, self.floor) and now < self.expires:
            return Entry(self.value, self.fence, self.expires - now, floor=self.floor)
        return Entry(fence=self.fence, floor=self.floor)

    def leased(self, now: float) -> bool:
        """Whether somebody is asking."""
        return self.lease != 0 and now < self.lease_until

    def next_fence(self, wall: float) -> int:
        """A number larger than any before, also than those that were lost with the data."""
        self.last = max(self.last + 1, int(wall * 1000))
        return self.last

    def claim(self, known: int, seconds: float, now: float, wall: float) -> Entry:
        """As `TokenStore.claim`."""
        entry = self.look(known, now)
        if entry.value is not None or seconds <= 0 or self.leased(now):
            return entry
        self.lease, self.lease_until = self.next_fence(wall), now + seconds
        return Entry(fence=self.fence, lease=self.lease, floor=self.floor)

    def write(self, value: bytes, fence: int, seconds: float, now: float) -> bool:
        """As `TokenStore.write`."""
        if fence <= max(self.fence, self.floor):
            return False
        self.value, self.fence, self.expires = value, fence, now + seconds
        self.release(fence)
        return True

    def renew(self, fence: int, seconds: float, now: float) -> None:
        """As `TokenStore.renew`."""
        if fence == self.lease:
            self.lease_until = now + seconds

    def release(self, fence: int) -> None:
        """As `TokenStore.release`."""
        if fence == self.lease:
            self.lease = 0

    def forget(self, fence: int | None, wall: float) -> int:
        """As `TokenStore.forget`."""
        self.floor = max(self.floor, self.next_fence(wall) if fence is None else fence)
        return self.floor
