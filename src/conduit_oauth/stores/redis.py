"""The store of a fleet: Redis or Valkey by redis-py, one hash per key, changed by scripts that run as one.

Invariant: Time is the server's own, so no clock of the fleet has to be right. A writer publishes what it did on a
channel.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

import redis
from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError

from ..clock import elapsed
from ..errors import ConfigurationError
from ..masking import mask, redact
from ..runtime.landing import Flag, LateLock
from . import Entry, Known, News, StoreError
from .redis_scripts import CLAIM, FORGET, RELEASE, RENEW, SCRIPTS, WRITE, entry_of, news_of
from .redis_url import MakeClient, place_of

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

T = TypeVar("T")

# Seconds without a word after which a subscription counts as broken; half of it, and it is asked for one.
SILENCE = 8.0
_WORDS_OF_SERVERS = ResponseError, AuthenticationError, InvalidResponse


class RedisStore:
    """A `TokenStore` in Redis or Valkey, through a redis-py client of any kind (single, Sentinel's, Cluster).

    `prefix` begins every key and names the channel. The client's own socket timeouts bound each operation. It serves
    sync and async callers alike, from threads of our own; so a client for asyncio is a `ConfigurationError`.
    So is one that changes bytes (`decode_responses`, `encoding`).
    """

    def __init__(self, client: redis.Redis | RedisCluster | MakeClient, prefix: str = "conduit-oauth") -> None:
        if iscoroutinefunction(getattr(client, "execute_command", None)):
            raise ConfigurationError(
                "store",
                "is a client for asyncio",
                "Pass a redis.Redis: it is used on threads of the provider's own, whoever waits.",
            )
        if is_made := hasattr(client, "execute_command"):
            _check_that_bytes_stay(client)
        # The client of a cluster asks the cluster as it is made: not here, where nobody waits for that.
        self._make: Any = (lambda: client) if is_made else client
        self._making = LateLock()
        self._client: Any = None
        self._scripts: list[Any] = []
        self._secrets: Callable[[], list[str]] = partial(_passwords_of, client)
        self._prefix = prefix
        self._pubsub: Any = None
        self._heard_at = self._pinged_at = 0.0
        self._closed = Flag()

    @classmethod
    def from_url(cls, url: str, timeout: float) -> RedisStore:
        """A store for a URL, see `open_store`. Raises `ConfigurationError`."""
        place = place_of(url, timeout)
        store = cls(place.make, place.prefix)
        store._secrets = place.secrets
        return store

    @property
    def poll(self) -> float:
        """See `TokenStore.poll`: the channel tells at once, where there is one."""
        return 0.1 if self._pubsub is None else 1.0

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        """See `TokenStore.claim`."""
        seen = round(known.seen * 1000)
        facts = (known.generation, known.fence, max(known.fence, known.last), seen, int(lease * 1000), owner)
        return entry_of(self._script(CLAIM, key, *facts, secrets.token_hex(8)))

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        """See `TokenStore.write`."""
        return bool(self._script(WRITE, key, value, fence, round(expires * 1000), generation, self._channel))

    def renew(self, key: str, owner: str, lease: float) -> None:
        """See `TokenStore.renew`."""
        self._script(RENEW, key, owner, int(lease * 1000))

    def release(self, key: str, owner: str) -> None:
        """See `TokenStore.release`."""
        self._script(RELEASE, key, owner, self._channel)

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        """See `TokenStore.forget`."""
        ends = ",".join(f"{digest}:{max(0, int(seconds * 1000))}" for digest, seconds in void.items())
        facts = (-1 if fence is None else fence, generation, ends, secrets.token_hex(8), self._channel)
        return entry_of(self._script(FORGET, key, *facts))

    def clocks(self) -> Mapping[str, float]:
        """See `TokenStore.clocks`: of a cluster, each master has its own."""

        def ask() -> Mapping[str, float]:
            client = self._connected()
            if not hasattr(client, "get_primaries"):
                seconds, micros = client.time()
                return {"": seconds + micros / 1e6}
            told = {node.name: client.time(target_nodes=node) for node in client.get_primaries()}
            return {name: seconds + micros / 1e6 for name, (seconds, micros) in told.items()}

        return self._guarded(ask)

    def listen(self, seconds: float) -> Sequence[News]:
        """See `TokenStore.listen`."""
        return self._guarded(lambda: self._listened(seconds))

    def after_fork_in_child(self) -> None:
        """See `TokenStore.after_fork_in_child`; redis-py's pools look at the process id themselves."""
        _release_locks_of_the_parent(self._client, self._pubsub)
        self._pubsub = None
        self._making = LateLock()
        self._closed = Flag()

    def close(self) -> None:
        """Close the connections."""
        self._closed.set()
        if self._client is not None:
            self._client.close()

    @property
    def _channel(self) -> str:
        return f"{self._prefix}:news"

    def _script(self, number: int, key: str, *arguments: str | bytes | int) -> Any:
        # Braces: all that a script touches is in the slot of the key.
        keys = [f"{self._prefix}:{{{key}}}"]
        return self._guarded(lambda: self._connected() and self._scripts[number](keys=keys, args=arguments))

    def _connected(self) -> Any:
        """The client, made where there is none yet."""
        with self._making:
            if self._client is None:
                client = self._make()
                _check_that_bytes_stay(client)
                self._scripts = [client.register_script(script) for script in SCRIPTS]
                self._client = client
        return self._client

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            if not self._closed.is_set():
                return work()
        except (redis.RedisError, OSError) as error:
            said = f"{type(error).__name__}: {_words_of(error, self._secrets())}"
            _drop_frames(error)
            raise StoreError(said) from None
        except ConfigurationError as error:  # the password cannot be read any more; a client that is of no use
            raise StoreError(str(error)) from None
        except ValueError:  # what redis-py raises where another thread closes the connection that this one reads from
            if not self._closed.is_set():
                raise
        raise StoreError("closed")

    def _listened(self, seconds: float) -> Sequence[News]:
        try:
            if self._pubsub is None:
                client = self._connected()
                self._pubsub = client.pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(self._channel)
                self._pubsub.get_message(timeout=1.0)
                self._heard_at = self._pinged_at = elapsed()
                # Who may not publish is not heard. And the subscription has the pool's connection now: the first flight
                # should find another.
                client.publish(self._channel, "")
                # What came before the subscription is not told: who waits looks once after it.
                return [("", Entry())]
            message = self._pubsub.get_message(timeout=seconds)
            now = elapsed()
            if message is not None:
                self._heard_at = now
            elif now - self._heard_at > SILENCE:
                self._disconnect_idle()
                raise StoreError("the subscription is silent")
            elif now - max(self._heard_at, self._pinged_at) > SILENCE / 2:
                self._pinged_at = now
                self._pubsub.ping()
        except BaseException:
            if self._pubsub is not None:
                self._pubsub.close()
                self._pubsub = None
            raise
        if message is None or message["type"] != "message":
            return []
        try:
            return [news_of(message["data"][len(self._prefix.encode()) + 2 :])]
        except (ValueError, OverflowError):  # of another format
            return []

    def _disconnect_idle(self) -> None:
        """Use no idle connection again: what forgot the subscription forgot those, and each would cost a time limit."""
        client = self._connected()
        nodes = [client] if isinstance(client, redis.Redis) else [each.redis_connection for each in client.get_nodes()]
        for node in nodes:
            if node is not None:
                node.connection_pool.disconnect(inuse_connections=False)


def _check_that_bytes_stay(client: Any) -> None:
    encoder = client.get_encoder()
    if encoder.decode_responses or encoder.encode("é") != "é".encode():
        problem = "is a client that changes bytes (decode_responses, encoding)"
        raise ConfigurationError("store", problem, "Pass one with redis-py's defaults: what is stored is sealed.")


def _words_of(error: Exception, secrets: list[str]) -> str:
    """What may be shown of an error: a server says again what it was sent, such as a password with AUTH."""
    if isinstance(error, _WORDS_OF_SERVERS):
        return redact(str(error).partition(", with args")[0], secrets)
    return mask(str(error), secrets)


def _passwords_of(client: Any) -> list[str]:
    pool = getattr(client, "connection_pool", None)
    password = getattr(pool, "connection_kwargs", {}).get("password")
    return [str(password)] if password else []


def _release_locks_of_the_parent(*parts: Any) -> None:
    """Give redis-py new locks: a pool takes its own as it begins anew, and a thread of the parent may have held it.

    Clients of a cluster and of Sentinels have clients and pools of their own, so whatever a part leads to is looked at.
    """
    locks = (type(threading.Lock()), type(threading.RLock()))
    left, seen = list(parts), set[int]()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            left += cast("dict[Any, Any]", part).values()
        elif isinstance(part, list | tuple | set):
            left += cast("list[Any]", part)
        elif any(kind.__module__.startswith("redis.") for kind in type(part).__mro__):
            for name, value in list(getattr(part, "__dict__", {}).items()):
                if isinstance(value, locks):
                    setattr(part, name, threading.RLock())
                else:
                    left.append(value)


def _drop_frames(error: BaseException | None) -> None:
    """Frames of redis-py hold the error that holds them: by it they would keep our thread until a collection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
