-- Adds a pair whose answer is known, once. Its pictures were uploaded before. ARGV: settings, id, itself as JSON, which is
-- preferred, digests of its two pictures

local hash = key('gold', ARGV[2])
if redis.call('EXISTS', hash) == 1 then return end
if not need_pictures({ ARGV[5], ARGV[6] }) then return redis.error_reply('STAGE the uploaded pictures are gone') end
redis.call('HSET', hash, 'gold', ARGV[3], 'preferred', ARGV[4])
redis.call('RPUSH', P .. 'golds', ARGV[2])
