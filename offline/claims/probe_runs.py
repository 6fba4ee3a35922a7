"""What a probed training leaves: one small JSON per run."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ProbeRun(BaseModel):
    """q(z) of one training: the withheld users' MRR after z training targets.

    arm: `sasrec` for the baseline that the others are measured by. learning_rate: None where it is the recipe's own.
    targets, mrr, cpu_seconds: one figure per look (seconds without the looks themselves).
    users: per withheld user (events, mean over looks of the sum of reciprocal ranks, sum at the last look).
    losses: of every step, mean per target. diverged: the loss became no number; the looks that were left found 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    learning_rate: float | None
    seed: int
    targets: list[int]
    mrr: list[float]
    cpu_seconds: list[float]
    users: list[tuple[int, float, float]]
    losses: list[float]
    diverged: bool = False

    def save(self, file: Path) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text(self.model_dump_json())
        fresh.rename(file)


def read_runs(folder: Path) -> tuple[ProbeRun, ...]:
    """All that are there, in order of their names."""
    return tuple(ProbeRun.model_validate_json(file.read_text()) for file in sorted(folder.glob("*.json")))
