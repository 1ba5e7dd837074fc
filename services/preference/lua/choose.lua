-- Keeps a choice, once. ARGV: settings, rater, lease, choice id, choice, look, and what it prefers if the comparison is of a
-- single picture, of a pair as it is, of a pair with its sides swapped ('': there is no such choice)
-- Returns {'saved' | 'again', comparison}, or {why it is refused}.

local rater, id, choice_id, choice, look = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local of_single, of_pair, of_swapped = ARGV[7], ARGV[8], ARGV[9]
local choices, made = key('choices', rater), key('made', rater)

local function remember(lease)
  set_fate(rater, choice_id, '1', id, lease.group, lease.kind, lease.comparison)
  redis.call('HSET', choices, 'l ' .. id, choice_id)
  redis.call('RPUSH', made, choice_id)
  while redis.call('LLEN', made) > S.made_kept do
    local oldest = redis.call('LPOP', made)
    local _, its_lease = fate_of(rater, oldest)
    redis.call('HDEL', choices, 'c ' .. oldest, 'l ' .. its_lease)
  end
end

-- Pauses a rater whose gold answers are too often wrong; their answers in open groups count no more.
local function judge()
  local hash = key('rater', rater)
  local num = number(hash, 'num_gold') - number(hash, 'gold_before')
  local right = number(hash, 'num_gold_right') - number(hash, 'gold_right_before')
  if redis.call('HGET', hash, 'paused') == '1' or num < S.min_gold_answers or right >= S.min_gold_rate * num then return end
  redis.call('HSET', hash, 'paused', 1, 'why', 'gold: ' .. right .. ' of ' .. num .. ' right')
  for _, met in ipairs(redis.call('SMEMBERS', key('met', rater))) do
    local group, comparison = met:match('^question (%S+) (%S+)$')
    if group and redis.call('HGET', key('group', group), 'state') == 'open' then
      local field = answer_field('question', comparison, rater)
      local answer = answer_of(group, field)
      if answer and answer.counts then
        answer.counts = false
        redis.call('HSET', key('answers', group), field, cjson.encode(answer))
        count_answer(group, comparison, -1)
        place(group, comparison, -1)
      end
    end
  end
end

local _, _, _, _, known = fate_of(rater, choice_id)
if known then return { 'again', known } end
if redis.call('HEXISTS', choices, 'l ' .. id) == 1 then return { 'otherwise' } end
sweep()
local lease = lease_of(id, rater)
if not lease then return { 'lost' } end
local pictures = lease.group == GOLD and '0 1' or redis.call('HGET', key('group', lease.group), 'c:' .. lease.comparison)
local first, second = pictures:match('^(%d+) ?(%d*)$')
local preferred = second == '' and of_single or lease.swapped == '1' and of_swapped or of_pair
if preferred == '' then return { 'no_such_choice' } end

local counts = lease.counts == '1' and redis.call('HGET', key('rater', rater), 'paused') ~= '1'
local answer = { number = next_number(), choice_id = choice_id, comparison = lease.comparison, group = lease.group,
  kind = lease.kind, rater = rater, choice = choice, swapped = second ~= '' and lease.swapped == '1', first = tonumber(first),
  second = tonumber(second) or cjson.null, preferred = preferred, at = now, look = look, counts = counts }
local field = answer_field(lease.kind, lease.comparison, rater)
end_lease(id, lease)
redis.call('HSET', key('answers', lease.group), field, cjson.encode(answer))
if counts then
  count_answer(lease.group, lease.comparison, 1)
elseif lease.counts == '1' then
  place(lease.group, lease.comparison, -1)
end
remember(lease)
redis.call('LPUSH', P .. 'latest', cjson.encode({ answer.number, lease.group, field }))
redis.call('LTRIM', P .. 'latest', 0, S.latest_kept - 1)
count_for_rater(answer, 1)
if lease.kind == 'gold' then judge() end
return { 'saved', lease.comparison }
