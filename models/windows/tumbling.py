"""Open windows of one partition and the compiled loops that fill and close them.

One pass over a frame's rows: 2 ns a row, 12 a trade. All kernels stand in this one file because numba's cache on disk
looks only at the file of the function that is called.
"""

from __future__ import annotations

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
    N_FIELDS,
    NO_WATERMARK,
    OPEN,
    RING,
    SECOND_NS,
    START,
    VOLUME,
)

AHEAD_NS = SECOND_NS  # rule 15: on a live topic a row more than this ahead of its log-append time moves nothing

_SLOTS_AHEAD = 4  # eight windows each
_TEN, _MINUTE = RING, RING + 1
N_OPEN = RING + 2
_FAR = 1 << 62
_SECONDS_A_TEN, _TENS_A_MINUTE = INTERVALS_S[1] // INTERVALS_S[0], INTERVALS_S[2] // INTERVALS_S[1]
_MOST_CLOSED = 3 * N_OPEN  # by one instrument at one instant
_K_TRADE, _K_CONTROL = int(Kind.TRADE), int(Kind.CONTROL)
_MOVES, _ENDS = int(Action.UPDATE), int(Action.DELETE)
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, as in `models.market.slots`


class Windows:
    """Windows of one partition, by slot; pages of 64 slots as the rows of `models.market.conflate`.

    Attributes:
        watermark_ns: rows whose window ends at or before it are late.
        open: int64[capacity, RING + 2, 7]: the seconds (at `number % RING`), the ten seconds, the minute.
        sums: uint64[capacity, 3]: by interval the sum of `checksum` over all windows that ever closed.
        page_version: by page, the source version as of which it was loaded or flushed.
        dirty: by page, whether it changed since.
        n_late: trades that no window took since the last `begin`.
    """

    def __init__(self) -> None:
        self.watermark_ns = NO_WATERMARK
        self.open = np.zeros((PAGE_SLOTS, N_OPEN, N_FIELDS), np.int64)
        self.sums = np.zeros((PAGE_SLOTS, len(INTERVALS_S)), np.uint64)
        self.page_version = np.full(1, NOTHING, np.int64)
        self.dirty = np.zeros(1, np.bool_)
        self.n_late = 0
        self._due = np.full(PAGE_SLOTS, _FAR, np.int64)  # the second at which a slot's next window closes
        self._closed = np.zeros((256, N_CLOSED), np.int64)
        self._n_closed = 0
        self._late = np.zeros(256, np.int32)

    def ensure(self, n_slots: int) -> None:
        """Make room for slots below `n_slots`."""
        while len(self.open) < n_slots:
            self.open = np.concatenate([self.open, np.zeros_like(self.open)])
            self.sums = np.concatenate([self.sums, np.zeros_like(self.sums)])
            self.page_version = np.concatenate([self.page_version, np.full_like(self.page_version, NOTHING)])
            self.dirty = np.concatenate([self.dirty, np.zeros_like(self.dirty)])
            self._due = np.concatenate([self._due, np.full_like(self._due, _FAR)])

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
                words, at, slot_of, version, np.uint64(after), latest_ns, self.watermark_ns, self.open, self.sums,
                self._due, self.page_version, self.dirty, self._closed, self._n_closed, self._late, n_late,
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
                slot, version, self.watermark_ns, self.open, self.sums, self._due, self.page_version, self.dirty,
                self._closed, self._n_closed,
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
            self.open[slot], self.sums[slot], self._due[slot] = 0, 0, _FAR
            self.dirty[slot // PAGE_SLOTS] = True

    def load(self, page: int, version: int, open_: NDArray[np.int64], sums: NDArray[np.uint64]) -> None:
        """Restore a page: int64[64, RING + 2, 7] and uint64[64, 3]."""
        self.ensure((page + 1) * PAGE_SLOTS)
        slots = slice(page * PAGE_SLOTS, (page + 1) * PAGE_SLOTS)
        self.open[slots], self.sums[slots], self.page_version[page] = open_, sums, version
        _due(self.open, self._due, slots.start, slots.stop)


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
def _emit(open_, slot, place, interval, sums, closed, n_closed):  # type: ignore[no-untyped-def]
    """Close the window at a place: it joins those that closed, and its `checksum` the sums."""
    closed[n_closed, 0], closed[n_closed, 1] = slot, interval
    mixed = np.uint64(0)
    for f in range(N_FIELDS):
        field = open_[slot, place, f]
        closed[n_closed, 2 + f] = field
        mixed = (mixed ^ np.uint64(field)) * _PRIME
        mixed ^= mixed >> np.uint64(32)
    sums[slot, interval] += mixed
    open_[slot, place, COUNT] = 0
    return n_closed + 1


@numba.njit(cache=True, nogil=True)
def _fold(open_, slot, place, into, number):  # type: ignore[no-untyped-def]
    """Add the window at a place, which has just closed, to the longer one that it lies in."""
    if open_[slot, into, COUNT] == 0:
        open_[slot, into, START] = number
        for f in range(OPEN, N_FIELDS):
            open_[slot, into, f] = open_[slot, place, f]
        return
    open_[slot, into, HIGH] = max(open_[slot, into, HIGH], open_[slot, place, HIGH])
    open_[slot, into, LOW] = min(open_[slot, into, LOW], open_[slot, place, LOW])
    open_[slot, into, CLOSE] = open_[slot, place, CLOSE]
    open_[slot, into, VOLUME] += open_[slot, place, VOLUME]
    open_[slot, into, COUNT] += open_[slot, place, COUNT]


@numba.njit(cache=True, nogil=True)
def _close_longer(open_, slot, second, sums, closed, n_closed):  # type: ignore[no-untyped-def]
    """Close the ten seconds and the minute if they end at or before `second`."""
    if open_[slot, _TEN, COUNT] and (open_[slot, _TEN, START] + 1) * _SECONDS_A_TEN <= second:
        number = open_[slot, _TEN, START] // _TENS_A_MINUTE
        if open_[slot, _MINUTE, COUNT] and open_[slot, _MINUTE, START] != number:
            n_closed = _emit(open_, slot, _MINUTE, 2, sums, closed, n_closed)
        _fold(open_, slot, _TEN, _MINUTE, number)
        n_closed = _emit(open_, slot, _TEN, 1, sums, closed, n_closed)
    if open_[slot, _MINUTE, COUNT] and (open_[slot, _MINUTE, START] + 1) * _SECONDS_A_TEN * _TENS_A_MINUTE <= second:
        n_closed = _emit(open_, slot, _MINUTE, 2, sums, closed, n_closed)
    return n_closed


@numba.njit(cache=True, nogil=True)
def _first_second(open_, slot):  # type: ignore[no-untyped-def]
    """The oldest open second and its place; _FAR if none is open. Without branches, which nobody could foretell."""
    first, place = np.int64(_FAR), np.int64(0)
    for r in range(RING):
        start = open_[slot, r, START]
        start = start if open_[slot, r, COUNT] else np.int64(_FAR)
        place = np.int64(r) if start < first else place
        first = min(first, start)
    return first, place


@numba.njit(cache=True, nogil=True)
def _next_due(open_, slot, first):  # type: ignore[no-untyped-def]
    """When an instrument's next window ends whose oldest open second is `first`; in seconds."""
    due = first + 1 if first < _FAR else np.int64(_FAR)
    if open_[slot, _TEN, COUNT]:
        due = min(due, (open_[slot, _TEN, START] + 1) * _SECONDS_A_TEN)
    if open_[slot, _MINUTE, COUNT]:
        due = min(due, (open_[slot, _MINUTE, START] + 1) * _SECONDS_A_TEN * _TENS_A_MINUTE)
    return due


@numba.njit(cache=True, nogil=True)
def _due(open_, due, start, stop):  # type: ignore[no-untyped-def]
    """Set `due` of slots from `start` to before `stop`."""
    for slot in range(start, stop):
        due[slot] = _next_due(open_, slot, _first_second(open_, slot)[0])


@numba.njit(cache=True, nogil=True)
def _close_slot(slot, second, open_, sums, due, closed, n_closed):  # type: ignore[no-untyped-def]
    """Close an instrument's windows that end at or before `second`, seconds in order of time.

    No view of a window here and in what it calls, as in `models.market.conflate`.
    """
    first, place = _first_second(open_, slot)
    while first < second:
        n_closed = _close_longer(open_, slot, first, sums, closed, n_closed)
        _fold(open_, slot, place, _TEN, first // _SECONDS_A_TEN)
        n_closed = _emit(open_, slot, place, 0, sums, closed, n_closed)
        first, place = _first_second(open_, slot)
    n_closed = _close_longer(open_, slot, second, sums, closed, n_closed)
    due[slot] = _next_due(open_, slot, first)
    return n_closed


@numba.njit(cache=True, nogil=True)
def _apply(  # type: ignore[no-untyped-def]
    words, start, slot_of, version, after, latest_ns, watermark, open_, sums, due, page_version, dirty,
    closed, n_closed, late, n_late,
):  # fmt: skip
    """Rows from `start` on; stops before a row that may close more windows than `closed` has room for."""
    second = watermark // SECOND_NS
    next_second_ns = (second + 1) * SECOND_NS
    n_ahead = words.shape[0] - AHEAD if open_.nbytes > CACHED_BYTES else np.int64(0)
    for i in range(start, words.shape[0]):
        if i < n_ahead:
            instrument, kind = np.int32(words[i + AHEAD, 7] & 0xFFFFFFFF), words[i + AHEAD, 7] >> 32 & 255
            if instrument >= 0 and kind == _K_TRADE:
                prefetch(open_, (slot_of[instrument], words[i + AHEAD, 0] // SECOND_NS % RING))
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
        if open_[slot, place, COUNT] and open_[slot, place, START] != number:
            if closed.shape[0] - n_closed < _MOST_CLOSED:
                return i, watermark, n_closed, n_late
            n_closed = _close_slot(slot, second, open_, sums, due, closed, n_closed)
            if open_[slot, place, COUNT]:  # of a later time: another run began here and set the watermark back
                late[n_late] = i
                n_late += 1
                continue
        if open_[slot, place, COUNT] == 0:
            open_[slot, place, START], open_[slot, place, OPEN] = number, price
            open_[slot, place, HIGH], open_[slot, place, LOW], open_[slot, place, VOLUME] = price, price, 0
            due[slot] = min(due[slot], number + 1)
        open_[slot, place, HIGH] = max(open_[slot, place, HIGH], price)
        open_[slot, place, LOW] = min(open_[slot, place, LOW], price)
        open_[slot, place, CLOSE] = price
        open_[slot, place, VOLUME] += size
        open_[slot, place, COUNT] += 1
        dirty[slot // PAGE_SLOTS] = True
    return words.shape[0], watermark, n_closed, n_late


@numba.njit(cache=True, nogil=True)
def _sweep(start, version, watermark, open_, sums, due, page_version, dirty, closed, n_closed):  # type: ignore[no-untyped-def]
    """Slots from `start` on; stops before one that may close more windows than `closed` has room for."""
    second = watermark // SECOND_NS
    n_ahead = due.shape[0] - _SLOTS_AHEAD if open_.nbytes > CACHED_BYTES else np.int64(0)
    for slot in range(start, due.shape[0]):
        if slot < n_ahead and due[slot + _SLOTS_AHEAD] <= second:
            for w in range(N_OPEN):
                prefetch(open_, (slot + _SLOTS_AHEAD, w))
        if due[slot] > second or version <= page_version[slot // PAGE_SLOTS]:
            continue
        if closed.shape[0] - n_closed < _MOST_CLOSED:
            return slot, n_closed
        n_closed = _close_slot(slot, second, open_, sums, due, closed, n_closed)
        dirty[slot // PAGE_SLOTS] = True
    return due.shape[0], n_closed
