"""One token for a fleet: what one provider reads from and writes to the store that it shares with others.

Invariant: A token from the store is used only if its fence is above the floor of its generation, if it was not
invalidated, and if it outlives the current one. The process that asks the authorization server holds the lease,
unless the store is down. No token looks younger than it is: its end is a time of the store's clock, from a reading
before the token request.
"""

from __future__ import annotations

import json
import math
import secrets
from typing import Any, NamedTuple

from ..client.requester import Requester
from ..clock import Clock
from ..errors import OAuthError
from ..protocol.pauses import REFUSAL_MEMORY
from ..runtime.landing import LateLock
from ..stores import Entry, Known
from ..token import NO_TOKEN, AccessToken
from .gate import Busy, Refused, recalled, remembered
from .leases import FIRST_LEASE
from .notes import Notes
from .record import lasting, token_in
from .sealing import Seal
from .subscribers import Listener
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


_NO_LEASE = _Lease()


class Share:
    """Guarded by the flight, of which there is one at a time; what is void grows and is read by anybody."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_doubt",
        "_dropped",
        "_floor",
        "_forget_all",
        "_forgiven_until",
        "_forgotten",
        "_key",
        "_known",
        "_lease",
        "_listener",
        "_lock",
        "_looked",
        "_looked_at",
        "_made_of",
        "_reading",
        "_refused",
        "_refused_until",
        "_requester",
        "_seal",
        "_stored",
        "_untold",
        "_void",
        "_waiting",
        "_waits_since",
        "inherited",
        "tier",
    )

    def __init__(self, tier: Tier, requester: Requester, clock: Clock, listener: Listener) -> None:
        self.tier = tier
        tier.join(self)
        self._requester = requester
        self._clock = clock
        self._listener = listener
        self._lock = LateLock()
        self._key: str = ""
        # What name and key were derived from, and give again while it is the same.
        self._made_of: tuple[bytes, bytes] = b"", b""
        self._seal: Seal | None = None
        # What this process knows of the key, and what is void of that generation.
        self._known = Known()
        self._floor: int = 0
        # What the news tell to be void, and when: whoever may publish can make it up, so the next look decides.
        self._doubt: tuple[int, float] = 0, -math.inf
        # One value, as `_stored` is: the tier's thread looks at it, too.
        self._lease = _NO_LEASE
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
        # What the server has against this client, by another process's word.
        self._refused: OAuthError | None = None
        self._refused_until: float = 0.0
        # Until then a refusal that the store remembers does not count.
        self._forgiven_until: float = -math.inf
        # When the store was asked that answered last.
        self._looked_at: float = -math.inf
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
            return None
        is_ready = self._prepare()
        if (inherited := self.inherited) is not None:
            if is_ready:
                self._claim(0, lease=False)
            self.inherited = None
            if self._clock() < inherited.expires_at and not self.is_void(inherited):
                return inherited
        if not is_ready:
            return None
        tier = self.tier
        # What this process may pass over: the token that it has.
        known = self.fence_of(held)
        told = tier.subscribers.told(self._key) if self._waiting else None
        # Taken before the look, so that what is told in between is not missed.
        ticket = tier.subscribers.ticket(self._key)
        while True:
            now = self._clock()
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
            has_waited = self._waiting
            self._waiting = entry is not None and not entry.lease and entry.value is None
            if entry is None or entry.lease:
                return None
            if self._waiting:
                if not has_waited:
                    self._waits_since = now
                tier.waiting.add(id(self))
                # A leader that is gone is replaced when its lease ends: look then, and often after the last moment.
                ends = (self._waits_since + lease - now for lease in (FIRST_LEASE, tier.lease))
                left = min((end for end in ends if end > 0), default=0.0)
                return Busy(ticket, min(tier.poll, max(tier.poll / 4, left)))
            if not is_told:
                known = entry.fence
            if (read := self._read(entry, self._looked[0])) is not None:
                token, fence = read
                if token.value == held.value or token.expires_at > held.expires_at:
                    self._stored = token.value, fence
                    if token.value != held.value:
                        return token

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
            if is_ready and self._holds_lease(token) and not self.is_void(token):
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
            if now < held.expires_at and not self.is_void(held):
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
        lease, self._lease = self._lease, _NO_LEASE
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

    def _begin_generation(self) -> None:
        """Have the store do so, unless another process had it already."""
        key, owner = self._key, secrets.token_hex(8)
        knows = self._known._replace(last=NEVER)
        # A name of its own: a flight may get the lease at any moment, and this one is of no use.
        if (entry := self.tier.claim(key, knows, self.tier.lease, owner)) is not None and entry.lease:
            self.tier.release(key, owner)

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

    def is_void(self, token: AccessToken) -> bool:
        """Whether `token` was invalidated, as far as this process knows."""
        if token is NO_TOKEN:
            return False
        if token.value == self._dropped or 0 < self.fence_of(token) <= self.floor:
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

    def after_fork_in_child(self) -> None:
        """Share no lock and no lease with the parent; know what it knew."""
        self._lock = LateLock()
        self._lease = _NO_LEASE

    def _remember(self, void: dict[str, float]) -> None:
        now = self._clock()
        # Of what this process invalidated itself, it knows the end.
        merged = {**self._void, **{digest: min(end, self._void.get(digest, end)) for digest, end in void.items()}}
        ends = {digest: end for digest, end in merged.items() if end > now}
        self._void = dict(list(ends.items())[-MOST_VOID:])

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
        # Not while `tell` is at it: the floor of one entry is not another's.
        with self._lock:
            self.leave()
            self.tier.subscribers.subscribe(seal.name, self._listener, self._key)
            self._key, self._seal, self._known = seal.name, seal, Known()
            self._floor = self._forgotten = 0
            self._stored = "", 0
            self._doubt = 0, -math.inf
            self._void, self._untold = {}, {}
            self._made_of = made_of

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
                self._lease = _NO_LEASE
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
