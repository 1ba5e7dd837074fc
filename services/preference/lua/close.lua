-- Closes groups that are answered or past their deadline. ARGV: settings, how many may be closed and unsettled.
-- Returns all closed groups that are not settled, as JSON.

sweep()
local room = tonumber(ARGV[2]) - redis.call('ZCARD', P .. 'closed')
if room > 0 then
  for _, group in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, room)) do
    drop_leases(group, 'question')
    local hash = key('group', group)
    for field in pairs(fields_of(hash)) do
      local comparison = field:match('^c:(.+)$')
      if comparison then redis.call('ZREM', P .. 'open', question(group, comparison)) end
    end
    redis.call('HSET', hash, 'state', 'closed')
    redis.call('HINCRBY', STATE, 'unanswered', 0 - number(hash, 'left'))
    redis.call('ZREM', P .. 'due', group)
    redis.call('ZREM', P .. 'waiting', group)
    redis.call('ZADD', P .. 'closed', next_number(), group)
  end
end
local closed = {}
for _, group in ipairs(redis.call('ZRANGE', P .. 'closed', 0, -1)) do
  table.insert(closed, redis.call('HGET', key('group', group), 'group'))
end
return closed
