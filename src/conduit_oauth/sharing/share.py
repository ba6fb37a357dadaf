"""One token for a fleet: what one provider reads from and writes to the store that it shares with others.

Invariant: A token from the store is used only if its fence is above the floor of its generation, if it was not
invalidated, and if it outlives the current one. The process that asks the authorization server holds the lease,
unless the store is down. No token looks younger than it is: its end is a time of the store's clock, from a reading
before the token request.
"""

from __future__ import annotations

import json
import math
from typing import Any

from ..client.requester import Requester
from ..clock import Clock
from ..errors import OAuthError
from ..protocol.pauses import REFUSAL_MEMORY
from ..runtime.landing import LateLock
from ..stores import Entry
from ..token import AccessToken
from .gate import Busy, Refused, recalled, remembered
from .key_state import NO_LEASE, KeyState
from .leases import FIRST_LEASE
from .notes import Notes
from .record import lasting, token_in
from .sealing import Seal
from .subscribers import Listener
from .tier import Tier


class Share(KeyState):
    """Guarded by the flight, of which there is one at a time."""

    __slots__ = (
        "_forgiven_until",
        "_listener",
        "_looked",
        "_made_of",
        "_refused",
        "_refused_until",
        "_requester",
        "_waiting",
        "_waits_since",
        "inherited",
    )

    def __init__(self, tier: Tier, requester: Requester, clock: Clock, listener: Listener) -> None:
        super().__init__(tier, clock)
        tier.join(self)
        self._requester = requester
        self._listener = listener
        # What name and key were derived from, and give again while it is the same.
        self._made_of: tuple[bytes, bytes] = b"", b""
        # What the server has against this client, by another process's word.
        self._refused: OAuthError | None = None
        self._refused_until: float = 0.0
        # Until then a refusal that the store remembers does not count.
        self._forgiven_until: float = -math.inf
        # When a flight asked it last, and what its clock said then.
        self._looked: tuple[float, float] = 0.0, 0.0
        # Whether this flight waits for another process: the news that came before are old, nobody knows how old.
        self._waiting = False
        self._waits_since: float = 0.0
        # The token that a fork left in this process, which does not know whether it is void by now.
        self.inherited: AccessToken | None = None
        # Locator and authentication of one client serve its wider scopes, too: the first share remembers for all.
        if requester.authentication.memory is None:
            notes = Notes(tier, requester)
            requester.locator.pins, requester.authentication.memory = notes.pinned, notes

    def look(self, held: AccessToken) -> AccessToken | Refused | Busy | None:
        """A token that outlives `held`, why there is none, or None: ask the authorization server yourself."""
        if self._lease.fence:
            if not self._is_overtaken(self.fence_of(held)):
                return None
            self._give_back()
        is_ready = self._prepare()
        if self.inherited is not None and (token := self._inherited(is_ready=is_ready)) is not None:
            return token
        if not is_ready:
            return None
        tier = self.tier
        # What this process may pass over: the token that it has.
        known = self.fence_of(held)
        told = tier.subscribers.told(self._key) if self._waiting else None
        # Taken before the look, so that what is told in between is not missed.
        ticket = tier.subscribers.ticket(self._key)
        while True:
            now, generation = self._clock(), self._known.generation
            if self._refused is not None and (wait := self._refused_until - now) > 0 and now >= self._forgiven_until:
                return Refused(self._refused, wait)
            is_told = told is not None and told.generation == self._known.generation and told.fence > known
            if told is not None and is_told:
                # It came after the last look, so it is taken to be as old as that, however long we slept since. Only
                # what is sealed is to be believed: its time may be made up.
                entry, told = told._replace(now=max(told.now, self._looked[1])), None
            else:
                entry = self._claim(known)
                if entry is not None:
                    self._looked = now, entry.now
            if entry is None or entry.lease:
                self._waiting = False
                return None
            if entry.value is None:
                return Busy(ticket, self._wait(now))
            self._waiting = False
            if not is_told:
                if entry.fence <= known and entry.generation == generation:
                    # No news: a store that answers so would be asked for ever.
                    return None
                known = entry.fence
            if (read := self._read(entry, self._looked[0])) is not None:
                token, fence = read
                if token.value == held.value or token.expires_at > held.expires_at:
                    self._stored = token.value, fence
                    if token.value != held.value:
                        return token

    def _inherited(self, *, is_ready: bool) -> AccessToken | None:
        """The token that a fork left here, if it still holds."""
        if is_ready:
            self._claim(0, lease=False)
        inherited, self.inherited = self.inherited, None
        is_good = inherited is not None and self._clock() < inherited.expires_at and not self.is_void(inherited)
        return inherited if is_good else None

    def _wait(self, now: float) -> float:
        """Wait for another process; the seconds until the next look, if no news come before."""
        if not self._waiting:
            self._waiting, self._waits_since = True, now
        tier = self.tier
        tier.waiting.add(id(self))
        # A leader that is gone is replaced when its lease ends: look then, and often after the last moment.
        ends = (self._waits_since + lease - now for lease in (FIRST_LEASE, tier.lease))
        left = min((end for end in ends if end > 0), default=0.0)
        return min(tier.poll, max(tier.poll / 4, left))

    def make_sure(self) -> None:
        """Look whether what the news told to be void is, before what was just asked for is thrown away by it."""
        if 0 < self._lease.fence <= self.floor:
            self._claim(0, lease=False)

    def landed(self, token: AccessToken) -> bool:
        """Whether the token that this process asked for may be used: nobody forgot all while it was asked for."""
        fence = self._lease.fence
        self._stored = token.value, fence
        return not fence or fence > self.floor

    def publish(self, token: AccessToken) -> None:
        """Store the token, with our lease or with one that is free, unless what is stored outlives it."""
        self.tier.wait_out(self._key)
        with self._lock:
            # Where the other of two secrets got it: what the retired one seals is not for this token.
            try:
                is_ready = self._prepare()
            except Exception:  # a credential that cannot be read any more
                is_ready = False
            # As the store had it: news may be made up, and the store takes nothing that is void.
            if is_ready and self._holds_lease(token) and not self.is_void(token, as_seen=True):
                self._put({"token": lasting(token, token.expires_at)}, token.expires_at)
            else:
                self.leave()

    def report(self, error: OAuthError, held: AccessToken, seconds: float) -> None:
        """Tell the fleet what the server has against this client for `seconds`, beside a token that is still valid."""
        now = self._clock()
        until = end = now + seconds
        with self._lock:
            # Without a seal the store was never asked: it has no word of this credential, nor takes one.
            if self._seal is None or not self._holds_lease():
                return
            record: dict[str, Any] = {}
            if now < held.expires_at and not self.is_void(held, as_seen=True):
                end = max(until, held.expires_at)
                record = {"token": lasting(held, end), "fence": self.fence_of(held)}
            self._put({**record, "refused": {**remembered(error), "before": end - until}}, end)

    def forgive(self) -> None:
        """Ask though the fleet remembers a refusal, for as long as that may be."""
        self._forgiven_until = self._clock() + REFUSAL_MEMORY

    def leave(self) -> None:
        """End our lease, if we have one, so that another process may ask; wait for nobody any more."""
        self._waiting = False
        self.tier.waiting.discard(id(self))
        self._give_back()

    def _give_back(self) -> None:
        lease, self._lease = self._lease, NO_LEASE
        if lease.fence:
            self.tier.release(self._key, lease.owner)

    def look_again(self, held: AccessToken, *, offer: bool, distrust: bool) -> None:
        """See whether `held` is still good, after the store or its news were out of reach; `offer` it if it has none.

        `distrust`: its clock went back, so that what it has looks younger than it is.
        """
        with self._lock:
            if not self._key:
                return
            self.tell()
            if self._lease.fence:
                return
            if distrust:
                self._begin_generation()
            asked_at = self._clock()
            entry = self._claim(0, lease=False)
            if entry is None or not offer or self.is_void(held):
                return
            stored = self._read(entry, asked_at)
            if stored is None or stored[0].expires_at < held.expires_at - 1:
                self.publish(held)

    def after_fork_in_child(self) -> None:
        """Share no lock and no lease with the parent; know what it knew."""
        self._lock = LateLock()
        self._lease = NO_LEASE

    def _prepare(self) -> bool:
        """Name and key for the credential as it is now: a rotated one finds nothing, and disturbs nobody."""
        if (pepper := self.tier.pepper()) is None:
            return False
        made_of = self._requester.authentication.credentials.material(), self._requester.identity()
        if self._seal is None or made_of != self._made_of:
            self._reseal(made_of, pepper)
        self.tell()
        return True

    def _reseal(self, made_of: tuple[bytes, bytes], pepper: bytes) -> None:
        seal = Seal(*made_of, "token", pepper)
        # Not while `tell` is at it.
        with self._lock:
            self.leave()
            self.tier.subscribers.subscribe(seal.name, self._listener, self._key)
            self.begin(seal.name, seal)
            self._made_of = made_of

    def _holds_lease(self, token: AccessToken | None = None) -> bool:
        """Whether this process has the lease, or got it now, since it was free and nothing is stored that is news.

        With a `token` that the server just gave, only a token that outlives it is news.
        """
        lease = self._lease
        if lease.fence and lease.generation != self._known.generation:
            self.leave()
        if self._lease.fence:
            return True
        asked_at = self._clock()
        entry = self._claim(self._known.last)
        if token is not None and entry is not None and entry.value is not None:
            stored, self._refused = self._read(entry, asked_at), None
            if stored is None or stored[0].expires_at < token.expires_at:
                self._claim(self._known.last)
        return self._lease.fence > 0

    def _put(self, record: dict[str, Any], end: float) -> None:
        """Store `record` until `end` by our clock, with our lease."""
        assert self._seal is not None  # noqa: S101 - `look` came before
        store_read, we_read = self._reading
        expires = store_read + (end - we_read)
        key, (lease, generation, owner) = self._key, self._lease
        sealed = self._seal.close(json.dumps(record).encode(), generation, lease, expires)
        if self.tier.call(key, lambda store: store.write(key, sealed, lease, expires, generation), patient=True):
            if "refused" not in record:
                self._stored = record["token"]["value"], lease
            if self._lease.owner == owner:
                self._lease = NO_LEASE
            self.tier.drop(key, owner)
            # What was invalidated while it was being written.
            self.tell()
        else:
            self.leave()

    def _read(self, entry: Entry, asked_at: float) -> tuple[AccessToken, int] | None:
        """The token of a record, if it is ours and still holds, with its fence; a refusal in it is kept in mind."""
        record: dict[str, Any] | None = None
        if self._seal is not None and entry.value is not None:
            plain = self._seal.open(entry.value, entry.generation, entry.fence, entry.expires)
            record = json.loads(plain) if plain is not None else None
        if record is None:
            return None
        # Counted from before the store was asked, and by its clock: no token looks younger than it is.
        remaining = entry.remaining
        self._refused = None
        if said := record.get("refused"):
            self._refused_until = asked_at + remaining - said["before"]
            self._refused = recalled(said, max(0.0, self._refused_until - self._clock()))
        if (kept := token_in(record, remaining, entry.fence)) is None or self._seal is None:
            return None
        end = asked_at + kept.expires_in
        # When it is refreshed need not be that careful: the fleet would be early by the time that it waited.
        found = AccessToken(kept.value, min(end, self._clock() + kept.refresh_in), end, kept.scope)
        is_void = 0 < kept.fence <= self.floor or self._seal.digest(found.value) in self._void
        return None if is_void else (found, kept.fence)
