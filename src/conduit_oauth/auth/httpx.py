"""`TokenAuth` for `httpx.Client(auth=…)` and `httpx.AsyncClient(auth=…)`."""

from __future__ import annotations

import httpx

from ._httpx_flow import HttpxFlow


class TokenAuth(HttpxFlow, httpx.Auth):
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    replayable_stream = httpx.ByteStream
