#!lua name=marketprism

-- Fenced writes of one partition (docs/wire.md 'Redis', protocol rules 1, 4, 5, 13). All keys of a call share a hash tag; KEYS[1] is
-- the partition's mark: token, mark, watermark, written, floors, 8 bytes big-endian each.
--
-- Versions are compared as two 32-bit halves: a Lua number holds 53 bits, and '<' on strings is strcoll, which obeys the server's
-- locale and is wrong for bytes outside C and POSIX.

local ROW = 80
local ZERO = '\0\0\0\0\0\0\0\0'
local LAST, REWRITE = 1, 2
local FULL = 1

local function older(a, b)
  if a == b then return false end
  local a_high, a_low = struct.unpack('>I4I4', a)
  local b_high, b_low = struct.unpack('>I4I4', b)
  return a_high < b_high or (a_high == b_high and a_low < b_low)
end

local function newest(a, b)
  if older(a, b) then return b end
  return a
end

local function read_mark(key)
  local bytes = redis.call('GET', key)
  if not bytes or #bytes ~= 40 then
    return { token = ZERO, version = ZERO, watermark = ZERO, written = ZERO, floors = ZERO }
  end
  return {
    token = string.sub(bytes, 1, 8), version = string.sub(bytes, 9, 16), watermark = string.sub(bytes, 17, 24),
    written = string.sub(bytes, 25, 32), floors = string.sub(bytes, 33, 40),
  }
end

local function pack_mark(m)
  return m.token .. m.version .. m.watermark .. m.written .. m.floors
end

-- A newer owner's first word fences the older one, whatever the answer to it is.
local function take_over(key, m, token)
  if m.token ~= token then
    m.token = token
    redis.call('SET', key, pack_mark(m))
  end
end

local function stored_version(key)
  if redis.call('TYPE', key).ok == 'hash' then
    return string.sub(redis.call('HGET', key, 'h') or '', 1, 8)
  end
  return redis.call('GETRANGE', key, 0, 7)
end

local function put_row(key, rows, at)
  local stored = redis.call('GETRANGE', key, 0, 7)
  if stored ~= '' then
    local high, low = struct.unpack('>I4I4', stored)
    local new_high, new_low = struct.unpack('>I4I4', rows, at)
    if high > new_high or (high == new_high and low >= new_low) then return 0 end
  end
  redis.call('SET', key, string.sub(rows, at, at + ROW - 1))
  return 1
end

local function put(key, value, ...)
  local stored = redis.call('GETRANGE', key, 0, 7)
  if stored ~= '' and not older(stored, string.sub(value, 1, 8)) then return 0 end
  redis.call('SET', key, value, ...)
  return 1
end

local function book_parts(update)
  local full, head_bytes, n_changed, n_dropped = struct.unpack('<BI4I4I4', update, 2)
  return full == FULL, string.sub(update, 15, 14 + head_bytes), 15 + head_bytes, n_changed, n_dropped
end

-- Whether a partial update may be added to the hash. Chunk ids are their owner's own, so it must have been written by this owner,
-- and not after `from`; a hash that is already newer is left alone, which is no gap.
local function book_fits(key, update, token, from)
  local full, head = book_parts(update)
  if full then return true end
  local stored = redis.call('HMGET', key, 'h', 'o')
  if not stored[1] then return false end
  local version = string.sub(stored[1], 1, 8)
  if not older(version, string.sub(head, 1, 8)) then return true end
  -- `from` counts versions + 1: the version is at or below the last one applied when it is below `from`.
  return stored[2] == token and older(version, from)
end

local function put_book(key, update, token)
  local full, head, at, n_changed, n_dropped = book_parts(update)
  local stored = string.sub(redis.call('HGET', key, 'h') or '', 1, 8)
  local version = string.sub(head, 1, 8)
  if stored ~= '' then
    -- A full book of the same version is written all the same: it brings a new owner's chunk ids.
    if full and older(version, stored) then return 0 end
    if not full and not older(stored, version) then return 0 end
  end
  if full then redis.call('DEL', key) end
  local fields = { 'h', head, 'o', token }
  for _ = 1, n_changed do
    local bytes = struct.unpack('<I4', update, at + 4)
    fields[#fields + 1] = string.sub(update, at, at + 3)
    fields[#fields + 1] = string.sub(update, at + 8, at + 7 + bytes)
    at = at + 8 + bytes
    if #fields >= 1000 then
      redis.call('HSET', key, unpack(fields))
      fields = { 'h', head }
    end
  end
  redis.call('HSET', key, unpack(fields))
  for _ = 1, n_dropped do
    redis.call('HDEL', key, string.sub(update, at, at + 3))
    at = at + 4
  end
  return 1
end

local UPDATES = {
  S = function(key, update) return put(key, string.sub(update, 2)) end,
  P = function(key, update)
    return put(key, string.sub(update, 10), 'PXAT', string.format('%.0f', (struct.unpack('>I8', update, 2))))
  end,
  D = function(key, update)
    local stored = stored_version(key)
    if stored == '' or older(string.sub(update, 2, 9), stored) then return 0 end
    return redis.call('DEL', key)
  end,
  B = function(key, update, m) return put_book(key, update, m.token) end,
  F = function(key, update, m)
    local version, field = string.sub(update, 2, 9), string.sub(update, 10)
    local stored = redis.call('HGET', key, field)
    if stored and not older(stored, version) then return 0 end
    redis.call('HSET', key, field, version)
    m.floors = newest(m.floors, version)
    return 1
  end,
}

-- KEYS: mark, one key a row, one key an update. ARGV: token, from, to, watermark, now, flags, rows, one packed update a key.
-- Answers {'OK', n written}, {'STALE', mark}, {'GAP', mark}, {'FENCED', token}.
redis.register_function('mp_apply', function(keys, args)
  local token, from, to, watermark, now, flags, rows = unpack(args, 1, 7)
  local last, rewrite = tonumber(flags) % 2 == LAST, tonumber(flags) >= REWRITE
  local m = read_mark(keys[1])
  if older(token, m.token) then return { 'FENCED', m.token } end

  local n_rows = #rows / ROW
  local offset = 7 - 1 - n_rows -- of an update's argument from its key
  local save, answer = m.token ~= token, nil
  if rewrite then
    -- Pages that are behind bring back what was deleted since: the mark must not claim more than they hold.
    if older(to, m.version) then
      m.version, m.watermark, save = to, watermark, true
    end
  elseif not older(m.version, to) then
    answer = 'STALE'
  elseif older(m.version, from) then
    answer = 'GAP'
  end
  for i = n_rows + 2, #keys do
    if answer then break end
    local update = args[i + offset]
    if string.sub(update, 1, 1) == 'B' and not book_fits(keys[i], update, token, from) then answer = 'GAP' end
  end
  if answer then
    take_over(keys[1], m, token)
    return { answer, m.version }
  end
  m.token = token

  local written, floors = 0, m.floors
  for i = 1, n_rows do
    written = written + put_row(keys[i + 1], rows, (i - 1) * ROW + 1)
  end
  for i = n_rows + 2, #keys do
    local update = args[i + offset]
    written = written + UPDATES[string.sub(update, 1, 1)](keys[i], update, m)
  end

  if last then
    m.version, m.watermark, m.written = to, newest(m.watermark, watermark), now
  end
  if last or save or m.floors ~= floors then
    redis.call('SET', keys[1], pack_mark(m))
  end
  return { 'OK', written }
end)

-- KEYS: mark. ARGV: token, mark, watermark, now. Raises the watermark of exactly this mark.
-- Answers as mp_apply; GAP = the tier is behind (it lost data), STALE = it is ahead of this owner.
redis.register_function('mp_heartbeat', function(keys, args)
  local token, version, watermark, now = unpack(args)
  local m = read_mark(keys[1])
  if older(token, m.token) then return { 'FENCED', m.token } end
  if m.version ~= version then
    take_over(keys[1], m, token)
    return { older(m.version, version) and 'GAP' or 'STALE', m.version }
  end
  m.token, m.watermark, m.written = token, newest(m.watermark, watermark), now
  redis.call('SET', keys[1], pack_mark(m))
  return { 'OK', 0 }
end)

-- KEYS: mark. ARGV: token, now, reset ('1': the tier's content is not trusted; readers refuse it until a rewrite ends).
-- Answers {'OK', 40 bytes of the mark} or {'FENCED', token}.
redis.register_function('mp_take', function(keys, args)
  local token, now, reset = unpack(args)
  local m = read_mark(keys[1])
  if older(token, m.token) then return { 'FENCED', m.token } end
  m.token, m.written = token, now
  if reset == '1' then
    m.version, m.watermark = ZERO, ZERO
  end
  local bytes = pack_mark(m)
  redis.call('SET', keys[1], bytes)
  return { 'OK', bytes }
end)
