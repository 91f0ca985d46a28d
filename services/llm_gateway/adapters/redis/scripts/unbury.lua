-- Deletes a dead letter. Keys: letter, index. Argument: request id. Returns 1 if there was one.
local known = redis.call('HMGET', KEYS[1], 'entry', 'project', 'scope')
if not known[1] then
  return 0
end
redis.call('ZREM', KEYS[2], known[1])
redis.call('ZREM', known[2], known[1])
if known[3] then
  redis.call('SREM', known[3], ARGV[1])
end
redis.call('DEL', KEYS[1])
return 1
