"""`make bench`, the fleet: warm and first calls by store, and processes that start together. Prints Markdown."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.redis_server import TlsRedisServer

from conduit_oauth import TokenProvider
from conduit_oauth.testing import AuthorizationServer

LATENCY = 0.2
SIZES = (1, 2, 4, 8, 16, 32)
REPETITIONS = 5
STORES = {"memory": "no store", "sqlite": "SQLite", "redis": "Redis", "tls": "Redis, TLS"}
SHARED = ("sqlite", "redis", "tls")

# One process of the fleet: makes its provider, says so, times its first call, which it makes when the gate opens, and
# stays until all have made theirs: a process that ends would take the processor from them.
MEMBER = """
import json, os, sys, time
from conduit_oauth import TokenProvider
provider = TokenProvider(**json.loads(sys.argv[1]))
requester = provider.control.requester
if provider.control.share is None: requester.transport.prepare(requester.locator.target)
print("ready", flush=True)
os.read(0, 1)
started = time.time()
provider.get_token()
now = time.time()
print(json.dumps([now - started, now, provider.state().counts.token_requests]), flush=True)
os.read(int(sys.argv[2]), 1)
"""


def together(settings: dict[str, Any], size: int) -> tuple[float, list[tuple[float, float, int]]]:
    """When `size` new processes were all asked for their first token; for each of them how many seconds it took, until
    when, and its token requests."""
    # All wait for the end of one pipe: opening the gate is one call, and not a round through the fleet.
    (start, gate), (end, leave) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", MEMBER, json.dumps(settings), str(end)]
    members = [
        subprocess.Popen(command, stdin=start, stdout=subprocess.PIPE, text=True, pass_fds=[end]) for _ in range(size)
    ]
    os.close(start)
    os.close(end)
    outputs = [member.stdout for member in members if member.stdout is not None]
    for output in outputs:
        assert output.readline() == "ready\n"
    began = time.time()
    os.close(gate)
    answers = [json.loads(output.readline()) for output in outputs]
    os.close(leave)
    for member in members:
        with member:
            member.wait()
    return began, answers


def warm(settings: dict[str, Any]) -> str:
    with TokenProvider(**settings) as provider:
        provider.get_token()
        call: Callable[[], object] = provider.get_token
        seconds = min(timeit.repeat(call, number=100_000, repeat=7)) / 100_000
    return f"{seconds * 1e9:.0f} ns"


def main() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(AuthorizationServer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(TlsRedisServer(folder))
        # As servers make them: one that could be guessed is stretched first, which takes each process 50 ms.
        server.add_client("fleet", "Kx7vQ2mZp9RtY4wLs8Ng3B6c")
        plain = {
            "client_id": "fleet",
            "client_secret": "Kx7vQ2mZp9RtY4wLs8Ng3B6c",
            "token_endpoint": server.token_endpoint(),
        }
        count = 0

        def fresh(store: str) -> dict[str, Any]:
            """Settings with a store that is empty."""
            nonlocal count
            count += 1
            redis.client.flushall()
            urls = {"sqlite": f"sqlite://{folder}/{count}.sqlite3", "redis": redis.url, "memory": "memory:"}
            return {**plain, "store": {**urls, "tls": redis.url_at(redis.tls_port)}[store]}

        print(f"| | {' | '.join(STORES.values())} |\n|---|{'---:|' * len(STORES)}")
        print(f"| warm call | {' | '.join(warm(fresh(store)) for store in STORES)} |", flush=True)
        for latency in (0.0, LATENCY):
            server.set(latency=latency)
            cells: list[str] = []
            for store in STORES:
                settings = fresh(store)
                together(settings, 1)
                firsts = [together(settings, 1)[1][0] for _ in range(REPETITIONS)]
                assert store == "memory" or all(requests == 0 for *_, requests in firsts)
                cells.append(f"{statistics.median(seconds for seconds, *_ in firsts) * 1e3:.1f} ms")
            what = f"a process's first call, store filled; the network answers in {latency * 1e3:.0f} ms"
            print(f"| {what} | {' | '.join(cells)} |", flush=True)
        print(
            f"\nProcesses that start together, latency {LATENCY * 1e3:.0f} ms, medians of {REPETITIONS}; the endpoint "
            "is on the same machine.\n"
        )
        columns = "".join(f" {STORES[store]}: requests | last token, over latency |" for store in SHARED)
        print(f"| processes |{columns}\n|---:|{'---:|---:|' * len(SHARED)}", flush=True)
        for size in SIZES:
            cells = []
            for store in SHARED:
                requests, last = [], []
                for _ in range(REPETITIONS):
                    began, answers = together(fresh(store), size)
                    requests.append(sum(number for *_, number in answers))
                    last.append(max(moment for _, moment, _ in answers) - began - LATENCY)
                cells.append(f"{'/'.join(map(str, sorted(set(requests))))} | {statistics.median(last) * 1e3:.0f} ms")
            print(f"| {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
