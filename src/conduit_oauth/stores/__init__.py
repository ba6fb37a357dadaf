"""Where processes share what they know: a `TokenStore` is a second tier behind each process's own memory.

A store keeps opaque, sealed values, each written under a fence: a number that only grows, handed out with the lease
that lets one process of the fleet ask the authorization server. Who was paused past its lease holds an old fence, and
cannot overwrite what was written under a newer one. A floor makes everything written up to some fence void.

All times are of the store's own clock. Where that went back, or data were lost, a key begins another generation, and
fences, floors and times are never compared across generations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError

# One host, and a port.
_HOST = re.compile(r"(?:\[[^\]/?#@]*+\]|[^:/?#@\[\]]*+)(?::\d*+)?(?:[/?#]|\Z)")


class StoreError(Exception):
    """The store did not do as it was asked, in time or at all. It never reaches a caller."""


class Known(NamedTuple):
    """What a caller knows of a key: the value under `fence`, the largest fence `last`, and the latest time `seen`."""

    generation: str = ""
    fence: int = 0
    last: int = 0
    seen: float = 0.0


NOTHING = Known()


class Entry(NamedTuple):
    """What there is under a key. `value` is None where there is none, or none newer than what the caller knows.

    `fence` is what the value was written under, `expires` its end, `lease` the fence of the lease that was granted
    (0: none was), `last` the largest fence that was handed out, and all that was written under `floor` or before is
    void. `void` holds the digests of tokens that were invalidated. `now` is when the store said so.
    """

    value: bytes | None = None
    fence: int = 0
    expires: float = 0.0
    lease: int = 0
    floor: int = 0
    last: int = 0
    generation: str = ""
    void: frozenset[str] = frozenset()
    now: float = 0.0

    @property
    def remaining(self) -> float:
        """Seconds that the value had left at `now`."""
        return self.expires - self.now


# The key of what changed, and what is known of it. Without a key: hearing begins, and what came before was not heard.
News = tuple[str, Entry]


class TokenStore(Protocol):
    """What a store does. Every method but `listen` answers within the store's time limit or raises `StoreError`.

    Methods are called from many threads at once, and what timed out may still happen later.
    """

    @property
    def poll(self) -> float:
        """Seconds between two looks of one who waits for another's answer: what `listen` tells at once needs few."""
        ...

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        """The value under `key` if it is newer than `known`; else a lease of `lease` seconds, if nobody else has one.

        `owner` is made up by whoever asks, so that the lease can be asked for again, renewed and released though the
        answer was lost. Where `known` tells that data were lost or that the clock went back, a generation begins.
        """
        ...

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        """Keep `value` until `expires` and end the lease; False, and nothing done, where that is not news any more."""
        ...

    def renew(self, key: str, owner: str, lease: float) -> None:
        """Let the lease of `owner` last for `lease` seconds from now, if it still has it."""
        ...

    def release(self, key: str, owner: str) -> None:
        """End the lease of `owner` without an answer."""
        ...

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        """Make void what was written under `fence` of `generation` or before, by default all that is asked for by now.

        `void`: digests of invalidated tokens, and the seconds for which each is to be remembered.
        """
        ...

    def clocks(self) -> Mapping[str, float]:
        """The time by each clock that the store has, by names of its own."""
        ...

    def listen(self, seconds: float) -> Sequence[News]:
        """What other processes changed: waits for up to `seconds`. Called by one thread only."""
        ...

    def after_fork_in_child(self) -> None:
        """Share no lock and no connection with the parent."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


def split(url: str) -> SplitResult:
    """The parts of the URL of a store. Raises `ConfigurationError`, which does not show it: a password may be in it."""
    try:
        return urlsplit(url)
    except ValueError:
        raise ConfigurationError("store", "is no URL", "Write sqlite:///absolute/path, or redis://host:port.") from None


def hide_password(url: str) -> str:
    """The URL of a store, to be shown: without the password that it may hold, however it is written."""
    scheme, separator, rest = url.partition("://")
    is_plain = rest.startswith("/") or (_HOST.match(rest) and "@" not in rest.partition("?")[0])
    if "@" in rest and not is_plain:
        user, _, hosts = rest.rpartition("@")
        rest = f"{user.partition(':')[0]}:***@{hosts}"
    place, mark, query = rest.partition("?")
    shown = "&".join(map(_without_password, query.split("&")))
    return f"{scheme}{separator}{place}{mark}{shown}"


def _without_password(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=***" if equals and unquote(name).lower().endswith("password") else parameter


def open_store(url: str, timeout: float) -> TokenStore | None:
    """The store that a URL names; None for `memory:`, where each provider's own memory is all there is.

    `sqlite:` (in the platform's cache directory), `sqlite:///path`, `redis://`, `rediss://`, `valkey://`, `valkeys://`,
    `redis+sentinel://host:port,host:port/service/db`, `redis+cluster://host:port,host:port`, each of them with `rediss`
    for TLS. Parameters are those of redis-py, and of ours: `prefix`; `password_file=/path` or
    `password_environment=NAME` in place of a password, read anew for each connection; and `sentinel_user`,
    `sentinel_password` (or `sentinel_password_file`, `sentinel_password_environment`) for Sentinels that want their
    own. `timeout` is how many seconds an
    operation may take before it is given up; who asks may wait less. Raises `ConfigurationError`.
    """
    scheme = split(url).scheme.lower()
    try:
        if scheme == "memory":
            return None
        if scheme == "sqlite":
            from .sqlite import SqliteStore

            return SqliteStore.from_url(url, timeout)
        if scheme.partition("+")[0] in ("redis", "rediss", "valkey", "valkeys"):
            from .redis import RedisStore

            return RedisStore.from_url(url, timeout)
    except ModuleNotFoundError as missing:
        extra = "sqlite" if scheme == "sqlite" else "redis"
        raise ConfigurationError(
            "store", f"needs {missing.name}, which is not installed", f"Install conduit-oauth[{extra}]."
        ) from None
    # The URL may hold a password: only its scheme is told.
    raise ConfigurationError("store", f"{scheme or 'no scheme'}: is unknown", "Use memory:, sqlite: or redis:.")
