"""A day's rows as Arrow record batches, for Polars, DuckDB, pandas and whatever else reads Arrow streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import NothingSelected
from models.market.tick import Kind
from streams.days.manifest import TICKS, Manifest
from streams.days.parquet import PARQUET, groups_within, read_batches

BATCH_ROWS = 65_536
_FIRST, _END = -(2**63), 2**63 - 1
# Columns that are made of stored ones: from, type
_MADE: dict[str, tuple[tuple[str, ...], Any]] = {
    "instrument": (("instrument_id",), pa.dictionary(pa.int32(), pa.string())),
    "price_value": (("price", "instrument_id"), pa.float64()),
    "size_value": (("size", "instrument_id"), pa.float64()),
}


def day_to_arrow(
    folder: Path,
    manifest: Manifest,
    *,
    columns: Sequence[str] | None = None,
    start_ns: int | None = None,
    stop_ns: int | None = None,
    instruments: Sequence[str] = (),
    kinds: Sequence[str | Kind] = (),
    batch_rows: int = BATCH_ROWS,
) -> Any:
    """See `Day.to_arrow`."""
    names = list(columns) if columns is not None else [*PARQUET.names, "instrument"]
    if strange := [name for name in names if name not in PARQUET.names and name not in _MADE]:
        raise NothingSelected(
            f"a day has no column {', '.join(strange)}: there are {', '.join([*PARQUET.names, *_MADE])}"
        )
    wanted_ids = _ids(manifest, instruments)
    wanted_kinds = _kinds(kinds)
    schema = pa.schema([pa.field(n, _MADE[n][1], nullable=False) if n in _MADE else PARQUET.field(n) for n in names])
    stored = {source for n in names for source in (_MADE[n][0] if n in _MADE else (n,))}
    ranged = start_ns is not None or stop_ns is not None
    start, stop = _FIRST if start_ns is None else start_ns, _END if stop_ns is None else stop_ns
    needed = stored | ({"ts_recv"} if ranged else set())
    needed |= ({"instrument_id"} if wanted_ids is not None else set()) | (
        {"kind"} if wanted_kinds is not None else set()
    )
    maker = _Maker(manifest)

    def batches() -> Iterator[Any]:
        groups = groups_within(folder / TICKS, start, stop) if ranged else None
        if groups == []:
            return
        in_order = [name for name in PARQUET.names if name in needed]
        for batch in read_batches(folder / TICKS, batch_rows, groups=groups, columns=in_order):
            kept = _kept(batch, (start, stop) if ranged else None, wanted_ids, wanted_kinds)
            rows = batch if kept is None else batch.filter(kept)
            if rows.num_rows:
                yield pa.RecordBatch.from_arrays([maker.column(rows, name) for name in names], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


class _Maker:
    """Columns as they are asked for."""

    def __init__(self, manifest: Manifest) -> None:
        entries = manifest.instruments
        self._texts = pa.array([entry.text for entry in entries], pa.string())
        self._scale = {
            "price_value": np.array([10.0**-entry.price_exp for entry in entries]),
            "size_value": np.array([10.0**-entry.size_exp for entry in entries]),
        }

    def column(self, rows: Any, name: str) -> Any:
        if name == "instrument":
            ids = rows.column("instrument_id")
            return pa.DictionaryArray.from_arrays(ids, self._texts)
        if name in self._scale:
            mantissas = rows.column(name.removesuffix("_value")).to_numpy()
            ids = rows.column("instrument_id").to_numpy()
            return pa.array(mantissas / self._scale[name][ids])  # 10**9 is exact in a float, 10**-9 is not
        return rows.column(name)


def _kept(batch: Any, bounds: tuple[int, int] | None, ids: Any, kinds: Any) -> Any:
    """Mask of the rows that are wanted, None = all."""
    tests = []
    if bounds is not None:
        recv = batch.column("ts_recv").view(pa.int64())
        tests += [pc.greater_equal(recv, bounds[0]), pc.less(recv, bounds[1])]
    if ids is not None:
        tests.append(pc.is_in(batch.column("instrument_id"), value_set=ids))
    if kinds is not None:
        tests.append(pc.is_in(batch.column("kind"), value_set=kinds))
    mask = None
    for test in tests:
        mask = test if mask is None else pc.and_(mask, test)
    return mask


def _ids(manifest: Manifest, texts: Sequence[str]) -> Any:
    if not texts:
        return None
    by_text = {entry.text: entry.id for entry in manifest.instruments}
    if strange := sorted(set(texts) - by_text.keys()):
        raise NothingSelected(f"{manifest.name} has no instrument {', '.join(strange)}")
    return pa.array([by_text[text] for text in texts], pa.int32())


def _kinds(kinds: Sequence[str | Kind]) -> Any:
    if not kinds:
        return None
    try:
        return pa.array([int(Kind[kind.upper()] if isinstance(kind, str) else kind) for kind in kinds], pa.uint8())
    except KeyError as exc:
        raise NothingSelected(f"there is no kind {exc}: there are {', '.join(k.name.lower() for k in Kind)}") from exc
