"""The first error of any part ends the whole, and what is under way with it."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import DeadlineExceeded, OwnerFenced
from streams.failstop import FailStop


async def test_the_first_error_counts_and_commits_end_before_anybody_hears_of_it() -> None:
    reasons: list[BaseException | None] = []
    failstop = FailStop(lambda: reasons.append(failstop.reason))
    waiting = asyncio.create_task(failstop.failed())
    first = OwnerFenced("a newer owner")
    failstop.fail(first)
    failstop.fail(DeadlineExceeded("its consequence"))
    assert await waiting is await failstop.failed() is failstop.reason is first
    assert reasons == [None]


async def test_lasting_work_that_breaks_is_a_failure_and_one_that_is_cancelled_is_none() -> None:
    failstop = FailStop(lambda: None)

    async def breaks() -> None:
        raise OwnerFenced("a newer owner")

    async def rests() -> None:
        await asyncio.Event().wait()

    resting = asyncio.create_task(failstop.lasting(rests()))
    await asyncio.sleep(0)
    resting.cancel()
    await asyncio.wait({resting})
    assert failstop.reason is None
    await failstop.lasting(breaks())
    assert isinstance(failstop.reason, OwnerFenced)


async def test_work_is_waited_for_unless_something_fails_meanwhile() -> None:
    failstop = FailStop(lambda: None)
    gone = asyncio.Event()

    async def ends() -> None:
        await asyncio.sleep(0)

    async def breaks() -> None:
        raise DeadlineExceeded("by itself")

    async def hangs() -> None:
        try:
            failstop.fail(OwnerFenced("a newer owner"))
            await asyncio.Event().wait()
        finally:
            gone.set()

    await failstop.unless_failed(ends())
    with pytest.raises(DeadlineExceeded, match="by itself"):
        await failstop.unless_failed(breaks())
    async with asyncio.timeout(10):
        with pytest.raises(OwnerFenced):
            await failstop.unless_failed(hangs())
        await gone.wait()
