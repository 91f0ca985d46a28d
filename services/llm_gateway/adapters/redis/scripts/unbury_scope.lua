-- Deletes the dead letters of a scope, and takes no more of them. Keys: letters of the scope, its tombstone, index.
-- Arguments: time to live ms, prefix of letters. Returns how many were deleted so far.
local count = 0
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local letter = ARGV[2] .. id
  local known = redis.call('HMGET', letter, 'entry', 'project')
  if known[1] then
    redis.call('ZREM', KEYS[3], known[1])
    redis.call('ZREM', known[2], known[1])
    redis.call('DEL', letter)
    count = count + 1
  end
end
redis.call('DEL', KEYS[1])
redis.call('HINCRBY', KEYS[2], 'letters', count)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return tonumber(redis.call('HGET', KEYS[2], 'letters'))
