"""Random numbers that are the same on every machine: PCG64's raw stream, then operations that IEEE 754 rounds exactly.

NumPy promises that `random_raw` never changes, but not its distributions, which also call the platform's `log` and
`exp`. Here those two are made of +, -, *, / by separate ufuncs, so that no compiler may fuse them.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LN2 = 0.6931471805599453
_ROOT_HALF = 0.7071067811865476
_LN10 = 2.302585092994046


class Draws:
    """A seeded stream of random numbers; `path` separates streams of one seed."""

    def __init__(self, seed: int, *path: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, *path]))

    def raw(self, n: int) -> NDArray[np.uint64]:
        """Uint64[n], all 64 bits random."""
        return np.asarray(self._bits.random_raw(n), np.uint64)

    def uniform(self, n: int) -> Floats:
        """Float64[n] in [0, 1)."""
        return (self.raw(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, bound: int, n: int) -> Ints:
        """int64[n] in [0, bound); bound up to 2**31."""
        return ((self.raw(n) >> np.uint64(33)) * np.uint64(bound) >> np.uint64(31)).astype(np.int64)

    def between(self, low: int, high: int) -> int:
        """One integer in [low, high]."""
        return low + int(self.below(high - low + 1, 1)[0])

    def exponential(self, n: int) -> Floats:
        """Float64[n] of mean 1."""
        return -log(1.0 - self.uniform(n))

    def normal(self, n: int) -> Floats:
        """Float64[n] of mean 0 and variance 1: a sum of twelve uniforms, so never beyond 6."""
        total = np.full(n, -6.0)
        for _ in range(12):
            total = total + self.uniform(n)
        return total

    def poisson(self, mean: float, n: int) -> Ints:
        """int64[n] for means up to 5 or so: found in a table of cumulated probabilities."""
        term = 1.0 / float(exp(np.array([mean]))[0])
        cdf = [term]
        for k in range(1, 60):
            term = term * mean / k
            cdf.append(cdf[-1] + term)
        return np.searchsorted(np.array(cdf), self.uniform(n), side="right").astype(np.int64)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function: uint64[n] to uint64[n], every bit of the answer hangs on every bit of `x`.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators (OOPSLA 2014), variant 13 of Stafford.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def log(x: Floats) -> Floats:
    """Natural logarithm of x > 0, to 1e-12: 2 artanh((m - 1) / (m + 1)) of the mantissa, its exponent times ln 2."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < _ROOT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, series = s * s, np.zeros_like(s)
    for k in range(17, 0, -2):
        series = series * square
        series = series + 1.0 / k
    whole = (exponent - low).astype(np.float64) * _LN2
    return np.asarray(whole + 2.0 * (s * series))


def exp(x: Floats) -> Floats:
    """e**x, to 2e-5 for |x| <= 5 and 3e-3 for |x| <= 27: ten squarings of 1 + y + y*y/2 at y = x / 1024."""
    y = x / 1024.0
    half = y * y
    power = y + half * 0.5
    power = power + 1.0
    for _ in range(10):
        power = power * power
    return power


def ten_to(x: Floats) -> Floats:
    """10**x."""
    return exp(x * _LN10)


def zipf(n: int, exponent: str) -> Floats:
    """Weights i ** -exponent of ranks 1..n, float64[n]; decimal arithmetic is done in integers."""
    power = -Decimal(exponent)
    return np.array([float(Decimal(rank) ** power) for rank in range(1, n + 1)])


def apportion(total: int, weights: Floats) -> Ints:
    """Whole numbers int64[n] that sum to `total`, in proportion to the weights (largest remainder, first rank wins)."""
    shares = weights / float(np.cumsum(weights)[-1])
    exact = shares * float(total)
    counts = exact.astype(np.int64)
    short = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    return counts
