"""Instruments behind the names that a source uses, numbered in order of appearance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import (
    DEFAULT_EXPONENT,
    SMALL_PRICE_SIZE_EXPONENT,
    Instrument,
    parse,
    validate,
)

QUOTES = ("USDT", "USDC", "BUSD", "BTC", "ETH", "BNB", "USD", "EUR", "GBP", "JPY", "DAI", "TUSD")
_SMALL_PRICE = 10**7  # 0.01 as a mantissa of exponent -9

Rule = Callable[[str], Instrument]


class Symbols:
    """A name may have a part before a colon that tells whose it is.

    Args:
        rule: makes the instrument of a name; raises InvalidInstrument when it is not of the form the rule knows.
        named: instruments of names without the part before the colon; they go before the rule.
    """

    def __init__(self, rule: Rule, named: Mapping[str, Instrument] | None = None) -> None:
        self.instruments: list[Instrument] = []
        self._rule, self._named = rule, dict(named or {})
        self._ids: dict[str, int] = {}
        self._by_text: dict[str, int] = {}

    def id_of(self, name: str, price: int | None = None) -> int:
        """The instrument's number.

        Args:
            price: the first price seen, mantissa of exponent -9; below 0.01 sizes get exponent -2, as the gateway does
                it, because such coins trade in amounts that nine decimals would not hold. None = exponents as they are.

        Raises:
            InvalidInstrument: the rule knows no such name, or it breaks the grammar of instruments.
        """
        if name in self._ids:
            return self._ids[name]
        short = name.rpartition(":")[2]
        instrument = self._named[short] if short in self._named else self._rule(name)
        validate(instrument.venue, instrument.market_type, instrument.symbol)
        if price and abs(price) < _SMALL_PRICE and instrument.size_exp == DEFAULT_EXPONENT:
            instrument = Instrument(
                instrument.venue, instrument.market_type, instrument.symbol, size_exp=SMALL_PRICE_SIZE_EXPONENT
            )
        if instrument.text not in self._by_text:
            self._by_text[instrument.text] = len(self.instruments)
            self.instruments.append(instrument)
        self._ids[name] = self._by_text[instrument.text]
        return self._ids[name]


def named_symbols(options: Sequence[str]) -> dict[str, Instrument]:
    """Instruments of `NAME=venue.market_type.BASE-QUOTE` texts.

    Raises:
        UnreadableSource: a text is not of that form.
    """
    named = {}
    for option in options:
        name, equals, text = option.partition("=")
        try:
            if not (name and equals):
                raise InvalidInstrument("there is no name before =")
            named[name] = parse(text)
        except InvalidInstrument as exc:
            form = "NAME=venue.market_type.BASE-QUOTE"
            raise UnreadableSource(f"symbol {option!r} is not {form}: {exc.args[0]}") from exc
    return named


def split_pair(pair: str) -> str:
    """`BTCUSDT` as `BTC-USDT`, by the quote currencies of `QUOTES`, tried in their order.

    Raises:
        InvalidInstrument: it ends in none of them.
    """
    for quote in QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            return f"{pair.removesuffix(quote)}-{quote}"
    raise InvalidInstrument(f"{pair} ends in none of {' '.join(QUOTES)}", "bad_symbol")
