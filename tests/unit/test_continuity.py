"""Rules 1, 11 and 12 as a reader decides them."""

from __future__ import annotations

from models.cache.continuity import Continuity, Verdict
from models.cache.invalidation import Invalidation, RecordType, Source

SKEW_NS = 50_000_000
NOW_NS = 1_760_000_000_000_000_000


def record(
    start: int, end: int, *, token: int = 1, watermark_ns: int = 0, source: Source = Source.FRAMES
) -> Invalidation:
    return Invalidation(RecordType.CHANGES, source, token, start, end, watermark_ns)


def heard(*records: Invalidation, now_ns: int = NOW_NS) -> Continuity:
    continuity = Continuity(SKEW_NS)
    for r in records:
        continuity.advance(0, r, now_ns)
    return continuity


def test_the_first_record_is_in_order_wherever_it_starts() -> None:
    assert heard().judge(0, record(500, 600)) is Verdict.IN_ORDER


def test_a_record_that_starts_where_the_last_ended_is_in_order() -> None:
    assert heard(record(0, 10)).judge(0, record(10, 20)) is Verdict.IN_ORDER


def test_a_record_that_starts_later_is_a_gap() -> None:
    assert heard(record(0, 10)).judge(0, record(11, 20)) is Verdict.GAP


def test_an_overlap_after_a_take_over_is_no_gap_and_does_not_take_the_position_back() -> None:
    continuity = heard(record(0, 10), record(2, 5, token=2))
    assert continuity.position(0, Source.FRAMES) == 10
    assert continuity.judge(0, record(10, 11, token=2)) is Verdict.IN_ORDER


def test_an_owner_that_lost_its_partition_is_fenced() -> None:
    continuity = heard(record(0, 10, token=5))
    assert continuity.judge(0, record(10, 11, token=4)) is Verdict.FENCED
    assert continuity.judge(0, record(10, 11, token=5)) is Verdict.IN_ORDER


def test_partitions_and_sources_have_positions_of_their_own() -> None:
    continuity = heard(record(0, 10))
    assert continuity.judge(1, record(99, 100)) is Verdict.IN_ORDER
    assert continuity.judge(0, record(99, 100, source=Source.WRITES)) is Verdict.IN_ORDER


def test_a_watermark_proves_freshness_and_never_goes_back() -> None:
    continuity = heard(record(0, 1, watermark_ns=NOW_NS - 5), record(0, 1, token=2, watermark_ns=NOW_NS - 9))
    assert continuity.freshness_ns(0, Source.FRAMES) == NOW_NS - 5
    assert continuity.freshness_ns(0, Source.WRITES) is None


def test_a_watermark_of_zero_proves_nothing() -> None:
    assert heard(record(0, 1, watermark_ns=0)).freshness_ns(0, Source.FRAMES) is None


def test_a_watermark_from_the_future_voids_the_proof_until_a_sane_one_comes() -> None:
    continuity = heard(record(0, 1, watermark_ns=NOW_NS), record(1, 2, watermark_ns=NOW_NS + SKEW_NS + 1))
    assert continuity.freshness_ns(0, Source.FRAMES) is None
    continuity.advance(0, record(2, 3, watermark_ns=NOW_NS + SKEW_NS), NOW_NS)
    assert continuity.freshness_ns(0, Source.FRAMES) == NOW_NS + SKEW_NS


def test_doubt_voids_the_proof_and_keeps_the_position() -> None:
    continuity = heard(record(0, 10, watermark_ns=NOW_NS))
    continuity.doubt(0)
    assert continuity.freshness_ns(0, Source.FRAMES) is None
    assert continuity.position(0, Source.FRAMES) == 10


def test_after_forgetting_any_start_is_good_but_old_owners_stay_fenced() -> None:
    continuity = heard(record(0, 10, token=5))
    continuity.forget(0)
    assert continuity.judge(0, record(99, 100, token=4)) is Verdict.FENCED
    assert continuity.judge(0, record(99, 100, token=5)) is Verdict.IN_ORDER
    continuity.advance(0, record(99, 100, token=5), NOW_NS)
    assert continuity.judge(0, record(101, 102, token=5)) is Verdict.GAP


def test_a_restored_reader_judges_as_the_one_before_and_proves_nothing() -> None:
    before = heard(record(0, 10, token=5, watermark_ns=NOW_NS))
    after = Continuity(SKEW_NS)
    after.restore(0, before.snapshot(0))
    assert after.judge(0, record(11, 12, token=5)) is Verdict.GAP
    assert after.judge(0, record(10, 12, token=4)) is Verdict.FENCED
    assert after.freshness_ns(0, Source.FRAMES) is None
    after.advance(0, record(10, 12, token=5), NOW_NS)
    assert before.position(0, Source.FRAMES) == 10
