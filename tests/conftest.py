"""Where Kafka and Redis run is chosen once a process: addresses given by environment, else containers, else processes.

Unit tests ask for none of this, and then nothing is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from models.errors import DeadlineExceeded
from streams.services.ports import free_ports
from streams.settings import Settings
from tests.sites import Site, choose_site, forget_keys, forget_topics

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

    from tests.shares import Shares

ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.01

# The first example of a test may wait for a compiled kernel, and machines are shared.
hypothesis_settings.register_profile("marketprism", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("marketprism")

T = TypeVar("T")
_sites_key = pytest.StashKey[list[str]]()


class WaitUntil(Protocol):
    async def __call__(self, condition: Callable[[], T | Awaitable[T]], deadline_s: float, what: str) -> T: ...


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real Kafka and a real Redis that all tests of this process share."""
    with choose_site(tmp_path_factory.mktemp("site")) as chosen:
        told = f"Kafka {chosen.bootstrap} and Redis {chosen.redis_url}: {chosen.how}"
        if (output := getattr(request.config, "workeroutput", None)) is not None:
            output["site"] = told
        else:
            request.config.stash.setdefault(_sites_key, []).append(told)
        yield chosen


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Shares:
    """With `-n`: which process runs what."""
    from tests.shares import Shares  # noqa: PLC0415 - one process does without

    return Shares(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """With `-n`: what a process said at its end; one that crashed said nothing."""
    if told := getattr(node, "workeroutput", {}).get("site"):
        node.config.stash.setdefault(_sites_key, []).append(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for told in config.stash.get(_sites_key, []):
        terminalreporter.write_line(told)


@pytest.fixture(scope="session")
def session_prefix(site: Site) -> Iterator[str]:
    """What every topic and key of a test run begins with; a site that outlives the run is left without them."""
    prefix = f"test.{uuid.uuid4().hex[:8]}."
    yield prefix
    if not site.temporary:
        asyncio.run(forget_topics(site.bootstrap, prefix))
        asyncio.run(forget_keys(site.redis_url, prefix))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soak tests out, also where `-m` asks for something else, unless it names them."""
    if "soak" in (config.option.markexpr or ""):
        return
    if soak := [item for item in items if item.get_closest_marker("soak")]:
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soak)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def make_settings(site: Site, session_prefix: str) -> Callable[[Path], Settings]:
    """Settings with topics, a consumer group and a port of their own; the worker's folder lies in the given one."""

    def make(folder: Path) -> Settings:
        name = f"{session_prefix}{next(_numbers)}"
        defaults = Settings()
        return replace(
            defaults,
            kafka=replace(defaults.kafka, bootstrap=site.bootstrap),
            # patient: the machine on which all of it runs may look away for seconds
            redis=replace(defaults.redis, url=site.redis_url, timeout_s=5.0),
            reader=replace(defaults.reader, max_wait_s=30.0),
            topics=replace(defaults.topics, prefix=f"{name}."),
            worker=replace(defaults.worker, id=name, data_dir=str(folder / "worker"), port=free_ports(1)[0]),
        )

    return make


@pytest.fixture
def settings(make_settings: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    """Settings of one test: the site, topics, a consumer group, a worker's folder and port of its own."""
    return make_settings(tmp_path)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded market data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "market_data").is_dir():
        pytest.skip(f"needs recorded market data in ../{folder.name}/market_data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Wait for a condition, sync or async, and return its first true value.

    Raises:
        DeadlineExceeded: `what` did not come within `deadline_s`.
    """

    async def wait(condition: Callable[[], T | Awaitable[T]], deadline_s: float, what: str) -> T:
        end = time.monotonic() + deadline_s
        while True:
            value = condition()
            if inspect.isawaitable(value):
                with contextlib.suppress(TimeoutError):
                    value = await asyncio.wait_for(value, max(end - time.monotonic(), _POLL_S))
            if value and not inspect.isawaitable(value):
                return value
            if time.monotonic() > end:
                raise DeadlineExceeded(f"{what} did not come within {deadline_s:g} s")
            await asyncio.sleep(_POLL_S)

    return wait
