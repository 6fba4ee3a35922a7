"""Full ranking through the bundle that ships, and the figures that go into its manifest."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from model_store.bundle import Bundle
from model_store.encoders.history import AllPositions
from model_store.manifest import Metric
from model_store.retrieval import Candidates, Want
from offline.beyond_accuracy import list_figures
from offline.bootstrap import user_intervals
from offline.metrics import EventScores, metric_names
from offline.position_reading import chunks, read_positions
from offline.sequences import Queries, SequenceDataset

BUDGET = 8_192  # padded tokens per forward pass
SEARCHED_TOGETHER = 256

log = logging.getLogger(__name__)


def evaluate(bundle: Bundle, queries: Queries, *, seen_removed: bool, k: int = 20) -> EventScores:
    """The best k items of the whole catalogue for every query, as `bundle.retrieve` answers.

    Encoders that read all positions read a user's queries in one pass; the answers are the same.
    """
    wants = [_want(queries, q, seen_removed=seen_removed, k=k) for q in range(len(queries))]
    found = _read_once(bundle, queries, wants=wants) or _retrieve(bundle, queries, wants=wants)
    top_rows = np.full((len(queries), k), -1, dtype=np.int32)
    for q, candidates in found.items():
        top_rows[q, : len(candidates.rows)] = candidates.rows
    return EventScores.of(queries.users, queries.targets, top_rows=top_rows, seen_removed=seen_removed)


def _want(queries: Queries, query: int, *, seen_removed: bool, k: int) -> Want:
    if not seen_removed:
        return Want(k=k)
    return Want(k=k, excluded_rows=np.unique(queries.histories.history(query).numpy()).astype(np.int64))


def _retrieve(bundle: Bundle, queries: Queries, *, wants: list[Want]) -> dict[int, Candidates]:
    encoder = bundle.encoder
    costs = encoder.token_counts(queries.histories.windowed(encoder.max_history, encoder.jump))
    found: dict[int, Candidates] = {}
    for chunk in chunks(costs, BUDGET):
        found |= zip(chunk, bundle.retrieve(queries.histories.select(chunk), [wants[q] for q in chunk]), strict=True)
    return found


def _read_once(bundle: Bundle, queries: Queries, *, wants: list[Want]) -> dict[int, Candidates] | None:
    """None where the encoder, or this configuration of it, cannot read all positions."""
    if not isinstance(bundle.encoder, AllPositions):
        return None
    try:
        vectors_QD = read_positions(bundle.encoder, queries, budget=BUDGET)
    except ValueError as error:
        # A residual with a shorter window refuses; queries that are wrong in themselves fail in `retrieve` as well.
        log.info("%s: every query is read by itself (%s)", bundle.version, error)
        return None
    found: dict[int, Candidates] = {}
    for start in range(0, len(queries), SEARCHED_TOGETHER):
        chunk = range(start, min(start + SEARCHED_TOGETHER, len(queries)))
        candidates = bundle.search(vectors_QD[chunk.start : chunk.stop], [wants[q] for q in chunk])
        found |= zip(chunk, bundle.rank(queries.histories.select(chunk), candidates), strict=True)
    return found


def summarise(
    scores: EventScores,
    *,
    dataset: SequenceDataset,
    subset: Literal["validation", "test"],
    protocol: str | None = None,
) -> list[Metric]:
    """HR, NDCG and MRR, each event weighing the same, with the 95 % bootstrap interval over users.

    protocol: the data set's own unless the queries were changed (shuffled).
    """
    names = metric_names(scores.depth)
    values_EM = np.stack([scores.values(name) for name in names], axis=1)
    low_M, high_M = user_intervals(values_EM, scores.users)
    return [
        _metric(scores, dataset, subset=subset, protocol=protocol, name=name, value=value, low=low, high=high)
        for name, value, low, high in zip(names, values_EM.mean(axis=0), low_M, high_M, strict=True)
    ]


def summarise_lists(
    scores: EventScores, queries: Queries, *, dataset: SequenceDataset, subset: Literal["validation", "test"]
) -> list[Metric]:
    """What the lists are like, beside their accuracy: coverage, Gini, novelty, diversity, calibration, at 10."""
    figures = list_figures(scores, queries, dataset=dataset)
    return [_metric(scores, dataset, subset=subset, name=name, value=value) for name, value in figures.items()]


def _metric(
    scores: EventScores,
    dataset: SequenceDataset,
    *,
    subset: Literal["validation", "test"],
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    protocol: str | None = None,
) -> Metric:
    return Metric(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        protocol=protocol or dataset.protocol,
        subset=subset,
        name=name,
        seen_removed=scores.seen_removed,
        value=float(value),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        events=len(scores.users),
        users=len(np.unique(scores.users)),
    )
