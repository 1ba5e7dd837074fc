-- Renews the leases that are still this consumer's; JUSTID keeps the delivery count.
-- ARGV: settings, oracle, consumer, entry ids… Returns the ids that are still held.

local stream, consumer, held = key('stream', ARGV[2]), ARGV[3], {}
if redis.call('EXISTS', stream) == 0 then return held end
for i = 4, #ARGV do
  if #redis.call('XPENDING', stream, WORKERS, ARGV[i], ARGV[i], 1, consumer) > 0 then
    redis.call('XCLAIM', stream, WORKERS, consumer, 0, ARGV[i], 'JUSTID')
    table.insert(held, ARGV[i])
  end
end
return held
