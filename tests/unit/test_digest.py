"""The digest's bytes are pinned, and the offline fold keeps the rules of docs/wire.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.market.digest import BarsFinal, InstrumentFinal, digest, serialise
from models.market.fold import OfflineFold
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

BTC, ETH = "binance.spot.BTC-USDT", "binance.spot.ETH-USDT"
NOTHING = np.empty((0, 2), np.int64)
FINAL = InstrumentFinal(
    BTC, 5, (100, 2, 1, 77, 9), (99, 1, 0, 0, 12), np.array([[99, 1], [98, 4]]), np.array([[101, 3]]),
    (BarsFinal(8, 2, (100, 101, 99, 100, 7, 10**9), 2**64 - 1),),
)  # fmt: skip


def row(
    kind: Kind, action: int = Action.UPDATE, side: int = 0, price: int = 0, size: int = 0, **more: int
) -> TickArray:
    rows = np.zeros(1, TICK)
    values = {"kind": kind, "action": action, "side": side, "price": price, "size": size, "flags": Flag.LAST} | more
    for name, value in values.items():
        rows[name] = value
    return rows


def diff(before: int, last: int, *levels: tuple[int, int, int], instrument_id: int = 0) -> TickArray:
    rows = [
        row(Kind.BOOK, Action.UPDATE, *level, venue_seq=last, ref_id=before, flags=0, instrument_id=instrument_id)
        for level in levels
    ]
    rows[-1]["flags"] = Flag.LAST
    return np.concatenate(rows)


def snapshot(last: int, *levels: tuple[int, int, int]) -> TickArray:
    rows = diff(0, last, (Side.NONE, 0, 0), *levels)
    rows["action"] = Action.ADD
    rows["action"][0] = Action.CLEAR
    return rows


def fold(*parts: TickArray, texts: tuple[str, ...] = (BTC, ETH)) -> list[InstrumentFinal]:
    whole = OfflineFold(texts)
    whole.update(np.concatenate(parts))
    return whole.finals()


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)


def test_the_bytes_of_an_instrument_are_little_endian_and_in_the_documented_order() -> None:
    head = b"\x15\x00" + words(5) + b"\x01\x01" + b"\x02\x00\x00\x00" + b"\x01\x00\x00\x00" + b"\x01" + BTC.encode()
    levels = words(99, 1, 98, 4, 101, 3)
    bars = b"\x08" + words(2, 100, 101, 99, 100, 7, 10**9) + b"\xff" * 8
    assert serialise(FINAL) == head + words(100, 2, 1, 77, 9) + words(99, 1, 0, 0, 12) + levels + bars


def test_an_absent_trade_is_not_a_trade_of_zeros() -> None:
    assert serialise(replace(FINAL, trade=None)) != serialise(replace(FINAL, trade=(0, 0, 0, 0, 0)))


def test_the_digest_is_the_one_that_was_published() -> None:
    expected = "9898324b38e772bd28298fb90c56f4b88f713f0eb7aa23e3ac53cdd6bb03235a"
    assert digest([FINAL, replace(FINAL, text=ETH, trade=None)]) == expected


def test_the_digest_does_not_depend_on_the_order_in_which_instruments_come() -> None:
    other = replace(FINAL, text=ETH, trade=None)
    assert digest([FINAL, other]) == digest(iter([other, FINAL]))


def test_an_instrument_without_rows_does_not_count() -> None:
    assert digest([FINAL, replace(FINAL, text=ETH, rows=0)]) == digest([FINAL])


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 6},
        {"trade": (100, 2, 2, 77, 9)},
        {"quote": (99, 1, 0, 0, 13)},
        {"bids": np.array([[99, 1], [98, 5]])},
        {"asks": NOTHING},
        {"text": "binance.perpetual.BTC-USDT"},
    ],
)
def test_every_field_changes_the_digest(change: dict[str, object]) -> None:
    assert digest([replace(FINAL, **change)]) != digest([FINAL])  # type: ignore[arg-type]


def test_an_instrument_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BTC-USDT is given twice"):
        digest([FINAL, FINAL])


def test_the_last_trade_and_the_last_row_of_each_quote_side_stand() -> None:
    (final,) = fold(
        row(Kind.TRADE, Action.TRADE, Side.BID, 100, 1, ref_id=1, ts_event=10),
        row(Kind.QUOTE, Action.UPDATE, Side.BID, 99, 5, venue_seq=7),
        row(Kind.QUOTE, Action.UPDATE, Side.ASK, 101, 6, venue_seq=8),
        row(Kind.TRADE, Action.TRADE, Side.ASK, 98, 2, ref_id=2, ts_event=9),
        row(Kind.QUOTE, Action.DELETE, Side.ASK, venue_seq=9),
        row(Kind.FUNDING, price=3),
    )
    assert (final.text, final.rows) == (BTC, 6)
    assert final.trade == (98, 2, Side.ASK, 2, 9)
    assert final.quote == (99, 5, 0, 0, 9)
    assert not len(final.bids) and not len(final.asks)


def test_diffs_before_the_snapshot_wait_for_it() -> None:
    (final,) = fold(
        diff(10, 12, (Side.BID, 90, 1)),
        diff(12, 15, (Side.BID, 91, 1), (Side.ASK, 95, 0)),
        snapshot(13, (Side.BID, 89, 4), (Side.ASK, 95, 2), (Side.ASK, 96, 3)),
        diff(15, 16, (Side.BID, 88, 2)),
    )
    assert final.bids.tolist() == [[91, 1], [89, 4], [88, 2]]
    assert final.asks.tolist() == [[96, 3]]


def test_a_diff_that_the_book_covers_already_is_dropped() -> None:
    (final,) = fold(snapshot(20, (Side.BID, 90, 1)), diff(15, 20, (Side.BID, 90, 7)))
    assert final.bids.tolist() == [[90, 1]]


def test_after_a_gap_the_book_stands_still_until_a_snapshot() -> None:
    parts = [snapshot(20, (Side.BID, 90, 1)), diff(22, 23, (Side.BID, 90, 2)), diff(23, 24, (Side.BID, 91, 3))]
    assert fold(*parts)[0].bids.tolist() == [[90, 1]]
    assert fold(*parts, snapshot(23, (Side.BID, 90, 2)))[0].bids.tolist() == [[91, 3], [90, 2]]


def test_a_diff_without_update_ids_always_applies() -> None:
    (final,) = fold(snapshot(20, (Side.BID, 90, 1)), diff(0, 0, (Side.BID, 90, 2)), diff(20, 21, (Side.BID, 89, 3)))
    assert final.bids.tolist() == [[90, 2], [89, 3]]


def test_batches_may_end_inside_an_event_and_events_of_instruments_may_interleave() -> None:
    rows = np.concatenate(
        [snapshot(5, (Side.BID, 1, 1)), diff(5, 6, (Side.BID, 2, 2), (Side.ASK, 3, 3), (Side.ASK, 4, 4))]
    )
    other = diff(0, 0, (Side.BID, 9, 9), (Side.BID, 8, 8), instrument_id=1)
    mixed = np.concatenate([rows[:3], other[:1], rows[3:], other[1:]])
    at_once = fold(mixed)
    one_by_one = OfflineFold([BTC, ETH])
    for index in range(len(mixed)):
        one_by_one.update(mixed[index : index + 1])
    assert digest(one_by_one.finals()) == digest(at_once)
    assert at_once[1].bids.tolist() == [[9, 9], [8, 8]]


def test_control_rows_belong_to_no_instrument() -> None:
    trade = row(Kind.TRADE, Action.TRADE, Side.BID, 100, 1)
    control = row(Kind.CONTROL, Action.CLEAR, instrument_id=-1)
    assert digest(fold(control, trade, control)) == digest(fold(trade))
