-- insert: stores new tasks. Refuses the late, the existing and the conflicting ones, all of them if the batch is atomic.
--
-- KEYS  see lib.lua, then lanes, bodies and unique keys at the places that the plan names.
-- ARGV  1 plan (MessagePack): {what `store` needs, late items, look items (ids that may exist),
--       uniques {item, key, value, end (ms), …}, atomic (0|1), now (ms)};  2 feed prefix;  3.. bodies.
-- Answers the seq of the first task if all were stored, else a list: seq | 'L' late | 'A' aborted | 'E'head | 'C'key value.
local plan = cmsgpack.unpack(ARGV[1])
local tasks, late, look, uniques, atomic, now = plan[1], plan[2], plan[3], plan[4], plan[5] == 1, plan[6]
local ids = tasks[1]
local n = #ids
local ok, answers, all = {}, {}, true
for i = 1, n do ok[i] = true end

local function refuse(i, why)
  ok[i], answers[i], all = false, why, false
end

for j = 1, #late do refuse(byte(late, j), 'L') end

local twin = {} -- item -> the earlier item of this batch with the same id
if #look > 0 or #uniques > 0 then
  local looked, unique, first, taken = {}, {}, {}, {}
  for j = 1, #look do looked[byte(look, j)] = true end
  for u = 1, #uniques, 4 do unique[uniques[u]] = u end
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
    local u = ok[i] and unique[i]
    if u then
      local key = KEYS[uniques[u + 1]]
      local value = taken[key] or call('GET', key)
      if value and struct.unpack('>I8', value) > now then
        refuse(i, 'C' .. value)
      else
        taken[key] = uniques[u + 2]
      end
    end
    if ok[i] then first[ids[i]] = i end
  end
end

local heads, seqs = {}, {}
if all or not atomic then
  heads, seqs = store(tasks, ok)
  for u = 1, #uniques, 4 do
    if ok[uniques[u]] then call('SET', KEYS[uniques[u + 1]], uniques[u + 2], 'PXAT', uniques[u + 3]) end
  end
  local rows = { ARGV[2] }
  for i = 1, n do
    if ok[i] then rows[#rows + 1] = row(ids[i], heads[i]) end
  end
  if #rows > 1 then call('XADD', FEED, '*', 'r', concat(rows)) end
  if all then return seqs[1] end
end

for i = 1, n do
  if ok[i] then
    answers[i] = seqs[i] or 'A'
  elseif twin[i] then
    local j = twin[i]
    answers[i] = 'E' .. (heads[j] or (tasks[2][j] .. struct.pack('>I8', 0) .. tasks[3][j]))
  end
end
return answers
