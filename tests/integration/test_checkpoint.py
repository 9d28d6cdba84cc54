"""Checkpoints: what a lost or damaged folder begins from; a half-made, foreign or damaged one never counts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import rocksdict

from streams.cache.rocks import store_path
from streams.days.replay import Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.checkpoint import KEPT, Checkpoints
from streams.kafka.disk import scan
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, metric, sample_day, wipe


def open_store(path: Path) -> rocksdict.Rdict:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    return rocksdict.Rdict(str(path), options)


def content(path: Path) -> dict[bytes, bytes]:
    db = open_store(path)
    try:
        return dict(scan(db))
    finally:
        db.close()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Five were made of a store that counts on."""
    made = Checkpoints(tmp_path / "checkpoints", 0, "id-of-the-changelog")
    db = open_store(tmp_path / "live.db")
    for offset in range(5):
        db.put(b"offset", b"%d" % offset)
        made.make(db, 0, offset)
    db.close()
    return made


def test_the_newest_are_kept_and_each_holds_its_instant(checkpoints: Checkpoints, tmp_path: Path) -> None:
    kept = checkpoints.of(0)
    assert [int(path.name) for path in kept] == [4, 3]
    assert len(kept) == KEPT
    assert sorted(path.name for path in kept[0].parent.iterdir()) == sorted(path.name for path in kept)
    folder, found = tmp_path / "restored.db", []
    for _ in checkpoints.restored(0, folder):
        found.append(content(folder)[b"offset"])
        shutil.rmtree(folder)
    assert found == [b"4", b"3"]


def test_what_is_written_after_a_restore_changes_no_checkpoint(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "restored.db"
    checkpoint = next(iter(checkpoints.restored(0, folder)))
    tables = list(folder.glob("*.sst"))
    assert tables and all((checkpoint / table.name).stat().st_ino == table.stat().st_ino for table in tables)
    db = open_store(folder)
    db.put(b"offset", b"later")
    db.flush()
    db.compact_range(None, None)
    db.close()
    shutil.rmtree(folder)
    next(iter(checkpoints.restored(0, folder)))
    assert content(folder)[b"offset"] == b"4"


def test_half_of_a_checkpoint_and_another_changelogs_are_not_seen(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (checkpoints.of(0)[0].parent / f"{9:020d}.making-1").mkdir()
    assert [int(path.name) for path in checkpoints.of(0)] == [4, 3]
    assert checkpoints.of(1) == []
    for other in ("id-of-another", ""):
        assert Checkpoints(tmp_path / "checkpoints", 0, other).of(0) == []


def test_a_checkpoint_that_cannot_be_made_leaves_nothing_and_is_no_failure(tmp_path: Path) -> None:
    db = open_store(tmp_path / "live.db")
    db.close()
    made = Checkpoints(tmp_path / "checkpoints", 0, "id")
    made.make(db, 0, 1)
    assert made.of(0) == [] and not list((tmp_path / "checkpoints" / "id" / "0").iterdir())


# -- a worker ----------------------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_a_worker_without_its_folder_begins_from_a_checkpoint_and_replays_less(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    folder = tmp_path / "checkpoints"
    worker = replace(
        settings.worker, commit_interval_s=0.2, checkpoint_dir=str(folder), checkpoint_interval_s=1.0
    )  # fmt: skip
    settings = replace(settings, worker=worker, publisher=replace(settings.publisher, frame_ticks=64))
    without = replace(settings, worker=replace(worker, checkpoint_dir=""))
    replayed: list[float] = []

    async def serves_the_day(run: Settings, log: Path) -> None:
        async with WorkerProcess(run, log):
            replayed.append(await metric(run, "marketprism_recovery_records_total"))
            await wait_served(run, report.offsets, 60)
            assert served_digest(run) == GOLDEN["digest"]
            assert await redis_differences(run, disk_finals(run)) == []
        wipe(run)

    async with WorkerProcess(settings, tmp_path / "first.log"):
        report = await Replay([sample_day()], settings, live=True, speed=200).run()
        await wait_served(settings, report.offsets, 60)
    (changelog,) = folder.glob("*/*")
    used = [number for number, offset in report.offsets.items() if offset >= 0]
    for number in used:
        assert 0 < len(list((changelog / str(number)).iterdir())) <= KEPT, "a bounded number of checkpoints"
    wipe(settings)
    await serves_the_day(settings, tmp_path / "checkpoint.log")
    text = (tmp_path / "checkpoint.log").read_text()
    assert text.count("checkpoint_restored") == len(used) and "store_damaged" not in text

    newest = max((changelog / str(used[0])).iterdir())
    (newest / "CURRENT").write_bytes(b"")
    await serves_the_day(settings, tmp_path / "damaged.log")
    text = (tmp_path / "damaged.log").read_text()
    assert text.count("store_damaged") == 1 and "worker_failed" not in text

    await serves_the_day(without, tmp_path / "changelog.log")
    print(f"records replayed: {replayed[0]:g} from a checkpoint, {replayed[2]:g} from the changelog")
    assert replayed[0] < replayed[2] / 2
    assert not store_path(settings, 0).exists(), "each of them began without a folder"
