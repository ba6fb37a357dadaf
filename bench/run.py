"""`make bench`: this library beside its peers and the bare floor, in one run on one machine. Prints Markdown.

Figures are the best of several repetitions where a call is timed (noise only ever adds), all calls where waiting is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

import adapters
from peers import KEY_VARIABLE, PEERS, Floor, Peer, Shifted, mcp_sdk_async, new_key, ours

CALLERS = 200
LATENCY = 0.2
SLOW = 2.0
logging.disable()


class Server:
    def __init__(self) -> None:
        command = [sys.executable, Path(__file__).with_name("server.py")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.client = httpx2.Client(base_url=self.url)

    def set(self, latency: float, lifetime: float = 3600) -> None:
        self.client.post("/control", json={"latency": latency, "lifetime": lifetime})

    @contextmanager
    def relenting(self) -> Iterator[None]:
        """Be quick again after 6 s: 200 callers that refresh one after the other would take 400 s."""
        timer = threading.Timer(6, lambda: self.client.post("/control", json={"latency": 0}))
        timer.start()
        yield
        timer.cancel()
        timer.join()

    @property
    def requests(self) -> int:
        return self.client.get("/control").json()["requests"]

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


def progress(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def table(title: str, header: list[str], rows: list[list[str]], note: str = "") -> None:
    print(f"## {title}\n")
    if note:
        print(f"{note}\n")
    for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


# --- warm calls --------------------------------------------------------------------------------------------------


def interleaved(measures: dict[str, Callable[[], float]], rounds: int = 15) -> dict[str, float]:
    """The best of each, taken in turns, so that a busy moment of the machine does not fall on one of them."""
    best = dict.fromkeys(measures, float("inf"))
    for _ in range(rounds):
        for name, measure in measures.items():
            best[name] = min(best[name], measure())
    return best


def warm_sync(get: Callable[[], Any], count: int) -> Callable[[], float]:
    get()
    return lambda: timeit.timeit(get, number=count) / count * 1e9


def warm(server: Server) -> None:
    server.set(0)
    floor = Floor()
    sync = {"bare floor": warm_sync(floor.get_token, 100_000)}
    for peer in PEERS:
        if peer.sync:
            get = peer.sync(server.url)
            get()
            sync[peer.name] = warm_sync(get, 100_000 if "conduit-oauth" in peer.name else 2_000)
    progress("warm calls, sync")
    sync_ns = interleaved(sync)

    async def main() -> dict[str, float]:
        calls: dict[str, tuple[Any, int]] = {"bare floor": (floor.get_token_async, 100_000)}
        for peer in PEERS:
            if peer.task:
                get = peer.task(server.url)
                await get()
                calls[peer.name] = get, 100_000 if "conduit-oauth" in peer.name else 2_000
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(15):
            for name, (get, count) in calls.items():
                begun = time.perf_counter()
                for _ in range(count):
                    await get()
                best[name] = min(best[name], (time.perf_counter() - begun) / count * 1e9)
        return best

    progress("warm calls, async")
    async_ns = asyncio.run(main())

    def cells(figures: dict[str, float], name: str) -> list[str]:
        if name not in figures:
            return ["–", "–"]
        return [f"{figures[name]:,.0f}", f"{figures[name] / figures['bare floor']:,.2f}"]

    rows = [[name, *cells(sync_ns, name), *cells(async_ns, name)] for name in ["bare floor", *(p.name for p in PEERS)]]
    table(
        "A warm call",
        ["", "sync, ns", "× floor", "async, ns", "× floor"],
        rows,
        "A token is cached. The floor is a method of a slotted class that compares one reading of our clock with an "
        "attribute and returns a string.",
    )


# --- the cold herd -----------------------------------------------------------------------------------------------


def together(count: int, call: Callable[[], Any]) -> float:
    """Seconds until `count` threads, begun at once, have each made the call."""
    begin = threading.Barrier(count + 1)

    def run() -> None:
        begin.wait()
        call()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run) for _ in range(count)]
        begin.wait()
        begun = time.perf_counter()
        for future in futures:
            future.result()
        return time.perf_counter() - begun


def cold(server: Server) -> None:
    rows: list[list[str]] = []
    for peer in PEERS:
        progress(f"cold herd, {peer.name}")
        row = [peer.name, "–", "–", "–", "–"]
        server.set(LATENCY)
        if peer.task:
            make = peer.task

            async def herd(make: Any = make) -> float:
                get = make(server.url)
                begun = time.perf_counter()
                await asyncio.gather(*(get() for _ in range(1000)))
                return time.perf_counter() - begun

            row[1:3] = failing(lambda herd=herd: asyncio.run(herd()), server)
        server.set(LATENCY)
        if peer.sync:
            get = peer.sync(server.url)
            row[3:5] = failing(lambda get=get: together(64, get), server)
        rows.append(row)
    table(
        "The cold herd",
        ["", "1,000 tasks: requests", "seconds", "64 threads: requests", "seconds"],
        rows,
        f"Nothing is cached, everybody asks at once, the server takes {LATENCY * 1000:.0f} ms.",
    )


def failing(measure: Callable[[], float], server: Server) -> list[str]:
    try:
        took = measure()
    except Exception as error:
        return [str(server.requests), f"failed ({type(error).__name__})"]
    return [str(server.requests), f"{took:.2f}"]


# --- the refresh stall -------------------------------------------------------------------------------------------


def stalls_in_threads(get: Callable[[], Any], seconds: float) -> list[float]:
    """How long each call took of 200 threads that call in a loop."""
    end = time.perf_counter() + seconds

    def loop() -> list[float]:
        taken: list[float] = []
        while (begun := time.perf_counter()) < end:
            get()
            taken.append(time.perf_counter() - begun)
            time.sleep(0.005)
        return taken

    with ThreadPoolExecutor(CALLERS) as pool:
        return [took for future in [pool.submit(loop) for _ in range(CALLERS)] for took in future.result()]


async def stalls_in_tasks(get: Callable[[], Any], seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    taken: list[float] = []

    async def loop() -> None:
        while (begun := time.perf_counter()) < end:
            await get()
            taken.append(time.perf_counter() - begun)
            await asyncio.sleep(0.005)

    await asyncio.gather(*(loop() for _ in range(CALLERS)))
    return taken


def quantiles(taken: list[float]) -> list[str]:
    cuts = statistics.quantiles(taken, n=100)
    return [f"{value * 1e3:,.3f}" for value in (cuts[49], cuts[98], max(taken))]


def stall(server: Server) -> None:
    rows: list[list[str]] = []

    for kind in ("threads", "tasks"):
        for peer in PEERS:
            if peer.margin is None or (peer.sync if kind == "threads" else peer.task) is None:
                continue
            progress(f"refresh stall, {peer.name}, {kind}")
            server.set(0, peer.margin)
            clock = Shifted()
            mine = "conduit-oauth" in peer.name
            if kind == "threads":
                get = ours(server.url, clock=clock).get_token if mine else peer.sync(server.url)  # type: ignore[misc]
                get()
                if mine:
                    rows.append(
                        [f"{peer.name}, nothing to refresh", kind, *quantiles(stalls_in_threads(get, SLOW + 1)), "0"]
                    )
                enter_window(server, clock, mine)
                with server.relenting():
                    taken = stalls_in_threads(get, SLOW + 1)
            else:

                async def main(peer: Peer = peer, clock: Shifted = clock, mine: bool = mine) -> list[float]:
                    get = ours(server.url, clock=clock).get_token_async if mine else peer.task(server.url)  # type: ignore[misc]
                    await get()
                    if mine:
                        taken = await stalls_in_tasks(get, SLOW + 1)
                        rows.append([f"{peer.name}, nothing to refresh", "tasks", *quantiles(taken), "0"])
                    await asyncio.to_thread(enter_window, server, clock, mine)
                    with server.relenting():
                        return await stalls_in_tasks(get, SLOW + 1)

                taken = asyncio.run(main())
            rows.append([peer.name, kind, *quantiles(taken), str(server.requests)])
    table(
        "The refresh stall",
        ["", "200", "p50, ms", "p99, ms", "max, ms", "requests"],
        rows,
        f"The cached token is valid and due for refresh; the server takes {SLOW:.0f} s; 200 callers call in a loop. "
        "requests-oauthlib and the mcp SDK have no refresh ahead of expiry.",
    )


def enter_window(server: Server, clock: Shifted, mine: bool) -> None:
    """From here on the server is slow, and the token that is cached is due."""
    server.set(SLOW)
    if mine:
        clock.lead = 3545.0


# --- adapters and imports ----------------------------------------------------------------------------------------


# Short runs, many of them, in turns: the difference is a tenth of the whole.
RUNS, CALLS = 400, 20


def adapter(server: Server) -> None:
    progress("adapters")
    server.set(0)
    rows: list[list[str]] = []

    def report(name: str, best: dict[str, float]) -> None:
        rows.append([name, f"{best['without']:.1f}", f"{best['with'] - best['without']:+.1f}"])

    for name, without, with_ in adapters.pairs(server.url):
        measures = {
            key: lambda call=call: timeit.timeit(call, number=CALLS) / CALLS * 1e6
            for key, call in (("without", without), ("with", with_))
        }
        report(name, interleaved(measures, RUNS))

    async def main() -> None:
        for name, without, with_ in adapters.async_pairs(server.url):
            best = {"without": float("inf"), "with": float("inf")}
            for _ in range(RUNS):
                for key, call in (("without", without), ("with", with_)):
                    begun = time.perf_counter()
                    for _ in range(CALLS):
                        await call()
                    best[key] = min(best[key], (time.perf_counter() - begun) / CALLS * 1e6)
            report(name, best)

    asyncio.run(main())
    table(
        "What an adapter adds to a request",
        ["", "request without, µs", "added, µs"],
        rows,
        "Over a transport that answers at once, so that the network hides nothing.",
    )


def waiting(server: Server) -> None:
    progress("twenty requests at once")
    server.set(0)

    async def timed(auth: Any) -> str:
        begun = time.perf_counter()
        await adapters.twenty_at_once(server.url, auth)
        return f"{time.perf_counter() - begun:.2f}"

    async def main() -> list[list[str]]:
        provider = ours(server.url)
        await provider.get_token_async()
        # The SDK's provider is warmed by its own flow; its object is then used as httpx2 auth.
        get = mcp_sdk_async(server.url)
        await get()
        sdk = next(cell.cell_contents for cell in get.__closure__ if hasattr(cell.cell_contents, "async_auth_flow"))
        return [
            ["no adapter", await timed(None)],
            ["**conduit-oauth**", await timed(provider.auth())],
            ["mcp SDK", await timed(sdk)],
        ]

    table("Twenty requests of 100 ms at once", ["", "seconds for all"], asyncio.run(main()))


def imports() -> None:
    progress("imports")
    statements = {"bare interpreter": "pass", "**conduit-oauth** (`import conduit_oauth`)": "import conduit_oauth"}
    statements |= {peer.name: peer.statement for peer in PEERS if "non-blocking" not in peer.name}

    def cost(statement: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True)
        return (time.perf_counter() - begun) * 1e3

    best = interleaved({name: lambda code=code: cost(code) for name, code in statements.items()}, rounds=12)
    bare = best.pop("bare interpreter")
    rows = [[name, f"`{statements[name]}`", f"{took - bare:.1f}"] for name, took in best.items()]
    table("Import", ["", "statement", "ms over the bare interpreter"], rows)


def first_token(server: Server) -> None:
    """From the start of a process to its token, less the same process without one."""
    progress("first tokens")
    server.set(0)
    here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from peers import PEERS; "
    programs = {"nothing": here} | {
        peer.name: f"{here}PEERS[{place}].sync({server.url!r})()"
        for place, peer in enumerate(PEERS)
        if peer.sync and "non-blocking" not in peer.name
    }

    def cost(program: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=environment)
        return (time.perf_counter() - begun) * 1e3

    # A client has its key; making one takes longer than all the rest.
    environment = {**os.environ, KEY_VARIABLE: new_key()}
    best = interleaved({name: lambda program=program: cost(program) for name, program in programs.items()}, rounds=12)
    nothing = best.pop("nothing")
    mine = best["**conduit-oauth**"] - nothing
    rows = [[name, f"{took - nothing:.1f}", f"{(took - nothing) / mine:.2f}"] for name, took in best.items()]
    table(
        "A process's first token",
        ["", "ms", "× conduit-oauth"],
        rows,
        "From the start of the process: the import, and one token request over loopback to a server that answers at "
        "once. The start of the interpreter is taken off.",
    )


def main() -> None:
    print("# Benchmarks\n")
    names = ("authlib", "httpx-auth", "requests-oauth2client", "google-auth", "msal", "requests-oauthlib", "mcp")
    versions = ", ".join(f"{name} {version(name)}" for name in (*names, "datagrout-conduit", "httpx2"))
    print(f"Made by `make bench`: Python {platform.python_version()}, {os.cpu_count()} cores; {versions}.\n")
    server = Server()
    try:
        for part in (warm, cold, stall, adapter, waiting, first_token):
            part(server)
    finally:
        server.stop()
    imports()


if __name__ == "__main__":
    main()
