"""The markets of a generated day: their names, prices, grids and delays, and the kernel's arrays before the open."""

from __future__ import annotations

import numpy as np

from models.days.draws import Draws, Floats, Ints, exp, log, ten_to
from models.days.floor import LEVEL, LEVELS, MARKET, MAX_FILLS, ORDER, ORDERS, Floor
from models.days.profile import Profile
from models.market.decimals import decimal_text
from models.market.instruments import DEFAULT_EXPONENT, Instrument

QUANTILES = 4096
_FIRST_BID = 22_000  # AMZN on 2012-06-21
_TICKS_A_SPREAD = 1_100  # price over usual spread; the mean is two thirds of it: 13 for that day's AMZN, 1 if cheap
_EQUITY_LAG_NS = 180_000
_CRYPTO_MARKETS = (("binance", "perpetual"), ("binance", "spot"), ("okx", "perpetual"), ("bybit", "perpetual"))
_CRYPTO_ORDER = 1_000  # usual order in the quote currency


def listing(n: int, kind: str, profile: Profile, draws: Draws) -> tuple[list[Instrument], Floor, Ints]:
    """Definitions, arrays of empty markets and opening bids (ticks, int64[n]); rank 0 is the most popular symbol."""
    markets = np.zeros(n, MARKET)
    if kind == "equity":
        bids = ten_to(2.7 + 2.0 * draws.uniform(n)).astype(np.int64)  # 5 to 500 dollars
        bids[0] = _FIRST_BID
        markets["tick"], markets["unit"] = 10**7, 10**9
        markets["spread"] = 1 + bids // _TICKS_A_SPREAD
        markets["lag_ns"] = _EQUITY_LAG_NS
        names = [("us-q", "spot", f"G{rank + 1:05}-USD") for rank in range(n)]
    else:
        bids = ten_to(3.5 + 1.8 * draws.uniform(n)).astype(np.int64)
        markets["tick"] = 10 ** (4 + draws.below(5, n))
        markets["unit"] = [_unit(price) for price in (bids * markets["tick"]).tolist()]
        markets["spread"] = 1
        venues = [venue for venue, _ in _CRYPTO_MARKETS]
        lags = (draws.below(100, len(venues)) - 40) * 1_000_000  # venue clocks run apart, some ahead of ours
        lag_of = dict(zip(venues, lags.tolist(), strict=True))
        ranks = [divmod(rank, len(_CRYPTO_MARKETS)) for rank in range(n)]
        names = [(*_CRYPTO_MARKETS[place], f"G{coin + 1:05}-USDT") for coin, place in ranks]
        markets["lag_ns"] = [lag_of[venue] for venue, _, _ in names]
    markets["anchor"] = bids
    markets["update_id"] = 10**9 + draws.below(10**9, n)
    markets["trade_id"] = 10**6 + draws.below(10**8, n)
    markets["aggressor"] = 1
    instruments = [
        Instrument(*name, tick=decimal_text(tick, DEFAULT_EXPONENT))
        for name, tick in zip(names, markets["tick"].tolist(), strict=True)
    ]
    floor = Floor(
        markets=markets,
        levels=np.zeros((2 * n, LEVELS), LEVEL),
        depth=np.zeros(2 * n, np.int64),
        orders=np.zeros((n, ORDERS), ORDER),
        life_ns=quantiles(profile.life_s, 1e9),
        lag_ns=quantiles(profile.lag_us, 1e3),
        odds=np.array([profile.trade_share, profile.split_share, profile.round_lot_share]),
        stamp_ns=profile.stamp_ns,
        base_units=100 if kind == "equity" else 50,
        random=draws.raw(1),
        filled=np.zeros((MAX_FILLS, 2), np.int64),
    )
    return instruments, floor, bids


def _unit(price: int) -> int:
    """Mantissa of a fiftieth of the usual order, rounded down to a power of ten; `price` at exponent -9."""
    return int(10 ** (len(str(_CRYPTO_ORDER * 10**18 // 50 // price)) - 1))


def quantiles(knots: tuple[tuple[float, float], ...], scale: float) -> Ints:
    """A distribution as 4096 equally likely int64, log-linear between knots (probability, value), times scale."""
    p = (np.arange(QUANTILES) + 0.5) / float(QUANTILES)
    probability, value = np.array(knots).T
    seat = np.searchsorted(probability, p, side="right") - 1
    logs: Floats = log(np.maximum(value * scale, 1.0))
    share = (p - probability[seat]) / (probability[seat + 1] - probability[seat])
    rise = share * (logs[seat + 1] - logs[seat])
    return exp(logs[seat] + rise).astype(np.int64)
