"""LLM2Vec: a decoder that attends both ways and pools the whole history, matched with item texts.

After BehnamGhader et al., 2024, "LLM2Vec: Large Language Models Are Secretly Powerful Text Encoders": masked next token
prediction, then contrastive learning. Ours contrasts a history with the next item among all items, on histories that
are text, or one vector per item; a bidirectional history has one vector only and must be read again when it grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.decoder import has_sliding_window
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder, encoder_on
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import compact_vocabulary
from offline.language.injected_items import ItemProjector
from offline.language.item_towers import CachedTower, FrozenTower
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.text_stages.healing import heal, next_title, refuse_without_healing
from offline.text_stages.masked_next_token import masked_next_token
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, TokenPlan
from offline.text_stages.two_views import TwoViewsPlan, two_views
from offline.training.loop import FitPlan
from offline.training.read_out_objective import ReadOutNextItem


class Recipe(LanguageModelRecipe):
    """history_input: `text_vector` (one token per item) or `tokens` (the item's text).

    causal: attend to the past alone, as the base was trained to; for comparison. pooling: over the items' tokens;
    `weighted_mean` weighs a token by its position.
    all_positions: learn after every item instead of at targets drawn per user; needs causal.
    item_training, dim, temperature, refresh: as in Contriever-Rec; `cached` reads item texts with the same attention.
    healing, next_title, mntp, simcse: stages on serialised histories, in this order, each left out where it is not
    written. They adapt the language model to text: a `text_vector` history is none, so look at what they bring there.
    """

    history_input: Literal["text_vector", "tokens"] = "text_vector"
    causal: bool = False
    pooling: Literal["weighted_mean", "mean", "last"] = "weighted_mean"
    all_positions: bool = False
    item_training: Literal["frozen", "cached"] = "frozen"
    dim: PositiveInt = 256
    temperature: PositiveFloat = 0.05
    refresh: PositiveInt = 50
    healing: TokenPlan | None = None
    next_title: TokenPlan | None = None
    mntp: TokenPlan | None = None
    simcse: TwoViewsPlan | None = None
    fit: FitPlan = FitPlan(learning_rate=5e-4, warmup_steps=50, epochs=30, evaluate_every=1, patience=4, clip=1.0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.all_positions and not self.causal:
            raise ValueError(
                "all_positions = true needs causal = true (a state that has seen the next item cannot predict it): "
                "set causal = true, or all_positions = false"
            )
        if self.all_positions and "targets_per_user" in self.model_fields_set:
            raise ValueError("all_positions = true takes every target: leave targets_per_user out")
        return self

    @property
    def has_text_tower(self) -> bool:
        return True

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:  # noqa: ARG002
        for stage in ("next_title", "mntp"):
            if getattr(self, stage) is not None:
                refuse_without_healing(self.lm, stage, healing=self.healing)
        staged = self._stages(dataset, checkpoints)
        torch.manual_seed(self.seed)
        base = staged.base
        blocks = self._item_blocks(dataset, base)
        encoder = self._encoder(dataset, base, blocks)
        adapted = self.lm.with_adapters(encoder.lm)
        objective = self._objective(dataset, encoder, base, blocks=blocks)
        trained = self._trained(
            "llm2vec",
            objective,
            dataset,
            adapted=adapted,
            base=base,
            checkpoints=checkpoints,
            choose=lambda _items, _validation: {"scale": float(encoder.scale.detach())},
            before=staged.adapters,
        )
        seconds = float(str(trained.log["seconds"])) + staged.seconds
        assert isinstance(objective.items, FrozenTower | CachedTower)
        assert isinstance(trained.parts.encoder, LanguageModelEncoder)
        reading = self._text_tower(objective.items, dataset, base, served=trained.parts.encoder, causal=self.causal)
        parts = replace(trained.parts, text_tower=reading)
        return replace(trained, parts=parts, log=trained.log | {"stages": staged.logs, "seconds": seconds})

    def _stages(self, dataset: SequenceDataset, checkpoints: Path) -> Staged:
        staged = Staged.start(self.lm)
        if not (self.healing or self.next_title or self.mntp or self.simcse):
            return staged
        blocks, prefix = self._item_blocks(dataset, staged.base), self._prefix(staged.base)
        text = SerialisedHistories(dataset, blocks, prefix=prefix, max_history=self.max_history)
        if self.healing:
            healed = heal(self.lm, text, plan=self.healing, checkpoints=checkpoints, seed=self.seed)
            for reader in ("next_title", "mntp"):
                if getattr(self, reader) is not None:
                    healed.refuse_unless_readable(reader)
            staged = healed.staged
        if self.next_title:
            staged = next_title(
                "next_title", staged, text, plan=self.next_title, checkpoints=checkpoints, seed=self.seed
            )
        if self.mntp:
            staged = masked_next_token(
                staged, text, causal=self.causal, plan=self.mntp, checkpoints=checkpoints, seed=self.seed
            )
        if self.simcse:
            staged = two_views(
                staged,
                text,
                causal=self.causal,
                pooling=self.pooling,
                plan=self.simcse,
                checkpoints=checkpoints,
                seed=self.seed,
            )
        return staged

    def _encoder(self, dataset: SequenceDataset, base: Base, blocks: TokenBlocks) -> LanguageModelEncoder:
        as_text = self.history_input == "tokens"
        slides = not self.causal and has_sliding_window(base.config)
        config = LanguageModelConfig(
            lm=base.config,
            items=len(dataset.catalog),
            dim=self.dim,
            max_history=self.max_history,
            jump=self._jump,
            item_input="tokens" if as_text else "vector",
            prefix=self._prefix(base),
            pooling=self.pooling,
            causal=self.causal,
            bidirectional_window="distance < window" if slides else None,
            head="mlp",
            normalize=True,
            dtype=self.lm.dtype,
        )
        encoder = encoder_on(config, base, items=compact_vocabulary(blocks) if as_text else None)
        with torch.no_grad():
            encoder.scale.fill_(1 / self.temperature)
        return encoder

    def _objective(
        self, dataset: SequenceDataset, encoder: LanguageModelEncoder, base: Base, *, blocks: TokenBlocks
    ) -> ReadOutNextItem:
        vectors = self._text_vectors(dataset)
        tower: FrozenTower | CachedTower = FrozenTower(vectors.unit_NH, self.dim)
        if self.item_training == "cached":
            tower = CachedTower(
                encoder.lm, base.embedding, blocks, dim=self.dim, refresh=self.refresh, causal=self.causal
            )
        projector = None
        if self.history_input == "text_vector":
            projector = ItemProjector(dim=None, text_NH=vectors.unit_NH, hidden=base.hidden, input_std=base.input_std)
        return ReadOutNextItem(
            encoder,
            tower,
            projector=projector,
            single_target=not self.all_positions,
            groups_N=vectors.groups_N,
            cold_N=dataset.cold_items,
            dropout=self.dropout,
            largest_scale=100.0,
        )
