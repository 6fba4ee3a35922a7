"""Test events of a protocol, ranked by a bundle or by a scorer: seen items removed, left in, and among cold items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model_store.bundle import Bundle
from model_store.retrieval import Want
from offline.baselines import cheap_rows
from offline.compare.scores import Ranks
from offline.evaluation import SEARCHED_TOGETHER, query_vectors, rank_vectors
from offline.metrics import EventScores
from offline.run_config import RunRefused
from offline.score_matrix import Scorer, evaluate_scores
from offline.sequences import Queries, SequenceDataset, Split


@dataclass(frozen=True, slots=True, eq=False)
class Rankings:
    """scores: as the data set asks (seen items removed or not). kept_E: the target's rank with seen items left in,
    where the data set removes them. among_E: its rank among the cold items alone."""

    scores: EventScores
    kept_E: Ranks | None
    among_E: Ranks | None


def of_bundle(bundle: Bundle, data: Split) -> Rankings:
    queries, seen_removed = data.test, data.dataset.exclude_seen
    vectors_QD = query_vectors(bundle, queries)
    scores = rank_vectors(bundle, queries, vectors_QD=vectors_QD, seen_removed=seen_removed)
    # A ranker reads every list again; what it costs is not worth a second figure.
    twice = seen_removed and bundle.ranker is None
    kept = rank_vectors(bundle, queries, vectors_QD=vectors_QD, seen_removed=False).ranks if twice else None
    cold_N = cold_items(data.dataset)
    among = None if cold_N is None else _among(bundle, queries, vectors_QD=vectors_QD, rows=np.flatnonzero(cold_N))
    return Rankings(scores, kept, among)


def of_scorer(name: str, data: Split) -> Rankings:
    """A row that is no bundle, by its name. RunRefused when there is none of this name."""
    scorers = cheap_rows(data.dataset)
    if name not in scorers:
        raise RunRefused(f"{name}: there is no such row")
    return _of(scorers[name], data)


def _of(scorer: Scorer, data: Split) -> Rankings:
    seen_removed = data.dataset.exclude_seen
    scores = evaluate_scores(scorer, data.test, seen_removed=seen_removed)
    kept = evaluate_scores(scorer, data.test, seen_removed=False).ranks if seen_removed else None
    cold_N = cold_items(data.dataset)
    among = None
    if cold_N is not None:
        among = evaluate_scores(_Only(scorer, cold_N), data.test, seen_removed=seen_removed).ranks
    return Rankings(scores, kept, among)


class _Only:
    """A scorer that knows some items alone."""

    def __init__(self, scorer: Scorer, allowed_N: npt.NDArray[np.bool_]) -> None:
        self._scorer, self._allowed_N = scorer, allowed_N

    def __call__(self, histories: object) -> npt.NDArray[np.float64]:
        scores_BN = self._scorer(histories)  # type: ignore[arg-type]
        scores_BN[:, ~self._allowed_N] = -np.inf
        return scores_BN


def cold_items(dataset: SequenceDataset) -> npt.NDArray[np.bool_] | None:
    """bool [N], or None where a protocol holds no item back."""
    cold_N: npt.NDArray[np.bool_] | None = getattr(dataset, "cold_items", None)
    return cold_N if cold_N is not None and cold_N.any() else None


def _among(bundle: Bundle, queries: Queries, *, vectors_QD: Tensor, rows: npt.NDArray[np.int64], k: int = 20) -> Ranks:
    """int32[Q]: ranks of the targets when nothing but `rows` may be found, 0 beyond k. Rankers sit out."""
    top_rows = np.full((len(queries), k), -1, dtype=np.int32)
    for start in range(0, len(queries), SEARCHED_TOGETHER):
        vectors = vectors_QD[start : start + SEARCHED_TOGETHER]
        found = bundle.search(vectors, [Want(k=k, rerank=False, allowed_rows=rows) for _ in range(len(vectors))])
        for q, candidates in enumerate(found, start=start):
            top_rows[q, : len(candidates.rows)] = candidates.rows
    return EventScores.of(queries.users, queries.targets, top_rows=top_rows, seen_removed=False).ranks
