"""One measurement of one system: the log filled before it, and its CPU until the last record of it is durable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.bench.gateway import GatewayScenario
from agents.bench.json_log import json_log
from agents.bench.peers import durable
from agents.bench.peers.jobs.task import PeerTask
from agents.bench.peers.oracle import Bars, check_bars, check_last, expected_bars
from agents.bench.peers.process import PeerProcess
from agents.bench.process import CpuMeter, held
from agents.bench.producer import tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.worker import LONGEST_HOLD_S, WorkerScenario, patient
from models.errors import MarketPrismError
from models.market.digest import digest
from models.market.instruments import partition_of
from models.perf.ticks import SeededTicks
from streams.kafka.admin import connected, ensure_topics
from streams.settings import Settings
from streams.topics import FRAMES

OURS = "ours"
BY_PARTITION = ("quix_record",)  # its windows close by the time of their Kafka partition, others' by their instrument


class Figures(NamedTuple):
    """Of one run of one system; `cpu_us` is per record, or per tick where records are frames."""

    ticks_per_cpu_s: float
    cpu_us: float
    broker_cpu_s: float


@dataclass(frozen=True)
class Load:
    """What each system gets.

    Attributes:
        records_ticks: rows that come as JSON, one event a record.
        frames_ticks: rows that come as frames.
        batch_records: records of one Kafka batch of JSON.
        commit_s: each system makes its work durable as often.
    """

    instruments: int
    records_ticks: int
    frames_ticks: int
    frame_ticks: int
    batch_records: int
    commit_s: float
    seed: int

    def source(self) -> SeededTicks:
        return SeededTicks(self.instruments, seed=self.seed)


async def measure_ours(site: BenchSite, load: Load, shape: str) -> Figures:
    """Our worker process, as `bench gateway` and `bench worker` measure it. Raises: MarketPrismError."""
    if shape == "record":
        found = await GatewayScenario(load.instruments, load.records_ticks, load.batch_records, load.seed).run(site)
        per_record = found["ticks_per_record"]
        return Figures(
            found["records_per_cpu_s"] * per_record,
            found["cpu_us_per_record"],
            found.get("broker_cpu_s", 0.0),
        )
    found = await WorkerScenario(load.instruments, load.frames_ticks, load.frame_ticks, load.seed).run(site)
    return Figures(found["ticks_per_cpu_s"], found["cpu_us_per_tick"], found.get("broker_cpu_s", 0.0))


async def measure_peer(site: BenchSite, load: Load, job: str, python: Path) -> Figures:
    """A peer's process, measured in the same steps; its state is read back and compared.

    Raises:
        MarketPrismError: it failed, or ended with something else than what was sent.
    """
    settings = patient(site.run_settings("peers"))
    await ensure_topics(settings)
    try:
        if job.endswith("frames"):
            return await _on_frames(site, settings, load, job, python)
        return await _on_records(site, settings, load, job, python)
    finally:
        await durable.forget_changelogs(settings)
        await forget_run(settings)


async def _on_records(site: BenchSite, settings: Settings, load: Load, job: str, python: Path) -> Figures:
    source = load.source()
    async with json_log(settings, source, batch_records=load.batch_records) as log:
        task = _task(settings, load, log.topic)
        async with (
            connected(settings.kafka) as admin,
            PeerProcess(python, job, task, site.folder / f"{job}.log") as peer,
        ):
            await log.send_opening()
            await peer.wait_durable(log.offsets, admin)
            before = log.records
            with held(peer.pid):
                began = time.monotonic()
                await log.send(load.records_ticks)
                _check_hold(began)
                cpu = CpuMeter({"peer": peer.pid, **site.pids()})
            await peer.wait_durable(log.offsets, admin)
            figures = _figures(cpu.read(), load.records_ticks, log.records - before)
            result = await peer.result()
        if result.late:
            raise MarketPrismError(f"{job} left out {result.late} trades as late; none of them is")
        last = await _last(settings, peer, log.topic)
        check_last(job, last, log.expected())
    check_bars(job, result.bars, _bars(load, job, settings.kafka.partitions))
    return figures


async def _on_frames(site: BenchSite, settings: Settings, load: Load, job: str, python: Path) -> Figures:
    source = load.source()
    async with tick_log(settings, source, frame_ticks=load.frame_ticks) as log:
        topic = settings.topics.prefix + FRAMES
        task = _task(settings, load, topic, source)
        async with (
            connected(settings.kafka) as admin,
            PeerProcess(python, job, task, site.folder / f"{job}.log") as peer,
        ):
            await log.send_opening()
            await peer.wait_durable(log.sender.offsets, admin)
            with held(peer.pid):
                began = time.monotonic()
                await log.send(load.frames_ticks)
                _check_hold(began)
                cpu = CpuMeter({"peer": peer.pid, **site.pids()})
            await peer.wait_durable(log.sender.offsets, admin)
            figures = _figures(cpu.read(), load.frames_ticks, load.frames_ticks)
            await peer.result()
        wanted, found = digest(log.expected()), await _pages_digest(settings, peer, topic)
    if found != wanted:
        raise MarketPrismError(f"the pages that {job} made durable hold {found}, the ticks that were sent {wanted}")
    return figures


def _task(settings: Settings, load: Load, topic: str, source: SeededTicks | None = None) -> PeerTask:
    return PeerTask(
        bootstrap=settings.kafka.bootstrap,
        topic=topic,
        group=f"{settings.topics.prefix}peer",
        folder=settings.worker.data_dir,
        commit_s=load.commit_s,
        instruments=() if source is None else tuple(source.instruments),
    )


def _figures(used: Mapping[str, float], ticks: int, records: int) -> Figures:
    peer_s = used["peer"]
    return Figures(ticks / peer_s, peer_s / records * 1e6, used.get("broker", 0.0))


def _check_hold(began: float) -> None:
    if time.monotonic() - began > LONGEST_HOLD_S:
        raise MarketPrismError(f"filling the log took more than {LONGEST_HOLD_S:g} s: measure fewer ticks")


def _bars(load: Load, job: str, n_partitions: int) -> Bars:
    source = load.source()
    ticks = np.concatenate([source.opening(), *source.batches(load.records_ticks)])
    texts = [instrument.text for instrument in source.instruments]
    if job in BY_PARTITION:
        clocks = np.array([partition_of(text, n_partitions) for text in texts])
    else:
        clocks = np.arange(len(texts))
    return expected_bars(ticks, texts, clocks)


async def _last(settings: Settings, peer: PeerProcess, topic: str) -> durable.LastLines:
    if peer.job.startswith("quix"):
        return durable.quix_last(await durable.quix_state(settings, peer.task.group, topic))
    return durable.bytewax_last(durable.bytewax_state(peer.recovery))


async def _pages_digest(settings: Settings, peer: PeerProcess, topic: str) -> str:
    if peer.job.startswith("quix"):
        partitions = await durable.quix_state(settings, peer.task.group, topic)
        return durable.digest_of_pages(durable.quix_pages(partition) for partition in partitions)
    return durable.digest_of_pages(pages for _, pages in durable.bytewax_state(peer.recovery).values())
