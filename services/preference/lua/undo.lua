-- Takes a rater's last standing choice back, unless a reward has used it, and leases its comparison to them again, under an
-- id that is the caller's: asked again, it takes back nothing more.
-- ARGV: settings, rater, lease. Returns what is shown, or nothing.

local rater, id = ARGV[2], ARGV[3]

local function last_choice()
  local made = redis.call('LRANGE', key('made', rater), 0, -1)
  for i = #made, 1, -1 do
    local stands, its_lease, group, kind, comparison = fate_of(rater, made[i])
    if stands == '1' then return made[i], its_lease, group, kind, comparison end
  end
end

sweep()
local known = lease_of(id, rater)
if known then return shown(id, known) end
local choice_id, its_lease, group, kind, comparison = last_choice()
if not choice_id then return false end
local field = answer_field(kind, comparison, rater)
local answer = answer_of(group, field)
if not answer or answer.choice_id ~= choice_id then return false end -- its group has gone
if kind == 'question' and redis.call('HGET', key('group', group), 'state') ~= 'open' then return false end

count_for_rater(answer, -1)
redis.call('HDEL', key('answers', group), field)
set_fate(rater, choice_id, '0', its_lease, group, kind, comparison)
if answer.counts then
  count_answer(group, comparison, -1)
  place(group, comparison, -1)
end
return give(id, { rater = rater, kind = kind, group = group, comparison = comparison, swapped = answer.swapped and '1' or '0',
  counts = answer.counts and '1' or '0' })
