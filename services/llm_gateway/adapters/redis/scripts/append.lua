-- Stores records under the fence and renews the lease. Keys: call, log.
-- Arguments: fence, lease ms, time to live ms, records, status after it, attempts so far or ''.
local call, log = KEYS[1], KEYS[2]
local known = redis.call('HMGET', call, 'fence', 'status')
if known[1] ~= ARGV[1] or known[2] ~= 'running' then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('XADD', log, '*', 'r', ARGV[4])
redis.call('HSET', call, 'until', now + tonumber(ARGV[2]), 'status', ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', call, 'attempts', ARGV[6])
end
redis.call('PEXPIRE', call, ARGV[3])
redis.call('PEXPIRE', log, ARGV[3])
return 1
