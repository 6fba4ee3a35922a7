"""Does a model read order at all: how much it loses when histories are shuffled (evaluation.md, claim 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_store.bundle import Bundle
from offline.bootstrap import compare
from offline.evaluation import evaluate
from offline.sequences import Queries
from offline.splits import histories_of

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
    return Queries(histories_of(shuffled), queries.targets, queries.users)


def order_drop(
    bundle: Bundle,
    queries: Queries,
    *,
    what: Shuffle,
    seen_removed: bool,
    metric: str = "ndcg@10",
    shuffles: int = 5,
) -> OrderDrop:
    """`shuffles` evaluations of shuffled histories against one of the true ones."""
    true = evaluate(bundle, queries, seen_removed=seen_removed).values(metric)
    drawn = [
        evaluate(bundle, shuffle_histories(queries, what, seed=seed), seen_removed=seen_removed).values(metric)
        for seed in range(shuffles)
    ]
    scores = {"true": true[None, :], "shuffled": np.stack(drawn)}
    (contrast,) = compare(scores, queries.users, contrasts=[("shuffled", "true")])
    return OrderDrop(
        what,
        metric,
        drop=-contrast.relative,
        low=-contrast.relative_high,
        high=-contrast.relative_low,
        shuffles=shuffles,
    )
