"""Reads of the worker's RocksDB on its machine: a live worker with a market and entries, and a process that reads."""

from __future__ import annotations

from agents.bench.cache.rocks_reads import keys_of
from agents.bench.child import ChildProcess
from agents.bench.flow import flowing
from agents.bench.producer import tick_log
from agents.bench.site import BenchSite, forget_run
from models.perf.ticks import SeededTicks
from streams.client.reader import MarketCache
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess

KINDS = ("row", "entry")
FIGURES = ("p50_ns", "p99_ns", "cpu_ns")

_RATE = 20_000.0  # ticks a second
_FRAME_TICKS = 256
_VALUE = "." * 100
_START_S = 120.0


def metric(kind: str, figure: str) -> str:
    return f"rocksdb_{kind}_{figure}"


async def time_rocks_reads(site: BenchSite, *, keys: int, seconds: float, seed: int) -> dict[str, float]:
    """For so long the last quotes of `keys` instruments, then as long as many entries; ticks flow meanwhile.

    Returns:
        by `metric`: percentiles of how long a read took, and CPU of the reading process a read, ns.

    Raises:
        MarketPrismError: a service failed, or a key was missed.
    """
    settings = site.run_settings("cache")
    source = SeededTicks(keys, seed=seed)
    spec = {"keys": keys, "seconds": seconds, "seed": seed}
    await ensure_topics(settings)
    try:
        async with (
            tick_log(settings, source, frame_ticks=_FRAME_TICKS) as log,
            WorkerProcess(settings, site.folder / "worker.log"),
        ):
            await log.send_opening()
            async with MarketCache(settings, follow=False) as writer:
                await writer.put_many(dict.fromkeys(keys_of(source)["entry"], _VALUE))
            await wait_served(settings, log.sender.offsets)
            async with (
                flowing(log, _RATE),
                ChildProcess("agents.bench.cache.rocks_reads", settings, spec, site.folder / "processes.log") as child,
            ):
                told = await child.hear(len(KINDS) * seconds + _START_S)
    finally:
        await forget_run(settings)
    return {metric(kind, figure): told[kind][figure] for kind in KINDS for figure in FIGURES}
