"""One token for a fleet: what one provider reads from and writes to the store that it shares with others.

Law: a token of the store is used only while its fence is above the floor, and only where it outlives the one at hand;
whoever asks the authorization server holds the lease, unless the store is out of reach.
"""

from __future__ import annotations

import json
import math
import threading
from typing import Any

from .clock import Clock
from .errors import OAuthError
from .gate import Busy, Refused, recalled, remembered
from .life import REFUSAL_MEMORY
from .notes import Notes
from .requester import Requester
from .sealing import Seal, credential
from .stores import Entry
from .tier import Listener, Tier
from .token import AccessToken


class Share:
    """Guarded by the flight, of which there is one at a time; `floor` only grows and is read by anybody."""

    __slots__ = (
        "_asked_at",
        "_clock",
        "_fence",
        "_forget_all",
        "_forgiven_until",
        "_forgotten",
        "_key",
        "_known",
        "_lease",
        "_listener",
        "_lock",
        "_made_of",
        "_refused",
        "_refused_until",
        "_requester",
        "_seal",
        "_value",
        "_void",
        "_waiting",
        "floor",
        "tier",
    )

    def __init__(self, tier: Tier, requester: Requester, clock: Clock, listener: Listener) -> None:
        self.tier = tier
        tier.join(self)
        self._requester = requester
        self._clock = clock
        self._listener = listener
        self._lock = threading.RLock()
        self._key: str = ""
        # What name and key were derived from, and give again while it is the same.
        self._made_of: tuple[bytes, bytes] = b"", b""
        self._seal: Seal | None = None
        self._known: int = 0
        self._lease: int = 0
        self.floor: int = 0
        # The token that this process holds, and the fence it has in the store; 0 where it has none.
        self._value: str = ""
        self._fence: int = 0
        # The token that was forgotten last; it may have had no fence yet.
        self._void: str = ""
        # What the store has yet to be told is void.
        self._forget_all = False
        self._forgotten: int = 0
        # What the server has against this client, by another process's word.
        self._refused: OAuthError | None = None
        self._refused_until: float = 0.0
        # Until then a refusal that the store remembers does not count.
        self._forgiven_until: float = -math.inf
        # When the store was last asked.
        self._asked_at: float = 0.0
        # Whether this flight waits for another process: the news that came before are old, nobody knows how old.
        self._waiting = False
        # Locator and authentication of one client serve its wider scopes, too: the first share remembers for all.
        if requester.authentication.memory is None:
            notes = Notes(tier, requester)
            requester.locator.pins, requester.authentication.memory = notes.pinned, notes

    def look(self, held: AccessToken) -> AccessToken | Refused | Busy | None:
        """A token that outlives `held`, why there is none, or None: ask the authorization server yourself."""
        if self._lease:
            return None
        self._prepare()
        tier = self.tier
        # What this process may pass over: the token that it has.
        known = self.fence_of(held)
        told = tier.told(self._key) if self._waiting else None
        # Taken before the look, so that what is told in between is not missed.
        ticket = tier.ticket(self._key)
        while True:
            now = self._clock()
            if self._refused is not None and (wait := self._refused_until - now) > 0 and now >= self._forgiven_until:
                return Refused(self._refused, wait)
            if told is not None and told.fence > known:
                # It came after the last look, so it is taken to be as old as that, however long we slept since.
                entry, told = told, None
            else:
                self._asked_at = self._clock()
                entry = self._claim(known)
            self._waiting = entry is not None and not entry.lease and entry.value is None
            if entry is None:
                return None
            self.floor = max(self.floor, entry.floor)
            if entry.lease:
                self._lease = entry.lease
                tier.keep(self._key, entry.lease)
                return None
            if self._waiting:
                return Busy(ticket, tier.store.poll)
            self._known = known = entry.fence
            token, fence = self._read(entry)
            if token is not None and (token.value == held.value or token.expires_at > held.expires_at):
                self._value, self._fence = token.value, fence
                if token.value != held.value:
                    return token

    def landed(self, token: AccessToken) -> bool:
        """Whether the token that this process asked for may be used: nobody forgot all while it was asked for."""
        self._value, self._fence = token.value, self._lease
        return not self._lease or self._lease > self.floor

    def publish(self, token: AccessToken) -> None:
        """Store the token, with our lease or with one that is free."""
        with self._lock:
            # Where the other of two secrets got it: what the retired one seals is not for this token.
            try:
                self._prepare()
            except Exception:  # a credential that cannot be read any more
                self.leave()
                return
            now = self._clock()
            self._put({"token": _lasting(token, now)}, token.expires_at - now)

    def report(self, error: OAuthError, held: AccessToken, seconds: float) -> None:
        """Tell the fleet what the server has against this client for `seconds`, beside a token that is still valid."""
        now = self._clock()
        valid = {"token": _lasting(held, now), "fence": self.fence_of(held)} if now < held.expires_at else {}
        with self._lock:
            self._put(
                {**valid, "refused": {**remembered(error), "until": seconds}}, max(seconds, held.expires_at - now)
            )

    def forgive(self) -> None:
        """Ask though the fleet remembers a refusal, for as long as that may be."""
        self._forgiven_until = self._clock() + REFUSAL_MEMORY

    def leave(self) -> None:
        """End our lease, if we have one, so that another process may ask; wait for nobody any more."""
        self._waiting = False
        if self._lease:
            key, lease, self._lease = self._key, self._lease, 0
            self.tier.drop(key, lease)
            self.tier.call(key, lambda store: store.release(key, lease))

    def offer(self, token: AccessToken) -> None:
        """Put a valid token into a store that lost it, or never had it, or has one that ends earlier."""
        with self._lock:
            self._asked_at = self._clock()
            key = self._key
            entry = self.tier.call(key, lambda store: store.claim(key, 0, 0.0)) if key else None
            if entry is None:
                return
            stored, _ = self._read(entry)
            if stored is not None and stored.expires_at >= token.expires_at - 1:
                return
            self._known = entry.fence
        if self.fence_of(token) > entry.floor or self.fence_of(token) == 0:
            self.publish(token)

    def fence_of(self, token: AccessToken) -> int:
        """The fence that `token` has in the store, 0 where it has none."""
        return self._fence if token.value == self._value else 0

    def forget(self, token: AccessToken, *, everything: bool) -> None:
        """Void `token`, or everything, for the fleet: at once for us, for the others by `tell`."""
        # Before its fence is looked at: a token that is just being stored gets one, or is seen to be void, or both.
        self._void = token.value
        if everything:
            self._forget_all = True
        else:
            self.floor = self._forgotten = max(self.floor, self.fence_of(token))

    def tell(self) -> None:
        """Have the store know what we know to be void."""
        with self._lock:
            fence = None if self._forget_all else self._forgotten
            if not self._key or fence == 0:
                return
            key = self._key
            floor = self.tier.call(key, lambda store: store.forget(key, fence), patient=True)
            if floor is not None:
                self._forget_all, self._forgotten = False, 0
                self.floor = max(self.floor, floor)

    def after_fork_in_child(self) -> None:
        """Share no lock and no lease with the parent; know what it knew."""
        self._lock = threading.RLock()
        self._lease = 0

    def _prepare(self) -> None:
        """Name and key for the credential as it is now: a rotated one finds nothing, and disturbs nobody."""
        made_of = credential(self._requester.authentication.credentials), self._requester.identity()
        if self._seal is None or made_of != self._made_of:
            self._reseal(made_of)
        if self._forget_all or self._forgotten:
            self.tell()

    def _reseal(self, made_of: tuple[bytes, bytes]) -> None:
        seal = Seal(*made_of, "token")
        # Not while `tell` is at it: the floor of one entry is not another's.
        with self._lock:
            self.leave()
            self.tier.tell(seal.name, self._listener, self._key)
            self._key, self._seal, self._known, self.floor, self._fence = seal.name, seal, 0, 0, 0
            self._made_of = made_of
            self._forgotten = 0

    def _claim(self, known: int) -> Entry | None:
        key, seconds = self._key, self.tier.lease
        return self.tier.call(key, lambda store: store.claim(key, known, seconds))

    def _put(self, record: dict[str, Any], seconds: float) -> None:
        value = record.get("token", {}).get("value")
        if value == self._void:
            self.leave()
            return
        if not self._lease:
            entry = self._claim(self._known)
            if entry is None or not entry.lease:
                return
            self._lease = entry.lease
        assert self._seal is not None  # noqa: S101 - `look` came before
        sealed = self._seal.close(json.dumps({**record, "seconds": seconds}).encode())
        key, lease = self._key, self._lease
        if self.tier.call(key, lambda store: store.write(key, sealed, lease, seconds), patient=True):
            self._known = lease
            if "refused" not in record:
                self._fence = lease
                if value == self._void:
                    # While it was being written.
                    self.floor = self._forgotten = max(self.floor, lease)
                    self.tell()
            self._lease = 0
            self.tier.drop(self._key, lease)
        else:
            self.leave()

    def _read(self, entry: Entry) -> tuple[AccessToken | None, int]:
        """The token of a record, if it is ours and still holds, with its fence; a refusal in it is kept in mind."""
        plain = self._seal.open(entry.value) if self._seal and entry.value is not None else None
        if plain is None:
            return None, 0
        record = json.loads(plain)
        # Counted from before the store was asked, and by its clock: no token looks younger than it is.
        age = record["seconds"] - entry.remaining
        self._refused = None
        if said := record.get("refused"):
            self._refused_until = self._asked_at + said["until"] - age
            self._refused = recalled(said, max(0.0, said["until"] - age))
        fence = record.get("fence", entry.fence)
        token = record.get("token")
        if token is None or fence <= self.floor or token["value"] == self._void or token["expires"] <= age:
            return None, 0
        expires_at = self._asked_at + token["expires"] - age
        # When it is refreshed need not be that careful: the fleet would be early by the time that it waited.
        refresh_at = min(expires_at, self._clock() + token["expires"] - token["window"] - age)
        return AccessToken(token["value"], refresh_at, expires_at, token["scope"]), fence


def _lasting(token: AccessToken, now: float) -> dict[str, Any]:
    return {
        "value": token.value,
        "scope": token.scope,
        "expires": token.expires_at - now,
        "window": token.expires_at - token.refresh_at,
    }
