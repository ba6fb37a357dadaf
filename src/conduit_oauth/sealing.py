"""What leaves the process for a store: sealed with a key that only the holder of the client's credential can derive.

HKDF (RFC 5869) gives the entry its name and its AES-GCM key, so another credential finds nothing rather than an error.
Pure but for the nonce; loaded only where a store is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .credentials import Credentials, read_key, read_text

_NONCE = 12


class Seal:
    """Names and seals one kind of entry (`use`) of one client's configuration."""

    __slots__ = ("_cipher", "name")

    def __init__(self, credential: bytes, identity: bytes, use: str) -> None:
        derived = HKDF(SHA256(), 48, salt=identity, info=f"conduit-oauth 1 {use}".encode()).derive(credential)
        self.name = derived[:16].hex()
        self._cipher = AESGCM(derived[16:])

    def close(self, plain: bytes) -> bytes:
        """`plain`, encrypted and bound to the entry's name."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, self.name.encode())

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed, None for anything that was not, or not by us."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self.name.encode())
        except (InvalidTag, ValueError):
            return None


def credential(credentials: Credentials) -> bytes:
    """Everything secret that the client proves itself with, or exchanges, as it is now."""
    parts: list[str] = []
    if credentials.private_key is not None:
        key = read_key(credentials.private_key)
        parts.append(json.dumps(dict(key), sort_keys=True) if isinstance(key, Mapping) else key)
    for name in ("client_secret", "client_assertion", "assertion", "subject_token"):
        if (source := getattr(credentials, name)) is not None:
            parts.append(read_text(source, name))
    if credentials.client_certificate is not None:
        parts.append(read_text(credentials.client_certificate.key, "client_certificate"))
    return json.dumps(parts).encode()


# OpenSSL sets itself up at its first use: here, and not while a fleet waits for a token.
Seal(b"-", b"-", "-").close(b"")
