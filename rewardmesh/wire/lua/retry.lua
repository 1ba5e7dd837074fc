-- Hands a sample back, to be claimed again after a delay; only by the consumer that holds its lease.
-- ARGV: settings, oracle, consumer, entry id, group_id, sample_id, delay, failure class, failure (class empty: it was not
-- asked, and nothing is counted). Returns 1 if it was ours.

local oracle, consumer, id, group_id, sample_id = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local stream, group, field = key('stream', oracle), key('group', group_id), oracle .. ':' .. sample_id
if redis.call('HGET', group, 'e:' .. field) ~= id then return 0 end
local pending = redis.call('XPENDING', stream, WORKERS, id, id, 1, consumer)[1]
if not pending then return 0 end
drop_entry(oracle, id)
redis.call('HSET', group, 'e:' .. field, 'retry')
if ARGV[8] ~= '' then
  local _, by_class = attempts(oracle, group_id, sample_id)
  local counts = cjson.decode(by_class)
  counts[ARGV[8]] = (counts[ARGV[8]] or 0) + 1
  redis.call('HSET', group, 'a:' .. field, cjson.encode(counts), 'f:' .. field, ARGV[9])
end
redis.call('HINCRBY', group, 'c:' .. field, pending[4] - 1)
redis.call('ZADD', key('retry', oracle), now + tonumber(ARGV[7]), group_id .. ' ' .. sample_id)
touch(oracle)
return 1
