"""Server-sent events (WHATWG HTML §9.2) as bytes: aiohttp reads none, and what comes here passes on unparsed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

# A gateway that names a longer pause would leave the client without its stream.
_LONGEST_RETRY = 60.0


class TooLargeError(Exception):
    """A message has more bytes than are taken."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `retry` in seconds, where the stream said it."""

    event: str
    data: bytes
    id: str | None
    retry: float | None


async def server_events(chunks: AsyncIterator[bytes], largest: int) -> AsyncIterator[ServerEvent]:
    """The events of a stream. Raises `TooLargeError` for one of more than `largest` bytes."""
    event, data, size = "message", list[bytes](), 0
    last_id: str | None = None
    retry: float | None = None
    async for line in _lines(chunks, largest):
        if not line:
            if data or last_id is not None or retry is not None:
                yield ServerEvent(event, b"\n".join(data), last_id, retry)
            event, data, size, last_id, retry = "message", [], 0, None, None
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        size += len(value)
        if size > largest:
            raise TooLargeError
        match name:
            case b"data":
                data.append(value)
            case b"event":
                event = value.decode("utf-8", "replace") or "message"
            case b"id" if value.isascii() and value.decode().isprintable():
                # It goes into a header.
                last_id = value.decode()
            case b"retry" if value.isdigit() and len(value) < 10:
                retry = min(int(value) / 1000, _LONGEST_RETRY)
            case _:
                pass


async def _lines(chunks: AsyncIterator[bytes], largest: int) -> AsyncIterator[bytes]:
    """Lines that end in LF, CR LF or CR; work is linear, however small the pieces are."""
    kept: list[bytes] = []
    size = 0
    after_cr = False
    async for chunk in chunks:
        if not chunk:
            continue
        if after_cr:
            chunk = chunk.removeprefix(b"\n")
        after_cr = chunk.endswith(b"\r")
        *whole, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            yield b"".join((*kept, part))
            kept, size = [], 0
        size += len(rest)
        if size > largest:
            raise TooLargeError
        if rest:
            kept.append(rest)
