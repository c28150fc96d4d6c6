-- insert: stores new tasks. Refuses the late, the existing and the conflicting ones, all of them if the batch is atomic.
--
-- KEYS  see lib.lua, then lanes, bodies and keys at the places that the plan names.
-- ARGV  1 plan (MessagePack): {what `store` needs, late items, look items (ids that may exist),
--       keyed {item, puts (see keys.lua)}…, atomic (0|1), now (ms)};  2 feed prefix;  3.. bodies.
-- Answers the seq of the first task if all were stored, else a list: seq | 'L' late | 'A' aborted | 'E'head |
-- 'C'kind, whether a head follows, head, entry.
local plan = cmsgpack.unpack(ARGV[1])
local tasks, late, look, keyed, atomic, now = plan[1], plan[2], plan[3], plan[4], plan[5] == 1, plan[6]
local ids = tasks[1]
local n = #ids
local ok, answers, all = {}, {}, true
for i = 1, n do ok[i] = true end

local function refuse(i, why)
  ok[i], answers[i], all = false, why, false
end

for j = 1, #late do refuse(byte(late, j), 'L') end

local twin, clash = {}, {} -- item -> the earlier item of this batch with the same id, the key that is taken
if #look > 0 or #keyed > 0 then
  local looked, puts, first, keys = {}, {}, {}, {}
  for j = 1, #look do looked[byte(look, j)] = true end
  for _, item in ipairs(keyed) do puts[item[1]] = item[2] end
  local function taken(name) return keys[name] end
  local function head_of(id)
    if first[id] then return tasks[2][first[id]] end
    return call('HGET', HEADS, id)
  end
  for i = 1, n do
    if ok[i] and looked[i] then
      local stored = call('HGET', HEADS, ids[i])
      if stored then
        refuse(i, 'E' .. stored)
      elseif first[ids[i]] then
        twin[i] = first[ids[i]]
        refuse(i, 'E')
      end
    end
    if ok[i] and puts[i] then
      local put, entry = conflict(puts[i], now, taken, head_of)
      if put then
        refuse(i, 'C')
        local who = holder(entry)
        clash[i] = { put[7], entry, first[who], not first[who] and head_of(who) }
      else
        for _, put in ipairs(puts[i]) do keys[name_of(put)] = put[3] end
      end
    end
    if ok[i] then first[ids[i]] = i end
  end
end

local heads, seqs = {}, {}
if all or not atomic then
  heads, seqs = store(tasks, ok)
  for _, item in ipairs(keyed) do
    if ok[item[1]] then
      for _, put in ipairs(item[2]) do take(put, ids[item[1]]) end
    end
  end
  local rows = { ARGV[2] }
  for i = 1, n do
    if ok[i] then rows[#rows + 1] = row(ids[i], heads[i]) end
  end
  if #rows > 1 then call('XADD', FEED, '*', 'r', concat(rows)) end
  if all then return seqs[1] end
end

-- The head of an item of this batch; without order of acceptance if the batch was refused.
local function made(j)
  return heads[j] or (tasks[2][j] .. struct.pack('>I8', 0) .. tasks[3][j])
end

for i = 1, n do
  if ok[i] then
    answers[i] = seqs[i] or 'A'
  elseif twin[i] then
    answers[i] = 'E' .. made(twin[i])
  elseif clash[i] then
    local kind, entry, item, head = unpack(clash[i], 1, 4)
    head = item and made(item) or head
    answers[i] = 'C' .. kind .. (head and '\1' .. head or '\0') .. entry
  end
end
return answers
