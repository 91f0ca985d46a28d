-- Stores a dead letter in place of the one before and drops the oldest beyond the limit; not when its scope was deleted.
-- Keys: letter, index, index of the project, and if it has a scope the letters of that and its tombstone.
-- Arguments: entry, body, time to live ms, limit, prefix of letters, request id.
local letter, index, project, scope = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if scope and redis.call('EXISTS', KEYS[5]) == 1 then
  return 0
end
local before = redis.call('HGET', letter, 'entry')
if before then
  redis.call('ZREM', index, before)
  redis.call('ZREM', project, before)
end
redis.call('HSET', letter, 'entry', ARGV[1], 'body', ARGV[2], 'project', project)
redis.call('PEXPIRE', letter, ARGV[3])
for _, each in ipairs({index, project}) do
  redis.call('ZADD', each, 0, ARGV[1])
  redis.call('PEXPIRE', each, ARGV[3])
end
if scope then
  redis.call('HSET', letter, 'scope', scope)
  redis.call('SADD', scope, ARGV[6])
  redis.call('PEXPIRE', scope, ARGV[3])
end
local surplus = redis.call('ZCARD', index) - tonumber(ARGV[4])
if surplus > 0 then
  for _, entry in ipairs(redis.call('ZRANGE', index, 0, surplus - 1)) do
    local id = string.sub(entry, string.find(entry, ':', 1, true) + 1)
    local where = redis.call('HMGET', ARGV[5] .. id, 'project', 'scope')
    if where[1] then
      redis.call('ZREM', where[1], entry)
    end
    if where[2] then
      redis.call('SREM', where[2], id)
    end
    redis.call('DEL', ARGV[5] .. id)
    redis.call('ZREM', index, entry)
  end
end
return 1
