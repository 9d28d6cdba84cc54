"""Whether a tier's copy of a key says what the pages say, as far as the tier's mark lets one ask."""

from __future__ import annotations

from enum import Enum

from models.cache.version import from_bytes


class Agreement(Enum):
    SAME = "same"
    LATER = "later"  # the pages are ahead of the mark: the tier need not have it yet
    DIFFERENT = "different"


def agreement(page: bytes | None, copy: bytes | None, mark_version: int) -> Agreement:
    """Compare two forms of a value that begin with its version (8 bytes); None = there is none.

    Args:
        page: what the pages say, read after the copy.
        copy: what the tier said.
        mark_version: the tier's mark, read together with the copy.
    """
    if page == copy:
        return Agreement.SAME
    if page is not None and from_bytes(page) > mark_version:
        return Agreement.LATER
    return Agreement.DIFFERENT
