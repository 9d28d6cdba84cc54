"""What an audit may say of a copy, given the tier's mark."""

from __future__ import annotations

import pytest

from models.cache.audit import Agreement, agreement
from models.cache.version import to_bytes

V3, V3_OTHER, V5 = to_bytes(3) + b"a", to_bytes(3) + b"b", to_bytes(5) + b"c"


@pytest.mark.parametrize(
    ("page", "copy", "mark", "expected"),
    [
        (None, None, 4, Agreement.SAME),
        (V3, V3, 4, Agreement.SAME),
        (V3, V3_OTHER, 4, Agreement.DIFFERENT),
        (V5, V3, 4, Agreement.LATER),  # its round is under way
        (V5, None, 4, Agreement.LATER),
        (V5, V3, 5, Agreement.DIFFERENT),  # the mark says that the tier has it
        (V3, None, 4, Agreement.DIFFERENT),
        (None, V3, 4, Agreement.DIFFERENT),
        (V3, V5, 4, Agreement.DIFFERENT),
    ],
)
def test_only_what_the_mark_covers_is_a_difference(
    page: bytes | None, copy: bytes | None, mark: int, expected: Agreement
) -> None:
    assert agreement(page, copy, mark) is expected
