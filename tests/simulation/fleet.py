"""A fleet in a world: processes, the store and its subscriptions, the token server, the network, and what befalls them.

What is judged: no caller gets a token past its end, none gets one that it could know to be void, none waits longer than
its bound, no fault causes a storm of token requests, and when the faults are over everything works again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from conduit_oauth.errors import OAuthError, TransportError
from conduit_oauth.identity.credentials import Credentials
from conduit_oauth.lifecycle.holder import TokenHolder
from conduit_oauth.sharing.leases import LEASE
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import Entry, Known, News, StoreError
from conduit_oauth.stores.row import Row
from conduit_oauth.token import AccessToken, moments
from tests.simulation.world import World

PROCESSES = 4
# Seconds.
LIFETIME = 20.0
TIMEOUT = 6.0
DURATION = 40.0
# After the last fault, everything has to be well again within this.
RECOVERY = 25.0
# After that a subscription that is silent counts as broken.
SILENCE = 8.0
# How long a void token may be served by one who hears, and how late its end may be told by one who reaches the store.
FOUND = 2.0
TOLD = 4.0


class WrongError(AssertionError):
    """What must not happen, happened."""


@dataclass
class Issued:
    end: float
    void_at: float = math.inf
    # By whom; and when the store knew.
    void_by: object = None
    told_at: float = math.inf


class TokenServer:
    """The authorization server: its clock is the true one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.issued: dict[str, Issued] = {}
        self.requests: list[float] = []
        self.fails_until = 0.0
        self.latency = 0.2

    def answer(self) -> AccessToken | OAuthError:
        world = self.world
        asked_at = world.now
        self.requests.append(asked_at)
        world.sleep(self.latency * world.random.uniform(0.3, 1.0))
        fails = world.now < self.fails_until
        value, end = f"token-{len(self.issued)}", world.now + LIFETIME
        if not fails:
            self.issued[value] = Issued(end)
        world.sleep(self.latency * world.random.uniform(0.0, 0.5))
        if fails:
            return TransportError("https://as.example/token", "no whole answer")
        return AccessToken(value, *moments(asked_at, LIFETIME, 60.0), "scope")


class Store:
    """The server of the store: rows, a clock of its own, and who listens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[str, Row] = {}
        self.ahead = 0.0
        self.links: list[Link] = []
        self.is_up = True
        # Until then it answers nobody: before it does what it is asked, or after.
        self.stalls_until = 0.0
        self.lost_data_at = -math.inf
        self._generations = 0

    @property
    def now(self) -> float:
        return self.world.now + self.ahead

    def fresh(self) -> str:
        self._generations += 1
        return f"g{self._generations}"

    def row(self, key: str) -> Row:
        return self.rows.setdefault(key, Row())

    def tell(self, key: str, row: Row, *, written: bool = False) -> None:
        entry = Entry(
            value=row.value if written else None,
            fence=row.fence,
            expires=row.expires,
            floor=row.floor,
            last=row.last,
            generation=row.generation,
            void=frozenset(row.void),
            now=self.now,
        )
        for link in self.links:
            link.deliver((key, entry))

    def lose_data(self) -> None:
        self.rows.clear()
        self.lost_data_at = self.world.now

    def crash(self, seconds: float, *, keeps: bool) -> None:
        self.is_up = False
        for link in self.links:
            link.hears = False
        if not keeps:
            self.lose_data()

        def restart() -> None:
            self.is_up = True

        self.world.after(seconds, restart)


class Link:
    """A `TokenStore`: one process's connection to the store, with the faults of the network in between."""

    poll = 1.0
    pepper = b"pepper"

    def __init__(self, world: World, store: Store, server: TokenServer) -> None:
        self._world = world
        self._store = store
        self._server = server
        self.is_cut = False
        self.drops = 0.0
        self.delay = 0.001
        # The subscription: whether there is one that works, since when, and whether it looks as if.
        self.hears = self.seems_to_hear = False
        self.hears_since = world.now
        self._silent_since = 0.0
        self._news: list[News] = []
        store.links.append(self)

    def _exchange(self, work: Callable[[], Any]) -> Any:
        world, store = self._world, self._store
        give_up_at = world.now + 1.0

        def lost() -> StoreError:
            world.sleep(max(0.0, give_up_at - world.now))
            return StoreError("no answer")

        if self.is_cut or world.random.random() < self.drops:
            raise lost()
        if not store.is_up:
            raise StoreError("refused")
        world.sleep(self._lag())
        # Half of the stalls are before what is asked for is done.
        is_before = world.random.random() < 0.5
        while is_before and store.stalls_until > world.now:
            world.sleep(store.stalls_until - world.now)
        if not store.is_up:
            raise lost()
        answer = work()
        if world.random.random() < self.drops / 4:
            # As a proxy or a client that sends again: it happens twice.
            world.after(self._lag(), work)
        while store.stalls_until > world.now:
            world.sleep(store.stalls_until - world.now)
        world.sleep(self._lag())
        if self.is_cut or world.random.random() < self.drops or world.now > give_up_at:
            raise lost()
        return answer

    def _lag(self) -> float:
        return self.delay * self._world.random.uniform(0.5, 1.5)

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        def work() -> Entry:
            return self._store.row(key).claim(known, owner, lease, self._store.now, self._store.fresh())

        return self._exchange(work)

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        def work() -> bool:
            row = self._store.row(key)
            written = row.write(value, fence, expires, generation, self._store.now)
            if written:
                self._store.tell(key, row, written=True)
            return written

        return self._exchange(work)

    def renew(self, key: str, owner: str, lease: float) -> None:
        self._exchange(lambda: self._store.row(key).renew(owner, lease, self._store.now))

    def release(self, key: str, owner: str) -> None:
        def work() -> None:
            row = self._store.row(key)
            if row.release(owner):
                self._store.tell(key, row)

        self._exchange(work)

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        def work() -> Entry:
            row = self._store.row(key)
            entry = row.forget(fence, generation, void, self._store.now, self._store.fresh())
            self._store.tell(key, row)
            for issued in self._server.issued.values():
                if issued.void_by is self and issued.told_at == math.inf:
                    issued.told_at = self._world.now
            return entry

        return self._exchange(work)

    def clocks(self) -> Mapping[str, float]:
        return self._exchange(lambda: {"": self._store.now})

    def listen(self, seconds: float) -> Sequence[News]:
        world = self._world
        if not self.seems_to_hear:
            self._exchange(lambda: None)
            self.hears = self.seems_to_hear = True
            self.hears_since = world.now
            self._silent_since = math.inf
            self._news = []
            return [("", Entry())]
        if not self._news:
            world.sleep(seconds)
        if self.hears and self._store.is_up and not self.is_cut:
            self._silent_since = math.inf
        elif not self._store.is_up:
            self.seems_to_hear = False
            raise StoreError("closed")
        else:
            self.hears = False
            self._silent_since = min(self._silent_since, world.now)
            if world.now - self._silent_since > SILENCE:
                self.seems_to_hear = False
                raise StoreError("silent")
        news, self._news = self._news, []
        return news

    def deliver(self, news: News) -> None:
        if self.hears and not self.is_cut and self._world.random.random() >= self.drops:
            self._world.after(self._lag(), lambda: self._news.append(news))
        elif self.drops:
            # TCP loses nothing in the middle: what is lost is the connection.
            self.hears = False

    def after_fork_in_child(self) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Process:
    """One process of the fleet, with a caller."""

    fleet: Fleet
    number: int
    provider: TokenHolder = field(init=False)
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        fleet, world = self.fleet, self.fleet.world
        self.link = Link(world, fleet.store, fleet.server)
        self.tier = Tier(self.link, 0.05)
        requester: Any = SimpleNamespace(
            locator=SimpleNamespace(target="https://as.example/token", pins=None),
            authentication=SimpleNamespace(
                credentials=Credentials("Kx7vQ2mZp9RtY4wLs8Ng3B6c"), memory=SimpleNamespace()
            ),
            identity=lambda: b"identity",
            credential_version=tuple,
            transport=None,
            sent=0,
            fetch=self._fetch,
        )
        self._requester = requester
        self.provider = TokenHolder(f"process-{self.number}", requester, lambda: world.now, TIMEOUT, self.tier)
        world.spawn(self._call, self)

    def _fetch(self, _: object) -> AccessToken | OAuthError:
        self._requester.sent += 1
        return self.fleet.server.answer()

    def _call(self) -> None:
        world, fleet = self.fleet.world, self.fleet
        self.tier.start()
        while world.now < fleet.end:
            begun = world.now
            try:
                token = self.provider.get_token()
            except OAuthError as error:
                fleet.judge_failure(self, begun, error)
            else:
                fleet.judge(self, token, begun)
            world.sleep(world.random.expovariate(1.0))

    def invalidate(self, *, everything: bool) -> None:
        world, provider = self.fleet.world, self.provider
        held = provider.control.held()
        if held is not None:
            issued = self.fleet.server.issued[held.value]
            if issued.void_at == math.inf:
                issued.void_at, issued.void_by = world.now, self.link
        world.spawn(lambda: provider.invalidate(None if everything else held.value if held else ""), self)

    def die(self) -> None:
        self.fleet.world.kill(self)
        self.fleet.store.links.remove(self.link)
        for issued in self.fleet.server.issued.values():
            if issued.void_by is self.link and issued.told_at == math.inf:
                # Nobody else was told, and nobody is left who knows.
                issued.void_at, issued.void_by = math.inf, None


class Fleet:
    """One run, by its seed. Raises `WrongError` with what must not happen."""

    def __init__(self, seed: int, kinds: Sequence[str] = ()) -> None:
        self.seed = seed
        self.world = World(seed)
        self.server = TokenServer(self.world)
        self.store = Store(self.world)
        self.begun = self.world.now
        self.end = self.begun + DURATION + RECOVERY
        self.disturbed_until = self.begun
        self.faults: list[str] = []
        self.wrong: list[str] = []
        self.processes: list[Process] = []
        self._gone: list[Process] = []
        # A few kinds in each run, so that they meet each other, and in bursts.
        random = self.world.random
        self._kinds = list(kinds) or random.sample(list(FAULTS), random.randrange(1, 5))

    def run(self) -> None:
        world = self.world
        with world.in_place_of_threads():
            self.processes = [Process(self, number) for number in range(PROCESSES)]
            for _ in range(world.random.randrange(1, 4)):
                burst = world.random.uniform(0, DURATION)
                for _ in range(world.random.randrange(1, 6)):
                    world.after(burst + world.random.expovariate(1.0), self._befall)
            try:
                world.run(self.end)
                self._judge_end()
            finally:
                for process in [*self.processes, *self._gone]:
                    # Nothing of this world is there for the end of the test's own process.
                    process.provider.control.share = None
                world.end()
        if self.wrong:
            story = "\n".join([*self.faults, *self.wrong[:5]])
            raise WrongError(f"seed {self.seed}:\n{story}")

    def _befall(self) -> None:
        """One fault."""
        world, random = self.world, self.world.random
        process = random.choice(self.processes)
        seconds = random.choice([0.06, 0.3, 1.5, 5.0, 12.0])
        kind = random.choice(self._kinds)
        if world.now + seconds > self.begun + DURATION:
            return
        self.faults.append(f"{world.now - self.begun:.3f} {kind} process {process.number}, {seconds} s")
        self.disturbed_until = max(self.disturbed_until, world.now + seconds)
        undo = FAULTS[kind](self, process, seconds)
        if undo is not None:
            world.after(seconds, undo)

    def judge(self, process: Process, token: str, begun: float) -> None:
        """What a caller got."""
        now, issued = self.world.now, self.server.issued[token]
        if now > issued.end + 1e-6:
            self._found(f"process {process.number} got {token} {now - issued.end:.3f} s after its end")
        if issued.void_by is process.link and begun > issued.void_at:
            self._found(f"process {process.number} got {token} that it invalidated itself")
        # Who invalidated it could tell the store, which lost nothing, and this one heard ever since.
        told_at = min(issued.told_at, max(issued.void_at, self.well_since(issued.void_by)) + TOLD)
        known_at = max(told_at, self.well_since(process.link))
        if self.store.lost_data_at < issued.void_at and begun > known_at + FOUND:
            self._found(f"process {process.number} got {token}, void since {now - issued.void_at:.3f} s")
        self._judge_wait(process, begun)

    def well_since(self, link: object) -> float:
        """Since when `link` is without a fault and hears; never where it is not."""
        if not isinstance(link, Link) or not link.hears or link.is_cut or link.drops or not self.store.is_up:
            return math.inf
        return max(link.hears_since, self.store.stalls_until, self.disturbed_until)

    def judge_failure(self, process: Process, begun: float, error: OAuthError) -> None:
        """A caller got an error, which only the token server can be the cause of."""
        if begun > self.server.fails_until + 1.0 and self.server.fails_until < begun - 10.0:
            self._found(f"process {process.number} got {type(error).__name__}: {error}")
        self._judge_wait(process, begun)

    def _judge_wait(self, process: Process, begun: float) -> None:
        took, well = self.world.now - begun, self.server.fails_until < begun - 2.0
        if took > TIMEOUT + 0.2:
            self._found(f"process {process.number} waited {took:.3f} s")
        # A stall costs a round, and not the life of a lease.
        is_gentle = {*self._kinds} <= GENTLE
        stalled = max(0.0, min(self.world.now, self.store.stalls_until) - begun) if is_gentle else 0.0
        if well and took > (MOST_WAITED_GENTLY + stalled if is_gentle else MOST_WAITED):
            self._found(f"process {process.number} waited {took:.3f} s, though the token server was well")

    def _judge_end(self) -> None:
        if self.world.now < self.end:
            return
        most = self._most_requests()
        if len(self.server.requests) > most:
            self._found(f"{len(self.server.requests)} token requests, and not {most} at most")
        # What is due for its refresh waits for a caller only.
        held = {
            held.value
            for process in self.processes
            if (held := process.provider.control.held()) is not None and held.refresh_at > self.end
        }
        for process in self.processes:
            if not process.tier.up:
                self._found(f"process {process.number} does not use the store any more")
        if len(held) > 2:
            self._found(f"the fleet does not share any more: {sorted(held)}")

    def _most_requests(self) -> int:
        """One for each refresh, and one of each process for each fault."""
        refreshes = math.ceil((DURATION + RECOVERY) / (LIFETIME / 2 * 0.75)) + 1
        failing = sum("token server" in fault for fault in self.faults)
        return refreshes + PROCESSES * (len(self.faults) + 12 * failing) + PROCESSES

    def _found(self, what: str) -> None:
        self.wrong.append(f"{self.world.now - self.begun:.3f} {what}")


# Seconds that a caller waits at most, where the token server is well: until the lease of a leader that is gone is over.
MOST_WAITED = LEASE + 1.0

# The same where nobody is gone and no message is lost.
MOST_WAITED_GENTLY = 1.5
GENTLE = {"the store stalls", "the store is far away", "the token is invalidated", "everything is invalidated"}

Undo = Callable[[], object]


def _cut(fleet: Fleet, process: Process, seconds: float) -> Undo:
    process.link.is_cut = True
    return lambda: setattr(process.link, "is_cut", False)


def _half_open(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    process.link.hears = False
    return None


def _lossy(fleet: Fleet, process: Process, seconds: float) -> Undo:
    process.link.drops = 0.3
    return lambda: setattr(process.link, "drops", 0.0)


def _slow(fleet: Fleet, process: Process, seconds: float) -> Undo:
    process.link.delay = fleet.world.random.choice([0.01, 0.03])
    return lambda: setattr(process.link, "delay", 0.001)


def _stall(fleet: Fleet, process: Process, seconds: float) -> Undo:
    fleet.store.stalls_until = max(fleet.store.stalls_until, fleet.world.now + seconds)
    return lambda: None


def _crash(fleet: Fleet, process: Process, seconds: float) -> Undo:
    fleet.store.crash(seconds, keeps=True)
    return lambda: None


def _crash_and_lose(fleet: Fleet, process: Process, seconds: float) -> Undo:
    fleet.store.crash(seconds, keeps=False)
    return lambda: None


def _flush(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    fleet.store.lose_data()
    return None


def _restore_elsewhere(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    fleet.store.crash(seconds, keeps=False)
    fleet.store.ahead += fleet.world.random.choice([-600.0, -5.0, 5.0, 600.0])
    return lambda: None


def _clock_jumps(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    fleet.store.ahead += fleet.world.random.choice([-600.0, -5.0, 5.0, 600.0])
    return None


def _process_dies(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    process.die()
    fleet.processes.remove(process)
    fleet._gone.append(process)
    fleet.processes.append(Process(fleet, process.number + PROCESSES))
    return None


def _server_fails(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    fleet.server.fails_until = fleet.world.now + seconds
    return None


def _invalidate(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    process.invalidate(everything=False)
    return None


def _invalidate_all(fleet: Fleet, process: Process, seconds: float) -> Undo | None:
    process.invalidate(everything=True)
    return None


FAULTS: dict[str, Callable[[Fleet, Process, float], Undo | None]] = {
    "the network is cut": _cut,
    "the subscription is half-open": _half_open,
    "messages get lost and come twice": _lossy,
    "the store is far away": _slow,
    "the store stalls": _stall,
    "the store crashes": _crash,
    "the store crashes and loses its data": _crash_and_lose,
    "the store loses its data": _flush,
    "the store is restored on another host": _restore_elsewhere,
    "the store's clock jumps": _clock_jumps,
    "the process dies": _process_dies,
    "the token server fails": _server_fails,
    "the token is invalidated": _invalidate,
    "everything is invalidated": _invalidate_all,
}
