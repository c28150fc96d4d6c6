#!lua flags=no-writes
-- get: one record as of one moment.
--
-- KEYS  1 heads  2 body  3 result  4 attempts      ARGV  1 id  2 body wanted (0|1)  3 result wanted  4 attempts wanted
-- Answers {head, body or false, result or false, attempts} or nothing.
local head = redis.call('HGET', KEYS[1], ARGV[1])
if not head then return false end
return {
  head,
  ARGV[2] == '1' and redis.call('GET', KEYS[2]),
  ARGV[3] == '1' and redis.call('GET', KEYS[3]),
  ARGV[4] == '1' and redis.call('LRANGE', KEYS[4], 0, -1) or {},
}
