"""Bytewax 0.21, one JSON tick a record: everything of an instrument in one stateful step, bars written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSourceMessage
from bytewax.dataflow import Dataflow

from agents.bench.peers.jobs.by_hand import Bars, copy_bars, no_bars, take_trade
from agents.bench.peers.jobs.bytewax_record import Nothing, kafka_input, run
from agents.bench.peers.jobs.task import Bar, PeerResult, answer_when_asked, read_task

State = tuple[dict[str, bytes], Bars]


def main() -> None:
    task = read_task()
    closed: list[Bar] = []
    late: list[str] = []

    class Instrument(op.StatefulBatchLogic[KafkaSourceMessage, Any, State]):  # type: ignore[misc]
        """Last trade and last quote as they came, and the windows that are open."""

        def __init__(self, state: State | None) -> None:
            self._last, self._bars = state or ({}, no_bars())

        def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[Any], bool]:
            for message in values:
                tick = orjson.loads(message.value)
                self._last[tick["data_type"]] = message.value
                if tick["data_type"] == "trade":
                    ts_ms, price, size = tick["ts_ms"], float(tick["price"]), float(tick["quantity"])
                    key = message.key.decode()
                    if not take_trade(self._bars, key, ts_ms, price, size, closed):
                        late.append(key)
            return (), self.RETAIN

        def snapshot(self) -> State:
            return self._last.copy(), copy_bars(self._bars)

    def key(messages: list[KafkaSourceMessage]) -> list[tuple[str, KafkaSourceMessage]]:
        return [(message.key.decode(), message) for message in messages]

    flow = Dataflow("peer")
    ticks = op.flat_map_batch("key", kafka_input(flow, task), key)
    op.output("out", op.stateful_batch("last", ticks, Instrument), Nothing())
    answer_when_asked(task, lambda: PeerResult(closed, len(late)))
    run(flow, task)


if __name__ == "__main__":
    main()
