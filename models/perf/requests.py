"""Requests whose popularity is skewed, as those of a cache are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def zipf_requests(n_requests: int, n_keys: int, exponent: float, *, seed: int) -> NDArray[np.uint32]:
    """uint32[n_requests]: numbers of keys; the i-th most popular key is asked for in proportion to i ** -exponent.

    Which number is popular is drawn, too, so that numbers and ranks have nothing to do with each other. Independent
    draws: there is no recency in them beyond what popularity makes.
    """
    rng = np.random.default_rng(seed)
    return rng.permutation(n_keys)[zipf_ranks(rng, n_requests, n_keys, exponent)].astype(np.uint32)


def zipf_ranks(rng: np.random.Generator, n: int, n_keys: int, exponent: float) -> NDArray[np.int64]:
    """int64[n]: ranks from 0 on, drawn in proportion to (rank + 1) ** -exponent."""
    cdf = np.cumsum(np.arange(1, n_keys + 1) ** -exponent)
    ranks: NDArray[np.int64] = np.minimum(np.searchsorted(cdf, rng.random(n) * cdf[-1]), n_keys - 1)
    return ranks
