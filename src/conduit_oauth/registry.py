"""`TokenProviders`: many named providers, made at first use, kept warm, and restarted when they break down.

Law: nothing that happens to one provider reaches another; what is in use is never taken away, and no change of the
settings drops a valid token of which they say the same as before.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import random
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .clock import Clock, elapsed
from .config import seconds
from .errors import ConfigurationError, OAuthError
from .landing import Landing, in_thread
from .provider import TokenProvider
from .settings import Settings, from_file, from_mapping
from .state import Health
from .transport import SharedTransport

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("conduit_oauth")

# Seconds between two looks at the file.
WATCH = 1.0
# Seconds that the keeper sleeps at most.
IDLE = 3600.0
# What is refused (a wrong secret) is asked for again after REFUSAL, then twice as long each time, up to REFUSAL_CAP.
REFUSAL = 30.0
REFUSAL_CAP = 900.0
RESTART_BASE = 0.5
RESTART_CAP = 60.0


class _Ward:
    """What the keeper knows of one provider in use."""

    __slots__ = ("crashes", "due", "given_up", "provider", "refusals")

    def __init__(self, provider: TokenProvider, crashes: deque[float] | None = None) -> None:
        self.provider = provider
        self.due = -math.inf
        self.refusals = 0
        # When it broke down, within the period that counts; None while it never did.
        self.crashes = crashes
        self.given_up: OAuthError | None = None


class TokenProviders:
    """Named providers: `providers["billing"].get_token()`.

    `with`, `async with` or `start()` has them supervised: whatever is in use is refreshed though nobody calls, what
    breaks down is restarted, and a changed file is read anew. Safe to share between threads and event loops.

    Args:
        providers: settings of each provider by name, arguments of `TokenProvider`; or a TOML file, see
            `conduit_oauth.settings`.
        defaults: settings that each provider gets unless it says otherwise.
        limit: how many providers are kept at most; those that were not asked for the longest go first, but for those
            that somebody still holds.
        max_refreshes: how many tokens the supervision asks for at the same time.
        max_restarts, restart_period: a provider that breaks down more often than that within so many seconds is given
            up until it is asked for again, or its settings change.
        clock: as `TokenProvider`'s.

    Raises:
        ConfigurationError: the file cannot be read, or there is no such setting. What else is wrong with one provider's
            settings is found when it is asked for.
    """

    def __init__(
        self,
        providers: Mapping[str, Mapping[str, Any]] | str | Path,
        *,
        defaults: Mapping[str, Any] | None = None,
        limit: int = 10_000,
        max_refreshes: int = 16,
        max_restarts: int = 5,
        restart_period: float = 60.0,
        clock: Clock = elapsed,
    ) -> None:
        for name, number in (("limit", limit), ("max_refreshes", max_refreshes), ("max_restarts", max_restarts)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(name, "is not a number of at least 1", "Pass a whole number.")
        self._file = None if isinstance(providers, Mapping) else Path(providers)
        self._defaults: dict[str, Any] = {"clock": clock, **(defaults or {})}
        self._limit = limit
        self._max_refreshes = max_refreshes
        self._max_restarts = max_restarts
        self._restart_period = seconds(restart_period, "restart_period", at_least=0.001)
        self._clock = clock
        self._lock = threading.RLock()
        self._transport = SharedTransport()
        self._version = self._file_version()
        self._settings = (
            from_mapping(providers, self._defaults) if isinstance(providers, Mapping) else self._from_file()
        )
        self._looked_at = clock()
        # In the order of use, and what of it was let go of here but is held elsewhere.
        self._wards: OrderedDict[str, _Ward] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[str, TokenProvider] = weakref.WeakValueDictionary()
        # (moment, name); of several for one provider the one that its ward knows counts.
        self._agenda: list[tuple[float, str]] = []
        self._refreshing: set[str] = set()
        self._wake = Landing()
        self._thread: threading.Thread | None = None
        self._tasks: TaskGroup | None = None
        self._supervised = False
        self._closed = False
        _registries.add(self)

    def __getitem__(self, name: str) -> TokenProvider:
        """The provider called `name`, made now if nobody asked for it before.

        Raises `KeyError` for a name without settings, `ConfigurationError` for settings that will not do.
        """
        with self._lock:
            ward = self._wards.get(name)
            if ward is None or ward.provider.control.closed:
                ward = self._make(name)
            elif ward.given_up is not None:
                self._replace(name, ward)
                ward = self._wards[name]
            self._wards.move_to_end(name)
            return ward.provider

    def __contains__(self, name: object) -> bool:
        return name in self._settings

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._settings))

    def __len__(self) -> int:
        return len(self._settings)

    def health(self) -> dict[str, Health]:
        """How each provider is; nothing is asked or made for that."""
        with self._lock:
            wards = dict(self._wards)
            return {name: self._health(name, wards.get(name)) for name in self._settings}

    def reload(self) -> None:
        """Read the file anew, now. Raises `ConfigurationError`, and changes nothing, where it will not do.

        A provider whose settings changed is replaced; its token stays where they ask for the same token. Where one's
        new settings will not do, that is logged, and it goes on with the old ones.
        """
        version = self._file_version()
        settings = self._from_file()
        with self._lock:
            before, self._settings, self._version = self._settings, settings, version
            for name in [name for name in self._wards if settings.get(name) != before.get(name)]:
                if name in settings:
                    self._replace(name, self._wards[name])
                else:
                    del self._wards[name]
                    self._alive.pop(name, None)

    def start(self) -> Self:
        """Supervise on a thread, until `close`."""
        with self._lock:
            self._supervise()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="conduit-oauth-keeper", daemon=True)
                self._thread.start()
        return self

    def close(self) -> None:
        """End the supervision, close every provider, then the connections."""
        with self._lock:
            self._closed = True
            self._supervised = False
            thread, self._thread = self._thread, None
            providers = [ward.provider for ward in self._wards.values()]
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for provider in providers:
            provider.close()
        self._transport.shut()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        import anyio

        self._supervise()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._keep_async)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        import anyio

        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            # Not told of the caller's exception, which it would wrap in a group.
            await self._tasks.__aexit__(None, None, None)
            self._tasks = None
        # What a provider tells its store, or revokes, is done though the caller is being cancelled.
        with anyio.CancelScope(shield=True):
            await in_thread(self.close)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[dict[str, TokenProviders]]:
        """The lifespan of a Starlette or FastAPI application: `Starlette(lifespan=providers.lifespan)`.

        Requests find the providers as `request.state.token_providers`.
        """
        async with self:
            yield {"token_providers": self}

    def after_fork_in_child(self) -> None:
        """Share no lock with the parent; supervise with a thread of our own where the parent had one."""
        self._lock = threading.RLock()
        self._wake = Landing()
        self._refreshing.clear()
        self._tasks = None
        if self._thread is not None:
            self._thread = None
            for name, ward in self._wards.items():
                self._schedule(name, ward, -math.inf)
            self.start()

    def _make(self, name: str) -> _Ward:
        self._check_open()
        if name not in self._settings:
            raise KeyError(f"no provider {name!r}; there are {', '.join(list(self._settings)[:20]) or 'none'}")
        provider = self._alive.get(name)
        if provider is None or provider.control.closed:
            provider = self._provider(name, self._settings[name])
        return self._admit(name, _Ward(provider))

    def _provider(self, name: str, settings: Settings) -> TokenProvider:
        try:
            given: dict[str, Any] = {"http_client": self._transport, **settings}
            return TokenProvider(name=name, **given)
        except ConfigurationError as error:
            raise error.within(f"providers.{name}") from None
        except TypeError as error:  # no client_id
            raise ConfigurationError(f"providers.{name}", str(error), "Add the setting that is missing.") from None

    def _admit(self, name: str, ward: _Ward) -> _Ward:
        self._wards[name] = ward
        self._alive[name] = ward.provider
        ward.provider.control.ended = self._over(name)
        self._schedule(name, ward, -math.inf)
        while len(self._wards) > self._limit:
            gone, _ = self._wards.popitem(last=False)
            self._refreshing.discard(gone)
        return ward

    def _replace(self, name: str, old: _Ward) -> None:
        """Put a provider with the settings of now in the place of `old`, with its token where it is the same one."""
        try:
            provider = self._provider(name, self._settings[name])
        except ConfigurationError as error:
            # The one that was made before goes on.
            logger.warning("provider_not_replaced name=%s: %s", name, error)
            return
        provider.control.inherit(old.provider.control)
        self._admit(name, _Ward(provider))

    # Supervision. The keeper is a thread or a task; both do `_round` again and again.

    def _supervise(self) -> None:
        with self._lock:
            self._check_open()
            self._supervised = True
            for name, ward in self._wards.items():
                self._schedule(name, ward, -math.inf)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("providers", "are closed", "Create a new TokenProviders.")

    def _keep(self) -> None:
        while self._supervised:
            wake, pause = self._guarded_round()
            wake.wait(pause)

    async def _keep_async(self) -> None:
        while self._supervised:
            # A provider that is made anew may read files.
            wake, pause = await in_thread(self._guarded_round)
            await wake.wait_async(pause)

    def _guarded_round(self) -> tuple[Landing, float]:
        try:
            return self._round()
        except Exception:  # a fault of ours: the supervision goes on
            logger.exception("supervision_failed")
            return self._wake, WATCH

    def _round(self) -> tuple[Landing, float]:
        """Look after everything that is due; what to wait for, and for how long."""
        with self._lock:
            if self._wake.is_set():
                self._wake = Landing()
            wake, now = self._wake, self._clock()
            while self._agenda and self._agenda[0][0] <= now and len(self._refreshing) < self._max_refreshes:
                moment, name = heapq.heappop(self._agenda)
                ward = self._wards.get(name)
                if ward is not None and moment == ward.due:
                    self._tend(name, ward)
            # With as many refreshes on as there may be, the end of one wakes us.
            full = len(self._refreshing) >= self._max_refreshes
            pause = self._agenda[0][0] - now if self._agenda and not full else IDLE
            if not self._supervised:
                pause = 0.0
        if self._file is not None:
            self._look_at_file(self._file, now)
            pause = min(pause, WATCH)
        return wake, max(0.0, pause)

    def _tend(self, name: str, ward: _Ward) -> None:
        try:
            moment = ward.provider.control.keep()
        except Exception as error:  # one provider's trouble is not the others'
            self._restart(name, ward, error)
            return
        if moment is None:
            self._refreshing.add(name)
        elif moment < math.inf:
            self._schedule(name, ward, moment)

    def _over(self, name: str) -> Callable[[bool], None]:
        """What the provider calls when a flight of its is over."""
        reference = weakref.ref(self)

        def over(crashed: bool) -> None:
            if (registry := reference()) is not None:
                registry._flight_over(name, crashed=crashed)

        return over

    def _flight_over(self, name: str, *, crashed: bool) -> None:
        with self._lock:
            self._refreshing.discard(name)
            ward = self._wards.get(name)
            if ward is not None and crashed:
                self._restart(name, ward, OAuthError(f"provider {name!r} broke down; the log has the traceback."))
            elif ward is not None:
                error = ward.provider.state().last_error
                refused = error is not None and not error.retryable
                ward.refusals = ward.refusals + 1 if refused else 0
                rest = min(REFUSAL_CAP, REFUSAL * 2.0 ** min(ward.refusals - 1, 16)) if refused else 0.0
                self._schedule(name, ward, self._clock() + rest if rest else -math.inf)
            self._wake.set()

    def _restart(self, name: str, ward: _Ward, error: Exception) -> None:
        """Make a provider anew that broke down, a little later each time; give it up where that does not help."""
        now = self._clock()
        crashes = deque([moment for moment in ward.crashes or () if now - moment < self._restart_period] + [now])
        ward.crashes = crashes
        if len(crashes) > self._max_restarts:
            ward.given_up = error if isinstance(error, OAuthError) else OAuthError(type(error).__name__)
            logger.error("provider_given_up name=%s restarts=%d: %s", name, len(crashes) - 1, type(error).__name__)
            return
        pause = min(RESTART_CAP, RESTART_BASE * 2.0 ** (len(crashes) - 1)) * (0.5 + random.random() / 2)
        logger.warning("provider_restarted name=%s in=%.1f: %s", name, pause, type(error).__name__)
        try:
            provider = self._provider(name, self._settings[name])
        except (ConfigurationError, KeyError):
            provider = ward.provider
        else:
            provider.control.inherit(ward.provider.control)
        anew = self._admit(name, _Ward(provider, crashes))
        self._schedule(name, anew, now + pause)

    def _schedule(self, name: str, ward: _Ward, moment: float) -> None:
        if self._supervised:
            ward.due = moment
            heapq.heappush(self._agenda, (moment, name))
            self._wake.set()

    # The file.

    def _from_file(self) -> dict[str, Settings]:
        if self._file is None:
            raise ConfigurationError("providers", "were not read from a file", "Pass a TOML file to reload.")
        return from_file(self._file, self._defaults)

    def _file_version(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return status and (status.st_mtime_ns, status.st_size, status.st_ino)

    def _look_at_file(self, file: Path, now: float) -> None:
        if now - self._looked_at < WATCH:
            return
        self._looked_at = now
        version = self._file_version()
        if version is None or version == self._version:
            return
        try:
            self.reload()
            logger.info("providers_reloaded file=%s", file)
        except ConfigurationError as error:
            # Said once for each version of the file; what was read before stays.
            self._version = version
            logger.warning("providers_not_reloaded: %s", error)

    def _health(self, name: str, ward: _Ward | None) -> Health:
        if ward is None:
            return Health(name, "idle", False, None, None, None, None, 0)
        state = ward.provider.state()
        trouble = ward.given_up or state.last_error
        if ward.given_up is not None:
            word = "given up"
        elif state.refreshing:
            word = "refreshing"
        elif trouble is not None:
            word = "failing"
        else:
            word = "fresh" if state.cached else "idle"
        next_refresh = state.refresh_at
        if self._supervised and ward.given_up is None and ward.due > self._clock():
            next_refresh = datetime.now(UTC) + timedelta(seconds=ward.due - self._clock())
        return Health(
            name=name,
            state=word,
            valid=state.cached,
            last_success=state.last_success,
            last_error=ward.given_up or state.last_failure,
            last_error_at=state.last_failure_at,
            next_refresh=next_refresh,
            restarts=len(ward.crashes or ()),
        )


_registries: weakref.WeakSet[TokenProviders] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for registry in list(_registries):
        registry.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
