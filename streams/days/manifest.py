"""`manifest.json`: everything that is known about a recorded day, and enough to prove that its files are whole."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import msgspec

from models.days.recipe import Recipe
from models.errors import CorruptDay
from models.market.instruments import Instrument

SCHEMA = "md.tick.v1"
MANIFEST = "manifest.json"
TICKS = "ticks.parquet"
CHECKPOINTS = "checkpoints.parquet"
CONTROLS = "controls.parquet"


class DayFile(msgspec.Struct, frozen=True):
    """A file by its name (never a path), its length and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


class DayInstrument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instrument of the day; `id` is its index in the manifest's list and the rows' `instrument_id`."""

    id: int
    text: str
    venue: str
    market_type: str
    symbol: str
    price_exp: int
    size_exp: int
    rows: int
    tick: str | None = None

    @property
    def instrument(self) -> Instrument:
        return Instrument(self.venue, self.market_type, self.symbol, self.price_exp, self.size_exp, self.tick)


class Recording(msgspec.Struct, frozen=True):
    """What a recorded day was recorded from, and where the next one goes on.

    Attributes:
        topic, topic_id: full name, and Kafka's id.
        offsets: partition -> `[first, next)`.
        positions: partition -> source hash in hex -> last position, this day included.
        rows_repeated: rows left out because their position had come already.
        rows_unknown: rows left out because nobody defined their instrument.
        frames_corrupt: records left out because they are no frames, or their columns cannot be read.
        gaps: holes in the positions of dense sources.
        missing: offsets that the log no longer had.
    """

    topic: str
    topic_id: str
    offsets: dict[int, tuple[int, int]]
    positions: dict[int, dict[str, int]]
    rows_repeated: int
    rows_unknown: int
    frames_corrupt: int
    gaps: int
    missing: int


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the rows come from: an importer with the files it read, a generator with its seed and recipe, or a topic.

    `options` are what the user said about the sources and the importer could not know, such as a column map.
    """

    importer: str | None = None
    sources: tuple[DayFile, ...] = ()
    options: dict[str, str] = {}
    generator: str | None = None
    seed: int | None = None
    recipe: Recipe | None = None
    recording: Recording | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """What stood when all events received before `ts_recv` (ns UTC) were in: row group `group` of the checkpoints.

    `seq` is the last of those rows; group -1 = nothing stood yet.
    """

    ts_recv: int
    seq: int
    group: int


class Manifest(msgspec.Struct, frozen=True):
    """A day's contents. Ranges are inclusive, in ns UTC; `kinds` counts rows by the name of their kind.

    `sha256` covers the manifest itself (encoded with an empty `sha256`), so that an edited number is seen as well.
    There is no wall-clock time in it: the same rows from the same origin give the same bytes.
    """

    name: str
    origin: Origin
    rows: int
    ts_recv_min: int
    ts_recv_max: int
    ts_event_min: int
    ts_event_max: int
    kinds: dict[str, int]
    instruments: tuple[DayInstrument, ...]
    files: tuple[DayFile, ...]
    checkpoints: tuple[Checkpoint, ...] | msgspec.UnsetType = msgspec.UNSET  # left out where a day has none
    schema: str = SCHEMA
    tool: str = msgspec.field(default_factory=lambda: f"marketprism {version('marketprism')}")
    sha256: str = ""

    def checksum(self) -> str:
        return sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256=""))).hexdigest()

    def encode(self) -> bytes:
        """The file's bytes, with the checksum filled in."""
        sealed = msgspec.structs.replace(self, sha256=self.checksum())
        return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Read a day's manifest without looking at its other files.

    Raises:
        CorruptDay: there is none, it is not one, or it is of another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise CorruptDay(f"{path}: missing; is {folder} the folder of a recorded day?") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorruptDay(f"{path}: not a manifest of a day: {exc}") from exc
    if manifest.schema != SCHEMA:
        raise CorruptDay(f"{path}: schema {manifest.schema!r}, but this version reads {SCHEMA!r}")
    return manifest


def file_entry(path: Path) -> DayFile:
    """Length and SHA-256 of a file, read in blocks."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return DayFile(path.name, path.stat().st_size, digest.hexdigest())
