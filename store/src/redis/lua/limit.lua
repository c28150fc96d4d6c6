#!lua flags=allow-oom
-- limit: judges what is asked of one key, by the time of this server. Everything is worked out first, then written; Redis
-- forgets the key by itself when it is idle. A call looks at all holders only when one of them may have expired.
--
-- KEYS  1 state: t theoretical arrival time (us), n sum of what is held, e no holder ends before this (ms), l nor after this (ms),
--       'h' and holder -> count:end (ms), q line of 'session:wants:asked (ms):woken', s what a task said 'time:rule'
-- ARGV  1 '1' only looks  2 concurrency or ''  3 period (us)  4 starts per period or ''  5 burst  6 time or ''  7 rule of a task
--       8 unused starts or ''  9 the arrival time they came with  10 slots wanted or ''  11 holder  12 lease (ms)
--       13 session that waits or ''  14 least starts wanted or ''  15 most  16 ahead (us)  17.. holder, count, lease (ms)
-- Answers {now (us), slots, starts, base, arrival time, when to come again, in use, waiting, {sessions to wake}, task's rule}.
local call = redis.call
local LINE = 2000 -- for so long a session keeps its place after it asked last (ms)
local key = KEYS[1]
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local ms = math.floor(now / 1000)
local concurrency, rate, burst = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function text(number) return string.format('%.0f', number) end
-- How long starts take.
local function span(starts) return math.ceil(starts * ARGV[3] / rate) end

local known = call('HMGET', key, 't', 'n', 'e', 'l', 'q', 's')
local tat, held = tonumber(known[1] or 0), tonumber(known[2] or 0)
local earliest, latest = tonumber(known[3] or 0), tonumber(known[4] or 0)
local said = known[6]

local holders, changed = {}, {} -- holder -> {count, end}
local function read(entry)
  local count, till = string.match(entry or '', '^(%d+):(%d+)$')
  return { tonumber(count or 0), tonumber(till or 0) }
end
local function holder(name)
  holders[name] = holders[name] or read(call('HGET', key, 'h' .. name))
  return holders[name]
end
local function hold(name, count, till)
  held = held - holder(name)[1] + count
  holders[name], changed[name] = { count, till }, true
  if count > 0 then
    earliest = earliest == 0 and till or math.min(earliest, till)
    latest = math.max(latest, till)
  end
end
if held > 0 and earliest <= ms then
  held, earliest, latest = 0, 0, 0
  local all = call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 'h' then
      local name, entry = string.sub(all[i], 2), read(all[i + 1])
      if entry[2] <= ms then
        holders[name], changed[name] = { 0, 0 }, true
      else
        holders[name] = { 0, 0 }
        hold(name, entry[1], entry[2])
        changed[name] = nil
      end
    end
  end
end

local line = {} -- {session, wants, asked, woken}
for session, wants, asked, woken in string.gmatch(known[5] or '', '(%d+):(%d+):(%d+):(%d)') do
  if asked + LINE > ms then line[#line + 1] = { session, tonumber(wants), tonumber(asked), woken == '1' } end
end

for i = 17, #ARGV, 3 do hold(ARGV[i], tonumber(ARGV[i + 1]), ms + ARGV[i + 2]) end

if ARGV[8] ~= '' and rate and tonumber(ARGV[9]) == tat then
  tat = math.max(tat - math.floor(ARGV[8] * ARGV[3] / rate), 0)
end

local slots, asking, starved = 0, ARGV[13], false
if ARGV[10] ~= '' then
  local most, place, front = tonumber(ARGV[10]), nil, 0
  for i, waiting in ipairs(line) do
    if waiting[1] == asking then
      place = i
      break
    end
    front = front + waiting[2]
  end
  slots = most
  if concurrency then slots = math.max(math.min(most, concurrency - held - front), 0) end
  if slots > 0 then
    local had = holder(ARGV[11])
    hold(ARGV[11], had[1] + slots, math.max(had[2], ms + ARGV[12]))
  end
  -- Others of a holder that has some may be what the starts are for.
  starved = most > 0 and holder(ARGV[11])[1] == 0
  if asking ~= '' then
    local entry = { asking, most - slots, ms, false }
    if place and most > 0 and slots == 0 then
      -- Who got nothing keeps its place.
      line[place] = entry
    else
      if place then table.remove(line, place) end
      if most > slots then line[#line + 1] = entry end
    end
  end
end

-- As in core/src/gcra.rs.
local starts, base, again = 0, 0, false
if rate and ARGV[14] ~= '' and not starved then
  local least, most, ahead = math.max(ARGV[14], 1), tonumber(ARGV[15]), tonumber(ARGV[16])
  -- What is left of a slower rule is not waited for.
  tat = math.min(tat, now + math.max(ahead, 1000000) + span(burst))
  base = math.max(tat, now)
  local fits = math.min(math.floor((now + ahead + span(burst) - base) * rate / ARGV[3]), most)
  if least <= burst and fits >= least then
    starts = fits
    tat = base + span(starts)
  end
  if starts < most then
    local due = math.max(tat, now) + span(least) - span(burst)
    -- More than the burst: asked again only once the rule may have changed.
    if least <= burst then due = due - ahead end
    again = math.max(due, now)
  end
end

if ARGV[6] ~= '' and (not said or tonumber(ARGV[6]) >= tonumber(string.match(said, '^%d+'))) then
  said = ARGV[6] .. ':' .. ARGV[7]
end

local wake = {}
if ARGV[1] ~= '1' then
  local free = concurrency and concurrency - held or math.huge
  for _, waiting in ipairs(line) do
    if free <= 0 then break end
    free = free - waiting[2]
    if not waiting[4] and waiting[1] ~= asking then
      waiting[4] = true
      wake[#wake + 1] = waiting[1]
    end
  end

  local ends = math.ceil(tat / 1000)
  if held == 0 then
    earliest, latest = 0, 0
  else
    ends = math.max(ends, latest)
  end
  local places = {}
  for i, waiting in ipairs(line) do
    places[i] = waiting[1] .. ':' .. text(waiting[2]) .. ':' .. text(waiting[3]) .. ':' .. (waiting[4] and '1' or '0')
    ends = math.max(ends, waiting[3] + LINE)
  end
  if ends <= ms then
    call('DEL', key)
  else
    local fields, sets = { 't', 'n', 'e', 'l', 'q', 's' }, {}
    local values = { text(tat), text(held), text(earliest), text(latest), table.concat(places, ' '), said }
    for i = 1, 6 do
      if values[i] and values[i] ~= known[i] then
        sets[#sets + 1] = fields[i]
        sets[#sets + 1] = values[i]
      end
    end
    for name in pairs(changed) do
      local entry = holders[name]
      if entry[1] > 0 then
        sets[#sets + 1] = 'h' .. name
        sets[#sets + 1] = text(entry[1]) .. ':' .. text(entry[2])
      else
        call('HDEL', key, 'h' .. name)
      end
    end
    if #sets > 0 then call('HSET', key, unpack(sets)) end
    call('PEXPIREAT', key, text(ends))
  end
end
return { now, slots, starts, base, tat, again, held, #line, wake, said }
