"""The scripts of the Redis store, the rules of `row` in Lua, and the entries that they answer and tell.

Invariant: A script touches one key, so a cluster accepts it. Time is the server's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import Entry, News

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
  return g ~= '' and now >= changed and floor <= last and fence <= last and last <= now + 60000
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
local free = lease == 0 or not (ends > now and ends <= now + 120000)
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

# By their numbers.
CLAIM, WRITE, RENEW, RELEASE, FORGET = range(5)
SCRIPTS = [_PRELUDE + body for body in (_CLAIM, _WRITE, _RENEW, _RELEASE, _FORGET)]


def news_of(told: bytes) -> News:
    """What a script published. Raises `ValueError` and `OverflowError` for what is of another format."""
    key, _, facts = told.partition(b"} ")
    generation, floor, now, void, *written = facts.split(b" ", 6)
    common: dict[str, Any] = {"floor": int(floor), "generation": generation.decode(), "now": int(now) / 1000}
    common["void"] = _digests(void, int(now))
    if not written:
        return key.decode(), Entry(**common)
    fence, expires, value = written
    return key.decode(), Entry(value, int(fence), int(expires) / 1000, last=int(fence), **common)


def entry_of(told: Sequence[Any]) -> Entry:
    """What a script answered."""
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
