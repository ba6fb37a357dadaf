"""The identifiers of kinds of tokens (RFC 8693 §3)."""

from __future__ import annotations

ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
