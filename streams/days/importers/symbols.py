"""Instruments behind the names that a source uses, numbered in order of appearance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

from models.errors import InvalidInstrument, UnreadableSource
from models.market.fixed_point import MAX
from models.market.instruments import (
    DEFAULT_EXPONENT,
    SMALL_PRICE_SIZE_EXPONENT,
    Instrument,
    parse,
    validate,
)

QUOTES = ("USDT", "USDC", "BUSD", "BTC", "ETH", "BNB", "USD", "EUR", "GBP", "JPY", "DAI", "TUSD")
_SMALL_PRICE = Decimal("0.01")
_FINE_EXPONENT = -12
_NAMED = re.compile(r"([^=]+)=([^@=]+)(?:@(0|-[1-9]|-1[0-8])/(0|-[1-9]|-1[0-8]))?")

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

    def id_of(self, name: str, prices: Iterable[Decimal] = (), sizes: Iterable[Decimal] = ()) -> int:
        """The instrument's number.

        Args:
            prices, sizes: the first ones with this name; they choose the exponents (`sized`).

        Raises:
            InvalidInstrument: the rule knows no such name, or it breaks the grammar of instruments.
        """
        if name in self._ids:
            return self._ids[name]
        short = name.rpartition(":")[2]
        instrument = self._named[short] if short in self._named else self._rule(name)
        validate(instrument.venue, instrument.market_type, instrument.symbol)
        if instrument.text not in self._by_text:
            self._by_text[instrument.text] = len(self.instruments)
            self.instruments.append(sized(instrument, prices, sizes))
        self._ids[name] = self._by_text[instrument.text]
        return self._ids[name]

    def knows(self, name: str) -> bool:
        return name in self._ids


def sized(instrument: Instrument, prices: Iterable[Decimal], sizes: Iterable[Decimal]) -> Instrument:
    """An instrument with exponents that hold these numbers, unless it has other exponents than -9 already.

    Below a price of 0.01 whole sizes and those of two decimals get exponent -2, as in the gateway: such coins trade in
    amounts that nine decimals would not hold. Prices of more than nine decimals get exponent -12. Numbers of ten digits
    before the point (far levels of some books) get the finest exponent at which they fit.
    """
    price, size = ([abs(number) for number in numbers if number] for numbers in (prices, sizes))
    if not price or (instrument.price_exp, instrument.size_exp) != (DEFAULT_EXPONENT, DEFAULT_EXPONENT):
        return instrument
    size_exp = _exponent(size, DEFAULT_EXPONENT)
    if price[0] < _SMALL_PRICE and _decimals(size) <= -SMALL_PRICE_SIZE_EXPONENT:
        size_exp = SMALL_PRICE_SIZE_EXPONENT
    price_exp = _exponent(price, DEFAULT_EXPONENT if _decimals(price) <= -DEFAULT_EXPONENT else _FINE_EXPONENT)
    return Instrument(instrument.venue, instrument.market_type, instrument.symbol, price_exp, size_exp)


def _decimals(numbers: Iterable[Decimal]) -> int:
    return max((-int(number.normalize().as_tuple().exponent) for number in numbers), default=0)


def _exponent(numbers: list[Decimal], finest: int) -> int:
    """The finest exponent at which all numbers fit with all their decimals; if there is none, the finest of all."""
    highest = max(numbers, default=Decimal(0))
    fitting = (exponent for exponent in range(finest, 1 - _decimals(numbers)) if highest.scaleb(-exponent) <= MAX)
    return next(fitting, finest)


def named_symbols(options: Sequence[str]) -> dict[str, Instrument]:
    """Instruments of `NAME=venue.market_type.BASE-QUOTE` texts, which may end in `@<price exponent>/<size exponent>`.

    Raises:
        UnreadableSource: a text is not of that form.
    """
    named = {}
    for option in options:
        match = _NAMED.fullmatch(option)
        try:
            if match is None:
                raise InvalidInstrument("it has no name, or exponents that are not -18 to 0")
            instrument = parse(match[2])
        except InvalidInstrument as exc:
            form = "NAME=venue.market_type.BASE-QUOTE[@PRICE_EXPONENT/SIZE_EXPONENT]"
            raise UnreadableSource(f"symbol {option!r} is not {form}: {exc.args[0]}") from exc
        if match[3]:
            exponents = int(match[3]), int(match[4])
            instrument = Instrument(instrument.venue, instrument.market_type, instrument.symbol, *exponents)
        named[match[1]] = instrument
    return named


def told(named: Mapping[str, Instrument]) -> dict[str, str]:
    """Named symbols as options of a manifest."""
    return {
        f"symbol {name}": i.text
        if (i.price_exp, i.size_exp) == (DEFAULT_EXPONENT, DEFAULT_EXPONENT)
        else f"{i.text}@{i.price_exp}/{i.size_exp}"
        for name, i in sorted(named.items())
    }


def split_pair(pair: str) -> str:
    """`BTCUSDT` as `BTC-USDT`, by the quote currencies of `QUOTES`, tried in their order.

    Raises:
        InvalidInstrument: it ends in none of them.
    """
    for quote in QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            return f"{pair.removesuffix(quote)}-{quote}"
    raise InvalidInstrument(f"{pair} ends in none of {' '.join(QUOTES)}", "bad_symbol")
