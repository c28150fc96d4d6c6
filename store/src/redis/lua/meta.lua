#!lua flags=allow-oom
-- meta: writes down what is missing of the facts about a store, even when Redis is full: the store must be able to open.
--
-- KEYS  1 facts  2 number of changes of documents  3 stream of changes
-- ARGV  1 format  2 partitions  3 id  4 what to add to the number of changes if all facts are missing: their loss is one
local call = redis.call
local fresh = call('HSETNX', KEYS[1], 'format', ARGV[1]) == 1
call('HSETNX', KEYS[1], 'partitions', ARGV[2])
call('HSETNX', KEYS[1], 'id', ARGV[3])
if fresh and ARGV[4] ~= '0' then
  call('XADD', KEYS[3], 'MAXLEN', '~', 16, '*', 'v', call('INCRBY', KEYS[2], ARGV[4]))
end
return 1
