-- What is recorded for a (group, oracle). ARGV: settings, oracle, group_id
-- Returns {samples without an outcome, version, results…}, or nothing if the pair is unknown.

local oracle, group_id = ARGV[2], ARGV[3]
sweep(oracle)
local group = key('group', group_id)
local left = redis.call('HGET', group, 'o:' .. oracle)
if not left then return false end
local answer = { tonumber(left), redis.call('HGET', group, 'v:' .. oracle) or '' }
local fields = redis.call('HGETALL', group)
local settled, deferred = 'r:' .. oracle .. ':', 'd:' .. oracle .. ':'
for i = 1, #fields, 2 do
  local kind = fields[i]:sub(1, #settled)
  if kind == settled or kind == deferred then table.insert(answer, fields[i + 1]) end
end
return answer
