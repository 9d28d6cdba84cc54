"""A day from nothing but a recipe: every row, in order of receipt, and the labels of what was planted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.days import trading
from models.days.anomalies import Label, Planted, plan
from models.days.arrivals import arrivals
from models.days.draws import Draws, Ints, apportion, zipf
from models.days.floor import LEVELS
from models.days.listing import listing
from models.days.recipe import Recipe
from models.errors import InvalidRecipe
from models.market.tick import TICK, TickArray

OPENING_NS = 10**9  # books are there a second before the first message
_OPENING_EVENTS = 2  # a snapshot and a quote
_MIN_EVENTS = 10  # of the least popular symbol: its opening and some life
_ROWS = 1 << 17  # of the kernel's buffer, 8 MiB
_TIMES, _MARKETS, _TRADING, _PLANTING = range(4)  # streams of the seed


class _Script(NamedTuple):
    """What the kernel plays: one entry an arrival or command, in order of time."""

    at: Ints  # ns UTC
    who: NDArray[np.int32]
    code: NDArray[np.uint8]
    value: Ints
    mark: NDArray[np.uint16]  # number of the anomaly + 1


class SyntheticDay:
    """A generated day; the same recipe gives the same rows on every machine.

    Without anomalies it has exactly `recipe.events` events. Cost: 40 bytes an event, 0.5 kB and more a symbol;
    under 2 us of CPU an event.

    Attributes:
        instruments: definitions; the rows' `instrument_id` is an index into them, most popular first.
        counts: int64[symbols], events of each symbol before anomalies.
        done, total: arrivals played, and in all.

    Raises:
        InvalidRecipe: its numbers do not fit together, or there are too few events for so many symbols.
    """

    def __init__(self, recipe: Recipe) -> None:
        recipe.validate()
        self.recipe, profile = recipe, recipe.profile
        self.counts = apportion(recipe.events, zipf(recipe.symbols, profile.zipf))
        if self.counts.min() < _MIN_EVENTS:
            raise InvalidRecipe(
                f"{recipe.events} events of {recipe.symbols} symbols leave {self.counts.min()} to the last one; "
                f"it needs {_MIN_EVENTS}: ask for more events or fewer symbols"
            )
        self.instruments, self._floor, self._bids = listing(
            recipe.symbols, recipe.venue_kind, profile, Draws(recipe.seed, _MARKETS)
        )
        ordinary = self.counts - _OPENING_EVENTS
        times = arrivals(ordinary, recipe.duration_s, profile, Draws(recipe.seed, _TIMES))
        self._planted = plan(recipe.anomalies, ordinary, recipe.duration_s, Draws(recipe.seed, _PLANTING))
        self._script = _script(times.at, times.who, self._planted, recipe.start_ns)
        self._floor.markets["left"] = ordinary
        self.done, self.total = 0, len(self._script.at)
        self._n_rows = 0
        self._found = np.zeros((len(self._planted) + 1, 3), np.int64)  # rows, first and last seq of each label

    def batches(self) -> Iterator[TickArray]:
        """All rows in order of `ts_recv`, TICK arrays of whole events with `seq` 1..N. Can be read once."""
        script, floor = self._script, self._floor
        out, marks = np.zeros(_ROWS, TICK), np.zeros(_ROWS, np.uint16)
        cursor = np.zeros(2, np.int64)
        earliest = int(floor.markets["lag_ns"].min())
        held = self._open()
        held_marks = np.zeros(len(held), np.uint16)
        while self.done < self.total:
            cursor[:] = 0
            self.done = trading.trade_on(
                floor, script.at, script.who, script.code, script.value, script.mark, self.done, out, marks, cursor
            )
            n = int(cursor[0])
            rows, labels = np.concatenate([held, out[:n]]), np.concatenate([held_marks, marks[:n]])
            order = np.argsort(rows["ts_recv"], kind="stable")
            rows, labels = rows[order], labels[order]
            cut = len(rows)
            if self.done < self.total:  # later arrivals cannot be received before this
                bound = int(script.at[self.done]) + earliest
                cut = int(np.searchsorted(rows["ts_recv"], bound))
            held, held_marks = rows[cut:], labels[cut:]
            yield from self._numbered(rows[:cut], labels[:cut])
        yield from self._numbered(held, held_marks)

    def labels(self) -> list[Label]:
        """What was planted, in order of time; complete once all batches were read."""
        start = self.recipe.start_ns
        return [
            Label(
                self.instruments[planted.who].text,
                planted.kind,
                start + planted.start,
                start + planted.end,
                rows=int(self._found[number, 0]),
                first_seq=int(self._found[number, 1]),
                last_seq=int(self._found[number, 2]),
                parameters=planted.parameters,
            )
            for number, planted in enumerate(self._planted, 1)
        ]

    def _open(self) -> TickArray:
        """Each market's snapshot and quote."""
        recipe, floor = self.recipe, self._floor
        out, cursor = np.zeros(recipe.symbols * (2 * LEVELS + 3), TICK), np.zeros(2, np.int64)
        begin = recipe.start_ns - OPENING_NS
        for who, bid in enumerate(self._bids.tolist()):
            trading.open_book(floor, who, bid, out, cursor, begin + who * (OPENING_NS // 2 // recipe.symbols))
        return out[: cursor[0]]

    def _numbered(self, rows: TickArray, labels: NDArray[np.uint16]) -> Iterator[TickArray]:
        if not len(rows):
            return
        rows["seq"] = np.arange(self._n_rows + 1, self._n_rows + len(rows) + 1)
        self._n_rows += len(rows)
        for place in np.flatnonzero(labels).tolist():
            found, seq = self._found[labels[place]], int(rows["seq"][place])
            found[0] += 1
            found[1] = found[1] or seq
            found[2] = seq
        yield rows


def _script(at: Ints, who: NDArray[np.int32], planted: list[Planted], start_ns: int) -> _Script:
    """Arrivals with the steps of anomalies put between them, and those that an anomaly silences."""
    code = np.zeros(len(at), np.uint8)
    for plan_ in planted:
        if plan_.mute:
            first, until = np.searchsorted(at, plan_.mute)
            code[first:until][who[first:until] == plan_.who] = trading.MUTE
    steps = [(*step, plan_.who, mark) for mark, plan_ in enumerate(planted, 1) for step in plan_.steps]
    table = np.array(steps, np.int64).reshape(-1, 5)
    table = table[np.argsort(table[:, 0], kind="stable")]
    places = np.searchsorted(at, table[:, 0])
    empty = np.zeros(len(at), np.int64)
    return _Script(
        at=np.insert(at, places, table[:, 0]) + start_ns,
        who=np.insert(who, places, table[:, 3]).astype(np.int32),
        code=np.insert(code, places, table[:, 1].astype(np.uint8)),
        value=np.insert(empty, places, table[:, 2]),
        mark=np.insert(empty.astype(np.uint16), places, table[:, 4].astype(np.uint16)),
    )
