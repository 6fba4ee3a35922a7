"""From score files to everything that the page says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offline.claims import Claim
from offline.claims.claim import LEAST_SLOW_SEEDS
from offline.compare.arms import BY_NAME
from offline.compare.cold import ColdRow, beats_nearest_texts, cold_rows_of
from offline.compare.contrasts import Judged, adjusted_with, best_without_llm, judge, p_of_claims, p_of_contrasts
from offline.compare.found_versions import FoundVersions
from offline.compare.measured import Measured, read_measured, share_of_new_items
from offline.compare.null_world import ARMS as NULL_ARMS
from offline.compare.null_world import NULL_DRAWS, claims_in_null_worlds
from offline.compare.plan import Plan
from offline.compare.recommendation import Candidate, Evidence, Recommendation, recommend
from offline.compare.rows import Row, rows_of
from offline.compare.scores import ArmScores, Costs
from offline.compare.targets import Reached, Target, targets_of
from offline.compare.temporal_buckets import Bucket, buckets_of
from offline.compare.thirteen import claims_of
from offline.evaluation.resampling import DRAWS

NULL_WORLDS = "null-world.json"
# What null worlds were asked. judging is counted up whenever contrasts or claims are judged otherwise.
NULL_ASKED = {"worlds": 100, "draws": NULL_DRAWS, "judging": 1, "arms": list(NULL_ARMS)}
TRAINING_STEP = "training-step.json"  # written by `make bench`, with --page


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the page was made. measured: of the first and the last score file, UTC. looks: how often test events of this
    data set have been looked at, as the record counts them. timed_on: the processor on which the rows `timed` were
    timed one after the other; what others cost cannot be compared with it."""

    command: str
    dataset: str
    dataset_fingerprint: str
    headline: str
    seen_removed: bool
    minutes: float
    trials: int
    seeds: int
    measured: tuple[str, str]
    looks: int
    timed_on: str = ""
    timed: tuple[str, ...] = ()

    def mark(self, arm: str) -> str:
        """A star after the cost of what was not timed on that processor."""
        return "*" if self.timed and arm not in self.timed else ""


@dataclass(frozen=True, slots=True)
class Results:
    """warm: the headline's rows, seen items as the data set says, best first. rows: all of them. curves: arm -> points
    of one training. neighbours: arm -> title -> titles. missing: what was not measured, and why."""

    recommendation: Recommendation
    rows: list[Row]
    contrasts: list[Judged]
    claims: list[Claim]
    targets: list[Target]
    cold: list[ColdRow]
    buckets: list[Bucket]
    new_items: float | None
    curves: dict[str, list[dict[str, float]]]
    neighbours: dict[str, dict[str, list[str]]]
    tuned: dict[str, dict[str, Any]]
    missing: dict[str, str]
    provenance: Provenance

    @property
    def warm(self) -> list[Row]:
        p = self.provenance
        rows = [r for r in self.rows if (r.protocol, r.seen_removed) == (p.headline, p.seen_removed)]
        return sorted(rows, key=lambda row: -row.ndcg10)


def results_of(
    plan: Plan, found: FoundVersions, *, failures: dict[str, str], command: str, looks: int, draws: int = DRAWS
) -> Results:
    """Nothing is trained here, and nothing measured but null worlds, once. A second call with the same files gives the
    same results."""
    measured = read_measured(plan, found)
    rows = [
        row
        for scores in measured.everything
        for row in rows_of(scores, draws=draws, costs=measured.costs.get(scores.arm))
    ]
    seen_removed = measured.splits[plan.settings.headline].dataset.exclude_seen
    warm = {r.arm: r for r in rows if (r.protocol, r.seen_removed) == (plan.settings.headline, seen_removed)}
    judged = judge(measured.warm, draws=draws)
    claims = claims_of(measured, found, others=p_of_contrasts(judged), draws=draws)
    judged = adjusted_with(judged, p_of_claims(claims), measured.warm)
    cold = cold_rows_of(measured, draws=draws)
    new_items = share_of_new_items(measured.splits["temporal"]) if "temporal" in measured.splits else None
    reached = Reached(
        plan.settings.dataset,
        warm,
        judged,
        cold,
        retriever_recall=_retriever_recall(measured.warm),
        null_claims=_null_claims(plan.settings.report),
        training_step=_training_step(plan.settings.report),
    )
    return Results(
        recommendation=recommend(
            _evidence(warm, judged, cold, measured=measured, new_items=new_items, seeds=plan.settings.seeds)
        ),
        rows=rows,
        contrasts=judged,
        claims=claims,
        targets=targets_of(reached),
        cold=cold,
        buckets=buckets_of(measured),
        new_items=new_items,
        curves={
            name: _curve(scores, measured.costs.get(name))
            for name, scores in measured.warm.items()
            if scores.metas[0].curve
        },
        neighbours={name: s.metas[0].neighbours for name, s in measured.warm.items() if s.metas[0].neighbours},
        tuned={family: dict(changes) for family, changes in found.tuned.items()} if plan.settings.trials > 1 else {},
        missing=plan.unavailable | failures,
        provenance=_provenance(plan, measured, command=command, looks=looks),
    )


def _provenance(plan: Plan, measured: Measured, *, command: str, looks: int) -> Provenance:
    settings, data = plan.settings, measured.splits[plan.settings.headline].dataset
    times = sorted(meta.measured_at for scores in measured.everything for meta in scores.metas)
    return Provenance(
        command=command,
        dataset=settings.dataset,
        dataset_fingerprint=data.fingerprint,
        headline=settings.headline,
        seen_removed=data.exclude_seen,
        minutes=settings.minutes,
        trials=settings.trials,
        seeds=settings.seeds,
        measured=(times[0], times[-1]) if times else ("", ""),
        looks=looks,
        timed_on=measured.timed_on,
        timed=tuple(sorted(measured.timed)),
    )


def _evidence(
    warm: dict[str, Row],
    judged: list[Judged],
    cold: list[ColdRow],
    *,
    measured: Measured,
    new_items: float | None,
    seeds: int,
) -> Evidence:
    """Controls prove something; nobody deploys them. A row that equals another by construction adds nothing to it."""
    best = best_without_llm(measured.warm)

    def enough(row: Row) -> bool:
        """A single run of something that is drawn is no row to deploy by, where others have several."""
        return not BY_NAME[row.arm].drawn or row.seeds >= min(LEAST_SLOW_SEEDS, seeds)

    candidates = [
        Candidate(
            row.arm, row.llm, row.ndcg10, row.low, row.costs.get("request_cpu_ms"), beats_nearest_texts(row.arm, cold)
        )
        for row in warm.values()
        if BY_NAME[row.arm].is_bundle and row.role != "control" and row.same_as is None and enough(row)
    ]
    serves = {name for name, row in warm.items() if row.llm and row.role != "control" and row.same_as is None}
    above = [j for j in judged if j.contrast.base == best and j.contrast.difference_low > 0]
    winners = [j.contrast.family for j in above if j.claimed and j.contrast.family in serves]
    promising = [j.contrast.family for j in above if j.primary and not j.claimed and j.contrast.family in serves]
    beat_twins = {j.contrast.family for j in judged if j.claimed and BY_NAME[j.contrast.family].twin == j.contrast.base}
    compared = {j.contrast.family for j in judged if BY_NAME[j.contrast.family].twin == j.contrast.base}
    random = tuple(name for name in winners if name in compared - beat_twins)
    return Evidence(tuple(candidates), new_items, tuple(winners), best, tuple(promising), random)


def _curve(scores: ArmScores, costs: Costs | None) -> list[dict[str, float]]:
    """Of the first seed. What a training does not count itself, tokens, is its items times the encoder's tokens for
    one."""
    meta = scores.metas[0]
    per_item = None if costs is None else costs.tokens_per_item
    points = []
    for point in meta.curve:
        read = point.get("items_read", point.get("targets", 0.0))
        tokens = {} if per_item is None else {"tokens": read * per_item}
        points.append(tokens | dict(point))
    return points


def _retriever_recall(warm: dict[str, ArmScores]) -> float | None:
    """Of SASRec, as deep as it was ranked: what a perfect ranker of its list would reach."""
    return float((warm["sasrec"].ranks_SE > 0).mean()) if "sasrec" in warm else None


def _null_claims(report: Path) -> int:
    """Measured once per report and way to judge: it depends on nothing but this code."""
    file = report / NULL_WORLDS
    found = json.loads(file.read_text()) if file.exists() else {}
    if {key: found.get(key) for key in NULL_ASKED} != NULL_ASKED:
        report.mkdir(parents=True, exist_ok=True)
        found = NULL_ASKED | {"claimed": claims_in_null_worlds(100)}
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(found) + "\n")
        fresh.replace(file)
    return int(found["claimed"])


def _training_step(report: Path) -> dict[str, float]:
    file = report / TRAINING_STEP
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return found


def as_plain(value: Any) -> Any:
    """As JSON takes it: not-a-numbers become null."""
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): as_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    return value
