-- One follower less; the last one to leave a run without callers of its own asks to cancel it.
-- Keys: call, log, followers. Arguments: owner, record.
if redis.call('SREM', KEYS[3], ARGV[1]) == 0 or redis.call('SCARD', KEYS[3]) > 0 then
  return 0
end
local known = redis.call('HMGET', KEYS[1], 'status', 'orphaned')
if known[1] == 'running' and known[2] then
  redis.call('XADD', KEYS[2], '*', 'r', ARGV[2])
  return 1
end
return 0
