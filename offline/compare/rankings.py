"""Test events of a protocol, ranked by a bundle or by a scorer: seen items removed, left in, and among new items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model_store.bundle import Bundle
from offline.baselines import CHEAP_ROWS, cheap_rows
from offline.cold_rows import cold_rows
from offline.compare.scores import Ranks
from offline.evaluation import query_vectors, rank_vectors
from offline.metrics import EventScores
from offline.protocol_figures import asks_cold, depth_of
from offline.run_config import RunRefused
from offline.score_matrix import Scorer, evaluate_scores
from offline.sequences import Split

TEST = "test"
Ranked = Callable[..., EventScores]


@dataclass(frozen=True, slots=True, eq=False)
class Rankings:
    """scores: as the data set asks (seen items removed or not). kept_E: the target's rank with seen items left in,
    where the data set removes them. among_E: its rank among the items that a protocol held back, alone."""

    scores: EventScores
    kept_E: Ranks | None
    among_E: Ranks | None


def of_bundle(bundle: Bundle, data: Split) -> Rankings:
    """Encoded once, searched for each."""
    vectors_QD = query_vectors(bundle, data.test)

    def ranked(**how: object) -> EventScores:
        return rank_vectors(bundle, data.test, vectors_QD=vectors_QD, **how)  # type: ignore[arg-type]

    # A ranker reads every list again: what that costs is not worth a second figure.
    return _rankings(ranked, data, twice=bundle.ranker is None)


def of_scorer(name: str, data: Split) -> Rankings:
    """A row that is no bundle, by its name. RunRefused when it cannot be had here."""
    scorers: dict[str, Scorer] = cheap_rows(data.dataset) if name in CHEAP_ROWS else cold_rows(data.dataset)
    if name not in scorers:
        raise RunRefused(f"{name}: this row cannot be made here: its base model cannot be had")
    scorer = scorers[name]

    def ranked(**how: object) -> EventScores:
        return evaluate_scores(scorer, data.test, **how)  # type: ignore[arg-type]

    return _rankings(ranked, data, twice=True)


def _rankings(ranked: Ranked, data: Split, *, twice: bool) -> Rankings:
    seen_removed, k, cold = data.dataset.exclude_seen, depth_of(data, TEST), asks_cold(data, TEST)
    among = ranked(seen_removed=seen_removed, k=k, allowed_N=data.dataset.cold_items).ranks if cold else None
    kept = ranked(seen_removed=False, k=k).ranks if twice and seen_removed and not cold else None
    return Rankings(ranked(seen_removed=seen_removed, k=k), kept, among)
