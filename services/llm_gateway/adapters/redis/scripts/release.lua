-- Gives the run of `owner` up and tells its followers. Keys: call, log, followers.
-- Arguments: owner, time to live ms, record.
redis.call('SREM', KEYS[3], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'owner', 'status')
if known[1] ~= ARGV[1] or known[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'released')
redis.call('XADD', KEYS[2], '*', 'r', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
