-- Appends one user's events to the history, in the order given. One call is atomic.
-- KEYS[1]: the history, a sorted set; member "<ms>|<item id>", score ms * 1024 + arrival order within that millisecond
--          (|score| < 2^53, so exact in a double; the order stops at 1023, and members beyond are ordered by bytes).
-- KEYS[2]: the user's state, a hash; field "floor": ms of the newest event that was ever cut away.
-- KEYS[3..]: one key per event id.
-- ARGV: how many events are kept; for how many seconds an event id is remembered;
--       then per event three: ms, item id, position of its event id in KEYS or 0.
-- Returns one letter per event: a (accepted), d (duplicate), o (old: at or below the floor).

local history, state = KEYS[1], KEYS[2]
local kept = tonumber(ARGV[1])

-- Both raise WRONGTYPE on a foreign key before anything is written: an event id must not be remembered for an event
-- that was not stored.
redis.call('ZCARD', history)
local floor = redis.call('HGET', state, 'floor')
floor = floor and tonumber(floor) or -math.huge

local function append(ms, member)
    local first = ms * 1024
    local low, high = string.format('%.0f', first), string.format('%.0f', first + 1023)
    local newest = redis.call('ZREVRANGEBYSCORE', history, high, low, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    local order = newest and math.min(tonumber(newest) - first + 1, 1023) or 0
    redis.call('ZADD', history, string.format('%.0f', first + order), member)
end

local outcomes = {}
for i = 3, #ARGV, 3 do
    local ms, member, event = tonumber(ARGV[i]), ARGV[i] .. '|' .. ARGV[i + 1], tonumber(ARGV[i + 2])
    local outcome = 'd'
    if event == 0 or redis.call('SET', KEYS[event], member, 'NX', 'EX', ARGV[2]) then
        if not redis.call('ZSCORE', history, member) then
            outcome = ms <= floor and 'o' or 'a'
        end
    end
    if outcome == 'a' then
        append(ms, member)
    end
    outcomes[#outcomes + 1] = outcome
end

-- Whole quarters, so that a long history moves seldom and by the same step.
local excess = redis.call('ZCARD', history) - kept
if excess > 0 then
    local quarter = math.max(1, math.floor(kept / 4))
    local cut = math.ceil(excess / quarter) * quarter
    local newest = redis.call('ZRANGE', history, cut - 1, cut - 1)[1]
    local ms = string.match(newest, '^(-?%d+)|')
    if ms then -- a foreign member has no time, and goes with the others
        redis.call('HSET', state, 'floor', ms)
    end
    redis.call('ZREMRANGEBYRANK', history, 0, cut - 1)
end

return table.concat(outcomes)
