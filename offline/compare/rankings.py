"""Test events of a protocol, ranked by a bundle or by a scorer: seen items removed, left in, and among new items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model_store.bundle import Bundle
from offline.compare.scores import Ranks
from offline.compare.starting_values import text_reading
from offline.evaluation.baselines import CHEAP_ROWS, cheap_rows
from offline.evaluation.cold_rows import Random, TextNeighbours, cold_rows, tf_idf_of
from offline.evaluation.full_ranking import query_vectors, rank_vectors
from offline.evaluation.metrics import EventScores
from offline.evaluation.protocol_figures import asks_cold, depth_of
from offline.evaluation.score_matrix import Scorer, evaluate_scores
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel
from offline.run_config import RunRefused
from offline.splits.sequences import SequenceDataset, Split

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


def of_parts(scores: EventScores) -> Rankings:
    """Of lists that were ranked a part at a time."""
    return Rankings(scores, None, None)


def of_scorer(name: str, data: Split, *, shared: Mapping[str, Any]) -> Rankings:
    """A row that is no bundle, by its name. shared: what items are read as, and by which language model.

    RunRefused when it cannot be had here.
    """
    scorer = _scorer(name, data.dataset, shared)

    def ranked(**how: object) -> EventScores:
        return evaluate_scores(scorer, data.test, **how)  # type: ignore[arg-type]

    return _rankings(ranked, data, twice=True)


def _scorer(name: str, dataset: SequenceDataset, shared: Mapping[str, Any]) -> Scorer:
    if name in CHEAP_ROWS:
        return cheap_rows(dataset)[name]
    template, lm = text_reading(shared)
    if name == "random":
        return Random(len(dataset.catalog))
    if name == "tfidf-knn":
        texts = item_texts(dataset.items, template)
        return TextNeighbours(tf_idf_of(dataset, texts).vectors(texts))
    rows = cold_rows(dataset, template=template, lm=LanguageModel.model_validate(lm))
    if name not in rows:
        raise RunRefused(f"{name}: the base model of this row cannot be had here")
    return rows[name]


def _rankings(ranked: Ranked, data: Split, *, twice: bool) -> Rankings:
    seen_removed, k, cold = data.dataset.exclude_seen, depth_of(data, TEST), asks_cold(data, TEST)
    among = ranked(seen_removed=seen_removed, k=k, allowed_N=data.dataset.cold_items).ranks if cold else None
    kept = ranked(seen_removed=False, k=k).ranks if twice and seen_removed and not cold else None
    return Rankings(ranked(seen_removed=seen_removed, k=k), kept, among)
