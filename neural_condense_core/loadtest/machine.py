"""The machine that the load comes from, for the report."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, system, Python and how busy it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in _load_average()],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _load_average() -> Sequence[float]:
    try:
        return os.getloadavg()
    except OSError:
        return ()
