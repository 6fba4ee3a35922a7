"""E4SRec: ID vectors inside a language model, the state after each item predicts the next one.

Li et al., 2023, "E4SRec: An Elegant Effective Efficient Extensible Solution of Large Language Models for Sequential
Recommendation"; theirs learns an untied output layer, one prefix per sample. Ours answers in the tied item matrix of a
SASRec, reads out after every item, may read text beside IDs, and adapts all linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.language_model import (
    AllPositionsLanguageModelEncoder,
    LanguageModelConfig,
    encoder_on,
)
from model_store.token_blocks import CompactVocabulary, compact_vocabulary
from offline.language.injected_items import ItemProjector, VocabularyRows
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.language.sequence_residual import choose_beta, residual_config, take_sequence
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.teaching.teachers import WEIGHT, check_teaching, taught_by
from offline.training.loop import FitPlan
from offline.training.read_out_objective import ReadOutNextItem, TextAndIdItems, TiedItems
from offline.training.windows import training_windows


class Recipe(LanguageModelRecipe):
    """items_from: the SASRec version whose item vectors the tied matrix starts from.

    history_input: `id`, `text_vector`, `sum` (both added) or `tokens+id` (text tokens, then the ID vector's place).
    item_input: what the ID's place reads: `vector`, a projection of the item's ID vector, or `vocabulary`, a new row of
    the language model's vocabulary for each item, which starts as that projection and learns by itself.
    item_tower: what is matched: `id`, one vector per item, or `id+text`, that and a linear map of the item's text, so
    that an item which nobody chose yet has a place by its text alone.
    residual: query = u_SASRec + beta * u_LM with the item matrix frozen; beta is chosen on validation, and 0 means
    that the language model adds nothing.
    teacher: a version (an E4SRec of more layers, say) whose best items this one learns to rank likewise, with
    `distillation` as the weight: few layers match many (SLMRec, Xu et al., 2024).
    """

    items_from: str
    history_input: Literal["id", "text_vector", "sum", "tokens+id"] = "sum"
    item_input: Literal["vector", "vocabulary"] = "vector"
    item_tower: Literal["id", "id+text"] = "id"
    train_items: bool = True
    residual: bool = False
    branch_drop: Annotated[float, Field(ge=0, le=1)] = 0.25
    teacher: str | None = None
    distillation: PositiveFloat = WEIGHT
    fit: FitPlan = FitPlan(
        learning_rate=5e-4, item_learning_rate=1e-4, warmup_steps=50, epochs=30, evaluate_every=1, patience=4, clip=1.0
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.residual and self.train_items and "train_items" in self.model_fields_set:
            raise ValueError(
                "residual = true freezes the item matrix (the SASRec beside it must keep its own): "
                "set train_items = false"
            )
        if self.residual and self.teacher is not None:
            raise ValueError(
                "residual = true and teacher exclude each other (a teacher pulls the residual to zero): "
                "set residual = false, or leave teacher out"
            )
        if self.item_input == "vocabulary" and self.history_input not in ("id", "tokens+id"):
            raise ValueError(
                f'item_input = "vocabulary" gives an item one row of its own, history_input = "{self.history_input}" '
                'reads text vectors there: set history_input = "id" or "tokens+id"'
            )
        if self.item_tower == "id+text" and self.cold_start == "regression":
            raise ValueError(
                'item_tower = "id+text" places new items by their text already, cold_start = "regression" would do so '
                'again: set cold_start = "none", or item_tower = "id"'
            )
        check_teaching(self.teacher, self.distillation)
        return self

    def parent_references(self) -> dict[str, str]:
        return {"items_from": self.items_from} | ({} if self.teacher is None else {"teacher": self.teacher})

    @property
    def knows_items_by_id(self) -> bool:
        return True

    @property
    def needs_texts(self) -> bool:
        return self.history_input != "id" or self.item_tower == "id+text" or self.cold_start == "regression"

    @property
    def refits(self) -> bool:
        return True

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        return (*super().chosen_figures, "beta") if self.residual else super().chosen_figures

    @property
    def weighed_parents(self) -> tuple[str, ...]:
        return ("items_from",) if self.residual else ()

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        torch.manual_seed(self.seed)
        start = parents["items_from"]
        base = self.lm.open()
        encoder = self._encoder(dataset, base, start)
        adapted = self.lm.with_adapters(encoder.lm)
        objective = ReadOutNextItem(
            encoder,
            self._items(dataset, start),
            projector=self._projector(dataset, base, start),
            dropout=self.dropout,
            branch_drop=self.branch_drop,
            distillation=taught_by(
                parents.get("teacher"),
                training_windows(dataset.train, self.max_history),
                dataset=dataset,
                weight=self.distillation,
                checkpoints=checkpoints,
            ),
            cold_N=dataset.cold_items,
        )
        return self._trained(
            "e4srec",
            objective,
            dataset,
            adapted=adapted,
            base=base,
            checkpoints=checkpoints,
            choose=partial(choose_beta, encoder, chosen=self._chosen) if self.residual else None,
            items_of=start,
        )

    def _encoder(self, dataset: SequenceDataset, base: Base, start: Bundle) -> AllPositionsLanguageModelEncoder:
        config = LanguageModelConfig(
            lm=base.config,
            items=len(dataset.catalog),
            dim=start.manifest.dim,
            max_history=self.max_history,
            jump=self._jump,
            item_input="tokens+vector" if self.history_input == "tokens+id" else "vector",
            prefix=self._prefix(base),
            dtype=self.lm.dtype,
            residual=residual_config(start, self.max_history) if self.residual else None,
        )
        encoder = encoder_on(config, base, items=self._item_tokens(dataset, base))
        assert isinstance(encoder, AllPositionsLanguageModelEncoder)
        if self.residual:
            take_sequence(encoder, start)
        return encoder

    def _item_tokens(self, dataset: SequenceDataset, base: Base) -> CompactVocabulary | None:
        if self.history_input != "tokens+id":
            return None
        return compact_vocabulary(self._item_blocks(dataset, base))

    def _items(self, dataset: SequenceDataset, start: Bundle) -> TiedItems:
        start_ND = torch.from_numpy(start.index.vectors_ND).clone()
        trainable = self.train_items and not self.residual
        if self.item_tower == "id":
            return TiedItems(start_ND, trainable=trainable)
        text_NH = self._text_vectors(dataset).unit_NH
        return TextAndIdItems(start_ND, text_NH, torch.from_numpy(dataset.catalog.popularity), trainable=trainable)

    def _projector(self, dataset: SequenceDataset, base: Base, start: Bundle) -> ItemProjector | VocabularyRows:
        reads_text = self.history_input in ("sum", "text_vector")
        projector = ItemProjector(
            dim=None if self.history_input == "text_vector" else start.manifest.dim,
            text_NH=self._text_vectors(dataset).unit_NH if reads_text else None,
            hidden=base.hidden,
            input_std=base.input_std,
        )
        if self.item_input == "vector":
            return projector
        return VocabularyRows(projector, torch.from_numpy(start.index.vectors_ND).clone())
