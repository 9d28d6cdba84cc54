"""aiokafka compresses lz4 at level 9 and offers no other (KIP-390 is not built in): level 1 costs a twelfth.

Measured on frames of 17 to 29 bytes a tick: level 9 takes 277 to 449 ns a tick and leaves 68 to 73 %, level 1 takes
9 to 22 and leaves 70 to 75 %, zstd takes 30 to 75 and leaves 55 % but costs a reader 12 to 24 against 5 to 10.
"""

from __future__ import annotations

import importlib
from functools import partial

from aiokafka.codec import lz4_encode

_BUILDERS = ("aiokafka.record._crecords.default_records", "aiokafka.record.default_records")
_LEVEL = 1


def use_fast_lz4() -> None:
    """Make every producer of this process compress lz4 at level 1; readers need nothing, repeating it is fine."""
    for name in _BUILDERS:
        try:
            module = importlib.import_module(name)
        except ImportError:  # an aiokafka without compiled record builders
            continue
        if hasattr(module, "lz4_encode"):
            module.lz4_encode = partial(lz4_encode, level=_LEVEL)  # type: ignore[attr-defined]
