-- How much waits for an oracle. ARGV: settings, oracle
-- Returns {lag, pending, retrying, deferred, bytes, budget, oldest unsettled sample's age, dead letters, settled}.

local oracle = ARGV[2]
local stream, oldest, pending = key('stream', oracle), now, 0
local waiting = redis.call('XLEN', stream)
if redis.call('EXISTS', stream) == 1 then pending = redis.call('XPENDING', stream, WORKERS)[1] end

local function look_at(group_id)
  local enqueued = tonumber(redis.call('ZSCORE', P .. 'groups', group_id) or now)
  if enqueued < oldest then oldest = enqueued end
end
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if first then look_at(first[2][2]) end
local retrying = redis.call('ZRANGE', key('retry', oracle), 0, 0)[1]
if retrying then look_at(retrying:match('^(%S+) ')) end

return {
  waiting - pending, pending, redis.call('ZCARD', key('retry', oracle)), redis.call('ZCARD', key('deferred', oracle)),
  number(key('stat', oracle), 'bytes'), S.budget_bytes, now - oldest, redis.call('XLEN', key('dead', oracle)),
  number(key('stat', oracle), 'settled'),
}
