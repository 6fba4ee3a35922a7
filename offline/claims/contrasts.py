"""What the claims over arms share: which arms are there, how many runs each has, figures as details take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offline.claims.claim import LEAST_SEEDS, least_seeds
from offline.claims.inputs import WITHOUT_SEEDS, Rows, Scored
from offline.evaluation.metrics import Floats, gains
from offline.evaluation.resampling import Figure, resample


@dataclass(frozen=True, slots=True, eq=False)
class Arms:
    """NDCG@10 [S, E] of each arm over the same events. runs: arm -> trained runs; minutes: of one of them."""

    scores: Mapping[str, Floats]
    runs: Mapping[str, tuple[int, ...]]
    users: Rows
    minutes: Mapping[str, float]
    draws: int
    seed: int

    @classmethod
    def of(cls, scored: Mapping[str, Scored], *, minutes: Mapping[str, float], draws: int, seed: int) -> Arms:
        """ValueError when arms do not stand for the same events."""
        arms = dict(scored)
        users = next(iter(arms.values())).users_E if arms else np.empty(0, dtype=np.int32)
        for name, arm in arms.items():
            if not np.array_equal(arm.users_E, users):
                raise ValueError(f"{name}: its events are not those of {next(iter(arms))}")
        scores = {name: gains(arm.ranks_SE, "ndcg@10") for name, arm in arms.items()}
        runs = {name: tuple(arm.seeds) for name, arm in arms.items()}
        return cls(scores, runs, users, minutes, draws, seed)

    def lacking(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self.scores]

    def means(
        self,
        names: Sequence[str],
        *,
        weights: Mapping[str, Floats] | None = None,
        paired: Mapping[str, str] | None = None,
    ) -> dict[str, dict[str, Figure]]:
        chosen = {name: self.scores[name] for name in names}
        return resample(chosen, self.users, weights=weights, paired=paired, draws=self.draws, seed=self.seed)

    def gain_over_own(self, name: str, base: str) -> Figure:
        """`name` minus `base`, which it adds to, run by run: other runs of `base` have luck that is not the
        difference's."""
        runs, known = self.runs[name], self.runs[base]
        scores = {name: self.scores[name], base: self.scores[base]}
        paired = {name: base} if set(runs) <= set(known) and len(set(runs)) == len(runs) else {}
        if paired:
            scores[base] = scores[base][[known.index(run) for run in runs]]
        means = resample(scores, self.users, paired=paired, draws=self.draws, seed=self.seed)
        return means[name]["all"] - means[base]["all"]

    def seeds(self, names: Sequence[str]) -> int:
        """The fewest runs of any arm that is trained."""
        return fewest({name: len(self.scores[name]) for name in names})

    def least_seeds(self, names: Sequence[str]) -> int:
        return least_seeds(self.minutes.get(name, 0.0) for name in names)


def fewest(runs: Mapping[str, int]) -> int:
    """Of arms that are trained; an arm without randomness needs no second run."""
    trained = [count for name, count in runs.items() if name not in WITHOUT_SEEDS]
    return min(trained, default=LEAST_SEEDS)


def beside(what: str, figure: Figure, *, unit: str = "NDCG@10") -> dict[str, object]:
    """A figure beside the primary contrast, with its own unadjusted interval."""
    estimate = figure.estimate()
    return {
        "what": what,
        "value": _plain(estimate.value),
        "low": _plain(estimate.low),
        "high": _plain(estimate.high),
        "unit": unit,
    }


def in_words(what: str, figure: Figure, *, percent: bool = False) -> str:
    e = figure.estimate()
    if percent:
        return f"{what} {100 * e.value:+.0f} % ({100 * e.low:+.0f} to {100 * e.high:+.0f})"
    return f"{what} {e.value:+.4f} ({e.low:+.4f} to {e.high:+.4f})"


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def named(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def mean_named(names: Sequence[str]) -> str:
    return f"mean of {named(names)}" if len(names) > 1 else named(names)
