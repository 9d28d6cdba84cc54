"""Recorded market days replayed through a worker: every tier holds what an offline fold of the day holds."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.market import facets
from models.market.digest import InstrumentFinal, digest, serialise
from models.market.fold import OfflineFold
from models.market.tick import Kind
from streams.days.day import Day
from streams.days.replay import Pause, Replay
from streams.days.run import run_days
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.replay.conftest import Imported
from tests.workers import Assassin

pytestmark = [pytest.mark.integration, pytest.mark.data, pytest.mark.timeout(900)]

SPEED = float(os.environ.get("MARKETPRISM_TEST_SPEED", "5000"))  # 100 takes 10 minutes
N_PAUSES = 60
DEADLINE_S = 120.0


@pytest.fixture(scope="session")
def binance_day(binance: Imported) -> Day:
    """Ten minutes of six instruments with full books."""
    return binance[0]


@pytest.fixture(scope="session")
def lean_day(lean: Imported) -> Day:
    """Trades and quotes of US equities, 51 instruments."""
    return lean[0]


class Oracle:
    """What the day holds after a row, for rows that rise."""

    def __init__(self, day: Day) -> None:
        self._fold = OfflineFold([instrument.text for instrument in day.instruments])
        self._batches = day.raw_batches()
        self._batch = next(self._batches)

    def after(self, seq: int) -> list[InstrumentFinal]:
        while len(self._batch) and self._batch["seq"][0] <= seq:
            n = int(np.searchsorted(self._batch["seq"], seq, side="right"))
            self._fold.update(self._batch[:n])
            self._batch = self._batch[n:]
            if not len(self._batch):
                self._batch = next(self._batches, self._batch)
        return self._fold.finals()


def unequal(served: list[InstrumentFinal], expected: list[InstrumentFinal]) -> list[str]:
    """Instruments that differ in any number of their last trade, quote, book or count of rows."""
    ours, theirs = ({final.text: serialise(final) for final in finals} for finals in (served, expected))
    return sorted(text for text in ours.keys() | theirs.keys() if ours.get(text) != theirs.get(text))


def changed(day: Day) -> dict[int, int]:
    """Facets (bits) that the day changes, by instrument hash."""
    facet_of = {Kind.TRADE: facets.TRADE, Kind.QUOTE: facets.QUOTE, Kind.BOOK: facets.BOOK}
    bits: dict[int, int] = {}
    hashes = [instrument.hash for instrument in day.instruments]
    for ticks in day.raw_batches():
        for number, kind in np.unique(ticks[["instrument_id", "kind"]]).tolist():
            bits[hashes[number]] = bits.get(hashes[number], 0) | 1 << facet_of[Kind(kind)]
    return bits


def moments(day: Day, n: int, seed: int) -> list[int]:
    """Rows at which to look: seeded, one in each of `n` equal parts of the day."""
    part = day.rows // n
    return [part * k + random.Random(seed + k).randrange(1, part) for k in range(n)]


async def test_books_equal_an_offline_fold_at_sixty_moments_of_a_binance_day(
    settings: Settings, binance_day: Day, tmp_path: Path
) -> None:
    oracle = Oracle(binance_day)
    n_levels = 0
    seen: list[int] = []

    async def compare(pause: Pause) -> None:
        nonlocal n_levels
        await wait_served(run, pause.offsets, DEADLINE_S)
        expected = oracle.after(pause.seq)
        served = disk_finals(run)
        assert unequal(served, expected) == [], f"RocksDB at row {pause.seq}"
        assert await redis_differences(run, expected, ended=False) == [], f"Redis at row {pause.seq}"
        n_levels += sum(len(final.bids) + len(final.asks) for final in expected)
        seen.append(pause.seq)

    quick = replace(settings, worker=replace(settings.worker, commit_interval_s=0.05))
    asked = moments(binance_day, N_PAUSES, seed=1)
    replay = Replay([binance_day], quick, pause_at=asked, on_pause=compare)
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log"):
        began = time.monotonic()
        report = await replay.run()
        await compare(Pause(binance_day.rows, report.offsets))
        seconds = time.monotonic() - began
    assert len(seen) > 50 and seen == sorted(set(seen))
    assert served_digest(run) == report.digest == digest(oracle.after(binance_day.rows))
    print(f"{len(seen)} moments, {n_levels} levels compared in both tiers, {seconds:.1f} s")


@pytest.mark.parametrize("speed", [None, SPEED], ids=["max", f"{SPEED:g}x"])
async def test_a_lean_day_is_served_and_announced_whole_at_any_speed(
    settings: Settings, lean_day: Day, tmp_path: Path, speed: float | None
) -> None:
    assert (lean_day.rows, len(lean_day.instruments)) == (2_763_220, 51)
    expected = Oracle(lean_day).after(lean_day.rows)
    report = await run_days([lean_day], settings, tmp_path / "log", speed=speed)
    run = replace(settings, topics=replace(settings.topics, prefix=report.replay.prefix))
    served = disk_finals(run)
    assert len(served) == 51
    assert {f.text: (f.trade, f.quote) for f in served} == {f.text: (f.trade, f.quote) for f in expected}
    assert unequal(served, expected) == []
    assert await redis_differences(run, expected) == []
    assert report.served_digest == report.replay.digest == digest(expected)

    named = report.heard.keys
    missed = {hash_: bits for hash_, bits in changed(lean_day).items() if bits & ~named.get(hash_, 0)}
    assert missed == {}, "every instrument and facet that the day changes was announced"
    assert named.keys() == {instrument.hash for instrument in lean_day.instruments}
    assert (report.heard.gaps, report.heard.falls, report.dead_letters) == (0, 0, 0)
    print(
        f"{report.replay.rows} ticks sent in {report.replay.seconds:.1f} s, {report.heard.records} invalidations "
        f"name {report.heard.n_keys} keys, p50 and p99 {report.heard.percentiles_ms(50, 99)} ms"
    )


async def test_a_binance_day_survives_kills_in_the_middle_of_its_books(
    settings: Settings, binance_day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    async def strike(pause: Pause) -> None:
        await assassin.strike()
        struck.append(pause.seq)

    struck: list[int] = []
    named = replace(settings, worker=replace(settings.worker, instance_id="one"))
    replay = Replay([binance_day], named, pause_at=moments(binance_day, 2, seed=2), on_pause=strike)
    run = replay.settings
    await ensure_topics(run)
    async with WorkerProcess(run, tmp_path / "log") as worker:
        assassin = Assassin(worker, wait_until)
        report = await replay.run()
        await assassin.back_at_work()
        await wait_served(run, report.offsets, DEADLINE_S)
    assert assassin.kills == 2
    ends = disk_finals(run)
    assert digest(ends) == report.digest
    assert await redis_differences(run, ends) == []
    print(f"killed after rows {struck} of {report.rows}")
