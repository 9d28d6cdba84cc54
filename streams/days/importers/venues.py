"""Instruments behind the symbols of exchanges, by the exchange's own grammar; what does not fit it is refused.

Names on the left are Tardis's ids of exchanges. Bitcoin is BTC everywhere, also where the exchange says XBT.
Source: the exchanges' API documents; https://docs.tardis.dev/historical-data-details
"""

from __future__ import annotations

import re
from datetime import datetime

from models.errors import InvalidInstrument
from models.market.instruments import Instrument
from streams.days.importers.symbols import Rule, split_pair

_OWN_CODES = {"XBT": "BTC", "XDG": "DOGE"}
_DERIBIT = re.compile(
    r"([A-Z0-9]+)(?:_([A-Z]+))?-(?:(PERPETUAL)|([0-9]{1,2}[A-Z]{3}[0-9]{2})(?:-([0-9]+(?:d[0-9]+)?)-([CP]))?)"
)
_OKX = re.compile(r"([A-Z0-9]+-[A-Z0-9]+)(?:-(SWAP)|-([0-9]{6})(-[0-9.]+-[CP])?)?")
_BITMEX = re.compile(r"([A-Z0-9]+?)(USDT|USDC|USD|EUR)")


def _unknown(venue: str, name: str) -> InvalidInstrument:
    hint = f"say what it is with --symbol {name}=venue.market_type.BASE-QUOTE"
    return InvalidInstrument(f"{name} is no symbol of {venue} that is known here; {hint}", "bad_symbol")


def _pair(base: str, quote: str) -> str:
    return f"{_OWN_CODES.get(base, base)}-{_OWN_CODES.get(quote, quote)}"


def _joined(venue: str, market_type: str) -> Rule:
    """`BTCUSDT`; derivatives have `BTCUSDT_210625` and `BTCUSD_PERP` too."""

    def rule(name: str) -> Instrument:
        pair, _, suffix = name.partition("_")
        if not suffix:
            return Instrument(venue, market_type, split_pair(pair))
        if market_type == "perpetual" and suffix == "PERP":
            return Instrument(venue, "perpetual", split_pair(pair))
        if market_type == "perpetual" and suffix.isdigit():
            return Instrument(venue, "futures", f"{split_pair(pair)}-{suffix}")
        raise _unknown(venue, name)

    return rule


def _separated(venue: str, separator: str) -> Rule:
    """`BTC-USD`, `XBT/USD`."""

    def rule(name: str) -> Instrument:
        base, found, quote = name.partition(separator)
        if not found:
            raise _unknown(venue, name)
        return Instrument(venue, "spot", _pair(base, quote))

    return rule


def okx(name: str) -> Instrument:
    """`BTC-USDT`, `BTC-USDT-SWAP`, `BTC-USD-220527`, `BTC-USD-220527-30000-C`."""
    match = _OKX.fullmatch(name)
    if match is None:
        raise _unknown("okx", name)
    pair, swap, expiry, option = match.groups()
    if expiry is None:
        return Instrument("okx", "perpetual" if swap else "spot", pair)
    return Instrument("okx", "options" if option else "futures", f"{pair}-{expiry}{option or ''}")


def deribit(name: str) -> Instrument:
    """`BTC-PERPETUAL`, `BTC-25MAR22`, `BTC-25MAR22-30000-C`, `SOL_USDC-PERPETUAL`; USD where no currency is named."""
    match = _DERIBIT.fullmatch(name)
    if match is None:
        raise _unknown("deribit", name)
    base, quote, perpetual, expiry, strike, right = match.groups()
    pair = f"{base}-{quote or 'USD'}"
    if perpetual:
        return Instrument("deribit", "perpetual", pair)
    try:
        day = datetime.strptime(expiry, "%d%b%y").strftime("%y%m%d")
    except ValueError as exc:
        raise _unknown("deribit", name) from exc
    if strike is None:
        return Instrument("deribit", "futures", f"{pair}-{day}")
    return Instrument("deribit", "options", f"{pair}-{day}-{strike.replace('d', '.')}-{right}")


def bitmex(name: str) -> Instrument:
    """Perpetuals such as `XBTUSD`. Dated contracts (`XBTU21`) do not say their day or currency: they need a name."""
    match = _BITMEX.fullmatch(name)
    if match is None:
        raise _unknown("bitmex", name)
    return Instrument("bitmex", "perpetual", _pair(match[1], match[2]))


RULES: dict[str, Rule] = {
    "binance": _joined("binance", "spot"),
    "binance-futures": _joined("binance", "perpetual"),
    "binance-delivery": _joined("binance-cm", "perpetual"),
    "bybit": _joined("bybit", "perpetual"),
    "bybit-spot": _joined("bybit", "spot"),
    "bitmex": bitmex,
    "coinbase": _separated("coinbase", "-"),
    "deribit": deribit,
    "kraken": _separated("kraken", "/"),
    "okex": okx,
    "okex-swap": okx,
    "okex-futures": okx,
    "okex-options": okx,
}


def by_exchange(name: str) -> Instrument:
    """The instrument of `<exchange>:<symbol>`. Raises: InvalidInstrument."""
    exchange, _, symbol = name.partition(":")
    if exchange not in RULES:
        known = " ".join(RULES)
        raise InvalidInstrument(
            f"{exchange} is none of {known}; say what {symbol} is with --symbol {symbol}=venue.market_type.BASE-QUOTE",
            "bad_symbol",
        )
    return RULES[exchange](symbol)
