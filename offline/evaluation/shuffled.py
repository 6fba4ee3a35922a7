"""Does a model read order at all: how much it loses when histories are shuffled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.appended import AppendedEncoder
from model_store.encoders.fused import FusedEncoder, cut_for
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.encoders.language_model import LanguageModelEncoder
from offline.evaluation.bootstrap import compare
from offline.evaluation.full_ranking import encoded, evaluate, rank_vectors
from offline.evaluation.metrics import Floats
from offline.splits.protocols import histories_of
from offline.splits.sequences import Queries

Shuffle = Literal["all", "all but last"]


@dataclass(frozen=True, slots=True)
class OrderDrop:
    """1 - N(shuffled) / N, with the 95 % interval over users and shuffles."""

    what: Shuffle
    metric: str
    drop: float
    low: float
    high: float
    shuffles: int


def shuffle_histories(queries: Queries, what: Shuffle, *, seed: int) -> Queries:
    """The same queries with every whole history (before it is cut to any window) in random order."""
    rng = np.random.default_rng(seed)
    kept = 1 if what == "all but last" else 0
    shuffled = []
    for query in range(len(queries)):
        rows = queries.histories.history(query).numpy().copy()
        rng.shuffle(rows[: len(rows) - kept])
        shuffled.append(rows)
    return replace(queries, histories=histories_of(shuffled))


def order_drop(
    bundle: Bundle,
    queries: Queries,
    *,
    what: Shuffle,
    seen_removed: bool,
    metric: str = "ndcg@10",
    shuffles: int = 5,
) -> OrderDrop:
    """`shuffles` evaluations of shuffled histories against one of the true ones.

    Of a residual or a fusion only the language model reads them shuffled: what its SASRec loses says nothing about it.
    """
    true = evaluate(bundle, queries, seen_removed=seen_removed).values(metric)
    drawn = shuffled_values(bundle, queries, what=what, seen_removed=seen_removed, metric=metric, shuffles=shuffles)
    scores = {"true": true[None, :], "shuffled": drawn}
    (contrast,) = compare(scores, queries.users, contrasts=[("shuffled", "true")], weights=queries.weights)
    return OrderDrop(
        what,
        metric,
        drop=-contrast.relative,
        low=-contrast.relative_high,
        high=-contrast.relative_low,
        shuffles=shuffles,
    )


def shuffled_values(
    bundle: Bundle,
    queries: Queries,
    *,
    what: Shuffle,
    seen_removed: bool,
    metric: str = "ndcg@10",
    shuffles: int = 5,
    first: int = 0,
) -> Floats:
    """float64 [shuffles, Q]: what each event is worth with its history shuffled; of a residual as in `order_drop`.

    first: number of the first shuffle; others give other orders.
    """
    drawn = []
    for seed in range(first, first + shuffles):
        shuffled = shuffle_histories(queries, what, seed=seed)
        vectors_QD = _vectors(bundle, queries, shuffled)
        drawn.append(rank_vectors(bundle, queries, vectors_QD=vectors_QD, seen_removed=seen_removed).values(metric))
    return np.stack(drawn)


def _vectors(bundle: Bundle, queries: Queries, shuffled: Queries) -> Tensor:
    """float32 [Q, D]: what a language model reads is shuffled, or everything where there is none."""
    has_lm = any(isinstance(module, LanguageModelEncoder) for module in bundle.encoder.modules())
    return _mixed(bundle.encoder, queries, shuffled, only_lm=has_lm)


def _mixed(encoder: QueryEncoder, queries: Queries, shuffled: Queries, *, only_lm: bool) -> Tensor:
    if isinstance(encoder, FusedEncoder):
        cut, shuffled_cut = (replace(q, histories=cut_for(encoder, q.histories)) for q in (queries, shuffled))
        return encoder.joined([_mixed(part, cut, shuffled_cut, only_lm=only_lm) for part in encoder.encoders])
    if isinstance(encoder, AppendedEncoder):
        return encoder.appended(_mixed(encoder.inner, queries, shuffled, only_lm=only_lm))
    if only_lm and not isinstance(encoder, LanguageModelEncoder):
        return encoded(encoder, queries, name="true histories")
    vectors_QD = encoded(encoder, shuffled, name="shuffled histories")
    if isinstance(encoder, LanguageModelEncoder) and encoder.config.residual is not None:
        true_QD, wrong_QD = (_of_sequence(encoder, each.histories) for each in (queries, shuffled))
        vectors_QD = vectors_QD - wrong_QD + true_QD
    return vectors_QD


@torch.inference_mode()
def _of_sequence(encoder: LanguageModelEncoder, histories: HistoryBatch) -> Tensor:
    """float32 [Q, D] on the CPU: the residual's own part."""
    sequence = encoder.residual_sequence
    cut = histories.windowed(encoder.max_history, encoder.jump).windowed(sequence.max_history, sequence.jump)
    parts = torch.split(torch.arange(len(cut)), 256)
    return torch.cat([sequence(cut.select(part.tolist())).float().cpu() for part in parts])
