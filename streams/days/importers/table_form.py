"""What a user says about plain tables: what they hold, which column is what, how their times are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.errors import UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import Kind
from streams.days.importers.symbols import told

KINDS = {"trade": Kind.TRADE, "quote": Kind.QUOTE, "book": Kind.BOOK}
_NEEDED = {
    "trade": ("price", "size"),
    "quote": ("bid_price", "bid_size", "ask_price", "ask_size"),
    "book": ("price", "size", "side"),
}
_OPTIONAL = {"trade": ("side", "trade_id", "seq"), "quote": ("seq",), "book": ("is_snapshot",)}
TIMES = ("ts", "ts_event", "ts_recv")


@dataclass(frozen=True)
class TableForm:
    """What the user says about tables.

    Attributes:
        kind: trade, quote or book (level updates; size 0 deletes).
        columns: the column that holds a field. Fields not named are looked for under their own names: `ts` (both times)
            or `ts_event` and `ts_recv`; `price size` or `bid_price bid_size ask_price ask_size`; `side` (buy, sell,
            bid, ask, b, s, a); `trade_id`; `is_snapshot`; `instrument`; `seq` of trades and quotes, which must rise
            within an instrument.
        instrument: of all rows; None = there is a column with its text, or with a name that `named` knows.
        time_unit: s, ms, us or ns of times that are numbers.
        tz: zone of times that say none.
    """

    kind: str
    columns: Mapping[str, str] = field(default_factory=dict)
    instrument: Instrument | None = None
    time_unit: str | None = None
    tz: str | None = None
    named: Mapping[str, Instrument] = field(default_factory=dict)

    def fields(self, names: Sequence[str], file: str) -> dict[str, str]:
        """Column by field, of those a file with these columns has.

        Raises:
            UnreadableSource: a column is missing or there twice, or is mapped to a field that the kind does not have.
        """
        known = {*_NEEDED[self.kind], *_OPTIONAL[self.kind], *TIMES, "instrument"}
        if strange := sorted(set(self.columns) - known):
            raise UnreadableSource(f"a {self.kind} has no field {strange[0]!r}; it has {', '.join(sorted(known))}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UnreadableSource(f"{file}: two columns are named {twice[0]!r}")
        found = {name: self.columns.get(name, name) for name in known}
        if absent := sorted(column for name, column in self.columns.items() if column not in names):
            raise UnreadableSource(f"{file}: no column {absent[0]!r} among {', '.join(names)[:200]}")
        found = {name: column for name, column in found.items() if column in names}
        if "ts" in found and "ts" not in self.columns and {"ts_event", "ts_recv"} <= found.keys():
            del found["ts"]
        missing = [name for name in _NEEDED[self.kind] if name not in found]
        if "ts" not in found and not {"ts_event", "ts_recv"} <= found.keys():
            missing.append("ts (or ts_event and ts_recv)")
        if "instrument" not in found and self.instrument is None:
            missing.append("instrument (or --instrument)")
        if missing:
            raise UnreadableSource(
                f"{file}: no column for {', '.join(missing)} among {', '.join(names)[:200]}; say which it is with "
                "--map FIELD=COLUMN"
            )
        if self.instrument is not None:
            found.pop("instrument", None)
        return found

    def options(self) -> dict[str, str]:
        """For the manifest."""
        said = {"kind": self.kind, "time_unit": self.time_unit, "tz": self.tz}
        said |= {f"column {name}": column for name, column in sorted(self.columns.items())}
        said |= told(self.named)
        said["instrument"] = self.instrument.text if self.instrument else None
        return {name: value for name, value in said.items() if value}
