"""Contriever-Rec: one language model for histories and item texts, matched by inner product of unit vectors.

After Izacard et al., 2021, "Unsupervised Dense Information Retrieval with Contrastive Learning"; no recommender version
of it was published. Ours scores all items in every step instead of a batch's, reads out after every item of a history,
and learns its temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.language_model import AllPositionsLanguageModelEncoder, LanguageModelConfig, encoder_on
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import compact_vocabulary
from offline.injected_items import ItemProjector
from offline.item_towers import CachedTower, FrozenTower
from offline.language_model_recipe import LanguageModelRecipe
from offline.language_models import TextVectors
from offline.read_out_objective import ReadOutNextItem
from offline.recipe import TrainedModel
from offline.sequences import SequenceDataset
from offline.training import FitPlan


class Recipe(LanguageModelRecipe):
    """history_input: `text_vector` (one token per item) or `tokens` (the item's text).

    item_training: `frozen` learns a projector over text vectors that the base made once; `cached` sends each batch's
    distinct targets through the adapted language model, and scores all other items from vectors that are rebuilt every
    `refresh` steps. Both learn a softmax over the whole catalogue. temperature: where 1 / scale starts; the scale is
    learnt, clamped at 100, and folded into the query vector.
    """

    history_input: Literal["text_vector", "tokens"] = "text_vector"
    item_training: Literal["frozen", "cached"] = "frozen"
    pooling: Literal["last", "mean"] = "last"
    dim: PositiveInt = 256
    temperature: PositiveFloat = 0.05
    refresh: PositiveInt = 50
    fit: FitPlan = FitPlan(learning_rate=5e-4, warmup_steps=50, epochs=30, evaluate_every=1, patience=4, clip=1.0)

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:  # noqa: ARG002
        torch.manual_seed(self.seed)
        base = self.lm.open()
        blocks, vectors = self._item_blocks(dataset, base), self._text_vectors(dataset)
        encoder = self._encoder(dataset, base, blocks)
        adapted = self.lm.with_adapters(encoder.lm)
        objective = self._objective(encoder, base, vectors, blocks=blocks, dataset=dataset)
        return self._trained(
            "contriever",
            objective,
            dataset,
            adapted=adapted,
            base=base,
            checkpoints=checkpoints,
            choose=lambda _items, _validation: {"scale": float(encoder.scale.detach())},
        )

    def _encoder(self, dataset: SequenceDataset, base: Base, blocks: TokenBlocks) -> AllPositionsLanguageModelEncoder:
        as_text = self.history_input == "tokens"
        config = LanguageModelConfig(
            lm=base.config,
            items=len(dataset.catalog),
            dim=self.dim,
            max_history=self.max_history,
            jump=self._jump,
            item_input="tokens" if as_text else "vector",
            prefix=self._prefix(base),
            pooling=self.pooling,
            head="mlp",
            normalize=True,
            dtype=self.lm.dtype,
        )
        encoder = encoder_on(config, base, items=compact_vocabulary(blocks) if as_text else None)
        assert isinstance(encoder, AllPositionsLanguageModelEncoder)
        with torch.no_grad():
            encoder.scale.fill_(1 / self.temperature)
        return encoder

    def _objective(
        self,
        encoder: AllPositionsLanguageModelEncoder,
        base: Base,
        vectors: TextVectors,
        *,
        blocks: TokenBlocks,
        dataset: SequenceDataset,
    ) -> ReadOutNextItem:
        tower: FrozenTower | CachedTower = FrozenTower(vectors.unit_NH, self.dim)
        if self.item_training == "cached":
            tower = CachedTower(encoder.lm, base.embedding, blocks, dim=self.dim, refresh=self.refresh)
        projector = None
        if self.history_input == "text_vector":
            projector = ItemProjector(dim=None, text_NH=vectors.unit_NH, hidden=base.hidden, input_std=base.input_std)
        return ReadOutNextItem(
            encoder,
            tower,
            projector=projector,
            groups_N=vectors.groups_N,
            dropout=self.dropout,
            largest_scale=100.0,
            cold_N=dataset.cold_items,
        )
