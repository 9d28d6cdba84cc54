"""What one Kafka partition knows of its market; the pages it rests in: out for a barrier, in after a start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from models.errors import CorruptPage
from models.market import facets, pages, row_page
from models.market.book import BookPool, Consumer
from models.market.conflate import PAGE_SLOTS, Rows
from models.market.instruments import Instrument
from models.market.pages import Record, SourcePosition
from models.market.slots import SlotTable
from models.windows import page as window_page
from models.windows.tumbling import Windows
from models.windows.window import INTERVALS

FORGET_SOURCE_MS = 7 * 86_400_000  # rule 2: a source silent for 7 days leaves the table
_BARS = range(facets.FIRST_BAR, facets.FIRST_BAR + len(INTERVALS))


class PartitionState:
    """State of one partition of `md.frames.v1`.

    Attributes:
        applied: version of the newest frame applied, -1 = none.
        held: frames at or below this version are dropped, because the control page already counts them (rule 3).
    """

    def __init__(self) -> None:
        self.slots = SlotTable()
        self.rows = Rows()
        self.books = BookPool()
        self.windows = Windows()
        self.sources: dict[int, SourcePosition] = {}
        self.applied = self.held = -1
        self._saved_slots = 0

    def add(self, instruments: Iterable[Instrument]) -> None:
        """Give instruments slots."""
        for instrument in instruments:
            self.slots.add(instrument)
        self.rows.ensure(len(self.slots))
        self.books.ensure(len(self.slots))
        self.windows.ensure(len(self.slots))

    def flush(self) -> tuple[list[list[Record]], dict[int, SourcePosition]]:
        """Pages changed since the last call, in the order in which they must be sent, and the positions they hold.

        One synchronous step: pages and positions fit each other. The caller makes them durable or stops.
        """
        groups = [*self._flush_slots(), *self._flush_rows(), *self._flush_books()]
        newest = max((s.heard_ms for s in self.sources.values()), default=0)
        self.sources = {k: s for k, s in self.sources.items() if s.heard_ms > newest - FORGET_SOURCE_MS}
        return groups, dict(self.sources)

    def _flush_slots(self) -> list[list[Record]]:
        groups: list[list[Record]] = []
        if self._saved_slots < len(self.slots):
            for page in range(self._saved_slots // PAGE_SLOTS, -(-len(self.slots) // PAGE_SLOTS)):
                named = self.slots.instruments[page * PAGE_SLOTS : (page + 1) * PAGE_SLOTS]
                groups.append([(pages.slots_key(page), pages.encode_slots(named))])
            self._saved_slots = len(self.slots)
        return groups

    def _flush_rows(self) -> list[list[Record]]:
        """Changed pages of rows and of windows.

        A bar's page goes with that of its windows, or windows that a crash left ahead would not close again into a bar
        that it left behind.
        """
        windows, rows = self.windows, self.rows
        for part in (windows, rows):
            # A page that a crash left ahead of the control page stays ahead while the frames between are seen again.
            part.page_version[part.dirty] = np.maximum(part.page_version[part.dirty], self.applied)
        numbers = np.flatnonzero(windows.dirty)
        of_windows = window_page.encode_pages(
            windows.ends, windows.values, windows.sums, numbers, windows.page_version[windows.dirty]
        )
        with_windows: dict[int, list[Record]] = {
            page: [(pages.windows_key(page), body)] for page, body in zip(numbers.tolist(), of_windows, strict=True)
        }
        groups = list(with_windows.values())
        planes, numbers = np.nonzero(rows.dirty)
        bodies = row_page.encode_pages(rows.rows, planes, numbers, rows.page_version[rows.dirty])
        for plane, page, body in zip(planes.tolist(), numbers.tolist(), bodies, strict=True):
            facet = rows.facet_of[plane]
            record = (pages.rows_key(facet, page), body)
            if facet in _BARS and page in with_windows:
                with_windows[page].append(record)
            else:
                groups.append([record])
        windows.dirty[:] = False
        rows.dirty[:] = False
        return groups

    def _flush_books(self) -> list[list[Record]]:
        groups: list[list[Record]] = []
        changes = self.books.dirty(Consumer.BARRIER)
        for change in changes:
            group: list[Record] = [(pages.book_key(pages.BOOK, change.slot), self.books.header_bytes(change.slot))]
            group += [(pages.chunk_key(change.slot, c), self.books.chunk_bytes(c)) for c in change.chunks]
            group += [(pages.chunk_key(change.slot, c), None) for c in change.dropped]
            if change.pending:
                group.append(
                    (pages.book_key(pages.PENDING, change.slot), self.books.pending_bytes(change.slot) or None)
                )
            groups.append(group)
        self.books.mark_clean([change.slot for change in changes], Consumer.BARRIER)
        return groups

    def rewrite_pages(self) -> None:
        """Everything is to be flushed again."""
        self._saved_slots = 0
        self.rows.dirty[:] = True
        self.windows.dirty[:] = True
        self.books.mark_dirty(Consumer.BARRIER)

    def load(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Restore from the pages of a fresh partition (bodies without token, keys rising); other keys are passed over.

        Raises:
            CorruptPage: a page is damaged or one that another page speaks of is missing.
        """
        rows: list[tuple[bytes, bytes]] = []
        headers: dict[int, bytes] = {}
        pending: dict[int, bytes] = {}
        chunks: dict[int, dict[int, bytes]] = defaultdict(dict)
        for key, body in records:
            match key[:1]:
                case pages.SLOTS:
                    if pages.numbers(key)[0] * PAGE_SLOTS != len(self.slots):
                        raise CorruptPage(f"slot page {pages.numbers(key)[0]} follows {len(self.slots)} slots")
                    self.add(pages.decode_slots(body))
                case pages.ROWS:
                    rows.append((key, body))
                case pages.WINDOWS:
                    self.windows.load(pages.numbers(key)[0], *window_page.decode_page(body))
                case pages.BOOK:
                    headers[pages.numbers(key)[0]] = body
                case pages.CHUNK:
                    slot, chunk = pages.numbers(key)
                    chunks[slot][chunk] = body
                case pages.PENDING:
                    pending[pages.numbers(key)[0]] = body
        self._saved_slots = len(self.slots)
        for key, body in rows:
            facet, page = pages.numbers(key)
            self.rows.ensure((page + 1) * PAGE_SLOTS, 1 << facet)
            plane = self.rows.plane_of[facet]
            version, values = row_page.decode_rows(body)
            self.rows.page_version[plane, page] = version
            self.rows.rows[plane, page * PAGE_SLOTS : (page + 1) * PAGE_SLOTS] = values
        for slot, header in headers.items():
            self.books.load(slot, header, chunks[slot], pending.get(slot, b""))
