-- Records outcomes, each at most once; a whole batch in one call, so that `appendfsync always` stays affordable.
-- ARGV: settings, oracle, version, cached (1: earlier answers, taken again), then for each outcome: group_id, sample_id, kind
-- (scored, failed, stale, deferred), until, result
-- Returns {settled, duplicates, deferred}.

local oracle, version, cached = ARGV[2], ARGV[3], ARGV[4] == '1'
local settled, duplicates, deferred = 0, 0, 0

-- The lease ends, the outcome stays open until a deadline; the picture moves to the deferred ones' own budget.
local function defer(group_id, sample_id, deadline, result)
  local group, field, member = key('group', group_id), oracle .. ':' .. sample_id, group_id .. ' ' .. sample_id
  leave(oracle, group_id, sample_id)
  redis.call('HSET', group, 'e:' .. field, 'deferred', 'd:' .. field, result, 'v:' .. oracle, version, 'v:' .. field, version)
  redis.call('ZADD', key('deferred', oracle), deadline, member)
  redis.call('ZADD', key('held', oracle), now, member)
  add(oracle, 'deferred_bytes', number(group, 'b:' .. sample_id))
  while number(key('stat', oracle), 'deferred_bytes') > S.deferred_bytes do
    local oldest = redis.call('ZPOPMIN', key('held', oracle))[1]
    if not oldest then break end
    local its_group, its_sample = oldest:match('^(%S+) (%S+)$')
    add(oracle, 'deferred_bytes', -number(key('group', its_group), 'b:' .. its_sample))
    drop_picture(its_group, its_sample)
  end
end

for i = 5, #ARGV, 5 do
  local group_id, sample_id, kind, deadline, result = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local where = redis.call('HGET', key('group', group_id), 'e:' .. oracle .. ':' .. sample_id)
  if kind == 'deferred' and where and where ~= 'deferred' then
    defer(group_id, sample_id, deadline, result)
    deferred = deferred + 1
  elseif kind ~= 'deferred' and record(oracle, group_id, sample_id, result, version, kind == 'failed') then
    settled = settled + 1
    if cached then redis.call('HSET', key('group', group_id), 'h:' .. oracle .. ':' .. sample_id, 1) end
  else
    duplicates = duplicates + 1
  end
end
touch(oracle)
return { settled, duplicates, deferred }
