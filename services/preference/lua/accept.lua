-- Takes a group over. Its pictures were uploaded before, and expire unless they are needed from now on.
-- ARGV: settings, group, itself as JSON, accepted, deadline, bytes, number of pictures, their digests, then for each
-- comparison: id, indices of its pictures
-- Returns {'accepted' | 'known' | 'full', bytes in use}.

local group, json, accepted, deadline, need, num_pictures =
  ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local hash, in_use = key('group', group), number(STATE, 'bytes')
local digests, first_comparison = {}, 8 + num_pictures
for i = 8, first_comparison - 1 do table.insert(digests, ARGV[i]) end

if redis.call('EXISTS', hash) == 1 then return { 'known', in_use } end
if in_use + need > S.budget_bytes then
  for _, digest in ipairs(digests) do
    if redis.call('HEXISTS', P .. 'refs', digest) == 0 then redis.call('UNLINK', key('picture', digest)) end
  end
  return { 'full', in_use }
end
if not need_pictures(digests) then return redis.error_reply('STAGE the uploaded pictures are gone') end

local num_comparisons = (#ARGV - first_comparison + 1) / 2
redis.call('HSET', hash, 'group', json, 'raters', S.raters, 'deadline', deadline, 'bytes', need, 'state', 'open', 'left',
  num_comparisons, 'digests', table.concat(digests, ' '))
for i = first_comparison, #ARGV, 2 do
  redis.call('HSET', hash, 'c:' .. ARGV[i], ARGV[i + 1])
  redis.call('ZADD', P .. 'open', deadline, question(group, ARGV[i]))
end
redis.call('ZADD', P .. 'due', num_comparisons == 0 and 0 or deadline, group)
redis.call('ZADD', P .. 'waiting', accepted, group)
redis.call('HINCRBY', STATE, 'unanswered', num_comparisons)
return { 'accepted', redis.call('HINCRBY', STATE, 'bytes', need) }
