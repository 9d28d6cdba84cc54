"""What a histogram of upper bounds says of quantiles and of the largest value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec


class Histogram(msgspec.Struct, frozen=True):
    """Counts of values by upper bound, closed; the last bound is infinite.

    Attributes:
        counts: bound -> values above the bound before it and at or below this one, bounds rising.
    """

    counts: dict[float, float]

    @classmethod
    def of_totals(cls, totals: Mapping[float, float]) -> Self:
        """Of Prometheus' form: bound -> values at or below it."""
        before, counts = 0.0, {}
        for bound in sorted(totals):
            counts[bound], before = totals[bound] - before, totals[bound]
        return cls(counts)

    def since(self, before: Self) -> Histogram:
        return Histogram({bound: n - before.counts.get(bound, 0.0) for bound, n in self.counts.items()})

    def quantile(self, q: float) -> float:
        """Upper end of the bucket that holds the q-quantile, 0 < q <= 1: the true value is not above it.

        Raises:
            ValueError: there are no values.
        """
        total = sum(self.counts.values())
        if not total:
            raise ValueError("a histogram without a value has no quantile")
        seen = 0.0
        for bound, n in self.counts.items():
            seen += n
            if seen >= q * total:
                return bound
        raise AssertionError("the last bound holds all values")
