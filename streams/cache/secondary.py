"""One partition of a live worker's RocksDB, read by another process of its machine.

A secondary instance moves only when it is told to, so all that is read between two calls of `catch_up` is one state. It
is whole as of the versions in its control page, which the worker writes after all pages of a barrier; single pages may
be newer.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import rocksdict

from models.cache.mark import ABSENT, Mark
from models.errors import CorruptPage, CorruptStore
from models.market import pages
from models.market.book_page import decode_header, encode_wire_header
from models.market.conflate import PAGE_SLOTS
from models.market.facets import N_COLUMNS
from models.market.row_page import decode_rows
from streams.kafka.disk import REWRITE, UNFINISHED, close, store_errors

_TOKEN_BYTES = 8
_ROW_BYTES = 8 * N_COLUMNS
_EXPONENTS = struct.Struct("<2b")
_MAX_PAGES = 1024  # kept between two calls of `catch_up`, 5 kB each
_READ_CACHE_BYTES = 8 << 20


class Slot(NamedTuple):
    """Where an instrument's rows lie.

    Attributes:
        exponents: of prices and sizes, one signed byte each.
    """

    number: int
    exponents: bytes


class Secondary:
    """A partition's store as of the last `catch_up`.

    Args:
        path: the worker's folder of the partition.
        own_files: an existing folder for RocksDB's own log.

    Attributes:
        frames, writes: the mark of either space; `ABSENT` while the store is not whole, or empty.
        empty: no barrier has written anything yet.
        floors: of tags, namespaces and flush, complete as of `writes`.

    Raises:
        CorruptStore: it cannot be opened or read; any call.
    """

    def __init__(self, path: Path, own_files: Path) -> None:
        self.path = path
        self.frames = self.writes = ABSENT
        self.empty = False
        self.floors: dict[str, int] = {}
        self._slots: dict[int, Slot] = {}  # by the instrument's hash
        self._slots_are_new = False
        self._pages: dict[tuple[int, int], bytes | None] = {}  # the rows of a page, by facet and number
        self._folder = os.stat(path).st_ino
        self._seen: object = None
        options = rocksdict.Options(raw_mode=True)
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(rocksdict.Cache(_READ_CACHE_BYTES))
        options.set_block_based_table_factory(table)
        with store_errors(path):
            self._db = rocksdict.Rdict(str(path), options, access_type=rocksdict.AccessType.secondary(str(own_files)))

    def moved(self) -> bool:
        """Whether another folder, or none, lies at the path now: the worker set this one aside."""
        try:
            return os.stat(self.path).st_ino != self._folder
        except FileNotFoundError:
            return True

    def catch_up(self) -> bool:
        """Read what the worker has written since; whether there was anything. Milliseconds, with the GIL held."""
        seen = _sizes(self.path)
        if seen == self._seen:
            return False
        with store_errors(self.path):
            self._db.try_catch_up_with_primary()
        self._seen = seen  # as of before: what came meanwhile is looked for again
        self._pages.clear()
        self._slots_are_new = True
        whole = self._db.get(REWRITE) is None and self._db.get(UNFINISHED) is None
        data = self._db.get(pages.CONTROL) if whole else None
        self.empty = whole and data is None
        if data is None:
            self.frames = self.writes = ABSENT
            return True
        control = pages.decode_control(pages.split_token(data)[1])
        self.floors = control.floors
        self.frames = Mark(version=control.frames_version)
        self.writes = Mark(version=control.writes_version, floors=max(control.floors.values(), default=0))
        return True

    def slot(self, instrument: int) -> Slot | None:
        """The slot of an instrument's hash, None if the store does not know it."""
        found = self._slots.get(instrument)
        if found is None and self._slots_are_new:
            self._read_slots()
            found = self._slots.get(instrument)
        return found

    def row(self, facet: int, slot: Slot) -> tuple[int, bytes] | None:
        """Version of a row and what follows it in Redis, 72 bytes; None if there is none."""
        page_number, in_page = divmod(slot.number, PAGE_SLOTS)
        try:
            page = self._pages[facet, page_number]
        except KeyError:
            page = self._read_page(facet, page_number)
        if page is None:
            return None
        row = page[in_page * _ROW_BYTES : (in_page + 1) * _ROW_BYTES]
        if row[24:32] == b"\0\0\0\0\0\0\0\0":  # rows that were applied
            return None
        body = b"%b%b%b%c\0\0\0\0\0" % (row[8:24], row[32:], slot.exponents, facet)
        return int.from_bytes(row[:8], "little", signed=True), body

    def entry(self, text: str) -> bytes | None:
        """A generic entry as Redis holds it: version and msgpack."""
        value: bytes | None = self._db.get(pages.ENTRY + text.encode())
        return None if value is None else value[_TOKEN_BYTES:]

    def book(self, slot: Slot) -> dict[bytes, bytes]:
        """A book as the fields of its hash in Redis; empty if there is none."""
        page = self._db.get(pages.book_key(pages.BOOK, slot.number))
        if page is None:
            return {}
        header = decode_header(page[_TOKEN_BYTES:])
        if not header.n_rows:
            return {}
        price_exp, size_exp = _EXPONENTS.unpack(slot.exponents)
        fields = {b"h": encode_wire_header(header, price_exp=price_exp, size_exp=size_exp)}
        for chunk in (*header.bids.tolist(), *header.asks.tolist()):
            if (levels := self._db.get(pages.chunk_key(slot.number, chunk))) is not None:
                fields[chunk.to_bytes(4, "little")] = levels[_TOKEN_BYTES:]
        return fields

    def close(self) -> None:
        close(self._db)

    def _read_page(self, facet: int, number: int) -> bytes | None:
        data = self._db.get(pages.rows_key(facet, number))
        page = None
        if data is not None:
            try:
                page = decode_rows(pages.split_token(data)[1])[1].astype("<i8", copy=False).tobytes()
            except CorruptPage as exc:
                raise CorruptStore(f"{self.path}: page {number} of facet {facet}: {exc}") from exc
        if len(self._pages) >= _MAX_PAGES:
            self._pages.clear()
        self._pages[facet, number] = page
        return page

    def _read_slots(self) -> None:
        """The pages of slots from the last known one on; slots are only added."""
        self._slots_are_new = False
        page = len(self._slots) // PAGE_SLOTS
        while (data := self._db.get(pages.slots_key(page))) is not None:
            for n, instrument in enumerate(pages.decode_slots(pages.split_token(data)[1])):
                exponents = _EXPONENTS.pack(instrument.price_exp, instrument.size_exp)
                self._slots[instrument.hash] = Slot(page * PAGE_SLOTS + n, exponents)
            page += 1


def _sizes(path: Path) -> tuple[tuple[str, int], ...]:
    """Names and sizes of the files that grow when a store is written."""
    with os.scandir(path) as files:
        return tuple(
            sorted(
                (file.name, file.stat().st_size)
                for file in files
                if file.name.endswith(".log") or file.name.startswith("MANIFEST")
            )
        )
