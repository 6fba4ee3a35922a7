-- Adds to what one version did under one label on one day. One call is atomic, and counts no click twice.
-- KEYS[1]: the counts, a hash: impressions, clicks, level, and per user i:<digest> and c:<digest>.
-- KEYS[2]: the versions that have answered, a hash: hash of a version -> its name.
-- KEYS[3..]: one key per click, there for as long as the click could be reported again.
-- ARGV: 1 hash of the version, 2 its name or nothing, 3 seconds that counts are kept, 4 seconds that a click is
--       remembered, 5 most users, 6 impressions, 7 number of users who saw them; then per user digest and impressions;
--       then per click the user's digest.
-- Returns how many clicks counted, or -1 where the version has never answered.

local counts, versions = KEYS[1], KEYS[2]

if ARGV[2] ~= '' then
    redis.call('HSET', versions, ARGV[1], ARGV[2])
    redis.call('EXPIRE', versions, ARGV[3])
elseif redis.call('HEXISTS', versions, ARGV[1]) == 0 then
    return -1 -- a made up request id must not make keys
end

-- Level n keeps the users whose digest ends the count of 2^n: the same ones under every version, whatever they did.
local level = tonumber(redis.call('HGET', counts, 'level') or '0')

local function kept(digest)
    return tonumber(string.sub(digest, 1, 8), 16) % 2 ^ level == 0
end

local function add(kind, digest, number)
    if digest ~= '' and kept(digest) then
        redis.call('HINCRBY', counts, kind .. digest, number)
    end
end

if tonumber(ARGV[6]) > 0 then
    redis.call('HINCRBY', counts, 'impressions', ARGV[6])
end
local at = 8
for _ = 1, tonumber(ARGV[7]) do
    add('i:', ARGV[at], ARGV[at + 1])
    at = at + 2
end

local clicked = 0
for key = 3, #KEYS do
    if redis.call('SET', KEYS[key], '', 'NX', 'EX', ARGV[4]) then
        clicked = clicked + 1
        add('c:', ARGV[at], 1)
    end
    at = at + 1
end
if clicked > 0 then
    redis.call('HINCRBY', counts, 'clicks', clicked)
end

while redis.call('HLEN', counts) > 2 * tonumber(ARGV[5]) + 3 and level < 32 do
    level = level + 1
    redis.call('HSET', counts, 'level', level)
    for _, field in ipairs(redis.call('HKEYS', counts)) do
        if string.sub(field, 2, 2) == ':' and not kept(string.sub(field, 3)) then
            redis.call('HDEL', counts, field)
        end
    end
end
redis.call('EXPIRE', counts, ARGV[3])
return clicked
