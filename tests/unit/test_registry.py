"""Dense ids of instruments, and every way to find one."""

from __future__ import annotations

import pytest

from models.errors import InvalidInstrument
from models.market import registry as registry_module
from models.market.instruments import Instrument, instrument_hash, parse
from models.market.registry import InstrumentRegistry


def test_first_definition_of_a_text_stands() -> None:
    registry = InstrumentRegistry()
    first = Instrument("binance", "spot", "BTC-USDT", price_exp=-2)
    assert registry.add(first) == 0
    assert registry.add(Instrument("binance", "spot", "BTC-USDT", price_exp=-5)) == 0
    assert registry.instruments == [first]
    assert registry.refs["price_exp"].tolist() == [-2]


def test_every_index_finds_each_of_many_instruments() -> None:
    registry = InstrumentRegistry()
    texts = [f"okx.perpetual.C{i}-USDT" for i in range(1000)]
    assert [registry.add(parse(text)) for text in texts] == list(range(1000))
    assert registry.texts == texts
    assert len(registry.refs) == len(registry) == 1000
    for i, text in enumerate(texts):
        assert registry.by_text[text] == i
        assert registry.by_hash[instrument_hash(text)] == i
        assert registry.by_parts["okx", "perpetual", f"C{i}-USDT"] == i
        assert registry.refs["hash"][i] == instrument_hash(text)


def test_two_texts_of_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = InstrumentRegistry()
    monkeypatch.setattr(registry_module, "instrument_hash", lambda text: 1)
    registry.add(parse("binance.spot.BTC-USDT"))
    with pytest.raises(InvalidInstrument, match="same hash"):
        registry.add(parse("binance.spot.ETH-USDT"))
    assert len(registry) == 1
