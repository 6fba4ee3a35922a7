"""Contriever-Rec: one language model for histories and item texts, matched by inner product of unit vectors.

After Izacard et al., 2021, "Unsupervised Dense Information Retrieval with Contrastive Learning"; no recommender version
of it was published. Ours scores all items in every step instead of a batch's, reads out after every item of a history,
and learns its temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder, encoder_on
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import compact_vocabulary, tokenize_blocks
from offline.language.injected_items import ItemProjector
from offline.language.item_towers import CachedTower, FrozenTower, IdTower
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.language.language_models import TextVectors
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.training.in_batch_objective import InBatchNextItem, log_target_shares
from offline.training.loop import FitPlan
from offline.training.read_out_objective import ReadOutNextItem

SUFFIX = "The next item in one word:"


class Recipe(LanguageModelRecipe):
    """history_input: `text_vector` (one token per item) or `tokens` (the item's text).

    item_training: `frozen` learns a projector over text vectors that the base made once; `cached` sends each batch's
    distinct targets through the adapted language model, and scores all other items from vectors that are rebuilt every
    `refresh` steps. Both learn a softmax over the whole catalogue. `in_batch` has no other candidates than the targets
    of the batch, each corrected by how often it is one: for catalogues of hundreds of thousands. chunk: windows that go
    through the language model together in `in_batch`; with it, a batch may be larger than the memory for its gradients.
    temperature: where 1 / scale starts; the scale is learnt, clamped at 100, and folded into the query vector.

    item_tower: `text`, or `id`, which projects the item vectors of the version `items_from` (a SASRec) into the same
    space: the user side stays as it is, so the two differ in what is known of an item and in nothing else.

    pooling: `prompt` reads the last token of `suffix`, which stands after the history; it gives one vector per history.
    all_positions: learn from the vector after every item, or from that at the end of drawn windows alone (None: after
    every item where there is one).
    """

    history_input: Literal["text_vector", "tokens"] = "text_vector"
    item_training: Literal["frozen", "cached", "in_batch"] = "frozen"
    item_tower: Literal["text", "id"] = "text"
    items_from: str | None = None
    pooling: Literal["last", "mean", "prompt"] = "last"
    suffix: str = SUFFIX
    all_positions: bool | None = None
    dim: PositiveInt = 256
    temperature: PositiveFloat = 0.05
    refresh: PositiveInt = 50
    chunk: PositiveInt | None = None
    fit: FitPlan = FitPlan(learning_rate=5e-4, warmup_steps=50, epochs=30, evaluate_every=1, patience=4, clip=1.0)

    @model_validator(mode="after")
    def _possible_items(self) -> Self:
        if self.item_tower == "id" and self.items_from is None:
            raise ValueError(
                'item_tower = "id" projects the item vectors of another version, and items_from names none: '
                "set items_from to a SASRec"
            )
        if self.item_tower == "text" and self.items_from is not None:
            raise ValueError(
                f'items_from = "{self.items_from}" is read by item_tower = "id" alone: set item_tower = "id", '
                "or leave items_from out"
            )
        if self.item_tower == "id" and self.item_training != "frozen":
            raise ValueError(
                f'item_training = "{self.item_training}" reads texts again, and item_tower = "id" reads none: '
                'set item_training = "frozen"'
            )
        if self.chunk is not None and self.item_training != "in_batch":
            raise ValueError(
                f'chunk = {self.chunk} is read by item_training = "in_batch" alone, not by "{self.item_training}": '
                'set item_training = "in_batch", or leave chunk out'
            )
        return self

    @model_validator(mode="after")
    def _possible_reading(self) -> Self:
        if self.pooling != "prompt" and self.suffix != SUFFIX:
            raise ValueError(
                f'suffix is read by pooling = "prompt" alone, not by pooling = "{self.pooling}": set '
                'pooling = "prompt", or leave suffix out'
            )
        if self.pooling == "prompt" and not self.suffix.strip():
            raise ValueError('pooling = "prompt" reads the last token of suffix, which is empty: write a suffix')
        if self.pooling == "prompt" and self.all_positions:
            raise ValueError(
                'pooling = "prompt" reads one vector after a whole history, all_positions = true one after each '
                "item: leave all_positions out"
            )
        return self

    def parent_references(self) -> dict[str, str]:
        return {} if self.items_from is None else {"items_from": self.items_from}

    @property
    def knows_items_by_id(self) -> bool:
        return self.item_tower == "id"

    @property
    def has_text_tower(self) -> bool:
        return self.item_tower == "text"

    @property
    def refits(self) -> bool:
        return True

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        torch.manual_seed(self.seed)
        base = self.lm.open()
        blocks, vectors = self._item_blocks(dataset, base), self._text_vectors(dataset)
        encoder = self._encoder(dataset, base, blocks)
        adapted = self.lm.with_adapters(encoder.lm)
        tower = self._tower(encoder, base, vectors, blocks=blocks, parents=parents)
        objective = self._objective(encoder, tower, self._projector(base, vectors), dataset=dataset, vectors=vectors)
        trained = self._trained(
            "contriever",
            objective,
            dataset,
            adapted=adapted,
            base=base,
            checkpoints=checkpoints,
            choose=lambda _items, _validation: {"scale": float(encoder.scale.detach())},
        )
        if isinstance(tower, IdTower):
            return trained
        assert isinstance(trained.parts.encoder, LanguageModelEncoder)
        reading = self._text_tower(tower, dataset, base, served=trained.parts.encoder)
        return replace(trained, parts=replace(trained.parts, text_tower=reading))

    def _encoder(self, dataset: SequenceDataset, base: Base, blocks: TokenBlocks) -> LanguageModelEncoder:
        as_text = self.history_input == "tokens"
        config = LanguageModelConfig(
            lm=base.config,
            items=len(dataset.catalog),
            dim=self.dim,
            max_history=self.max_history,
            jump=self._jump,
            item_input="tokens" if as_text else "vector",
            prefix=self._prefix(base),
            suffix=self._suffix(base),
            pooling="last" if self.pooling == "prompt" else self.pooling,
            head="mlp",
            normalize=True,
            dtype=self.lm.dtype,
        )
        encoder = encoder_on(config, base, items=compact_vocabulary(blocks) if as_text else None)
        with torch.no_grad():
            encoder.scale.fill_(1 / self.temperature)
        return encoder

    def _objective(
        self,
        encoder: LanguageModelEncoder,
        tower: FrozenTower | CachedTower | IdTower,
        projector: ItemProjector | None,
        *,
        dataset: SequenceDataset,
        vectors: TextVectors,
    ) -> ReadOutNextItem:
        how: dict[str, Any] = {
            "projector": projector,
            "single_target": self.all_positions is False,
            "groups_N": vectors.groups_N if self.item_tower == "text" else None,
            "dropout": self.dropout,
            "largest_scale": 100.0,
            "cold_N": dataset.cold_items,
        }
        if self.item_training != "in_batch":
            return ReadOutNextItem(encoder, tower, **how)
        assert isinstance(tower, CachedTower)
        log_q_N = log_target_shares(dataset.train, len(dataset.catalog))
        return InBatchNextItem(encoder, tower, log_q_N=log_q_N, chunk=self.chunk, **how)

    def _suffix(self, base: Base) -> tuple[int, ...]:
        if self.pooling != "prompt":
            return ()
        return tuple(tokenize_blocks(base.tokenizer_file, [self.suffix]).tokens.tolist())

    def _tower(
        self,
        encoder: LanguageModelEncoder,
        base: Base,
        vectors: TextVectors,
        *,
        blocks: TokenBlocks,
        parents: Mapping[str, Bundle],
    ) -> FrozenTower | CachedTower | IdTower:
        if self.item_tower == "id":
            ids_ND = torch.from_numpy(parents["items_from"].index.vectors_ND)
            return IdTower(ids_ND, self.dim, hidden=base.hidden)
        # Made even where it is not used: a seed goes on giving the projectors that it always gave.
        frozen = FrozenTower(vectors.unit_NH, self.dim)
        if self.item_training == "frozen":
            return frozen
        return CachedTower(encoder.lm, base.embedding, blocks, dim=self.dim, refresh=self.refresh)

    def _projector(self, base: Base, vectors: TextVectors) -> ItemProjector | None:
        if self.history_input == "tokens":
            return None
        return ItemProjector(dim=None, text_NH=vectors.unit_NH, hidden=base.hidden, input_std=base.input_std)
