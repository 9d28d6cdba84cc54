"""What every importer keeps: damaged, hostile and empty files end in a clear error or in counted rejects."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from agents.cli.main import cli
from models.errors import TooManyRejects, UnreadableSource
from streams.days.importers import text
from streams.days.importers.lean import import_lean
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.text import Block, TextFile
from streams.days.verify import verify_day

GOOD = b"14400874,1801700,400,0,0,P,1,0\n"
CSV = "20131010_ibm_Quote_Tick.csv"


def zipped(path: Path, lines: bytes, name: str = CSV) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, lines)
    return path


def zstd(path: Path, *parts: bytes) -> Path:
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as stream:
        for part in parts:
            stream.write(part)
    return path


def blocks(path: Path, terms: Terms | None = None, block_bytes: int = 1000) -> tuple[list[Block], ImportReport]:
    report = ImportReport(terms)
    return list(TextFile(path, report).blocks(lambda n_bytes: None, block_bytes)), report


LINES = b"".join(b"%d,%d\n" % (n, n * n) for n in range(5000))
PACK: dict[str, Callable[[Path, bytes], Path]] = {
    "plain": lambda path, data: (path.write_bytes(data) and path) or path,
    "gzip": lambda path, data: (path.write_bytes(gzip.compress(data)) and path) or path,
    "zstd": zstd,
    "zip": zipped,
}


# -- files of lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", PACK)
def test_blocks_are_whole_numbered_lines_however_the_file_is_packed(tmp_path: Path, form: str) -> None:
    found, report = blocks(PACK[form](tmp_path / "lines", LINES))
    assert b"".join(block.text + b"\n" for block in found) == LINES
    line = 1
    for block in found:
        assert block.line == line
        line += block.text.count(b"\n") + 1
    assert (line, len(found) > 5, report.n_unreadable) == (5001, True, 0)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_cut_file_is_an_error_that_names_the_line_unless_it_is_to_be_kept(tmp_path: Path, form: str) -> None:
    lines = b"".join(sha256(b"%d" % n).digest().hex().encode() + b"\n" for n in range(10_000))
    path = PACK[form](tmp_path / "lines", lines)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UnreadableSource, match=r"lines: the file is cut or damaged from line \d+ on .*--keep-cut"):
        blocks(path)
    found, report = blocks(path, Terms(keep_cut=True))
    kept = b"".join(block.text + b"\n" for block in found)
    assert report.n_unreadable == 1 and lines.startswith(kept) and kept.endswith(b"\n")
    n_lines = kept.count(b"\n")
    assert report.problems[0].startswith(f"lines:{n_lines + 1}: the file is cut")


def test_a_cut_zip_has_no_directory_and_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "q.zip", GOOD * 1000)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnreadableSource, match=r"q\.zip: the file is cut or damaged"):
        import_lean([path], tmp_path / "day")
    path.write_bytes(b"1,2\n")
    with pytest.raises(UnreadableSource, match="not a zip file"):
        import_lean([path], tmp_path / "day")


def test_a_flipped_byte_inside_a_zip_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "q.zip", GOOD * 1000)
    data = bytearray(path.read_bytes())
    data[60 + len(CSV)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableSource, match="cut or damaged from line"):
        import_lean([path], tmp_path / "day")
    assert [entry.name for entry in tmp_path.iterdir()] == ["q.zip"], "no half day stays behind"


def test_a_last_line_without_an_end_is_refused_where_nothing_else_tells_a_cut(tmp_path: Path) -> None:
    found, report = blocks(PACK["plain"](tmp_path / "lines", LINES[:-1]))
    assert found[-1].text.endswith(b"4998,24980004") and report.n_unreadable == 1
    assert report.problems[0].startswith("lines:5000: the file ends inside this line")
    packed, report = blocks(PACK["gzip"](tmp_path / "packed", LINES[:-1]))
    assert packed[-1].text.endswith(b"4999,24990001") and report.n_unreadable == 0


@pytest.mark.parametrize("more", [1, 5000, 300_000])
@pytest.mark.parametrize("form", PACK)
def test_a_line_too_long_is_refused_and_the_next_ones_are_read(tmp_path: Path, form: str, more: int) -> None:
    long = b"7" * (text.MAX_LINE_BYTES + more)
    found, report = blocks(PACK[form](tmp_path / "lines", b"a\nb\n" + long + b"\nc\nd\n"), block_bytes=1 << 16)
    lines = [(n, line) for block in found for n, line in enumerate(block.text.split(b"\n"), block.line)]
    assert [line for line in lines if line[1]] == [(1, b"a"), (2, b"b"), (4, b"c"), (5, b"d")]
    assert report.problems == [f"{CSV if form == 'zip' else 'lines'}:3: a line of more than 4194304 bytes"]


def test_a_line_without_end_is_not_gathered_in_memory(tmp_path: Path) -> None:
    path = PACK["plain"](tmp_path / "lines", b"a\n" + b"7" * (5 * text.MAX_LINE_BYTES) + b"\nb\n")
    report = ImportReport(rejects=tmp_path / "rejects")
    found = list(TextFile(path, report).blocks(lambda n_bytes: None, 1 << 16))
    report.close()
    (reject,) = map(json.loads, (tmp_path / "rejects").read_bytes().splitlines())
    assert [(block.line, block.text) for block in found if block.text] == [(1, b"a"), (3, b"b")]
    assert reject["line"] == 2 and reject["bytes"] <= text.MAX_LINE_BYTES + (1 << 16)


@pytest.mark.parametrize("form", ["gzip", "zstd", "zip"])
@pytest.mark.parametrize("line", [b"0", GOOD], ids=["one line", "many lines"])
def test_a_decompression_bomb_is_an_error_before_it_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, line: bytes
) -> None:
    monkeypatch.setattr(text, "_MIN_JUDGED_BYTES", 8 << 20)
    path = PACK[form](tmp_path / "lines", line * ((24 << 20) // len(line)))
    with pytest.raises(UnreadableSource, match="a decompression bomb"):
        blocks(path, block_bytes=1 << 20)


# -- rejects -----------------------------------------------------------------------------------------------------------


def test_an_import_above_its_share_of_rejects_makes_no_day_and_keeps_the_rejects(tmp_path: Path) -> None:
    source = zipped(tmp_path / "q.zip", GOOD * 990 + b"no quote\n" * 10)
    arguments = ["day", "import", "--from", "lean", str(source), "--out", str(tmp_path / "day")]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 1 and isinstance(outcome.exception, TooManyRejects)
    assert "10 of 1000 records cannot be read, 1.00% where 0.10% are allowed" in str(outcome.exception)
    rejects = tmp_path / "day.rejects.ndjson"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [rejects.name, source.name]
    assert [json.loads(line) for line in rejects.read_text().splitlines()] == [
        {"file": CSV, "line": line, "reason": "not a quote", "text": "no quote"} for line in range(991, 1001)
    ]
    outcome = CliRunner().invoke(cli, [*arguments, "--max-rejects", "0.01", "--json"])
    answer = json.loads(outcome.stdout.splitlines()[-1])
    assert (outcome.exit_code, answer["records"], answer["unreadable"]) == (0, 990, 10)
    assert answer["records_per_cpu_s"] == pytest.approx(990 / answer["cpu_s"], rel=0.1)
    assert verify_day(tmp_path / "day").ok and len(rejects.read_text().splitlines()) == 10


def test_a_hopeless_import_stops_early(tmp_path: Path) -> None:
    source = zipped(tmp_path / "q.zip", b"".join(b"no quote %d\n" % n for n in range(400_000)))
    with pytest.raises(TooManyRejects):
        import_lean([source], tmp_path / "day")
    assert len((tmp_path / "day.rejects.ndjson").read_bytes().splitlines()) < 300_000


def test_a_refused_text_is_kept_as_it_came_and_cut_when_it_is_long(tmp_path: Path) -> None:
    report = ImportReport(rejects=tmp_path / "rejects")
    report.refuse("f", 3, "strange", b"caf\xe9")
    report.refuse("f", 4, "long", b"x" * 5000)
    report.close()
    strange, long = map(json.loads, (tmp_path / "rejects").read_bytes().splitlines())
    assert (strange["text"], strange.get("bytes")) == ("caf\\xe9", None)
    assert (long["text"], long["bytes"]) == ("x" * 4096, 5000)


def test_a_day_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match=r"no rows in q\.zip: nothing to make"):
        import_lean([zipped(tmp_path / "q.zip", b"")], tmp_path / "day")
    assert [entry.name for entry in tmp_path.iterdir()] == ["q.zip"]


def test_an_import_leaves_what_is_at_its_place_alone(tmp_path: Path) -> None:
    source = zipped(tmp_path / "q.zip", GOOD + b"bad\n")
    first, _ = import_lean([source], tmp_path / "day", terms=Terms(max_rejects=0.5))
    before = (tmp_path / "day.rejects.ndjson").read_bytes()
    with pytest.raises(FileExistsError):
        import_lean([source], tmp_path / "day", terms=Terms(max_rejects=0.5))
    assert (tmp_path / "day.rejects.ndjson").read_bytes() == before and verify_day(first.path).ok
    again, _ = import_lean([source], tmp_path / "again", terms=Terms(max_rejects=0.5))
    assert (again.path / "manifest.json").read_bytes() == (first.path / "manifest.json").read_bytes()
    assert (tmp_path / "again.rejects.ndjson").read_bytes() == before


def test_help_says_how_many_rejects_are_allowed() -> None:
    assert "[default: 0.001;" in " ".join(CliRunner().invoke(cli, ["day", "import", "--help"]).output.split())
