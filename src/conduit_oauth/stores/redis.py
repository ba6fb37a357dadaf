"""The store of a fleet: Redis or Valkey by redis-py, one hash per key, changed by scripts that run as one.

Law: time is the server's own, so no clock of the fleet needs to be right; and a script touches one key only, so that
a cluster takes it. Writers announce what they did on a channel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from ..errors import ConfigurationError
from ..landing import Flag
from . import Entry, News, StoreError
from .redis_url import MakeClient, place_of

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

T = TypeVar("T")

# v value, f its fence, x its end; l lease, u its end; n the last number given out; o floor. Milliseconds all.
_PRELUDE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local e = redis.call('HMGET', KEYS[1], 'f', 'x', 'l', 'u', 'n', 'o')
for i = 1, 6 do e[i] = tonumber(e[i] or 0) end
local fence, expires, lease, ends, last, floor = unpack(e)
local function text(number) return string.format('%.0f', number) end
local function set(...)
  redis.call('HSET', KEYS[1], ...)
  redis.call('PEXPIREAT', KEYS[1], text(math.max(now, expires, ends) + 60000))
end
-- A user who may not publish still shares: the others look again by themselves.
local function tell(channel, ...)
  redis.pcall('PUBLISH', channel, table.concat({KEYS[1], text(floor), ...}, ' '))
end
"""
_CLAIM = """
local known, seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
if fence > math.max(known, floor) and expires > now then
  return {redis.call('HGET', KEYS[1], 'v'), fence, expires - now, 0, floor}
end
if seconds <= 0 or (lease ~= 0 and ends > now) then return {false, fence, 0, 0, floor} end
last = math.max(now, last + 1)
ends = now + seconds
set('l', text(last), 'u', text(ends), 'n', text(last))
return {false, fence, 0, last, floor}
"""
_WRITE = """
local number = tonumber(ARGV[2])
if number <= math.max(fence, floor) then return 0 end
expires = now + tonumber(ARGV[3])
set('v', ARGV[1], 'f', text(number), 'x', text(expires))
if lease == number then redis.call('HDEL', KEYS[1], 'l') end
-- With what was written: a fleet that waits for it need not ask for it, all at once.
tell(ARGV[4], text(number), ARGV[3], ARGV[1])
return 1
"""
_RENEW = """
if lease ~= tonumber(ARGV[1]) then return 0 end
ends = now + tonumber(ARGV[2])
set('u', text(ends))
return 1
"""
_RELEASE = """
if lease ~= tonumber(ARGV[1]) then return 0 end
redis.call('HDEL', KEYS[1], 'l')
tell(ARGV[2])
return 1
"""
_FORGET = """
local number = tonumber(ARGV[1])
if number < 0 then
  last = math.max(now, last + 1)
  number = last
end
floor = math.max(floor, number)
set('o', text(floor), 'n', text(math.max(last, floor)))
tell(ARGV[2])
return floor
"""


class RedisStore:
    """A `TokenStore` in Redis or Valkey, through a redis-py client of any kind (single, Sentinel's, Cluster).

    `prefix` begins every key and names the channel. The client's own socket timeouts bound each operation. It serves
    sync and async callers alike, from threads of our own; so a client for asyncio is a `ConfigurationError`.
    """

    def __init__(self, client: redis.Redis | RedisCluster | MakeClient, prefix: str = "conduit-oauth") -> None:
        if iscoroutinefunction(getattr(client, "execute_command", None)):
            raise ConfigurationError(
                "store",
                "is a client for asyncio",
                "Pass a redis.Redis: it is used on threads of the provider's own, whoever waits.",
            )
        # The client of a cluster asks the cluster as it is made: not here, where nobody waits for that.
        self._make: Any = client if not hasattr(client, "execute_command") else lambda: client
        self._making = threading.Lock()
        self._client: Any = None
        self._scripts: list[Any] = []
        self._prefix = prefix
        self._pubsub: Any = None
        self._closed = Flag()

    @classmethod
    def from_url(cls, url: str, timeout: float) -> RedisStore:
        """A store for a URL, see `open_store`. Raises `ConfigurationError`."""
        place = place_of(url, timeout)
        return cls(place.make, place.prefix)

    @property
    def poll(self) -> float:
        """See `TokenStore.poll`: the channel tells at once, where there is one."""
        return 0.1 if self._pubsub is None else 1.0

    def claim(self, key: str, known: int, lease: float) -> Entry:
        """See `TokenStore.claim`."""
        value, fence, remaining, granted, floor = self._script(0, key, known, int(lease * 1000))
        return Entry(value, fence, remaining / 1000, granted, floor)

    def write(self, key: str, value: bytes, fence: int, seconds: float) -> bool:
        """See `TokenStore.write`."""
        return bool(self._script(1, key, value, fence, int(seconds * 1000), self._channel))

    def renew(self, key: str, fence: int, lease: float) -> None:
        """See `TokenStore.renew`."""
        self._script(2, key, fence, int(lease * 1000))

    def release(self, key: str, fence: int) -> None:
        """See `TokenStore.release`."""
        self._script(3, key, fence, self._channel)

    def forget(self, key: str, fence: int | None) -> int:
        """See `TokenStore.forget`."""
        return self._script(4, key, -1 if fence is None else fence, self._channel)

    def listen(self, seconds: float) -> Sequence[News]:
        """See `TokenStore.listen`."""
        return self._guarded(lambda: self._listened(seconds))

    def after_fork_in_child(self) -> None:
        """See `TokenStore.after_fork_in_child`; redis-py's pools look at the process id themselves."""
        self._pubsub = None
        self._making = threading.Lock()
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
                self._scripts = [
                    client.register_script(_PRELUDE + body) for body in (_CLAIM, _WRITE, _RENEW, _RELEASE, _FORGET)
                ]
                self._client = client
        return self._client

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            if not self._closed.is_set():
                return work()
        except (redis.RedisError, OSError) as error:
            said = f"{type(error).__name__}: {error}"
            _drop_frames(error)
            raise StoreError(said) from None
        except ConfigurationError as error:  # the password cannot be read any more
            raise StoreError(str(error)) from None
        except ValueError:  # what redis-py raises where another thread closes the connection that this one reads from
            if not self._closed.is_set():
                raise
        raise StoreError("closed")

    def _listened(self, seconds: float) -> Sequence[News]:
        try:
            if self._pubsub is None:
                self._pubsub = self._connected().pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(self._channel)
                self._pubsub.get_message(timeout=1.0)
                # The subscription has the pool's connection now: the first flight should find another.
                self._client.ping()
                # What came before the subscription is not told: who waits looks once after it.
                return [("", Entry())]
            message = self._pubsub.get_message(timeout=seconds)
        except BaseException:
            if self._pubsub is not None:
                self._pubsub.close()
                self._pubsub = None
            raise
        if message is None or message["type"] != "message":
            return []
        try:
            return [_news(message["data"][len(self._prefix.encode()) + 2 :])]
        except ValueError:  # of another format
            return []


def _news(told: bytes) -> News:
    key, _, facts = told.partition(b"} ")
    floor, *written = facts.split(b" ", 3)
    if not written:
        return key.decode(), Entry(floor=int(floor))
    fence, remaining, value = written
    return key.decode(), Entry(value, int(fence), int(remaining) / 1000, floor=int(floor))


def _drop_frames(error: BaseException | None) -> None:
    """Frames of redis-py hold the error that holds them: by it they would keep our thread until a collection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
