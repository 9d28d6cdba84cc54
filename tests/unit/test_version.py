"""Versions compare as their records lie in the log, also as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cache.version import MAX_EPOCH, MAX_OFFSET, epoch_of, from_bytes, offset_of, to_bytes, version

EPOCHS, OFFSETS = st.integers(0, MAX_EPOCH), st.integers(0, MAX_OFFSET)


@given(EPOCHS, OFFSETS)
def test_a_version_gives_back_its_parts(epoch: int, offset: int) -> None:
    v = version(epoch, offset)
    assert (epoch_of(v), offset_of(v)) == (epoch, offset)
    assert 0 <= v < 1 << 63
    assert from_bytes(to_bytes(v) + b"more") == v


@given(st.tuples(EPOCHS, OFFSETS), st.tuples(EPOCHS, OFFSETS))
def test_versions_order_by_epoch_then_offset_and_so_do_their_bytes(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert (version(*a) < version(*b)) == (a < b) == (to_bytes(version(*a)) < to_bytes(version(*b)))


@pytest.mark.parametrize(("epoch", "offset"), [(-1, 0), (MAX_EPOCH + 1, 0), (0, -1), (0, MAX_OFFSET + 1)])
def test_parts_that_would_run_into_each_other_are_refused(epoch: int, offset: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        version(epoch, offset)


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        from_bytes(b"1234567")
