-- Notes the call as one of its scope. Returns 0 when the scope was deleted. Keys: calls of the scope, its tombstone.
-- Arguments: request id, time to live ms. The set expires with the last of its calls, and sheds the others before.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
