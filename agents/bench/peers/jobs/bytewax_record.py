"""Bytewax 0.21, one JSON tick a record: last trade and quote in a stateful step, bars by its own tumbling windows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax._bytewax import cli_main
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow, Stream
from bytewax.operators import KeyedStream
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir

from agents.bench.peers.jobs.fold import Tick, Values, add, merge
from agents.bench.peers.jobs.task import BAR_S, GRACE_S, Bar, PeerResult, PeerTask, answer_when_asked, read_task

_BATCH = 10_000  # records a poll; 1,000, the default, costs half as much again with 10,000 instruments
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def kafka_input(flow: Dataflow, task: PeerTask) -> Stream[KafkaSourceMessage]:
    return op.input("log", flow, KafkaSource([task.bootstrap], [task.topic], batch_size=_BATCH))


def run(flow: Dataflow, task: PeerTask) -> None:
    """What `python -m bytewax.run -r FOLDER -s SECONDS -b 0` does with one worker."""
    folder = Path(task.folder, "recovery")
    folder.mkdir()
    init_db_dir(folder, 1)
    recovery = RecoveryConfig(folder, timedelta(0))
    cli_main(flow, epoch_interval=timedelta(seconds=task.commit_s), recovery_config=recovery)


class Nothing(DynamicSink[Any]):  # type: ignore[misc]
    """Every dataflow needs an output; what is to be kept was kept before it."""

    class _Part(StatelessSinkPartition[Any]):  # type: ignore[misc]
        def write_batch(self, items: list[Any]) -> None:
            pass

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        return self._Part()


class LastTicks(op.StatefulBatchLogic[Tick, Any, dict[str, Tick]]):  # type: ignore[misc]
    """The last trade and the last quote of one instrument."""

    def __init__(self, state: dict[str, Tick] | None) -> None:
        self._last = state or {}

    def on_batch(self, values: list[Tick]) -> tuple[Iterable[Any], bool]:
        for tick in values:
            self._last[tick["data_type"]] = tick
        return (), self.RETAIN

    def snapshot(self) -> dict[str, Tick]:
        return self._last.copy()


def parse(messages: list[KafkaSourceMessage]) -> list[tuple[str, Tick]]:
    loads = orjson.loads
    return [(message.key.decode(), loads(message.value)) for message in messages]


def trades(ticks: list[tuple[str, Tick]]) -> list[tuple[str, Tick]]:
    return [item for item in ticks if item[1]["data_type"] == "trade"]


def merge_closed(bar: Values, window: tuple[int, Values]) -> Values:
    return merge(bar, window[1])


def event_clock(time_of: Any, grace_s: int) -> win.EventClock[Any]:
    """Event time alone. By default a watermark also rises with the machine's clock: what is read late would be late."""
    return win.EventClock(
        ts_getter=time_of,
        wait_for_system_duration=timedelta(seconds=grace_s),
        now_getter=lambda: EPOCH,
        to_system_utc=lambda _: None,
    )


def bars_of(ticks: KeyedStream[Tick], closed: list[Bar], late: list[int]) -> Stream[Any]:
    """Three levels: ticks make the shortest bars, closed bars the next longer ones."""

    def tumbling(up: KeyedStream[Any], length_s: int, clock: win.EventClock[Any], fold: Any) -> KeyedStream[Any]:
        windower = win.TumblingWindower(length=timedelta(seconds=length_s), align_to=EPOCH)
        out = win.fold_window(f"bars_{length_s}s", up, clock, windower, list, fold, fold, ordered=False)

        def keep(windows: list[tuple[str, tuple[int, Values]]]) -> list[tuple[str, tuple[int, Values]]]:
            closed.extend(Bar(key, length_s, id_ * length_s, *values) for key, (id_, values) in windows)
            return windows

        def drop(items: list[Any]) -> list[Any]:
            late.extend(1 for _ in items)
            return []

        op.output(f"late_{length_s}s", op.flat_map_batch(f"drop_{length_s}s", out.late, drop), Nothing())
        return op.flat_map_batch(f"keep_{length_s}s", out.down, keep)

    def of_tick(tick: Tick) -> datetime:
        return datetime.fromtimestamp(tick["ts_ms"] / 1000, UTC)

    def of_bar(length_s: int) -> Any:
        return lambda window: EPOCH + timedelta(seconds=window[0] * length_s)

    windows = tumbling(ticks, BAR_S[0], event_clock(of_tick, GRACE_S), add)
    for above_s, length_s in pairwise(BAR_S):
        windows = tumbling(windows, length_s, event_clock(of_bar(above_s), 0), merge_closed)
    return windows


def main() -> None:
    task = read_task()
    closed: list[Bar] = []
    late: list[int] = []
    flow = Dataflow("peer")
    ticks = op.flat_map_batch("parse", kafka_input(flow, task), parse)
    op.output("last_out", op.stateful_batch("last", ticks, LastTicks), Nothing())
    op.output("bars_out", bars_of(op.flat_map_batch("trades", ticks, trades), closed, late), Nothing())
    answer_when_asked(task, lambda: PeerResult(closed, len(late)))
    run(flow, task)


if __name__ == "__main__":
    main()
