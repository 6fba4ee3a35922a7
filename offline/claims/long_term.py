"""Claim 5: pooling the whole history for long-term interest, the last token for the next step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, named
from offline.claims.event_features import LEAST_HISTORY, equal_masses, long_term_index
from offline.evaluation.metrics import Floats
from offline.evaluation.resampling import Figure
from offline.splits.sequences import Queries, SequenceDataset

WHOLE_HISTORY, LAST, MEAN = "llm2vec", "llm2vec-last", "llm2vec-mean"
LENGTHS = 4


def long_term(arms: Arms, dataset: SequenceDataset, queries: Queries) -> Finding:
    """[weighted mean - last] on the events of the top third of the long-term index, minus the same on the bottom third.

    Both bidirectional and single-target. Beside it: plain mean, and the arms by length of history.
    """
    contrast = f"NDCG@10 of {WHOLE_HISTORY} (weighted mean) minus {LAST}: long-term third minus short-term third"
    lacking = arms.lacking((WHOLE_HISTORY, LAST))
    if lacking:
        return not_measured(5, contrast, f"there are no runs of {named(lacking)}")
    index_E = long_term_index(dataset, queries)
    known_E = np.isfinite(index_E)
    if known_E.sum() < 3:
        return not_measured(5, contrast, f"no events have a history of {LEAST_HISTORY} items or more")
    third_E = np.full(len(index_E), -1)
    third_E[known_E] = equal_masses(index_E[known_E], 3)
    weights = {"long": (third_E == 2) * 1.0, "short": (third_E == 0) * 1.0} | _by_length(queries)
    names = [WHOLE_HISTORY, LAST, *([] if arms.lacking([MEAN]) else [MEAN])]
    means = arms.means(names, weights=weights)
    return Finding(
        5,
        contrast,
        _interaction(means, WHOLE_HISTORY).estimate(),
        seeds=arms.seeds((WHOLE_HISTORY, LAST)),
        least_seeds=arms.least_seeds((WHOLE_HISTORY, LAST)),
        details={"unit": "NDCG@10", "events": int(known_E.sum()), "beside": _beside(means, names, list(weights))},
    )


def _by_length(queries: Queries) -> dict[str, Floats]:
    lengths_E = queries.histories.lengths.numpy()
    group_E = equal_masses(lengths_E, LENGTHS)
    groups = [(lengths_E[group_E == g], (group_E == g) * 1.0) for g in np.unique(group_E)]
    return {f"histories of {lengths.min()} to {lengths.max()} items": mask_E for lengths, mask_E in groups}


def _interaction(means: Mapping[str, Mapping[str, Figure]], pooled: str) -> Figure:
    return (means[pooled]["long"] - means[LAST]["long"]) - (means[pooled]["short"] - means[LAST]["short"])


def _beside(means: Mapping[str, Mapping[str, Figure]], names: list[str], groups: list[str]) -> list[dict[str, object]]:
    rows = []
    for pooled in (name for name in names if name != LAST):
        rows += [
            beside(f"{pooled} minus {LAST}, long-term third", means[pooled]["long"] - means[LAST]["long"]),
            beside(f"{pooled} minus {LAST}, short-term third", means[pooled]["short"] - means[LAST]["short"]),
        ]
    if MEAN in names:
        rows.append(beside(f"{MEAN} minus {LAST}: long-term third minus short-term third", _interaction(means, MEAN)))
    rows += [beside(f"{name}, {group}", means[name][group]) for group in groups[2:] for name in names]
    return rows
