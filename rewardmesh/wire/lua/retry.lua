-- Hands a sample back, to be claimed again after a delay; only by the consumer that holds its lease.
-- ARGV: settings, oracle, consumer, entry id, group_id, sample_id, delay, failure. Returns 1 if it was ours.

local oracle, consumer, id, group_id, sample_id = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local stream, group, field = key('stream', oracle), key('group', group_id), oracle .. ':' .. sample_id
if redis.call('HGET', group, 'e:' .. field) ~= id then return 0 end
local pending = redis.call('XPENDING', stream, WORKERS, id, id, 1, consumer)[1]
if not pending then return 0 end
drop_entry(oracle, id)
redis.call('HSET', group, 'e:' .. field, 'retry', 'f:' .. field, ARGV[8])
redis.call('HINCRBY', group, 'a:' .. field, 1)
redis.call('HINCRBY', group, 'c:' .. field, pending[4] - 1)
redis.call('ZADD', key('retry', oracle), now + tonumber(ARGV[7]), group_id .. ' ' .. sample_id)
touch(oracle)
return 1
