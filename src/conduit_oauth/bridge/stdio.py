"""The bridge as the `command` of an MCP client's configuration: its stdin and stdout are one session of the gateway.

Invariants: a message passes as it is, both ways, and is parsed only to know where it belongs. Every request has an
answer, whatever the client or the gateway sends. What the HTTP transport wants beside a message (headers that mirror
it) is derived from the messages themselves, for either protocol revision.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from ..errors import mask
from .events import ServerEvent, TooLargeError, server_events
from .gateway import LARGEST_MESSAGE, SESSION, VERSION, Answer, Gateway, Question

logger = logging.getLogger("conduit_oauth.bridge")

# Seconds that answers are waited for after the client closed our stdin.
LAST_WORDS = 10.0
# Seconds that the gateway has to end the session.
_GOODBYE = 2.0
# Seconds until a stream that ended is opened again, where the gateway says nothing of it.
_RECONNECT, _LONGEST_RECONNECT = 1.0, 60.0
_PARSE_ERROR, _INVALID_REQUEST, _INTERNAL_ERROR = -32700, -32600, -32603
_VERSION_IN_MESSAGE = "io.modelcontextprotocol/protocolVersion"
# How much of an answer that is no message is looked at for a reason.
_LONGEST_REASON = 4096

Message = dict[str, Any]
# What names a request.
RequestId = str | int | float


@dataclass(slots=True)
class _Asked:
    """A request of the client's that has no answer yet."""

    method: str
    # Of a revision without a handshake, in which leaving an answer cancels its request.
    modern: bool
    task: asyncio.Task[None] | None = None


class Door:
    """One session between the client at our stdin and stdout, and the gateway at `url`."""

    def __init__(self, url: str, gateway: Gateway) -> None:
        self._url = url
        self._gateway = gateway
        self._session: str | None = None
        self._version: str | None = None
        self._mirror = Mirror()
        # By type and value: the request 1 is not the request "1".
        self._asked: dict[tuple[type, RequestId], _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def run(self, lines: AsyncIterator[bytes | None]) -> None:
        """Pass on each line that the client sends, None for one that is too long; end with the last answer."""
        try:
            async for line in lines:
                if line is None:
                    await self._refuse(None, _INVALID_REQUEST, f"a message has {LARGEST_MESSAGE} bytes at most")
                elif line.strip():
                    await self._take(line)
            if waiting := [asked.task for asked in self._asked.values() if asked.task is not None]:
                await asyncio.wait(waiting, timeout=LAST_WORDS)
            for (_, request_id), _asked in list(self._asked.items()):
                await self._refuse(
                    request_id, _INTERNAL_ERROR, f"no answer within {LAST_WORDS:g} s of the end of input"
                )
        finally:
            tasks = [task for task in (*self._tasks, self._stream) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()

    async def _take(self, line: bytes) -> None:
        """A message of the client's. A request is left to a task; what has no answer goes in order."""
        try:
            message: object = json.loads(line.decode())
        except (ValueError, RecursionError):
            await self._refuse(None, _PARSE_ERROR, "that is no JSON")
            return
        fault = _fault(message)
        if fault is not None:
            await self._refuse(_id_of(message), _INVALID_REQUEST, fault)
            return
        message = cast("Message", message)
        method, request_id = message.get("method"), _id_of(message)
        headers = self._headers() | self._mirror.headers(message)
        question = Question("POST", self._url, headers, line)
        if method is None or request_id is None:
            if not (method == "notifications/cancelled" and self._cancelled(message)):
                await self._notify(question, method)
            return
        asked = _Asked(method, VERSION in headers and _version_in(message) is not None)
        key = type(request_id), request_id
        self._asked[key] = asked
        asked.task = self._spawn(self._ask(question, request_id, asked))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _headers(self) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        if self._session is not None:
            headers[SESSION] = self._session
        if self._version is not None:
            headers[VERSION] = self._version
        return headers

    def _cancelled(self, message: Message) -> bool:
        """Whether the request that it names was cancelled by leaving its answer."""
        named = _table(message.get("params")).get("requestId")
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
            reason = await _reason(answer)
            logger.warning("the gateway does not take %s: %s", mask(str(method or "an answer"), ()), reason)
        else:
            await answer.drain()
        if method == "notifications/initialized" and answer.is_success and self._session and self._stream is None:
            self._stream = asyncio.create_task(self._listen())

    async def _ask(self, question: Question, request_id: RequestId, asked: _Asked) -> None:
        """Send a request, and give the client its answer."""
        try:
            await self._answered(question, request_id, asked)
        except aiohttp.ClientError as error:
            problem = f"the answer was lost on the way ({type(error).__name__})"
            await self._refuse(request_id, _INTERNAL_ERROR, problem)
        except TooLargeError:
            problem = f"the answer has more than {LARGEST_MESSAGE} bytes"
            await self._refuse(request_id, _INTERNAL_ERROR, problem)
        except asyncio.CancelledError:
            # By the client, who wants no answer any more, or by the end.
            raise
        except Exception as error:  # a fault of ours must not leave the client waiting
            logger.error("a request failed\n%s", traceback.format_exc())
            await self._refuse(request_id, _INTERNAL_ERROR, f"the bridge failed ({type(error).__name__})")
        finally:
            self._asked.pop((type(request_id), request_id), None)

    async def _answered(self, question: Question, request_id: RequestId, asked: _Asked) -> None:
        answer = await self._gateway.send(question)
        try:
            if asked.method == "initialize" and answer.is_success and answer.session:
                self._session = answer.session
            kind = (answer.header(b"content-type") or "").partition(";")[0].strip().lower()
            if answer.is_success and kind == "text/event-stream":
                await self._answered_by_events(answer, request_id, asked)
                return
            content = await _content(answer)
            if await self._pass_back(content, request_id, asked):
                return
        finally:
            answer.close()
        problem = f"the gateway answered {answer.status}"
        if answer.is_success:
            problem += f" with {mask(kind, ()) or 'nothing'}, which is no answer to a request"
        elif 300 <= answer.status < 400:
            problem += f", to {mask(answer.header(b'location') or 'nowhere', ())}"
        else:
            problem += _reason_in(content)
        await self._refuse(request_id, _INTERNAL_ERROR, problem)

    async def _pass_back(self, content: bytes, request_id: RequestId, asked: _Asked) -> bool:
        """Give the client `content`, if it is an answer to its request."""
        try:
            text = content.decode("utf-8-sig")
            message: object = json.loads(text)
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
        self._heard(message, asked)
        if message.get("id") != request_id:
            # A server that could not tell whose request it was answers with null.
            await self._write(json.dumps({**message, "id": request_id}).encode())
        else:
            await self._write(text.encode())
        return True

    def _heard(self, message: Message, asked: _Asked) -> None:
        """Take note of an answer, before the client has it."""
        result = _table(message.get("result"))
        if asked.method == "initialize":
            version = result.get("protocolVersion")
            self._version = (
                version if isinstance(version, str) and version.isascii() and version.isprintable() else None
            )
        elif asked.method == "tools/list":
            self._mirror.hear_tools(result.get("tools"))

    async def _answered_by_events(self, answer: Answer, request_id: RequestId, asked: _Asked) -> None:
        """Pass on what comes before the answer, and the answer; a stream that breaks off is resumed where it can be."""
        last_id: str | None = None
        retry = _RECONNECT
        while True:
            try:
                async for event in server_events(answer.chunks(), LARGEST_MESSAGE):
                    last_id, retry = event.id or last_id, event.retry or retry
                    if await self._pass_event(event, request_id, asked):
                        return
                problem = "ended without an answer"
            except aiohttp.ClientError as error:
                problem = f"broke off ({type(error).__name__})"
            finally:
                answer.close()
            if last_id is None:
                await self._refuse(request_id, _INTERNAL_ERROR, f"the stream of the answer {problem}")
                return
            await asyncio.sleep(min(retry, _LONGEST_RECONNECT))
            answer = await self._open_stream(last_id)
            if not _is_stream(answer):
                problem = f"the stream of the answer {problem}, and is not resumed ({answer.status})"
                answer.close()
                await self._refuse(request_id, _INTERNAL_ERROR, problem)
                return

    async def _pass_event(self, event: ServerEvent, request_id: RequestId | None, asked: _Asked | None) -> bool:
        """Give the client what is in an event; whether it was the answer to its request."""
        if event.event != "message" or not event.data.strip():
            return False
        try:
            message: object = json.loads(event.data.decode())
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

    async def _listen(self) -> None:
        """Pass on what the gateway says unasked, for as long as there is a session; some have no such stream."""
        last_id: str | None = None
        failures = 0
        while True:
            answer = await self._open_stream(last_id)
            pause = _RECONNECT
            try:
                if not _is_stream(answer):
                    if answer.status < 500:
                        return
                    failures += 1
                else:
                    failures = 0
                    async for event in server_events(answer.chunks(), LARGEST_MESSAGE):
                        last_id, pause = event.id or last_id, event.retry or pause
                        await self._pass_event(event, None, None)
            except (aiohttp.ClientError, TooLargeError) as error:
                logger.info("the stream of events broke off (%s)", type(error).__name__)
            finally:
                answer.close()
            await asyncio.sleep(min(pause * 2**failures, _LONGEST_RECONNECT))

    async def _open_stream(self, last_id: str | None) -> Answer:
        headers = self._headers() | {"accept": "text/event-stream"}
        if last_id is not None:
            headers["last-event-id"] = last_id
        return await self._gateway.send(Question("GET", self._url, headers, b""))

    async def _leave(self) -> None:
        """End the session, so that the gateway keeps nothing of it."""
        if self._session is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                answer = await self._gateway.send(Question("DELETE", self._url, self._headers(), b""))
                answer.close()

    async def _refuse(self, request_id: RequestId | None, code: int, problem: str) -> None:
        error = {"code": code, "message": f"conduit-oauth bridge: {problem}"}
        await self._write(json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode())

    async def _write(self, message: bytes) -> None:
        """One message on one line. JSON has line breaks between its parts only."""
        line = message.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b" ").replace(b"\n", b" ").strip() + b"\n"
        async with self._writing:
            # On a thread: a client that does not read holds up nobody else.
            await asyncio.to_thread(_put, line)


class Mirror:
    """The headers that mirror a message, in the revision in which each message says its version."""

    def __init__(self) -> None:
        # Parameters of tools that have a header each.
        self._tools: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, message: Message) -> dict[str, str]:
        """For a message of the client's; none in a revision with a handshake."""
        version = _version_in(message)
        if version is None:
            return {}
        from mcp.shared import inbound

        method, parameters = str(message.get("method")), _table(message.get("params"))
        headers = {VERSION: version, inbound.MCP_METHOD_HEADER: inbound.encode_header_value(method)}
        name = parameters.get(inbound.NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            with contextlib.suppress(UnicodeEncodeError):
                headers[inbound.MCP_NAME_HEADER] = inbound.encode_header_value(name)
                if method == "tools/call" and name in self._tools:
                    headers |= inbound.mcp_param_headers(self._tools[name], _table(parameters.get("arguments")))
        return headers

    def hear_tools(self, tools: object) -> None:
        """Note which parameters of these tools are mirrored."""
        if not isinstance(tools, list) or not any("x-mcp-header" in str(tool) for tool in cast("list[object]", tools)):
            return
        from mcp.shared import inbound

        for tool in cast("list[object]", tools):
            name, schema = _table(tool).get("name"), _table(tool).get("inputSchema")
            if isinstance(name, str) and inbound.find_invalid_x_mcp_header(schema) is None:
                self._tools[name] = inbound.x_mcp_header_map(schema)


async def serve_stdio(url: str, gateway: Gateway) -> None:
    """Bridge stdin and stdout to the gateway at `url`, until stdin ends or SIGTERM comes."""
    loop = asyncio.get_running_loop()
    # Few: a client that is faster than its gateway waits.
    lines: asyncio.Queue[bytes | EOFError | None] = asyncio.Queue(16)

    def read() -> None:
        # Not by sys.stdin, whose lock a thread that waits for input would keep beyond the end of the process.
        for line in _lines(sys.stdin.fileno()):
            asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
        asyncio.run_coroutine_threadsafe(lines.put(EOFError()), loop).result()

    async def given() -> AsyncIterator[bytes | None]:
        while not isinstance(line := await lines.get(), EOFError):
            yield line

    threading.Thread(target=read, name="conduit-oauth-stdin", daemon=True).start()
    run = asyncio.ensure_future(Door(url, gateway).run(given()))
    loop.add_signal_handler(signal.SIGTERM, run.cancel)
    try:
        await run
    except asyncio.CancelledError:
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise


def _lines(descriptor: int) -> Any:
    """The lines of an input, None in place of one that is too long."""
    kept: list[bytes] = []
    size = 0
    while chunk := os.read(descriptor, 1 << 16):
        first, *others = chunk.split(b"\n")
        for following in (first, *others):
            if following is not first:
                yield None if size > LARGEST_MESSAGE else b"".join(kept)
                kept, size = [], 0
            size += len(following)
            if size <= LARGEST_MESSAGE:
                kept.append(following)
            else:
                kept.clear()
    if kept or size:
        yield None if size > LARGEST_MESSAGE else b"".join(kept)


def _put(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _fault(message: object) -> str | None:
    """What keeps a JSON value from being a message (JSON-RPC 2.0 §4, §5)."""
    if isinstance(message, list):
        return "MCP has no batches"
    if not isinstance(message, dict):
        return "a message is an object"
    message = cast("Message", message)
    if message.get("jsonrpc") != "2.0":
        return 'a message has "jsonrpc": "2.0"'
    if "method" not in message:
        return None if "result" in message or "error" in message else "a message has a method, a result or an error"
    if not isinstance(message["method"], str):
        return "method is no string"
    if not isinstance(message.get("params", {}), dict):
        return "params is no object"
    return "id is neither a string nor a number" if "id" in message and _id_of(message) is None else None


def _id_of(message: object) -> RequestId | None:
    request_id = _table(message).get("id")
    return request_id if isinstance(request_id, str | int | float) and not isinstance(request_id, bool) else None


def _version_in(message: Message) -> str | None:
    """The protocol version that a message says itself."""
    version = _table(_table(message.get("params")).get("_meta")).get(_VERSION_IN_MESSAGE)
    return version if isinstance(version, str) and version.isascii() and version.isprintable() else None


def _is_stream(answer: Answer) -> bool:
    return answer.is_success and (answer.header(b"content-type") or "").lower().startswith("text/event-stream")


async def _content(answer: Answer) -> bytes:
    """A whole body. Raises `TooLargeError`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.chunks():
        size += len(chunk)
        if size > LARGEST_MESSAGE:
            raise TooLargeError
        chunks.append(chunk)
    return b"".join(chunks)


async def _reason(answer: Answer) -> str:
    try:
        return f"{answer.status}{_reason_in(await _content(answer))}"
    except (aiohttp.ClientError, TooLargeError):
        return str(answer.status)


def _reason_in(content: bytes) -> str:
    """What a refusal says for people: its `error` and `error_description`, else its first characters."""
    try:
        text = content[:_LONGEST_REASON].decode()
        body = _table(json.loads(text))
    except (ValueError, RecursionError):
        body, text = {}, content[:_LONGEST_REASON].decode("utf-8", "replace")
    said = [value for name in ("error", "error_description", "message") if isinstance(value := body.get(name), str)]
    reason = mask(": ".join(said) or text, ())
    return f" ({reason})" if reason else ""


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
