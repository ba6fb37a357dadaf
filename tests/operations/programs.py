"""A fleet as frameworks run one: gunicorn's workers, Celery's, and multiprocessing's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery, group

from conduit_oauth.testing import AuthorizationServer
from tests.operations.facts import FACTS
from tests.operations.fleet import ROOT
from tests.ports import free_port
from tests.redis_server import RedisServer

Answers = list[dict[str, Any]]
# So many calls at once, of which each is to make its token void or none is.
Round = Callable[[int, bool], Answers]


@dataclass(frozen=True)
class Ran:
    """One program: a round of calls, an invalidation, and 2 s later another round."""

    name: str
    requests: int
    processes: int
    longest: float
    void: int
    errors: list[str]

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        found = [f"an error: {error}" for error in self.errors[:3]]
        if self.requests > 2:
            found.append(f"{self.requests} token requests, 2 at most")
        if self.longest > 4.0:
            found.append(f"a caller waited {self.longest:.2f} s, 4 s at most")
        if self.void:
            found.append(f"{self.void} void tokens")
        return found


@contextmanager
def gunicorn(
    folder: Path, facts: dict[str, Any], size: int, options: list[str], *, supervised: bool
) -> Iterator[Round]:
    """A web application with so many workers."""
    place = f"127.0.0.1:{free_port()}"
    command = [
        "gunicorn",
        "tests.operations.application:application",
        "--bind",
        place,
        "--workers",
        str(size),
        *options,
    ]

    def ask(is_void: bool) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{place}/{'void' if is_void else ''}", timeout=60) as answer:
            return json.loads(answer.read())

    with (
        _running([*command, *options], folder, {**facts, "supervised": supervised}, "Booting worker", size),
        ThreadPoolExecutor(size) as pool,
    ):
        yield lambda count, is_void: list(pool.map(ask, [is_void] * count))


@contextmanager
def celery(folder: Path, facts: dict[str, Any], size: int) -> Iterator[Round]:
    """Tasks, in processes that Celery forks."""
    command = ["celery", "-A", "tests.operations.tasks", "worker", "--concurrency", str(size), "--loglevel", "INFO"]
    with _running(command, folder, facts, " ready.", 1), Celery(broker=facts["store"], backend=facts["store"]) as app:
        task = app.signature("call")
        yield lambda count, is_void: group(task.clone([is_void]) for _ in range(count)).apply_async().get(timeout=60)


@contextmanager
def pool(folder: Path, facts: dict[str, Any], size: int, method: str) -> Iterator[Round]:
    """A `multiprocessing.Pool`."""
    del folder
    command = [sys.executable, "-m", "tests.operations.pool", method, str(size)]
    environment = {**os.environ, FACTS: json.dumps(facts)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:

        def round_of(count: int, is_void: bool) -> Answers:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([count, is_void]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield round_of


@contextmanager
def _running(command: list[str], folder: Path, facts: dict[str, Any], word: str, count: int) -> Iterator[None]:
    """A program that is up when its log has `word` so many times."""
    log = folder / "program.log"
    environment = {**os.environ, FACTS: json.dumps(facts)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )
    try:
        give_up_at = time.monotonic() + 120
        while log.read_text().count(word) < count:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)


Start = Callable[[Path, dict[str, Any], int], AbstractContextManager[Round]]
PROGRAMS: dict[str, Start] = {}
for _kind in ("sync", "gthread", "gevent"):
    for _preload in (False, True):
        for _supervised in (False, True):
            _options = ["--worker-class", _kind, *(["--preload"] if _preload else [])]
            _name = f"gunicorn, {_kind}{', --preload' if _preload else ''}{', supervised' if _supervised else ''}"
            PROGRAMS[_name] = partial(gunicorn, options=_options, supervised=_supervised)
PROGRAMS["Celery, prefork"] = celery
for _kind in ("fork", "spawn", "forkserver"):
    PROGRAMS[f"multiprocessing, {_kind}"] = partial(pool, method=_kind)


def measure(name: str, size: int = 16) -> Ran:
    """Run the program, and count."""
    with (
        tempfile.TemporaryDirectory() as folder,
        AuthorizationServer() as server,
        RedisServer(Path(folder)) as redis,
    ):
        server.set(latency=0.1)
        facts = {"client_id": server.client_id, "client_secret": server.client_secret, "store": redis.url}
        with PROGRAMS[name](Path(folder), {**facts, "token_endpoint": server.token_endpoint()}, size) as ask:
            answers = ask(8 * size, False)
            (void,) = ask(1, True)
            time.sleep(2)
            after = ask(8 * size, False)
        requests = len(server.token_requests)
    return Ran(
        name,
        requests,
        len({answer["process"] for answer in after}),
        max(answer["seconds"] for answer in [*answers, *after]),
        sum(answer["token"] == void["token"] for answer in after),
        [answer["error"] for answer in [*answers, void, *after] if answer["error"]],
    )
