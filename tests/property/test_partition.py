"""A crash at any point of any barrier, and any replay after it, ends in the state of a worker that never crashed.

The changelog is a dict here. Wrong ways to write it, or to read it back, have to be found by the same comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cache.entry import decode_entry
from models.cache.write import CacheWrite, encode_value
from models.errors import CorruptPage
from models.market import pages
from models.market.conflate import NOTHING, OWN_BAR
from models.market.facets import TS_RECV, VERSION
from models.market.pages import Flush, Record
from models.market.partition import MarketPartition
from models.market.row_page import decode_rows, encode_rows
from models.windows.page import decode_page, encode_page
from models.windows.window import NO_WATERMARK, NOT_OPEN
from streams.kafka.owned import OwnedPartition
from tests.books import check_structure, sides
from tests.feeds import INSTRUMENTS, Sent, log_of
from tests.property.test_conflate import State, rows_of

BY_HASH = {instrument.hash: instrument for instrument in INSTRUMENTS}
TOKEN = 7

Changelog = dict[bytes, bytes]


def writes_of(seed: int, n: int) -> list[CacheWrite]:
    random = Random(seed)
    return [
        random.choice(
            [
                CacheWrite("put", f"n:{random.randint(0, 5)}", random.randbytes(4), ttl_ms=1000, tags=("t",)),
                CacheWrite("delete", f"n:{random.randint(0, 5)}"),
                CacheWrite("delete_tag", tag=random.choice("tu")),
                CacheWrite("clear", namespace=random.choice([None, "n"])),
                CacheWrite("incr", f"n:{random.randint(0, 5)}", by=1),
                CacheWrite("put_if", f"n:{random.randint(0, 5)}", encode_value(7)),
                CacheWrite("fill", f"n:{random.randint(0, 5)}", encode_value(8), base=random.randint(-1, n)),
            ]
        )
        for _ in range(n)
    ]


def in_order(flush: Flush) -> list[list[Record]]:
    """What a barrier sends: the groups, then the control page; each appears whole or not at all."""
    return [*flush.groups, [flush.control]]


def as_written(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return list(records)


@dataclass
class CrashingWorker:
    """One partition whose process may end in the middle of a barrier.

    Args:
        order: the units in which a flush reaches the changelog.
        read: what a restart makes of the changelog's pages.
    """

    frames: list[Sent]
    writes: list[CacheWrite]
    random: Random
    order: Callable[[Flush], list[list[Record]]] = in_order
    read: Callable[[Iterable[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]] = as_written
    changelog: Changelog = field(default_factory=dict)
    owned: OwnedPartition = field(default_factory=lambda: OwnedPartition(0, ""))
    next_frame: int = 0
    next_write: int = 0
    n_crashes: int = 0
    n_ahead: int = 0  # crashes that left a page newer than the control page
    n_waiting: int = 0  # crashes that left a book with diffs that wait for a snapshot

    def apply(self, n: int) -> None:
        """The next n frames in one round, and n writes."""
        market = self.owned.market
        opened = [
            sent.opened(version, append_ms=version)
            for version, sent in enumerate(self.frames[: self.next_frame + n])
            if version >= self.next_frame
        ]
        market.add(BY_HASH[hash_] for hash_ in market.listed(opened).missing())
        market.apply(opened)
        for version in range(self.next_write, min(self.next_write + n, len(self.writes))):
            self.owned.entries.apply(self.writes[version], version=version, append_ms=version, stored=self.page)
        self.next_frame = min(self.next_frame + n, len(self.frames))
        self.next_write = min(self.next_write + n, len(self.writes))

    def page(self, key: str) -> bytes | None:
        value = self.changelog.get(pages.ENTRY + key.encode())
        return None if value is None else pages.split_token(value)[1]

    def barrier(self, n_units: int | None = None) -> bool:
        """Write the first n units of a flush, by default all; whether the barrier came to its end."""
        units = self.order(self.owned.flush())
        written = units[:n_units]
        for key, body in (record for unit in written for record in unit):
            if body is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = pages.with_token(TOKEN, body)
        if done := len(written) == len(units):
            self.owned.market.books.release_dropped()
            self.owned.entries.saved()
        return done

    def restart(self) -> None:
        """Begin again from the changelog; Kafka gives everything after the control page again, and perhaps more."""
        self.n_crashes += 1
        self.recover()
        found = self.read([(key, pages.split_token(value)[1]) for key, value in sorted(self.changelog.items())])
        self.owned = OwnedPartition(0, "")
        self.owned.load(found)
        market = self.owned.market
        self.n_ahead += bool((market.rows.page_version > market.applied).any())
        self.n_waiting += any(market.books.pending_bytes(slot) for slot in range(len(market.slots)))
        if self.random.random() < 0.3:
            self.owned.rewrite_pages(found)
        self.next_frame, self.next_write = self.committed_or_earlier()

    def recover(self) -> None:
        """Make `changelog` what a restart finds."""

    def committed_or_earlier(self) -> tuple[int, int]:
        """The frame and the write with which Kafka begins again."""
        earlier = self.random.choice([0, 0, 1, 5])
        return max(self.owned.market.applied + 1 - earlier, 0), max(self.owned.entries.applied + 1 - earlier, 0)

    def run(self) -> None:
        """Everything to the end of both logs, with whole barriers and broken ones."""
        random = self.random
        while self.next_frame < len(self.frames) or self.next_write < len(self.writes):
            self.apply(random.randint(1, 6))
            match random.choice(["go", "go", "barrier", "crash", "crash in barrier"]):
                case "barrier":
                    self.barrier()
                case "crash" if self.n_crashes < 6:
                    self.restart()
                case "crash in barrier" if self.n_crashes < 6:
                    self.barrier(random.choice([0, 1, random.randint(0, 30)]))
                    self.restart()

    def run_to_the_changelog(self) -> None:
        self.run()
        assert self.barrier()
        self.restart()


def state_of(market: MarketPartition) -> dict[str, Any]:
    """All that a partition knows, by names: slots and chunk ids may differ after a crash."""
    check_structure(market.books)
    books = {}
    for slot, instrument in enumerate(market.slots.instruments):
        header = market.books.header(slot)
        if header.version >= 0:
            numbers = tuple(header)[: header._fields.index("bids")]
            books[instrument.text] = (numbers, *sides(market.books, slot), market.books.pending_bytes(slot))
    windows = {
        instrument.text: (
            [
                (end, values)
                for end, values in zip(
                    market.windows.ends[slot].tolist(), market.windows.values[slot].tolist(), strict=True
                )
                if end != NOT_OPEN
            ],
            market.windows.sums[slot].tolist(),
        )
        for slot, instrument in enumerate(market.slots.instruments)
    }
    return {
        "rows": without_versions_of_bars(rows_of(market, own_bars=True)), "windows": windows, "books": books,
        "sources": market.sources, "applied": market.applied, "watermark": market.windows.watermark_ns,
    }  # fmt: skip


def without_versions_of_bars(rows: State) -> State:
    """A bar's version is that of the round which closed it, and a crash changes the rounds."""
    return {key: row if row[TS_RECV] != OWN_BAR else row[VERSION + 1 :] for key, row in rows.items()}


def entries_of(worker: CrashingWorker) -> dict[bytes, bytes]:
    """Without graves of deleted keys, which go at different times."""
    records = {key: value for key, value in worker.changelog.items() if key[:1] == pages.ENTRY}
    return {key: value for key, value in records.items() if decode_entry(pages.split_token(value)[1])}


def chunks_at_rest(worker: CrashingWorker) -> set[tuple[int, ...]]:
    return {pages.numbers(key) for key in worker.changelog if key[:1] == pages.CHUNK}


def chunks_in_use(market: MarketPartition) -> set[tuple[int, ...]]:
    headers = [market.books.header(slot) for slot in range(len(market.slots))]
    return {(slot, int(c)) for slot, header in enumerate(headers) for c in (*header.bids, *header.asks)}


def logs(seed: int) -> dict[str, Any]:
    return {"frames": log_of(seed, n_frames=50, gaps=True), "writes": writes_of(seed, 50)}


def differences(seed: int, worker: type[CrashingWorker] = CrashingWorker, **variant: Callable[..., Any]) -> list[str]:
    """What a worker that crashes knows other than one that does not; also before its last barrier and restart."""
    calm = CrashingWorker(**logs(seed), random=Random(0))
    calm.apply(10**6)
    calm.barrier()
    crashing = worker(**logs(seed), random=Random(seed), **variant)
    found: list[str] = []
    for step in (crashing.run, crashing.run_to_the_changelog):
        try:
            step()
        except CorruptPage as exc:
            return [*found, str(exc)]
        expected, got = state_of(calm.owned.market), state_of(crashing.owned.market)
        found += [name for name in expected if got[name] != expected[name]]
        if crashing.owned.entries.floors != calm.owned.entries.floors:
            found.append("floors")
    if entries_of(crashing) != entries_of(calm):
        found.append("entries")
    if chunks_at_rest(crashing) != chunks_in_use(crashing.owned.market):
        found.append("chunks that no book has")
    return found


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32))
def test_crash_anywhere_ends_in_the_state_of_a_worker_that_never_crashed(seed: int) -> None:
    assert differences(seed) == []


def control_first(flush: Flush) -> list[list[Record]]:
    return [[flush.control], *flush.groups]


def rows_first(flush: Flush) -> list[list[Record]]:
    """Row pages before the pages that say whose slots they are."""
    return [*sorted(flush.groups, key=lambda group: group[0][0][:1] != pages.ROWS), [flush.control]]


def records_alone(flush: Flush) -> list[list[Record]]:
    """A book's header, chunks and pending rows one by one."""
    return [[record] for unit in in_order(flush) for record in unit]


def bars_first(flush: Flush) -> list[list[Record]]:
    """A page of bars apart from the page of the windows that they were made of."""
    alone = [[record] for unit in flush.groups for record in unit]
    return [*sorted(alone, key=lambda unit: unit[0][0][:1] == pages.WINDOWS), [flush.control]]


def without_window_versions(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Window pages as if they did not say what they hold."""
    return [
        (key, encode_page(NOTHING, *decode_page(body)[1:]) if key[:1] == pages.WINDOWS else body)
        for key, body in records
    ]


def without_watermark(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    changed = dict(records)
    if pages.CONTROL in changed:
        control = pages.decode_control(changed[pages.CONTROL])
        control.watermark_ns = NO_WATERMARK
        changed[pages.CONTROL] = pages.encode_control(control)
    return list(changed.items())


def without_page_versions(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Row pages as if they did not say what they hold."""
    return [
        (key, encode_rows(NOTHING, decode_rows(body)[1]) if key[:1] == pages.ROWS else body) for key, body in records
    ]


def without_pending_rows(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(key, body) for key, body in records if key[:1] != pages.PENDING]


def without_positions(records: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A control page that knows the versions but not the sources."""
    changed = dict(records)
    if pages.CONTROL in changed:
        control = pages.decode_control(changed[pages.CONTROL])
        control.sources = {}
        changed[pages.CONTROL] = pages.encode_control(control)
    return list(changed.items())


@pytest.mark.parametrize(
    "variant",
    [
        {"order": control_first},
        {"order": rows_first},
        {"order": records_alone},
        {"order": bars_first},
        {"read": without_page_versions},
        {"read": without_window_versions},
        {"read": without_watermark},
        {"read": without_pending_rows},
        {"read": without_positions},
    ],
    ids=lambda variant: next(iter(variant.values())).__name__,
)
def test_the_comparison_finds_a_wrong_way_to_write_or_to_read_pages(variant: dict[str, Callable[..., Any]]) -> None:
    assert any(differences(seed, **variant) for seed in range(60))


def test_crashes_of_the_property_meet_books_that_wait_and_pages_ahead_of_the_control_page() -> None:
    """The property says little unless its worker gets into the states that are hard to come back from."""
    workers = [CrashingWorker(**logs(seed), random=Random(seed)) for seed in range(60)]
    for worker in workers:
        worker.run()
    assert sum(worker.n_crashes for worker in workers) > 60
    assert sum(worker.n_ahead for worker in workers) > 10
    assert sum(worker.n_waiting for worker in workers) > 10
