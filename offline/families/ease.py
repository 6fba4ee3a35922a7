"""EASE, recency-weighted: closed form, and the best cheap row without a language model on small catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import PositiveFloat, PositiveInt

import offline.recipe
from model_store.bundle import Bundle
from model_store.encoders.weighted_sum import WeightedSumConfig, WeightedSumEncoder
from model_store.staging import BundleParts
from offline.ease import Factors, ease_weights, factorise
from offline.finishing.golden_histories import golden_histories
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset

EXACT_UP_TO = 3_000  # items: both factors of a full rank cost 8 N^2 bytes
TRUNCATED_RANK = 1_024


class Recipe(offline.recipe.Recipe):
    """score(i) = sum_j exp(-(n - j) / tau) B[h_j, i], B of EASE (Steck, 2019) on the training split.

    lam: ridge. tau: decay in items; None weighs the whole history alike (plain EASE). rank: of the factors of B; None
    is exact up to 3,000 items and 1,024 above. Nothing is drawn: `seed` changes nothing.
    """

    lam: PositiveFloat = 200.0
    tau: PositiveFloat | None = 10.0
    rank: PositiveInt | None = None

    @property
    def knows_items_by_id(self) -> bool:
        return True

    @property
    def refits(self) -> bool:
        return True

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:  # noqa: ARG002
        items = len(dataset.catalog)
        rank = self.rank if self.rank is not None or items <= EXACT_UP_TO else TRUNCATED_RANK
        factors = factorise(ease_weights(dataset.train, items, lam=self.lam), rank)
        parts = BundleParts(
            family="ease",
            catalog=dataset.catalog,
            encoder=self._encoder(factors),
            item_vectors_ND=torch.from_numpy(factors.right_ND),
            golden_histories=golden_histories(dataset.train),
            controls={"item table": self._encoder(_of_other_items(factors))},
        )
        return TrainedModel(parts, log={"rank": factors.left_ND.shape[1], "kept_of_B": factors.kept})

    def _encoder(self, factors: Factors) -> WeightedSumEncoder:
        items, dim = factors.left_ND.shape
        config = WeightedSumConfig(items=items, dim=dim, max_history=2_000, jump=500, decay_items=self.tau)
        encoder = config.build()
        encoder.left.weight.data = torch.from_numpy(factors.left_ND)
        return encoder.eval()


def _of_other_items(factors: Factors) -> Factors:
    """The rows of the item table in reverse order: nothing of what was learnt is at its place."""
    return Factors(factors.left_ND[::-1].copy(), factors.right_ND, factors.kept)
