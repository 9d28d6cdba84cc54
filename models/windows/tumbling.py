"""Open windows of one partition and the compiled loops that fill and close them.

One pass over a frame's rows: 2 ns a row, 12 a trade. All kernels stand in this one file because numba's cache on disk
looks only at the file of the function that is called.
"""

from __future__ import annotations

from math import prod

import numba
import numpy as np
from numpy.typing import NDArray

from models.market.conflate import NOTHING, PAGE_SLOTS
from models.market.prefetch import AHEAD, CACHED_BYTES, prefetch
from models.market.tick import Action, Kind
from models.windows.window import (
    CLOSE,
    COUNT,
    END,
    GRACE_NS,
    HIGH,
    INTERVALS_S,
    LOW,
    N_CLOSED,
    N_OPEN,
    N_VALUES,
    NO_WATERMARK,
    NOT_OPEN,
    OPEN,
    RING,
    SECOND_NS,
    VOLUME,
)

AHEAD_NS = SECOND_NS  # rule 15: on a live topic a row more than this ahead of its log-append time moves nothing

_SLOTS_AHEAD, _ENDS_AHEAD = 4, 16  # due slots, of two to four windows each
_TEN, _MINUTE = RING, RING + 1
_SECONDS_A_TEN, _SECONDS_A_MINUTE = INTERVALS_S[1:]
_LINE_BYTES = 64  # of a processor's cache; the ends of a slot's windows fill one, the values of a window lie in one
_WIDTH = _LINE_BYTES // 8
_MOST_CLOSED = 3 * N_OPEN  # by one instrument at one instant
_K_TRADE, _K_CONTROL = int(Kind.TRADE), int(Kind.CONTROL)
_MOVES, _ENDS = int(Action.UPDATE), int(Action.DELETE)
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, as in `models.market.slots`


class Windows:
    """Windows of one partition, by slot; pages of 64 slots as the rows of `models.market.conflate`.

    Attributes:
        watermark_ns: rows whose window ends at or before it are late.
        ends: int64[capacity, RING + 2]: when the open windows end, in seconds since 1970, NOT_OPEN = none is: the
            seconds (at `number % RING`), the ten seconds, the minute. A cache line a slot that tells what is due.
        values: int64[capacity, RING + 2, 8], `OPEN` to `COUNT` and room; rubbish of a window that is not open.
        sums: uint64[capacity, 3]: by interval the sum of `checksum` over all windows that ever closed.
        page_version: by page, the source version as of which it was loaded or flushed.
        dirty: by page, whether it changed since.
        n_late: trades that no window took since the last `begin`.
    """

    def __init__(self) -> None:
        self.watermark_ns = NO_WATERMARK
        self.ends = _of_lines(PAGE_SLOTS, N_OPEN)
        self.ends[:] = NOT_OPEN
        self.values = _of_lines(PAGE_SLOTS, N_OPEN, _WIDTH)
        self.sums = np.zeros((PAGE_SLOTS, len(INTERVALS_S)), np.uint64)
        self.page_version = np.full(1, NOTHING, np.int64)
        self.dirty = np.zeros(1, np.bool_)
        self.n_late = 0
        self._due = np.full(PAGE_SLOTS, NOT_OPEN, np.int64)  # the second at which a slot's next window closes
        self._closed = np.zeros((256, N_CLOSED), np.int64)
        self._n_closed = 0
        self._late = np.zeros(256, np.int32)

    def ensure(self, n_slots: int) -> None:
        """Make room for slots below `n_slots`."""
        while (n := len(self.ends)) < n_slots:
            ends, values = self.ends, self.values
            self.ends, self.values = _of_lines(2 * n, N_OPEN), _of_lines(2 * n, N_OPEN, _WIDTH)
            self.ends[:n], self.ends[n:], self.values[:n] = ends, NOT_OPEN, values
            self.sums = np.concatenate([self.sums, np.zeros_like(self.sums)])
            self.page_version = np.concatenate([self.page_version, np.full_like(self.page_version, NOTHING)])
            self.dirty = np.concatenate([self.dirty, np.zeros_like(self.dirty)])
            self._due = np.concatenate([self._due, np.full_like(self._due, NOT_OPEN)])

    def begin(self) -> None:
        """Forget what the last round closed."""
        self._n_closed = self.n_late = 0

    def apply(
        self, words: NDArray[np.int64], slot_of: NDArray[np.int32], *, version: int, after: int, latest_ns: int = END
    ) -> NDArray[np.int32]:
        """Take one decoded frame, its ticks seen as int64, shape (n, 8); arguments as of `Rows.apply`.

        Args:
            latest_ns: a row received later than this does not move the watermark.

        Returns:
            Indices of the trades that no window took: their second had closed, or begins RING s after the watermark's.
        """
        if len(self._late) < len(words):
            self._late = np.zeros(2 * len(words), np.int32)
        at = n_late = 0
        while at < len(words):
            if len(self._closed) - self._n_closed < _MOST_CLOSED:
                self._closed = np.concatenate([self._closed, np.zeros_like(self._closed)])
            at, self.watermark_ns, self._n_closed, n_late = _apply(
                words, at, slot_of, version, np.uint64(after), latest_ns, self.watermark_ns, self.ends, self.values,
                self.sums, self._due, self.page_version, self.dirty, self._closed, self._n_closed, self._late, n_late,
            )  # fmt: skip
        self.n_late += n_late
        return self._late[:n_late]

    def close(self, version: int) -> None:
        """Close everything whose end the watermark has reached, in pages older than `version`."""
        slot = 0
        while slot < len(self._due):
            if len(self._closed) - self._n_closed < _MOST_CLOSED:
                self._closed = np.concatenate([self._closed, np.zeros_like(self._closed)])
            slot, self._n_closed = _sweep(
                slot, version, self.watermark_ns, self.ends, self.values, self.sums, self._due, self.page_version,
                self.dirty, self._closed, self._n_closed,
            )  # fmt: skip

    def closed(self) -> NDArray[np.int64]:
        """What closed since `begin`, shape (n, 9), columns as dtype CLOSED; of one instrument and length in order."""
        return self._closed[: self._n_closed]

    def end(self) -> None:
        """Nothing more will come."""
        self.watermark_ns = END

    def clear_slot(self, slot: int, version: int) -> None:
        """Forget an instrument's windows as of a version, unless its page is as new."""
        if self.page_version[slot // PAGE_SLOTS] < version:
            self.ends[slot], self.sums[slot], self._due[slot] = NOT_OPEN, 0, NOT_OPEN
            self.dirty[slot // PAGE_SLOTS] = True

    def load(
        self, page: int, version: int, ends: NDArray[np.int64], values: NDArray[np.int64], sums: NDArray[np.uint64]
    ) -> None:
        """Restore a page: what `models.windows.page.decode_page` returns."""
        self.ensure((page + 1) * PAGE_SLOTS)
        slots = slice(page * PAGE_SLOTS, (page + 1) * PAGE_SLOTS)
        self.ends[slots], self.values[slots, :, :N_VALUES], self.sums[slots] = ends, values, sums
        self.page_version[page] = version
        self._due[slots] = ends.min(axis=1)


def _of_lines(*shape: int) -> NDArray[np.int64]:
    """Zeros that begin where a cache line does."""
    size = prod(shape)
    room = np.zeros(size + _LINE_BYTES // 8, np.int64)
    start = -room.ctypes.data % _LINE_BYTES // 8
    return room[start : start + size].reshape(shape)


def checksum(closed: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One number a window, from its start to its count; `closed` has shape (n, 9), columns as dtype CLOSED.

    Sums of them tell whether two histories are the same, in whatever order they were added. For accidents, not for
    forgers.
    """
    mixed = np.zeros(len(closed), np.uint64)
    for field in closed[:, 2:].T:
        mixed = (mixed ^ field.view(np.uint64)) * _PRIME
        mixed ^= mixed >> np.uint64(32)
    return mixed


@numba.njit(cache=True, nogil=True)
def _close_slots(slots, at, second, ends, values, sums, due, dirty, closed, n_closed):  # type: ignore[no-untyped-def]
    """Close windows that end at or before `second` of slots from place `at` on, each slot's in order of time.

    Stops before a slot that may close more than `closed` has room for; returns its place. One function, without calls
    that take arrays: numba counts references to each, which was two thirds of what a window cost.
    """
    n = slots.shape[0]
    n_ahead = n if values.nbytes > CACHED_BYTES else np.int64(0)
    for i in range(at, n):
        if i + _ENDS_AHEAD < n_ahead:
            prefetch(ends, (slots[i + _ENDS_AHEAD],))
            prefetch(sums, (slots[i + _ENDS_AHEAD],))
        if i + _SLOTS_AHEAD < n_ahead:
            ahead = slots[i + _SLOTS_AHEAD]
            for w in range(RING):
                prefetch(values, (ahead, w if ends[ahead, w] <= second else _TEN))
            prefetch(values, (ahead, _TEN))
            prefetch(values, (ahead, _MINUTE if ends[ahead, _TEN] <= second else _TEN))
        if closed.shape[0] - n_closed < _MOST_CLOSED:
            return i, n_closed
        slot = slots[i]
        while True:
            first = ends[slot, 0]
            for r in range(1, RING):
                first = min(first, ends[slot, r])
            ten, minute = ends[slot, _TEN], ends[slot, _MINUTE]
            if min(first, ten, minute) > second:
                break
            by = min(first - 1, second)  # what ends by the begin of the next second closes before it
            if ten <= by:
                its_minute = ((ten - 1) // _SECONDS_A_MINUTE + 1) * _SECONDS_A_MINUTE
                place, interval, number = _TEN, 1, ten // _SECONDS_A_TEN - 1
                into, into_end = _MINUTE, its_minute
                if minute not in (NOT_OPEN, its_minute):
                    place, interval, number = _MINUTE, 2, minute // _SECONDS_A_MINUTE - 1
            elif minute <= by:
                place, interval, number = _MINUTE, 2, minute // _SECONDS_A_MINUTE - 1
                into, into_end = _MINUTE, minute
            else:
                place, interval, number = (first - 1) % RING, 0, first - 1
                into, into_end = _TEN, ((first - 1) // _SECONDS_A_TEN + 1) * _SECONDS_A_TEN
            opened, high, low = values[slot, place, OPEN], values[slot, place, HIGH], values[slot, place, LOW]
            close, volume, count = values[slot, place, CLOSE], values[slot, place, VOLUME], values[slot, place, COUNT]
            closed[n_closed, 0], closed[n_closed, 1], closed[n_closed, 2] = slot, interval, number
            mixed = np.uint64(number) * _PRIME  # as `checksum`
            mixed ^= mixed >> np.uint64(32)
            for f in range(N_VALUES):
                value = values[slot, place, f]
                closed[n_closed, 3 + f] = value
                mixed = (mixed ^ np.uint64(value)) * _PRIME
                mixed ^= mixed >> np.uint64(32)
            sums[slot, interval] += mixed
            n_closed += 1
            ends[slot, place] = NOT_OPEN
            if interval == 2:
                continue
            # It joins the longer one: choices instead of branches, because nobody could foretell whether that is open.
            fresh = ends[slot, into] == NOT_OPEN
            ends[slot, into] = into_end if fresh else ends[slot, into]
            values[slot, into, OPEN] = opened if fresh else values[slot, into, OPEN]
            values[slot, into, HIGH] = high if fresh else max(high, values[slot, into, HIGH])
            values[slot, into, LOW] = low if fresh else min(low, values[slot, into, LOW])
            values[slot, into, CLOSE] = close
            values[slot, into, VOLUME] = volume + (np.int64(0) if fresh else values[slot, into, VOLUME])
            values[slot, into, COUNT] = count + (np.int64(0) if fresh else values[slot, into, COUNT])
        due[slot] = min(first, ten, minute)
        dirty[slot // PAGE_SLOTS] = True
    return n, n_closed


@numba.njit(cache=True, nogil=True)
def _apply(  # type: ignore[no-untyped-def]
    words, start, slot_of, version, after, latest_ns, watermark, ends, values, sums, due, page_version, dirty,
    closed, n_closed, late, n_late,
):  # fmt: skip
    """Rows from `start` on; stops before a row that may close more windows than `closed` has room for."""
    second = watermark // SECOND_NS
    next_second_ns = (second + 1) * SECOND_NS
    one = np.empty(1, np.int32)
    n_ahead = words.shape[0] - AHEAD if values.nbytes > CACHED_BYTES else np.int64(0)
    for i in range(start, words.shape[0]):
        if i < n_ahead:
            instrument, kind = np.int32(words[i + AHEAD, 7] & 0xFFFFFFFF), words[i + AHEAD, 7] >> 32 & 255
            if instrument >= 0 and kind == _K_TRADE:
                prefetch(ends, (slot_of[instrument],))
                prefetch(values, (slot_of[instrument], words[i + AHEAD, 0] // SECOND_NS % RING))
        if np.uint64(words[i, 2]) <= after:
            continue
        instrument = np.int32(words[i, 7] & 0xFFFFFFFF)
        shape = words[i, 7] >> 32
        kind = shape & 255
        to = words[i, 1] - GRACE_NS
        if instrument < 0:
            action = (shape >> 8) & 255
            if kind != _K_CONTROL or action not in (_MOVES, _ENDS):
                continue
            to = words[i, 1] if action == _MOVES else np.int64(END)
        elif words[i, 1] > latest_ns:
            to = watermark
        if to > watermark:
            watermark = to
            if watermark >= next_second_ns:
                second = watermark // SECOND_NS
                next_second_ns = (second + 1) * SECOND_NS
        if kind != _K_TRADE or instrument < 0:
            continue
        slot = slot_of[instrument]
        if slot < 0 or version <= page_version[slot // PAGE_SLOTS]:
            continue
        number = words[i, 0] // SECOND_NS
        if number < second or number >= second + RING:
            late[n_late] = i
            n_late += 1
            continue
        price, size = words[i, 4], words[i, 5]
        place = number % RING
        end = number + 1
        if ends[slot, place] == end:
            values[slot, place, HIGH] = max(values[slot, place, HIGH], price)
            values[slot, place, LOW] = min(values[slot, place, LOW], price)
            values[slot, place, CLOSE] = price
            values[slot, place, VOLUME] += size
            values[slot, place, COUNT] += 1
            dirty[slot // PAGE_SLOTS] = True
            continue
        if ends[slot, place] != NOT_OPEN:
            if closed.shape[0] - n_closed < _MOST_CLOSED:
                return i, watermark, n_closed, n_late
            one[0] = slot
            _, n_closed = _close_slots(one, 0, second, ends, values, sums, due, dirty, closed, n_closed)
            if ends[slot, place] != NOT_OPEN:  # of a later time: another run began here and set the watermark back
                late[n_late] = i
                n_late += 1
                continue
        ends[slot, place] = end
        values[slot, place, OPEN], values[slot, place, HIGH] = price, price
        values[slot, place, LOW], values[slot, place, CLOSE] = price, price
        values[slot, place, VOLUME], values[slot, place, COUNT] = size, 1
        due[slot] = min(due[slot], end)
        dirty[slot // PAGE_SLOTS] = True
    return words.shape[0], watermark, n_closed, n_late


@numba.njit(cache=True, nogil=True)
def _sweep(start, version, watermark, ends, values, sums, due, page_version, dirty, closed, n_closed):  # type: ignore[no-untyped-def]
    """Slots from `start` on; stops before one that may close more windows than `closed` has room for."""
    second = watermark // SECOND_NS
    slots, n = np.empty(due.shape[0] - start, np.int32), 0
    for slot in range(start, due.shape[0]):  # first a list: without branches, and the loop sees who comes next
        slots[n] = slot
        n += due[slot] <= second and version > page_version[slot // PAGE_SLOTS]
    at, n_closed = _close_slots(slots[:n], 0, second, ends, values, sums, due, dirty, closed, n_closed)
    return slots[at] if at < n else due.shape[0], n_closed
