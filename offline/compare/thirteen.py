"""The claims of the page, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offline.compare.measured import Measured
from offline.compare.settings import Settings


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One claim: its primary contrast with the 95 % interval (above 0 speaks for it), and the verdict in a sentence."""

    number: int
    claim: str
    contrast: str
    value: float | None
    low: float | None
    high: float | None
    detectable: float | None
    seeds: int
    verdict: str
    sentence: str
    details: dict[str, Any]


def claim_rows(measured: Measured, settings: Settings, *, draws: int) -> list[ClaimRow]:
    return []
