"""SASRec with full-softmax cross entropy: the baseline that every language model must beat."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import nn

import offline.recipe
from model_store.bundle import Bundle
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from model_store.staging import BundleParts
from offline.evaluation.validation import Validation
from offline.finishing.golden_histories import golden_histories
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.teaching.teachers import WEIGHT, check_teaching, taught_by
from offline.training.initial_weights import initialise
from offline.training.loop import FitPlan, fit
from offline.training.objectives import NextItem
from offline.training.sampled_softmax import SampledNextItem, negative_shares
from offline.training.windows import training_windows

NEGATIVES = 2_048


class Recipe(offline.recipe.Recipe):
    """Kang and McAuley, 2018, trained as gSASRec's critics do: softmax over all items at all positions, no output bias.

    Published as SASRec-CE; with binary cross entropy the same network is half as good (Beauty, HR@10: .06 against .10).

    teacher: a version (of a language model, say) whose best items this one learns to rank likewise, with
    `distillation` as the weight (DLLM2Rec, Cui et al., 2024, the idea; the loss is offline/teaching/distillation.py).

    softmax: `sampled` scores `negatives` drawn items in each step instead of all: for about 200,000 items and up.
    """

    dim: PositiveInt = 64
    blocks: PositiveInt = 2
    heads: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    max_history: PositiveInt = 100
    teacher: str | None = None
    distillation: PositiveFloat = WEIGHT
    softmax: Literal["full", "sampled"] = "full"
    negatives: PositiveInt = NEGATIVES
    fit: FitPlan = FitPlan()

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim} cannot be shared among heads = {self.heads}: make it a multiple")
        return self

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Self:
        check_teaching(self.teacher, self.distillation)
        return self

    @model_validator(mode="after")
    def _possible_softmax(self) -> Self:
        if self.softmax == "full" and self.negatives != NEGATIVES:
            raise ValueError(
                f'negatives = {self.negatives} are drawn by softmax = "sampled" alone, and softmax = "full" scores all '
                'items: set softmax = "sampled", or leave negatives out'
            )
        if self.softmax == "sampled" and self.teacher is not None:
            raise ValueError(
                'softmax = "sampled" scores drawn items, teacher needs the scores of its best ones: '
                'set softmax = "full", or leave teacher out'
            )
        return self

    def parent_references(self) -> dict[str, str]:
        return {} if self.teacher is None else {"teacher": self.teacher}

    @property
    def knows_items_by_id(self) -> bool:
        return True

    @property
    def refits(self) -> bool:
        return True

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        torch.manual_seed(self.seed)
        config = SequenceConfig(
            items=len(dataset.catalog),
            dim=self.dim,
            blocks=self.blocks,
            heads=self.heads,
            max_history=self.max_history,
            jump=max(1, self.max_history // 4),
            dropout=self.dropout,
        )
        encoder = config.build()
        encoder.apply(initialise)
        windows = training_windows(dataset.train, self.max_history)
        distillation = taught_by(
            parents.get("teacher"), windows, dataset=dataset, weight=self.distillation, checkpoints=checkpoints
        )
        objective = NextItem(encoder, distillation=distillation, cold_N=dataset.cold_items)
        if self.softmax == "sampled":
            events_N = torch.from_numpy(dataset.catalog.popularity)
            shares_N = negative_shares(events_N, torch.from_numpy(dataset.cold_items))
            objective = SampledNextItem(encoder, shares_N=shares_N, negatives=self.negatives)
        validation = Validation.of(dataset)
        progress = fit(
            objective,
            windows,
            plan=self.fit,
            validate=lambda: validation.ndcg10(encoder, encoder.item_vectors_ND),
            checkpoints=checkpoints,
            seed=self.seed,
        )
        return TrainedModel(self._parts(encoder.cpu().eval(), dataset), log=progress.figures())

    def _parts(self, encoder: SequenceEncoder, dataset: SequenceDataset) -> BundleParts:
        without_items = deepcopy(encoder)
        nn.init.zeros_(without_items.items.weight)
        return BundleParts(
            family="sasrec",
            catalog=dataset.catalog,
            encoder=encoder,
            item_vectors_ND=encoder.item_vectors_ND.detach().clone(),
            golden_histories=golden_histories(dataset.train),
            controls={"item table": without_items},
        )
