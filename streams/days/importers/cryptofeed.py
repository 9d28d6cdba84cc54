"""Raw websocket text as cryptofeed records it: what an exchange sent in one connection, a frame a line.

Lines are `<seconds>: <json>` (received), `<url> <-> <seconds>` (connected), `<url> <- <seconds>: <json>` (sent),
`<url> -> <seconds>: <json>` (an answer over HTTP) and `configuration: <json>`. A file is named by its exchange,
`COINBASE.ws.28.0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from models.errors import UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import TickArray
from streams.days.day import Day
from streams.days.importers.feeds.binance import BinanceFutures
from streams.days.importers.feeds.bitmex import Bitmex
from streams.days.importers.feeds.bybit import Bybit
from streams.days.importers.feeds.coinbase import Coinbase
from streams.days.importers.feeds.deribit import Deribit
from streams.days.importers.feeds.frame import Feed, FrameRows, Unreadable, seconds
from streams.days.importers.feeds.kraken import Kraken
from streams.days.importers.feeds.okx import Okx
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import import_named
from streams.days.importers.symbols import Symbols, told
from streams.days.importers.text import Block, TextFile
from streams.days.importers.venues import by_exchange

FEEDS: dict[str, Callable[[], Feed]] = {
    "BINANCE_FUTURES": BinanceFutures,
    "BITMEX": Bitmex,
    "BYBIT": Bybit,
    "COINBASE": Coinbase,
    "DERIBIT": Deribit,
    "KRAKEN": Kraken,
    "OKX": Okx,
}
_BLOCK_BYTES = 1 << 20
_OTHER = re.compile(rb"(?:[a-z]+://\S+ (<->|<-|->) [0-9.]+(?:: .*)?|(configuration): .*)", re.DOTALL)
_MEANING = {b"<->": "connected", b"<-": "sent", b"->": "answer over HTTP", b"configuration": "configuration"}


class RecordingFile:
    """Rows of one connection.

    Raises:
        UnreadableSource: its name begins with no exchange that is known here.
    """

    def __init__(self, path: Path, symbols: Symbols, report: ImportReport) -> None:
        self.exchange = path.name.partition(".")[0]
        if self.exchange not in FEEDS:
            raise UnreadableSource(f"{path.name} is not named <exchange>.ws... with one of {', '.join(sorted(FEEDS))}")
        self.paths, self.date = (path,), self.exchange.lower()
        self._text, self._report = TextFile(path, report), report
        self._feed, self._frame = FEEDS[self.exchange](), FrameRows(symbols)

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        for block in self._text.blocks(progress, min(block_bytes, _BLOCK_BYTES)):
            lines = block.text.split(b"\n")
            n_frames = sum(self._take(number, line) for number, line in enumerate(lines, block.line))
            rows, refused = self._frame.take()
            for line, reason in sorted(refused.items()):
                self._refuse(block, lines, line, reason)
            self._report.n_records += n_frames - len(refused)
            yield rows

    def _refuse(self, block: Block, lines: Sequence[bytes], line: int, reason: str) -> None:
        self._report.refuse(self._text.name, line, reason, lines[line - block.line])

    def _take(self, number: int, line: bytes) -> bool:
        """Whether it is a line that says something, be it silent about the market."""
        if not line:
            self._report.explained["empty line"] += 1
            return True
        if match := _OTHER.fullmatch(line):
            self._report.explained[_MEANING[match[1] or match[2]]] += 1
            return True
        stamp, _, text = line.partition(b": ")
        self._frame.begin(number)
        try:
            self._frame.ts_recv = seconds(stamp.decode("ascii", "replace"))
            silent = self._feed.take(text, self._frame)
        except (Unreadable, msgspec.DecodeError, UnicodeDecodeError) as exc:
            self._frame.drop()
            self._report.refuse(self._text.name, number, str(exc), line)
            return False
        if silent is not None:
            self._report.explained[silent] += 1
        return True


def import_cryptofeed(
    sources: Sequence[Path],
    out: Path,
    *,
    named: Mapping[str, Instrument] | None = None,
    terms: Terms | None = None,
) -> tuple[Day, ImportReport]:
    """Make a day of recordings; their order does not matter.

    Args:
        named: instruments of symbols that the exchange's grammar does not explain (dated contracts of BitMEX).

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: as `import_named`.
    """
    return import_named(
        "cryptofeed",
        RecordingFile,
        sources,
        out,
        symbols=Symbols(by_exchange, named),
        terms=terms,
        options=told(named or {}),
    )
