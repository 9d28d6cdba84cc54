"""What a read of a tier costs, as measured: the order in which tiers are asked follows it."""

from __future__ import annotations

_WEIGHT = 1 / 32  # of the newest sample: the mean of some 32 reads
_LEAST_ADMITTED = 0.01
_FORGIVEN_S = 10.0  # half of what spoke against a tier is forgotten in this time without a read


class Cost:
    """Running means of a tier's latency and of the share of its answers that were new enough to be used.

    Asking in the order of rising latency / share costs least in the mean, as long as answers are independent
    (Garey 1973, optimal order of tests). A share that nobody renewed rises again by itself, so a tier that once was
    behind is found again; its latency is renewed by probes.

    Attributes:
        latency_s: mean time of a read; None = not measured yet.
        admitted: mean share, 0..1.
        sampled_s: when it was last measured, by the caller's monotonic clock.
    """

    __slots__ = ("admitted", "latency_s", "sampled_s")

    def __init__(self) -> None:
        self.latency_s: float | None = None
        self.admitted = 1.0
        self.sampled_s = float("-inf")

    def __repr__(self) -> str:
        latency = "?" if self.latency_s is None else f"{self.latency_s * 1e6:.1f} us"
        return f"Cost({latency}, {self.admitted:.2f} admitted)"

    def read(self, latency_s: float, now_s: float, *, admitted: bool) -> None:
        """A user's read took so long; `admitted`: its answer could be used."""
        self.probed(latency_s, now_s)
        self.admitted += _WEIGHT * (admitted - self.admitted)

    def probed(self, latency_s: float, now_s: float) -> None:
        """A probe took so long."""
        mean = self.latency_s
        self.latency_s = latency_s if mean is None else mean + _WEIGHT * (latency_s - mean)
        self.sampled_s = now_s

    def renewed(self, latency_s: float, now_s: float) -> None:
        """A probe of a tier that nobody reads: what was measured before says nothing any more."""
        self.admitted = self._share(now_s)
        self.latency_s = None
        self.probed(latency_s, now_s)

    def expected_s(self, now_s: float) -> float:
        """Mean time until this tier gave an answer of use; 0 while nothing is measured, so that it will be."""
        return 0.0 if self.latency_s is None else self.latency_s / max(self._share(now_s), _LEAST_ADMITTED)

    def _share(self, now_s: float) -> float:
        idle_s = max(0.0, now_s - self.sampled_s)
        return float(1 - (1 - self.admitted) * 0.5 ** (idle_s / _FORGIVEN_S))
