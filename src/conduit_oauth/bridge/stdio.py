"""The bridge as the `command` of an MCP client's configuration: its stdin and stdout are one session of the gateway.

Invariant: a signal ends it at once, whatever the client does with its ends of the pipes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar, cast

from .gateway import Gateway
from .session import LineSession

T = TypeVar("T")

logger = logging.getLogger("conduit_oauth.bridge")


async def serve_stdio(url: str, gateway: Gateway) -> None:
    """Bridge stdin and stdout to the gateway at `url`, until stdin ends or SIGTERM comes.

    Raises what writing to stdout does.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | EOFError | None] = asyncio.Queue()
    # Few: a client that is faster than its gateway waits.
    room = threading.Semaphore(16)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for line in split_lines(_input, gateway.largest):
                room.acquire()
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, EOFError())

    async def given() -> AsyncIterator[bytes | None]:
        while not isinstance(line := await lines.get(), EOFError):
            room.release()
            yield line

    writer = _Writer(loop)
    threading.Thread(target=read, name="conduit-oauth-stdin", daemon=True).start()
    run = asyncio.ensure_future(LineSession(url, gateway, writer.write).run(given()))
    writer.broken.add_done_callback(lambda _: run.cancel())
    loop.add_signal_handler(signal.SIGTERM, run.cancel)
    try:
        await run
    except asyncio.CancelledError:
        if writer.broken.done():
            raise writer.broken.result() from None
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise


def _input() -> bytes:
    """The next bytes of stdin; none at its end, and where it cannot be read (any more)."""
    try:
        # Not by sys.stdin, whose lock a thread that waits for input would keep beyond the end of the process.
        return os.read(sys.stdin.fileno(), 1 << 16)
    except OSError as error:
        logger.warning("standard input cannot be read (%s)", error.strerror)
        return b""


class _Writer:
    """Writes lines to stdout, on a thread that is left behind where the client does not read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        # Has the error that ended it.
        self.broken: asyncio.Future[Exception] = loop.create_future()
        threading.Thread(target=self._work, name="conduit-oauth-stdout", daemon=True).start()

    async def write(self, line: bytes) -> None:
        """Return once the client's pipe has `line`."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._lines.put((line, written))
        await written

    def _work(self) -> None:
        raw = cast("io.BufferedWriter", sys.stdout.buffer).raw
        while True:
            line, written = self._lines.get()
            left = memoryview(line)
            try:
                # Not through the buffer, whose lock would keep the process from its end while the client does not read.
                while left:
                    left = left[raw.write(left) :]
            except Exception as error:  # whatever it is, nothing more can be written
                self._tell(self.broken, error)
                return
            self._tell(written, None)

    def _tell(self, future: asyncio.Future[T], result: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(result))


def split_lines(read: Callable[[], bytes], largest: int) -> Iterator[bytes | None]:
    """The lines of an input that `read` gives in pieces, None in place of one of more than `largest` bytes."""
    kept, size = bytearray(), 0
    while chunk := read():
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield None if size + len(piece) > largest else bytes(kept + piece)
            kept.clear()
            size = 0
        size += len(rest)
        if size > largest:
            kept.clear()
        else:
            kept += rest
    if size:
        yield None if size > largest else bytes(kept)
