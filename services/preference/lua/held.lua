-- What a rater holds, in order. ARGV: settings, rater.

sweep()
local held = {}
for _, id in ipairs(redis.call('ZRANGE', key('held', ARGV[2]), 0, -1)) do table.insert(held, shown(id, lease_of(id))) end
return held
