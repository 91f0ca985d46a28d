-- Deletes a dead letter. Keys: letter, index. Returns 1 if there was one.
local known = redis.call('HMGET', KEYS[1], 'entry', 'project')
if not known[1] then
  return 0
end
redis.call('ZREM', KEYS[2], known[1])
redis.call('ZREM', known[2], known[1])
redis.call('DEL', KEYS[1])
return 1
