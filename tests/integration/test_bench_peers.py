"""The comparison with other engines on real services: each makes durable what was sent.

Both engines are installed on first use (a minute). Two jobs, one of each engine and shape, run every time; all of them
and the whole scenario with MARKETPRISM_TEST_PEERS=1 (three minutes).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents.bench.peers.environment import peers_python
from agents.bench.peers.jobs.task import PeerTask
from agents.bench.peers.measure import Load, measure_peer
from agents.bench.peers.process import PeerProcess
from agents.bench.peers.scenario import RATIOS, UNITS
from agents.bench.site import BenchSite
from agents.cli.bench import bench
from models.errors import ServiceUnavailable
from streams.kafka.admin import connected
from streams.settings import ServicesSettings, Settings, environment_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ALL = os.environ.get("MARKETPRISM_TEST_PEERS") == "1"
only_when_asked = pytest.mark.skipif(not ALL, reason="set MARKETPRISM_TEST_PEERS=1 to run all peers")

LOAD = Load(
    instruments=20, records_ticks=3_000, frames_ticks=20_000, frame_ticks=256, batch_records=50, commit_s=0.5, seed=5
)


@pytest.fixture(scope="session")
def python() -> Path:
    return peers_python(Path(ServicesSettings().cache_dir).expanduser(), lambda *_: None)


EVERY_TIME = ("bytewax_record", "quix_frames")
WHEN_ASKED = ("quix_record", "quix_hand", "bytewax_hand", "bytewax_frames")


@pytest.mark.parametrize("job", [*EVERY_TIME, *(pytest.param(job, marks=only_when_asked) for job in WHEN_ASKED)])
async def test_a_peer_makes_durable_what_was_sent(job: str, settings: Settings, tmp_path: Path, python: Path) -> None:
    figures = await measure_peer(BenchSite(settings, tmp_path), LOAD, job, python)
    ticks_per_record = 1 if job.endswith("frames") else 5 / 3
    assert figures.cpu_us * figures.ticks_per_cpu_s / 1e6 == pytest.approx(ticks_per_record, rel=0.1)
    assert figures.broker_cpu_s > 0


async def test_a_peer_that_ends_by_itself_says_why(settings: Settings, tmp_path: Path, python: Path) -> None:
    task = PeerTask("127.0.0.1:1", "no.such.topic", "group", str(tmp_path / "state"), 0.5)
    async with connected(settings.kafka) as admin, PeerProcess(python, "no_such_job", task, tmp_path / "log") as peer:
        with pytest.raises(ServiceUnavailable, match=r"no_such_job ended: .*No module named"):
            await peer.wait_durable({0: 1}, admin)


@only_when_asked
def test_bench_peers_prints_ratios_and_figures_of_every_system(
    make_settings: Callable[[Path], Settings], tmp_path: Path, python: Path
) -> None:
    options = ["--instruments", "20", "--record-ticks", "3000", "--frames-ticks", "20000", "--runs", "1"]
    result = CliRunner().invoke(
        bench,
        ["peers", *options, "--live-services", "--json"],
        env=environment_of(make_settings(tmp_path)),
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["scenario"] == "peers"
    assert report["parameters"]["quixstreams"] == "3.28.1"
    assert report["metrics"].keys() == UNITS.keys()
    for name in RATIOS:
        assert report["metrics"][name]["median"] > 0
