"""Each rule of the protocol, broken on purpose: the simulation is worth what it finds of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from conduit_oauth.sharing.share import Share
from conduit_oauth.sharing.subscribers import Subscribers
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import Entry, Known
from conduit_oauth.stores.row import Row
from conduit_oauth.token import AccessToken
from tests.simulation.fleet import Fleet, WrongError


def _end_by_the_write(original: Callable[..., bool]) -> Callable[..., bool]:
    def write(self: Row, value: bytes, fence: int, expires: float, generation: str, now: float) -> bool:
        # As if seconds were sent, which the store counts from when it gets them.
        return original(self, value, fence, expires + (now - self.touched), generation, now)

    return write


def _same_generation(original: Callable[..., None]) -> Callable[..., None]:
    def take_in(self: Share, entry: Entry) -> None:
        known = max(self._known.last, entry.last, entry.fence)
        self._known = Known(entry.generation, 0, known, 0.0)
        self._floor = max(self._floor, entry.floor)

    return take_in


def _fences_only(original: Callable[..., bool]) -> Callable[..., bool]:
    return lambda self, token: 0 < self.fence_of(token) <= self.floor


def _nothing(original: Callable[..., object]) -> Callable[..., object]:
    return lambda *_, **__: None


def _younger(original: Callable[..., tuple[AccessToken | None, int]]) -> Callable[..., Any]:
    def read(self: Share, entry: Entry, asked_at: float) -> tuple[AccessToken | None, int]:
        return original(self, entry, self._clock() + 0.5)

    return read


def _never_back(original: Callable[..., object]) -> Callable[..., object]:
    def claim(self: Tier, key: str, known: Known, seconds: float, owner: str = "") -> Entry | None:
        entry = self.call(key, lambda store: store.claim(key, known, seconds, owner))
        if entry is not None and entry.lease:
            self._leases._held[key, owner] = math.inf
        return entry

    return claim


def _free_for_all(original: Callable[..., bool]) -> Callable[..., bool]:
    return lambda self, owner, now: True


def _unchecked(original: Callable[..., bool]) -> Callable[..., bool]:
    return lambda self, known, now: self.generation != ""


def _once(original: Callable[..., None]) -> Callable[..., None]:
    def tell(self: Share) -> None:
        original(self)
        self._untold, self._forgotten, self._forget_all = {}, 0, False

    return tell


_CLOCKS = ("the store's clock jumps", "the process dies", "the token server fails")
_DEAF = ("the token is invalidated", "the subscription is half-open", "the network is cut")

_UNHEARD = ("everything is invalidated", "messages get lost and come twice", "the network is cut")
_STALLS = ("the store stalls", "everything is invalidated")

# What is broken, and the faults that bring it to light; any where none are named.
BREAKS: dict[str, tuple[type, str, Callable[..., Any], tuple[str, ...]]] = {
    "the store counts the end from the write": (Row, "write", _end_by_the_write, ()),
    "floors and fences are compared across generations": (Share, "_take_in", _same_generation, ()),
    "no token is remembered as void, only fences": (Share, "is_void", _fences_only, ()),
    "nobody looks again after a break of hearing": (Subscribers, "resync", _nothing, _DEAF),
    "a clock that goes back is not noticed": (Tier, "_compare_clocks", _nothing, _CLOCKS),
    "lost data and clocks are not noticed by the store": (Row, "is_sound", _unchecked, ()),
    "a lease that nobody heard of is not given back": (Tier, "claim", _never_back, _STALLS),
    "a lease is no lease": (Row, "is_free_for", _free_for_all, ()),
    "a token looks younger by half a second": (Share, "_read", _younger, ()),
    "the store is told once what is void": (Share, "tell", _once, _UNHEARD),
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    place, attribute, change, _ = BREAKS[name]
    with mock.patch.object(place, attribute, change(getattr(place, attribute))):
        yield


def first_seed(name: str, seeds: int) -> tuple[int, str] | None:
    """The first seed that finds what `broken` broke, and what it found."""
    for seed in range(seeds):
        try:
            with broken(name):
                Fleet(seed, BREAKS[name][3]).run()
        except WrongError as wrong:
            return seed, str(wrong).splitlines()[-1]
    return None
