"""When tokens are written, withdrawn and told of: after each change, from one thread.

Invariant: An output contains the current token of its provider. An expired token is removed. An output that cannot be
written is tried again and reported, and does not delay the others.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..clock import elapsed
from ..errors import ConfigurationError, OAuthError
from ..events import Observer
from ..identity.sources import public_environment
from ..places import default_store
from ..runtime.landing import wait_until
from ..supervision.registry import TokenProviders
from .agenda import Agenda
from .checking import problems_of
from .config import AgentConfig, Output, read_agent
from .hooks import Call, Hooks, Trouble
from .ledger import Claims, Entries, Ledger
from .making import Making
from .outputs import put, tidy, trace, withdraw

logger = logging.getLogger("conduit_oauth.agent")

# Seconds until an output that could not be written, or taken away, is tried again.
RETRY = 5.0
# Seconds between two looks at an output, and at the files of a provider that could not be made.
LOOK, AGAIN = 60.0, 1.0


class Agent:
    """Keeps the tokens of every provider of the file at `path` fresh, and every output of it up to date.

    `observer` is told of each event of each provider, `on_command` how many seconds each command came late. Raises
    `ConfigurationError`.
    """

    def __init__(
        self, path: Path, observer: Observer | None = None, on_command: Callable[[float], object] | None = None
    ) -> None:
        self.providers = TokenProviders(
            path,
            # Kept beside what is written, so that a new agent knows how long it lasts.
            defaults={"store": default_store(), "observer": observer},
            limit=1_000_000,
            readers={"agent": read_agent},
            on_reload=lambda: self._jobs.put(self._reread),
            on_change=lambda name: self._jobs.put(partial(self._look_at, name)),
        )
        self._making = Making(self.providers)
        # What went wrong with writing for a provider, and when.
        self._unwritten: dict[str, Trouble] = {}
        # Set once every provider has its token written, or failed once.
        self.settled = threading.Event()
        self._unsettled: set[str] = set()
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._agenda = Agenda()
        self._closed = False
        # By slot: what each output has now, for which provider and in which shape, and what the file looked like then.
        self._written: dict[str, tuple[str, str, tuple[object, ...]]] = {}
        self._traces: dict[str, tuple[int, ...]] = {}
        # Every output that there is, and that an agent before had.
        self._ledger = Ledger(path)
        self._entries: Entries = {}
        # Of these, what the file names no more and could not be taken away yet; when to try again.
        self._gone: Entries = {}
        self._retire_at = math.inf
        self._claims = Claims()
        self._hooks = Hooks(on_command)
        self._thread = threading.Thread(target=self._work, name="conduit-oauth-writer", daemon=True)

    def start(self) -> None:
        """Begin, on threads of its own."""
        self._unsettled = set(self.providers)
        self._entries = self._ledger.read()
        self.providers.start()
        self._thread.start()
        self._jobs.put(self._reread)

    def once(self) -> dict[str, str]:
        """Write every token once, and stop; what kept us from it, by provider."""
        pool = ThreadPoolExecutor(16)
        try:
            self.start()
            answers = {name: pool.submit(self._problem, name) for name in self.providers}
            wait_until(lambda seconds: not wait(answers.values(), seconds).not_done)
            looked = threading.Event()
            self._jobs.put(self._look_at_all)
            self._jobs.put(looked.set)
            wait_until(looked.wait)
            wait_until(self._hooks.wait)
            troubles = self.troubles
        except BaseException:
            # Whoever waits for a token ends at once.
            self.providers.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.close()
        refused = {name: problem for name, answer in answers.items() if (problem := answer.result()) is not None}
        return refused | {name: problem for name, (_, problem) in troubles.items()}

    def check(self) -> list[str]:
        """Whatever is wrong with the file and with what it names; nobody is asked for a token."""
        return problems_of(self.providers) + self.config.problems(list(self.providers))

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What is wrong with the outputs of each provider, and since when."""
        return self._hooks.troubles | self._unwritten.copy()

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
        if self._thread.ident is not None:
            self._thread.join()
        self._hooks.close()
        self._claims.close()
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
        """Take away what the file names no more, and bring the rest up to date."""
        wanted: Entries = {}
        for name in self.providers:
            for output in self.config.outputs:
                if output.wants(name):
                    try:
                        wanted[output.slot(name)] = output, name
                    except ConfigurationError:  # which the look at that provider tells
                        continue
        gone = {slot: entry for slot, entry in (self._entries | self._gone).items() if slot not in wanted}
        if gone:
            logger.warning("outputs_removed count=%d: the file names them no more", len(gone))
        for output, name in {Path(slot).parent: entry for slot, entry in wanted.items()}.values():
            with contextlib.suppress(OSError, ConfigurationError):
                tidy(output, name)
        self._entries, self._gone = wanted, gone
        self._retire()
        for name in [name for name in self._unwritten if name not in self.providers]:
            del self._unwritten[name]
        self._unsettled.intersection_update(self.providers)
        self._ask_for_all()

    def _retire(self) -> None:
        """Take away what the file names no more; what cannot be taken away now is tried again."""
        self._gone = {slot: entry for slot, entry in self._gone.items() if not self._retired(slot, *entry)}
        self._retire_at = elapsed() + RETRY if self._gone else math.inf
        self._ledger.keep(self._entries | self._gone)

    def _retired(self, slot: str, output: Output, name: str) -> bool:
        """Whether an output is gone, and its command told so."""
        self._written.pop(slot, None)
        self._traces.pop(slot, None)
        try:
            self._claims.hold(slot)
            withdraw(output, name)
        except (OSError, ConfigurationError) as error:
            logger.warning("output_failed name=%s: %s", name, error)
            return False
        self._claims.let_go(slot)
        self._call(slot, output, name, "", is_last=True)
        return True

    def _ask_for_all(self) -> None:
        """Have every provider of the file kept warm, then look at them."""
        self._making.forgive()
        for name in self.providers:
            self._ask_for(name)
        self._look_at_all()

    def _ask_for(self, name: str) -> None:
        if (problem := self._making.problem(name)) is not None:
            self._trouble(name, problem)
            self._settle(name)
            self._agenda.add(name, elapsed() + AGAIN)

    def _look_at_all(self) -> None:
        for name in self.providers:
            self._look_at(name)
        if not self._unsettled:
            self.settled.set()

    def _work(self) -> None:
        while not self._closed:
            first = min(self._retire_at, self._agenda.first)
            try:
                job = self._jobs.get(timeout=max(0.0, first - elapsed()) if first < math.inf else None)
            except queue.Empty:
                if first == self._retire_at:
                    job = self._retire
                elif (name := self._agenda.take()) is not None:
                    job = partial(self._look_at, name)
                else:
                    continue
            try:
                job()
            except Exception:  # a fault of ours with one provider: the others go on
                logger.error("agent_failed\n%s", traceback.format_exc())

    def _look_at(self, name: str) -> None:
        """Bring the outputs of one provider up to date."""
        # Not by `[name]`, which would restart what the supervision gave up, again and again.
        provider = self.providers.in_use(name)
        if provider is None:
            if self._making.has_failed(name):
                self._ask_for(name)
            return
        token = provider.control.held()
        value = token.value if token else ""
        failed: str | None = None
        for output in self.config.outputs:
            if not output.wants(name):
                continue
            try:
                slot = output.slot(name)
                has = value, name, output.shape
                is_there = token is None or trace(output, name) == self._traces.get(slot)
                if not is_there or self._written.get(slot) != has:
                    if token is not None:
                        self._claims.hold(slot)
                        put(output, name, provider, value)
                        self._traces[slot] = trace(output, name)
                    elif provider.control.history.failed_at is None and slot not in self._written:
                        # Not asked for yet: what an earlier agent left there may be valid still.
                        continue
                    elif not withdraw(output, name) and slot not in self._written:
                        # There was none.
                        continue
                    self._written[slot] = has
                self._call(slot, output, name, value)
            except (OSError, ConfigurationError) as error:
                place = output.place(name) or output.command[0] if isinstance(error, OSError) else output.provider
                failed = f"{place}: {error}"
                logger.warning("output_failed name=%s: %s", name, failed)
            except Exception as error:  # a fault of ours: reported, and tried again, as any other
                failed = f"broke down with {type(error).__name__}"
                logger.error("agent_failed\n%s", traceback.format_exc())
        if failed is not None:
            self._trouble(name, failed)
            self._agenda.add(name, elapsed() + RETRY)
        else:
            self._unwritten.pop(name, None)
            if token is not None:
                # An output that was removed or changed meanwhile is written again.
                self._agenda.add(name, min(token.expires_at, elapsed() + LOOK))
        if token is not None or provider.control.history.failed_at is not None:
            self._settle(name)

    def _trouble(self, name: str, problem: str) -> None:
        if problem != self._unwritten.get(name, (None, ""))[1]:
            self._unwritten[name] = datetime.now(UTC), problem

    def _settle(self, name: str) -> None:
        self._unsettled.discard(name)
        if not self._unsettled:
            self.settled.set()

    def _call(self, slot: str, output: Output, name: str, token: str, *, is_last: bool = False) -> None:
        if output.command:
            place = str(output.place(name) or "")
            facts = {"CONDUIT_OAUTH_PROVIDER": name, "CONDUIT_OAUTH_OUTPUT": place}
            self._hooks.tell(slot, Call(name, output.command, {**public_environment(), **facts}, token, is_last))
