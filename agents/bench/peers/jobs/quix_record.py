"""Quix Streams 3.28, one JSON tick a record: last trade and quote in its state, bars by its own tumbling windows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from quixstreams import Application, State
from quixstreams.dataframe import StreamingDataFrame

from agents.bench.peers.jobs.fold import Tick, add, merge
from agents.bench.peers.jobs.task import BAR_S, GRACE_S, Bar, PeerResult, PeerTask, answer_when_asked, read_task


def quix_application(task: PeerTask) -> Application:
    """Defaults, with changelog topics, but for what is the bench's; commits as often as ours."""
    return Application(
        broker_address=task.bootstrap,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        commit_interval=task.commit_s,
        consumer_extra_config={"session.timeout.ms": 80_000},  # it is held while the log fills
        state_dir=task.folder,
        broker_availability_timeout=0,  # otherwise it asks at each record whether brokers are there
        loglevel="WARNING",
    )


def bars_of(trades: StreamingDataFrame, closed: list[Bar], late: list[int]) -> None:
    """Three levels: ticks make the shortest bars, closed bars the next longer ones."""

    def keep(length_s: int) -> Any:
        def append(window: dict[str, Any], key: str, timestamp: int, headers: Any) -> None:
            closed.append(Bar(key, length_s, window["start"] // 1000, *window["value"]))

        return append

    def on_late(*_: Any) -> bool:
        late.append(1)
        return False

    windows = (
        trades.set_timestamp(lambda tick, *_: tick["ts_ms"])
        .tumbling_window(BAR_S[0] * 1000, grace_ms=GRACE_S * 1000, on_late=on_late)
        .reduce(add, lambda tick: add([], tick))
        .final(closing_strategy="partition")
    )
    for above_s, length_s in pairwise(BAR_S):
        windows = windows.update(keep(above_s), metadata=True)
        windows = (
            windows.tumbling_window(length_s * 1000, on_late=on_late)
            .reduce(lambda bar, window: merge(bar, window["value"]), lambda window: window["value"])
            .final(closing_strategy="partition")
        )
    windows.update(keep(BAR_S[-1]), metadata=True)


def main() -> None:
    task = read_task()
    closed: list[Bar] = []
    late: list[int] = []
    app = quix_application(task)
    ticks = app.dataframe(app.topic(task.topic, key_deserializer="str", value_deserializer="json"))

    def keep_last(tick: Tick, state: State) -> None:
        state.set(tick["data_type"], tick)

    ticks = ticks.update(keep_last, stateful=True)
    bars_of(ticks.filter(lambda tick: tick["data_type"] == "trade"), closed, late)
    answer_when_asked(task, lambda: PeerResult(closed, len(late)))
    app.run()


if __name__ == "__main__":
    main()
