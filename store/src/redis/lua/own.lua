#!lua flags=allow-oom
-- own: takes, keeps or lets go of a partition, renews the caller's session, and trims the feed of a partition that is its own.
--
-- KEYS  1 own "epoch:session:random" (session 0: nobody)  2 until (ms)  3 sessions (session -> end of its lease and what it is
--       there for: 'c' it stands for the partition, 'f' it was fenced, 'b' that too and nothing is left of it, '' else)  4 feed
-- ARGV  1 session  2 'own' | 'stand' | 'release' | 'leave' | 'fence'  3 lease (ms)  4 random part
--       5 age of the oldest feed entry to keep (ms)  6 bytes of feed to keep  7.. lapsed sessions to drop
-- Answers {seconds, microseconds, 1 if the caller was fenced, own, until, sessions}.
local call = redis.call
local REMEMBERED = 86400000 -- how long fenced sessions are remembered (ms)
local session, want = ARGV[1], ARGV[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local good = now + ARGV[3]

local function stake(lease) return string.match(lease or '', '%a?$') end
local function till(lease) return tonumber(string.match(lease, '^%d+')) end
local function lease(till, stake) return string.format('%.0f', till) .. stake end

for i = 7, #ARGV do
  -- One that has come back since it was reported is not lapsed any more.
  local old = call('HGET', KEYS[3], ARGV[i])
  if stake(old) == 'f' then
    call('HSET', KEYS[3], ARGV[i], lease(till(old), 'b'))
  elseif old and stake(old) ~= 'b' and till(old) <= now then
    call('HDEL', KEYS[3], ARGV[i])
  end
end

local was = stake(call('HGET', KEYS[3], session))
local fenced = was == 'f' or was == 'b'
if fenced and want ~= 'fence' then return { time[1], time[2], 1 } end

local own = call('GET', KEYS[1]) or '0:0:'
local ends = tonumber(call('GET', KEYS[2]) or 0)
local epoch, holder = string.match(own, '^(%d+):(%d+):')
local mine = holder == session
if want == 'own' then
  if not mine and (holder == '0' or ends <= now) then
    mine = true
    own = string.format('%d:%s:%s', epoch + 1, session, ARGV[4])
    call('SET', KEYS[1], own)
  end
  if mine then
    ends = good
    call('SET', KEYS[2], lease(ends, ''))
  end
elseif mine then
  mine = false
  own = epoch .. ':0:'
  call('SET', KEYS[1], own)
  call('DEL', KEYS[2])
end
if want == 'leave' then
  call('HDEL', KEYS[3], session)
elseif want == 'fence' then
  if not fenced then call('HSET', KEYS[3], session, lease(now, 'f')) end
else
  call('HSET', KEYS[3], session, lease(good, want == 'release' and '' or 'c'))
end

if mine then
  -- The last entry always stays: a reader that stands there finds its place again.
  local last = call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
  if last then
    local oldest = now - ARGV[5]
    local last_ms = tonumber(string.match(last[1], '^%d+'))
    call('XTRIM', KEYS[4], 'MINID', '~', string.format('%d', math.min(oldest, last_ms)))
    local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[4])
    local room = tonumber(ARGV[6])
    if type(bytes) == 'number' and bytes > room then
      local keep = math.floor(call('XLEN', KEYS[4]) * room / bytes * 0.8)
      call('XTRIM', KEYS[4], 'MAXLEN', '~', math.max(keep, 1))
    end
  end
end

local sessions = call('HGETALL', KEYS[3])
for i = #sessions, 2, -2 do
  if stake(sessions[i]) == 'b' and till(sessions[i]) + REMEMBERED <= now then
    call('HDEL', KEYS[3], sessions[i - 1])
    table.remove(sessions, i)
    table.remove(sessions, i - 1)
  end
end
return { time[1], time[2], 0, own, lease(ends, ''), sessions }
