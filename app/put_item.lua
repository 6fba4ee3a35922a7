-- KEYS: the hash of records, the log. ARGV: item id, record (JSON), most records, entries that the log keeps.
-- Returns {"ok", sequence} | {"full", records}. Changes both keys or neither.
for index, wanted in ipairs({'hash', 'stream'}) do
  local kind = redis.call('TYPE', KEYS[index]).ok
  if kind ~= 'none' and kind ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. kind .. ', not a ' .. wanted)
  end
end
local known = redis.call('HLEN', KEYS[1])
if known >= tonumber(ARGV[3]) and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return {'full', tostring(known)}
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local after = '0-0'
if #last > 0 then after = last[1][1] end
-- Each entry names the one before it: who follows the log notices by that alone that it has missed something.
local sequence = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'item', ARGV[1], 'after', after)
redis.call('HSET', KEYS[1], ARGV[1], sequence .. '|' .. ARGV[2])
return {'ok', sequence}
