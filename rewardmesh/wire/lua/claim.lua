-- Leases samples: retries that are due, expired leases, then new ones. Stale and poisonous ones are settled on the way.
-- ARGV: settings, oracle, consumer, max_samples, lease, begun_only (1: nothing that was never claimed)
-- Returns {{entry id, message, failed asks, the same by class, deliveries}…, last entry id, 1 if there is more to look at}.

local oracle, consumer, max_samples, lease = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local begun_only = ARGV[6] == '1'
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
  table.insert(claimed, { id, message, total, by_class, total + crashes + 1 })
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
promote_retries()
if #claimed < max_samples then take_over() end
if not begun_only then read_new() end
prune_consumers()
if #claimed + discarded > 0 then touch(oracle) end -- an idle poll writes nothing
local last_id = map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
return { claimed, last_id, discarded >= DISCARDS and 1 or 0 }
