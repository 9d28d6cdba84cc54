"""What the peers have made durable, read from where they would recover from: Kafka's changelog, SQLite's snapshots."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from models.market.digest import digest
from models.market.final import finals
from models.market.partition import MarketPartition
from streams.kafka.admin import connected
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings

STATEFUL_STEPS = ("peer.last", "peer.market")
_INPUT_STEP = "peer.log"
_SEPARATOR = b"|"
_CHANGELOG = "changelog__"  # what Quix puts before a consumer group, whose name begins with the run's prefix

LastLines = dict[str, dict[str, Any]]  # instrument -> "trade" or "quote" -> the JSON tick, read


async def committed_offsets(admin: AIOKafkaAdminClient, group: str, topic: str) -> dict[int, int]:
    """Offsets that a consumer group has committed of a topic (each the next to read), by partition."""
    try:
        found = await admin.list_consumer_group_offsets(group)
    except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
        return {}  # the first group of a new broker: its topic of offsets is being made
    return {at.partition: meta.offset for at, meta in found.items() if at.topic == topic and meta.offset >= 0}


async def quix_state(settings: Settings, group: str, topic: str) -> list[dict[bytes, bytes]]:
    """Newest value of each key in the changelog of a Quix application's state, by partition.

    Raises:
        ServiceUnavailable: no broker answers, or there is no changelog.
    """
    changelog = f"{_CHANGELOG}{group}--{topic}--default"
    consumer = await start_consumer(settings.kafka, changelog, range(settings.kafka.partitions))
    found: list[dict[bytes, bytes]] = []
    try:
        for number in range(settings.kafka.partitions):
            at = TopicPartition(changelog, number)
            end = (await consumer.end_offsets([at]))[at]
            newest: dict[bytes, bytes] = {}
            while await consumer.position(at) < end:
                for record in (await consumer.getmany(at, timeout_ms=100)).get(at, []):
                    newest[record.key] = record.value
            found.append(newest)
    finally:
        await stop_client(consumer)
    return found


async def forget_changelogs(settings: Settings) -> None:
    """Delete what Quix applications of this run have left beside the run's own topics. Raises: ServiceUnavailable."""
    async with connected(settings.kafka) as client:
        theirs = _CHANGELOG + settings.topics.prefix
        if names := [name for name in await client.list_topics() if name.startswith(theirs)]:
            await client.delete_topics(names)


def quix_last(state: Iterable[Mapping[bytes, bytes]]) -> LastLines:
    """Last ticks by instrument; keys are `"instrument"|"kind"`."""
    last: LastLines = {}
    for partition in state:
        for key, value in partition.items():
            instrument, kind = (json.loads(part) for part in key.split(_SEPARATOR, 1))
            if kind in ("trade", "quote"):
                last.setdefault(instrument, {})[kind] = json.loads(value)
    return last


def quix_pages(partition: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Our pages out of the state of one partition; their keys stand there in hex."""
    return [
        (bytes.fromhex(json.loads(key.split(_SEPARATOR, 1)[1])), value) for key, value in partition.items()
    ]  # fmt: skip


def bytewax_offsets(folder: Path, topic: str) -> dict[int, int]:
    """Offsets from which a Bytewax dataflow would resume (each the next to read), by partition."""
    found = _snapshots(folder, (_INPUT_STEP,))
    parts = [(*key.split("-", 1), offset) for key, offset in found.items()]
    return {int(number): offset for number, name, offset in parts if name == topic}


def bytewax_state(folder: Path) -> dict[str, Any]:
    """Newest durable snapshot of each key of the step that holds last values, or our pages."""
    return _snapshots(folder, STATEFUL_STEPS)


def bytewax_last(state: Mapping[str, Any]) -> LastLines:
    """Last ticks by instrument: read ones, or the lines as they came with the bars behind them."""
    last: LastLines = {}
    for instrument, snapshot in state.items():
        ticks = snapshot[0] if isinstance(snapshot, tuple) else snapshot
        last[instrument] = {k: json.loads(v) if isinstance(v, bytes) else v for k, v in ticks.items()}
    return last


def _snapshots(folder: Path, steps: tuple[str, ...]) -> dict[str, Any]:
    """A snapshot counts once the epoch that it was taken in is over on all workers."""
    files = sorted(folder.glob("part-*.sqlite3"))
    if not files:
        return {}
    try:
        with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True, timeout=5)) as db:
            rows = db.execute(
                f"SELECT state_key, ser_change FROM snaps WHERE step_id IN ({','.join('?' * len(steps))}) "
                "AND snap_epoch < (SELECT min(worker_frontier) FROM fronts) ORDER BY snap_epoch",
                steps,
            ).fetchall()
    except sqlite3.OperationalError:  # it is still making its tables
        return {}
    newest = dict(rows)
    return {key: plain(data) for key, data in newest.items() if data is not None}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def plain(data: bytes) -> Any:
    """A pickle of numbers, texts, bytes, tuples, lists and dicts; anything else is refused."""
    return _Plain(io.BytesIO(data)).load()


def digest_of_pages(partitions: Iterable[Iterable[tuple[bytes, bytes]]]) -> str:
    """Digest of what our pages hold, partition by partition. Raises: CorruptPage."""
    found = []
    for records in partitions:
        market = MarketPartition()
        market.load(sorted(records))
        found += list(finals(market))
    return digest(found)
