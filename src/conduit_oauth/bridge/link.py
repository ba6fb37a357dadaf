"""A session as its gateway sees it (MCP, streamable HTTP): what each request of it says, and the streams of events.

Invariant: A stream that ended is opened again for as long as the session lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import aiohttp

from .events import ServerEvent, TooLargeError, server_events
from .exchange import LAST_EVENT, SESSION, VERSION, Answer, Question
from .gateway import Gateway

logger = logging.getLogger("conduit_oauth.bridge")

# Seconds that the gateway has to end the session.
_GOODBYE = 2.0
# Seconds until a stream that ended is opened again, where the gateway says nothing of it.
RECONNECT, LONGEST_RECONNECT = 1.0, 60.0


class Link:
    """The requests of one session at the gateway's `url`."""

    def __init__(self, url: str, gateway: Gateway) -> None:
        self._url = url
        self._gateway = gateway
        self.session: str | None = None
        self.version: str | None = None

    def question(self, body: bytes, headers: dict[str, str]) -> Question:
        """A message of the client's, with `headers` of its own."""
        return Question("POST", self._url, self._headers() | headers, body)

    async def listen(self, hear: Callable[[ServerEvent], Awaitable[object]]) -> None:
        """Have `hear` take what the gateway says unasked, while there is a session; some have no such stream."""
        last_id: str | None = None
        life: int | None = None
        failures = 0
        while True:
            answer = await self.open_stream(last_id, life)
            pause = RECONNECT
            try:
                if not answer.is_stream:
                    if answer.status < 500 and life is None:
                        return
                    if answer.status < 500 and await self._ping():
                        # There was one, of a session that the gateway had forgotten: now it is begun anew.
                        last_id = life = None
                    failures += 1
                else:
                    failures, life = 0, answer.life
                    async for event in server_events(answer.chunks(), self._gateway.largest):
                        last_id, pause = event.id or last_id, event.retry or pause
                        await hear(event)
            except (aiohttp.ClientError, TooLargeError) as error:
                logger.info("the stream of events broke off (%s)", type(error).__name__)
            finally:
                answer.close()
            await asyncio.sleep(min(pause * 2 ** min(failures, 6), LONGEST_RECONNECT))

    async def open_stream(self, last_id: str | None, life: int | None) -> Answer:
        """A stream of events that goes on after the event `last_id`; in the `life` of the session that it is of."""
        headers = self._headers() | {"accept": "text/event-stream"}
        if last_id is not None:
            headers[LAST_EVENT] = last_id
        return await self._gateway.send(Question("GET", self._url, headers, b"", life))

    async def leave(self) -> None:
        """End the session, so that the gateway keeps nothing of it."""
        if self.session is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                answer = await self._gateway.send(Question("DELETE", self._url, self._headers(), b""))
                answer.close()

    async def _ping(self) -> bool:
        """Ask something that changes nothing, on our own account; whether there was an answer."""
        ping = b'{"jsonrpc":"2.0","id":"conduit-oauth","method":"ping"}'
        answer = await self._gateway.send(Question("POST", self._url, self._headers(), ping))
        await answer.drain()
        return answer.is_success

    def _headers(self) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        if self.session is not None:
            headers[SESSION] = self.session
        if self.version is not None:
            headers[VERSION] = self.version
        return headers
