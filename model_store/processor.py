"""Which processor this is, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def processor_fields() -> dict[str, str]:
    """Fields of /proc/cpuinfo, of one of its processors; empty where nothing is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
