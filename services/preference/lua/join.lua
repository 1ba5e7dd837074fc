-- Makes a rater known, once. ARGV: settings, rater, time, then fields of their hash and what is in them.
-- Returns their hash.

local hash = key('rater', ARGV[2])
if redis.call('EXISTS', hash) == 0 then
  redis.call('HSET', hash, unpack(ARGV, 4))
  redis.call('ZADD', P .. 'raters', ARGV[3], ARGV[2])
end
return redis.call('HGETALL', hash)
