"""Where Kafka and Redis run is chosen once a session: addresses given by environment, else containers, else processes.

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
from typing import Protocol, TypeVar

import pytest
from hypothesis import settings as hypothesis_settings

from models.errors import DeadlineExceeded
from streams.services.ports import free_ports
from streams.settings import Settings
from tests.sites import Site, choose_site, forget_keys, forget_topics

ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.01

# The first example of a test may wait for a compiled kernel, and machines are shared.
hypothesis_settings.register_profile("marketprism", deadline=None)
hypothesis_settings.load_profile("marketprism")

T = TypeVar("T")
_site_key = pytest.StashKey[Site]()


class WaitUntil(Protocol):
    async def __call__(self, condition: Callable[[], T | Awaitable[T]], deadline_s: float, what: str) -> T: ...


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real Kafka and a real Redis that every test of the session shares."""
    with choose_site(tmp_path_factory.mktemp("site")) as chosen:
        request.config.stash[_site_key] = chosen
        yield chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if chosen := config.stash.get(_site_key, None):
        terminalreporter.write_line(f"Kafka {chosen.bootstrap} and Redis {chosen.redis_url}: {chosen.how}")


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
            redis=replace(defaults.redis, url=site.redis_url),
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
