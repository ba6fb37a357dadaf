"""What makes the token of one client differ from that of another, as a digest: the name that a fleet shares it by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def token_identity(
    token_endpoint: str | None,
    issuer: str | None,
    mcp_url: str | None,
    authorization_server: str | None,
    client_id: str,
    scope: str | None,
    resources: Sequence[str] | None,
    audience: str | None,
    extra_parameters: Sequence[tuple[str, str]],
    bound_to: tuple[str | None, str | None] = (None, None),
    further: Sequence[object] = (),
) -> bytes:
    """The digest of these settings, as they were configured; no secret is in it.

    `bound_to` stands for the DPoP key and the certificate that the tokens are bound to.
    """
    # One resource has the form of the releases before there could be several: their stored tokens stay of use.
    several = resources or ()
    named = sorted(set(several)) if len(several) > 1 else next(iter(several), None)
    parts: list[object] = [
        token_endpoint,
        issuer,
        mcp_url,
        authorization_server,
        client_id,
        None if scope is None else sorted(set(scope.split())),
        False if resources is None else named,
        audience,
        sorted(extra_parameters),
        *bound_to,
        *further,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).digest()
