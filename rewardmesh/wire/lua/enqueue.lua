-- Accepts a group for each oracle that has room. Its pictures were uploaded to a staging hash before.
-- ARGV: settings, group_id, staging key, need (bytes), number of oracles, for each: its name and how old an answer it may
-- reuse, then for each sample: id, bytes, media type, policy version, message
-- Returns for each oracle {accepted, bytes in use}.

if redis.call('GET', P .. 'settings') ~= ARGV[1] then redis.call('SET', P .. 'settings', ARGV[1]) end
S = cjson.decode(ARGV[1])

local group_id, stage, need, num_oracles = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local group, blobs = key('group', group_id), key('blobs', group_id)
local first_sample = 6 + 2 * num_oracles

local function samples()
  local i = first_sample - 5
  return function()
    i = i + 5
    if ARGV[i] then return ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] end
  end
end

if redis.call('EXISTS', stage) == 0 then return redis.error_reply('STAGE the uploaded pictures are gone') end

local answer, accepting, reuse = {}, {}, {}
for i = 6, first_sample - 1, 2 do
  local oracle = ARGV[i]
  reuse[oracle] = ARGV[i + 1]
  sweep(oracle)
  local known = redis.call('HEXISTS', group, 'o:' .. oracle) == 1
  local bytes = number(key('stat', oracle), 'bytes')
  local fits = bytes + need <= S.budget_bytes
  if fits and not known then
    table.insert(accepting, oracle)
    bytes = bytes + need
  end
  table.insert(answer, { (known or fits) and 1 or 0, bytes })
end

if #accepting > 0 then
  if redis.call('EXISTS', blobs) == 0 then
    redis.call('RENAME', stage, blobs)
    redis.call('PERSIST', blobs)
  end
  redis.call('ZADD', P .. 'groups', 'NX', now, group_id)
  for sample_id, size, media_type, policy_version, message in samples() do
    redis.call('HSET', group, 'm:' .. sample_id, message, 'b:' .. sample_id, size, 't:' .. sample_id, media_type,
      'p:' .. sample_id, policy_version)
    redis.call('HINCRBY', group, 'n:' .. sample_id, #accepting)
    if redis.call('HEXISTS', blobs, sample_id) == 0 then -- an oracle that comes late to a group finds pictures gone
      redis.call('HSET', blobs, sample_id, redis.call('HGET', stage, sample_id))
    end
  end
end

for _, oracle in ipairs(accepting) do
  local num_samples = 0
  ensure_stream(oracle)
  for sample_id in samples() do
    wait_in_stream(oracle, group_id, sample_id)
    num_samples = num_samples + 1
  end
  redis.call('HSET', group, 'o:' .. oracle, num_samples)
  if reuse[oracle] ~= '0' then redis.call('HSET', group, 'u:' .. oracle, reuse[oracle]) end
  add(oracle, 'bytes', need)
  touch(oracle)
end
redis.call('UNLINK', stage)
redis.call('PEXPIRE', group, 4 * S.group_ttl_ms)
redis.call('PEXPIRE', blobs, 4 * S.group_ttl_ms)
return answer
