"""`make scale`: the provider's own code against simulated time, and 100,000 providers in one real process.

A simulated process is a set of providers on the one store; flights are greenlets, so that a thousand processes fit
into one. Traffic: 100 clients come into use one after the other within the first token lifetime, each in all processes
within 5 s, and stay in use all day; a process looks after its token when it is due. Prints Markdown.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import gc
import heapq
import multiprocessing
import random
import resource
import statistics
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs

import greenlet
import httpx2
import matplotlib as mpl
from matplotlib import pyplot

from conduit_oauth import TokenProvider, TokenProviders
from conduit_oauth.lifecycle import boarding, flight
from conduit_oauth.runtime.landing import Flag
from conduit_oauth.sharing import tier
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores.memory import MemoryStore
from conduit_oauth.token import EARLIEST

mpl.use("Agg")

CLIENTS = 100
DAY = 86_400.0
LIFETIME = 3600.0
LATENCY = 0.2
BIN = 600.0


class World:
    """Simulated time: what is to be resumed or called, and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._hub = greenlet.getcurrent()

    def at(self, moment: float, work: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (moment, self._count, work))

    def spawn(self, work: Callable[[], None]) -> None:
        """In place of a thread."""
        self.at(self.now, lambda: greenlet.greenlet(work).switch())

    def pause_on(self, flag: Flag, seconds: float) -> bool:
        """In place of a wait: nobody sets a flag while we sleep, and the store is looked at again anyway."""
        if seconds > 0 and not flag.is_set():
            self.sleep(seconds)
        return flag.is_set()

    def sleep(self, seconds: float) -> None:
        self.at(self.now + seconds, greenlet.getcurrent().switch)
        self._hub.switch()

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, work = heapq.heappop(self._agenda)
            work()


class Endpoint(httpx2.BaseTransport):
    """The authorization server, which counts."""

    def __init__(self, world: World | None = None, *, failing: bool = False) -> None:
        self._world = world
        self._failing = failing
        self.requests: list[tuple[str, float]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        client = parse_qs(request.read().decode())["client_id"][0]
        self.requests.append((client, self._world.now if self._world else 0.0))
        if self._world:
            self._world.sleep(LATENCY)
        if self._failing:
            return httpx2.Response(503)
        # As long as a JWT is.
        value = f"{len(self.requests):0>600}"
        token = {"access_token": value, "token_type": "Bearer", "expires_in": LIFETIME}
        return httpx2.Response(200, json=token)


class Caller:
    """Whoever uses one provider of one process: calls when the token is due, as traffic all day long would."""

    __slots__ = ("_provider", "_world")

    def __init__(self, world: World, provider: TokenProvider) -> None:
        self._world = world
        self._provider = provider
        provider.control.ended = lambda _: world.at(world.now, self)

    def __call__(self) -> None:
        due = self._provider.control.keep()
        if due is not None and due < DAY:
            self._world.at(due, self)


@contextmanager
def fleet(world: World, endpoint: Endpoint, processes: int, clients: int) -> Iterator[None]:
    """Providers of `processes` simulated processes, which live in simulated time."""
    threads = boarding.spawn, flight.pause_on
    boarding.spawn, flight.pause_on = world.spawn, world.pause_on
    client = httpx2.Client(transport=endpoint)
    store = MemoryStore(lambda: world.now)
    # Without a thread of its own, which real time would drive.
    shared = tier._opened[id(store)] = Tier(store, 0.05, remote=False)
    for number in range(clients):
        # One client after the other: what begins together stays together, no farther apart than its jitter.
        beginning = (number + random.random()) * LIFETIME / clients
        for _ in range(processes):
            provider = TokenProvider(
                f"client-{number}",
                "secret",
                token_endpoint="https://as.example/token",
                http_client=client,
                store=store,
                clock=lambda: world.now,
            )
            world.at(beginning + random.uniform(0, 5), Caller(world, provider))
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    del shared
    boarding.spawn, flight.pause_on = threads


def simulate(processes: int) -> list[tuple[str, float]]:
    """The token requests of a day: which client's, and when."""
    world = World()
    endpoint = Endpoint(world)
    with fleet(world, endpoint, processes, CLIENTS):
        world.run(DAY)
    return endpoint.requests


def trouble(processes: int, seconds: float) -> str:
    """A line of the table: requests a second to an endpoint that answers 503 all the time."""
    world = World()
    endpoint = Endpoint(world, failing=True)
    with fleet(world, endpoint, processes, 1):
        begin = LIFETIME
        world.run(begin + seconds)
    moments = [moment for _, moment in endpoint.requests if moment > begin]
    # The busiest second, wherever it begins.
    peak = max(bisect.bisect_left(moments, moment + 1) - index for index, moment in enumerate(moments))
    return f"| {processes:,} | {len(moments) / seconds:.2f} | {peak} |"


def judge(processes: int, requests: list[tuple[str, float]], seconds: float) -> tuple[str, list[int]]:
    """A line of the table, and the requests of each tenth of an hour or so."""
    # While a token lives beyond its window (and the jitter before it), another one is needless.
    fresh = (LIFETIME - 60) - EARLIEST * 60
    latest: dict[str, float] = {}
    needless = 0
    for client, moment in requests:
        needless += moment - latest.get(client, -DAY) < fresh - LATENCY
        latest[client] = moment
    bins = [0] * int(DAY / BIN)
    for _, moment in requests:
        bins[min(len(bins) - 1, int(moment / BIN))] += 1
    # The first lifetime is the beginning: not all clients are there yet.
    steady = bins[int(LIFETIME / BIN) :]
    mean = statistics.mean(steady)
    lifetimes = sum((DAY - min(m for c, m in requests if c == client)) / fresh for client in latest)
    line = (
        f"| {processes:,} | {len(requests):,} | {len(requests) / lifetimes:.3f} | {needless} "
        f"| {mean / BIN * 60:.2f} | {max(steady) / BIN * 60:.2f} | {max(steady) / mean:.2f} | {seconds:.0f} s |"
    )
    return line, bins


def plot(days: dict[int, list[int]], folder: Path) -> None:
    """The day of each fleet, as PNG and as HTML that needs nothing else."""
    figure, grid = pyplot.subplots(
        len(days), 1, figsize=(9, 2.2 * len(days)), sharex=True, layout="constrained", squeeze=False
    )
    axes = grid[:, 0]
    hours = [index * BIN / 3600 for index in range(int(DAY / BIN))]
    for axis, (processes, bins) in zip(axes, days.items(), strict=True):
        axis.bar(hours, [count / BIN * 60 for count in bins], width=BIN / 3600, align="edge", color="#3568a8")
        mean = statistics.mean(bins[int(LIFETIME / BIN) :]) / BIN * 60
        axis.axhline(mean, color="#333", linewidth=0.8)
        axis.axhline(2 * mean, color="#b03030", linewidth=0.8, linestyle="--")
        axis.set_title(f"{processes:,} processes x {CLIENTS} providers", loc="left", fontsize=9)
        axis.set_ylabel("requests a minute", fontsize=8)
    axes[-1].set_xlabel("hour of the day (line: mean; dashed: twice the mean)", fontsize=8)
    figure.savefig(folder / "scale.png", dpi=110)
    image = base64.b64encode((folder / "scale.png").read_bytes()).decode()
    title = "Token requests of a fleet in a simulated day"
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
    (folder / "scale.html").write_text(
        f'{page}<img style="max-width:100%" alt="{title}" src="data:image/png;base64,{image}"></html>\n',
        encoding="utf-8",
    )


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def crowd(count: int) -> str:
    """`count` providers with a token each in this process: what one costs, and how the next one due is found."""
    client = httpx2.Client(transport=Endpoint())
    names = [f"provider-{number:06}" for number in range(count)]
    endpoint = "https://as.example/token"
    settings = {name: {"client_id": name, "client_secret": f"secret-of-{name}"} for name in names}
    gc.collect()
    before = resident()
    shared = {"token_endpoint": endpoint, "http_client": client, "scope": "mcp:read"}
    with TokenProviders(settings, defaults=shared, limit=count, max_refreshes=2) as providers:
        for name in names:
            providers[name].get_token()
        gc.collect()
        each = (resident() - before) / count
        threads = threading.active_count() - 1
        agenda = providers._supervisor._agenda
        find = best(lambda: heapq.heapreplace(agenda, (agenda[0][0], agenda[0][1])))
        look = best(lambda: providers[names[count // 2]])
    return f"| {count:,} | {each / 1024:.2f} KiB | {threads} | {find * 1e6:.2f} µs | {look * 1e6:.2f} µs |"


def best(work: Callable[[], object]) -> float:
    """Seconds."""
    return min(timeit.repeat(work, number=2000, repeat=5)) / 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--crowd", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"A simulated day, {CLIENTS} clients, tokens of {LIFETIME:g} s, seed {options.seed}.\n")
    print("| processes | requests | per token life | needless | mean, a minute | peak, a minute | peak / mean | took |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    days: dict[int, list[int]] = {}
    for processes in options.processes:
        started = time.monotonic()
        requests = simulate(processes)
        line, days[processes] = judge(processes, requests, time.monotonic() - started)
        print(line, flush=True)
    plot(days, options.folder)
    print("\nRequests a second to an endpoint that answers 503 for ten minutes:\n")
    print("| processes | mean | busiest second |\n|---:|---:|---:|", flush=True)
    for processes in options.processes:
        print(trouble(processes, 600), flush=True)
    print("\n| providers in a process | memory of one | threads | next due | `providers[name]` |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    # A process of its own each: nothing that was freed before is used again.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for line in pool.imap(crowd, options.crowd):
            print(line, flush=True)


if __name__ == "__main__":
    main()
