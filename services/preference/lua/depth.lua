-- ARGV: settings. Returns {open groups, unanswered comparisons, leases, bytes, age of the oldest group, paused}.

sweep()
local oldest = redis.call('ZRANGE', P .. 'waiting', 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', P .. 'due'),
  number(STATE, 'unanswered'),
  redis.call('ZCARD', P .. 'leases'),
  number(STATE, 'bytes'),
  oldest and math.max(0, now - tonumber(oldest)) or 0,
  number(STATE, 'paused'),
}
