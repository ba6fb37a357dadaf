"""`TokenAuth` for `httpx.Client(auth=…)` and `httpx.AsyncClient(auth=…)`."""

from __future__ import annotations

import httpx

from ._httpx_flow import Bound, HttpxFlow


class _Bound(Bound, httpx.Headers):  # pyright: ignore[reportIncompatibleMethodOverride] - declared for httpx2
    pass


class TokenAuth(HttpxFlow, httpx.Auth):
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    replayable_stream = httpx.ByteStream
    bound_headers = _Bound
