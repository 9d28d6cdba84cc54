"""Processes that can be frozen, cut off and killed, and the time that their messages take."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from models.errors import MarketPrismError
from tests.coherence.virtual import VirtualClock

SKEW_MS = 50.0  # between any two clocks

current: contextvars.ContextVar[Process] = contextvars.ContextVar("process")  # whose task it is


class Process:
    """One process of a simulation: tasks that end together, a clock that is a little wrong, a line to the network.

    Attributes:
        cut: no message leaves or reaches it.
        slow_s: what messages take beside their usual time; drawn anew by the faults.
        lag_s: by how much it reads logs later than it could.
        failure: what ended it on its own.
        bugs: errors that are none of ours: the simulation fails with them.
    """

    def __init__(self, name: str, clock: VirtualClock, random: Random) -> None:
        self.name = name
        self.true_clock = clock
        self.random = random
        self.skew_ns = round(random.uniform(-0.5, 0.5) * SKEW_MS * 1e6)
        self.cut = False
        self.slow_s = 0.0
        self.lag_s = 0.0
        self.failure: BaseException | None = None
        self.bugs: list[BaseException] = []
        self._runs = asyncio.Event()
        self._runs.set()
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order

    def __repr__(self) -> str:
        return f"Process({self.name})"

    def now_ns(self) -> int:
        return self.true_clock.ns + self.skew_ns

    @property
    def alive(self) -> bool:
        return bool(self._tasks)

    @property
    def frozen(self) -> bool:
        return not self._runs.is_set()

    def freeze(self) -> None:
        self._runs.clear()

    def thaw(self) -> None:
        self._runs.set()

    async def running(self) -> None:
        """Every message passes here, so a frozen process says and hears nothing."""
        await self._runs.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def kill(self) -> None:
        """What it has sent still arrives."""
        self._runs.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        current.set(self)
        try:
            await work
        except MarketPrismError as exc:
            self.failure = exc
        except Exception as exc:
            self.bugs.append(exc)
        else:
            return
        me = asyncio.current_task()
        for task in list(self._tasks):
            if task is not me:
                task.cancel()

    # -- messages

    def trip_s(self) -> float:
        """How long one message takes, in seconds: most are quick, some are not."""
        draw = self.random.random()
        usual = 0.0002 + 0.0008 * draw if draw < 0.9 else 0.01 * self.random.random()
        return usual + self.slow_s * self.random.random()

    async def ask(self, serve: Callable[[], Any], *, lost: float = 0.0) -> Any:
        """Send a request and wait for its reply; None comes back never (the caller has a timeout).

        Args:
            serve: runs at the server when the request arrives.
            lost: probability that the request, or that its reply, is lost.
        """
        await self.running()
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        request_lost = self.cut or self.random.random() < lost
        reply_lost = self.random.random() < lost

        def deliver(value: Any) -> None:
            if not reply.done():
                reply.set_exception(value) if isinstance(value, OSError) else reply.set_result(value)

        def arrive() -> None:
            try:
                value = serve()
            except OSError as exc:
                value = exc
            if not (self.cut or reply_lost):
                loop.call_later(self.trip_s(), deliver, value)

        if not request_lost:
            loop.call_later(self.trip_s(), arrive)
        value = await reply
        await self.running()
        return value
