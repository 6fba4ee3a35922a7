"""Score files: how the events of one arm, protocol and seed came out, and what it cost. Small, and free of the data.

A file holds ranks and figures: no user, no item id, no interaction. With the data set beside them the page is made from
them alone, long after the bundles are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from offline.evaluation.metrics import Floats, gains

Ranks = npt.NDArray[np.int32]
A = TypeVar("A", Ranks, Floats)


class Costs(BaseModel):
    """Of the bundle as it ships, one thread. Milliseconds; encode: histories to vectors; request: encode, search, rank.

    memory_bytes: weights and item vectors. tokens_per_item: what the encoder reads for one item of a history.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encode_ms_p50: float
    encode_ms_p99: float
    encode_cpu_ms: float
    request_ms_p50: float
    request_ms_p99: float
    request_cpu_ms: float
    index_bytes: int
    bundle_bytes: int
    memory_bytes: int
    tokens_per_item: float | None = None


class ScoreMeta(BaseModel):
    """fingerprint: of the arm (recipes.fingerprint). minutes: the budget that it, or what it starts from, was trained
    under; longest_seconds: the longest of those trainings. None: no training with a budget is behind it. log: what the
    training chose and recorded, without its curve. lists: figures of the lists beside accuracy. neighbours: title ->
    titles.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    family: str
    variant: str
    protocol: str
    seed: int
    fingerprint: str
    dataset: str
    dataset_fingerprint: str
    split_fingerprint: str
    seen_removed: bool
    depth: int
    events: int
    users: int
    measured_at: str
    score_seconds: float
    version: str | None = None
    minutes: float | None = None
    train_seconds: float | None = None
    longest_seconds: float | None = None
    parents: dict[str, str] = {}
    log: dict[str, Any] = {}
    curve: list[dict[str, Any]] = []
    costs: Costs | None = None  # of files of before they were timed in one pass (timing.py)
    lists: dict[str, float] = {}
    neighbours: dict[str, list[str]] = {}

    def is_of(self, fingerprint: str, *, split_fingerprint: str, minutes: float) -> bool:
        """Whether this is the measurement that a comparison asks for; one whose trainings ended by themselves counts
        for any budget that is not shorter than they were."""
        longest = self.train_seconds if self.longest_seconds is None else self.longest_seconds
        same_budget = self.minutes in (None, minutes) or (
            longest is not None and longest < 60 * min(self.minutes or minutes, minutes)
        )
        return (self.fingerprint, self.split_fingerprint) == (fingerprint, split_fingerprint) and same_budget


@dataclass(frozen=True, slots=True, eq=False)
class SeedScores:
    """One file. ranks_E: int32[E], 1-based, 0 = not within depth. kept_E: the same with seen items left in the lists.
    among_E: the target's rank among the cold items alone. wins_P: 1, .5 or 0 where the target stands above, with or
    below an item of nearly the same title (`twin_events.twin_wins`). All may be missing.
    """

    meta: ScoreMeta
    ranks_E: Ranks
    kept_E: Ranks | None = None
    among_E: Ranks | None = None
    wins_P: Floats | None = None

    def save(self, folder: Path) -> None:
        """Whole or not at all: a killed write leaves no file under the name."""
        folder.mkdir(parents=True, exist_ok=True)
        small = np.uint8 if self.meta.depth < 256 else np.uint16
        arrays = {"ranks": self.ranks_E, "kept": self.kept_E, "among": self.among_E}
        wins = {} if self.wins_P is None else {"wins": (2 * self.wins_P).astype(np.uint8)}
        text = np.frombuffer(self.meta.model_dump_json(exclude_defaults=True).encode(), dtype=np.uint8)
        file = score_file(folder, self.meta.arm, self.meta.protocol, seed=self.meta.seed)
        fresh = file.with_suffix(".new")
        kept = {name: ranks.astype(small) for name, ranks in arrays.items() if ranks is not None}
        # By a handle: to a name numpy adds an ending under which half a file would be read as a whole one.
        with fresh.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, meta=text, **kept, **wins)
        fresh.replace(file)

    @classmethod
    def read(cls, file: Path) -> SeedScores:
        with np.load(file, allow_pickle=False) as saved:
            ranks = {f"{name}_E": saved[name].astype(np.int32) for name in ("ranks", "kept", "among") if name in saved}
            wins_P = saved["wins"] / 2.0 if "wins" in saved else None
            return cls(ScoreMeta.model_validate_json(saved["meta"].tobytes()), **ranks, wins_P=wins_P)


def score_file(folder: Path, arm: str, protocol: str, *, seed: int) -> Path:
    return folder / f"{arm}.{protocol}.{seed}.npz"


def read_meta(file: Path) -> ScoreMeta | None:
    """None where there is no such file yet."""
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as saved:
        return ScoreMeta.model_validate_json(saved["meta"].tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class ArmScores:
    """All seeds of one arm under one protocol, over the same E events.

    ranks_SE: int32[S, E], 1-based, 0 = not within depth. users_E: int32[E], clusters of the bootstrap. weights_E:
    float64[E], or None where all events weigh alike. kept_SE, among_SE, wins_SP: as in the files,
    where every seed has them.
    """

    arm: str
    family: str
    variant: str
    protocol: str
    seeds: tuple[int, ...]
    ranks_SE: Ranks
    users_E: Ranks
    weights_E: Floats | None
    kept_SE: Ranks | None
    among_SE: Ranks | None
    wins_SP: Floats | None
    metas: tuple[ScoreMeta, ...]

    @property
    def ndcg10_SE(self) -> Floats:
        return gains(self.ranks_SE, "ndcg@10")

    @property
    def hr10_SE(self) -> Floats:
        return gains(self.ranks_SE, "hr@10")


def gather(files: list[SeedScores], *, users_E: Ranks, weights_E: Floats | None = None) -> ArmScores:
    """One arm's files, a seed each, as one."""
    first = files[0].meta
    return ArmScores(
        first.arm,
        first.family,
        first.variant,
        first.protocol,
        seeds=tuple(file.meta.seed for file in files),
        ranks_SE=np.stack([file.ranks_E for file in files]),
        users_E=users_E,
        weights_E=weights_E,
        kept_SE=_stacked([file.kept_E for file in files]),
        among_SE=_stacked([file.among_E for file in files]),
        wins_SP=_stacked([file.wins_P for file in files]),
        metas=tuple(file.meta for file in files),
    )


def _stacked(rows: list[A | None]) -> A | None:
    """None where a seed lacks it."""
    there = [row for row in rows if row is not None]
    return np.stack(there) if len(there) == len(rows) else None
