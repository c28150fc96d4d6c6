-- key: takes a key alone.
--
-- KEYS  1 the key      ARGV  1 entry  2 end (ms) or 0  3 an entry that may be replaced, or ''  4 now (ms)
-- Answers the entry that is in the way, or nothing.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] and there ~= ARGV[3] and struct.unpack('>I8', there) > tonumber(ARGV[4]) then return there end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
end
return false
