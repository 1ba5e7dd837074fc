-- Gives a lease back. ARGV: settings, rater, lease.

sweep()
local lease = lease_of(ARGV[3], ARGV[2])
if lease then give_back(ARGV[3], lease) end
