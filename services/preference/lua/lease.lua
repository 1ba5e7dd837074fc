-- A comparison for a rater, under a lease whose id is the caller's: asked again, it is the same.
-- ARGV: settings, rater, lease, wanted (question, gold or repeat), pick (in [0, 1): which gold or repeat), swapped
-- Returns what is shown, or why nothing is.

local rater, id, wanted, pick, swapped = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local LOOK_AT = 200

local function has_met(kind, group, comparison)
  local met = meeting({ kind = kind, group = group, comparison = comparison })
  return redis.call('SISMEMBER', key('met', rater), met) == 1
end

-- The first with a place left, of the group that is due first, that this rater has not met. None of a group past its deadline.
local function first_question()
  local from = redis.call('ZCOUNT', P .. 'open', '-inf', now)
  repeat
    local questions, meetings = redis.call('ZRANGE', P .. 'open', from, from + LOOK_AT - 1), {}
    for i, one in ipairs(questions) do meetings[i] = 'question ' .. one end
    local met = #questions > 0 and redis.call('SMISMEMBER', key('met', rater), unpack(meetings)) or {}
    for i, one in ipairs(questions) do
      if met[i] == 0 then
        local group, comparison = one:match('^(%S+) (%S+)$')
        return { kind = 'question', group = group, comparison = comparison, counts = '1' }
      end
    end
    from = from + LOOK_AT
  until #questions < LOOK_AT
end

-- The first of a list, from the one picked on and around, for which `get` gives something.
local function from_picked(list, get)
  local start = math.floor(pick * #list)
  for i = 0, #list - 1 do
    local found = get(list[(start + i) % #list + 1])
    if found then return found end
  end
end

local function gold(gold_id)
  local comparison = GOLD .. ':' .. gold_id
  if has_met('gold', GOLD, comparison) then return end
  return { kind = 'gold', group = GOLD, comparison = comparison, counts = '0' }
end

-- Long enough ago, still standing, and not repeated yet.
local function repeated(choice_id)
  local stands, _, group, kind, comparison = fate_of(rater, choice_id)
  if stands ~= '1' or kind ~= 'question' or has_met('repeat', group, comparison) then return end
  if redis.call('HEXISTS', key('answers', group), answer_field(kind, comparison, rater)) == 0 then return end
  return { kind = 'repeat', group = group, comparison = comparison, counts = '0' }
end

sweep()
local known = lease_of(id, rater)
if known then return shown(id, known) end
if redis.call('HGET', STATE, 'paused') == '1' then return 'paused' end
local paused = redis.call('HGET', key('rater', rater), 'paused')
if not paused then return 'unknown' end
if paused == '1' then return 'rater_paused' end
if redis.call('ZCARD', key('held', rater)) >= S.max_leases then return 'too_many_leases' end
local asked = first_question()
if not asked then return 'empty' end
if wanted == 'gold' then
  asked = from_picked(redis.call('LRANGE', P .. 'golds', 0, -1), gold) or asked
elseif wanted == 'repeat' then
  asked = from_picked(redis.call('LRANGE', key('made', rater), 0, -S.repeat_after - 1), repeated) or asked
end
asked.rater, asked.swapped = rater, swapped
return give(id, asked)
