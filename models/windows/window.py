"""Windows: tumbling event-time bars of 1 s, 10 s and 60 s over trades, final once the watermark has passed their end.

A trade belongs to the second of its `ts_event`. A partition's watermark is the running maximum of `ts_recv` less
`GRACE_NS`, row by row in log order (protocol rule 15; the model is that of Akidau et al., The Dataflow Model, 2015), so
the same log gives the same windows at any speed, in any batches, after any crash. A closed second is folded into its
ten seconds, those into their minute: whoever is too late for the shortest window is too late for all, and a minute is
exactly the sum of its seconds.
"""

from __future__ import annotations

import numpy as np

from models.market.facets import BAR_INTERVALS_S

INTERVALS = ("1s", "10s", "1m")
INTERVALS_S = tuple(BAR_INTERVALS_S[name] for name in INTERVALS)
SECOND_NS = 1_000_000_000
GRACE_NS = SECOND_NS  # local clocks were seen up to 1.27 s behind venues, which needs none; ahead, a tenth of that
# Seconds that may be open at once: a venue's clock may lead the watermark by at least RING - 1 s, the local clock by
# RING - 1 s - GRACE_NS. Each costs 72 bytes an instrument.
RING = 6
NO_WATERMARK = -(1 << 62)
END = 1 << 62  # watermark of a run that has ended: everything is closed

# Columns of what is known of an open window, int64.
OPEN, HIGH, LOW, CLOSE, VOLUME, COUNT = range(6)
N_VALUES = 6
N_OPEN = RING + 2  # places of open windows: the seconds at `number % RING`, then the ten seconds, the minute
# End of a window that is not open: later than any other, so whoever looks for the next end needs no test.
NOT_OPEN = 1 << 62

# A window that has closed.
CLOSED = np.dtype(
    [
        ("slot", "<i8"),  # of its instrument
        ("interval", "<i8"),  # index into INTERVALS
        ("start", "<i8"),  # in windows of its length since 1970
        ("open", "<i8"),  # prices: mantissas; first and last in log order
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("volume", "<i8"),  # sum of sizes, mantissa
        ("count", "<i8"),  # trades
    ]
)
N_CLOSED = len(CLOSED.names or ())
