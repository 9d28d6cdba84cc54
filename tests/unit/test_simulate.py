"""`marketprism simulate` says what each policy would have hit, and refuses what is no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result

from agents.cli.main import cli
from models.cache.simulate import POLICIES, simulate


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three rounds of a loop over ten keys: a cache of five keeps five at best, two times."""
    path = tmp_path / "loop.trace"
    path.write_text("* remark\n" + "\n".join(str(i % 10) for i in range(30)))
    return path


def invoke(trace: Path, *arguments: str, form: str = "lirs") -> Result:
    return CliRunner().invoke(cli, ["simulate", str(trace), "--format", form, *arguments], prog_name="marketprism")


def shown(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    fields: dict[str, object] = orjson.loads(result.output.splitlines()[-1])
    return fields


def test_json_gives_every_policy_and_the_optimum(trace: Path) -> None:
    fields = shown(invoke(trace, "--policy", "all", "--capacity", "5", "--json"))
    ratios = fields.pop("hit_ratio")
    assert fields == {"trace": "loop.trace", "requests": 30, "unique": 10, "capacity": 5}
    assert isinstance(ratios, dict)
    assert set(ratios) == set(POLICIES) == {"belady", "ttl", "lru", "lfu", "lirs", "tinylfu", "s3fifo", "adaptive"}
    assert (ratios["belady"], ratios["lru"]) == (10 / 30, 0.0)


def test_one_policy_may_be_asked_for_or_some(trace: Path) -> None:
    for names in (["lru"], ["lru", "belady"]):
        options = [word for name in names for word in ("--policy", name)]
        ratios = shown(invoke(trace, *options, "--capacity", "5", "--json"))["hit_ratio"]
        assert isinstance(ratios, dict)
        assert set(ratios) == set(names)


@pytest.mark.parametrize(("capacity", "entries"), [("50%", 5), ("99%", 9), ("1%", 1), ("100%", 10), ("3", 3)])
def test_a_capacity_may_be_a_share_of_the_different_keys(trace: Path, capacity: str, entries: int) -> None:
    fields = shown(invoke(trace, "--policy", "lru", "--capacity", capacity, "--json"))
    assert fields["capacity"] == entries


@pytest.mark.parametrize("capacity", ["0", "-3", "0%", "101%", "many", "5.5", "nan%", "inf%"])
def test_a_capacity_that_is_none_is_wrong_use(trace: Path, capacity: str) -> None:
    result = invoke(trace, "--capacity", capacity)
    assert result.exit_code == 2
    assert "neither a number of entries above 0 nor a share such as 10%" in result.output


def test_a_limit_takes_the_start(trace: Path) -> None:
    fields = shown(invoke(trace, "--policy", "lru", "--capacity", "100%", "--limit", "12", "--json"))
    assert (fields["requests"], fields["unique"], fields["hit_ratio"]) == (12, 10, {"lru": 2 / 12})


def test_the_table_says_how_much_of_the_optimum_a_policy_reaches(trace: Path) -> None:
    result = invoke(trace, "--policy", "lirs", "--capacity", "10")
    assert result.exit_code == 0
    words = result.output.split()
    assert words[words.index("lirs") + 2] == "66.67"
    assert words[words.index("lirs") + 4] == "100.0"
    assert "belady" in words


def test_ttl_lets_entries_live_for_so_many_requests() -> None:
    keys = np.array([1, 2, 3, 1, 4, 5, 1], np.int64)
    hits = {ttl: simulate("ttl", keys, 10, ttl_requests=ttl).hits for ttl in (2, 3, 4, 7)}
    assert hits == {2: 0, 3: 0, 4: 1, 7: 2}


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="no policy is called 'mru'; there are belady, "):
        simulate("mru", np.zeros(1, np.int64), 1, ttl_requests=1)


def test_a_file_that_is_no_such_trace_fails_with_its_place(trace: Path, tmp_path: Path) -> None:
    result = invoke(trace, "--capacity", "5", form="arc")
    assert result.exit_code == 1
    assert "loop.trace:1: '*' is no whole number" in str(result.exception)
    assert invoke(tmp_path / "none", "--capacity", "5").exit_code == 2
