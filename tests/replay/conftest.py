"""Real captures, imported once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.days.day import Day
from streams.days.importers.binance import import_binance
from streams.days.importers.lean import import_lean
from streams.days.importers.report import ImportReport

Imported = tuple[Day, ImportReport]


@pytest.fixture(scope="session")
def binance(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    sources = sorted((shared / "market_data" / "binance_websocket").glob("*.gz"))
    return import_binance(sources, tmp_path_factory.mktemp("binance") / "day")


@pytest.fixture(scope="session")
def lean(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    sources = sorted((shared / "market_data" / "us_equity_ticks").glob("*/*.zip"))
    return import_lean(sources, tmp_path_factory.mktemp("lean") / "day")
