"""Compiling the kernels ahead of time: about 20 s on a new machine, then loaded from numba's cache on disk."""

from __future__ import annotations

import numpy as np

from models.market.frame import encode
from models.market.instruments import INSTRUMENT_REF, Instrument
from models.market.json_lines import Lines
from models.market.json_tick import JsonParser
from models.market.partition import MarketPartition, open_frame
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Action, Flag, Kind, Side

_RECORD = (
    b'{"exchange":"warm","market_type":"spot","symbol":"A-B","data_type":"trade","ts_ms":1,'
    b'"price":"1.5","quantity":"1"}'
)


def compile_kernels() -> MarketPartition:
    """Run every kernel of a market once, so that the first tick does not wait for the compiler; what they ran on."""
    instrument = Instrument("warm", "spot", "A-B")
    refs = np.zeros(1, INSTRUMENT_REF)
    refs["hash"], refs["price_exp"], refs["size_exp"] = instrument.hash, instrument.price_exp, instrument.size_exp
    ticks = np.zeros(4, TICK)
    ticks["seq"] = np.arange(1, 5)
    ticks["kind"] = [Kind.TRADE, Kind.QUOTE, Kind.BOOK, Kind.BOOK]
    ticks["action"] = [Action.TRADE, Action.UPDATE, Action.CLEAR, Action.ADD]
    ticks["side"] = [Side.BID, Side.BID, Side.NONE, Side.ASK]
    ticks["flags"] = [Flag.LAST, Flag.LAST, Flag.SNAPSHOT, Flag.SNAPSHOT | Flag.LAST]
    ticks["price"] = ticks["size"] = [1, 300, 0, 70_000]
    market = MarketPartition()
    market.add([instrument])
    market.apply([open_frame(1, 0, encode(ticks, refs, source=1))])
    market.windows.end()
    market.windows.close(2)
    market.rows.put_bars(market.windows.closed(), 2)
    market.closed_windows()
    groups, _ = market.flush()
    MarketPartition().load((key, body) for group in groups for key, body in group if body is not None)
    parser = JsonParser(InstrumentRegistry())
    for _ in range(2):  # once by the typed decoder, because its instrument is new, then by the compiled road
        parser.parse(Lines.of([_RECORD]), received_ns=[10**6], positions=[1])
    return market
