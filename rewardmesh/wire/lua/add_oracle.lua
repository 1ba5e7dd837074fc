-- Adds an oracle with its secret, unless its name is taken. Returns 1 if it did.
-- KEYS: registry of oracles, of secrets. ARGV: name, endpoint as JSON, secret ('' for none: one that was left behind goes)

if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[2], ARGV[1]) else redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
return 1
