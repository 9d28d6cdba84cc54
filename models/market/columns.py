"""The columns of a frame: seven of int64, the instruments, the shapes (docs/wire.md, section 'Columns').

Here is what `column_encoder` and `column_decoder` agree on. Each direction is one compiled loop a frame: a small frame
costs one call. The kernels of a direction stand in one file because numba's cache on disk looks only at the file of the
function that is called: a change here needs one in both.
"""

from __future__ import annotations

from numba import njit

N_COLUMNS = 9  # ts_event ts_recv seq venue_seq price size ref_id, instrument, shape
SEQ, INSTRUMENT, SHAPE = 2, 7, 8
OK, SHORT, BAD_CODEC, BAD_INDEX, UNORDERED = range(5)
FAULTS = {
    SHORT: "ends early or has bytes left over",
    BAD_CODEC: "has an unknown column codec",
    BAD_INDEX: "names an instrument or a shape it does not list",
    UNORDERED: "has positions that do not rise, or are not those of its header",
}
CONSTANT, FRAME_BASE, INSTRUMENT_BASE, RAW, DICTIONARY, CONSECUTIVE, SPARSE = range(7)
HEAD_BYTES = 8  # codec u8, width u8, pow10 u8, 0, number of bases, of dictionary entries or of sparse codes u32
MAX_POW10 = 9
LOW_32 = 0xFFFFFFFF

kernel = njit(cache=True, nogil=True)


def room(n: int) -> int:
    """Bytes that suffice for the columns of n rows: no column needs more than a head, a base and 8 bytes a row."""
    return N_COLUMNS * (HEAD_BYTES + 8 + 8 * n + 8)


@kernel
def flag_bytes(n):  # type: ignore[no-untyped-def]
    """Bytes of the flags that say which of n rows have a code."""
    return (n + 63) >> 6 << 3


@kernel
def padded(size):  # type: ignore[no-untyped-def]
    return (size + 7) & ~7
