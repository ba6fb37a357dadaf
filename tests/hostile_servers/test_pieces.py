"""What comes in tiny pieces takes the memory of its bytes, not that of as many objects."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import httpx2
import pytest

from conduit_oauth import TokenProvider, TransportError
from conduit_oauth.bridge.events import TooLargeError, server_events
from conduit_oauth.bridge.exchange import Answer, content_of
from conduit_oauth.bridge.gateway import Gateway
from conduit_oauth.bridge.proxy import Proxy
from conduit_oauth.bridge.stdio import split_lines
from conduit_oauth.client import transport
from conduit_oauth.protocol.http import Request
from conduit_oauth.serving.access import Access

# Bytes that each reader takes at most here. As pieces of two, kept in a list, they would take twenty times as many.
LARGEST = 100_000


def pieces(piece: bytes, count: int | None = None) -> Iterator[bytes]:
    """`piece` again and again, an object of its own each time, as from a socket."""
    while count is None or count > 0:
        yield bytes(bytearray(piece))
        count = None if count is None else count - 1


class InPieces:
    """An answer whose body comes in pieces."""

    def __init__(self, piece: bytes, count: int | None = None) -> None:
        self._pieces = pieces(piece, count)

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    # The same for httpx2.
    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def memory_of(work: Callable[[], object]) -> int:
    """The most bytes that `work` holds at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"data:\n", b"data: ab\n", b"ab"])
def test_an_event(piece: bytes) -> None:
    async def read() -> None:
        async for _ in server_events(InPieces(piece).chunks(), LARGEST):
            pass

    def work() -> None:
        with pytest.raises(TooLargeError):
            asyncio.run(read())

    assert memory_of(work) < 8 * LARGEST


def test_a_line_of_a_stdio_client() -> None:
    source = pieces(b"ab", LARGEST // 2)

    def work() -> None:
        (line,) = split_lines(lambda: next(source, b""), LARGEST)
        assert line is not None
        assert len(line) == LARGEST

    assert memory_of(work) < 8 * LARGEST


def test_an_answer_of_a_gateway() -> None:
    answer = cast("Answer", InPieces(b"ab", LARGEST // 2))

    def work() -> None:
        assert len(asyncio.run(content_of(answer, LARGEST))) == LARGEST

    assert memory_of(work) < 8 * LARGEST


def test_a_request_of_a_client_over_http() -> None:
    provider = TokenProvider(token_endpoint="https://as.example/token", client_id="c", client_secret="s")
    source = pieces(b"ab")
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(source), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def serve() -> None:
        async with Gateway(provider, largest=LARGEST) as gateway:
            door = Proxy("https://gateway.example/mcp", gateway, Access(None))
            scope = {"type": "http", "path": "/mcp", "method": "POST", "headers": [], "query_string": b""}
            begun = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            await cast("Callable[..., Awaitable[None]]", door)(scope, receive, send)
            assert tracemalloc.get_traced_memory()[1] - begun < 8 * LARGEST

    with provider:
        memory_of(lambda: asyncio.run(serve()))
    assert sent[0]["status"] == 413


def test_an_answer_of_a_token_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BYTES", LARGEST)

    class Server(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, stream=Body(b"ab"))

    class Body(InPieces, httpx2.SyncByteStream):
        pass

    client = transport.Transport(transport=Server())

    def work() -> None:
        with pytest.raises(TransportError, match="larger than"):
            client.send(Request("POST", "https://as.example/token", {}), 60.0)

    assert memory_of(work) < 8 * LARGEST
