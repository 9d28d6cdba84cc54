"""A barrier waits for room on the disk, and gives up when its worker has to leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.errors import DiskFull
from streams.kafka.room import Room
from tests.conftest import WaitUntil

MORE_THAN_THERE_IS = 1 << 60


async def test_with_room_nothing_waits(tmp_path: Path) -> None:
    room = Room(tmp_path, 1)
    room.check()
    await room.wait(lambda: False)
    assert not room.full


async def test_without_room_a_wait_lasts_until_it_has_to_give_up(tmp_path: Path, wait_until: WaitUntil) -> None:
    room = Room(tmp_path, MORE_THAN_THERE_IS)
    with pytest.raises(DiskFull, match="disk_reserve_mb"):
        room.check()
    leaving = asyncio.Event()
    waiting = asyncio.create_task(room.wait(leaving.is_set))
    await wait_until(lambda: room.full, 60, "a wait for room")
    assert not waiting.done()
    leaving.set()
    with pytest.raises(DiskFull, match="nothing is lost"):
        await asyncio.wait_for(waiting, 60)
    assert not room.full
