"""Weights of a sum of scores, chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.bundle import Bundle
from offline.evaluation.full_ranking import encoded
from offline.evaluation.validation import Validation
from offline.splits.sequences import SequenceDataset


@dataclass(frozen=True, slots=True)
class Fusion:
    """weights: of the standardised scores, summing to 1. deviations: of each part's scores over items, root mean square
    over validation queries. ndcg10: on validation, by weights."""

    weights: tuple[float, ...]
    deviations: tuple[float, ...]
    ndcg10: dict[tuple[float, ...], float]

    @classmethod
    def kept(cls, log: Mapping[str, object]) -> Fusion:
        """As an evaluated twin chose: its weights, relative to the deviations that it measured."""
        weights, deviations = ((*map(float, log[key]),) for key in ("weights", "deviations"))  # type: ignore[call-overload]
        return cls(weights, deviations, {})

    @property
    def on_queries(self) -> tuple[float, ...]:
        """What each part's query vector is multiplied with."""
        return tuple(weight / deviation for weight, deviation in zip(self.weights, self.deviations, strict=True))

    def figures(self) -> dict[str, object]:
        """For the training log."""
        by_weights = {" ".join(f"{w:g}" for w in weights): figure for weights, figure in self.ndcg10.items()}
        return {"weights": self.weights, "deviations": self.deviations, "ndcg@10_by_weights": by_weights}


def check_fusible(bundle: Bundle, dataset: SequenceDataset) -> None:
    """ValueError, with the reason, for a version whose scores cannot be added to those of others over these items."""
    if bundle.catalog.ids != dataset.catalog.ids:
        raise ValueError(f"{bundle.version} scores other items than these: it cannot be fused with them")
    if bundle.ranker is not None:
        raise ValueError(f"{bundle.version} has a ranker, which one search cannot hold: name its retriever instead")


def part_scores(bundle: Bundle, validation: Validation) -> Tensor:
    """float32 [Q, N] of every item for every validation query."""
    vectors_QD = encoded(bundle.encoder, validation.queries, name=bundle.version)
    return vectors_QD @ torch.from_numpy(bundle.index.vectors_ND).T


def choose_weights(scores: list[Tensor], validation: Validation, *, steps: int, trained_N: Tensor) -> Fusion:
    """The best of a grid over the simplex, the first part's weight as large as possible among equals.

    scores: float32 [Q, N] of each part. trained_N: bool[N], the items that deviations are taken over.
    """
    deviations = [float(scores_QN[:, trained_N].double().var(dim=1).mean().sqrt()) or 1.0 for scores_QN in scores]
    standard = [scores_QN / deviation for scores_QN, deviation in zip(scores, deviations, strict=True)]
    figures: dict[tuple[float, ...], float] = {}
    for shares in simplex(len(scores), steps):
        weights = tuple(share / steps for share in shares)
        mixed_QN = torch.zeros_like(standard[0])
        for weight, scores_QN in zip(weights, standard, strict=True):
            mixed_QN += weight * scores_QN
        figures[weights] = validation.ndcg_of_scores(mixed_QN)
    best = max(figures, key=lambda weights: (figures[weights], weights))
    return Fusion(best, tuple(deviations), figures)


def simplex(parts: int, steps: int) -> Iterator[tuple[int, ...]]:
    """All whole shares of `parts` parts that sum to `steps`."""
    if parts == 1:
        yield (steps,)
        return
    for first in range(steps + 1):
        for rest in simplex(parts - 1, steps - first):
            yield (first, *rest)
