"""What a client learned of its authorization server, for the processes that come after it: sealed, in the shared store.

Invariant: the first authorization server that was found for a client stays; a later one does not replace it.
"""

from __future__ import annotations

import json

from .locator import Pin
from .requester import Requester
from .sealing import Seal, credential
from .stores import Entry
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
        seal = self._seal_for("pin")
        entry = self._tier.call(seal.name, lambda store: store.claim(seal.name, 0, self._tier.lease))
        if entry is None:
            return found
        pinned = seal.open(entry.value) if entry.value is not None else None
        if pinned is not None and entry.remaining > LIFETIME / 2:
            return tuple(json.loads(pinned))
        self._note(seal, pinned or json.dumps(found).encode(), entry)
        return tuple(json.loads(pinned)) if pinned is not None else found

    def recall_method(self) -> str | None:
        """The client authentication method that another process found to work."""
        seal = self._seal_for("method")
        entry = self._tier.call(seal.name, lambda store: store.claim(seal.name, 0, 0.0))
        known = seal.open(entry.value) if entry is not None and entry.value is not None else None
        return known.decode() if known is not None else None

    def remember_method(self, method: str) -> None:
        """Tell other processes which client authentication method works."""
        seal = self._seal_for("method")
        entry = self._tier.call(seal.name, lambda store: store.claim(seal.name, 0, self._tier.lease))
        if entry is not None:
            self._note(seal, method.encode(), entry)

    def _seal_for(self, use: str) -> Seal:
        return Seal(credential(self._requester.authentication.credentials), self._requester.identity(), use)

    def _note(self, seal: Seal, plain: bytes, entry: Entry) -> None:
        """Keep `plain` for long, in the place of what `entry` holds."""
        lease = entry.lease
        if not lease and entry.value is not None:
            again = self._tier.call(seal.name, lambda store: store.claim(seal.name, entry.fence, 1.0))
            lease = again.lease if again is not None else 0
        self._tier.call(seal.name, lambda store: store.write(seal.name, seal.close(plain), lease, LIFETIME))
