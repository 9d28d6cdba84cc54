"""`TickPublisher`: ticks in, acknowledged frames in Kafka out.

async with TickPublisher(settings) as publisher:
    await publisher.trade("binance.spot.BTC-USDT", price="64000.5", size="0.25", side="buy", ts_event_ns=ts)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Self

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from models.errors import PublishFailed, SettingsError, TickRefused
from models.market.instruments import Instrument, instrument_hash, parse
from models.market.json_refusals import Refusal
from models.market.json_tick import MAX_ROWS, parse_batch
from models.market.registry import InstrumentRegistry
from models.market.tick import RAW, TICK, Flag, TickArray
from streams.client.quiet import QUIET_S, QuietPartitions
from streams.clock import Clock, now_ns
from streams.kafka.clients import partition_count, start_producer, stop_client
from streams.kafka.frame_sender import FrameSender, SenderStats
from streams.kafka.frames import FramePacker
from streams.kafka.instruments import InstrumentDirectory
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

MAX_EVENT_TICKS = MAX_RECORD_BYTES // 80  # a row's columns take at most 72 bytes
_LINES_A_STEP = 1000  # parsing more at once holds the loop too long

Number = str | int | Decimal


class TickPublisher:
    """Packs ticks into frames by partition and sends them with an idempotent producer.

    Rows are gathered for `publisher.frame_ms` or until frames are full. At most `publisher.buffer_ticks` rows are on
    their way; beyond that `publish` waits. Each instance is a source of its own, `pub/<name>/<incarnation>`, whose rows
    are numbered 1..N, so a consumer notices a lost frame and drops a repeated one. Calls from several tasks are safe;
    each call's events stay in order.

    Args:
        settings: broker, topic prefix, `publisher.*`, `instruments.strict`.
        incarnation: tells this start from earlier ones of the same name; by default the clock's reading.
        clock: dates frames and JSON ticks without a receipt time, UTC ns.
    """

    def __init__(self, settings: Settings, *, incarnation: int | None = None, clock: Clock = now_ns) -> None:
        limits = settings.publisher
        self.source_text = f"pub/{limits.name}/{clock() if incarnation is None else incarnation}"
        self._settings = settings
        self._limits = limits
        self._clock = clock
        capacity = max(1, min(limits.frame_ticks * settings.kafka.partitions, limits.buffer_ticks // 2))
        self._rows = np.empty(capacity, TICK)
        self._due = np.empty(capacity, np.int64)
        self._n_rows = 0
        self._position = 0
        self._has_rows = asyncio.Event()
        self._turn = asyncio.Lock()  # frames of a partition must enter the producer in order
        self._pacer: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer
        self._directory: InstrumentDirectory
        self._packer: FramePacker
        self._sender: FrameSender

    def __repr__(self) -> str:
        return f"<TickPublisher {self.source_text}: {self._position} ticks taken>"

    @property
    def stats(self) -> SenderStats:
        """Ticks, frames and bytes handed to Kafka, and ticks acknowledged."""
        return self._sender.stats

    @property
    def offsets(self) -> dict[int, int]:
        """Partition -> offset of its newest acknowledged frame."""
        return dict(self._sender.offsets)

    @property
    def registry(self) -> InstrumentRegistry:
        """Known instruments: what an `instrument_id` means in `publish` without a list of instruments."""
        return self._directory.registry

    async def __aenter__(self) -> Self:
        kafka = self._settings.kafka
        self._producer = await start_producer(kafka)
        self._sender = FrameSender(self._settings, self._producer)
        self._directory = InstrumentDirectory(self._settings, producer=self._producer)
        try:
            topic = self._sender.topic
            n = await partition_count(self._producer, kafka, topic)
            if n != kafka.partitions:
                raise SettingsError(f"{topic} has {n} partitions but kafka.partitions is {kafka.partitions}")
            await self._directory.start()
        except BaseException:
            await stop_client(self._producer)
            raise
        self._packer = FramePacker(
            self.registry,
            source=instrument_hash(self.source_text),
            n_partitions=kafka.partitions,
            frame_ticks=self._limits.frame_ticks,
            dense=True,
        )
        self._quiet = QuietPartitions(kafka.partitions)
        self._pacer = asyncio.create_task(self._pace(), name="publisher-pacer")
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            await self.flush()
        except PublishFailed:
            if exc_type is None:
                raise
        finally:
            if self._pacer is not None:
                self._pacer.cancel()
                await asyncio.gather(self._pacer, return_exceptions=True)
            await self._directory.stop()
            await stop_client(self._producer, 0.5 if self._sender.unacknowledged else 5.0)

    async def define(self, instruments: Iterable[Instrument]) -> list[int]:
        """Ids under which `publish` takes ticks of these instruments; new ones enter `md.instruments.v1`.

        Raises:
            InstrumentConflict: one is defined with other exponents.
            PublishFailed: Kafka did not acknowledge in time.
        """
        return await self._directory.define(instruments)

    async def publish(
        self,
        ticks: TickArray,
        instruments: Sequence[Instrument] | None = None,
        *,
        due_ns: int | NDArray[np.int64] | None = None,
    ) -> None:
        """Take whole events; returns when they are buffered, `flush` when they are acknowledged.

        Args:
            ticks: TICK, shape (n,), events in order, the last row of each with flag LAST; `seq` is assigned here.
            instruments: what `instrument_id` indexes; None = ids that `define` gave.
            due_ns: when the rows were due, one for all or shape (n,); None = now.

        Raises:
            PublishFailed: an earlier frame was refused, or no ack came for `publisher.delivery_timeout_s`. Nothing of
                this call was taken, or the message says how many rows were.
            TickRefused: an event of more rows than a record can hold (`too_large`).
            InstrumentConflict: an instrument is defined with other exponents.
            ValueError: the last row does not end an event, or a row's id means nothing.
        """
        self._sender.check()
        if not len(ticks):
            return
        ends = _event_ends(ticks)
        ids = await self._ids(ticks["instrument_id"], instruments)
        due = np.broadcast_to(np.int64(self._clock()) if due_ns is None else np.asarray(due_ns, np.int64), len(ticks))
        begin = 0
        while begin < len(ticks):
            room = len(self._rows) - self._n_rows
            n_fitting = int(np.searchsorted(ends, begin + room, side="right"))
            end = int(ends[n_fitting - 1]) if n_fitting else 0
            if end <= begin and not self._n_rows:  # the event is larger than the whole buffer
                end = int(ends[np.searchsorted(ends, begin, side="right")])
                self._rows, self._due = np.empty(end - begin, TICK), np.empty(end - begin, np.int64)
            if end > begin:
                self._take(ticks[begin:end], ids[begin:end], due[begin:end])
                begin = end
            if begin < len(ticks) or self._n_rows == len(self._rows):
                try:
                    await self._emit()
                except PublishFailed as exc:
                    raise PublishFailed(f"{exc} ({begin} of the call's {len(ticks)} ticks were taken)") from exc
        self._has_rows.set()

    async def publish_json(self, lines: Sequence[bytes]) -> list[Refusal]:
        """Take JSON ticks (docs/wire.md), one each; answers those that were refused, by their index in `lines`.

        Raises: as `publish`.
        """
        refused: list[Refusal] = []
        for begin in range(0, len(lines), _LINES_A_STEP):
            step = lines[begin : begin + _LINES_A_STEP]
            batch = parse_batch(
                step,
                received_ns=[self._clock()] * len(step),
                positions=np.arange(len(step), dtype=np.uint64) * np.uint64(MAX_ROWS),
                registry=self.registry,
                strict=self._settings.instruments.strict,
            )
            refused += [refusal._replace(record=refusal.record + begin) for refusal in batch.refused]
            await self.publish(batch.ticks)
        return refused

    async def trade(
        self,
        instrument: str,
        *,
        price: Number,
        size: Number,
        ts_event_ns: int,
        side: str | None = None,
        ts_recv_ns: int | None = None,
        trade_id: int | str | None = None,
    ) -> None:
        """Publish one trade; for many at once `publish` and `publish_json` cost a fiftieth.

        Args:
            instrument: `venue.market_type.SYMBOL`.
            price, size: decimal text, int or Decimal; never a float.
            side: of the aggressor, "buy" or "sell"; None = unknown.
            ts_recv_ns: None = now.

        Raises:
            TickRefused, InvalidInstrument: a value breaks the rules of the wire.
            PublishFailed: see `publish`.
        """
        await self._publish_one(
            instrument, "trade", ts_event_ns, ts_recv_ns, price=price, quantity=size, side=side, trade_id=trade_id
        )

    async def quote(
        self,
        instrument: str,
        *,
        bid_price: Number,
        bid_size: Number,
        ask_price: Number,
        ask_size: Number,
        ts_event_ns: int,
        ts_recv_ns: int | None = None,
        update_id: int | None = None,
    ) -> None:
        """Publish a best bid and offer; a size of 0 says that the side is empty. Arguments and errors as `trade`."""
        await self._publish_one(
            instrument, "quote", ts_event_ns, ts_recv_ns, bid_price=bid_price, bid_quantity=bid_size,
            ask_price=ask_price, ask_quantity=ask_size, last_update_id=update_id,
        )  # fmt: skip

    async def flush(self, deadline_s: float | None = None) -> None:
        """Wait until every tick taken so far is acknowledged (`deadline_s`: default `publisher.delivery_timeout_s`).

        Raises:
            PublishFailed: not all were, and which partitions wait.
        """
        deadline_s = self._limits.delivery_timeout_s if deadline_s is None else deadline_s
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        await self._emit(deadline_s)
        await self._sender.drain(max(end - loop.time(), 0.0))

    async def _publish_one(
        self, text: str, data_type: str, ts_event_ns: int, ts_recv_ns: int | None, **fields: Number | None
    ) -> None:
        for name, value in fields.items():
            if not isinstance(value, str | int | Decimal | None):
                raise TickRefused("bad_number", f"{name} is a {type(value).__name__}: give text, int or Decimal")
        instrument = parse(text)
        tick: dict[str, Any] = {
            "exchange": instrument.venue,
            "market_type": instrument.market_type,
            "symbol": instrument.symbol,
            "data_type": data_type,
            "ts_ns": ts_event_ns,
            "collected_ts_ns": self._clock() if ts_recv_ns is None else ts_recv_ns,
        } | {name: format(v, "f") if isinstance(v, Decimal) else str(v) for name, v in fields.items() if v is not None}
        for refusal in await self.publish_json([msgspec.json.encode(tick)]):
            raise TickRefused(refusal.reason, refusal.detail)

    async def _ids(self, ids: NDArray[np.int32], instruments: Sequence[Instrument] | None) -> NDArray[np.int32]:
        known = len(self.registry) if instruments is None else len(instruments)
        if not 0 <= int(ids.min()) <= int(ids.max()) < known:
            raise ValueError(f"instrument ids lie in {ids.min()}..{ids.max()}, but {known} instruments are known")
        if instruments is None:
            await self._directory.acknowledge()
            return ids
        return np.array(await self._directory.define(instruments), np.int32)[ids]

    def _take(self, ticks: TickArray, ids: NDArray[np.int32], due: NDArray[np.int64]) -> None:
        begin, end = self._n_rows, self._n_rows + len(ticks)
        rows = self._rows[begin:end]
        rows.view(RAW)[:] = np.ascontiguousarray(ticks).view(RAW)
        rows["instrument_id"] = ids
        rows["seq"] = np.arange(self._position + 1, self._position + 1 + len(ticks), dtype=np.uint64)
        self._due[begin:end] = due
        self._n_rows = end
        self._position += len(ticks)

    async def _emit(self, patience_s: float | None = None) -> None:
        """Hand the gathered rows to the sender, in turn, and tell quiet partitions how far the source has come."""
        async with self._turn:
            await self._sender.wait_for_room(self._n_rows, patience_s)
            n, self._n_rows = self._n_rows, 0
            rows, at_s, sent_ns = self._rows[:n], time.monotonic(), self._clock()
            frames = self._packer.pack(rows, due_ns=self._due[:n], sent_ns=sent_ns)
            if n:
                written = (frame.partition for frame in frames)
                self._quiet.wrote(written, int(rows["ts_recv"].max()), now_ns=sent_ns, at_s=at_s)
            for partition, watermark_ns in self._quiet.due(at_s).items():
                self._position += 1
                frames.append(self._packer.pack_watermark(partition, self._position, watermark_ns))
            await self._sender.send(frames)

    async def _pace(self) -> None:
        """Send what was gathered for `frame_ms`."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._has_rows.wait()
                await asyncio.sleep(self._limits.frame_ms / 1000)
            self._has_rows.clear()
            try:
                await self._emit()
            except PublishFailed:
                self._has_rows.set()  # the rows stay, and whoever calls next hears of it


def _event_ends(ticks: TickArray) -> NDArray[np.int64]:
    ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST)) + 1
    if not len(ends) or ends[-1] != len(ticks):
        raise ValueError("the rows end inside an event: the last row of an event carries flag LAST")
    if len(ticks) > MAX_EVENT_TICKS and (longest := int(np.diff(ends, prepend=0).max())) > MAX_EVENT_TICKS:
        raise TickRefused("too_large", f"an event of {longest} rows; a record holds {MAX_EVENT_TICKS}")
    return ends
