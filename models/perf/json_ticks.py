"""Invented ticks as the JSON that collectors write: one line an event, numbers as decimal strings, times in ms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.market.decimals import decimal_text
from models.market.instruments import Instrument
from models.market.tick import Kind, Side, TickArray

_MS = 1_000_000
_SIDES = {int(Side.BID): "buy", int(Side.ASK): "sell"}


def json_lines(ticks: TickArray, instruments: Sequence[Instrument]) -> Iterator[tuple[int, bytes]]:
    """Index of the instrument and the line of each event; some 5 us an event.

    Args:
        ticks: TICK[n], whole events: trades of one row, quotes of two, bid first.
        instruments: what the rows' `instrument_id` means.
    """
    heads = [
        f'{{"exchange":"{i.venue}","market_type":"{i.market_type}","symbol":"{i.symbol}","data_type":'
        for i in instruments
    ]
    columns = ("instrument_id", "kind", "side", "price", "size", "ts_event", "ts_recv", "ref_id", "venue_seq")
    rows = zip(*(ticks[name].tolist() for name in columns), strict=True)
    for who, kind, side, price, size, event_ns, recv_ns, ref_id, venue_seq in rows:
        of = instruments[who]
        times = f'"ts_ms":{event_ns // _MS},"collected_ts_ms":{recv_ns // _MS}'
        at, many = decimal_text(price, of.price_exp), decimal_text(size, of.size_exp)
        if kind == Kind.TRADE:
            tick = f'"trade",{times},"price":"{at}","quantity":"{many}","side":"{_SIDES[side]}","trade_id":"{ref_id}"}}'
        else:
            other = next(rows)
            ask, offered = decimal_text(other[3], of.price_exp), decimal_text(other[4], of.size_exp)
            tick = (
                f'"quote",{times},"bid_price":"{at}","bid_quantity":"{many}","ask_price":"{ask}",'
                f'"ask_quantity":"{offered}","last_update_id":{venue_seq}}}'
            )
        yield who, (heads[who] + tick).encode()
