-- One oracle's circuit breaker, shared by all workers. Server time only, in ms.
-- KEYS[1]: its hash. ARGV: verb, caller, ms, then for 'failed': failures_to_open, open, max_open
--   read    looks only
--   enter   takes the probe if it is due and nobody has it; it is the caller's for ms, then somebody else's to take
--   leave   gives the probe back without having called
--   failed  counts a call that failed as a whole; ms > 0: the oracle asked to be left alone for so long
-- Returns {failures in a row, ms until something may change (-1: closed), who probes}.
-- Fields: failures, openings, until (it stays open), prober, probing_until. A success deletes the hash.

if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME may precede writes only if effects are replicated

local breaker, verb, caller, ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local KEPT = 86400000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function number(field) return tonumber(redis.call('HGET', breaker, field) or 0) end
local function prober()
  if number('probing_until') > now then return redis.call('HGET', breaker, 'prober') end
  return ''
end
local function end_probe() redis.call('HDEL', breaker, 'prober', 'probing_until') end

local function open(longest)
  local openings = redis.call('HINCRBY', breaker, 'openings', 1)
  local pause = math.min(longest, tonumber(ARGV[5]) * 2 ^ math.min(openings - 1, 40))
  pause = math.max(pause, math.min(ms, longest))
  redis.call('HSET', breaker, 'until', string.format('%.0f', now + pause))
end

if verb == 'enter' and number('openings') > 0 and number('until') <= now and prober() == '' then
  redis.call('HSET', breaker, 'prober', caller, 'probing_until', now + ms)
elseif verb == 'leave' and prober() == caller then
  end_probe()
elseif verb == 'failed' then
  local failures, probed = redis.call('HINCRBY', breaker, 'failures', 1), prober() == caller
  if probed then end_probe() end
  local closed = number('openings') == 0
  if probed or (closed and (ms > 0 or failures >= tonumber(ARGV[4]))) then open(tonumber(ARGV[6])) end
  redis.call('PEXPIRE', breaker, KEPT)
end

local wait = -1
if number('openings') > 0 then
  wait = math.max(0, (prober() == '' and number('until') or number('probing_until')) - now)
end
return { number('failures'), wait, prober() }
