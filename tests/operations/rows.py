"""What operations do to a fleet, row by row, and what its callers may see of that."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from conduit_oauth.testing import AuthorizationServer
from tests.operations.deployments import ALL, Cluster, Deployment, Redis, Sentinels, Sqlite, Tls
from tests.operations.fleet import Fleet, Seen

# Seconds that the authorization server takes for a token.
LATENCY = 0.1
# Seconds after an invalidation, or after a fault of hearing, from which on nobody may have the void token.
KNOWN_WITHIN = 2.0
REMOTE = (Redis, Tls, Sentinels, Cluster)


@dataclass(frozen=True)
class Bounds:
    """What must hold: token requests, seconds that a caller waits at most, and errors."""

    requests: int
    longest: float
    errors: int = 0
    is_never_down: bool = True


@dataclass(frozen=True)
class Measured:
    """A row of the report."""

    number: str
    title: str
    where: str
    requests: int
    seen: Seen
    bounds: Bounds

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        seen, bounds = self.seen, self.bounds
        found: list[str] = []
        if self.requests > bounds.requests:
            found.append(f"{self.requests} token requests, {bounds.requests} at most")
        if seen.longest > bounds.longest:
            found.append(f"a caller waited {seen.longest:.2f} s, {bounds.longest:g} s at most")
        if seen.expired or seen.void:
            found.append(f"{seen.expired} expired and {seen.void} void tokens")
        if (errors := sum(seen.errors.values())) > bounds.errors:
            found.append(f"{errors} errors: {seen.errors.most_common(2)}")
        if bounds.is_never_down and seen.said["store_down"]:
            found.append(f"store_down was said {seen.said['store_down']} times")
        return found


class World:
    """One deployment, one authorization server, and the fleets of one row."""

    def __init__(self, store: Deployment, server: AuthorizationServer, size: int) -> None:
        self.store = store
        self.server = server
        self.size = size
        self._stack = ExitStack()
        self.fleets: list[Fleet] = []

    def fleet(self, *clients: str, url: str | None = None, size: int | None = None, **facts: Any) -> Fleet:
        """Processes that share a store, of which each call's waits and tokens count. None has called yet."""
        settings = {"token_endpoint": self.server.token_endpoint(), "store": url or self.store.url}
        timeout = facts.pop("timeout", None)
        providers: list[dict[str, Any]] = []
        for client in clients or ("demo",):
            # No secret that could be guessed: those are stretched, which takes a while.
            secret = AuthorizationServer.client_secret if client == "demo" else f"Kx7vQ2mZp9RtY4wLs8Ng3B6c-{client}"
            providers.append({"client_id": client, "client_secret": secret, **settings})
            if timeout:
                providers[-1]["timeout"] = timeout
            if client != "demo":
                self.server.add_client(client, secret)
        fleet = self._stack.enter_context(Fleet(providers, size=self.size if size is None else size, **facts))
        self.fleets.append(fleet)
        return fleet

    def warm_fleet(self, *clients: str, **facts: Any) -> Fleet:
        """A fleet of which every process has its tokens."""
        fleet = self.fleet(*clients, **facts)
        fleet.begin()
        fleet.warm_up()
        return fleet

    def close(self) -> None:
        """End the fleets."""
        self._stack.close()


Script = Callable[[World], None]


@dataclass(frozen=True)
class Row:
    """A scenario. `number` is that of the issue which asked for it."""

    number: str
    title: str
    script: Script
    bounds: Bounds
    on: tuple[type[Deployment], ...]
    lifetime: float
    size: int
    is_quick: bool


ROWS: list[Row] = []


def row(
    number: str,
    title: str,
    *,
    requests: int,
    longest: float,
    on: tuple[type[Deployment], ...] = (Redis,),
    errors: int = 0,
    lifetime: float = 600.0,
    size: int = 16,
    is_never_down: bool = True,
    is_quick: bool = False,
) -> Callable[[Script], Script]:
    """Enter a scenario into the table."""

    def enter(script: Script) -> Script:
        bounds = Bounds(requests, longest, errors, is_never_down)
        ROWS.append(Row(number, title, script, bounds, on, lifetime, size, is_quick))
        return script

    return enter


def measure(row: Row, where: type[Deployment], *, size: int | None = None) -> Measured:
    """Do what the row says, and look at what the callers saw."""
    with (
        tempfile.TemporaryDirectory() as folder,
        AuthorizationServer(lifetime=row.lifetime) as server,
        where(Path(folder)) as store,
    ):
        server.set(latency=LATENCY)
        world = World(store, server, size or row.size)
        try:
            row.script(world)
            seen = Seen()
            for fleet in world.fleets:
                seen.add(fleet.seen(KNOWN_WITHIN))
        finally:
            world.close()
        requests = len(server.token_requests)
    return Measured(row.number, row.title, where.name, requests, seen, row.bounds)


@contextmanager
def repeatedly(work: Callable[[], object], seconds: float) -> Iterator[None]:
    """Do `work` every so many seconds, meanwhile."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            with suppress(redis.RedisError):
                work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@row("", "nothing happens; tokens of 6 s", requests=8, longest=1.0, on=ALL, lifetime=6, is_quick=True)
def quiet(world: World) -> None:
    world.warm_fleet()
    time.sleep(12)


@row("3", "eight processes invalidate, one after the other", requests=9, longest=1.0, on=ALL, is_quick=True)
def invalidations(world: World) -> None:
    fleet = world.warm_fleet()
    for number in range(8):
        time.sleep(0.5)
        fleet.invalidate(number % world.size)
    time.sleep(3)


@row("1", "invalidated, then all data are lost", requests=4, longest=2.0, on=ALL, is_never_down=False)
def all_lost(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    fleet.invalidate()
    world.store.restart_empty()
    time.sleep(6)
    fleet.invalidate(1)
    time.sleep(3)


@row("1", "invalidated, then another server whose clock is 600 s behind", requests=4, longest=2.0, is_never_down=False)
def behind(world: World) -> None:
    assert isinstance(world.store, Redis)
    fleet = world.warm_fleet()
    time.sleep(1)
    fleet.invalidate()
    world.store.restart_empty_with_clock_behind(600)
    time.sleep(6)
    fleet.invalidate(1)
    time.sleep(3)


# While the store is frozen each process is on its own, and asks by itself for each end of a token.
@row(
    "2",
    "frozen for 4 s between the server's answer and the write; tokens of 5 s",
    requests=96,
    longest=2.0,
    on=REMOTE,
    lifetime=5,
    is_never_down=False,
)
def frozen_before_the_write(world: World) -> None:
    world.warm_fleet()
    for _ in range(2):
        world.server.hold()
        world.server.wait_for_token_requests(len(world.server.token_requests) + 1)
        world.store.freeze()
        world.server.release()
        time.sleep(4)
        world.store.thaw()
        time.sleep(3)


@row("3", "invalidated while all subscriptions are cut", requests=2, longest=1.0, on=REMOTE, is_quick=True)
def deaf(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    with repeatedly(world.store.cut_subscriptions, 0.1):
        time.sleep(0.5)
        fleet.invalidate(forgiven=0.5)
        time.sleep(0.5)
    time.sleep(5)


@row(
    "4",
    "invalidated while all connections are half-open",
    requests=2,
    longest=2.0,
    on=(Redis, Tls),
    is_never_down=False,
)
def half_open(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    assert world.store.line is not None
    world.store.line.forget()
    # Noticed within 10 s.
    fleet.invalidate(forgiven=10.0)
    time.sleep(14)


# Ten invalidations; the bound of a wait is 0.2 s over the server's latency, and what two busy cores take.
@row("5", "stalls of 60 ms, twice a second, among ten invalidations", requests=16, longest=0.6, on=REMOTE)
def stalls(world: World) -> None:
    fleet = world.warm_fleet()

    def stall() -> None:
        world.store.freeze()
        time.sleep(0.06)
        world.store.thaw()

    with repeatedly(stall, 0.5):
        for number in range(10):
            time.sleep(0.9)
            fleet.invalidate(number % world.size)
    time.sleep(3)


@row("8", "one key of ten is of another type; its token is invalidated five times", requests=95, longest=2.0)
def one_bad_key(world: World) -> None:
    fleet = world.warm_fleet(*(f"client-{number}" for number in range(10)))
    client = world.store.servers[0].client
    time.sleep(1)
    before = {key: client.hget(key, "v") for key in client.keys("conduit-oauth:{*") if client.hexists(key, "v")}
    fleet.invalidate()
    # Only the members know which key is whose.
    while not (changed := [key for key, value in before.items() if client.hget(key, "v") != value]):
        time.sleep(0.05)
    (bad,) = changed
    client.delete(bad)
    client.set(bad, "not a hash")
    for _ in range(5):
        fleet.invalidate(forgiven=10.0)
        time.sleep(1)


def down(world: World, delay: float) -> None:
    assert world.store.line is not None
    world.store.line.delay = delay
    world.server.fail(503, count=10_000)
    fleet = world.fleet(timeout=7.5, threads=1, pause=60.0)
    fleet.begin()
    time.sleep(9)


for each_way in (0.0, 0.01, 0.02, 0.05):
    title = f"the token server answers 503 for 7.5 s; {each_way * 1000:g} ms each way to the store"
    row("9", title, requests=25, longest=8.5, errors=16, is_quick=each_way == 0.02)(
        lambda world, delay=each_way: down(world, delay)
    )


@row("10", "this release and the one before on one file, 20 invalidations each", requests=82, longest=4.0, on=(Sqlite,))
def two_releases(world: World) -> None:
    with old_release() as sources:
        old = world.warm_fleet(size=world.size // 2, sources=sources)
        new = world.warm_fleet(size=world.size // 2)
        for number in range(20):
            for fleet in (old, new):
                # Fleets that know nothing of each other: each token is of one of them.
                fleet.invalidate(number % (world.size // 2))
            time.sleep(0.2)
        time.sleep(3)
    broken = list(world.store.folder.glob("*.broken-*"))
    assert not broken, broken


# The last commit with the format before.
_OLD = "c4f642de5fc3871627dab70cac72364a33160fcd"


@contextmanager
def old_release() -> Iterator[Path]:
    """The sources of the last release with another format, out of this repository's history."""
    repository = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", repository, "archive", _OLD, "src"],  # noqa: S607
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)  # noqa: S607
        yield Path(folder) / "src"


@row("11", "nobody may PUBLISH", requests=5, longest=1.5)
def mute(world: World) -> None:
    rights = ["on", ">word", "allkeys", "allchannels", "allcommands", "-publish"]
    world.store.servers[0].client.execute_command("ACL", "SETUSER", "mute", "reset", *rights)
    fleet = world.warm_fleet(url=world.store.url.replace("redis://", "redis://mute:word@"))
    for number in range(4):
        time.sleep(2)
        fleet.invalidate(number % world.size)
    time.sleep(4)


@row("12", "a cold start", requests=1, longest=4.0, on=ALL, size=32)
def cold(world: World) -> None:
    world.fleet().begin()
    time.sleep(6)


@row("12, 14", "a cold start, 20 ms each way to the store", requests=1, longest=4.0, on=(Redis, Tls), size=32)
def cold_and_far(world: World) -> None:
    assert world.store.line is not None
    world.store.line.delay = 0.02
    world.fleet().begin()
    time.sleep(6)


@row("13", "a cold start of 10 processes with 200 threads and the same 500 clients", requests=550, longest=30, size=10)
def many_clients(world: World) -> None:
    clients = [f"client-{number}" for number in range(500)]
    # Not by the line, which would be what is measured.
    fleet = world.fleet(*clients, url=world.store.servers[0].url, threads=200, pause=60.0, timeout=60.0)
    fleet.begin()
    fleet.wait_for_calls(200 * 500, seconds=120)


@row("15", "a cold start without HELLO", requests=1, longest=2.0, is_quick=True)
def no_hello(world: World) -> None:
    rights = ["on", ">word", "allkeys", "allchannels", "allcommands", "-hello", "-client"]
    world.store.servers[0].client.execute_command("ACL", "SETUSER", "plain", "reset", *rights)
    world.fleet(url=world.store.url.replace("redis://", "redis://plain:word@")).begin()
    time.sleep(4)


# Each process believes three times that its new token is void, and they take turns.
@row("16", "a stranger publishes invented floors, and spoils every record", requests=64, longest=6.0)
def forged(world: World) -> None:
    world.warm_fleet()
    client: Any = world.store.servers[0].client

    def forge() -> None:
        for key in client.keys("conduit-oauth:{*"):
            generation, last = client.hmget(key, "g", "n")
            for floor in (1 << 60, int(last) + 30_000):
                client.publish("conduit-oauth:news", f"{key.decode()} {generation.decode()} {floor} 0 -")
            if client.hexists(key, "v"):
                client.hset(key, "v", b"garbage")

    with repeatedly(forge, 0.5):
        time.sleep(5)
    time.sleep(1)


@row("17", "every answer of the store drips, 0.1 s a byte", requests=40, longest=3.0, is_never_down=False)
def dripping(world: World) -> None:
    fleet = world.warm_fleet()
    assert world.store.line is not None
    world.store.line.drip = 0.1
    for _ in range(2):
        fleet.invalidate(forgiven=30.0)
        time.sleep(3)


# A leader that hangs is replaced when its lease is over, which is 3 s.
@row("17", "the process that asks for the token is stopped", requests=3, longest=5.0, on=(Redis, Sqlite))
def stopped_leader(world: World) -> None:
    fleet = world.warm_fleet()
    world.server.hold()
    fleet.invalidate(0)
    world.server.wait_for_token_requests(2)
    fleet.signal(0, signal.SIGSTOP)
    world.server.release()
    time.sleep(6)
    fleet.signal(0, signal.SIGCONT)
    # Its late answer harms nobody; what its own callers waited is not the store's doing.
    time.sleep(2)
    fleet.kill(0)


@row("", "the process that asks for the token is killed", requests=4, longest=5.0, on=(Redis, Sqlite))
def killed_leader(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    world.server.hold()
    fleet.invalidate(0)
    world.server.wait_for_token_requests(2)
    fleet.kill(0)
    world.server.release()
    time.sleep(6)


@row(
    "",
    "the master is killed; two invalidations",
    requests=20,
    longest=2.0,
    on=(Sentinels, Cluster),
    is_never_down=False,
)
def failover(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    world.store.servers[0].kill()
    fleet.invalidate(forgiven=8.0)
    time.sleep(8)
    fleet.invalidate(1)
    time.sleep(4)


@row(
    "4",
    "the master is frozen, and a replica takes over",
    requests=40,
    longest=2.0,
    on=(Sentinels,),
    is_never_down=False,
)
def frozen_master(world: World) -> None:
    fleet = world.warm_fleet()
    time.sleep(1)
    world.store.servers[0].signal(signal.SIGSTOP)
    time.sleep(8)
    fleet.invalidate(forgiven=10.0)
    time.sleep(14)
    world.store.servers[0].signal(signal.SIGCONT)
    time.sleep(3)
