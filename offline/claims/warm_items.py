"""Claim 4: what text alone loses on items that training knows well."""

from __future__ import annotations

import numpy as np

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, named
from offline.claims.event_features import equal_masses, target_counts
from offline.evaluation.metrics import Floats
from offline.splits.sequences import Queries, SequenceDataset

LEAST_EVENTS = 20  # training events that make an item well known
GROUPS = 5
ID, TEXT = "contriever-id", "contriever"


def warm_items(arms: Arms, dataset: SequenceDataset, queries: Queries) -> Finding:
    """The same Contriever with an ID tower minus with a text tower, over events whose target has >= 20 training events.

    Beside it: five groups of equal event mass by popularity of the target.
    """
    contrast = f"NDCG@10 of {ID} minus {TEXT}, targets with at least {LEAST_EVENTS} training events"
    lacking = arms.lacking((ID, TEXT))
    if lacking:
        return not_measured(4, contrast, f"there are no runs of {named(lacking)}")
    counts_E = target_counts(dataset, queries)
    group_E = equal_masses(counts_E, GROUPS)
    weights: dict[str, Floats] = {"warm": (counts_E >= LEAST_EVENTS).astype(np.float64)}
    weights |= {_label(counts_E[group_E == g]): (group_E == g) * 1.0 for g in np.unique(group_E)}
    means = arms.means((ID, TEXT), weights=weights)
    differences = {group: means[ID][group] - means[TEXT][group] for group in weights}
    return Finding(
        4,
        contrast,
        differences["warm"].estimate(),
        seeds=arms.seeds((ID, TEXT)),
        least_seeds=arms.least_seeds((ID, TEXT)),
        details={
            "unit": "NDCG@10",
            "events": int(weights["warm"].sum()),
            "beside": [beside(group, differences[group]) for group in weights if group != "warm"],
        },
    )


def _label(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    return f"targets with {counts.min()} to {counts.max()} training events"
