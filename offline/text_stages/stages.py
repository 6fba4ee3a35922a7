"""Stages that train a language model on serialised histories, before the stage that learns to recommend.

Each fits its own adapters, with its own checkpoint, and hands them on merged into the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from model_store.base_models import BaseModel as Base
from offline.language.language_models import LanguageModel
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stage_adapters import StageAdapter, staged_decoder, take_adapter
from offline.training.loop import FitPlan, fit
from offline.training.objectives import Objective
from offline.training.processes import measuring_device

MEASURE = "held_out_log_likelihood"  # nats per target, negative: the more, the better


class StagePlan(BaseModel):
    """tokens: how many are read, over as many passes as that takes; ML-100K has 1.2 million with title, year, genres.

    minutes: an earlier end. check_tokens: a held-out figure and a checkpoint after every so many; the best is kept.
    batch: windows of a step, each of up to max_history items. Small ones learn faster by the token: after 50,000 tokens
    of ML-100K, two layers of SmolLM2 healed from 17.6 to 3.0 nats with 1, to 12 with 4 at half the learning rate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: PositiveInt = 600_000
    minutes: PositiveFloat | None = None
    check_tokens: PositiveInt = 60_000
    batch: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: NonNegativeInt = 20
    clip: PositiveFloat | None = 1.0

    @property
    def portions(self) -> int:
        return math.ceil(self.tokens / self.check_tokens)

    def fit_plan(self) -> FitPlan:
        return FitPlan(
            epochs=self.portions,
            minutes=self.minutes,
            batch=self.batch,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay=True,
            clip=self.clip,
            evaluate_every=1,
            patience=self.portions,
            average=1,
        )


class TokenPlan(StagePlan):
    """share: of the item tokens that are predicted; on a few layers, the head is most of the cost."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """base: with the adapters of all stages so far merged. logs: figures of each stage."""

    settings: LanguageModel
    base: Base
    adapters: tuple[StageAdapter, ...] = ()
    logs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @classmethod
    def start(cls, settings: LanguageModel) -> Staged:
        return cls(settings, settings.open())

    @property
    def seconds(self) -> float:
        return sum(float(str(log["seconds"])) for log in self.logs.values())


def train_stage(
    name: str,
    before: Staged,
    objective_on: Callable[[Base], Objective],
    *,
    histories: SerialisedHistories,
    plan: StagePlan,
    checkpoints: Path,
    seed: int,
    dropout: float = 0.0,
) -> Staged:
    """Fits new adapters on `before.base`, whose decoder is used up, and merges them.

    objective_on: the loss, given the base with its adapters in place. Its language model trains, nothing else of it.
    """
    # Whether the stage before was trained just now or read from its checkpoint, this one starts the same.
    torch.manual_seed(seed)
    adapted = before.settings.with_adapters(before.base.lm, dropout=dropout)
    objective = objective_on(before.base)
    start = held_out_loss(objective.to(measuring_device()), histories, batch=plan.batch)
    progress = fit(
        objective,
        lambda epoch: histories.portion(epoch, tokens=math.ceil(plan.tokens / plan.portions), seed=seed),
        plan=plan.fit_plan(),
        validate=lambda: -held_out_loss(objective, histories, batch=plan.batch),
        checkpoints=checkpoints,
        seed=seed,
        stage=name,
        measure=MEASURE,
    )
    objective.cpu()
    adapters = (*before.adapters, take_adapter(adapted))
    log = progress.figures() | {"held_out_nats_before": start, "held_out_nats": -progress.best}
    base = replace(before.base, lm=staged_decoder(before.settings, adapters))
    return Staged(before.settings, base, adapters, {**before.logs, name: log})


@torch.no_grad()
def held_out_loss(objective: Objective, histories: SerialisedHistories, *, batch: int) -> float:
    """Nats per target over the held-out windows; the same targets (and the same dropout) every time."""
    was_training = objective.training
    objective.train()
    total, count = 0.0, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in torch.split(torch.arange(len(histories.held_out)), batch):
            windows = histories.held_out.select(part.tolist())
            targets = objective.targets(windows)
            total, count = total + float(objective(windows)) * targets, count + targets
    objective.train(was_training)
    return total / max(count, 1)
