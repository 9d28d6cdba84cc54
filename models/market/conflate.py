"""Conflation: frames of ticks folded into one row an instrument and facet, by one compiled loop a frame.

A loop over rows instead of array operations: about 100 NumPy calls of fixed cost made small frames 40 times dearer.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from models.market import facets
from models.market.facets import BAR_INTERVALS_S, N_COLUMNS, N_ROW_FACETS
from models.market.prefetch import AHEAD, CACHED_BYTES, prefetch
from models.market.tick import Action, Kind, Side

PAGE_SLOTS = 64  # slots of one facet that rest in one page
NOTHING = -1  # version of a page that holds nothing yet
OWN_BAR = 0  # ts_recv of a bar made of trades: nobody sent it

_INTERVALS = np.array(list(BAR_INTERVALS_S.values()), np.int64)
_VERSION, _EVENT, _RECV, _N, _V0 = facets.VERSION, facets.TS_EVENT, facets.TS_RECV, facets.N_ROWS, facets.V0
_TRADE, _QUOTE, _FUNDING, _INTEREST = facets.TRADE, facets.QUOTE, facets.FUNDING, facets.OPEN_INTEREST
_LIQUIDATION, _VOLATILITY, _LSR_TOP, _LSR_ALL = facets.LIQUIDATION, facets.VOLATILITY, facets.LSR_TOP, facets.LSR_ALL
_FIRST_BAR, _BOOK = facets.FIRST_BAR, facets.BOOK
_K_TRADE, _K_QUOTE, _K_BOOK, _K_FUNDING = int(Kind.TRADE), int(Kind.QUOTE), int(Kind.BOOK), int(Kind.FUNDING)
_K_INTEREST, _K_LIQUIDATION, _K_VOLATILITY = int(Kind.OPEN_INTEREST), int(Kind.LIQUIDATION), int(Kind.VOLATILITY)
_K_LONG_SHORT, _K_BAR = int(Kind.LONG_SHORT), int(Kind.BAR)
_DELETE, _TOP, _BID = int(Action.DELETE), 1, int(Side.BID)


class Rows:
    """Last values of one partition: a plane of rows for each facet that occurs, pages of 64 slots.

    `rows[plane, slot, column]` int64, columns as in `models.market.facets`; a row whose column N_ROWS is 0 is absent.
    """

    def __init__(self) -> None:
        self.capacity = PAGE_SLOTS
        self.plane_of = np.full(N_ROW_FACETS, -1, np.int8)
        self.facet_of: list[int] = []
        self.rows = np.zeros((0, self.capacity, N_COLUMNS), np.int64)
        # By plane and page: source version as of which it was loaded or flushed; whether it changed since.
        self.page_version = np.zeros((0, 1), np.int64)
        self.dirty = np.zeros((0, 1), np.bool_)
        self.mask = np.zeros(self.capacity, np.uint64)  # facets touched in this round, bit = facet number
        self.touched = np.zeros(self.capacity, np.int32)
        self.n_touched = 0

    def ensure(self, n_slots: int, facet_bits: int = 0) -> None:
        """Make room for slots below `n_slots` and for the facets whose bits are set."""
        while self.capacity < n_slots:
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)], axis=1)
            self.page_version = np.concatenate([self.page_version, np.full_like(self.page_version, NOTHING)], axis=1)
            self.dirty = np.concatenate([self.dirty, np.zeros_like(self.dirty)], axis=1)
            self.mask = np.concatenate([self.mask, np.zeros_like(self.mask)])
            self.touched = np.concatenate([self.touched, np.zeros_like(self.touched)])
            self.capacity *= 2
        for facet in range(N_ROW_FACETS):
            if facet_bits >> facet & 1 and self.plane_of[facet] < 0:
                pages = self.capacity // PAGE_SLOTS
                self.plane_of[facet] = len(self.facet_of)
                self.facet_of.append(facet)
                self.rows = np.concatenate([self.rows, np.zeros((1, self.capacity, N_COLUMNS), np.int64)])
                self.page_version = np.concatenate([self.page_version, np.full((1, pages), NOTHING, np.int64)])
                self.dirty = np.concatenate([self.dirty, np.zeros((1, pages), np.bool_)])

    def apply(
        self, words: NDArray[np.int64], slot_of: NDArray[np.int32], *, version: int, after: int, books: BookRows
    ) -> int:
        """Fold one decoded frame, its ticks seen as int64, shape (n, 8).

        `slot_of` maps the frame's instruments to slots, -1 = skip. Rows at or below position `after` are dropped, and
        those that their page already holds. Rows of books are copied to `books`. Returns how many rows counted.
        """
        books.reserve(len(words))
        at = counted = 0
        while at < len(words):
            at, facet, self.n_touched, books.n, more = _apply(
                words, at, slot_of, version, np.uint64(after), self.rows, self.plane_of, self.page_version, self.dirty,
                self.mask, self.touched, self.n_touched, books.words, books.slots, books.versions, books.n,
            )  # fmt: skip
            counted += more
            if at < len(words):  # the first row of this facet
                self.ensure(self.capacity, 1 << facet)
        return counted

    def put_bars(self, closed: NDArray[np.int64], version: int) -> None:
        """Windows that closed, shape (n, 9), columns as `models.windows.window.CLOSED`, become the rows of their bars.

        A venue's own bars of that length stand instead where it sends any.
        """
        if len(closed):
            self.ensure(self.capacity, 0b111 << _FIRST_BAR)
            planes = self.plane_of[_FIRST_BAR : _FIRST_BAR + 3]
            self.n_touched = _put_bars(
                closed, version, self.rows, planes, self.page_version, self.dirty, self.mask, self.touched,
                self.n_touched,
            )  # fmt: skip

    def touch(self, slot: int, facet: int) -> None:
        """Name a facet of a slot as changed in this round."""
        if not self.mask[slot]:
            self.touched[self.n_touched] = slot
            self.n_touched += 1
        self.mask[slot] |= np.uint64(1 << facet)

    def clear_slot(self, slot: int, version: int) -> None:
        """Forget an instrument's rows as of a version; they become absent and dirty, but for pages that are as new."""
        page = slot // PAGE_SLOTS
        for plane, facet in enumerate(self.facet_of):
            if self.rows[plane, slot, _N] and self.page_version[plane, page] < version:
                self.rows[plane, slot] = 0
                self.dirty[plane, page] = True
                self.touch(slot, facet)

    def take_touched(self) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Slots touched in this round and their facet bits; the round's marks are cleared."""
        slots, bits = _take_touched(self.touched, self.n_touched, self.mask)
        self.n_touched = 0
        return slots, bits


class BookRows:
    """The book rows of one round, in log order, with the slot and the version of each."""

    def __init__(self) -> None:
        self.n = 0
        self.words = np.zeros((4096, 8), np.int64)
        self.slots = np.zeros(4096, np.int32)
        self.versions = np.zeros(4096, np.int64)

    def reserve(self, more: int) -> None:
        while len(self.slots) < self.n + more:
            self.words = np.concatenate([self.words, np.zeros_like(self.words)])
            self.slots = np.concatenate([self.slots, np.zeros_like(self.slots)])
            self.versions = np.concatenate([self.versions, np.zeros_like(self.versions)])


@numba.njit(cache=True, nogil=True)
def _facet(kind, action, ref_id):  # type: ignore[no-untyped-def]
    if kind == _K_TRADE:
        return _TRADE
    if kind == _K_QUOTE:
        return _QUOTE
    if kind == _K_FUNDING:
        return _FUNDING
    if kind == _K_INTEREST:
        return _INTEREST
    if kind == _K_LIQUIDATION:
        return _LIQUIDATION
    if kind == _K_VOLATILITY:
        return _VOLATILITY
    if kind == _K_LONG_SHORT:
        return _LSR_TOP if action == _TOP else _LSR_ALL
    if kind == _K_BAR:
        for i in range(_INTERVALS.shape[0]):
            if _INTERVALS[i] == ref_id:
                return _FIRST_BAR + i
    return -1


@numba.njit(cache=True, nogil=True)
def _apply(  # type: ignore[no-untyped-def]
    words, start, slot_of, version, after, rows, plane_of, page_version, dirty, mask, touched, n_touched,
    book_words, book_slots, book_versions, n_book,
):  # fmt: skip
    """Rows from `start` on; stops before a row whose facet has no plane yet and says which row and facet.

    It makes no view of a row: numba counts references to each, which was half of what a tick of few instruments cost.
    """
    counted = 0
    n_ahead = words.shape[0] - AHEAD if rows.nbytes > CACHED_BYTES else np.int64(0)
    for i in range(start, words.shape[0]):
        if i < n_ahead:
            instrument, shape = np.int32(words[i + AHEAD, 7] & 0xFFFFFFFF), words[i + AHEAD, 7] >> 32
            facet = _facet(shape & 255, (shape >> 8) & 255, words[i + AHEAD, 6])
            if instrument >= 0 and facet >= 0:
                prefetch(rows, (plane_of[facet], slot_of[instrument]))
        instrument = np.int32(words[i, 7] & 0xFFFFFFFF)
        if instrument < 0 or np.uint64(words[i, 2]) <= after:
            continue
        slot = slot_of[instrument]
        if slot < 0:
            continue
        shape = words[i, 7] >> 32
        kind, action, side = shape & 255, (shape >> 8) & 255, (shape >> 16) & 255
        facet = _BOOK if kind == _K_BOOK else _facet(kind, action, words[i, 6])
        if facet >= 0 and facet != _BOOK and plane_of[facet] < 0:
            return i, facet, n_touched, n_book, counted
        counted += 1
        if facet == _BOOK:
            for c in range(8):
                book_words[n_book, c] = words[i, c]
            book_slots[n_book] = slot
            book_versions[n_book] = version
            n_book += 1
        else:
            if facet < 0:
                continue
            plane, page = plane_of[facet], slot // PAGE_SLOTS
            if version <= page_version[plane, page]:
                continue
            dirty[plane, page] = True
            if facet >= _FIRST_BAR and rows[plane, slot, _RECV] == OWN_BAR:
                rows[plane, slot, _N] = 0  # the venue's own bars stand, and count, alone
            rows[plane, slot, _VERSION] = version
            rows[plane, slot, _EVENT] = words[i, 0]
            rows[plane, slot, _RECV] = words[i, 1]
            rows[plane, slot, _N] += 1
            price, size, ref_id = words[i, 4], words[i, 5], words[i, 6]
            if facet in (_TRADE, _LIQUIDATION):
                rows[plane, slot, _V0], rows[plane, slot, _V0 + 1] = price, size
                rows[plane, slot, _V0 + 2], rows[plane, slot, _V0 + 3] = side, ref_id
            elif facet == _QUOTE:
                if action == _DELETE:
                    price, size = 0, 0
                at = _V0 if side == _BID else _V0 + 2
                rows[plane, slot, at], rows[plane, slot, at + 1] = price, size
                rows[plane, slot, _V0 + 4] = words[i, 3]
            elif facet == _INTEREST:
                if side == 0:
                    rows[plane, slot, _V0] = size
                else:
                    rows[plane, slot, _V0 + 1] = price
            elif facet == _VOLATILITY:
                rows[plane, slot, _V0] = price
            elif facet >= _FIRST_BAR:
                rows[plane, slot, _V0 + min(side, 3)] = price
                if side == 3:
                    rows[plane, slot, _V0 + 4], rows[plane, slot, _V0 + 5] = size, words[i, 3]
            else:  # funding and long/short ratios: three numbers in `price`, the first row's ref_id beside them
                rows[plane, slot, _V0 + min(side, 2)] = price
                if side == 0:
                    rows[plane, slot, _V0 + 3] = ref_id
        if mask[slot] == 0:
            touched[n_touched] = slot
            n_touched += 1
        mask[slot] |= np.uint64(1) << np.uint64(facet)
    return words.shape[0], 0, n_touched, n_book, counted


@numba.njit(cache=True, nogil=True)
def _put_bars(closed, version, rows, planes, page_version, dirty, mask, touched, n_touched):  # type: ignore[no-untyped-def]
    n_ahead = closed.shape[0] - AHEAD if rows.nbytes > CACHED_BYTES else np.int64(0)
    for i in range(closed.shape[0]):
        if i < n_ahead:
            prefetch(rows, (planes[closed[i + AHEAD, 1]], closed[i + AHEAD, 0]))
        slot, interval, number = closed[i, 0], closed[i, 1], closed[i, 2]
        plane, page = planes[interval], slot // PAGE_SLOTS
        if version <= page_version[plane, page] or (rows[plane, slot, _N] and rows[plane, slot, _RECV] != OWN_BAR):
            continue
        length_ns = _INTERVALS[interval] * 1_000_000_000
        dirty[plane, page] = True
        rows[plane, slot, _VERSION] = version
        rows[plane, slot, _EVENT] = (number + 1) * length_ns
        rows[plane, slot, _RECV] = OWN_BAR
        rows[plane, slot, _N] += 1
        for f in range(5):
            rows[plane, slot, _V0 + f] = closed[i, 3 + f]
        rows[plane, slot, _V0 + 5] = number * length_ns
        if mask[slot] == 0:
            touched[n_touched] = slot
            n_touched += 1
        mask[slot] |= np.uint64(1) << np.uint64(_FIRST_BAR + interval)
    return n_touched


@numba.njit(cache=True, nogil=True)
def _take_touched(touched, n, mask):  # type: ignore[no-untyped-def]
    slots, bits = np.empty(n, np.int32), np.empty(n, np.uint64)
    for i in range(n):
        slots[i], bits[i] = touched[i], mask[touched[i]]
        mask[touched[i]] = 0
    return slots, bits
