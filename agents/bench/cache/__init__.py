"""Scenario `cache`: a hit of ours beside the caches that live in one process, Redis reads, and tiers that agree.

Their processes import this package without our dependencies, so the scenario itself loads only when asked for.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "command":
        from agents.bench.cache.scenario import command  # noqa: PLC0415  it needs click, aiokafka and all the rest

        return command
    raise AttributeError(name)
