"""What a client learned of its authorization server, for the processes that come after it: sealed, in the shared store.

Invariant: the first authorization server that was found for a client stays; a later one does not replace it.
"""

from __future__ import annotations

import json
import secrets

from ..client.locator import Pin
from ..client.requester import Requester
from ..stores import NOTHING, Entry, Known
from .sealing import Seal
from .tier import Tier

# Seconds after the last confirmation.
LIFETIME = 90 * 86_400.0


class Notes:
    """The pinned authorization server, and the client authentication method that worked."""

    __slots__ = ("_requester", "_tier")

    def __init__(self, tier: Tier, requester: Requester) -> None:
        self._tier = tier
        self._requester = requester

    def pinned(self, found: Pin) -> Pin:
        """The issuer and token endpoint that the fleet found first for this client; ours where nobody was before."""
        if (seal := self._seal_for("pin")) is None:
            return found
        owner = secrets.token_hex(8)
        entry = self._tier.claim(seal.name, NOTHING, self._tier.lease, owner)
        if entry is None:
            return found
        pinned = _opened(seal, entry)
        if pinned is None or entry.remaining <= LIFETIME / 2:
            self._note(seal, pinned or json.dumps(found).encode(), entry, owner)
        return tuple(json.loads(pinned)) if pinned is not None else found

    def recall_method(self) -> str | None:
        """The client authentication method that another process found to work."""
        if (seal := self._seal_for("method")) is None:
            return None
        entry = self._tier.claim(seal.name, NOTHING, 0.0)
        known = _opened(seal, entry) if entry is not None else None
        return known.decode() if known is not None else None

    def remember_method(self, method: str) -> None:
        """Tell other processes which client authentication method works."""
        if (seal := self._seal_for("method")) is not None:
            owner = secrets.token_hex(8)
            entry = self._tier.claim(seal.name, NOTHING, self._tier.lease, owner)
            if entry is not None:
                self._note(seal, method.encode(), entry, owner)

    def _seal_for(self, use: str) -> Seal | None:
        if (pepper := self._tier.pepper()) is None:
            return None
        credentials = self._requester.authentication.credentials
        return Seal(credentials.material(), self._requester.identity(), use, pepper)

    def _note(self, seal: Seal, plain: bytes, entry: Entry, owner: str) -> None:
        """Keep `plain` for long, in the place of what `entry` holds."""
        key = seal.name
        if not entry.lease and entry.value is not None:
            entry = self._tier.claim(key, Known(entry.generation, entry.fence), 1.0, owner) or entry
        if entry.lease:
            fence, generation, end = entry.lease, entry.generation, entry.now + LIFETIME
            sealed = seal.close(plain, generation, fence, end)
            self._tier.call(key, lambda store: store.write(key, sealed, fence, end, generation))
            self._tier.drop(key, owner)


def _opened(seal: Seal, entry: Entry) -> bytes | None:
    return seal.open(entry.value, entry.generation, entry.fence, entry.expires) if entry.value is not None else None
