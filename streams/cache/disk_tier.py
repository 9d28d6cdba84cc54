"""A disk of the reader's own as a tier: bounded, outlives the process, and never believed beyond what is proven.

An entry is written with the version as of which it was right, and admitted like any other answer. What a restart would
lose is the knowledge which keys were named meanwhile. So a sweep drops every few seconds what is not admitted any more
and then writes a mark: whatever is in the store was right as of it. With the mark go the offsets of the invalidations
up to there; the next process goes on hearing from them, and believes what it finds once it has caught up.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import rocksdict

from models.cache.coherence import PartitionView
from models.cache.kept import decode_kept
from models.cache.keys import Location
from models.cache.version import NOTHING
from models.errors import MarketPrismError, ServiceUnavailable
from streams import metrics
from streams.cache.disk_index import DiskIndex, Place
from streams.cache.disk_store import (
    META,
    Group,
    Meta,
    encode_meta,
    entry_key,
    foreign,
    open_store,
    pack_held,
    read_meta,
    split_key,
    try_put,
    unpack_held,
)
from streams.cache.held import Held
from streams.cache.tier import Answer, Asked
from streams.clock import Clock, now_ns
from streams.kafka.disk import close, scan
from streams.log import event
from streams.settings import Settings

log = logging.getLogger(__name__)

Offsets = Mapping[int, int]

_SWEEP_S = 5.0
_CHUNK = 1000  # entries between two turns of the loop, about 2 ms
_ENTRY_BYTES = 64  # RocksDB's own share of an entry: sequence number, lengths, index, filter
_RESUME_S = 300.0  # older offsets are not gone back to: catching up would take longer than reading anew
_MS, _S = 1_000_000, 1_000_000_000


class DiskTier:
    """Own tier in a RocksDB at `reader.disk_dir`, which one process has at a time.

    Args:
        settings: folder, bound, prefix, number of partitions.
        views: what the reader knows of each partition.
        positions: next invalidation to hear, by partition; empty = not known.
        clock: UTC ns.

    Attributes:
        max_bytes: bound of the files on disk, and of what all entries take.
        unreadable: entries dropped because their bytes were none.
        refused: entries that were not kept because the disk was too slow.
    """

    name = "disk"

    def __init__(
        self,
        settings: Settings,
        views: Mapping[Group, PartitionView],
        *,
        positions: Callable[[], Offsets] = dict,
        clock: Clock = now_ns,
    ) -> None:
        self._folder = Path(settings.reader.disk_dir) / (settings.topics.prefix.rstrip(".") or "live")
        self._n_partitions = settings.kafka.partitions
        self._views, self._positions, self._clock = views, positions, clock
        self.max_bytes = settings.reader.disk_bytes
        self.unreadable = self.refused = 0
        self._index = DiskIndex(self.max_bytes, self._left)
        self._skew_ns = int(settings.clock.max_skew_ms * _MS)
        self._believed_ns = 0  # what was found is believed once all is heard that happened before this
        self._meta: Meta | None = None
        self._db: rocksdict.Rdict | None = None
        self._failure: MarketPrismError = ServiceUnavailable(f"the disk tier in {self._folder} is not open")
        self._sweeping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"DiskTier({len(self)} entries, {self.bytes}/{self.max_bytes} bytes)"

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        """What all entries take; the files also hold some that were overwritten or deleted."""
        return self._index.bytes

    def resume_at(self) -> Offsets | None:
        """See `OwnTier.resume_at`."""
        meta = self._meta
        if meta is None or not len(self._index) or self._clock() - meta.saved_ns > _RESUME_S * _S:
            return None
        return meta.offsets or None

    async def open(self) -> None:
        await self._open()
        self._sweeping = asyncio.create_task(self._sweep_always(), name="disk tier")

    async def read(self, at: Location, view: PartitionView) -> Held | None:
        """See `Tier.read`. Raises: ServiceUnavailable when the disk cannot be used."""
        if self._db is None:
            raise self._failure
        text = at.key.text
        place = self._index.find(text)
        if place is None or not view.synced or (place.restored and view.watermark_ns < self._believed_ns):
            return None
        if place.is_over(self._clock() // _MS):
            self.drop(text)
            return None
        try:
            data = self._db.get(entry_key(place.group, text))
        except Exception as exc:
            raise self._fail(exc) from exc
        if data is None:  # its file was the oldest
            self.drop(text)
            return None
        if (kept := decode_kept(data)) is None:
            self.unreadable += 1
            metrics.UNREADABLE.labels("disk_entry").inc()
            self.drop(text)
            return None
        self._index.touch(text)
        return unpack_held(at, view, place.as_of, kept)

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """See `Tier.read_many`."""
        return [await self.read(at, view) for at, view in asked]

    async def probe(self) -> None:
        """A look at the marks, or opening it again. Raises: ServiceUnavailable."""
        if self._db is None:
            await self._open()
        if self._db is None:
            raise self._failure
        try:
            self._db.get(META)
        except Exception as exc:
            raise self._fail(exc) from exc

    def keep(self, held: Held) -> None:
        """See `OwnTier.keep`."""
        at, text = held.at, held.at.key.text
        group = at.key.space, at.partition
        if self._db is None or not self._index.takes(text, group, held.as_of):
            return
        key, value = entry_key(group, text), pack_held(held)
        n_bytes = len(key) + len(value) + _ENTRY_BYTES
        if n_bytes > self.max_bytes:
            self.drop(text)
            return
        try:
            if not try_put(self._db, key, value):  # the older entry stays, and what is known of it
                self.refused += 1
                return
        except Exception as exc:
            self._fail(exc)
            return
        place = Place(group, at.floor, held.as_of, held.expires_at_ms, restored=False)
        self._index.put(text, place, n_bytes)

    def drop(self, text: str) -> None:
        """See `OwnTier.drop`."""
        self._index.drop(text)

    async def close(self) -> None:
        """Sweep once more, so that the next process may believe what is there, and close the store."""
        task, self._sweeping = self._sweeping, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._db is not None:
            await self.sweep()
        self._close()

    async def sweep(self) -> None:
        """Drop what is expired or not admitted any more, then write down as of when the rest was right."""
        marks = {group: view.position for group, view in self._views.items() if view.synced}
        offsets = dict(self._positions())
        now_ms = self._clock() // _MS
        for n, (text, is_worthless) in enumerate(self._index.worthless(self._views, now_ms)):
            if is_worthless:
                self.drop(text)
            if n % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
        self._index.marks |= marks
        self._write_meta(offsets)

    def _write_meta(self, offsets: Offsets) -> None:
        if self._db is None:
            return
        try:
            self._db.put(META, encode_meta(self._n_partitions, self._clock(), self._index.marks, offsets))
        except Exception as exc:
            self._fail(exc)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self.sweep()

    async def _open(self) -> None:
        """Open the store and find what is in it; a damaged one is emptied, one that cannot be had is a failure."""
        for attempt in range(2):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._db = open_store(self._folder, self.max_bytes)
                await self._restore(self._db)
            except MarketPrismError as exc:
                detail: Exception = exc
            except Exception as exc:
                detail = foreign(exc)
            else:
                self._believed_ns = self._clock() + self._skew_ns
                return
            self._close()
            self._failure = ServiceUnavailable(f"the disk tier in {self._folder} cannot be opened: {detail}")
            if attempt or "lock" in str(detail).lower():
                event(log, "disk_tier_refused", level=logging.WARNING, detail=str(detail))
                return
            event(log, "disk_tier_emptied", level=logging.WARNING, folder=str(self._folder), reason=str(detail))
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _restore(self, db: rocksdict.Rdict) -> None:
        self._index.clear()
        self._meta = meta = read_meta(db.get(META))
        if meta is None or meta.n_partitions != self._n_partitions:
            for key, _ in scan(db):
                db.delete(key)
            self._meta = None
            self._write_meta({})
            return
        self._index.marks = meta.by_group()
        gone = []
        for n, (key, value) in enumerate(scan(db)):
            if key == META:
                continue
            group, text = split_key(key)
            kept = decode_kept(value)
            if kept is None or group not in self._views:
                gone.append(key)
                continue
            if text in self._index:  # kept since this began
                continue
            as_of = max(kept.as_of, self._index.marks.get(group, NOTHING))
            place = Place(group, kept.floor or text, as_of, kept.expires_at_ms, restored=True)
            self._index.put(text, place, len(key) + len(value) + _ENTRY_BYTES)
            if n % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
        for key in gone:
            db.delete(key)

    def _left(self, text: str, place: Place) -> None:
        if self._db is None:
            return
        try:
            self._db.delete(entry_key(place.group, text))
        except Exception as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> MarketPrismError:
        """The disk refused something: nothing is read or kept until a probe has opened it again."""
        detail = exc if isinstance(exc, MarketPrismError) else foreign(exc)
        event(log, "disk_tier_failed", level=logging.WARNING, detail=str(detail))
        self._failure = ServiceUnavailable(f"the disk tier in {self._folder} failed: {detail}")
        self._close()
        return self._failure

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            close(db)
