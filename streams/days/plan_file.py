"""Reading plans of faults: TOML or JSON, by the file's suffix (docs/days.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from models.days.plan import FaultPlan
from models.errors import InvalidFaultPlan


def read_plan(path: Path) -> FaultPlan:
    """Raises: InvalidFaultPlan: the file is missing, or is no plan; the message names the fault and the field."""
    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            return msgspec.toml.decode(data, type=FaultPlan)
        return msgspec.json.decode(data, type=FaultPlan)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidFaultPlan(f"{path}: not a plan of faults: {exc}") from exc
