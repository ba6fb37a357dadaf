"""What leaves the process for a store: sealed with a key that only the holder of the client's credential can derive.

HKDF (RFC 5869) gives the entry its name and its AES-GCM key, so another credential finds nothing rather than an error.
A secret that could be guessed from names is stretched first (scrypt, RFC 7914), once per process, unless the store has
a key of its own. The seal covers what the store says of a value, too: its generation, its fence and its end. Loaded
only where a store is used.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12
# What a random text of 20 letters and digits has, at least.
_ENOUGH_BITS = 90
# The stretched secrets of this process, by digest: each took some 40 ms.
_known: dict[bytes, bytes] = {}
_MOST_KNOWN = 10_000


class Seal:
    """Names and seals one kind of entry (`use`) of one client's configuration; `pepper` is the store's own key."""

    __slots__ = ("_cipher", "_void", "name")

    def __init__(self, credential: bytes, identity: bytes, use: str, pepper: bytes = b"") -> None:
        secret = pepper + credential if pepper or not is_guessable(credential) else _stretched(credential)
        derived = HKDF(SHA256(), 80, salt=identity, info=f"conduit-oauth 2 {use}".encode()).derive(secret)
        self.name = derived[:16].hex()
        self._cipher = AESGCM(derived[16:48])
        self._void = derived[48:]

    def close(self, plain: bytes, generation: str, fence: int, expires: float) -> bytes:
        """`plain`, encrypted and bound to the entry's name and to what the store keeps beside it."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, self._facts(generation, fence, expires))

    def open(self, sealed: bytes, generation: str, fence: int, expires: float) -> bytes | None:
        """What was sealed, None for anything that was not, or not by us, or not with these facts."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._facts(generation, fence, expires))
        except (InvalidTag, ValueError, OverflowError):  # an end that is no number of milliseconds
            return None

    def digest(self, token: str) -> str:
        """What a token is remembered by when it was invalidated."""
        return hmac.new(self._void, token.encode(), "sha256").hexdigest()[:24]

    def _facts(self, generation: str, fence: int, expires: float) -> bytes:
        return f"{self.name} {generation} {fence} {round(expires * 1000)}".encode()


def is_guessable(credential: bytes) -> bool:
    """Whether an attacker can guess it offline: by its length and the variety of its characters."""
    return len(credential) * math.log2(len(set(credential)) or 1) < _ENOUGH_BITS


def _stretched(credential: bytes) -> bytes:
    digest = hashlib.sha256(credential).digest()
    if digest not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[digest] = hashlib.scrypt(credential, salt=b"conduit-oauth 2", n=2**14, r=8, p=1, dklen=32)
    return _known[digest]


# OpenSSL sets itself up at its first use: here, and not while a fleet waits for a token.
Seal(b"-", b"-", "-", b"-").close(b"", "", 0, 0.0)
