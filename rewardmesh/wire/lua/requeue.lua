-- Takes a recorded failure back: its sample waits again, with the picture that its dead letter kept, as if never asked.
-- ARGV: settings, oracle, letter id. Returns what came of it: 'requeued', or why nothing has changed.

local oracle, id = ARGV[2], ARGV[3]
sweep(oracle)
local letter = redis.call('XRANGE', key('dead', oracle), id, id)[1]
if not letter then return 'no letter' end
local fields = {}
for i = 1, #letter[2], 2 do fields[letter[2][i]] = letter[2][i + 1] end
local group_id, sample_id = fields.g, fields.s
local group, blobs, field = key('group', group_id), key('blobs', group_id), oracle .. ':' .. sample_id

-- Not forgotten, and not another group that came under the same id since.
if redis.call('HGET', group, 'r:' .. field) ~= fields.f then return 'no group' end
local picture = redis.call('HGET', key('deadpics', oracle), id)
if not picture then return 'no picture' end
if number(key('stat', oracle), 'bytes') + #picture > S.budget_bytes then return 'no room' end

redis.call('HDEL', group, 'r:' .. field, 'v:' .. field)
redis.call('HINCRBY', group, 'o:' .. oracle, 1)
redis.call('HINCRBY', group, 'n:' .. sample_id, 1)
redis.call('HSET', blobs, sample_id, picture)
redis.call('PEXPIRE', blobs, 4 * S.group_ttl_ms)
add(oracle, 'bytes', #picture)
ensure_stream(oracle)
wait_in_stream(oracle, group_id, sample_id)
drop_letter(oracle, id)
touch(oracle)
return 'requeued'
