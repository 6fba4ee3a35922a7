"""The thirteen claims, measured on whatever there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from offline.claims.claim import Claim, finalise
from offline.claims.cold_items import cold_items
from offline.claims.contrasts import Arms
from offline.claims.inputs import Extras, Scored
from offline.claims.item_side import id_and_text, projector
from offline.claims.long_term import long_term
from offline.claims.pretraining import pretraining
from offline.claims.reading_order import reading_order
from offline.claims.replacement import replacement
from offline.claims.reranking import reranking
from offline.claims.training_ease import training_ease
from offline.claims.twins import titles_apart
from offline.claims.warm_items import warm_items
from offline.evaluation.resampling import DRAWS
from offline.splits.sequences import Queries, SequenceDataset

NOTHING = Extras()


def measure_all(
    warm: Mapping[str, Scored],
    dataset: SequenceDataset,
    queries: Queries,
    *,
    extras: Extras = NOTHING,
    others: Sequence[float] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Claim]:
    """One row for each of the thirteen claims, in order; "not measured" with the reason where inputs are absent.

    warm: arm -> ranks over `queries` (the test or the validation events of the split `dataset` belongs to).
    others: p of the contrasts that the same page claims something about: one adjustment goes for all.
    ValueError when an arm's events are not those, or do not all weigh alike.
    """
    if queries.weights is not None:
        raise ValueError(f"the claims are about events that weigh alike, and those of {dataset.protocol} do not")
    arms = Arms.of(warm, minutes=extras.minutes, draws=draws, seed=seed)
    if warm and not np.array_equal(arms.users, queries.users):
        raise ValueError("the arms' events are not the queries")
    training = training_ease(extras.probe, draws=draws, seed=seed)
    cold = cold_items(extras.cold, minutes=extras.minutes, draws=draws, seed=seed)
    findings = [
        *training,
        cold,
        warm_items(arms, dataset, queries),
        long_term(arms, dataset, queries),
        titles_apart(extras.twins, draws=draws, seed=seed),
        reranking(arms, extras.reranking, extras.cpu_ms),
        projector(arms),
        reading_order(extras.order, queries.users, draws=draws, seed=seed),
        id_and_text(arms),
        replacement(arms, cold=_rows(cold.details, "beside"), training=_rows(training[0].details, "arms")),
        pretraining(arms),
    ]
    return finalise(sorted(findings, key=lambda finding: finding.number), others=others)


def _rows(details: Mapping[str, object], key: str) -> Sequence[Mapping[str, object]]:
    return cast("Sequence[Mapping[str, object]]", details.get(key, []))
