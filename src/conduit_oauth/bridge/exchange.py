"""A request to the gateway, and its answer.

Invariant: an answer that is read to its end, or closed, leaves nothing open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from ..masking import redact
from ..protocol.http import parse_json_object, readable
from .events import TooLargeError, server_events
from .messages import INTERNAL_ERROR, header_text, table

SESSION = "mcp-session-id"
LAST_EVENT = "last-event-id"
VERSION = "mcp-protocol-version"
# Seconds for a body that is of no interest to the client.
_BODY = 30.0
# Seconds in which a stream of events ends after the answer in it, or is left.
_AFTER_ANSWER = 0.5
# Bytes of an event in it.
_LARGEST_EVENT = 1 << 20
# How much of a refusal is looked at for what it refuses, and why.
_LONGEST_REFUSAL = 4096
# What may be asked again though an answer was lost: it changes nothing, or the same thing to the same value.
_REPEATABLE = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/initialized",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "tools/list",
    }
)

Headers = dict[str, str]


@dataclass(slots=True)
class Question:
    """A request to the gateway; header names in lower case."""

    method: str
    url: str
    headers: Headers
    content: bytes
    # Which life of its session it continues, where it resumes a stream of one.
    life: int | None = None

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message in it; empty where it has none."""
        return (parse_json_object(self.content) or {}) if self.method == "POST" else {}

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again though its answer was lost."""
        return self.method != "POST" or self.message.get("method") in _REPEATABLE


class Answer:
    """The gateway's answer, its body still to come, or one of our own. Close it, unless it was read to its end."""

    __slots__ = ("_body", "_response", "headers", "life", "session", "status")

    def __init__(self, response: aiohttp.ClientResponse | None, *, status: int = 0, body: bytes = b"") -> None:
        self._response = response
        # What is known of the body already.
        self._body = body
        # Which life of its session it is from.
        self.life = 0
        self.status = status if response is None else response.status
        self.headers: Sequence[tuple[bytes, bytes]] = (
            ((b"content-type", b"application/json"),) if response is None else response.raw_headers
        )
        self.session = None if response is None else header_text(response.headers.get(SESSION))

    def header(self, name: bytes) -> str | None:
        """A header's first value; `name` in lower case."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), None)

    @property
    def secrets(self) -> list[str]:
        """What no message repeats: the token that was sent."""
        sent = "" if self._response is None else self._response.request_info.headers.get("Authorization", "")
        return [sent.partition(" ")[2]]

    def shown(self, name: bytes) -> str:
        """What a person is told of a header's value; `name` in lower case."""
        return redact((self.header(name) or "").partition(";")[0], self.secrets)

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return 200 <= self.status < 300

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.is_success and (self.header(b"content-type") or "").lower().startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises `aiohttp.ClientError` where it breaks off."""
        if self._body:
            yield self._body
        if self._response is not None:
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def peek(self, size: int) -> bytes:
        """The first bytes of the body, which stay in it; `size` of them at least, where there are so many."""
        if self._response is not None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(_BODY):
                    while len(self._body) < size and (chunk := await self._response.content.readany()):
                        self._body += chunk
        return self._body

    async def drain(self) -> None:
        """Read it to its end, so that whoever answers is not taken to have been left; leave what has no end.

        A stream of events may go on after the answer that it was begun for.
        """
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, TooLargeError):
            async with asyncio.timeout(_BODY) as limit:
                if self.is_stream:
                    async for event in server_events(self.chunks(), _LARGEST_EVENT):
                        if {"result", "error"} & (parse_json_object(event.data) or {}).keys():
                            limit.reschedule(asyncio.get_running_loop().time() + _AFTER_ANSWER)
                            break
                async for _ in self.chunks():
                    pass
        self.close()

    def close(self) -> None:
        """Be done with it, whether it was read or not."""
        if self._response is not None:
            self._response.close()

    def rename(self, session: str) -> None:
        """Call the session by the name that the client knows."""
        self.headers = [
            (name, session.encode() if name.lower() == SESSION.encode() else value) for name, value in self.headers
        ]


async def tells_of_no_session(answer: Answer) -> bool:
    """Whether a server says that it knows of no such session, as one that was restarted does.

    By 404 (MCP, transports), or as the SDK's examples do, by 400 and words.
    """
    if answer.status != 400:
        return answer.status == 404
    told = parse_json_object(await answer.peek(_LONGEST_REFUSAL)) or {}
    error = told.get("error")
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    return isinstance(message, str) and "session" in message.lower()


async def content_of(answer: Answer, largest: int) -> bytes:
    """A whole body. Raises `TooLargeError`."""
    content = bytearray()
    async for chunk in answer.chunks():
        content += chunk
        if len(content) > largest:
            raise TooLargeError
    return bytes(content)


async def reason_of(answer: Answer) -> str:
    """The status of a refusal, and what it says for people."""
    try:
        return f"{answer.status}{reason_in(await answer.peek(_LONGEST_REFUSAL), answer.secrets)}"
    finally:
        answer.close()


def reason_in(content: bytes, secrets: Iterable[str]) -> str:
    """What a refusal says for people: its `error` and `error_description`, else its first characters; no token."""
    text = readable(content[:_LONGEST_REFUSAL]) or ""
    try:
        body = table(json.loads(text))
    except (ValueError, RecursionError):
        body = {}
    said = [value for name in ("error", "error_description", "message") if isinstance(value := body.get(name), str)]
    is_cut = not said and len(content) >= _LONGEST_REFUSAL
    reason = redact(": ".join(said) or text, secrets, is_cut=is_cut)
    return f" ({reason})" if reason else ""


def failure(question: Question, problem: str, status: int = 502) -> Answer:
    """What the client is told where the gateway itself told nothing of use."""
    error = {"code": INTERNAL_ERROR, "message": f"conduit-oauth bridge: {problem}"}
    body = json.dumps({"jsonrpc": "2.0", "id": question.message.get("id"), "error": error}).encode()
    return Answer(None, status=status, body=body)
