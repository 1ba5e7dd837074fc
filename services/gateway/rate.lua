-- One request of one token. KEYS[1]: when its next request is due at an even pace (microseconds). ARGV[1]: requests a second.
-- A token that was quiet may ask for a second's worth at once. Answers 0, or the milliseconds until it may ask again.

if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME may precede writes only if effects are replicated

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local rate = tonumber(ARGV[1])
local pace, burst = 1000000 / rate, math.max(1, rate)
local due = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local wait = due + pace - burst * pace - now
if wait > 1 then return math.ceil(wait / 1000) end
redis.call('SET', KEYS[1], string.format('%.0f', due + pace), 'PX', math.ceil((due + pace - now) / 1000) + 1000)
return 0
