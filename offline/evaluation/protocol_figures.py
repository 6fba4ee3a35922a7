"""What a protocol reports beside the headline: cold items among themselves, new and known users and items."""

from __future__ import annotations

import numpy as np

from model_store.retrieval import MOST
from offline.evaluation.bootstrap import user_intervals
from offline.evaluation.metrics import EventScores, weighted_mean
from offline.splits.sequences import Split
from offline.splits.temporal import buckets

AMONG = "among cold"


def asks_cold(data: Split, subset: str) -> bool:
    """Whether the events of this subset have cold targets."""
    return subset == "test" and bool(data.dataset.cold_items.any())


def depth_of(data: Split, subset: str) -> int:
    """How long the ranked lists are: as long as a search gives where the rank of each target counts."""
    return min(MOST, len(data.dataset.catalog)) if asks_cold(data, subset) else 20


def cold_figures(full: list[EventScores], among: list[EventScores]) -> dict[str, float]:
    """recall@10 and MRR (of a rank up to 1,000), means over seeds: against the full catalogue, and among the cold items
    alone, the latter's recall with its 95 % interval over users and items.

    full, among: of the same events, a seed each.
    """
    figures: dict[str, float] = {}
    for name, scores in (("", full), (f" {AMONG}", among)):
        figures[f"recall@10{name}"] = float(np.mean([each.mean("hr@10") for each in scores]))
        figures[f"MRR{name}"] = float(np.mean([each.mean(f"mrr@{each.depth}") for each in scores]))
    hits_E = np.mean([each.values("hr@10") for each in among], axis=0)
    low, high = user_intervals(hits_E[:, None], among[0].users, items=among[0].targets)
    return figures | {"low": float(low[0]), "high": float(high[0])}


def bucket_figures(seeds: list[EventScores], data: Split) -> dict[str, float]:
    """NDCG@10 over the test events of each bucket of `temporal`, and the share of events that it holds."""
    values_E = np.mean([scores.values("ndcg@10") for scores in seeds], axis=0)
    weights_E = data.test.weights if data.test.weights is not None else np.ones(len(values_E))
    figures: dict[str, float] = {}
    for name, mask_E in buckets(data).items():
        figures[f"share {name}"] = float(mask_E.mean())
        known = mask_E.any()
        figures[name] = float(weighted_mean(values_E[mask_E], weights_E[mask_E])) if known else float("nan")
    return figures
