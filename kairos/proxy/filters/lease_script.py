"""The script by which nodes take from limits that they share in Redis: all arithmetic is done there, with its clock.

A limit's state is a token bucket's moment of emptiness (a string), a fixed window's start and count, or the counts of a
sliding window's slices (hashes); as in _speedups/limits.pyx, and of the same meaning.

KEYS are the limits' keys; in a cluster all of one call lie in one slot. ARGV is the mode, then for each key: kind,
requests, window in µs, burst, want, least, stamp.

    each   of each key take `want`, but no more than a quarter of what is left unless that is less than `least`
    all    take `least` of every key, or nothing at all
    back   give back `want` of what was taken at `stamp`

The answer has for each key: taken, left, µs until `least` can be had, µs until there is more, stamp, µs to use it in.
"""

from __future__ import annotations

from hashlib import sha1

KINDS = {"TokenBucket": 1, "FixedWindow": 2, "SlidingWindow": 3}
FIELDS = 6
"""Of the answer, for each key."""

SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local SLICES = 16

local function text(number) return string.format('%.0f', number) end

-- what a limit is, and what its state says now
local function read(key, at)
  local limit = {
    key = key, kind = tonumber(ARGV[at]), requests = tonumber(ARGV[at + 1]), window = tonumber(ARGV[at + 2]),
    want = tonumber(ARGV[at + 4]), least = tonumber(ARGV[at + 5]), given = tonumber(ARGV[at + 6])
  }
  limit.capacity = limit.requests + tonumber(ARGV[at + 3])
  limit.life = math.min(math.floor(limit.window / 10), 5000000)
  limit.stamp = now
  if limit.kind == 1 then
    limit.interval = limit.window / limit.requests
    limit.moment = tonumber(redis.call('GET', key) or now - limit.window)
    limit.moment = math.max(limit.moment, now - limit.capacity * limit.interval)
    limit.left = math.floor((now - limit.moment) / limit.interval + 0.000001)
  elseif limit.kind == 2 then
    local found = redis.call('HMGET', key, 's', 'n')
    limit.start, limit.count = tonumber(found[1] or now), tonumber(found[2] or 0)
    if now >= limit.start + limit.window then limit.start, limit.count = now, 0 end
    limit.stamp = limit.start
    limit.ends = limit.start + limit.window - now
    limit.life = math.min(limit.life, limit.ends)
    limit.left = limit.capacity - limit.count
  else
    limit.slice = math.ceil(limit.window / (SLICES - 1))
    limit.stamp = math.floor(now / limit.slice)
    limit.counts, limit.total = {}, 0
    local found = redis.call('HGETALL', key)
    for i = 1, #found, 2 do
      local number = tonumber(found[i])
      if number > limit.stamp - SLICES then
        limit.counts[number] = tonumber(found[i + 1])
        limit.total = limit.total + limit.counts[number]
      else
        redis.call('HDEL', key, found[i])
      end
    end
    limit.left = limit.capacity - limit.total
  end
  return limit
end

-- µs until so much more than is left can be had
local function wait(limit, missing)
  if missing <= 0 then return 0 end
  if limit.kind == 1 then return math.ceil(limit.moment + (limit.left + missing) * limit.interval - now) end
  if limit.kind == 2 then return limit.ends end
  for number = limit.stamp - SLICES + 1, limit.stamp do
    missing = missing - (limit.counts[number] or 0)
    if missing <= 0 then return (number + SLICES) * limit.slice - now end
  end
  return SLICES * limit.slice
end

local function take(limit, n)
  limit.left = limit.left - n
  if limit.kind == 1 then
    limit.moment = limit.moment + n * limit.interval
    local full = math.ceil((limit.moment + limit.capacity * limit.interval - now) / 1000)
    redis.call('SET', limit.key, string.format('%.3f', limit.moment), 'PX', text(math.max(full, 1)))
  elseif limit.kind == 2 then
    redis.call('HSET', limit.key, 's', text(limit.start), 'n', text(limit.count + n))
    redis.call('PEXPIRE', limit.key, text(math.ceil(limit.ends / 1000) + 1))
  else
    limit.counts[limit.stamp] = (limit.counts[limit.stamp] or 0) + n
    redis.call('HSET', limit.key, text(limit.stamp), text(limit.counts[limit.stamp]))
    redis.call('PEXPIRE', limit.key, text(math.ceil(SLICES * limit.slice / 1000) + 1))
  end
end

local function give(limit, n)
  if limit.kind == 1 then
    if redis.call('EXISTS', limit.key) == 1 then take(limit, -n) end
  elseif limit.kind == 2 then
    if limit.given == limit.start and limit.count > 0 then take(limit, -math.min(n, limit.count)) end
  elseif (limit.counts[limit.given] or 0) > 0 then
    redis.call('HINCRBY', limit.key, text(limit.given), text(-math.min(n, limit.counts[limit.given])))
  end
end

local mode, limits, granted, answers = ARGV[1], {}, true, {}
for i, key in ipairs(KEYS) do
  limits[i] = read(key, 2 + (i - 1) * 7)
  granted = granted and limits[i].left >= limits[i].least
end
for i, limit in ipairs(limits) do
  local taken, missing = 0, limit.least - limit.left
  if mode == 'back' then
    give(limit, limit.want)
  elseif mode == 'all' then
    if granted then taken = limit.least end
  elseif limit.left >= limit.least then
    taken = math.min(limit.want, math.max(limit.least, math.floor(limit.left / 4)))
  end
  if taken > 0 then take(limit, taken) end
  local more = limit.left < limit.capacity and wait(limit, 1) or 0
  for _, value in ipairs({taken, math.max(limit.left, 0), wait(limit, missing), more, limit.stamp, limit.life}) do
    answers[#answers + 1] = value
  end
end
return answers
"""

DIGEST = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""By which a server that ran it once knows it."""
