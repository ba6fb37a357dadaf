"""The development server's access tokens: JWTs (RFC 9068), signed and verified by joserfc."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey


class Mint:
    """Signs tokens with a key of its own, and verifies them."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256", {"kid": uuid.uuid4().hex[:8], "use": "sig", "alg": "ES256"})

    def jwks(self) -> dict[str, Any]:
        """The public key set (RFC 7517 §5)."""
        return {"keys": [self._key.as_dict(private=False)]}

    def sign(self, *, issuer: str, audience: str, client_id: str, scope: str, lifetime: float) -> str:
        """An access token that lives `lifetime` seconds from now."""
        now = time.time()
        claims = {
            "iss": issuer,
            "sub": client_id,
            "aud": audience,
            "client_id": client_id,
            "scope": scope,
            "iat": int(now),
            "exp": math.ceil(now + lifetime),
            # To the fraction of a second: a token of half a second should not live a whole one.
            "ends": now + lifetime,
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": self._key.kid}, claims, self._key)

    def verify(self, token: str, *, issuer: str) -> dict[str, Any] | None:
        """The claims of a valid token of `issuer`, None for any other string."""
        registry = jwt.JWTClaimsRegistry(iss={"essential": True, "value": issuer}, exp={"essential": True}, leeway=0)
        try:
            claims = jwt.decode(token, self._key, algorithms=["ES256"]).claims
            registry.validate(claims)
        except (JoseError, ValueError):
            return None
        return claims if time.time() < claims["ends"] else None
