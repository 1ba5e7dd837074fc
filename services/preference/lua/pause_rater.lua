-- Pauses a rater, or lets them work again; from then on they are judged by the gold answers to come.
-- ARGV: settings, rater, paused, why. Returns their hash, which is empty if nobody of that id has joined.

local hash, paused = key('rater', ARGV[2]), ARGV[3]
local before = redis.call('HGET', hash, 'paused')
if not before then return {} end
if before == '1' and paused == '0' then
  redis.call('HSET', hash, 'gold_before', number(hash, 'num_gold'), 'gold_right_before', number(hash, 'num_gold_right'))
end
redis.call('HSET', hash, 'paused', paused, 'why', ARGV[4])
return redis.call('HGETALL', hash)
