"""A day's shape as one page that needs no network: plotly's script is inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from models.days.shape import BinShape, Deviation, Shape

_DAY, _REAL = "#2a6f97", "#e07a5f"
_DRAWN_WIDTHS = (1, 10, 100, 1000)
_COLOURS = ("#264653", "#2a9d8f", "#e9a23b", "#d1495b")


def write_page(path: Path, title: str, shape: Shape, against: Sequence[Deviation]) -> None:
    """Draw the day's course, the tails of its bins, Fano factors by scale, and everything beside AMZN."""
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "Messages a minute (UTC)",
            "Share of bins with at least so many messages (dotted: Poisson)",
            "Fano factor by width of bin (Poisson: 1)",
            "Found over AMZN 2012-06-21 (bars: tolerance)",
        ),
        horizontal_spacing=0.2,
    )
    minutes = np.datetime64(shape.first_minute_ns, "ns") + np.arange(len(shape.minutes)) * np.timedelta64(60, "s")
    figure.add_trace(
        go.Scatter(x=minutes, y=list(shape.minutes), mode="lines", line={"color": _DAY, "width": 1}, showlegend=False),
        row=1,
        col=1,
    )
    for bins, colour in zip([b for b in shape.bins if b.width_ms in _DRAWN_WIDTHS], _COLOURS, strict=True):
        counts, tail = _tail(bins)
        name = f"{bins.width_ms} ms"
        line = {"color": colour, "shape": "hv"}
        figure.add_trace(go.Scatter(x=counts, y=tail, mode="lines", line=line, name=name), row=1, col=2)
        counts, tail = _poisson_tail(bins.mean)
        line = {"color": colour, "dash": "dot"}
        figure.add_trace(go.Scatter(x=counts, y=tail, mode="lines", line=line, showlegend=False), row=1, col=2)
    widths = [bins.width_ms / 1000 for bins in shape.bins]
    figure.add_trace(
        go.Scatter(x=widths, y=[bins.fano for bins in shape.bins], name="this day", line={"color": _DAY}), row=2, col=1
    )
    real = {0.1: 14.5, 1.0: 25.0, 10.0: 51.0}
    figure.add_trace(
        go.Scatter(
            x=list(real), y=list(real.values()), mode="markers", name="AMZN", marker={"color": _REAL, "size": 11}
        ),
        row=2,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=[row.found / row.real for row in against],
            y=[row.name for row in against],
            mode="markers",
            marker={"color": ["#2a9d8f" if row.within else "#d1495b" for row in against], "size": 10},
            error_x={"array": [_relative(row) for row in against], "color": "#bbbbbb"},
            showlegend=False,
        ),
        row=2,
        col=2,
    )
    figure.add_vline(x=1.0, line={"color": "#888888", "dash": "dash"}, row=2, col=2)
    figure.update_xaxes(type="log", title="messages", row=1, col=2)
    figure.update_yaxes(type="log", exponentformat="power", row=1, col=2, range=[-8, 0.1])
    figure.update_xaxes(type="log", title="s", row=2, col=1)
    figure.update_yaxes(type="log", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=2)
    figure.update_layout(title=f"Shape of {title}: {shape.events:,} messages", template="plotly_white", height=900)
    figure.write_html(path, include_plotlyjs=True)


def _relative(row: Deviation) -> float:
    return row.tolerance / row.real if row.name.startswith("empty") else row.tolerance


def _tail(bins: BinShape) -> tuple[list[int], list[float]]:
    counts = np.array([pair for pair in bins.counts if pair[0]], np.float64)
    at_least = np.cumsum(counts[::-1, 1])[::-1] / sum(n for _, n in bins.counts)
    return counts[:, 0].astype(int).tolist(), at_least.tolist()


def _poisson_tail(mean: float) -> tuple[list[int], list[float]]:
    """P(at least k) for k = 1, 2, ... down to 1e-8: what bins of this mean would have without bursts."""
    term, below, counts, tail = float(np.exp(-mean)), 0.0, [], []
    for k in range(1, int(mean + 20 * np.sqrt(mean) + 20)):
        below += term
        term *= mean / k
        counts.append(k)
        tail.append(max(1.0 - below, 1e-300))
        if k > mean and tail[-1] < 1e-8:
            break
    return counts, tail
