-- What all scripts of the stream share; it is put in front of each of them. Commands of Redis 6.2 only.
-- KEYS[1]: prefix of the run's keys. ARGV[1]: the caller's settings (the run's own, once published, win). Times in ms.
--
-- The hash `group:<group_id>` is the truth. Its fields, by sample and by oracle:
--   m:<sample> message, b:<sample> bytes of the picture, t:<sample> their media type, p:<sample> policy version,
--   n:<sample> oracles that need the picture; o:<oracle> samples without an outcome, v:<oracle> version of the last result,
--   u:<oracle> how old an answer may be that is taken instead of asking (absent: it is asked)
--   e:<oracle>:<sample> where it waits: an entry id, 'retry' or 'deferred'; there exactly while there is no outcome
--   a: failed asks by class, c: crashes, f: last failure, d: deferral, r: the outcome, v: version of the oracle that gave
--   it, h: it is an earlier answer, taken again; each with :<oracle>:<sample>

if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME may precede writes only if effects are replicated

local P = KEYS[1]
local WORKERS = 'workers'
local COMPLETIONS_KEPT = 10000
local S = cjson.decode(redis.call('GET', P .. 'settings') or ARGV[1])

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(kind, name) return P .. kind .. ':' .. name end

local function add(oracle, counter, amount) return redis.call('HINCRBY', key('stat', oracle), counter, amount) end

local function number(hash, field) return tonumber(redis.call('HGET', hash, field) or 0) end

-- What nobody touches any more goes by itself, long after its groups have expired.
local function touch(oracle)
  for _, kind in ipairs({ 'stream', 'retry', 'deferred', 'held', 'stat', 'dead', 'deadpics' }) do
    redis.call('PEXPIRE', key(kind, oracle), 2 * S.group_ttl_ms)
  end
  for _, name in ipairs({ 'groups', 'results', 'settings', 'policy' }) do
    redis.call('PEXPIRE', P .. name, 2 * S.group_ttl_ms)
  end
end

-- Failed asks of a sample: how many, and by class as JSON.
local function attempts(oracle, group_id, sample_id)
  local by_class, total = redis.call('HGET', key('group', group_id), 'a:' .. oracle .. ':' .. sample_id) or '{}', 0
  for _, count in pairs(cjson.decode(by_class)) do total = total + count end
  return total, by_class
end

local function ensure_stream(oracle)
  if redis.call('EXISTS', key('stream', oracle)) == 0 then
    redis.call('XGROUP', 'CREATE', key('stream', oracle), WORKERS, '0', 'MKSTREAM')
  end
end

local function wait_in_stream(oracle, group_id, sample_id)
  local id = redis.call('XADD', key('stream', oracle), '*', 'g', group_id, 's', sample_id)
  redis.call('HSET', key('group', group_id), 'e:' .. oracle .. ':' .. sample_id, id)
  return id
end

local function drop_entry(oracle, id)
  redis.call('XACK', key('stream', oracle), WORKERS, id)
  redis.call('XDEL', key('stream', oracle), id)
end

-- One oracle less needs the picture; the last one lets it go. Never brings back a group that has expired.
local function drop_picture(group_id, sample_id)
  local group, needed_by = key('group', group_id), 'n:' .. sample_id
  if number(group, needed_by) > 1 then
    redis.call('HINCRBY', group, needed_by, -1)
  else
    redis.call('HDEL', group, needed_by)
    redis.call('HDEL', key('blobs', group_id), sample_id)
  end
end

-- Takes an unsettled sample out of wherever it waits, and its bytes out of that budget; the picture itself stays.
-- Returns whether this oracle still held the picture.
local function leave(oracle, group_id, sample_id)
  local group, open = key('group', group_id), 'e:' .. oracle .. ':' .. sample_id
  local where, member = redis.call('HGET', group, open), group_id .. ' ' .. sample_id
  local size = number(group, 'b:' .. sample_id)
  redis.call('HDEL', group, open)
  if where == 'deferred' then
    redis.call('ZREM', key('deferred', oracle), member)
    local held = redis.call('ZREM', key('held', oracle), member) == 1
    if held then add(oracle, 'deferred_bytes', -size) end
    return held
  end
  if where == 'retry' then redis.call('ZREM', key('retry', oracle), member) else drop_entry(oracle, where) end
  add(oracle, 'bytes', -size)
  return true
end

local function drop_dead_picture(oracle, id)
  local size = redis.call('HSTRLEN', key('deadpics', oracle), id)
  if size > 0 then
    redis.call('HDEL', key('deadpics', oracle), id)
    add(oracle, 'dead_bytes', -size)
  end
end

local function drop_letter(oracle, id)
  drop_dead_picture(oracle, id)
  return redis.call('XDEL', key('dead', oracle), id)
end

-- Keeps a failed sample for an operator: bounded in entries, and its picture in a byte budget; the oldest go first.
local function bury(oracle, group_id, sample_id, failure)
  local letters, stat = key('dead', oracle), key('stat', oracle)
  local message = redis.call('HGET', key('group', group_id), 'm:' .. sample_id)
  local id = redis.call('XADD', letters, '*', 'm', message, 'f', failure, 'a', (attempts(oracle, group_id, sample_id)),
    'g', group_id, 's', sample_id)
  local picture = redis.call('HGET', key('blobs', group_id), sample_id)
  if picture and #picture > 0 and #picture <= S.dead_letter_bytes then
    redis.call('HSET', key('deadpics', oracle), id, picture)
    add(oracle, 'dead_bytes', #picture)
  end
  while redis.call('XLEN', letters) > S.max_dead_letters do
    drop_letter(oracle, redis.call('XRANGE', letters, '-', '+', 'COUNT', 1)[1][1])
  end
  while number(stat, 'dead_bytes') > S.dead_letter_bytes do
    local after = redis.call('HGET', stat, 'dead_cursor')
    local oldest = redis.call('XRANGE', letters, after and '(' .. after or '-', '+', 'COUNT', 1)[1]
    if not oldest then break end
    drop_dead_picture(oracle, oldest[1])
    redis.call('HSET', stat, 'dead_cursor', oldest[1])
  end
end

-- Records the outcome of a sample if it has none; returns whether it did. `bury_it`: a failure worth an operator's eye.
local function record(oracle, group_id, sample_id, result, version, bury_it)
  local group, field = key('group', group_id), oracle .. ':' .. sample_id
  if redis.call('HEXISTS', group, 'e:' .. field) == 0 then
    add(oracle, 'duplicates', 1)
    return false
  end
  redis.call('HSET', group, 'r:' .. field, result)
  add(oracle, 'settled', 1)
  if version ~= '' then redis.call('HSET', group, 'v:' .. oracle, version, 'v:' .. field, version) end
  if bury_it then bury(oracle, group_id, sample_id, result) end
  if leave(oracle, group_id, sample_id) then drop_picture(group_id, sample_id) end
  redis.call('HDEL', group, 'a:' .. field, 'c:' .. field, 'f:' .. field, 'd:' .. field)
  if redis.call('HINCRBY', group, 'o:' .. oracle, -1) == 0 then
    redis.call('XADD', P .. 'results', 'MAXLEN', '~', COMPLETIONS_KEPT, '*', 'g', group_id, 'o', oracle)
  end
  return true
end

local function failure(sample_id, code, detail)
  return cjson.encode({ kind = 'failed', sample_id = sample_id, code = code, detail = detail, retryable = false })
end

local function forget(group_id)
  local group = key('group', group_id)
  for _, field in ipairs(redis.call('HKEYS', group)) do
    local oracle, sample_id = field:match('^e:([^:]+):(.+)$')
    if oracle then leave(oracle, group_id, sample_id) end
  end
  redis.call('UNLINK', group, key('blobs', group_id))
  redis.call('ZREM', P .. 'groups', group_id)
end

-- Groups that nobody forgot in time, and answers that did not come in time.
local function sweep(oracle)
  for _, group_id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'groups', '-inf', now - S.group_ttl_ms, 'LIMIT', 0, 32)) do
    forget(group_id)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key('deferred', oracle), '-inf', now, 'LIMIT', 0, 256)) do
    local group_id, sample_id = member:match('^(%S+) (%S+)$')
    local late = failure(sample_id, 'expired', 'the deferred answer did not come before its deadline')
    if not record(oracle, group_id, sample_id, late, '', true) then redis.call('ZREM', key('deferred', oracle), member) end
  end
end
