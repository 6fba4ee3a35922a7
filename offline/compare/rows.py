"""One line per arm, protocol and treatment of seen items: the mean over seeds, and its interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offline.compare.arms import BY_NAME
from offline.compare.scores import ArmScores, Costs
from offline.evaluation.metrics import Floats, gains, weighted_mean
from offline.evaluation.resampling import WHOLE, resample

# What trainings call what they chose: the weight of one thing beside another, EASE's ridge and decay.
CHOICES = ("beta", "w", "weight", "weights", "lam", "tau")


@dataclass(frozen=True, slots=True)
class Row:
    """low, high: 95 % interval of NDCG@10. metrics: HR, NDCG and MRR at several depths. costs: fields of `Costs`.
    versions: of its seeds, in their order. choices: what each seed chose on validation. same_as: the arm it equals by
    construction (its weight is 0), or None.
    """

    arm: str
    family: str
    variant: str
    role: str
    llm: bool
    protocol: str
    seen_removed: bool
    seeds: int
    ndcg10: float
    hr10: float
    low: float
    high: float
    events: int
    users: int
    metrics: dict[str, float]
    train_minutes: float | None = None
    minutes: float | None = None
    costs: dict[str, float] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    lists: dict[str, float] = field(default_factory=dict)
    same_as: str | None = None


def rows_of(scores: ArmScores, *, draws: int, costs: Costs | None = None) -> list[Row]:
    """As the data set asks, and once more with seen items left in the lists where that was measured."""
    first = scores.metas[0]
    rows = [_row(scores, scores.ranks_SE, seen_removed=first.seen_removed, draws=draws, costs=costs)]
    if scores.kept_SE is not None:
        rows.append(_row(scores, scores.kept_SE, seen_removed=False, draws=draws, costs=costs))
    return rows


def _row(scores: ArmScores, ranks_SE: Any, *, seen_removed: bool, draws: int, costs: Costs | None) -> Row:
    arm, metas = BY_NAME[scores.arm], scores.metas
    depth = metas[0].depth
    cuts = [cut for cut in (1, 5, 10, 20) if cut <= depth]
    metrics = {
        f"{name}@{cut}": mean_of(gains(ranks_SE, f"{name}@{cut}"), scores.weights_E)
        for name in ("hr", "ndcg", "mrr")
        for cut in cuts
    }
    low, high = interval(gains(ranks_SE, "ndcg@10"), scores, draws=draws)
    trained = [meta.train_seconds for meta in metas if meta.train_seconds is not None]
    return Row(
        arm=arm.name,
        family=arm.family or arm.name,
        variant=arm.variant,
        role=arm.role,
        llm=arm.llm,
        protocol=scores.protocol,
        seen_removed=seen_removed,
        seeds=len(scores.seeds),
        ndcg10=metrics["ndcg@10"],
        hr10=metrics["hr@10"],
        low=low,
        high=high,
        events=metas[0].events,
        users=metas[0].users,
        metrics=metrics,
        train_minutes=float(np.mean(trained)) / 60 if trained else None,
        minutes=metas[0].minutes,
        costs={} if costs is None else costs.model_dump(exclude_none=True),
        versions=[meta.version for meta in metas if meta.version is not None],
        choices=[{key: meta.log[key] for key in CHOICES if key in meta.log} for meta in metas],
        lists={name: float(np.mean([meta.lists[name] for meta in metas])) for name in metas[0].lists},
        same_as=same_as(scores),
    )


def same_as(scores: ArmScores) -> str | None:
    """What an arm is by construction, where the weights chosen on validation leave nothing else of it in any seed: what
    it stands beside, or of a fusion the one part that speaks, or those without a language model. Such a row claims
    nothing. None for all others.
    """
    arm = BY_NAME[scores.arm]
    parts = arm.parents.get("parts", ())
    if isinstance(parts, tuple) and parts:
        speak = {part for meta in scores.metas for part in _speaking(parts, meta.log.get("weights"))}
        left = list(dict.fromkeys(part.partition("@")[0] for part in parts if part in speak))
        without_llm = not any(BY_NAME[part].llm for part in left)
        return "+".join(left) if len(speak) < len(parts) and (len(speak) == 1 or without_llm) else None
    single = [meta.log.get(key) for meta in scores.metas for key in ("beta", "w", "weight") if key in meta.log]
    return arm.beside if arm.beside and len(single) == len(scores.metas) and not any(single) else None


def _speaking(parts: tuple[str, ...], weights: Any) -> list[str]:
    """Of a fusion's parts those whose weight is not 0; all where it is not known."""
    if not isinstance(weights, list | tuple) or len(weights) != len(parts):
        return list(parts)
    return [part for part, weight in zip(parts, weights, strict=True) if weight != 0]


def mean_of(values_SE: Floats, weights_E: Floats | None) -> float:
    """Over seeds, then over events as the protocol weighs them."""
    return float(weighted_mean(values_SE.mean(axis=0), weights_E))


def interval(values_SE: Floats, scores: ArmScores, *, draws: int) -> tuple[float, float]:
    """95 %, users and seeds drawn."""
    groups = None if scores.weights_E is None else {WHOLE: scores.weights_E}
    figures = resample({"row": values_SE}, scores.users_E, weights=groups, draws=draws)
    found = figures["row"][WHOLE].estimate()
    return found.low, found.high
