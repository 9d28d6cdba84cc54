"""Rows of the wire from the lines of Tardis files, by what the files hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.importers.columns import coded, digits
from streams.days.importers.events import LevelUpdates, quote_rows, snapshot_rows, trade_rows
from streams.days.importers.report import ImportReport

TAKERS = {"buy": int(Side.BID), "sell": int(Side.ASK), "unknown": int(Side.NONE)}
BOOK_SIDES = {"bid": int(Side.BID), "ask": int(Side.ASK)}


class Lines(NamedTuple):
    """Good lines.

    Attributes:
        rows: one each, with times and instrument.
        table: their columns.
        numbers: mantissas of the columns of decimals; 0 where a field is empty.
        refused: lines beside them whose instrument is not known, by their place in the text, and why.
    """

    rows: TickArray
    table: pa.Table
    numbers: dict[str, NDArray[np.int64]]
    refused: dict[int, str]

    def has(self, name: str) -> NDArray[np.bool_]:
        """Which lines have something in this column."""
        there: NDArray[np.bool_] = self.table.column(name).is_valid().to_numpy().astype(bool)
        return there


class TardisRows:
    """Makes the rows of one file.

    Args:
        data_type: as in the file's name.
        report: counts lines that say nothing.
    """

    def __init__(self, data_type: str, report: ImportReport) -> None:
        self._type, self._report = data_type, report
        self._updates = LevelUpdates(need_snapshot=True)
        self.rows: Callable[[Lines], TickArray] = {
            "trades": self._trades,
            "liquidations": self._trades,
            "quotes": self._quotes,
            "book_ticker": self._quotes,
            "incremental_book_L2": self._levels,
            "derivative_ticker": self._ticker,
        }.get(data_type, self._snapshots)

    def finish(self) -> TickArray:
        """The last event."""
        return self._updates.finish()

    def _trades(self, lines: Lines) -> TickArray:
        rows, table, values = lines.rows, lines.table, lines.numbers
        liquidations = self._type == "liquidations"
        rows["kind"] = Kind.LIQUIDATION if liquidations else Kind.TRADE
        return trade_rows(
            rows,
            price=values["price"],
            size=values["amount"],
            side=coded(table.column("side"), TAKERS, "side"),
            ref_id=0 if liquidations else digits(table.column("id")),
        )

    def _quotes(self, lines: Lines) -> TickArray:
        lines.rows["kind"] = Kind.QUOTE
        values = lines.numbers
        bid, ask = ((values[f"{side}_price"], values[f"{side}_amount"]) for side in ("bid", "ask"))
        return quote_rows(lines.rows, bid=bid, ask=ask)

    def _levels(self, lines: Lines) -> TickArray:
        rows, table = lines.rows, lines.table
        rows["kind"] = Kind.BOOK
        rows["side"] = coded(table.column("side"), BOOK_SIDES, "side")
        rows["price"], rows["size"] = lines.numbers["price"], lines.numbers["amount"]
        made, n_early = self._updates.rows(rows, table.column("is_snapshot").to_numpy().astype(bool))
        if n_early:
            self._report.explained["updates before the first snapshot"] += n_early
        return made

    def _snapshots(self, lines: Lines) -> TickArray:
        lines.rows["kind"] = Kind.BOOK
        places = [name.removesuffix(".price") for name in lines.numbers if name.endswith(".price")]
        places.sort(key=lambda place: (place.startswith("asks"), int(place[5:-1])))
        price, size = (
            np.column_stack([lines.numbers[f"{place}.{what}"] for place in places]) for what in ("price", "amount")
        )
        side = np.array([Side.ASK if place.startswith("asks") else Side.BID for place in places], np.int64)
        return snapshot_rows(lines.rows, side, price, size, size > 0)

    def _ticker(self, lines: Lines) -> TickArray:
        """Funding where there is a rate (with mark and index price), open interest where it is told."""
        rows, values = lines.rows, lines.numbers
        rate, interest = lines.has("funding_rate"), lines.has("open_interest")
        due = lines.table.column("funding_timestamp").fill_null(0).to_numpy() * 1000
        parts = []
        for field, name in enumerate(("funding_rate", "mark_price", "index_price")):
            at = np.flatnonzero(rate & lines.has(name))
            part = rows[at]
            part["kind"], part["side"], part["price"] = Kind.FUNDING, field, values[name][at]
            part["ref_id"] = due[at] if field == 0 else 0
            parts.append((2 * at, part))
        at = np.flatnonzero(interest)
        part = rows[at]
        part["kind"], part["size"] = Kind.OPEN_INTEREST, values["open_interest"][at]
        parts.append((2 * at + 1, part))
        event = np.concatenate([place for place, _ in parts])
        order = np.argsort(event, kind="stable")
        made, event = np.concatenate([part for _, part in parts])[order], event[order]
        made["action"] = Action.UPDATE
        made["flags"][np.append(event[1:] != event[:-1], True)[: len(made)]] = Flag.LAST
        if n_silent := int((~rate & ~interest).sum()):
            self._report.explained["ticker without funding rate and open interest"] += n_silent
        return made
