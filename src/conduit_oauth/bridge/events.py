"""Server-sent events (WHATWG HTML §9.2) as bytes: aiohttp reads none, and what comes here passes on unparsed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

# Seconds. A longer pause would leave the client without its stream, and a shorter one the bridge without a rest.
_SHORTEST_RETRY, _LONGEST_RETRY = 0.1, 60.0
# Bytes: servers take headers of 8 KiB.
_LONGEST_ID = 4096


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
    event, data = "message", bytearray()
    last_id: str | None = None
    retry: float | None = None
    # The mark of UTF-8, which the stream may begin with.
    mark = b"\xef\xbb\xbf"
    async for line in _lines(chunks, largest):
        line, mark = line.removeprefix(mark), b""
        if not line:
            if data or last_id is not None or retry is not None:
                yield ServerEvent(event, bytes(data[:-1]), last_id, retry)
            event, data, last_id, retry = "message", bytearray(), None, None
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                data += value + b"\n"
                # The line break that ends it is none of it.
                if len(data) - 1 > largest:
                    raise TooLargeError
            case b"event":
                event = value.decode("utf-8", "replace") or "message"
            case b"id" if len(value) <= _LONGEST_ID and value.isascii() and value.decode().isprintable():
                # It goes into a header.
                last_id = value.decode()
            case b"retry" if value.isdigit() and len(value) < 10:
                retry = min(max(int(value) / 1000, _SHORTEST_RETRY), _LONGEST_RETRY)
            case _:
                pass


async def _lines(chunks: AsyncIterator[bytes], largest: int) -> AsyncIterator[bytes]:
    """Lines that end in LF, CR LF or CR; work and memory are linear, however small the pieces are."""
    kept = bytearray()
    after_cr = False
    async for chunk in chunks:
        if not chunk:
            continue
        if after_cr:
            chunk = chunk.removeprefix(b"\n")
        after_cr = chunk.endswith(b"\r")
        *whole, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in whole:
            yield bytes(kept + part)
            kept.clear()
        kept += rest
        if len(kept) > largest:
            raise TooLargeError
