"""One process of the fleet: many tasks call a protected resource through the adapter, and every fact becomes a line."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from conduit_oauth import OAuthError, TokenProvider
from conduit_oauth.events import Event


class Telling(httpx2.HTTPTransport):
    """Says when a token request leaves, so that its leader can be killed in mid-flight."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        tell(asking=time.time())
        return super().handle_request(request)


class Telltale(logging.Handler):
    """Says what befell the store, as this process sees it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("store_"):
            tell(said=record.getMessage().partition(":")[0], at=time.time())


def tell(**facts: Any) -> None:
    # One write each: lines of several threads do not mix, and a kill loses none.
    os.write(1, (json.dumps(facts) + "\n").encode())


def on_event(event: Event) -> None:
    if event.name == "token_received":
        tell(received=time.time())
    if event.name == "token_invalidated":
        tell(invalidated=time.time())


async def call(client: httpx2.AsyncClient, url: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        # The adapter repeats the header with the request, so that the resource knows both for one call.
        name = f"{os.getpid()}-{random.getrandbits(64)}"
        try:
            answer = await client.get(url, headers={"x-call": name})
            if answer.status_code != 200:
                tell(error=f"the resource answered {answer.status_code}", at=time.time(), call=name)
        except OAuthError as error:
            tell(error=f"{type(error).__name__}: {error}", at=time.time(), call=name)
        except httpx2.HTTPError as error:
            tell(error=f"resource: {type(error).__name__}", at=time.time(), call=name)
        try:
            async with asyncio.timeout(random.uniform(1, 3)):
                await stop.wait()
        except TimeoutError:
            continue


def usage() -> dict[str, int]:
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        # Python 3.12 lists those it did not start itself beyond their end.
        "threads": sum(Path(f"/proc/self/task/{thread.native_id}").exists() for thread in threading.enumerate()),
        "tasks": len(asyncio.all_tasks()),
        "kib": int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() // 1024,
    }


async def main() -> None:
    settings = json.loads(sys.argv[1])
    logger = logging.getLogger("conduit_oauth")
    logger.propagate = False
    logger.addHandler(Telltale())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "usage":
                loop.call_soon_threadsafe(lambda: tell(usage=usage()))
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=listen, daemon=True).start()
    provider = TokenProvider(**settings["provider"], observer=on_event, transport=Telling())
    limits = httpx2.Limits(max_connections=settings["tasks"])
    async with httpx2.AsyncClient(auth=provider.auth(), limits=limits, timeout=60) as client:
        tell(ready=True)
        await asyncio.gather(*(call(client, settings["url"], stop) for _ in range(settings["tasks"])))
    await provider.aclose()
    tell(left=True)


if __name__ == "__main__":
    asyncio.run(main())
