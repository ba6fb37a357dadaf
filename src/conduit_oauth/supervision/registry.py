"""`TokenProviders`: many named providers, from a mapping or a file, made at first use and bounded in number.

Invariant: A provider in use is never removed. A change of the settings keeps a valid token if they describe the same
token.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..client.transport import SharedTransport
from ..client.validation import seconds
from ..clock import Clock, elapsed
from ..errors import ConfigurationError
from ..events import call_back
from ..lifecycle.state import Health
from ..provider import TokenProvider
from ..runtime.landing import NoThreadError, in_thread
from ..runtime.process import Rank, Resident, enter
from ..settings import Reader, from_mapping
from .settings_file import WATCH, SettingsFile
from .supervisor import Supervisor
from .ward import Ward

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("conduit_oauth")


class TokenProviders(Resident):
    """Named providers: `providers["billing"].get_token()`.

    `with`, `async with` or `start()` has them supervised: whatever is in use is refreshed though nobody calls, what
    breaks down is restarted, and a changed file is read anew. Safe to share between threads and event loops.

    Args:
        providers: settings of each provider by name, arguments of `TokenProvider`; or a TOML file, see
            `conduit_oauth.settings`.
        defaults: settings that each provider gets unless it says otherwise.
        limit: how many providers are kept. The one that was asked for longest ago goes, unless the program holds it.
        max_refreshes: how many tokens the supervision asks for at a time, of one server; of all, four times that.
        max_restarts: a provider that breaks down more often than that within `restart_period` is given up until it is
            asked for again, or its settings change.
        restart_period: seconds.
        readers: what makes something of further tables of the file, by their names; what they make is in `tables`.
        on_reload: called after the file was read anew, on the thread that did so.
        on_change: called with the name of a provider whose token came, went or could not be had, on the thread where
            that happened.
        clock: as `TokenProvider`'s.

    Raises:
        ConfigurationError: the file cannot be read, or names no provider, or there is no such setting. What else is
            wrong with one provider's settings is found when it is asked for.
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
        readers: Mapping[str, Reader] | None = None,
        on_reload: Callable[[], object] | None = None,
        on_change: Callable[[str], object] | None = None,
        clock: Clock = elapsed,
    ) -> None:
        for name, number in (("limit", limit), ("max_refreshes", max_refreshes), ("max_restarts", max_restarts)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(name, "is not a number of at least 1", "Pass a whole number.")
        given = {"clock": clock, **(defaults or {})}
        self._file = None if isinstance(providers, Mapping) else SettingsFile(Path(providers), given, readers or {})
        self._limit = limit
        self._on_reload = on_reload
        self._clock = clock
        self._lock = threading.RLock()
        self._transport = SharedTransport()
        self.tables: dict[str, Any] = {}
        if self._file is not None:
            _, self.settings, self.tables = self._file.read()
        elif isinstance(providers, Mapping):
            self.settings = from_mapping(providers, given)
        self._looked_at = clock()
        # In the order of use; the latest of each name, and all that were made, also those that only the program holds.
        self._wards: OrderedDict[str, Ward] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[str, TokenProvider] = weakref.WeakValueDictionary()
        self._made: weakref.WeakSet[TokenProvider] = weakref.WeakSet()
        self._supervisor = Supervisor(
            self._wards,
            self._lock,
            clock,
            max_refreshes=max_refreshes,
            max_restarts=max_restarts,
            restart_period=seconds(restart_period, "restart_period", at_least=0.001),
            replace=self._replace,
            look=self._look_at_file,
            changed=on_change,
        )
        self._tasks: TaskGroup | None = None
        self._closed = False
        enter(self, Rank.SUPERVISION)

    def __getitem__(self, name: str) -> TokenProvider:
        """The provider called `name`, made now if nobody asked for it before.

        Raises `KeyError` for a name without settings, `ConfigurationError` for invalid settings.
        """
        with self._lock:
            ward = self._wards.get(name)
            if ward is None or ward.provider.control.closed:
                ward = self._make(name)
            elif ward.given_up is not None:
                ward.crashes = ()
                self._replace(name, ward)
            self._wards.move_to_end(name)
            return ward.provider

    def in_use(self, name: str) -> TokenProvider | None:
        """The provider called `name`, if it was asked for before; makes none, and restarts none that was given up."""
        with self._lock:
            ward = self._wards.get(name)
            return None if ward is None else ward.provider

    def __contains__(self, name: object) -> bool:
        return name in self.settings

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.settings))

    def __len__(self) -> int:
        return len(self.settings)

    def health(self) -> dict[str, Health]:
        """How each provider is; nothing is asked or made for that."""
        with self._lock:
            return {name: self._supervisor.health(name, self._wards.get(name)) for name in self.settings}

    def reload(self) -> None:
        """Read the file anew, now. Raises `ConfigurationError`, and changes nothing, if it is invalid.

        A provider whose settings changed is replaced; its token stays where they ask for the same token. Where they
        are invalid, that is logged, and it continues with the old ones. What failed is tried again at once.
        """
        if self._file is None:
            raise ConfigurationError("providers", "were not read from a file", "Pass a TOML file to reload.")
        self._file.wait_for_writer()
        turn, settings, tables = self._file.read()
        with self._lock:
            if not self._file.is_newest(turn):
                return
            before, self.settings, self.tables = self.settings, settings, tables
            for name in [name for name in self._wards if settings.get(name) != before.get(name)]:
                if name not in settings:
                    self._supervisor.let_go(name, self._wards.pop(name))
                    self._alive.pop(name, None)
                    continue
                self._wards[name].crashes = ()
                self._replace(name, self._wards[name])
            for name, ward in self._wards.items():
                self._supervisor.forgive(name, ward)
        if self._on_reload is not None:
            call_back("on_reload", self._on_reload)
        logger.info("providers_reloaded file=%s", self._file.path)

    def start(self) -> Self:
        """Supervise on a thread, until `close`. Raises `OAuthError` where there is no thread for it."""
        with self._lock:
            self._begin()
            self._supervisor.start()
        return self

    def close(self) -> None:
        """End the supervision, close every provider, then the connections."""
        with self._lock:
            self._closed, made = True, list(self._made)
        self._supervisor.end()
        for provider in made:
            provider.close()
        self._transport.shut()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        import anyio

        with self._lock:
            self._begin()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._supervisor.run_async)
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
            try:
                await in_thread(self.close)
            except NoThreadError:
                # It closes all the same: the loop stands still for that once.
                self.close()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[dict[str, TokenProviders]]:
        """The lifespan of a Starlette or FastAPI application: `Starlette(lifespan=providers.lifespan)`.

        Requests find the providers as `request.state.token_providers`.
        """
        async with self:
            yield {"token_providers": self}

    def after_fork_in_child(self) -> None:
        """Share no lock and no thread with the parent."""
        self._lock = threading.RLock()
        self._tasks = None
        self._supervisor.after_fork_in_child(self._lock)

    def _begin(self) -> None:
        self._check_open()
        self._supervisor.begin()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("providers", "are closed", "Create a new TokenProviders.")

    def _make(self, name: str) -> Ward:
        if name not in self.settings:
            raise KeyError(f"no provider {name!r}; there are {', '.join(list(self.settings)[:20]) or 'none'}")
        provider = self._alive.get(name)
        if provider is None or provider.control.closed:
            provider = self._alive[name] = self._provider(name)
        ward = self._wards[name] = Ward(provider)
        self._supervisor.watch(name, ward, provider)
        while len(self._wards) > self._limit:
            self._supervisor.let_go(*self._wards.popitem(last=False))
        return ward

    def _replace(self, name: str, ward: Ward) -> None:
        """Put a provider with the settings of now into `ward`, with the token of the one before where that is asked."""
        try:
            provider = self._provider(name)
        except ConfigurationError as error:
            # The one before goes on.
            logger.warning("provider_not_replaced name=%s: %s", name, error)
            return
        ward.hand_over(provider)
        self._alive[name] = provider
        self._supervisor.watch(name, ward, provider)

    def _provider(self, name: str) -> TokenProvider:
        self._check_open()
        given: dict[str, Any] = {"http_client": self._transport, **self.settings[name]}
        try:
            provider = TokenProvider(name=name, **given)
        except ConfigurationError as error:
            raise error.within(f"providers.{name}") from None
        except TypeError as error:  # no client_id
            raise ConfigurationError(f"providers.{name}", str(error), "Add the setting that is missing.") from None
        self._made.add(provider)
        return provider

    def _look_at_file(self) -> float:
        """Read the file anew where it changed; the seconds until the next look."""
        if self._file is None:
            return math.inf
        now = self._clock()
        if now - self._looked_at >= WATCH:
            self._looked_at = now
            if self._file.has_changed():
                try:
                    self.reload()
                except ConfigurationError as error:
                    # Said once for each version of the file; what was read before stays.
                    self._file.pass_over()
                    logger.warning("providers_not_reloaded: %s", error)
        return WATCH
