-- Gives the call to `owner`, or says who has it. Keys: call, log, followers.
-- Arguments: owner, fingerprint, lease ms, time to live ms.
local call, log, followers = KEYS[1], KEYS[2], KEYS[3]
local owner, fingerprint, lease, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', call, 'fingerprint', 'status', 'fence', 'until', 'from', 'attempts', 'owner')
if known[2] == 'deleted' then
  return {'deleted'}
end
if known[1] and known[1] ~= fingerprint then
  return {'reused'}
end
local fence = tonumber(known[3] or 0)
if known[2] == 'done' then
  return {'stored', fence, redis.call('XRANGE', log, '(' .. known[5], '+')}
end
if known[2] == 'running' and known[7] == owner then
  return {'claimed', fence, tonumber(known[6] or 0)}
end
if known[2] == 'running' and tonumber(known[4]) > now then
  redis.call('SADD', followers, owner)
  redis.call('PEXPIRE', followers, ttl)
  return {'running', fence, known[5]}
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
local from = last[1] and last[1][1] or '0-0'
redis.call('HSET', call, 'fingerprint', fingerprint, 'status', 'running', 'fence', fence + 1,
  'owner', owner, 'until', now + lease, 'from', from, 'writes', 0)
redis.call('HDEL', call, 'orphaned')
redis.call('PEXPIRE', call, ttl)
return {'claimed', fence + 1, tonumber(known[6] or 0)}
