#!lua flags=allow-oom
-- doc: guarded changes of documents. A deleted one leaves its version behind, so that no version is used twice.
-- It may run when Redis is full: whoever makes room drains nodes and changes settings.
--
-- KEYS  1 number of changes  2 stream of changes  3.. per kind in use: documents (name -> version, live, bytes), live names
-- ARGV  1 MessagePack: items {documents key, names key, name, guard 'A' absent | 'V' version | '*' any, version (8 bytes),
--       1 put | 0 delete, bytes}
-- Answers per item {1, version (8 bytes), created 0|1} or {0, what is stored or false}.
local call = redis.call
local answers, changes = {}, 0
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local docs, names, name, guard, version, put = KEYS[item[1]], KEYS[item[2]], item[3], item[4], item[5], item[6] == 1
  local stored = call('HGET', docs, name)
  local live = stored and string.byte(stored, 9) == 1
  local allowed = guard == '*' or (guard == 'A' and not live) or (guard == 'V' and live and string.sub(stored, 1, 8) == version)
  if not allowed then
    answers[i] = { 0, live and stored or false }
  else
    local last = stored and string.sub(stored, 1, 8) or string.rep('\0', 8)
    -- Deleting what is not there changes nothing.
    if live or put then
      changes = changes + 1
      last = struct.pack('>I8', struct.unpack('>I8', last) + 1)
      call('HSET', docs, name, last .. (put and '\1' or '\0') .. item[7])
      if put then call('ZADD', names, 0, name) else call('ZREM', names, name) end
    end
    answers[i] = { 1, last, (put and not live) and 1 or 0 }
  end
end
if changes > 0 then
  call('XADD', KEYS[2], 'MAXLEN', '~', 16, '*', 'v', call('INCRBY', KEYS[1], changes))
end
return answers
