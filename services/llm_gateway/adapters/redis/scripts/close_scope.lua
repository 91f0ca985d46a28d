-- Takes no more calls into the scope. Keys: calls of the scope, its tombstone. Arguments: time to live ms, limit.
-- Returns how many results were removed so far, and calls that are still to be forgotten.
redis.call('HSETNX', KEYS[2], 'results', 0)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return {tonumber(redis.call('HGET', KEYS[2], 'results')), redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)}
