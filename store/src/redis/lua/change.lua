-- change: guarded changes of stored tasks (claims, settlements, everything without the effects that general.lua is for).
-- All guards first, then all writes.
-- It may run when Redis is full: whoever finishes or deletes work must not be stopped by the lack of room.
--
-- KEYS  see lib.lua, then lanes, bodies, results and attempts at the places that the plan names.
-- ARGV  1 plan (MessagePack): {own token or '', ids, heads before, heads after ('' deletes), atomic (0|1),
--       repeats (0|1: an id occurs twice), groups, counts, lanes left by deletions and moves {lane, items},
--       runs {command, {item, key, argument, …}}, spawned parents (items), what `store` needs for them,
--       lanes entered by moves {lane, definition, items}};
--       2 feed prefix with the rows of all items;  3.. bodies, results, attempts.
-- Answers 1 if all were applied, else a list: 1 applied | 2 gone | 3 aborted | the head that is stored instead.
-- A guard is the whole head: no two states of a task have the same version, no two tasks of one id the same order of acceptance.
local plan = cmsgpack.unpack(ARGV[1])
local own, ids, before, after, atomic, repeats = plan[1], plan[2], plan[3], plan[4], plan[5] == 1, plan[6] == 1
if own ~= '' and call('GET', KEYS[12]) ~= own then return redis.error_reply('FENCED another owner') end

local n = #ids
local stored = call('HMGET', HEADS, unpack(ids))
local ok, all, some, latest = {}, true, false, {}
for i = 1, n do
  local id = ids[i]
  if repeats and latest[id] ~= nil then stored[i] = latest[id] end
  if stored[i] == before[i] then
    ok[i], some = true, true
    if repeats then latest[id] = after[i] ~= '' and after[i] end
  else
    ok[i], all = false, false
  end
end

if some and (all or not atomic) then
  local parents = plan[11]
  local sets, s, gone, last, g = {}, 0, {}, {}, 0
  for i = 1, n do
    if ok[i] then
      if after[i] ~= '' then
        sets[s + 1], sets[s + 2] = ids[i], after[i]
        s = s + 2
      else
        g = g + 1
        gone[g], last[g] = ids[i], before[i]
      end
    end
  end
  if s > 0 then call('HSET', HEADS, unpack(sets, 1, s)) end
  if g > 0 then
    call('HDEL', HEADS, unpack(gone, 1, g))
    local roots = call('HMGET', ROOTS, unpack(gone, 1, g))
    for j = 1, g do
      if roots[j] then
        call('ZREM', MEMBERS, roots[j] .. sub(last[j], 41, 48) .. gone[j])
        call('HDEL', ROOTS, gone[j])
      end
    end
    if call('EXISTS', HOLDS) == 1 then
      for j = 1, g do forget(gone[j]) end
    end
  end
  place(plan[7], ids, ok)
  tally(plan[8], ok)
  enter(plan[13], ok)
  for _, lane in ipairs(plan[9]) do
    local left = accepted(lane[2], ok)
    if left > 0 and call('HINCRBY', SIZES, lane[1], -left) <= 0 then
      call('HDEL', SIZES, lane[1])
      call('HDEL', LANES, lane[1])
    end
  end
  for _, run in ipairs(plan[10]) do
    local command, list, args, m = run[1], run[2], {}, 0
    for j = 1, #list, 3 do
      if ok[list[j]] then
        if command == 'RPUSH' then
          append(KEYS[list[j + 1]], ARGV[list[j + 2]])
        else
          m = m + 1
          args[m] = KEYS[list[j + 1]]
          if command == 'MSET' then
            m = m + 1
            args[m] = ARGV[list[j + 2]]
          end
        end
      end
    end
    if m > 0 then call(command, unpack(args, 1, m)) end
  end

  if all and #parents == 0 then
    call('XADD', FEED, '*', 'r', ARGV[2])
  else
    local born = {}
    for j = 1, #parents do born[j] = ok[byte(parents, j)] end
    local children, heads = {}, {}
    if #parents > 0 then
      children = plan[12][1]
      heads = store(plan[12], born)
    end
    local rows, j = { sub(ARGV[2], 1, 8) }, 1
    for i = 1, n do
      if ok[i] then rows[#rows + 1] = row(ids[i], after[i]) end
      while byte(parents, j) == i do
        if born[j] then rows[#rows + 1] = row(children[j], heads[j]) end
        j = j + 1
      end
    end
    call('XADD', FEED, '*', 'r', concat(rows))
  end
end

if all then return 1 end
local answers = {}
for i = 1, n do
  if ok[i] then
    answers[i] = atomic and 3 or 1
  else
    answers[i] = stored[i] or 2
  end
end
return answers
