"""Starts a fleet, does it harm by a seeded script, and judges what its callers and its servers saw."""

from __future__ import annotations

import base64
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from conduit_oauth.testing import AuthorizationServer
from tests.ports import free_port
from tests.redis_server import RedisServer

# Seconds after a fault of the store for which a process may still be on its own.
GRACE = 4.0
# Seconds from the moment that a flight takes up a request to that at which it leaves.
HESITATION = 0.05


@dataclass
class Protected:
    """The resource that the fleet calls. It judges tokens by what they say and by what was revoked."""

    port: int = field(default_factory=free_port)
    seen: dict[str, float] = field(default_factory=dict[str, float])  # token: when it first came
    expires: dict[str, float] = field(default_factory=dict[str, float])
    revoked: dict[str, float] = field(default_factory=dict[str, float])
    # What a call was refused with, and when.
    refusals: defaultdict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    calls: int = 0
    expired: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = dict(scope["headers"])
        token = request[b"authorization"].partition(b" ")[2].decode()
        now = time.time()
        self.calls += 1
        if token not in self.seen:
            payload = token.split(".")[1]
            self.expires[token] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["ends"]
            self.seen[token] = now
        # `exp` is in whole seconds: what was sent up to a second after it may have been sent in time.
        self.expired += now > self.expires[token] + 1
        status, headers = 200, [(b"content-length", b"0")]
        if token in self.revoked:
            self.refusals[request[b"x-call"].decode()].append((now, token))
            status, headers = 401, [*headers, (b"www-authenticate", b'Bearer error="invalid_token"')]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def newest(self) -> str | None:
        return max(self.seen, key=self.seen.__getitem__, default=None)

    def valid_at(self, moment: float) -> bool:
        """Whether a token was known that was valid then."""
        return any(
            came <= moment < self.expires[token] - 1 and self.revoked.get(token, moment + 1) > moment
            for token, came in list(self.seen.items())
        )


class Process:
    """One process of the fleet, and what it told."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.received: list[tuple[float, float]] = []
        self.invalidated: list[float] = []
        self.errors: list[tuple[str, float, str]] = []
        self.said: list[tuple[float, str]] = []
        self.usage: list[dict[str, int]] = []
        self.pauses: list[tuple[float, float]] = []
        self.asked_at = 0.0
        self.asks = 0
        self.killed_at: float | None = None
        self.ready, self.told_usage = threading.Event(), threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:  # its last one, cut by the kill
                continue
            if "asking" in facts:
                self.asked_at, self.asks = facts["asking"], self.asks + 1
            if "received" in facts:
                self.received.append((self.asked_at, facts["received"]))
            if "invalidated" in facts:
                self.invalidated.append(facts["invalidated"])
            if "error" in facts:
                self.errors.append((facts["call"], facts["at"], facts["error"]))
            if "said" in facts:
                self.said.append((facts["at"], facts["said"]))
            if "usage" in facts:
                self.usage.append(facts["usage"])
                self.told_usage.set()
            if "ready" in facts:
                self.ready.set()

    def ask_usage(self) -> None:
        assert self.process.stdin is not None
        self.told_usage.clear()
        self.process.stdin.write("usage\n")
        self.process.stdin.flush()
        assert self.told_usage.wait(60)

    def kill(self) -> None:
        self.killed_at = time.time()
        with self.process:
            self.process.kill()
        self._reader.join()

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(60)
        self._reader.join()
        with self.process:
            return code


@dataclass
class Report:
    """What came of it."""

    calls: int
    requests: int
    needless: list[str]
    expired: int
    errors: list[str]
    excused: Counter[str]
    done: Counter[str]
    leaks: list[str]
    usage: str

    def faults(self) -> list[str]:
        """What must not be."""
        found = [f"{n} callers saw, while a valid token existed: {error}" for error, n in Counter(self.errors).items()]
        found += [f"leak: {leak}" for leak in self.leaks]
        if self.expired:
            found.append(f"{self.expired} expired tokens were sent")
        if len(self.needless) > 0.02 * self.requests:
            found.append(f"{len(self.needless)} of {self.requests} token requests were needless")
        return found

    def text(self) -> str:
        share = 100 * len(self.needless) / max(1, self.requests)
        lines = [
            f"{self.calls} calls of the resource, {self.expired} with an expired token",
            f"{self.requests} token requests, {len(self.needless)} of them needless ({share:.1f} %; at most 2 %)",
            *(f"    {each}" for each in self.needless),
            f"{len(self.errors)} errors while a valid token existed",
            f"{sum(self.excused.values())} while none did, or where two were revoked under one call",
            *(f"    {count} x {error}" for error, count in self.excused.most_common(5)),
            "faults done: " + ", ".join(f"{name} {count}" for name, count in sorted(self.done.items())),
            self.usage,
            *(f"FAULT {fault}" for fault in self.faults()[:10]),
        ]
        return "\n".join(lines)


class Chaos:
    """`run` is one session. All that happens is decided by `seed`, but for what the machine's timing does."""

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        processes: int,
        tasks: int,
        lifetime: float,
        seed: int,
        store: str | None = None,
    ) -> None:
        """`store` in place of the Redis that is harmed."""
        self._random = random.Random(seed)
        self._seconds = seconds
        self._size = processes
        self._lifetime = lifetime
        self._server = AuthorizationServer(lifetime=lifetime)
        self._redis = RedisServer(folder)
        self._store = store
        self._protected = Protected()
        self._tasks = tasks
        self._fleet: list[Process] = []
        self._gone: list[Process] = []
        self._store_faults: list[tuple[float, float]] = []
        self._done: Counter[str] = Counter()

    def run(self, say: Callable[[str], object]) -> Report:
        config = uvicorn.Config(
            self._protected, port=self._protected.port, log_level="critical", lifespan="off", timeout_keep_alive=600
        )
        resource = uvicorn.Server(config)
        serving = threading.Thread(target=resource.run)
        with self._server, self._redis:
            serving.start()
            try:
                self._settings = {
                    "url": f"http://127.0.0.1:{self._protected.port}/",
                    "tasks": self._tasks,
                    "provider": {
                        "client_id": "demo",
                        "client_secret": "demo-secret",
                        "token_endpoint": self._server.token_endpoint(),
                        "store": self._store or self._redis.url,
                    },
                }
                self._fleet = [Process(self._settings) for _ in range(self._size)]
                for process in self._fleet:
                    assert process.ready.wait(60)
                self._do_harm(say)
                # Calm again: the last faults are over, and so are the pauses that they caused.
                self._pause(max(5.0, self._lifetime / 2))
                for process in self._fleet:
                    process.ask_usage()
                return self._judge()
            finally:
                for process in self._fleet:
                    process.leave()
                resource.should_exit = True
                serving.join()

    def _do_harm(self, say: Callable[[str], object]) -> None:
        started, self._began = time.monotonic(), time.time()
        self._pause(3)
        for process in self._fleet:
            process.ask_usage()
        deeds = [
            self._kill_server,
            self._slow_server,
            self._failing_server,
            self._busy_server,
            self._polite_server,
            self._garbage,
            self._half_answers,
            self._kill_redis,
            self._pause_redis,
            self._kill_leader,
            self._pause_process,
            self._revoke,
        ]
        plan: list[Callable[[], None]] = []
        while (left := self._seconds - (time.monotonic() - started)) > 0:
            if not plan:
                # Each once in every round, in an order of its own.
                plan = self._random.sample(deeds, len(deeds))
            deed = plan.pop()
            name = deed.__name__.strip("_")
            say(f"{self._seconds - left:7.1f} s  {name}")
            self._done[name] += 1
            deed()
            self._pause(self._random.uniform(0.5, 2))

    def _pause(self, seconds: float) -> None:
        # What is waited for here is the passing of time itself: the fleet works meanwhile.
        threading.Event().wait(seconds)

    def _while(self, least: float, most: float) -> None:
        self._pause(self._random.uniform(least, most))

    def _kill_server(self) -> None:
        self._server.kill()
        self._while(0.5, self._lifetime / 4)
        self._server.start()

    def _slow_server(self) -> None:
        self._server.set(latency=self._random.uniform(0.3, 2))
        self._while(1, self._lifetime / 4)
        self._server.set(latency=0)

    def _trouble(self) -> None:
        # Without a valid token anywhere, so that the fleet meets the fault.
        self._revoke()
        self._while(0.5, 2)
        self._server.recover()

    def _failing_server(self) -> None:
        self._server.fail(500, count=10_000)
        self._while(1, self._lifetime / 4)
        self._server.recover()

    def _busy_server(self) -> None:
        self._server.fail(429, count=10_000)
        self._trouble()

    def _polite_server(self) -> None:
        self._server.fail(self._random.choice([429, 503]), count=1, retry_after=self._random.randint(1, 2))
        self._trouble()

    def _garbage(self) -> None:
        self._server.malform(self._random.choice(["html", "truncated", "bad_token"]), count=10_000)
        self._while(1, self._lifetime / 4)
        self._server.recover()

    def _half_answers(self) -> None:
        self._server.drop(count=10_000)
        self._trouble()

    def _kill_redis(self) -> None:
        began = time.time()
        self._redis.kill()
        self._while(0.5, self._lifetime / 4)
        self._redis.start()
        self._store_faults.append((began, time.time() + GRACE))

    def _pause_redis(self) -> None:
        began = time.time()
        self._redis.signal(signal.SIGSTOP)
        self._while(0.2, self._lifetime / 4)
        self._redis.signal(signal.SIGCONT)
        self._store_faults.append((began, time.time() + GRACE))

    def _kill_leader(self) -> None:
        """Have somebody ask, and kill it before it is answered."""
        # Counted first: whoever asks just as the server is held leads already, and nobody would ask after it.
        before = {id(process): process.asks for process in self._fleet}
        self._server.hold()
        self._revoke()
        deadline = time.monotonic() + self._lifetime
        while True:
            leaders = [process for process in self._fleet if process.asks > before[id(process)]]
            if leaders or time.monotonic() > deadline:
                break
            self._pause(0.005)
        for leader in leaders[:1]:
            leader.kill()
            self._gone.append(leader)
            self._fleet.remove(leader)
            self._fleet.append(Process(self._settings))
            self._done["leaders killed"] += 1
        self._while(0.1, 1)
        self._server.release()

    def _pause_process(self) -> None:
        process = self._random.choice(self._fleet)
        began = time.time()
        process.process.send_signal(signal.SIGSTOP)
        # Longer than a lease, if it should hold one.
        self._revoke()
        self._while(1, 5)
        process.process.send_signal(signal.SIGCONT)
        process.pauses.append((began, time.time()))

    def _revoke(self) -> None:
        token = self._protected.newest()
        if token is not None:
            self._protected.revoked.setdefault(token, time.time())

    def _judge(self) -> Report:
        everybody = [*self._fleet, *self._gone]
        errors = [each for process in everybody for each in process.errors]
        unexcused = [error + self._story(call) for call, at, error in errors if self._must_not_be(call, at)]
        excused = Counter(error for call, at, error in errors if not self._must_not_be(call, at))
        firsts = [process.usage[0] for process in self._fleet if len(process.usage) > 1]
        lasts = [process.usage[-1] for process in self._fleet if len(process.usage) > 1]
        leaks: list[str] = []
        # A connection to the authorization server, Redis's two, and one each that is being replaced.
        for what, allowed in (("descriptors", 8), ("threads", 4), ("tasks", 2), ("kib", 8 * 1024)):
            for first, last in zip(firsts, lasts, strict=True):
                if last[what] > first[what] + allowed:
                    leaks.append(f"{what} {first[what]} -> {last[what]}")
        worst = {what: max((last[what] - first[what] for first, last in zip(firsts, lasts, strict=True)), default=0)
                 for what in ("descriptors", "threads", "tasks", "kib")}  # fmt: skip
        return Report(
            calls=self._protected.calls,
            requests=sum(process.asks for process in everybody),
            needless=self._needless(everybody),
            expired=self._protected.expired,
            errors=unexcused,
            excused=excused,
            done=self._done,
            leaks=leaks,
            usage="most that a process grew by: " + ", ".join(f"{what} {n}" for what, n in worst.items()),
        )

    def _must_not_be(self, call: str, at: float) -> bool:
        """Whether an error came while a valid token existed, and not because two were revoked under one call."""
        match self._protected.refusals[call]:
            case [(first, one), (_, other)] if one != other and self._protected.revoked[other] > first:
                return False
            case _:
                return self._protected.valid_at(at)

    def _story(self, call: str) -> str:
        """What a call that was refused was refused with, in seconds of the session."""
        refusals, revoked = self._protected.refusals[call], self._protected.revoked
        return "".join(
            f"; at {at - self._began:.2f} s with ...{token[-6:]}, revoked at {revoked[token] - self._began:.2f} s"
            for at, token in refusals
        )

    def _needless(self, everybody: list[Process]) -> list[str]:
        """Tokens that were asked for while a fresh one was there, or on its way, that every process could have had."""
        answers = sorted(
            ((asked, came, process) for process in everybody for asked, came in process.received),
            key=lambda answer: answer[0],
        )
        found: list[str] = []
        for index, (asked, _, process) in enumerate(answers):
            earlier = [each for each in answers[max(0, index - 40) : index] if self._makes_needless(each, asked)]
            if earlier:
                began, came, _ = earlier[-1]
                before = f"{asked - began:.2f} s after another that took {came - began:.2f} s"
                said = [f"; {words} {asked - at:.2f} s before" for at, words in process.said if 0 < asked - at < 10]
                found.append(f"at {asked - self._began:.1f} s: {before}{''.join(said)}")
        return found

    def _makes_needless(self, earlier: tuple[float, float, Process], asked: float) -> bool:
        began, came, process = earlier
        # Refreshed from half of its life, by up to a quarter of that earlier.
        if asked - began > self._lifetime * 0.5 * 0.75 - 0.1:
            return False
        revoked = any(came <= moment <= asked for moment in self._protected.revoked.values())
        unstored = any(start <= asked and began <= end for start, end in self._store_faults)
        lost = process.killed_at is not None and process.killed_at - came < 1
        # One that was paused for longer than its lease is rightly replaced.
        paused = any(start <= came and began <= end for start, end in process.pauses)
        # What was asked for before an invalidation is not used after it: the call that found a token to be revoked may
        # be the one that had its refresh begun.
        void = any(began - HESITATION <= moment <= came for moment in process.invalidated)
        return not (revoked or unstored or lost or paused or void)
