"""What the development server is told to do, and what it saw: clients, faults on demand, the log of token requests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..protocol.grant import is_scope
from ..protocol.urls import parse_url

Malformation = Literal["html", "truncated", "array", "no_token", "bad_token", "bad_expires_in"]

# What a broken server, or a proxy in front of a good one, has been seen to answer with status 200.
MALFORMED: dict[str, bytes] = {
    "html": b"<html><body>Please sign in</body></html>",
    "truncated": b'{"access_token": "abc',
    "array": b"[]",
    "no_token": b'{"token_type": "Bearer", "expires_in": 3600}',
    "bad_token": b'{"access_token": "a b\\r\\nX-Injected: 1", "token_type": "Bearer"}',
    "bad_expires_in": b'{"access_token": "abc", "token_type": "Bearer", "expires_in": -1}',
}


# Of seconds, and of requests that go wrong.
_MOST = 1e9


@dataclass(frozen=True, slots=True)
class Fault:
    """How the next `count` token requests go wrong, in one of four ways.

    An error `status`, a `malformed` body, a connection that is dropped half-way, or a token revoked at its birth.
    """

    count: int = 1
    status: int | None = None
    retry_after: float | None = None
    body: str = ""
    malformed: Malformation | None = None
    drop: bool = False
    revoked: bool = False

    def __post_init__(self) -> None:
        if (self.status is not None) + (self.malformed is not None) + self.drop + self.revoked != 1:
            raise ValueError("a fault has exactly one of status, malformed, drop and revoked")
        if self.malformed is not None and self.malformed not in MALFORMED:
            raise ValueError(f"malformed is one of {', '.join(MALFORMED)}")
        if not isinstance(self.count, int) or not 1 <= self.count < _MOST:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("count is how many requests go wrong")
        if self.status is not None and not (isinstance(self.status, int) and 200 <= self.status < 600):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("status is one of HTTP, from 200 to 599")
        if self.retry_after is not None:
            _seconds(self.retry_after, "retry_after")
        if not isinstance(self.body, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("body is a string")


@dataclass(slots=True)
class Control:
    """The server's switches. `latency` and `lifetime` are seconds; a held server answers no token request.

    Without `metadata` it publishes none, and its challenges point to none.
    """

    clients: dict[str, str]
    scopes: tuple[str, ...] = ("mcp:read", "mcp:write")
    latency: float = 0.0
    lifetime: float = 3600.0
    metadata: bool = True
    # Resource servers of the user's own: by URL, the scopes that each has.
    resources: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    faults: deque[Fault] = field(default_factory=deque[Fault])
    token_requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    revoked: set[str] = field(default_factory=set[str])
    issued: list[str] = field(default_factory=list[str])
    released: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.released.set()

    def all_scopes(self) -> list[str]:
        """The scopes of every resource."""
        return list(dict.fromkeys((*self.scopes, *(scope for each in self.resources.values() for scope in each))))

    def next_fault(self) -> Fault | None:
        """The fault due for this request, counted down."""
        if not self.faults:
            return None
        fault = self.faults.popleft()
        if fault.count > 1:
            self.faults.appendleft(dataclasses.replace(fault, count=fault.count - 1))
        return fault

    def change(self, order: dict[str, Any]) -> None:
        """Carry out an order of the admin endpoint.

        Raises `ValueError`, `TypeError` or `ConfigurationError` for one that makes no sense.
        """
        known = {"latency", "lifetime", "metadata", "clients", "resources", "faults", "hold", "revoke"}
        unknown = order.keys() - known
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        faults = [Fault(**fault) for fault in order.get("faults", [])]
        latency = _seconds(order.get("latency", self.latency), "latency")
        lifetime = _seconds(order.get("lifetime", self.lifetime), "lifetime")
        clients = _object(order, "clients")
        if not all(isinstance(secret, str) for secret in clients.values()):
            raise TypeError("clients has the secret of each, a string")
        resources: dict[str, tuple[str, ...]] = {}
        for url, scopes in _object(order, "resources").items():
            parse_url(url, "resource")
            if not isinstance(scopes, list | tuple) or not all(map(is_scope, cast("list[Any]", scopes))):
                raise TypeError("resources has the scopes of each, a list of strings")
            resources[url] = tuple(cast("list[str]", scopes)) or self.scopes
        revoked = order.get("revoke", "")
        if not isinstance(revoked, str):
            raise TypeError("revoke is a token, or all")
        # Nothing of an order that makes no sense is carried out.
        self.latency, self.lifetime = latency, lifetime
        self.metadata = bool(order.get("metadata", self.metadata))
        self.clients.update(clients)
        self.resources.update(resources)
        if "faults" in order:
            self.faults = deque(faults)
        if "hold" in order:
            (self.released.clear if order["hold"] else self.released.set)()
        if "revoke" in order:
            self.revoked.update(self.issued if revoked == "all" else [revoked])

    async def log(self, entry: dict[str, Any]) -> None:
        """Note a token request, and wake who waits for it."""
        async with self.arrived:
            self.token_requests.append(entry)
            self.arrived.notify_all()

    async def wait_for_requests(self, count: int) -> None:
        """Wait until `count` token requests have come in."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.token_requests) >= count)


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError(f"{name} is a number of seconds")
    return float(value)


def _object(order: dict[str, Any], name: str) -> dict[str, Any]:
    value = order.get(name, {})
    if not isinstance(value, dict):
        raise TypeError(f"{name} is an object")
    return cast("dict[str, Any]", value)
