-- A closed group's rewards are with the trainer: its pictures move from one budget to the other, where the oldest go.
-- ARGV: settings, group

local group = ARGV[2]

local function drop(oldest)
  local hash = key('group', oldest)
  drop_leases(oldest, 'repeat')
  for _, json in ipairs(redis.call('HVALS', key('answers', oldest))) do
    local answer = cjson.decode(json)
    redis.call('SREM', key('met', answer.rater), meeting(answer))
  end
  for digest in redis.call('HGET', hash, 'digests'):gmatch('%S+') do let_go_of(digest) end
  redis.call('HINCRBY', STATE, 'kept_bytes', 0 - number(hash, 'bytes'))
  redis.call('ZREM', P .. 'settled', oldest)
  redis.call('UNLINK', hash, key('answers', oldest))
end

if redis.call('ZREM', P .. 'closed', group) == 0 then return end
redis.call('ZADD', P .. 'settled', next_number(), group)
redis.call('HSET', key('group', group), 'state', 'settled')
local bytes = number(key('group', group), 'bytes')
redis.call('HINCRBY', STATE, 'bytes', 0 - bytes)
redis.call('HINCRBY', STATE, 'kept_bytes', bytes)
while number(STATE, 'kept_bytes') > S.kept_bytes do drop(redis.call('ZRANGE', P .. 'settled', 0, 0)[1]) end
