"""Bytewax 0.21, handed our frames and our compiled partitions: one stateful step, keyed by Kafka partition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSourceMessage
from bytewax.dataflow import Dataflow

from agents.bench.peers.jobs.bytewax_record import Nothing, kafka_input, run
from agents.bench.peers.jobs.market import Market
from agents.bench.peers.jobs.task import PeerResult, answer_when_asked, read_task

Pages = list[tuple[bytes, bytes]]


def main() -> None:
    task = read_task()
    market = Market(task.instruments)

    class Partition(op.StatefulBatchLogic[KafkaSourceMessage, Any, tuple[int, Pages]]):  # type: ignore[misc]
        """All frames that one poll brought, applied at once; its state is the pages."""

        def __init__(self, state: tuple[int, Pages] | None) -> None:
            self._number = -1 if state is None else state[0]
            if state is not None:
                market.partition(self._number).load(state[1])

        def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[Any], bool]:
            self._number = values[0].partition
            market.apply(self._number, [(m.offset, m.timestamp[1], m.value) for m in values])
            return (), self.RETAIN

        def snapshot(self) -> tuple[int, Pages]:
            return self._number, market.all_pages(self._number)

    def key(messages: list[KafkaSourceMessage]) -> list[tuple[str, KafkaSourceMessage]]:
        return [(str(message.partition), message) for message in messages]

    flow = Dataflow("peer")
    frames = op.flat_map_batch("key", kafka_input(flow, task), key)
    op.output("out", op.stateful_batch("market", frames, Partition), Nothing())
    answer_when_asked(task, PeerResult)
    run(flow, task)


if __name__ == "__main__":
    main()
