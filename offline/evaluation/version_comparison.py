"""Versions side by side, in figures: each one's, and the contrasts with one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline.evaluation.baselines import CHEAP_ROWS, cheap_rows
from offline.evaluation.beyond_accuracy import list_figures
from offline.evaluation.bootstrap import Contrast, compare, user_intervals
from offline.evaluation.cold_rows import COLD_ROWS, cold_rows
from offline.evaluation.full_ranking import drawn_items
from offline.evaluation.metrics import EventScores, Floats, weighted_mean
from offline.evaluation.protocol_figures import asks_cold, bucket_figures, cold_figures, depth_of
from offline.evaluation.score_matrix import Scorer, evaluate_scores
from offline.evaluation.version_scores import Row, Subset, queries_of, resolve, scores_of, split_of
from offline.run_config import RunRefused
from offline.splits.sequences import Split
from offline.workspace import Workspace

HEADLINE = "ndcg@10"


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """One row of a table: mean over seeds of HR@10 and NDCG@10; interval over users of the latter's mean.

    lists: what the lists are like beside their accuracy, means over seeds (empty when not asked for).
    by_protocol: what the protocol reports beside the headline (empty for most).
    """

    name: str
    seeds: int
    ndcg10: float
    low: float
    high: float
    hr10: float
    per_event_SE: Floats
    lists: dict[str, float]
    by_protocol: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    dataset: str
    protocol: str
    subset: Subset
    seen_removed: bool
    rows: list[Figures]
    contrasts: list[Contrast]


def side_by_side(
    references: list[str],
    *,
    base: str | None,
    subset: Subset,
    keep_seen: bool = False,
    cheap: bool = False,
    lists: bool = False,
    store: ModelStore,
    workspace: Workspace,
) -> Table:
    """Figures of each reference, and its contrast with `base`, one of them.

    keep_seen: items of the history may come back, also where the data set removes them.
    RunRefused when two are the same, when `base` is none of them, or when their splits differ.
    """
    rows = [resolve(reference, store) for reference in references]
    base_row = None if base is None else resolve(base, store)
    _check([row.name for row in rows], None if base_row is None else base_row.name, cheap=cheap)
    splits = {m.provenance.split_fingerprint: m for row in rows for m in row.versions}
    if len(splits) > 1:
        raise RunRefused("these versions were fitted to different splits: their figures cannot stand side by side")
    data = split_of(next(iter(splits.values())))
    queries, seen_removed = queries_of(data, subset), data.dataset.exclude_seen and not keep_seen
    measured = {
        row.name: _seeds(row, subset, data, seen_removed=seen_removed, store=store, workspace=workspace) for row in rows
    }
    if cheap:
        measured |= _cheap(data, subset, seen_removed=seen_removed)
    figures = [_figures(name, row, data, lists=lists, subset=subset) for name, row in measured.items()]
    contrasts: list[Contrast] = []
    if base_row is not None:
        others = [row.name for row in figures if row.name != base_row.name]
        contrasts = compare(
            {row.name: row.per_event_SE for row in figures},
            queries.users,
            contrasts=[(name, base_row.name) for name in others],
            paired={row.name: base_row.name for row in rows if _stands_beside(row, base_row)},
            weights=queries.weights,
            items=drawn_items(data.dataset, queries.targets),
        )
    return Table(data.dataset.name, data.dataset.protocol, subset, seen_removed, figures, contrasts)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """A seed each. among: of the cold items alone, where the events ask about them."""

    full: list[EventScores]
    among: list[EventScores]


def _stands_beside(row: Row, base: Row) -> bool:
    """Whether each seed of `row` adds to the answer of the same seed of `base` (residual, fusion)."""
    return len(row.versions) == len(base.versions) and all(
        (ours.provenance.recipe.get("residual") or ours.provenance.recipe.get("parts"))
        and theirs.version in ours.provenance.parents.values()
        for ours, theirs in zip(row.versions, base.versions, strict=True)
    )


def _check(names: list[str], base: str | None, *, cheap: bool) -> None:
    named = [*names, *CHEAP_ROWS, *COLD_ROWS] if cheap else names
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise RunRefused(f"named twice: {', '.join(twice)}")
    if base is not None and base not in names:
        raise RunRefused(f"the base {base} is none of {', '.join(names)}")


def _seeds(
    row: Row, subset: Subset, data: Split, *, seen_removed: bool, store: ModelStore, workspace: Workspace
) -> _Measured:
    def measured(manifest: Manifest, *, among_cold: bool) -> EventScores:
        return scores_of(
            manifest,
            subset=subset,
            seen_removed=seen_removed,
            among_cold=among_cold,
            store=store,
            workspace=workspace,
        )

    cold = row.versions if asks_cold(data, subset) else ()
    return _Measured(
        [measured(m, among_cold=False) for m in row.versions], [measured(m, among_cold=True) for m in cold]
    )


def _cheap(data: Split, subset: Subset, *, seen_removed: bool) -> dict[str, _Measured]:
    queries, cold = queries_of(data, subset), asks_cold(data, subset)
    scorers = cheap_rows(data.dataset) | (cold_rows(data.dataset) if cold else {})
    k, cold_N = depth_of(data, subset), data.dataset.cold_items

    def scored(scorer: Scorer, *, among_cold: bool) -> EventScores:
        allowed_N = cold_N if among_cold else None
        return evaluate_scores(scorer, queries, seen_removed=seen_removed, k=k, allowed_N=allowed_N)

    return {
        name: _Measured([scored(scorer, among_cold=False)], [scored(scorer, among_cold=True)] if cold else [])
        for name, scorer in scorers.items()
    }


def _figures(name: str, measured: _Measured, data: Split, *, lists: bool, subset: Subset) -> Figures:
    seeds, queries = measured.full, queries_of(data, subset)
    ndcg_SE = np.stack([scores.values(HEADLINE) for scores in seeds])
    hr_E = np.mean([scores.values("hr@10") for scores in seeds], axis=0)
    items = drawn_items(data.dataset, queries.targets)
    low, high = user_intervals(ndcg_SE.mean(axis=0)[:, None], queries.users, weights=queries.weights, items=items)
    of_lists = [list_figures(scores, queries, dataset=data.dataset) for scores in seeds] if lists else []
    by_protocol: dict[str, float] = {}
    if measured.among:
        by_protocol = cold_figures(seeds, measured.among)
    elif data.dataset.protocol == "temporal" and subset == "test":
        by_protocol = bucket_figures(seeds, data)
    return Figures(
        name,
        seeds=len(seeds),
        ndcg10=float(weighted_mean(ndcg_SE.mean(axis=0), queries.weights)),
        low=float(low[0]),
        high=float(high[0]),
        hr10=float(weighted_mean(hr_E, queries.weights)),
        per_event_SE=ndcg_SE,
        lists={
            key: float(np.mean([figures[key] for figures in of_lists])) for key in (of_lists[0] if of_lists else {})
        },
        by_protocol=by_protocol,
    )


def is_better(contrast: Contrast) -> bool:
    """Whether the whole interval of the difference lies above 0."""
    return contrast.difference_low > 0
