-- Keys that new tasks take; shared by insert.lua and general.lua.
--
-- A put is {place, field, entry, end (ms) or 0, id to steal from or '', its version (8 bytes), kind}. At place 0 the key is a
-- field of HOLDS and goes with its task's record; else it is the string KEYS[place]. An entry: see `holder` in lib.lua.
local function name_of(put)
  return put[1] == 0 and 'h' .. put[2] or 's' .. KEYS[put[1]]
end

local function entry_of(put)
  if put[1] == 0 then return call('HGET', HOLDS, put[2]) end
  return call('GET', KEYS[put[1]])
end

-- The first put that cannot be had, and the entry in its way. `taken` answers what earlier items made of a key (nil: nothing),
-- `head_of` the head of a task, `parent` is a task that may be stolen from whatever its version.
local function conflict(puts, now, taken, head_of, parent)
  for _, put in ipairs(puts) do
    local entry = taken(name_of(put))
    if entry == nil then entry = entry_of(put) end
    if entry and struct.unpack('>I8', entry) > now then
      local who = holder(entry)
      if who ~= put[5] then return put, entry end
      local head = who ~= parent and head_of(who)
      if head and sub(head, 1, 8) ~= put[6] then return put, entry end
    end
  end
end

-- Stores a key of the new task `id`.
local function take(put, id)
  if put[1] == 0 then
    local list = 't' .. id
    call('HSET', HOLDS, put[2], put[3], list, (call('HGET', HOLDS, list) or '') .. struct.pack('>I2', #put[2]) .. put[2])
  elseif put[4] == 0 then
    call('SET', KEYS[put[1]], put[3])
  else
    call('SET', KEYS[put[1]], put[3], 'PXAT', put[4])
  end
end

