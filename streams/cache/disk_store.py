"""How a reader's own disk holds entries: keys, bytes, and the one record that says what may be believed of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import rocksdict

from models.cache.coherence import PartitionView
from models.cache.kept import FORM, Kept, book_value, encode_kept, kept_book
from models.cache.keys import Location, Space, facet_floor
from models.cache.version import NOTHING
from models.cache.write import encode_value
from models.market.facets import BOOK
from streams.cache.held import Held

Group = tuple[Space, int]

META = b"\0meta"
META_FORM = 1
_N_FILES = 64  # tables: a read may look into the filter of each
_MAX_BUFFER_BYTES = 64 << 20

_WITHOUT_WAITING = rocksdict.WriteOptions()
_WITHOUT_WAITING.no_slowdown = True


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """Attributes:
    form: `META_FORM`.
    n_partitions: keys lie in others if there is another number.
    saved_ns: UTC ns.
    marks: as of which version everything in the store was right, by `<space>/<partition>`.
    offsets: next invalidation after what the marks stand for, by partition.
    """

    form: int
    n_partitions: int
    saved_ns: int
    marks: dict[str, int]
    offsets: dict[int, int]

    def by_group(self) -> dict[Group, int]:
        """The marks."""
        found = {}
        for name, mark in self.marks.items():
            space, _, partition = name.partition("/")
            found[Space(space), int(partition)] = mark
        return found


def open_store(folder: Path, max_bytes: int) -> rocksdict.Rdict:
    """A store whose files never take more than `max_bytes`, but for some 200 KiB of RocksDB's own notes.

    Files leave oldest first, whole (FIFO compaction): nothing is rewritten, so nothing ever lies there twice for a
    while. What was overwritten or deleted goes with its file, and so does what nobody wrote again for a whole round.
    """
    buffer_bytes = min(max(max_bytes // _N_FILES, 1 << 16), _MAX_BUFFER_BYTES)
    fifo = rocksdict.FifoCompactOptions()
    # Besides the tables: a log for each of three buffers, a table that is being made, and what is not yet deleted.
    fifo.max_table_files_size = max(max_bytes - 7 * buffer_bytes, buffer_bytes)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compaction_style(rocksdict.DBCompactionStyle.fifo())
    options.set_fifo_compaction_options(fifo)
    options.set_write_buffer_size(buffer_bytes)
    options.set_max_total_wal_size(buffer_bytes)
    options.set_max_write_buffer_number(3)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(1 << 16)
    options.set_max_manifest_file_size(1 << 16)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(8 << 20))
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return rocksdict.Rdict(str(folder), options)


def try_put(db: rocksdict.Rdict, key: bytes, value: bytes) -> bool:
    """Write, unless the disk is behind: an entry that is not kept costs less than a loop that stands still."""
    try:
        db.put(key, value, write_opt=_WITHOUT_WAITING)
    except Exception as exc:
        if "Write stall" in str(exc):
            return False
        raise
    return True


def entry_key(group: Group, text: str) -> bytes:
    return f"{group[0].value}/{group[1]}/{text}".encode()


def split_key(key: bytes) -> tuple[Group, str]:
    try:
        space, partition, text = key.decode().split("/", 2)
        return (Space(space), int(partition)), text
    except ValueError:  # nobody's key
        return (Space.GENERIC, -1), ""


def pack_held(held: Held) -> bytes:
    key = held.at.key
    generic = key.space is Space.GENERIC
    packed = held.packed
    if generic and held.version != NOTHING and not packed:
        packed = encode_value(held.value)  # memory holds what is immutable decoded
    book = kept_book(held.value) if key.facet == BOOK else None
    floor = 0 if generic else facet_floor(key.subject, key.facet)
    kept = Kept(
        FORM, floor, held.as_of, held.version, held.watermark_ns, held.expires_at_ms, held.tags, packed,
        held.row, book,
    )  # fmt: skip
    return encode_kept(kept)


def unpack_held(at: Location, view: PartitionView, as_of: int, kept: Kept) -> Held:
    """Args:
    as_of: what is known today; the entry itself may know less.
    """
    return Held(
        at,
        view,
        kept.version,
        as_of,
        kept.watermark_ns,
        value=book_value(kept.book),
        packed=kept.packed,
        expires_at_ms=kept.expires_at_ms,
        tags=kept.tags,
        row=kept.row,
    )


def encode_meta(n_partitions: int, saved_ns: int, marks: Mapping[Group, int], offsets: Mapping[int, int]) -> bytes:
    named = {f"{space.value}/{partition}": mark for (space, partition), mark in marks.items()}
    return msgspec.msgpack.encode(Meta(META_FORM, n_partitions, saved_ns, named, dict(offsets)))


def read_meta(data: Any) -> Meta | None:
    try:
        meta = None if data is None else msgspec.msgpack.decode(data, type=Meta)
    except msgspec.DecodeError:
        return None
    return meta if meta is not None and meta.form == META_FORM else None


def foreign(exc: Exception) -> Exception:
    """rocksdict raises bare exceptions, the folder OSErrors. Raises: `exc` itself if it is neither."""
    if type(exc) is Exception or isinstance(exc, OSError | rocksdict.DbClosedError):
        return exc
    raise exc
