-- Leases samples: retries that are due, expired leases, then new ones. Stale and poisonous ones are settled on the way.
-- ARGV: settings, oracle, consumer, max_samples, lease, begun_only (1: nothing that was never claimed), whole_groups (1: all
-- open samples of one group, or none)
-- Returns {{entry id, message, failed asks, the same by class, deliveries, how old an answer may be, time waited, staleness}…,
-- last entry id, 1 if there is more to look at}.

local oracle, consumer, max_samples, lease = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local begun_only, whole_groups = ARGV[6] == '1', ARGV[7] == '1'
local stream, stat = key('stream', oracle), key('stat', oracle)
local DISCARDS, PRUNE_EVERY, CONSUMER_IDLE = 256, 60000, 600000
local policy_version = tonumber(redis.call('ZSCORE', P .. 'policy', 'version') or 0)
local claimed, discarded = {}, 0

local function settle_unasked(group_id, sample_id, code, detail, bury_it)
  record(oracle, group_id, sample_id, failure(sample_id, code, detail), '', bury_it)
  discarded = discarded + 1
end

local function hand_out(id, entry, deliveries)
  local group_id, sample_id = entry[2], entry[4]
  local group, field = key('group', group_id), oracle .. ':' .. sample_id
  if redis.call('HGET', group, 'e:' .. field) ~= id then -- its group has gone
    drop_entry(oracle, id)
    discarded = discarded + 1
    return
  end
  local staleness = policy_version - number(group, 'p:' .. sample_id)
  local crashes = number(group, 'c:' .. field) + deliveries - 1
  if S.max_staleness >= 0 and staleness > S.max_staleness then
    local detail = 'older by ' .. staleness .. ' policy versions; at most ' .. S.max_staleness .. ' are allowed'
    return settle_unasked(group_id, sample_id, 'stale', detail, false)
  end
  if crashes >= S.max_deliveries then
    local last = redis.call('HGET', group, 'f:' .. field)
    local detail = 'handed out ' .. crashes .. ' times to workers that never came back'
    if last then detail = detail .. '; last failure before: ' .. cjson.decode(last).detail end
    return settle_unasked(group_id, sample_id, 'poison', detail, true)
  end
  local total, by_class = attempts(oracle, group_id, sample_id)
  local message = redis.call('HGET', group, 'm:' .. sample_id)
  local reuse, waited = number(group, 'u:' .. oracle), now - tonumber(id:match('^%d+'))
  table.insert(claimed, { id, message, total, by_class, total + crashes + 1, reuse, waited, math.max(0, staleness) })
end

local function promote_retries()
  local retry = key('retry', oracle)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', 0, max_samples)) do
    local group_id, sample_id = member:match('^(%S+) (%S+)$')
    redis.call('ZREM', retry, member)
    if redis.call('EXISTS', key('group', group_id)) == 1 then
      local id = wait_in_stream(oracle, group_id, sample_id)
      if begun_only then -- past those that were never claimed; if these are read meanwhile, it is handed out once more
        redis.call('XCLAIM', stream, WORKERS, consumer, 0, id, 'FORCE')
        hand_out(id, redis.call('XRANGE', stream, id, id)[1][2], 1)
      end
    end
  end
end

-- By ids first: 6.2 hands out deleted entries as nil without their ids, and only a second XCLAIM counts the delivery.
local function take_over()
  local cursor = '0-0'
  repeat
    local reply = redis.call('XAUTOCLAIM', stream, WORKERS, consumer, lease, cursor, 'COUNT', max_samples - #claimed, 'JUSTID')
    cursor = reply[1]
    for _, id in ipairs(reply[2]) do
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry then
        redis.call('XCLAIM', stream, WORKERS, consumer, 0, id)
        hand_out(id, entry[2], redis.call('XPENDING', stream, WORKERS, id, id, 1)[1][4])
      else
        redis.call('XACK', stream, WORKERS, id)
      end
    end
  until cursor == '0-0' or #claimed >= max_samples or discarded >= DISCARDS
end

local function read_new()
  while #claimed < max_samples and discarded < DISCARDS do
    local reply = redis.call('XREADGROUP', 'GROUP', WORKERS, consumer, 'COUNT', max_samples - #claimed, 'STREAMS', stream, '>')
    if not reply then return end
    for _, entry in ipairs(reply[1][2]) do hand_out(entry[1], entry[2], 1) end
  end
end

-- For an oracle that judges whole groups: leases all open samples of a group, or leaves it alone while one of them is under
-- lease or not due. It never reads new entries as such, which would be handed out one by one.
local function lease_group(group_id)
  local group, open, num_samples = key('group', group_id), {}, 0
  for _, field in ipairs(redis.call('HKEYS', group)) do
    local kind, of, sample_id = field:match('^(e):([^:]+):(.+)$')
    if field:sub(1, 2) == 'm:' then
      num_samples = num_samples + 1
    elseif kind and of == oracle then
      local id, deliveries = redis.call('HGET', group, field), 1
      if id == 'retry' then
        if tonumber(redis.call('ZSCORE', key('retry', oracle), group_id .. ' ' .. sample_id)) > now then return end
      elseif id ~= 'deferred' then
        local pending = redis.call('XPENDING', stream, WORKERS, id, id, 1)[1]
        if pending and pending[3] < lease then return end
        if pending then deliveries = pending[4] + 1 end
      end
      if id ~= 'deferred' then table.insert(open, { sample_id, id, deliveries }) end
    end
  end
  table.sort(open, function(a, b) return a[1] < b[1] end)
  local fault
  if #open < num_samples then
    fault = 'others of this one have outcomes or are deferred: send the group again, under another id'
  elseif #open > max_samples then
    fault = 'this one has ' .. #open .. ' samples; at most ' .. max_samples .. ' fit in one request: send smaller groups'
  end
  for _, one in ipairs(open) do
    local sample_id, id, deliveries = one[1], one[2], one[3]
    if id == 'retry' then
      redis.call('ZREM', key('retry', oracle), group_id .. ' ' .. sample_id)
      id = wait_in_stream(oracle, group_id, sample_id)
    end
    if fault then
      settle_unasked(group_id, sample_id, 'oracle_error', 'its oracle judges whole groups, and ' .. fault, true)
    else
      redis.call('XCLAIM', stream, WORKERS, consumer, 0, id, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
      hand_out(id, { 'g', group_id, 's', sample_id }, deliveries)
    end
  end
end

local function lease_one_group()
  local looked_at, retry = {}, key('retry', oracle)
  local function look(group_id)
    if looked_at[group_id] then return end
    looked_at[group_id] = true
    lease_group(group_id)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('retry', oracle), '-inf', now)) do
    if #claimed > 0 then return end
    local group_id = member:match('^(%S+) ')
    if redis.call('EXISTS', key('group', group_id)) == 1 then look(group_id) else redis.call('ZREM', retry, member) end
  end
  local from, entries = '-', nil
  repeat
    if begun_only then
      entries = redis.call('XPENDING', stream, WORKERS, 'IDLE', lease, from, '+', 64)
    else
      entries = redis.call('XRANGE', stream, from, '+', 'COUNT', 64)
    end
    for _, found in ipairs(entries) do
      local id = found[1]
      if #claimed > 0 or discarded >= DISCARDS then return end
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry and redis.call('HGET', key('group', entry[2][2]), 'e:' .. oracle .. ':' .. entry[2][4]) == id then
        look(entry[2][2])
      else -- its group has gone
        drop_entry(oracle, id)
      end
      from = '(' .. id
    end
  until #entries == 0
end

local function map(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Consumers that are long gone; only when nothing is pending on them, or it would be lost.
local function prune_consumers()
  if now - number(stat, 'pruned_at') < PRUNE_EVERY then return end
  redis.call('HSET', stat, 'pruned_at', now)
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, WORKERS)) do
    local known = map(flat)
    if known.pending == 0 and known.idle > CONSUMER_IDLE and known.name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, WORKERS, known.name)
    end
  end
end

ensure_stream(oracle)
sweep(oracle)
if whole_groups then
  lease_one_group()
else
  promote_retries()
  if #claimed < max_samples then take_over() end
  if not begun_only then read_new() end
end
prune_consumers()
if #claimed + discarded > 0 then touch(oracle) end -- an idle poll writes nothing
local last_id = map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
return { claimed, last_id, discarded >= DISCARDS and 1 or 0 }
