-- Shared by insert.lua, change.lua and general.lua, which are sent with this file in front of them.
--
-- KEYS[1..13] of all: heads, counts, seq, feed, lanes, lane sizes, members, roots, timers, running, done, own, holds.
-- Holds has the keys that go with their task's record (kind, namespace, key -> entry), and the fields of each task
-- ('t' and id -> {length u16, field}…).
-- Items are numbered from 1; a list of items is a string with one byte per number, so a call carries at most 200.
local byte, sub, char, concat = string.byte, string.sub, string.char, table.concat
local call = redis.call
local HEADS, COUNTS, SEQ, FEED, LANES, SIZES, MEMBERS, ROOTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local HOLDS = KEYS[13]

-- As many entries of its attempts as a task keeps: KEPT_ENTRIES of core/src/attempt.rs.
local KEPT = 500

-- One row of a feed entry: length of the id, whether a head follows, id, head.
local function row(id, head)
  return char(#id) .. (head == '' and '\0' or '\1') .. id .. head
end

-- Whose key it is, by an entry `[end u64][length of the id u8][id][value]`.
local function holder(entry)
  return sub(entry, 10, 9 + byte(entry, 9))
end

-- The fields of HOLDS that a task took.
local function held(id)
  local list, fields, at = call('HGET', HOLDS, 't' .. id) or '', {}, 1
  while at < #list do
    local n = struct.unpack('>I2', list, at)
    fields[#fields + 1] = sub(list, at + 2, at + 1 + n)
    at = at + 2 + n
  end
  return fields
end

-- Frees the keys that go with the record of a task.
local function forget(id)
  local fields = held(id)
  for _, field in ipairs(fields) do
    local entry = call('HGET', HOLDS, field)
    if entry and holder(entry) == id then call('HDEL', HOLDS, field) end
  end
  if #fields > 0 then call('HDEL', HOLDS, 't' .. id) end
end

-- One more entry of a task's attempts; the oldest go.
local function append(key, entry)
  if call('RPUSH', key, entry) > KEPT then call('LTRIM', key, -KEPT, -1) end
end

-- Takes a deleted task out of its tree, whose members are in order of acceptance (bytes 41 to 48 of a head).
local function leave_tree(id, head)
  local root = call('HGET', ROOTS, id)
  if root then
    call('ZREM', MEMBERS, root .. sub(head, 41, 48) .. id)
    call('HDEL', ROOTS, id)
  end
end

-- How many of the listed items are accepted.
local function accepted(items, ok)
  local n = 0
  for j = 1, #items do
    if ok[byte(items, j)] then n = n + 1 end
  end
  return n
end

-- Carries out index commands {command, key, items, scores or false} for the accepted items.
local function place(groups, ids, ok)
  for g = 1, #groups do
    local group = groups[g]
    local items, scores = { byte(group[3], 1, -1) }, group[4]
    local args, n = {}, 0
    for j = 1, #items do
      local i = items[j]
      if ok[i] then
        if scores then
          n = n + 1
          args[n] = scores[j]
        end
        n = n + 1
        args[n] = ids[i]
      end
    end
    if n > 0 then call(group[1], KEYS[group[2]], unpack(args, 1, n)) end
  end
end

-- Moves counts {field, items that add one, items that take one}; a count of zero leaves no field behind.
local function tally(counts, ok)
  for c = 1, #counts do
    local field, more, less = counts[c][1], counts[c][2], counts[c][3]
    local delta = accepted(more, ok) - accepted(less, ok)
    if delta ~= 0 and call('HINCRBY', COUNTS, field, delta) == 0 then call('HDEL', COUNTS, field) end
  end
end

-- Notes that accepted items are in lanes {lane, definition, items} from now on; a lane is defined while any task is.
local function enter(lanes, ok)
  for _, lane in ipairs(lanes) do
    local new = accepted(lane[3], ok)
    if new > 0 and call('HINCRBY', SIZES, lane[1], new) == new then call('HSET', LANES, lane[1], lane[2]) end
  end
end

-- Stores the accepted ones of new tasks and answers their heads and order of acceptance.
-- plan: {ids, heads before seq, heads after seq, first body key, first body argument, lanes {key, items, base score},
--        groups, counts, definitions {lane, definition, items}, roots {item, root}…}
local function store(plan, ok)
  local ids, front, back, key, arg = plan[1], plan[2], plan[3], plan[4] - 1, plan[5] - 1
  local k = 0
  for i = 1, #ids do
    if ok[i] then k = k + 1 end
  end
  local heads, seqs = {}, {}
  if k == 0 then return heads, seqs end
  local seq = call('INCRBY', SEQ, k) - k
  local pairs, bodies, n = {}, {}, 0
  for i = 1, #ids do
    if ok[i] then
      seq = seq + 1
      local head = front[i] .. struct.pack('>I8', seq) .. back[i]
      heads[i], seqs[i] = head, seq
      pairs[n + 1], pairs[n + 2] = ids[i], head
      bodies[n + 1], bodies[n + 2] = KEYS[key + i], ARGV[arg + i]
      n = n + 2
    end
  end
  call('MSET', unpack(bodies, 1, n))
  call('HSET', HEADS, unpack(pairs, 1, n))
  for _, lane in ipairs(plan[6]) do
    local items, base = lane[2], lane[3]
    local args, m = {}, 0
    for j = 1, #items do
      local i = byte(items, j)
      if ok[i] then
        args[m + 1], args[m + 2] = base + seqs[i], ids[i]
        m = m + 2
      end
    end
    if m > 0 then call('ZADD', KEYS[lane[1]], unpack(args, 1, m)) end
  end
  place(plan[7], ids, ok)
  tally(plan[8], ok)
  enter(plan[9], ok)
  local roots = plan[10]
  for r = 1, #roots, 2 do
    local i, root = roots[r], roots[r + 1]
    if ok[i] then
      call('ZADD', MEMBERS, 0, root .. sub(heads[i], 41, 48) .. ids[i])
      call('HSET', ROOTS, ids[i], root)
    end
  end
  return heads, seqs
end

