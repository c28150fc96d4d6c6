#!lua flags=no-writes
-- page: the next records of an index that is sorted by score, equal scores by id, together with their heads.
--
-- KEYS  1 index  2 heads      ARGV  1 score and 2 id of the last one seen ('' and '': from the start)  3 highest score  4 limit
-- Answers {ids, scores, heads, whether more follow (0|1)}.

-- Compares bytes as the index does; `<` would follow the locale of the server.
local function behind(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

local index, score, id, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local first = 0
if score ~= '' then
  -- Among equal scores the ids are sorted: halve until the first one behind `id` is found, stored or not.
  first = redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local last = redis.call('ZCOUNT', index, '-inf', score)
  while first < last do
    local middle = math.floor((first + last) / 2)
    if behind(redis.call('ZRANGE', index, middle, middle)[1], id) then last = middle else first = middle + 1 end
  end
end
local found = redis.call('ZRANGE', index, first, first + limit, 'WITHSCORES')
local highest = ARGV[3] == '+inf' and math.huge or tonumber(ARGV[3])
local ids, scores, more = {}, {}, 0
for i = 1, #found, 2 do
  if tonumber(found[i + 1]) > highest then break end
  if #ids == limit then
    more = 1
    break
  end
  ids[#ids + 1], scores[#scores + 1] = found[i], found[i + 1]
end
local heads = #ids > 0 and redis.call('HMGET', KEYS[2], unpack(ids)) or {}
return { ids, scores, heads, more }
