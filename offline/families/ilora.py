"""iLoRA: a language model whose LoRA experts are weighed by the SASRec state of the very history that it reads.

Kong et al., 2024, "Customizing Language Models with Instance-wise LoRA for Sequential Recommendation"; theirs generates
a title among 20 candidates and gates whole histories. Ours answers with a vector: in the SASRec's item space, beside
the SASRec itself, or in a space common to users and items; and gates every item with the state that stands after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from peft import PeftModel
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.gated_lora import GatedLoraConfig
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder, encoder_on
from model_store.encoders.sequence import SequenceEncoder
from model_store.token_blocks import compact_vocabulary
from offline.evaluation.validation import Validation
from offline.gating.gated_export import plain_lora
from offline.gating.gated_objective import GatedNextItem
from offline.gating.mean_gate import use_mean_gate
from offline.gating.out_of_fold import InFold, OutOfFold, fit_out_of_fold
from offline.language.common_space import CommonSpaceTower
from offline.language.injected_items import FixedItemProjector
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.language.sequence_residual import choose_beta, residual_config, sequence_config, take_sequence
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.teaching.distillation import Distillation
from offline.training.loop import FitPlan
from offline.training.read_out_objective import TiedItems
from offline.training.windows import training_windows

COMMON_ONLY = ("item_tower", "dim", "temperature")
DISTILLED = 0.5  # weight of the SASRec's opinion where nothing else says


class Recipe(LanguageModelRecipe):
    """items_from: the SASRec version whose states gate, and whose item vectors are read and, in its space, answered in.

    gate: `causal`, the state after each item gates that item's tokens; `history`, the whole history's gates all of
    them (as published; one target per history); `mean`, trained as `causal` and served with the mean gate, merged.
    experts: lm.rank is shared among them. space: `sasrec`, the frozen item matrix; `common`, one of `dim` numbers that
    items reach through a two-layer projector from SASRec vectors (item_tower `id`), text vectors (`text`) or both.
    residual: query = u_SASRec + beta * u_LM; beta is chosen on validation. out_of_fold: in training, states come from
    SASRecs that have not seen the user. distillation: weight of the SASRec's best items as soft targets; unless it is
    set, 0.5 without residual and 0 with one.
    """

    items_from: str
    history_input: Literal["sum", "tokens+id"] = "sum"
    gate: Literal["causal", "history", "mean"] = "causal"
    experts: PositiveInt = 4
    single_target: bool | None = None
    space: Literal["sasrec", "common"] = "sasrec"
    item_tower: Literal["id", "text", "text+id"] = "id"
    dim: PositiveInt = 256
    temperature: PositiveFloat = 0.05
    residual: bool = False
    branch_drop: Annotated[float, Field(ge=0, le=1)] = 0.25
    out_of_fold: bool = False
    distillation: Annotated[float, Field(ge=0)] | None = None
    fit: FitPlan = FitPlan(learning_rate=5e-4, warmup_steps=50, epochs=30, evaluate_every=1, patience=4, clip=1.0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.lm.rank % self.experts:
            raise ValueError(
                f"lm.rank = {self.lm.rank} cannot be shared among experts = {self.experts}: make it a multiple"
            )
        if self.gate == "history" and self.single_target is False:
            raise ValueError(
                'gate = "history" shows every position the whole history, targets included, so '
                'single_target = false cannot be: set single_target = true, or gate = "causal"'
            )
        if self.residual and self.distillation:
            raise ValueError(
                f"distillation = {self.distillation} pulls residual = true to zero (the teacher is the SASRec that it "
                "is added to): set distillation = 0, or residual = false"
            )
        if self.residual and self.space == "common":
            raise ValueError(
                'residual = true adds a SASRec vector, which space = "common" has none of: set space = "sasrec", or '
                "residual = false"
            )
        for key in COMMON_ONLY:
            if self.space == "sasrec" and key in self.model_fields_set:
                raise ValueError(
                    f'{key} = {getattr(self, key)} means nothing with space = "sasrec", whose items are the SASRec\'s: '
                    f'set space = "common", or leave {key} out'
                )
        return self

    def parent_references(self) -> dict[str, str]:
        return {"items_from": self.items_from}

    @property
    def knows_items_by_id(self) -> bool:
        return self.space == "sasrec" or self.item_tower == "id"

    @property
    def refits(self) -> bool:
        # How long the folds train is chosen on validation, and no log keeps it.
        return not self.out_of_fold

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        return (*super().chosen_figures, "beta") if self.residual else super().chosen_figures

    @property
    def weighed_parents(self) -> tuple[str, ...]:
        return ("items_from",) if self.residual else ()

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        torch.manual_seed(self.seed)
        start = parents["items_from"]
        sequence = self._sequence(start, dataset, checkpoints)
        torch.manual_seed(self.seed)  # the folds may have been there already
        base = self.lm.open()
        encoder = self._encoder(dataset, base, start)
        objective = self._objective(encoder, base, start, sequence=sequence, dataset=dataset)

        def choose(items_ND: Tensor, validation: Validation) -> dict[str, object]:
            log: dict[str, object] = {}
            if self.gate == "mean":
                windows = training_windows(dataset.train, self.max_history)
                log |= use_mean_gate(objective, items_ND, windows, validation=validation, batch=self.fit.batch)
            if self.residual:
                log |= choose_beta(encoder, items_ND, validation, chosen=self._chosen)
            return log | ({"scale": float(encoder.scale.detach())} if self.space == "common" else {})

        return self._trained(
            "ilora",
            objective,
            dataset,
            adapted=None,
            base=base,
            checkpoints=checkpoints,
            choose=choose,
            items_of=start,
        )

    def _exported(self, encoder: LanguageModelEncoder) -> PeftModel | None:
        return plain_lora(encoder, self.lm) if self.gate == "mean" else None

    def _sequence(self, start: Bundle, dataset: SequenceDataset, checkpoints: Path) -> InFold | OutOfFold:
        """Of what trains: the SASRec itself, or SASRecs fitted as it was, each without a fold of the users."""
        sequence_config(start, self.max_history, needed_by="the gate")
        assert isinstance(start.encoder, SequenceEncoder)
        if not self.out_of_fold:
            return InFold(deepcopy(start.encoder), torch.from_numpy(start.index.vectors_ND))
        plan = FitPlan.model_validate(start.manifest.provenance.recipe.get("fit", {}))
        return fit_out_of_fold(start, dataset, plan=plan, checkpoints=checkpoints, seed=self.seed)

    def _encoder(self, dataset: SequenceDataset, base: Base, start: Bundle) -> LanguageModelEncoder:
        as_text = self.history_input == "tokens+id"
        config = LanguageModelConfig(
            lm=base.config,
            items=len(dataset.catalog),
            dim=start.manifest.dim if self.space == "sasrec" else self.dim,
            max_history=self.max_history,
            jump=self._jump,
            item_input="tokens+vector" if as_text else "vector",
            prefix=self._prefix(base),
            normalize=self.space == "common",
            dtype=self.lm.dtype,
            residual=residual_config(start, self.max_history) if self.residual else None,
            gated_lora=GatedLoraConfig(
                experts=self.experts,
                rank=self.lm.rank,
                alpha=self.lm.alpha,
                gate="history" if self.gate == "history" else "causal",
                sequence=sequence_config(start, self.max_history, needed_by="the gate"),
            ),
        )
        items = compact_vocabulary(self._item_blocks(dataset, base)) if as_text else None
        encoder = encoder_on(config, base, items=items)
        take_sequence(encoder, start)
        for name, parameter in encoder.lm.named_parameters():
            parameter.requires_grad_(name.endswith((".lora_A", ".lora_B")))
        if self.space == "common":
            with torch.no_grad():
                encoder.scale.fill_(1 / self.temperature)
        return encoder

    def _objective(
        self,
        encoder: LanguageModelEncoder,
        base: Base,
        start: Bundle,
        *,
        sequence: InFold | OutOfFold,
        dataset: SequenceDataset,
    ) -> GatedNextItem:
        ids_ND = torch.from_numpy(start.index.vectors_ND).clone()
        by_text = self.history_input == "sum" or (self.space == "common" and self.item_tower != "id")
        text = self._text_vectors(dataset) if by_text else None
        weight, trained_N = self._distillation, torch.from_numpy(dataset.trained_items)
        items: TiedItems | CommonSpaceTower = TiedItems(ids_ND, trainable=False)
        if self.space == "common":
            sources = {"id": ids_ND, "text": None if text is None else text.unit_NH}
            items = CommonSpaceTower(
                [x for name in self.item_tower.split("+") if (x := sources[name]) is not None], self.dim
            )
        return GatedNextItem(
            encoder,
            items,
            projector=FixedItemProjector(
                ids_ND,
                text_NH=text.unit_NH if text is not None and self.history_input == "sum" else None,
                hidden=base.hidden,
                input_std=base.input_std,
            ),
            single_target=bool(self.single_target),
            # Items that only text tells apart, and text does not.
            groups_N=text.groups_N
            if text is not None and self.item_tower == "text" and self.space == "common"
            else None,
            dropout=self.dropout,
            branch_drop=self.branch_drop,
            largest_scale=100.0 if self.space == "common" else None,
            distillation=Distillation(sequence, weight=weight, allowed_N=trained_N) if weight else None,
            sequence=sequence,
            cold_N=dataset.cold_items,
        )

    @property
    def _distillation(self) -> float:
        if self.distillation is None:
            return 0.0 if self.residual else DISTILLED
        return self.distillation
