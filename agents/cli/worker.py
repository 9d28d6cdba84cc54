"""`marketprism worker`."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import sys
import threading

import click

from agents.cli.output import run
from models.errors import MarketPrismError
from streams.allocator import keep_freed_memory
from streams.log import setup_logging
from streams.settings import Settings, load_settings


@click.command(epilog="Example: marketprism worker --port 8801")
@click.option("--port", type=int, help="Port of /metrics, /health and /ready (default: worker.port).")
@click.option("--id", "worker_id", help="Consumer group; all workers of a site share it (default: worker.id).")
def worker(port: int | None, worker_id: str | None) -> None:
    """Run a worker: RocksDB tables, Redis and invalidations from the log.

    SIGTERM and Ctrl-C finish the round in flight, make its state durable, commit and leave.
    """
    settings = load_settings()
    own = dataclasses.replace(settings.worker, port=port or settings.worker.port, id=worker_id or settings.worker.id)
    setup_logging(settings.log)
    keep_freed_memory()
    run(serve(dataclasses.replace(settings, worker=own)))


EXIT_S = 20.0  # a worker that failed is given this long to stop in order
LEAVE_S = 2.0  # and its threads this long after it


async def serve(settings: Settings) -> None:
    """Run until a signal comes (returns) or the worker cannot go on (raises)."""
    from agents.worker import Worker  # noqa: PLC0415 - importing Faust takes 0.8 s, `--help` shall not

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = Worker(settings)
    try:
        await running.start()
    except BaseException as exc:
        _end_within(LEAVE_S, exc)
        raise
    try:
        # What lives until the end is not searched again: with the defaults a fifth of the CPU at frames of 64 ticks.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        failure = asyncio.create_task(running.failed())
        told = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({failure, told}, return_when=asyncio.FIRST_COMPLETED)
        if failure in done:
            _end_within(EXIT_S, failure.result())
        told.cancel()
        failure.cancel()
    finally:
        await running.stop()
    if failure in done:
        reason = failure.result()
        _end_within(LEAVE_S, reason)
        raise MarketPrismError(f"the worker stopped: {reason}") from reason


def _end_within(seconds: float, reason: BaseException) -> None:
    """End the process even if its parts do not: a thread of Faust that nobody could stop would keep it for ever."""

    def end() -> None:
        sys.stderr.write(f"marketprism: the worker stopped: {reason} (its parts did not end within {seconds:g} s)\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
