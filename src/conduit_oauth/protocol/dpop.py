"""Proof of possession (RFC 9449): a signed proof for each request, bound to the key that the token is bound to.

Pure but for the key's randomness: the time is an argument. Nonces of the authorization server and of each resource
server are kept apart (§8, §9), by origin.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..clock import DATED_BACK
from ..identity.sources import KeySource, Source, files_of, read_key
from .urls import origin_of

if TYPE_CHECKING:
    from .jose import Key

# RFC 9449 §8.1, bounded: what comes from a server goes into a header.
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,512}")
_MAX_ORIGINS = 256


class Dpop:
    """One key, configured or made here, and the nonces that servers asked for last."""

    __slots__ = ("_key", "_nonces", "_password", "_source", "_supported")

    def __init__(self, source: KeySource | None, password: Source | None = None) -> None:
        self._source = source
        self._password = password
        self._key: Key | None = None
        self._nonces: dict[tuple[bool, str], str] = {}
        # What the authorization server (False) and the resource (True) publish of the algorithms of proofs.
        self._supported: dict[bool, tuple[str, ...]] = {}

    def obey(self, server: tuple[str, ...] | None, resource: tuple[str, ...] | None) -> None:
        """Sign by these algorithms from now on: `dpop_signing_alg_values_supported` of both (§5.1, RFC 9728 §2)."""
        listed = {False: server, True: resource}
        self._supported = {role: algorithms for role, algorithms in listed.items() if algorithms is not None}

    def proof(self, method: str, url: str, *, wall_now: float, access_token: str | None = None) -> str:
        """A fresh proof for one request (§4.2); with `access_token`, for its use at a resource server (`ath`, §7)."""
        from .jose import sign_proof

        parts = urlsplit(url)
        claims: dict[str, Any] = {
            "jti": uuid.uuid4().hex,
            "htm": method,
            "htu": parts._replace(query="", fragment="").geturl(),
            "iat": int(wall_now) - DATED_BACK,
        }
        if access_token is not None:
            digest = hashlib.sha256(access_token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if nonce := self._nonces.get((access_token is not None, origin_of(parts))):
            claims["nonce"] = nonce
        # What a resource does not say is guessed from its authorization server.
        supported = self._supported.get(access_token is not None) or self._supported.get(False)
        return sign_proof(self._signing_key(), claims, supported)

    @property
    def configured(self) -> bool:
        """Whether the key was given, so that other processes have it, too."""
        return self._source is not None

    def files(self) -> tuple[Path, ...]:
        """The files that the key is in."""
        return files_of(self._source, self._password)

    def thumbprint(self) -> str:
        """The key's SHA-256 thumbprint (RFC 7638), which the tokens are bound to."""
        return self._signing_key().thumbprint()

    def identity(self) -> str:
        """Differs where tokens are bound to another key. Makes no key: which type suits is known after discovery."""
        return self.thumbprint() if self.configured else f"made here {id(self)}"

    def remember(self, url: str, nonce: str | None, *, resource: bool) -> bool:
        """Take in the `DPoP-Nonce` of an answer from `url`; whether there is one. Another request may have had it."""
        if nonce is None or not _NONCE.fullmatch(nonce):
            return False
        place = resource, origin_of(urlsplit(url))
        if len(self._nonces) >= _MAX_ORIGINS and place not in self._nonces:
            self._nonces.clear()
        self._nonces[place] = nonce
        return True

    def _signing_key(self) -> Key:
        from .jose import generate_key, load_key

        # Kept, unlike other credentials: a token is of no use with another key than it was issued to.
        if self._key is None:
            self._key = (
                generate_key(self._is_accepted)
                if self._source is None
                else load_key(read_key(self._source, "dpop"), "dpop", self._password)
            )
        return self._key

    def _is_accepted(self, algorithm: str) -> bool:
        return all(algorithm in listed for listed in self._supported.values())
