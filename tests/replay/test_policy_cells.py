"""Adaptive on made-up traffic: phases, floods, loops and drifts, never a point below S3-FIFO or LRU."""

from __future__ import annotations

import pytest

from tests.policy_cells import Cell, synthetic_cells

# The quick ones of all kinds; `python -m tests.policy_cells` runs them all.
_NAMES = ("twice 400", "loop 300/150", "loop 50/40", "short phases", "loop, zipf, loop", "flooded", "drift 1.0 every 5")


@pytest.mark.parametrize("cell", [c for c in synthetic_cells() if c.name in _NAMES], ids=lambda cell: cell.name)
def test_adaptive_is_never_a_point_below_s3fifo_or_lru(cell: Cell) -> None:
    assert cell.lead() > -1


def test_about_half_of_the_cells_are_there_to_check() -> None:
    cells = list(synthetic_cells())
    assert set(_NAMES) <= {cell.name for cell in cells}
    assert len({cell.name for cell in cells}) == len(cells)
    assert 0.3 < sum(cell.is_for_tuning for cell in cells) / len(cells) < 0.7
