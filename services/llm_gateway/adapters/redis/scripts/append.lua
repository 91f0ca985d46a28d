-- Stores records under the fence and renews the lease. Keys: call, log.
-- Arguments: fence, number of this write within the run, lease ms, time to live ms, records,
-- status after it, attempts so far or ''. A write that is sent twice is stored once.
local call, log = KEYS[1], KEYS[2]
local known = redis.call('HMGET', call, 'fence', 'status', 'writes')
if known[1] ~= ARGV[1] then
  return 0
end
if tonumber(known[3]) >= tonumber(ARGV[2]) then
  return 1
end
if known[2] ~= 'running' then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('XADD', log, '*', 'r', ARGV[5])
redis.call('HSET', call, 'until', now + tonumber(ARGV[3]), 'status', ARGV[6], 'writes', ARGV[2])
if ARGV[7] ~= '' then
  redis.call('HSET', call, 'attempts', ARGV[7])
end
redis.call('PEXPIRE', call, ARGV[4])
redis.call('PEXPIRE', log, ARGV[4])
return 1
