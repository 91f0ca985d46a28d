-- Gives the run up unless somebody follows it. Keys: call, followers. Argument: fence.
local known = redis.call('HMGET', KEYS[1], 'fence', 'status')
if known[1] ~= ARGV[1] or known[2] ~= 'running' then
  return 1
end
if redis.call('SCARD', KEYS[2]) > 0 then
  redis.call('HSET', KEYS[1], 'orphaned', 1)
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'released')
return 1
