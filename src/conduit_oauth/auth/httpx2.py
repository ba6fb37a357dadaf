"""`TokenAuth` for `httpx2.Client(auth=…)` and `httpx2.AsyncClient(auth=…)`, and so for the official MCP SDK."""

from __future__ import annotations

import httpx2

from ._httpx_flow import Bound, HttpxFlow


class _Bound(Bound, httpx2.Headers):
    pass


class TokenAuth(HttpxFlow, httpx2.Auth):
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    replayable_stream = httpx2.ByteStream
    bound_headers = _Bound
