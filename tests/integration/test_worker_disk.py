"""The worker's disk is full: nothing is committed that is not durable, it is said, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.cache.version import offset_of
from models.errors import ServiceUnavailable
from streams.days.replay import Pause, Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.offsets import committed
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, ask, is_gone, marks, metric, on_disk, sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 60.0
DISK_MB, RESERVE_MB = 96, 24


class SmallDisk:
    """A file system of its own with room for little."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, leave_bytes: int) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:  # full is what was wanted
            filler.write(bytes(max(shutil.disk_usage(self.folder).free - leave_bytes, 0)))

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if mount else None
    if done is None or done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs of its own: {done.stderr.strip() if done else 'no mount'}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def settings_on(disk: SmallDisk, settings: Settings, *, reserve_mb: int) -> Settings:
    worker = replace(
        settings.worker, data_dir=str(disk.folder / "worker"), disk_reserve_mb=reserve_mb, commit_interval_s=0.5
    )
    return replace(settings, worker=worker, publisher=replace(settings.publisher, frame_ticks=64))


async def is_the_day(run: Settings) -> None:
    assert served_digest(run) == GOLDEN["digest"]
    assert await redis_differences(run, disk_finals(run)) == []


async def test_without_room_nothing_is_committed_and_with_room_the_same_worker_goes_on(
    settings: Settings, small_disk: SmallDisk, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day = sample_day()

    async def fill(_: Pause) -> None:
        small_disk.fill(leave_bytes=(RESERVE_MB - 4) << 20)

    replay = Replay(
        [day], settings_on(small_disk, settings, reserve_mb=RESERVE_MB), speed=200, pause_at=[day.rows // 3],
        on_pause=fill,
    )  # fmt: skip
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log") as worker:
        report = await replay.run()

        async def unhealthy() -> bool:
            status, text = await ask(run, "/health")
            return status == 503 and json.loads(text)["disk_full"]

        async def visible() -> bool:
            seen = await marks(run)
            return all(
                seen[n].version >= 0 and offset_of(seen[n].version) >= o for n, o in report.offsets.items() if o >= 0
            )

        await wait_until(unhealthy, DEADLINE_S, "a worker that says that its disk is full")
        await wait_until(visible, DEADLINE_S, "everything in Redis, although nothing can be saved")
        assert await metric(run, "marketprism_worker_disk_full") == 1
        saved = on_disk(run)
        assert any(saved[number] < offset for number, offset in report.offsets.items())
        done = await committed(run)
        assert all(done[number] <= saved[number] for number in saved), "what is not durable is not committed"
        small_disk.free()
        await wait_served(run, report.offsets, DEADLINE_S)
        await is_the_day(run)
        assert not is_gone(worker.pid)
        assert await metric(run, "marketprism_worker_disk_full") == 0
        assert (await ask(run, "/health"))[0] == 200
    text = (tmp_path / "log").read_text()
    assert "disk_full" in text and "disk_has_room" in text and "worker_failed" not in text


async def test_a_worker_that_runs_into_the_end_of_its_disk_stops_and_loses_nothing(
    settings: Settings, small_disk: SmallDisk, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day, log = sample_day(), tmp_path / "log"

    async def fill(_: Pause) -> None:
        small_disk.fill(leave_bytes=0)

    replay = Replay(
        [day], settings_on(small_disk, settings, reserve_mb=0), speed=200, pause_at=[day.rows // 3], on_pause=fill
    )
    run = replay.settings
    async with WorkerProcess(run, log) as worker:
        report = await replay.run()
        await wait_until(lambda: is_gone(worker.pid), DEADLINE_S, "the end of the worker")
        assert "is full: nothing was committed and nothing is lost" in log.read_text()
        before = len(log.read_text())
        with pytest.raises(ServiceUnavailable, match="ended at its start"):
            await worker.start()
        assert re.search(r"is full: nothing was committed|No space left", log.read_text()[before:])
        small_disk.free()
        await worker.start()
        await wait_served(run, report.offsets, DEADLINE_S)
        await is_the_day(run)


async def test_a_worker_does_not_start_without_its_reserve(
    settings: Settings, small_disk: SmallDisk, tmp_path: Path
) -> None:
    with pytest.raises(ServiceUnavailable, match=r"disk_reserve_mb = 1000 are needed"):
        async with WorkerProcess(settings_on(small_disk, settings, reserve_mb=1000), tmp_path / "log"):
            pytest.fail("it started")
