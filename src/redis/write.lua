-- Writes copies of orders unless newer ones are there, in one step, and says when: Redis 5 or newer.
-- KEYS: the clock, then for each order its body and its marker.
-- ARGV: how long they live, in ms; then for each order its version, what else its marker says, the time after which it
-- is not to be written any more, and its body, empty for a deleted order.
-- Returns the time, how many orders were written and how many came too late; then which orders have a marker that is no
-- text: others made that key, and what is theirs stays as it is.

-- Microseconds that never go backwards as long as the data are there: a server's clock may.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local before = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if now <= before then now = before + 1 end
local stamp = string.format('%.0f', now)
redis.call('SET', KEYS[1], stamp)

-- Versions are 64-bit, and numbers here are not: decimals without leading zeros are compared as text.
local function is_newer(one, other)
  if #one ~= #other then return #one > #other end
  return one > other
end

local written, late, wrong = 0, 0, {}
for order = 1, (#KEYS - 1) / 2 do
  local body, marker = KEYS[2 * order], KEYS[2 * order + 1]
  local version, rest = ARGV[4 * order - 2], ARGV[4 * order - 1]
  if now > tonumber(ARGV[4 * order]) then
    late = late + 1
  else
    local found = redis.pcall('GET', marker) or ''
    local there = type(found) == 'string' and string.match(found, '^%d+')
    if type(found) == 'table' then
      table.insert(wrong, order - 1)
    elseif not (there and is_newer(there, version)) then
      local json = ARGV[4 * order + 1]
      redis.call('SET', marker, version .. ' ' .. rest .. ' ' .. stamp, 'PX', ARGV[1])
      if json == '' then
        redis.call('DEL', body)
      else
        redis.call('SET', body, json, 'PX', ARGV[1])
      end
      written = written + 1
    end
  end
end
return {now, written, late, wrong}
