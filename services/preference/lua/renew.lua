-- Prolongs a lease. ARGV: settings, rater, lease. Returns what is shown, or nothing if the lease is lost.

sweep()
local rater, id = ARGV[2], ARGV[3]
local lease = lease_of(id, rater)
if not lease then return false end
lease.expires = now + S.lease
redis.call('HSET', key('lease', id), 'expires', lease.expires)
redis.call('ZADD', P .. 'leases', lease.expires, id)
return shown(id, lease)
