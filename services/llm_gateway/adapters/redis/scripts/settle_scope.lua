-- Strikes calls that are forgotten off their scope, and counts each once. Keys: calls of the scope, its tombstone.
-- Arguments: per call its request id and whether there was something of a result.
for i = 1, #ARGV, 2 do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    redis.call('HINCRBY', KEYS[2], 'results', ARGV[i + 1])
  end
end
return 1
