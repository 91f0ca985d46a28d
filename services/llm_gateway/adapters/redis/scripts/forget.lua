-- Leaves a tombstone of the call: whoever runs it has lost its fence, nobody can claim it, nothing of it is left.
-- Keys: call, log, followers. Argument: time to live ms. Returns 1 when there was something of a result.
local known = redis.call('HMGET', KEYS[1], 'status', 'fence', 'had')
if known[1] == 'deleted' then
  return tonumber(known[3])
end
local had = redis.call('EXISTS', KEYS[2])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'status', 'deleted', 'fence', tonumber(known[2] or 0) + 1, 'had', had)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return had
