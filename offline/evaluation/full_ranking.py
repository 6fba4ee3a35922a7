"""Full ranking through the bundle that ships, and the figures that go into its manifest."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.appended import AppendedEncoder
from model_store.encoders.fused import FusedEncoder, cut_for
from model_store.encoders.history import AllPositions, QueryEncoder
from model_store.manifest import Metric
from model_store.retrieval import Rows, Want
from offline.evaluation.bootstrap import user_intervals
from offline.evaluation.metrics import EventScores, metric_names, weighted_mean
from offline.evaluation.position_reading import chunks, read_positions
from offline.splits.sequences import Queries, SequenceDataset

BUDGET = 8_192  # padded tokens per forward pass
SEARCHED_TOGETHER = 256

log = logging.getLogger(__name__)


def evaluate(
    bundle: Bundle,
    queries: Queries,
    *,
    seen_removed: bool,
    k: int = 20,
    allowed_N: npt.NDArray[np.bool_] | None = None,
) -> EventScores:
    """The best k items of the whole catalogue for every query, as `bundle.retrieve` answers.

    allowed_N: bool[N], the only items that may be found (`Want.allowed_rows`).
    """
    vectors_QD = query_vectors(bundle, queries)
    return rank_vectors(bundle, queries, vectors_QD=vectors_QD, seen_removed=seen_removed, k=k, allowed_N=allowed_N)


def query_vectors(bundle: Bundle, queries: Queries) -> Tensor:
    """float32 [Q, D] on the CPU, as `bundle.encode` makes them.

    Encoders that read all positions read a user's queries in one pass; the vectors are the same.
    """
    return encoded(bundle.encoder, queries, name=bundle.version)


@torch.inference_mode()
def encoded(encoder: QueryEncoder, queries: Queries, *, name: str) -> Tensor:
    """float32 [Q, D] on the CPU; ValueError for an empty history."""
    if len(queries) and int(queries.histories.lengths.min()) == 0:
        raise ValueError("an empty history has no query vector")
    if isinstance(encoder, AppendedEncoder) and isinstance(encoder.inner, FusedEncoder):
        return encoder.appended(encoded(encoder.inner, queries, name=name))
    if isinstance(encoder, FusedEncoder):
        # Each part the fastest way that it has; they read what the whole would hand them.
        cut = replace(queries, histories=cut_for(encoder, queries.histories))
        return encoder.joined([encoded(part, cut, name=name) for part in encoder.encoders])
    if isinstance(encoder, AllPositions):
        try:
            return read_positions(encoder, queries, budget=BUDGET)
        except ValueError as error:
            # A residual with a shorter window refuses; queries that are wrong in themselves fail below as well.
            log.info("%s: every query is read by itself (%s)", name, error)
    cut_QT = cut_for(encoder, queries.histories)
    vectors_QD = torch.empty(len(queries), encoder.dim)
    for chunk in chunks(encoder.token_counts(cut_QT), BUDGET):
        vectors_QD[chunk] = encoder(cut_QT.select(chunk)).float().cpu()
    return vectors_QD


def rank_vectors(
    bundle: Bundle,
    queries: Queries,
    *,
    vectors_QD: Tensor,
    seen_removed: bool,
    k: int = 20,
    allowed_N: npt.NDArray[np.bool_] | None = None,
) -> EventScores:
    """Search and rank under each query's filters: the rest of `bundle.retrieve`."""
    top_rows = np.full((len(queries), k), -1, dtype=np.int32)
    allowed_rows = None if allowed_N is None else np.flatnonzero(allowed_N).astype(np.int64)
    for start in range(0, len(queries), SEARCHED_TOGETHER):
        chunk = range(start, min(start + SEARCHED_TOGETHER, len(queries)))
        wants = [
            Want(
                k=k,
                excluded_rows=_seen_rows(queries, q) if seen_removed else np.empty(0, dtype=np.int64),
                allowed_rows=allowed_rows,
            )
            for q in chunk
        ]
        candidates = bundle.search(vectors_QD[chunk.start : chunk.stop], wants)
        for q, found in zip(chunk, bundle.rank(queries.histories.select(chunk), candidates), strict=True):
            top_rows[q, : len(found.rows)] = found.rows
    return EventScores.of(
        queries.users, queries.targets, top_rows=top_rows, seen_removed=seen_removed, weights=queries.weights
    )


def _seen_rows(queries: Queries, query: int) -> Rows:
    return np.unique(queries.seen_items.history(query).numpy()).astype(np.int64)


def summarise(scores: EventScores, *, dataset: SequenceDataset, subset: Literal["validation", "test"]) -> list[Metric]:
    """HR, NDCG and MRR, events weighed as the protocol says, with the 95 % bootstrap interval over users (and over
    items where the protocol draws them).
    """
    names = metric_names(scores.depth)
    values_EM = np.stack([scores.values(name) for name in names], axis=1)
    low_M, high_M = user_intervals(
        values_EM, scores.users, weights=scores.weights, items=drawn_items(dataset, scores.targets)
    )
    return [
        Metric(
            dataset=dataset.name,
            dataset_fingerprint=dataset.fingerprint,
            protocol=dataset.protocol,
            subset=subset,
            name=name,
            seen_removed=scores.seen_removed,
            value=float(value),
            low=float(low),
            high=float(high),
            events=len(scores.users),
            users=len(np.unique(scores.users)),
        )
        for name, value, low, high in zip(names, weighted_mean(values_EM, scores.weights), low_M, high_M, strict=True)
    ]


def drawn_items(dataset: SequenceDataset, targets_E: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    """What an interval resamples beside users: the targets, where the protocol drew the items."""
    return targets_E if dataset.cold_items.any() else None
