"""MCP clients of the official SDK that call a tool once a second, until stdin ends; prints what they saw, as JSON.

Before that it prints a line, once each of them has a session. The arguments are the URL and how many clients there are.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


@dataclass
class Heard:
    """What all clients saw together; `longest` in seconds."""

    calls: int = 0
    longest: float = 0.0
    # What was no answer of the tool, by its words.
    errors: Counter[str] = field(default_factory=Counter[str])


async def call(session: ClientSession, number: int) -> str:
    """What is wrong with the answer, empty where nothing is."""
    try:
        result = await session.call_tool("add", {"a": number, "b": 1})
    except Exception as error:  # it is counted
        return str(error)
    said = getattr(result, "content", [])
    return "" if [getattr(each, "text", "") for each in said] == [str(number + 1)] else str(result)


async def client(
    url: str,
    number: int,
    ended: anyio.Event,
    heard: Heard,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """One session, as long as it lasts."""
    async with streamable_http_client(url) as (reads, writes), ClientSession(reads, writes) as session:
        await session.initialize()
        task_status.started()
        while not ended.is_set():
            began = time.monotonic()
            if wrong := await call(session, number):
                heard.errors[wrong] += 1
            heard.calls += 1
            heard.longest = max(heard.longest, time.monotonic() - began)
            with anyio.move_on_after(1.0):
                await ended.wait()


async def main(url: str, clients: int) -> None:
    """All of them at once."""
    heard, ended = Heard(), anyio.Event()
    async with anyio.create_task_group() as group:
        for number in range(clients):
            await group.start(client, url, number, ended, heard)
        print("begun", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        ended.set()
    print(json.dumps(vars(heard)))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
