-- What is recorded for a (group, oracle). ARGV: settings, oracle, group_id
-- Returns {samples without an outcome, version, then for each result: itself, its version, its picture's media type, 1 if it
-- is an earlier answer}, or nothing if the pair is unknown.

local oracle, group_id = ARGV[2], ARGV[3]
sweep(oracle)
local group = key('group', group_id)
local left = redis.call('HGET', group, 'o:' .. oracle)
if not left then return false end
local answer = { tonumber(left), redis.call('HGET', group, 'v:' .. oracle) or '' }
local flat, fields = redis.call('HGETALL', group), {}
for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
local settled, deferred = 'r:' .. oracle .. ':', 'd:' .. oracle .. ':'
for field, result in pairs(fields) do
  local kind, sample_id = field:sub(1, #settled), field:sub(#settled + 1)
  if kind == settled or kind == deferred then
    table.insert(answer, result)
    table.insert(answer, fields['v:' .. oracle .. ':' .. sample_id] or '')
    table.insert(answer, fields['t:' .. sample_id] or '')
    table.insert(answer, fields['h:' .. oracle .. ':' .. sample_id] and 1 or 0)
  end
end
return answer
