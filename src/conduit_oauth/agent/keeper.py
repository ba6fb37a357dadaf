"""When tokens are written, withdrawn and told of: after each change, from one thread.

Law: what is written is the provider's token of that moment; what is over is withdrawn; and what cannot be written is
tried again and told, while every other output goes on.
"""

from __future__ import annotations

import heapq
import logging
import queue
import subprocess
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..clock import elapsed
from ..credentials import public_environment
from ..errors import ConfigurationError, OAuthError
from ..events import Observer
from ..places import default_store
from ..registry import TokenProviders
from .config import AgentConfig, Output, read_agent
from .outputs import put, trace, withdraw

logger = logging.getLogger("conduit_oauth.agent")

# Seconds until an output that could not be written is tried again, and that a command may take.
RETRY = 5.0
COMMAND_LIMIT = 60.0
# Seconds between two looks at an output.
LOOK = 60.0

Key = tuple[Output, str]
Trouble = tuple[datetime, str]


class Agent:
    """Keeps the tokens of every provider of the file at `path` fresh, and every output of it up to date.

    `observer` is told of each event of each provider. Raises `ConfigurationError`.
    """

    def __init__(self, path: Path, observer: Observer | None = None) -> None:
        self.providers = TokenProviders(
            path,
            # Kept beside what is written, so that a new agent knows how long it lasts.
            defaults={"store": default_store(), "observer": observer},
            limit=1_000_000,
            readers={"agent": read_agent},
            on_reload=lambda: self._jobs.put(self._reread),
            on_change=lambda name: self._jobs.put(partial(self._look_at, name)),
        )
        # What went wrong with writing for a provider, and with the latest run of a command, and when.
        self._unwritten: dict[str, Trouble] = {}
        self._failed_commands: dict[Key, Trouble] = {}
        # Set once every provider has its token written, or failed once.
        self.settled = threading.Event()
        self._unsettled: set[str] = set()
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        # (moment, name); of several for one provider the one in `_due` counts.
        self._agenda: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._closed = False
        # The token that each output has now, and what the file looked like then.
        self._written: dict[Key, str] = {}
        self._traces: dict[Key, tuple[int, ...]] = {}
        self._commands = ThreadPoolExecutor(4, "conduit-oauth-command")
        # Whose command runs; it runs once more where its output changed meanwhile.
        self._running: set[Key] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="conduit-oauth-writer", daemon=True)

    def start(self) -> None:
        """Begin, on threads of its own."""
        self._unsettled = set(self.providers)
        self.providers.start()
        self._thread.start()
        self._jobs.put(self._ask_for_all)

    def once(self) -> dict[str, str]:
        """Write every token once, and stop; what kept us from it, by provider."""
        names = list(self.providers)
        self.start()
        try:
            with ThreadPoolExecutor(16) as pool:
                answers = dict(zip(names, pool.map(self._problem, names), strict=True))
        finally:
            self.close()
        refused = {name: problem for name, problem in answers.items() if problem is not None}
        return refused | {name: problem for name, (_, problem) in self.troubles.items()}

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What is wrong with the outputs of each provider, and since when."""
        return {name: trouble for (_, name), trouble in self._failed_commands.copy().items()} | self._unwritten.copy()

    @property
    def config(self) -> AgentConfig:
        """What the file says of the agent, as it was read last."""
        return self.providers.tables["agent"]

    def close(self) -> None:
        """Stop, and leave what is written where it is: whoever reads it should not notice that the agent restarts."""
        self._jobs.put(self._look_at_all)
        self._jobs.put(self._stop)
        # Whoever waits for what will not come any more.
        self.settled.set()
        self._thread.join()
        self._commands.shutdown(cancel_futures=True)
        self.providers.close()

    def _problem(self, name: str) -> str | None:
        """What keeps this provider from a token, for as long as a caller would wait for one."""
        try:
            self.providers[name].get_token()
        except OAuthError as error:
            return str(error)
        return None

    def _stop(self) -> None:
        self._closed = True

    def _reread(self) -> None:
        for output, name in list(self._written):
            if output not in self.config.outputs or name not in self.providers:
                del self._written[output, name]
                self._traces.pop((output, name), None)
                self._failed_commands.pop((output, name), None)
                try:
                    withdraw(output, name)
                except OSError as error:
                    logger.warning("output_failed name=%s: %s", name, error)
        self._unsettled.intersection_update(self.providers)
        self._ask_for_all()

    def _ask_for_all(self) -> None:
        """Have every provider of the file kept warm, then look at them."""
        for name in self.providers:
            try:
                self.providers[name]
            except ConfigurationError as error:
                self._trouble(name, str(error))
                self._settle(name)
        self._look_at_all()

    def _look_at_all(self) -> None:
        for name in self.providers:
            self._look_at(name)
        if not self._unsettled:
            self.settled.set()

    def _work(self) -> None:
        while not self._closed:
            pause = max(0.0, self._agenda[0][0] - elapsed()) if self._agenda else None
            try:
                job = self._jobs.get(timeout=pause)
            except queue.Empty:
                moment, name = heapq.heappop(self._agenda)
                if self._due.get(name) != moment:
                    continue
                del self._due[name]
                job = partial(self._look_at, name)
            try:
                job()
            except Exception:  # a fault of ours with one provider: the others go on
                logger.error("agent_failed\n%s", traceback.format_exc())

    def _look_at_later(self, name: str, moment: float) -> None:
        if self._due.get(name) != moment:
            self._due[name] = moment
            heapq.heappush(self._agenda, (moment, name))

    def _look_at(self, name: str) -> None:
        """Bring the outputs of one provider up to date."""
        # Not by `[name]`, which would restart what the supervision gave up, again and again.
        provider = self.providers.in_use(name)
        if provider is None:
            return
        token = provider.control.held()
        failed: str | None = None
        for output in self.config.outputs:
            key = output, name
            if not output.wants(name):
                continue
            is_there = token is None or trace(output, name) == self._traces.get(key)
            if is_there and self._written.get(key) == (token.value if token else ""):
                continue
            try:
                if token is not None:
                    put(output, name, provider, token.value)
                    self._traces[key] = trace(output, name)
                elif provider.control.failed_at is not None or key in self._written:
                    withdraw(output, name)
                else:
                    # Not asked for yet: what an earlier agent left there may be valid still.
                    continue
            except (OSError, ConfigurationError) as error:
                failed = f"{output.place(name) if isinstance(error, OSError) else output.provider}: {error}"
                logger.warning("output_failed name=%s: %s", name, failed)
                continue
            self._tell(key, token.value if token else "")
        if failed is not None:
            self._trouble(name, failed)
            self._look_at_later(name, elapsed() + RETRY)
        else:
            self._unwritten.pop(name, None)
            if token is not None:
                # What somebody took away or changed meanwhile is written again.
                self._look_at_later(name, min(token.expires_at, elapsed() + LOOK))
        if token is not None or provider.control.failed_at is not None:
            self._settle(name)

    def _trouble(self, name: str, problem: str) -> None:
        self._unwritten[name] = datetime.now(UTC), problem

    def _settle(self, name: str) -> None:
        self._unsettled.discard(name)
        if not self._unsettled:
            self.settled.set()

    def _tell(self, key: Key, token: str) -> None:
        """Note what an output has now, and run its command where that is news and none runs."""
        with self._lock:
            before, self._written[key] = self._written.get(key, ""), token
            if not key[0].command or token == before or key in self._running:
                return
            self._running.add(key)
        self._commands.submit(self._command, key)

    def _command(self, key: Key) -> None:
        while True:
            told = self._written.get(key, "")
            self._execute(*key, told)
            with self._lock:
                if self._written.get(key, "") == told:
                    self._running.discard(key)
                    return

    def _execute(self, output: Output, name: str, token: str) -> None:
        place = output.place(name)
        environment = {**public_environment(), "CONDUIT_OAUTH_PROVIDER": name, "CONDUIT_OAUTH_OUTPUT": str(place or "")}
        try:
            # Not in its arguments or its environment, which others can read.
            done = subprocess.run(  # noqa: S603 - what was configured
                output.command,
                input=token.encode(),
                env=environment,
                stdout=subprocess.DEVNULL,
                timeout=COMMAND_LIMIT,
                check=False,
            )
            problem = f"ended with status {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            problem = f"took more than {COMMAND_LIMIT:g} s"
        except OSError as error:
            problem = error.strerror
        if problem is None:
            self._failed_commands.pop((output, name), None)
        else:
            self._failed_commands[output, name] = datetime.now(UTC), f"{output.command[0]} {problem}"
            logger.warning("command_failed name=%s: %s %s", name, output.command[0], problem)
