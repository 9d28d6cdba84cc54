"""The compiled road of JSON ticks: trades, liquidations and quotes as nearly every producer writes them.

One loop over the bytes instead of a Python object a record. It takes a record only if there is no doubt what the typed
decoder (`json_records`) would make of it: an object without nesting, plain ASCII strings without escapes, whole
numbers, no field twice, an instrument that is known. Everything else (other types, new instruments, whatever is wrong)
is left to that decoder, which alone knows reasons to refuse a record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from models.market.json_lines import Lines
from models.market.json_rows import EVENT
from models.market.registry import InstrumentRegistry
from models.market.tick import Action, Flag, Kind, Side

DAY_NS = 86_400 * 10**9
MAX_BYTES = 1 << 20  # larger records are refused

_NAMES = (
    b"exchange", b"market_type", b"symbol", b"data_type", b"ts_ms", b"ts_ns", b"collected_ts_ms", b"collected_ts_ns",
    b"price", b"quantity", b"side", b"trade_id", b"bid_price", b"bid_quantity", b"ask_price", b"ask_quantity",
    b"last_update_id",
)  # fmt: skip
(
    _EXCHANGE, _MARKET, _SYMBOL, _TYPE, _TS_MS, _TS_NS, _RECV_MS, _RECV_NS, _PRICE, _QUANTITY, _SIDE, _TRADE_ID,
    _BID, _BID_SIZE, _ASK, _ASK_SIZE, _UPDATE_ID,
) = range(len(_NAMES))  # fmt: skip
_N_FIELDS = len(_NAMES)

_LENGTHS = np.array([len(name) for name in _NAMES], np.int64)
_LETTERS = np.array([list(name.ljust(16, b"\0")) for name in _NAMES], np.uint8)
# Field by a mark of its name in which no two of the names agree.
_MARKS = 32
_FIELD_OF = np.full(_MARKS, -1, np.int64)
_FIELD_OF[[(2 * len(name) + 6 * name[0] + name[3] + name[-2]) % _MARKS for name in _NAMES]] = np.arange(len(_NAMES))

_ABSENT, _TEXT, _INTEGER = range(3)  # what a field's value is; null counts as absent
_MOST_DIGITS = 18  # any number of so many digits fits int64
_LONGEST_ID = 20  # a text that is longer is no trade number
_NS_PER_MS = 1_000_000
_BLANK, _TAB, _LF, _CR = 32, 9, 10, 13
_MARK, _BACKSLASH, _COLON, _COMMA, _OPEN, _CLOSE, _MINUS, _ZERO, _NINE, _DOT = (ord(c) for c in '"\\:,{}-09.')
_FNV_BASIS, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a (RFC 9923)

_SLOW, _TRADE, _QUOTE = range(3)
_K_TRADE, _K_LIQUIDATION, _K_QUOTE = int(Kind.TRADE), int(Kind.LIQUIDATION), int(Kind.QUOTE)
_A_TRADE, _A_UPDATE, _BUY, _SELL, _TOP = (
    int(Action.TRADE),
    int(Action.UPDATE),
    int(Side.BID),
    int(Side.ASK),
    int(Flag.TOB),
)

_kernel = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the loop made of a batch of records.

    Attributes:
        events: EVENT[k], one a record that it took, in their order.
        shapes: u8, shape (n, 4): kind, action, side, flags of all events' rows, without LAST.
        spans: int64, shape (2 n, 2): where the texts of each row's price and size begin and end.
        left: int64[m], records left to the typed decoder, rising.
    """

    events: NDArray[np.void]
    shapes: NDArray[np.uint8]
    spans: NDArray[np.int64]
    left: NDArray[np.int64]


def scan(lines: Lines, received_ns: NDArray[np.int64], names: InstrumentNames) -> Scanned:
    """Read many records; about 0.4 us each.

    Args:
        received_ns: int64[n], when each was received.
    """
    n = len(lines)
    events, shapes, spans = np.empty(n, EVENT), np.empty((2 * n, 4), np.uint8), np.empty((4 * n, 2), np.int64)
    left = np.empty(n, np.int64)
    words = events.view(np.int64).reshape(n, EVENT.itemsize // 8)
    k, m, n_left = _scan(
        lines.data, lines.starts, lines.ends, received_ns, names.table, names.letters, names.bounds, words, shapes,
        spans, left,
    )  # fmt: skip
    return Scanned(events[:k], shapes[:m], spans[: 2 * m], left[:n_left])


class InstrumentNames:
    """The registry's instruments by the bytes of their three parts, for compiled code.

    Attributes:
        table: int64[slots, 2], open addressing, at most half full: FNV-1a of the text, id (-1 = free).
        letters: uint8, all texts `venue.market_type.SYMBOL` one behind the other.
        bounds: int64[ids, 3]: where a text begins in `letters`, where its market type and where its symbol.
    """

    def __init__(self, registry: InstrumentRegistry) -> None:
        self._registry = registry
        self._known = 0
        self.table = np.full((128, 2), -1, np.int64)
        self.letters = np.empty(4096, np.uint8)
        self.bounds = np.zeros((65, 3), np.int64)

    def catch_up(self) -> None:
        """Take in the instruments that the registry met since the last call."""
        new = self._registry.instruments[self._known :]
        if not new:
            return
        at, known = int(self.bounds[self._known, 0]), self._known
        text = "".join(instrument.text for instrument in new).encode()
        total = known + len(new)
        while total >= len(self.bounds):
            self.bounds = np.concatenate([self.bounds, np.zeros_like(self.bounds)])
        while at + len(text) > len(self.letters):
            self.letters = np.concatenate([self.letters, np.empty_like(self.letters)])
        self.letters[at : at + len(text)] = np.frombuffer(text, np.uint8)
        for id_, instrument in enumerate(new, known):
            market = at + len(instrument.venue) + 1
            symbol = market + len(instrument.market_type) + 1
            self.bounds[id_] = at, market, symbol
            at = symbol + len(instrument.symbol)
        self.bounds[total, 0] = at  # the end of the last text
        self._known = total
        if 2 * total > len(self.table):
            self.table = np.full((1 << (2 * total).bit_length(), 2), -1, np.int64)
            known = 0
        _insert(self.table, self.letters, self.bounds, known, total)


@_kernel
def _hash(data, start, end, seed):  # type: ignore[no-untyped-def]
    value = seed
    for i in range(start, end):
        value = (value ^ np.uint64(data[i])) * _FNV_PRIME
    return value


@_kernel
def _insert(table, letters, bounds, first, end):  # type: ignore[no-untyped-def]
    mask = table.shape[0] - 1
    for id_ in range(first, end):
        name = np.int64(_hash(letters, bounds[id_, 0], bounds[id_ + 1, 0], _FNV_BASIS))
        at = name & mask
        while table[at, 1] >= 0:
            at = (at + 1) & mask
        table[at, 0], table[at, 1] = name, id_


@_kernel
def _same(data, start, end, letters, at):  # type: ignore[no-untyped-def]
    i = start
    while i < end and data[i] == letters[at + i - start]:
        i += 1
    return i == end


@_kernel
def _find(data, spans, table, letters, bounds):  # type: ignore[no-untyped-def]
    """Id of the instrument whose parts stand at the spans of exchange, market type and symbol; -1 = not known."""
    dot = np.uint64(_DOT)
    name = _hash(data, spans[_EXCHANGE, 0], spans[_EXCHANGE, 1], _FNV_BASIS)
    name = _hash(data, spans[_MARKET, 0], spans[_MARKET, 1], (name ^ dot) * _FNV_PRIME)
    wanted = np.int64(_hash(data, spans[_SYMBOL, 0], spans[_SYMBOL, 1], (name ^ dot) * _FNV_PRIME))
    mask = table.shape[0] - 1
    slot = wanted & mask
    while table[slot, 1] >= 0:
        id_ = table[slot, 1]
        if table[slot, 0] == wanted:
            venue, market, symbol, end = bounds[id_, 0], bounds[id_, 1], bounds[id_, 2], bounds[id_ + 1, 0]
            if (
                spans[_EXCHANGE, 1] - spans[_EXCHANGE, 0] == market - 1 - venue
                and spans[_MARKET, 1] - spans[_MARKET, 0] == symbol - 1 - market
                and spans[_SYMBOL, 1] - spans[_SYMBOL, 0] == end - symbol
                and _same(data, spans[_EXCHANGE, 0], spans[_EXCHANGE, 1], letters, venue)
                and _same(data, spans[_MARKET, 0], spans[_MARKET, 1], letters, market)
                and _same(data, spans[_SYMBOL, 0], spans[_SYMBOL, 1], letters, symbol)
            ):
                return id_
        slot = (slot + 1) & mask
    return np.int64(-1)


@_kernel
def _skip_blanks(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and (data[i] == _BLANK or data[i] == _LF or data[i] == _CR or data[i] == _TAB):
        i += 1
    return i


@_kernel
def _text_end(data, i, end):  # type: ignore[no-untyped-def]
    """Where the closing mark of a text that begins at `i` stands; -1 if the text is not plain ASCII or has no end."""
    while i < end:
        byte = data[i]
        if byte == _MARK:
            return i
        if byte == _BACKSLASH or byte < _BLANK or byte > 126:
            return np.int64(-1)
        i += 1
    return np.int64(-1)


@_kernel
def _field(data, start, end):  # type: ignore[no-untyped-def]
    """Number of the field that is called so, -1 = none that matters here."""
    n = end - start
    if n < 4:
        return np.int64(-1)
    mark = (2 * n + 6 * np.int64(data[start]) + np.int64(data[start + 3]) + np.int64(data[end - 2])) % _MARKS
    field = _FIELD_OF[mark]
    if field < 0 or _LENGTHS[field] != n:
        return np.int64(-1)
    for i in range(n):
        if data[start + i] != _LETTERS[field, i]:
            return np.int64(-1)
    return field


@_kernel
def _fields(data, i, end, kinds, spans):  # type: ignore[no-untyped-def]
    """Find all fields of the object at `i`; False if it is none of the kind that is read here.

    Args:
        kinds: int64[fields], all -1: becomes what each value is; -1 where the record does not have the field.
        spans: int64[fields, 2]: becomes where each text (without its marks) or number stands.
    """
    i = _skip_blanks(data, i, end)
    if i >= end or data[i] != _OPEN:
        return False
    i = _skip_blanks(data, i + 1, end)
    while True:
        if i >= end or data[i] != _MARK:
            return False
        start = i + 1
        stop = _text_end(data, start, end)
        if stop < 0:
            return False
        field = _field(data, start, stop)
        i = _skip_blanks(data, stop + 1, end)
        if i >= end or data[i] != _COLON:
            return False
        i = _skip_blanks(data, i + 1, end)
        if i >= end:
            return False
        kind = _TEXT
        if data[i] == _MARK:
            start = i + 1
            stop = _text_end(data, start, end)
            if stop < 0:
                return False
            i = stop + 1
        elif data[i] == 110:  # null
            if i + 4 > end or data[i + 1] != 117 or data[i + 2] != 108 or data[i + 3] != 108:
                return False
            kind, start, stop = _ABSENT, i, i
            i += 4
        else:
            kind, start = _INTEGER, i
            while i < end and _ZERO <= data[i] <= _NINE:
                i += 1
            stop = i
            if stop == start or stop - start > _MOST_DIGITS or (data[start] == _ZERO and stop - start > 1):
                return False
        if field >= 0:
            if kinds[field] >= 0:
                return False
            kinds[field], spans[field, 0], spans[field, 1] = kind, start, stop
        i = _skip_blanks(data, i, end)
        if i >= end:
            return False
        if data[i] == _CLOSE:
            return _skip_blanks(data, i + 1, end) == end
        if data[i] != _COMMA:
            return False
        i = _skip_blanks(data, i + 1, end)


@_kernel
def _whole(data, start, end):  # type: ignore[no-untyped-def]
    """Value of a text of 1 to 18 digits; -1 = it is something else."""
    if not 0 < end - start <= _MOST_DIGITS:
        return np.int64(-1)
    value = np.int64(0)
    for i in range(start, end):
        if data[i] < _ZERO or data[i] > _NINE:
            return np.int64(-1)
        value = value * 10 + np.int64(data[i] - _ZERO)
    return value


@_kernel
def _instant(data, kinds, spans, ns, ms, fallback, latest):  # type: ignore[no-untyped-def]
    """Instant by a field of ns, else by one of ms, else the fallback; -1 = the typed decoder has to look at it."""
    if kinds[ns] > _ABSENT:
        if kinds[ns] != _INTEGER:
            return np.int64(-1)
        value = _whole(data, spans[ns, 0], spans[ns, 1])
        if kinds[ms] == _TEXT:
            return np.int64(-1)
    elif kinds[ms] > _ABSENT:
        if kinds[ms] != _INTEGER:
            return np.int64(-1)
        value = _whole(data, spans[ms, 0], spans[ms, 1])
        if value > latest // _NS_PER_MS:
            return np.int64(-1)
        value *= _NS_PER_MS
    else:
        value = fallback
    return value if value <= latest else np.int64(-1)


@_kernel
def _reference(data, kind, start, end):  # type: ignore[no-untyped-def]
    """A trade id as a number, 0 where it is none; -1 = the typed decoder has to look at it."""
    if kind <= _ABSENT or start == end or end - start > _LONGEST_ID:
        return np.int64(0)
    if end - start > _MOST_DIGITS or data[start] == _MINUS:
        return np.int64(-1)
    value = _whole(data, start, end)
    return value if value >= 0 else np.int64(0)


@_kernel
def _is(data, start, end, word):  # type: ignore[no-untyped-def]
    if end - start != word.shape[0]:
        return False
    i = 0
    while i < word.shape[0] and data[start + i] == word[i]:
        i += 1
    return i == word.shape[0]


_W_TRADE, _W_LIQUIDATION, _W_QUOTE, _W_BUY, _W_SELL = (
    np.frombuffer(word, np.uint8) for word in (b"trade", b"liquidation", b"quote", b"buy", b"sell")
)


@_kernel
def _scan(  # type: ignore[no-untyped-def]
    data, starts, ends, received, table, letters, bounds, events, shapes, spans, left
):
    """Returns how many events, how many rows, and how many records are left."""
    k = m = n_left = 0
    kinds, at = np.empty(_N_FIELDS, np.int64), np.empty((_N_FIELDS, 2), np.int64)
    for record in range(starts.shape[0]):
        start, end = starts[record], ends[record]
        kinds[:] = -1
        left[n_left] = record  # taken back below if nothing stands in the way
        n_left += 1
        if end - start > MAX_BYTES or not _fields(data, start, end, kinds, at):
            continue
        if kinds[_TYPE] != _TEXT or kinds[_EXCHANGE] != _TEXT or kinds[_MARKET] != _TEXT or kinds[_SYMBOL] != _TEXT:
            continue
        is_quote = _is(data, at[_TYPE, 0], at[_TYPE, 1], _W_QUOTE)
        is_trade = _is(data, at[_TYPE, 0], at[_TYPE, 1], _W_TRADE)
        if not is_quote and not is_trade and not _is(data, at[_TYPE, 0], at[_TYPE, 1], _W_LIQUIDATION):
            continue
        latest = received[record] + DAY_NS
        event_ns = _instant(data, kinds, at, _TS_NS, _TS_MS, np.int64(-1), latest)
        recv_ns = _instant(data, kinds, at, _RECV_NS, _RECV_MS, received[record], latest)
        if event_ns < 0 or recv_ns < 0 or event_ns > recv_ns + DAY_NS:
            continue
        first = _BID if is_quote else _PRICE
        n_numbers = 4 if is_quote else 2
        texts = True
        for field in range(first, first + n_numbers):
            texts = texts and kinds[field] == _TEXT
        if not texts:
            continue
        venue_seq = ref_id = np.int64(0)
        side = 0
        if is_quote:
            if kinds[_UPDATE_ID] > _ABSENT:
                venue_seq = _whole(data, at[_UPDATE_ID, 0], at[_UPDATE_ID, 1])
                if venue_seq < 0:
                    continue
        else:
            if is_trade:
                ref_id = _reference(data, kinds[_TRADE_ID], at[_TRADE_ID, 0], at[_TRADE_ID, 1])
            if kinds[_SIDE] > _ABSENT:
                if kinds[_SIDE] == _TEXT and _is(data, at[_SIDE, 0], at[_SIDE, 1], _W_BUY):
                    side = _BUY
                elif kinds[_SIDE] == _TEXT and _is(data, at[_SIDE, 0], at[_SIDE, 1], _W_SELL):
                    side = _SELL
                else:
                    continue
            if ref_id < 0:
                continue
        instrument = _find(data, at, table, letters, bounds)
        if instrument < 0:
            continue
        n_left -= 1
        n_rows = n_numbers // 2
        event = events[k]
        event[0], event[1], event[2], event[3], event[4] = record, instrument, n_rows, event_ns, recv_ns
        event[5], event[6] = venue_seq, ref_id
        k += 1
        for number in range(n_numbers):
            spans[2 * m + number, 0], spans[2 * m + number, 1] = at[first + number, 0], at[first + number, 1]
        if is_quote:
            for half, who in enumerate((_BUY, _SELL)):
                shapes[m + half, 0], shapes[m + half, 1], shapes[m + half, 2] = _K_QUOTE, _A_UPDATE, who
                shapes[m + half, 3] = _TOP
        else:
            shapes[m, 0], shapes[m, 1] = _K_TRADE if is_trade else _K_LIQUIDATION, _A_TRADE
            shapes[m, 2], shapes[m, 3] = side, 0
        m += n_rows
    return k, m, n_left
