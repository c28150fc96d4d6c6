#!lua flags=allow-oom
-- own: takes, keeps or lets go of a partition, renews the caller's session, and trims the feed of a partition that is its own.
--
-- KEYS  1 own "epoch:session:random" (session 0: nobody)  2 until (ms)  3 sessions (session -> until)  4 feed
-- ARGV  1 session  2 'own' | 'release' | 'leave'  3 lease (ms)  4 random part  5 age of the oldest feed entry to keep (ms)
--       6 bytes of feed to keep  7.. lapsed sessions to drop
-- Answers {seconds, microseconds, token or '', lapsed sessions…}.
local call = redis.call
local session, want = ARGV[1], ARGV[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local good = now + ARGV[3]

for i = 7, #ARGV do
  -- One that has come back since it was reported is not lapsed any more.
  local till = call('HGET', KEYS[3], ARGV[i])
  if till and tonumber(till) <= now then call('HDEL', KEYS[3], ARGV[i]) end
end

local own = call('GET', KEYS[1]) or '0:0:'
local epoch, holder = string.match(own, '^(%d+):(%d+):')
local mine = holder == session
if want == 'own' then
  local free = holder == '0' or (tonumber(call('GET', KEYS[2]) or 0)) <= now
  if not mine and free then
    mine = true
    own = string.format('%d:%s:%s', epoch + 1, session, ARGV[4])
    call('SET', KEYS[1], own)
  end
  if mine then call('SET', KEYS[2], good) end
elseif mine then
  mine = false
  call('SET', KEYS[1], epoch .. ':0:')
  call('DEL', KEYS[2])
end
if want == 'leave' then
  call('HDEL', KEYS[3], session)
else
  call('HSET', KEYS[3], session, good)
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

local answer = { time[1], time[2], mine and own or '' }
local sessions = call('HGETALL', KEYS[3])
for i = 1, #sessions, 2 do
  if tonumber(sessions[i + 1]) <= now then answer[#answer + 1] = sessions[i] end
end
return answer
