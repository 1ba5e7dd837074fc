-- What all scripts of the queue share; it is put in front of each of them. Commands of Redis 6.2 only.
-- KEYS[1]: prefix of the queue's keys. ARGV[1]: the settings, with `now` where the clock is the caller's. Times in ms.
--
-- Fields of the hash `group:<group>`: group (itself), raters (k of its questions), deadline, bytes, digests, state, left
-- (comparisons without k counting answers); c:<comparison> its pictures, n:<comparison> places taken, by counting answers
-- and leases, a:<comparison> counting answers; h:<lease> which kind is held. Neither groups nor comparisons have spaces.

if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME may precede writes only if effects are replicated

local P = KEYS[1]
local S = cjson.decode(ARGV[1])
local GOLD = 'gold'
local STATE = P .. 'state'

local clock = redis.call('TIME')
local now = S.now or tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(kind, name) return P .. kind .. ':' .. name end

local function number(hash, field) return tonumber(redis.call('HGET', hash, field) or 0) end

local function next_number() return redis.call('HINCRBY', STATE, 'seq', 1) end

local function fields_of(hash)
  local flat, fields = redis.call('HGETALL', hash), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local function question(group, comparison) return group .. ' ' .. comparison end

local function meeting(lease) return lease.kind .. ' ' .. lease.group .. ' ' .. lease.comparison end

local function place(group, comparison, step)
  local hash = key('group', group)
  local taken = redis.call('HINCRBY', hash, 'n:' .. comparison, step)
  if taken < number(hash, 'raters') then
    redis.call('ZADD', P .. 'open', redis.call('HGET', hash, 'deadline'), question(group, comparison))
  else
    redis.call('ZREM', P .. 'open', question(group, comparison))
  end
end

-- One more counting answer, or one less. A group without unanswered comparisons is due at once.
local function count_answer(group, comparison, step)
  local hash = key('group', group)
  local raters, answers = number(hash, 'raters'), redis.call('HINCRBY', hash, 'a:' .. comparison, step)
  local unanswered = 0
  if step == 1 and answers == raters then unanswered = -1 end
  if step == -1 and answers == raters - 1 then unanswered = 1 end
  if unanswered == 0 then return end
  redis.call('HINCRBY', STATE, 'unanswered', unanswered)
  local left = redis.call('HINCRBY', hash, 'left', unanswered)
  redis.call('ZADD', P .. 'due', left == 0 and 0 or redis.call('HGET', hash, 'deadline'), group)
end

local function lease_of(id, rater)
  local lease = fields_of(key('lease', id))
  if lease.rater and (not rater or lease.rater == rater) then return lease end
end

local function end_lease(id, lease)
  redis.call('UNLINK', key('lease', id))
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', key('held', lease.rater), id)
  if lease.group ~= GOLD then redis.call('HDEL', key('group', lease.group), 'h:' .. id) end
end

local function give_back(id, lease)
  end_lease(id, lease)
  redis.call('SREM', key('met', lease.rater), meeting(lease))
  if lease.counts == '1' then place(lease.group, lease.comparison, -1) end
end

-- Leases end by themselves, but are cleared away only when somebody asks for something.
local function sweep()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now)) do give_back(id, lease_of(id)) end
end

-- What a presentation is made of.
local function shown(id, lease)
  if lease.group == GOLD then
    local gold_id = lease.comparison:sub(#GOLD + 2)
    return { id, lease.rater, lease.kind, lease.comparison, lease.swapped, lease.expires, '0 1',
      redis.call('HGET', key('gold', gold_id), 'gold') }
  end
  local pictures, group = unpack(redis.call('HMGET', key('group', lease.group), 'c:' .. lease.comparison, 'group'))
  return { id, lease.rater, lease.kind, lease.comparison, lease.swapped, lease.expires, pictures, group }
end

-- lease: rater, kind, group, comparison, swapped, counts ('1': it takes a place of its question)
local function give(id, lease)
  lease.expires = now + S.lease
  redis.call('HSET', key('lease', id), 'rater', lease.rater, 'kind', lease.kind, 'group', lease.group, 'comparison',
    lease.comparison, 'swapped', lease.swapped, 'counts', lease.counts, 'expires', lease.expires)
  redis.call('ZADD', P .. 'leases', lease.expires, id)
  redis.call('ZADD', key('held', lease.rater), next_number(), id)
  redis.call('SADD', key('met', lease.rater), meeting(lease))
  if lease.group ~= GOLD then redis.call('HSET', key('group', lease.group), 'h:' .. id, lease.kind) end
  if lease.counts == '1' then place(lease.group, lease.comparison, 1) end
  return shown(id, lease)
end

-- Ends the leases of a group that are of this kind, without giving their places back: its time is over.
local function drop_leases(group, kind)
  for field, held in pairs(fields_of(key('group', group))) do
    local id = field:match('^h:(.+)$')
    if id and held == kind then
      local lease = lease_of(id)
      end_lease(id, lease)
      redis.call('SREM', key('met', lease.rater), meeting(lease))
    end
  end
end

local function answer_field(kind, comparison, rater) return kind .. ' ' .. comparison .. ' ' .. rater end

local function answer_of(group, field)
  local answer = redis.call('HGET', key('answers', group), field)
  return answer and cjson.decode(answer)
end

-- What became of a choice: '1' if it stands or '0' if it was undone, then its lease, group, kind and comparison.
local function fate_of(rater, choice_id)
  local fate = redis.call('HGET', key('choices', rater), 'c ' .. choice_id)
  if fate then return fate:match('^(%d) (%S+) (%S+) (%S+) (%S+)$') end
end

local function set_fate(rater, choice_id, ...)
  redis.call('HSET', key('choices', rater), 'c ' .. choice_id, table.concat({ ... }, ' '))
end

-- The rater's own counts, for an answer that was kept, or with -1 for one that is taken back.
local function count_for_rater(answer, step)
  local rater = key('rater', answer.rater)
  local function compare(with, counter, of_these)
    redis.call('HINCRBY', rater, counter, step)
    if answer.preferred == with then redis.call('HINCRBY', rater, of_these, step) end
  end
  redis.call('HINCRBY', rater, 'num_choices', step)
  if answer.preferred == 'skip' then return end
  if answer.kind == 'gold' then
    local known = redis.call('HGET', key('gold', answer.comparison:sub(#GOLD + 2)), 'preferred')
    compare(known, 'num_gold', 'num_gold_right')
  elseif answer.kind == 'repeat' then
    local before = answer_of(answer.group, answer_field('question', answer.comparison, answer.rater))
    if before and before.preferred ~= 'skip' then compare(before.preferred, 'num_repeats', 'num_repeats_same') end
  end
end

-- Pictures: kept as long as a group or a gold pair needs them.
local function need_pictures(digests)
  for _, digest in ipairs(digests) do
    if redis.call('EXISTS', key('picture', digest)) == 0 then return false end
  end
  for _, digest in ipairs(digests) do
    redis.call('HINCRBY', P .. 'refs', digest, 1)
    redis.call('PERSIST', key('picture', digest))
  end
  return true
end

local function let_go_of(digest)
  if redis.call('HINCRBY', P .. 'refs', digest, -1) > 0 then return end
  redis.call('HDEL', P .. 'refs', digest)
  redis.call('UNLINK', key('picture', digest))
end
