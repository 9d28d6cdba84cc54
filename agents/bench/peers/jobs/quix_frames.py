"""Quix Streams 3.28, handed our frames and our compiled partitions: changed pages into its state at each commit."""

from __future__ import annotations

from typing import Any

from quixstreams import State, message_context
from quixstreams.sinks import BaseSink

from agents.bench.peers.jobs.market import Market
from agents.bench.peers.jobs.quix_record import quix_application
from agents.bench.peers.jobs.task import PeerResult, answer_when_asked, read_task


class PagesAtCommit(BaseSink):  # type: ignore[misc]
    """A checkpoint flushes sinks first, then sends what changed in the state to the changelog, then commits.

    So pages that are put into the state here, once a commit, are as durable as if each frame had put them.
    """

    def __init__(self, market: Market) -> None:
        super().__init__()
        self.states: dict[int, State] = {}  # of the open checkpoint, by partition
        self._market = market

    def add(self, *_: Any, **__: Any) -> None:
        """The frame is in its partition already."""

    def flush(self) -> None:
        for number, state in self.states.items():
            for key, body in self._market.changed_pages(number):
                state.set_bytes(key.hex(), body)
        self.states.clear()


def main() -> None:
    task = read_task()
    market = Market(task.instruments)
    pages = PagesAtCommit(market)
    app = quix_application(task)
    frames = app.dataframe(app.topic(task.topic, key_deserializer="bytes", value_deserializer="bytes"))

    def apply(value: bytes, key: None, timestamp: int, headers: Any, state: State) -> None:
        at = message_context()
        market.apply(at.partition, [(at.offset, timestamp, value)])
        pages.states[at.partition] = state

    frames.update(apply, stateful=True, metadata=True).sink(pages)
    answer_when_asked(task, PeerResult)
    app.run()


if __name__ == "__main__":
    main()
