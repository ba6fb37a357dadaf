"""One session of a client that sends and reads lines, at a gateway that speaks HTTP (MCP, streamable HTTP).

Invariants: a message passes as it is, both ways, and is parsed only to know where it belongs. Every request has an
answer, whatever the client or the gateway sends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from ..masking import mask
from ..protocol.http import location_of
from .events import ServerEvent, TooLargeError, server_events
from .exchange import Answer, Question, content_of, reason_in, reason_of
from .gateway import Gateway
from .link import LONGEST_RECONNECT, RECONNECT, Link
from .messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    Message,
    RequestId,
    fault_of,
    header_text,
    id_of,
    parse,
    table,
)
from .mirror import MIRRORED, Mirror

logger = logging.getLogger("conduit_oauth.bridge")

# Seconds that answers are waited for after the client sends no more.
LAST_WORDS = 10.0
# Seconds for which a message without an answer holds up those that follow it.
_IN_ORDER = 5.0


@dataclass(slots=True)
class _Asked:
    """A request of the client's that has no answer yet."""

    method: str
    # Of a revision without a handshake, in which leaving an answer cancels its request.
    modern: bool
    task: asyncio.Task[None] | None = None


class LineSession:
    """One session between a client and the gateway at `url`; `write` gives the client one line."""

    def __init__(self, url: str, gateway: Gateway, write: Callable[[bytes], Awaitable[object]]) -> None:
        self._link = Link(url, gateway)
        self._gateway = gateway
        self._write_line = write
        self._mirror = Mirror()
        # By type and value: the request 1 is not the request "1".
        self._asked: dict[tuple[type, RequestId], _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False

    async def run(self, lines: AsyncIterator[bytes | None]) -> None:
        """Pass on each line that the client sends, None for one that is too long; end with the last answer."""
        try:
            async for line in lines:
                if line is None:
                    await self._refuse(None, INVALID_REQUEST, self._too_large("a message"))
                elif line.strip():
                    await self._take(line)
            if waiting := [asked.task for asked in self._asked.values() if asked.task is not None]:
                await asyncio.wait(waiting, timeout=LAST_WORDS)
            unanswered = [request_id for _, request_id in self._asked]
            # First, so that none has two answers.
            await self._cancel(waiting)
            for request_id in unanswered:
                await self._refuse(request_id, INTERNAL_ERROR, f"no answer within {LAST_WORDS:g} s of the end of input")
        finally:
            await self._cancel(self._tasks)
            await self._link.leave()

    async def _cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        ended = [*tasks]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def _take(self, line: bytes) -> None:
        """A message of the client's. A request is left to a task; what has no answer goes in order."""
        try:
            message: object = parse(line.decode(), strict=True)
        except (ValueError, RecursionError):
            await self._refuse(None, PARSE_ERROR, "that is no JSON")
            return
        fault = fault_of(message)
        if fault is not None:
            await self._refuse(id_of(message), INVALID_REQUEST, fault)
            return
        message = cast("Message", message)
        method, request_id = message.get("method"), id_of(message)
        mirrored = self._mirror.headers(message)
        question = self._link.question(line, mirrored)
        if method is None or request_id is None:
            if not (method == "notifications/cancelled" and self._cancelled(message)):
                told = self._spawn(self._notify(question, method))
                # What follows may rely on it; a gateway that takes its time holds up nothing else.
                await asyncio.wait([told], timeout=_IN_ORDER)
            return
        asked = _Asked(method, modern=bool(mirrored))
        self._asked[type(request_id), request_id] = asked
        asked.task = self._spawn(self._ask(question, request_id, asked))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancelled(self, message: Message) -> bool:
        """Whether the request that it names was cancelled by leaving its answer."""
        named = table(message.get("params")).get("requestId")
        if not isinstance(named, RequestId):
            return False
        asked = self._asked.get((type(named), named))
        if asked is None or not asked.modern or asked.task is None:
            return False
        asked.task.cancel()
        return True

    async def _notify(self, question: Question, method: object) -> None:
        """Send what has no answer."""
        answer = await self._gateway.send(question)
        if not answer.is_success:
            reason = await reason_of(answer)
            logger.warning("the gateway does not take %s: %s", mask(str(method or "an answer"), ()), reason)
        else:
            await answer.drain()
        if method == "notifications/initialized" and answer.is_success and self._link.session and not self._listening:
            self._listening = True
            self._spawn(self._link.listen(self._pass_unasked))

    async def _ask(self, question: Question, request_id: RequestId, asked: _Asked) -> None:
        """Send a request, and give the client its answer."""
        try:
            await self._answered(question, request_id, asked)
        except aiohttp.ClientError as error:
            problem = f"the answer was lost on the way ({type(error).__name__})"
            await self._refuse(request_id, INTERNAL_ERROR, problem)
        except TooLargeError:
            await self._refuse(request_id, INTERNAL_ERROR, self._too_large("an answer"))
        except Exception as error:  # a fault of ours must not leave the client waiting
            logger.error("a request failed\n%s", traceback.format_exc())
            await self._refuse(request_id, INTERNAL_ERROR, f"the bridge failed ({type(error).__name__})")
        finally:
            # A client may have used its id again meanwhile.
            if self._asked.get((type(request_id), request_id)) is asked:
                del self._asked[type(request_id), request_id]

    async def _answered(self, question: Question, request_id: RequestId, asked: _Asked) -> None:
        answer = await self._gateway.send(question)
        try:
            if asked.method == "initialize" and answer.is_success and answer.session:
                self._link.session = answer.session
            if (answer.header(b"content-encoding") or "identity").strip().lower() != "identity":
                coding = answer.shown(b"content-encoding")
                problem = f"the gateway answered {answer.status}, compressed ({coding}) unasked"
                await self._refuse(request_id, INTERNAL_ERROR, problem)
                return
            if answer.is_stream:
                await self._answered_by_events(answer, request_id, asked)
                return
            content = await content_of(answer, self._gateway.largest)
            if await self._pass_back(content, request_id, asked):
                return
        finally:
            answer.close()
        problem = f"the gateway answered {answer.status}"
        if answer.is_success:
            problem += f" with {answer.shown(b'content-type') or 'nothing'}, which is no answer to a request"
        elif 300 <= answer.status < 400:
            location = location_of(question.url, answer.header(b"location") or "", answer.secrets)
            problem += f", to {location or 'nowhere'}"
        else:
            problem += reason_in(content, answer.secrets)
        await self._refuse(request_id, INTERNAL_ERROR, problem)

    async def _pass_back(self, content: bytes, request_id: RequestId, asked: _Asked) -> bool:
        """Give the client `content`, if it is an answer to its request."""
        try:
            text = content.decode("utf-8-sig")
            message: object = parse(text)
        except RecursionError:
            # Too deep to be looked at; the client may be able to.
            await self._write(content)
            return True
        except ValueError:
            return False
        if not isinstance(message, dict):
            return False
        message = cast("Message", message)
        if "result" not in message and not isinstance(message.get("error"), dict):
            return False
        self._heard(message, asked, text)
        if message.get("id") != request_id:
            # A server that could not tell whose request it was answers with null.
            await self._write(json.dumps({**message, "id": request_id}).encode())
        else:
            await self._write(text.encode())
        return True

    def _heard(self, message: Message, asked: _Asked, text: str) -> None:
        """Take note of an answer, before the client has it."""
        result = table(message.get("result"))
        if asked.method == "initialize":
            self._link.version = header_text(result.get("protocolVersion"))
        elif asked.method == "tools/list" and MIRRORED in text:
            self._mirror.hear_tools(result.get("tools"))

    async def _answered_by_events(self, answer: Answer, request_id: RequestId, asked: _Asked) -> None:
        """Pass on what comes before the answer, and the answer; a stream that breaks off is resumed where it can be."""
        last_id: str | None = None
        retry = RECONNECT
        while True:
            try:
                async for event in server_events(answer.chunks(), self._gateway.largest):
                    last_id, retry = event.id or last_id, event.retry or retry
                    if await self._pass_event(event, request_id, asked):
                        return
                problem = "ended without an answer"
            except aiohttp.ClientError as error:
                problem = f"broke off ({type(error).__name__})"
            finally:
                answer.close()
            if last_id is None:
                await self._refuse(request_id, INTERNAL_ERROR, f"the stream of the answer {problem}")
                return
            await asyncio.sleep(min(retry, LONGEST_RECONNECT))
            answer = await self._link.open_stream(last_id, answer.life)
            if not answer.is_stream:
                problem = f"the stream of the answer {problem}, and is not resumed ({answer.status})"
                answer.close()
                await self._refuse(request_id, INTERNAL_ERROR, problem)
                return

    async def _pass_event(self, event: ServerEvent, request_id: RequestId | None, asked: _Asked | None) -> bool:
        """Give the client what is in an event; whether it was the answer to its request."""
        if event.event != "message" or not event.data.strip():
            return False
        try:
            message: object = parse(event.data.decode())
        except RecursionError:
            await self._write(event.data)
            return asked is not None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            logger.warning("the gateway sent an event that is no message")
            return False
        message = cast("Message", message)
        if asked is not None and request_id is not None and "method" not in message:
            return await self._pass_back(event.data, request_id, asked)
        await self._write(event.data)
        return False

    async def _pass_unasked(self, event: ServerEvent) -> None:
        await self._pass_event(event, None, None)

    def _too_large(self, what: str) -> str:
        return f"{what} has {self._gateway.largest} bytes at most (--largest-message)"

    async def _refuse(self, request_id: RequestId | None, code: int, problem: str) -> None:
        error = {"code": code, "message": f"conduit-oauth bridge: {problem}"}
        await self._write(json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode())

    async def _write(self, message: bytes) -> None:
        """One message on one line. JSON has line breaks between its parts only."""
        flat = message.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b" ").replace(b"\n", b" ").strip()
        await self._write_line(flat + b"\n")
