"""`marketprism invalidations`: what changes, as it changes, gaps included."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click
import orjson
from rich.console import Console

from agents.cli.output import json_option, run
from models.cache.invalidation import Invalidation, KeyOp, Source, changed_keys
from models.cache.version import epoch_of, offset_of
from streams.client.events import Changed, Event, Gap, GapReason, Heartbeat
from streams.client.invalidations import InvalidationConsumer, Start
from streams.kafka.instruments import InstrumentDirectory
from streams.settings import load_settings
from streams.topics import FRAMES, WRITES

_TOPICS = {Source.FRAMES: FRAMES, Source.WRITES: WRITES}
_KEYS_A_LINE = 6
_LOOK_EVERY_S = 1.0  # how often unknown hashes are worth asking the directory again


class _StartParameter(click.ParamType):
    name = "latest|earliest|OFFSETS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Start:
        if value in ("latest", "earliest"):
            start: Start = value
            return start
        try:
            offsets = {int(p): int(offset) for p, offset in (pair.split(":") for pair in value.split(","))}
        except ValueError:
            self.fail(f"{value!r} is neither latest, earliest nor PARTITION:OFFSET[,PARTITION:OFFSET...]", param, ctx)
        if min(*offsets, *offsets.values()) < 0:
            self.fail(f"{value!r} holds a negative number", param, ctx)
        return offsets


@click.command()
@click.option(
    "--from",
    "start",
    type=_StartParameter(),
    metavar="latest|earliest|OFFSETS",
    default="latest",
    help="Where to begin; OFFSETS is 0:120,1:98.",
)
@click.option("--max", "n_max", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Stop after this many seconds without one.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Resume from this file, and keep it.")
@click.option("--heartbeats", is_flag=True, help="Show heartbeats too.")
@json_option
def invalidations(
    start: Start, n_max: int | None, timeout_s: float | None, save: Path | None, heartbeats: bool, as_json: bool
) -> None:
    """Follow what changes in every partition; gaps are reported.

    With --json one object a line. Ctrl-C ends it with a summary on stderr. With --save the next run goes on where this
    one ended, and nothing in between is missed.

    \b
    Examples:
      marketprism invalidations
      marketprism invalidations --from earliest --max 10 --json
      marketprism invalidations --save positions.json
    """
    printer: _Printer = _JsonPrinter() if as_json else _LinePrinter()
    consumer = run(_follow(printer, start=start, n_max=n_max, timeout_s=timeout_s, save=save, heartbeats=heartbeats))
    click.echo(_summary(consumer), err=True)


async def _follow(
    printer: _Printer, *, start: Start, n_max: int | None, timeout_s: float | None, save: Path | None, heartbeats: bool
) -> InvalidationConsumer:
    settings = load_settings()
    n_left = n_max if n_max is not None else -1
    async with (
        InstrumentDirectory(settings) as directory,
        InvalidationConsumer(settings, start=start, save=save) as consumer,
    ):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, consumer.stop)
        names = _Names(directory)
        end = time.monotonic() + (timeout_s or 0)
        while n_left:
            left = None if timeout_s is None else max(0.0, end - time.monotonic())
            event = await consumer.next(left)
            if event is None:
                break
            if isinstance(event, Heartbeat) and not heartbeats:
                continue
            if isinstance(event, Changed):
                await names.learn(event.record)
            printer.show(event, names)
            n_left -= 1
            end = time.monotonic() + (timeout_s or 0)
    return consumer


class _Names:
    """Texts of instrument hashes, read on in the directory when a record names a new one."""

    def __init__(self, directory: InstrumentDirectory) -> None:
        self._directory = directory
        self._look_again = 0.0

    def text(self, name: int) -> str | None:
        known = self._directory.registry.by_hash.get(name)
        return None if known is None else self._directory.registry.texts[known]

    async def learn(self, record: Invalidation) -> None:
        unknown = any(self.text(name) is None for name in record.changes["hash"].tolist())
        if unknown and time.monotonic() >= self._look_again:
            await self._directory.catch_up()
            self._look_again = time.monotonic() + _LOOK_EVERY_S


class _Printer(Protocol):
    def show(self, event: Event, names: _Names) -> None: ...


class _JsonPrinter:
    def show(self, event: Event, names: _Names) -> None:
        click.echo(orjson.dumps(as_object(event, names)).decode())


class _LinePrinter:
    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def show(self, event: Event, names: _Names) -> None:
        clock = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        if isinstance(event, Gap):
            self._console.print(f"{clock}  p{event.partition}  GAP  {_gap_text(event)}", style="bold red", markup=False)
            return
        record = event.record
        span = f"{_version(record.from_version)}..{_version(record.to_version)}"
        head = f"{clock}  p{event.partition}  {_TOPICS[record.source]} {span}"
        if isinstance(event, Heartbeat):
            self._console.print(f"{head}  heartbeat", style="dim", markup=False)
            return
        keys = [*changed_keys(record, names.text), *(_key_text(op, text) for op, text in record.keys)]
        more = f" and {len(keys) - _KEYS_A_LINE} more" if len(keys) > _KEYS_A_LINE else ""
        self._console.print(f"{head}  {' '.join(keys[:_KEYS_A_LINE])}{more}", markup=False)


def as_object(event: Event, names: _Names) -> dict[str, Any]:
    """The JSON form of an event; docs/invalidations.md has its fields."""
    if isinstance(event, Gap):
        return {
            "event": "gap",
            "partition": event.partition,
            "source": None if event.source is None else _TOPICS[event.source],
            "reason": event.reason.value,
            "expected": event.expected,
            "got": event.got,
        }
    record = event.record
    shown: dict[str, Any] = {
        "event": "heartbeat" if isinstance(event, Heartbeat) else "changed",
        "partition": event.partition,
        "offset": event.offset,
        "source": _TOPICS[record.source],
        "token": record.token,
        "from_version": record.from_version,
        "to_version": record.to_version,
        "watermark_ns": record.watermark_ns,
        "sent_ns": record.sent_ns,
    }
    if isinstance(event, Changed):
        named = {op: [text for o, text in record.keys if o is op] for op in KeyOp}
        shown |= {
            "keys": [*changed_keys(record, names.text), *named[KeyOp.PUT], *named[KeyOp.DELETE]],
            "deleted": named[KeyOp.DELETE],
            "tags": named[KeyOp.TAG],
            "namespaces": named[KeyOp.NAMESPACE],
            "flush_all": bool(named[KeyOp.FLUSH_ALL]),
            "n_ticks": int(record.stamps["n_ticks"].sum()),
        }
    return shown


def _key_text(op: KeyOp, text: str) -> str:
    return text if op is KeyOp.PUT else f"{op.name.lower()}({text})"


def _gap_text(gap: Gap) -> str:
    if gap.reason is GapReason.VERSIONS and gap.source is not None:
        span = f"versions {_version(gap.expected)}..{_version(gap.got)} of {_TOPICS[gap.source]} were never announced"
        return f"{span}: read this partition back"
    return f"{gap.reason.value} in the invalidations, offset {gap.expected} to {gap.got}: read this partition back"


def _version(version: int) -> str:
    return f"{epoch_of(version)}:{offset_of(version)}" if version >= 0 else "start"


def _summary(consumer: InvalidationConsumer) -> str:
    counts = consumer.counts
    positions = ",".join(f"{p}:{offset}" for p, offset in sorted(consumer.positions.items()))
    return (
        f"{counts.changes} changes of {counts.keys} keys, {counts.heartbeats} heartbeats, {counts.gaps} gaps, "
        f"{counts.fenced} fenced, {counts.corrupt} corrupt; go on with --from {positions}"
    )
