"""The store of a fleet: Redis or Valkey by redis-py, one hash per key, changed by scripts that run as one.

Invariant: Time is the server's own, so no clock of the fleet has to be right. A script touches one key, so a cluster
accepts it. Writers publish what they did on a channel.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

import redis

from ..clock import elapsed
from ..errors import ConfigurationError
from ..runtime.landing import Flag, LateLock
from . import Entry, Known, News, StoreError
from .redis_url import MakeClient, place_of

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

T = TypeVar("T")

# v value, f its fence, x its end; l lease, w its owner, u its end; n the last number given out; o floor; g generation;
# s the time of the last change; d what was invalidated, as digest:end,digest:end. Milliseconds all.
_PRELUDE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local e = redis.call('HMGET', KEYS[1], 'f', 'x', 'l', 'u', 'n', 'o', 's', 'g', 'w', 'd')
for i = 1, 7 do e[i] = tonumber(e[i] or 0) or 0 end
local fence, expires, lease, ends, last, floor, changed, g, owner, void = unpack(e)
g, owner, void = g or '', owner or '', void or ''
local function text(number) return string.format('%.0f', number) end
local function sound(generation, least, seen)
  return g ~= '' and now >= changed and floor <= last and last <= now + 60000
    and (generation ~= g or (last >= least and now >= seen))
end
local function begin(fresh)
  -- Not as the first change of a new key: a server that is full takes anything of a script that began to write.
  if g ~= '' then redis.call('HDEL', KEYS[1], 'v', 'f', 'x', 'l', 'u', 'n', 'o', 'w') end
  fence, expires, lease, ends, last, floor, g, owner = 0, 0, 0, 0, 0, 0, fresh, ''
end
local function set(...)
  redis.call('HSET', KEYS[1], 'g', g, 's', text(now), 'd', void, ...)
  local latest = math.max(now, expires, ends)
  for till in string.gmatch(void, ':(%d+)') do latest = math.max(latest, tonumber(till)) end
  redis.call('PEXPIREAT', KEYS[1], text(math.min(latest + 60000, now + 31622400000)))
end
-- A user who may not publish still shares: the others look again by themselves.
local function tell(channel, ...)
  local facts = {KEYS[1], g, text(floor), text(now), void == '' and '-' or void, ...}
  redis.pcall('PUBLISH', channel, table.concat(facts, ' '))
end
local function seen(value, granted)
  return {value, fence, value and expires or 0, granted, floor, last, g, void, now}
end
"""
_CLAIM = """
local known, seconds = tonumber(ARGV[2]), tonumber(ARGV[5])
if sound(ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])) then
  if ARGV[1] ~= g then known = 0 end
  if fence > math.max(known, floor) and expires > now then return seen(redis.call('HGET', KEYS[1], 'v'), 0) end
elseif seconds > 0 then
  begin(ARGV[7])
else
  return {false, 0, 0, 0, 0, 0, '', '', now}
end
local free = lease == 0 or ends <= now
if seconds <= 0 or not (free or owner == ARGV[6]) then return seen(false, 0) end
if free then
  last = math.max(now, last + 1)
  lease = last
end
ends = now + seconds
set('l', text(lease), 'u', text(ends), 'n', text(last), 'w', ARGV[6])
return seen(false, lease)
"""
_WRITE = """
local number = tonumber(ARGV[2])
if g ~= ARGV[4] or now < changed or number <= math.max(fence, floor) then return 0 end
expires = tonumber(ARGV[3])
if lease == number then
  redis.call('HDEL', KEYS[1], 'l', 'u', 'w')
  ends = 0
end
set('v', ARGV[1], 'f', text(number), 'x', text(expires))
-- With what was written: a fleet that waits for it need not ask for it, all at once.
tell(ARGV[5], text(number), text(expires), ARGV[1])
return 1
"""
_RENEW = """
if lease == 0 or owner ~= ARGV[1] then return 0 end
ends = now + tonumber(ARGV[2])
set('u', text(ends))
return 1
"""
_RELEASE = """
if lease == 0 or owner ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'l', 'u', 'w')
tell(ARGV[2])
return 1
"""
_FORGET = """
local number = tonumber(ARGV[1])
if not sound('', 0, 0) then begin(ARGV[4]) end
if number < 0 then
  last = math.max(now, last + 1)
  floor = last
elseif ARGV[2] == g then
  floor = math.max(floor, math.min(number, last))
end
local all = {}
for digest, till in string.gmatch(void, '(%w+):(%d+)') do
  if tonumber(till) > now then table.insert(all, digest .. ':' .. till) end
end
for digest, left in string.gmatch(ARGV[3], '(%w+):(%d+)') do
  table.insert(all, digest .. ':' .. text(now + tonumber(left)))
end
while #all > 32 do table.remove(all, 1) end
void = table.concat(all, ',')
set('o', text(floor), 'n', text(last))
tell(ARGV[5])
return seen(false, 0)
"""


# Seconds without a word after which a subscription counts as broken; half of it, and it is asked for one.
SILENCE = 8.0


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
        self._making = LateLock()
        self._client: Any = None
        self._scripts: list[Any] = []
        self._prefix = prefix
        self._pubsub: Any = None
        self._heard_at = self._pinged_at = 0.0
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

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        """See `TokenStore.claim`."""
        seen = round(known.seen * 1000)
        facts = (known.generation, known.fence, max(known.fence, known.last), seen, int(lease * 1000), owner)
        return _entry(self._script(0, key, *facts, secrets.token_hex(8)))

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        """See `TokenStore.write`."""
        return bool(self._script(1, key, value, fence, round(expires * 1000), generation, self._channel))

    def renew(self, key: str, owner: str, lease: float) -> None:
        """See `TokenStore.renew`."""
        self._script(2, key, owner, int(lease * 1000))

    def release(self, key: str, owner: str) -> None:
        """See `TokenStore.release`."""
        self._script(3, key, owner, self._channel)

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        """See `TokenStore.forget`."""
        ends = ",".join(f"{digest}:{max(0, int(seconds * 1000))}" for digest, seconds in void.items())
        facts = (-1 if fence is None else fence, generation, ends, secrets.token_hex(8), self._channel)
        return _entry(self._script(4, key, *facts))

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
            return [_news(message["data"][len(self._prefix.encode()) + 2 :])]
        except ValueError:  # of another format
            return []

    def _disconnect_idle(self) -> None:
        """Use no idle connection again: what forgot the subscription forgot those, and each would cost a time limit."""
        client = self._connected()
        nodes = [client] if isinstance(client, redis.Redis) else [each.redis_connection for each in client.get_nodes()]
        for node in nodes:
            if node is not None:
                node.connection_pool.disconnect(inuse_connections=False)


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


def _news(told: bytes) -> News:
    key, _, facts = told.partition(b"} ")
    generation, floor, now, void, *written = facts.split(b" ", 6)
    common: dict[str, Any] = {"floor": int(floor), "generation": generation.decode(), "now": int(now) / 1000}
    common["void"] = _digests(void, int(now))
    if not written:
        return key.decode(), Entry(**common)
    fence, expires, value = written
    return key.decode(), Entry(value, int(fence), int(expires) / 1000, last=int(fence), **common)


def _entry(told: Sequence[Any]) -> Entry:
    value, fence, expires, lease, floor, last, generation, void, now = told
    return Entry(
        value=value,
        fence=fence,
        expires=expires / 1000,
        lease=lease,
        floor=floor,
        last=last,
        generation=generation.decode(),
        void=_digests(void, now),
        now=now / 1000,
    )


def _digests(void: bytes, now: int) -> frozenset[str]:
    """Those that have not ended yet, of `digest:end,digest:end`."""
    pairs = [each.decode().split(":") for each in void.split(b",") if b":" in each]
    return frozenset(digest for digest, end in pairs if int(end) > now)


def _drop_frames(error: BaseException | None) -> None:
    """Frames of redis-py hold the error that holds them: by it they would keep our thread until a collection."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
