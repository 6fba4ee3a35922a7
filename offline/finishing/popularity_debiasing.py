"""Against popularity: -strength * log(1 + training events) added to every score, strength chosen on validation.

Post-hoc logit adjustment (Menon et al., 2021, "Long-tail learning via logit adjustment"), by one appended coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from model_store.staging import BundleParts
from offline.evaluation.validation import Validation
from offline.finishing.score_offsets import validation_vectors, with_offsets
from offline.splits.sequences import SequenceDataset

STRENGTHS = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


def debiased(
    parts: BundleParts, dataset: SequenceDataset, *, chosen: Mapping[str, object] | None = None
) -> tuple[BundleParts, dict[str, object]]:
    """The bundle with the offsets, and figures for the log. chosen: a log whose strength is kept.

    A strength of 1 takes away one deviation of the scores per deviation of log popularity; of the best the smallest,
    and 0 means that validation is best served without.
    """
    validation = Validation.of(dataset)
    scores_QN = validation_vectors(parts, validation) @ parts.item_vectors_ND.T
    popularity_N = torch.from_numpy(np.log1p(dataset.catalog.popularity)).float()
    trained = torch.from_numpy(dataset.trained_items)
    unit_N = popularity_N * _ratio(scores_QN[:, trained], popularity_N[trained])
    if chosen is not None:
        kept = chosen["popularity_strength"]
        assert isinstance(kept, float)
        return with_offsets(parts, -kept * unit_N), {"popularity_strength": kept}
    figures = {s: validation.ndcg_of_scores(scores_QN - s * unit_N) for s in STRENGTHS}
    best = max(figures, key=lambda strength: (figures[strength], -strength))
    log: dict[str, object] = {
        "popularity_strength": best,
        "ndcg@10_by_popularity_strength": {str(strength): figure for strength, figure in figures.items()},
    }
    return with_offsets(parts, -best * unit_N), log


def _ratio(scores_QN: Tensor, popularity_N: Tensor) -> float:
    """Deviation of scores over that of log popularity; 0 where all items are equally popular."""
    spread = float(popularity_N.std(unbiased=False))
    return float(scores_QN.std(dim=1, unbiased=False).mean()) / spread if spread > 0 else 0.0
