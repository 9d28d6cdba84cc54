"""Windows row by row on dicts, as docs/wire.md says it: what the compiled loops are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.feeds import INSTRUMENTS, Sent

SECOND = 10**9
NO_WATERMARK = -(1 << 62)

Bar = tuple[str, int, int, int, int, int, int, int, int]  # text, length s, number, open, high, low, close, volume, n


def wrapped(number: int) -> int:
    """As int64 wraps around."""
    return (number + 2**63) % 2**64 - 2**63


@dataclass
class PlainWindows:
    """Every trade is kept until its second closes; each length is made of the seconds that lie in it."""

    watermark: int = NO_WATERMARK
    closed: list[Bar] = field(default_factory=list)
    late: list[tuple[int, int]] = field(default_factory=list)  # version, index of the row in its frame
    positions: dict[int, int] = field(default_factory=dict)
    _open: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)  # trades by text and second
    _seconds: dict[str, list[Bar]] = field(default_factory=dict)  # closed ones whose minute is open
    _tens: dict[str, list[Bar]] = field(default_factory=dict)

    def apply(self, version: int, sent: Sent) -> None:
        for index, row in enumerate(sent.rows):
            if int(row["seq"]) <= self.positions.get(sent.source, 0):
                continue
            if row["instrument_id"] < 0:
                self._control(int(row["action"]), int(row["ts_recv"]), [INSTRUMENTS[i].text for i in sent.ids])
                continue
            self._advance(int(row["ts_recv"]) - SECOND)
            if row["kind"] == 1:
                second = self.watermark // SECOND
                number = int(row["ts_event"]) // SECOND
                if second <= number < second + 6:
                    text = INSTRUMENTS[row["instrument_id"]].text
                    self._open.setdefault((text, number), []).append((int(row["price"]), int(row["size"])))
                else:
                    self.late.append((version, index))
        self.positions[sent.source] = max(int(sent.rows["seq"][-1]), self.positions.get(sent.source, 0))

    def end(self) -> None:
        self._advance(1 << 62)

    def _control(self, action: int, ts_recv: int, texts: Iterable[str]) -> None:
        if action == 2:
            self._advance(ts_recv)
        elif action == 3:
            self.end()
        elif action == 4:
            self.watermark = NO_WATERMARK
            for text in texts:
                self._open = {key: trades for key, trades in self._open.items() if key[0] != text}
                self._seconds.pop(text, None)
                self._tens.pop(text, None)

    def _advance(self, watermark: int) -> None:
        self.watermark = max(self.watermark, watermark)
        second = self.watermark // SECOND
        for text, number in sorted(key for key in self._open if key[1] < second):
            trades = self._open.pop((text, number))
            prices = [price for price, _ in trades]
            volume = wrapped(sum(size for _, size in trades))
            bar = (text, 1, number, prices[0], max(prices), min(prices), prices[-1], volume, len(trades))
            self.closed.append(bar)
            self._seconds.setdefault(text, []).append(bar)
        self._close_longer(self._seconds, 10, 10, self._tens)
        self._close_longer(self._tens, 60, 6, {})

    def _close_longer(self, parts: dict[str, list[Bar]], length: int, n: int, into: dict[str, list[Bar]]) -> None:
        for text in list(parts):
            for number in sorted({bar[2] // n for bar in parts[text]}):
                if (number + 1) * length > self.watermark // SECOND:
                    continue
                inside = [bar for bar in parts[text] if bar[2] // n == number]
                parts[text] = [bar for bar in parts[text] if bar[2] // n != number]
                joined = (
                    text, length, number, inside[0][3], max(b[4] for b in inside), min(b[5] for b in inside),
                    inside[-1][6], wrapped(sum(b[7] for b in inside)), sum(b[8] for b in inside),
                )  # fmt: skip
                self.closed.append(joined)
                into.setdefault(text, []).append(joined)
