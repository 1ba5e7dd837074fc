-- Answers of one oracle that are kept for whoever asks the same question again. Server time, in ms.
-- KEYS: hash of answers by question, with the bytes of all of them in `bytes`; sorted set of questions, by when they were answered
-- ARGV: 'recall', then for each question: it, and how old an answer may be. Returns an answer or nothing for each.
--       'keep', how many bytes may be kept, then for each answer: its question, the answer. The oldest go first.

if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME may precede writes only if effects are replicated

local answers, order, verb = KEYS[1], KEYS[2], ARGV[1]
local OVERHEAD, KEPT = 200, 604800000 -- bytes of an entry beside its answer; what nobody adds to goes after a week
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function drop(question)
  local size = redis.call('HSTRLEN', answers, question)
  if size == 0 then return end
  redis.call('HDEL', answers, question)
  redis.call('ZREM', order, question)
  redis.call('HINCRBY', answers, 'bytes', -size - OVERHEAD)
end

if verb == 'recall' then
  local found = {}
  for i = 2, #ARGV, 2 do
    local answered = tonumber(redis.call('ZSCORE', order, ARGV[i]) or -math.huge)
    found[i / 2] = now - answered <= tonumber(ARGV[i + 1]) and redis.call('HGET', answers, ARGV[i])
  end
  return found
end

local max_bytes = tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  drop(ARGV[i])
  redis.call('HSET', answers, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', order, now, ARGV[i])
  redis.call('HINCRBY', answers, 'bytes', #ARGV[i + 1] + OVERHEAD)
end
while tonumber(redis.call('HGET', answers, 'bytes') or 0) > max_bytes do
  drop(redis.call('ZRANGE', order, 0, 0)[1])
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, KEPT) end
return false
