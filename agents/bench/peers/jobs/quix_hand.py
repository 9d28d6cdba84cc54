"""Quix Streams 3.28, one JSON tick a record: everything of an instrument in its keyed state, bars written by hand."""

from __future__ import annotations

import orjson
from quixstreams import State

from agents.bench.peers.jobs.by_hand import no_bars, take_trade
from agents.bench.peers.jobs.quix_record import quix_application
from agents.bench.peers.jobs.task import Bar, PeerResult, answer_when_asked, read_task


def main() -> None:
    task = read_task()
    closed: list[Bar] = []
    late: list[str] = []
    app = quix_application(task)
    ticks = app.dataframe(app.topic(task.topic, key_deserializer="str", value_deserializer="bytes"))

    def take(line: bytes, key: str, timestamp: int, headers: object, state: State) -> None:
        tick = orjson.loads(line)
        state.set_bytes(tick["data_type"], line)
        if tick["data_type"] == "trade":
            bars = state.get("bars") or no_bars()
            price, size = float(tick["price"]), float(tick["quantity"])
            if not take_trade(bars, key, tick["ts_ms"], price, size, closed):
                late.append(key)
            state.set("bars", bars)

    ticks.update(take, stateful=True, metadata=True)
    answer_when_asked(task, lambda: PeerResult(closed, len(late)))
    app.run()


if __name__ == "__main__":
    main()
