-- general: guarded changes with effects that depend on what is stored (keys, barriers, ids that may exist). It goes through
-- the items one after the other, notes what each would write, and writes only when it is through: change.lua is what
-- changes without such effects use. It may run when Redis is full, as change.lua may.
--
-- KEYS  see lib.lua, then lanes, bodies, results, attempts, keys, barriers and
--       the outbox at the places that the plan names.
-- ARGV  1 plan (MessagePack): {now (ms), atomic (0|1), items};  2 feed prefix;  3.. bodies, results, attempts, messages.
--       item    {id, head before, head after ('' deletes), moves, counts, writes {command, key, argument or 0, …},
--               lane left by a deletion or a move or '', barrier that goes (key) or 0, effects,
--               lane entered by a move or '', its definition}
--       moves   {command, key, score or '', …};  counts {field, 1 or -1, …}
--       effect  {'B', key, members} | {'A', key, id, index} | {'T', put (see keys.lua)} | {'F', place, field} | {'S', child}
--               | {'O', key, argument}
--       child   {id, head before seq, head after seq, look (0|1), body key, body argument, lane key or 0, base score, moves,
--               counts, lane, definition, root or '', puts (see keys.lua)}
-- A barrier is the string `[members u32][arrived u32][one bit for each member]`.
-- Answers as change.lua does, and {'K', kind, entry} for an item that cannot have a key, for itself or a spawned task.
local plan = cmsgpack.unpack(ARGV[1])
local now, atomic, items = plan[1], plan[2] == 1, plan[3]

-- What the items before have made of heads, barriers (false: none) and keys (false: free).
local heads, bars, keys = {}, {}, {}
local todo, rows, tallies, lanes = {}, {}, {}, {}
local seq, born, sends = nil, 0, false

local function head_of(id)
  local head = heads[id]
  if head == nil then
    head = call('HGET', HEADS, id)
    heads[id] = head
  end
  return head
end

local function later(...)
  local args = { ... }
  todo[#todo + 1] = function() call(unpack(args)) end
end

local function move(moves, id)
  for m = 1, #moves, 3 do
    if moves[m + 2] == '' then
      later(moves[m], KEYS[moves[m + 1]], id)
    else
      later(moves[m], KEYS[moves[m + 1]], moves[m + 2], id)
    end
  end
end

local function count(counts)
  for c = 1, #counts, 2 do tallies[counts[c]] = (tallies[counts[c]] or 0) + counts[c + 1] end
end

local function in_lane(lane, by, definition)
  local known = lanes[lane] or { 0 }
  lanes[lane] = { known[1] + by, definition or known[2] }
end

-- Makes the wait of a blocked task run out. Only here and in `spawn` a script writes into a head: the version at byte 1,
-- `expires` at 61, the deadline at 67 (core/src/head.rs).
local function wake(id)
  local head = head_of(id)
  if not head or byte(head, 10) ~= 0 then return end
  head = struct.pack('>I8', struct.unpack('>I8', head) + 1) .. sub(head, 9, 66) .. struct.pack('>I6', now) .. sub(head, 73)
  heads[id] = head
  local expires = struct.unpack('>I6', head, 61)
  later('HSET', HEADS, id, head)
  later('ZADD', KEYS[9], expires > 0 and math.min(now, expires) or now, id)
  rows[#rows + 1] = row(id, head)
end

local function make_barrier(key, members, id)
  later('DEL', key)
  if members == 0 then
    bars[key] = false
    return wake(id)
  end
  bars[key] = { members, 0, {}, true }
  later('SET', key, struct.pack('>I4I4', members, 0))
end

local function arrive(key, id, index)
  local bar = bars[key]
  if bar == nil then
    local stored = call('GETRANGE', key, 0, 7)
    bar = false
    if stored ~= '' then
      local members, arrived = struct.unpack('>I4I4', stored)
      bar = { members, arrived, {}, false }
    end
    bars[key] = bar
  end
  if not bar or index >= bar[1] or bar[3][index] then return end
  if not bar[4] and call('GETBIT', key, 64 + index) == 1 then return end
  bar[2], bar[3][index] = bar[2] + 1, true
  if bar[2] == bar[1] then
    bars[key] = false
    later('DEL', key)
    return wake(id)
  end
  later('SETBIT', key, 64 + index, 1)
  later('SETRANGE', key, 4, struct.pack('>I4', bar[2]))
end

local function spawn(child)
  if not seq then seq = tonumber(call('GET', SEQ) or 0) end
  born, seq = born + 1, seq + 1
  local id, order = child[1], struct.pack('>I8', seq)
  local head = child[2] .. order .. child[3]
  heads[id] = head
  rows[#rows + 1] = row(id, head)
  later('SET', KEYS[child[5]], ARGV[child[6]])
  later('HSET', HEADS, id, head)
  if child[7] ~= 0 then later('ZADD', KEYS[child[7]], child[8] + seq, id) end
  move(child[9], id)
  count(child[10])
  in_lane(child[11], 1, child[12])
  if child[13] ~= '' then
    later('ZADD', MEMBERS, 0, child[13] .. order .. id)
    later('HSET', ROOTS, id, child[13])
  end
  for _, put in ipairs(child[14]) do
    todo[#todo + 1] = function() take(put, id) end
  end
end

-- Which effects of an item do something (spawns of new ids, keys to free), and what they make of keys; or the conflict.
local function check(item)
  local id, does, mine, children = item[1], {}, {}, {}
  local function taken(name)
    if mine[name] ~= nil then return mine[name] end
    return keys[name]
  end
  local function child_or_head(who)
    if children[who] or (who == id and item[3] == '') then return children[who] end
    return head_of(who)
  end
  if item[3] == '' then
    for _, field in ipairs(held(id)) do
      local entry = taken('h' .. field)
      if entry == nil then entry = call('HGET', HOLDS, field) end
      if entry and holder(entry) == id then mine['h' .. field] = false end
    end
    -- What it took earlier in this call is not stored yet.
    for name, entry in pairs(keys) do
      if entry and sub(name, 1, 1) == 'h' and holder(entry) == id then mine[name] = false end
    end
  end
  for e, effect in ipairs(item[9]) do
    if effect[1] == 'F' then
      local put = { effect[2], effect[3] }
      local name = name_of(put)
      local entry = taken(name)
      if entry == nil then entry = entry_of(put) end
      if entry and holder(entry) == id then does[e], mine[name] = true, false end
    elseif effect[1] == 'T' then
      local put, entry = conflict({ effect[2] }, now, taken, child_or_head)
      if put and holder(entry) ~= id then return nil, { 'K', put[7], entry } end
      does[e], mine[name_of(effect[2])] = true, effect[2][3]
    elseif effect[1] == 'S' then
      local child = effect[2]
      if child[4] == 0 or not child_or_head(child[1]) then
        local put, entry = conflict(child[14], now, taken, child_or_head, id)
        if put then return nil, { 'K', put[7], entry } end
        for _, put in ipairs(child[14]) do mine[name_of(put)] = put[3] end
        does[e], children[child[1]] = true, child[2]
      end
    end
  end
  for name, entry in pairs(mine) do keys[name] = entry end
  return does
end

local function apply(item, does)
  local id, after = item[1], item[3]
  local before = heads[id]
  heads[id] = after ~= '' and after
  rows[#rows + 1] = row(id, after)
  if after ~= '' then
    later('HSET', HEADS, id, after)
  else
    todo[#todo + 1] = function()
      call('HDEL', HEADS, id)
      leave_tree(id, before)
      forget(id)
    end
  end
  if item[7] ~= '' then in_lane(item[7], -1) end
  if item[10] ~= '' then in_lane(item[10], 1, item[11]) end
  move(item[4], id)
  count(item[5])
  for w = 1, #item[6], 3 do
    local command, key, arg = item[6][w], KEYS[item[6][w + 1]], item[6][w + 2]
    if command == 'RPUSH' then
      todo[#todo + 1] = function() append(key, ARGV[arg]) end
    elseif arg == 0 then
      later(command, key)
    else
      later(command, key, ARGV[arg])
    end
  end
  if item[8] ~= 0 then
    bars[KEYS[item[8]]] = false
    later('DEL', KEYS[item[8]])
  end
  for e, effect in ipairs(item[9]) do
    if effect[1] == 'A' then
      arrive(KEYS[effect[2]], effect[3], effect[4])
    elseif effect[1] == 'B' then
      make_barrier(KEYS[effect[2]], effect[3], id)
    elseif effect[1] == 'O' then
      sends = true
      later('XADD', KEYS[effect[2]], '*', 'm', ARGV[effect[3]])
    elseif does[e] and effect[1] == 'S' then
      spawn(effect[2])
    elseif does[e] and effect[1] == 'T' then
      local put = effect[2]
      todo[#todo + 1] = function()
        local entry = put[1] == 0 and entry_of(put)
        if entry and holder(entry) == id then
          call('HSET', HOLDS, put[2], put[3])
        else
          take(put, id)
        end
      end
    elseif does[e] and effect[2] == 0 then
      later('HDEL', HOLDS, effect[3])
    elseif does[e] then
      later('DEL', KEYS[effect[2]])
    end
  end
end

local answers, all = {}, true
for i, item in ipairs(items) do
  local stored = head_of(item[1])
  local does, refusal = nil, stored or 2
  if stored == item[2] then does, refusal = check(item) end
  if does then
    apply(item, does)
    answers[i] = 1
  else
    answers[i], all = refusal, false
  end
end
if all or not atomic then
  for t = 1, #todo do todo[t]() end
  for field, delta in pairs(tallies) do
    if delta ~= 0 and call('HINCRBY', COUNTS, field, delta) == 0 then call('HDEL', COUNTS, field) end
  end
  for lane, change in pairs(lanes) do
    if call('HINCRBY', SIZES, lane, change[1]) <= 0 then
      call('HDEL', SIZES, lane)
      call('HDEL', LANES, lane)
    elseif change[2] then
      call('HSETNX', LANES, lane, change[2])
    end
  end
  if born > 0 then call('INCRBY', SEQ, born) end
  if sends then
    call('XADD', FEED, '*', 'r', ARGV[2] .. concat(rows), 'o', '')
  elseif #rows > 0 then
    call('XADD', FEED, '*', 'r', ARGV[2] .. concat(rows))
  end
end

if all then return 1 end
for i = 1, #answers do
  if atomic and answers[i] == 1 then answers[i] = 3 end
end
return answers
