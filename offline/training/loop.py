"""One training loop for every stage of every family."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from model_store.encoders.history import HistoryBatch
from offline.training.checkpoints import load_checkpoint, save_checkpoint
from offline.training.objectives import Objective
from offline.training.optimizers import MasterWeightAdamW
from offline.training.processes import as_main_says
from offline.training.progress import Progress
from offline.training.windows import shuffled_batches

logger = logging.getLogger(__name__)


class Diverged(ValueError):
    """The loss is no number any more; the message names the keys to change."""


class FitPlan(BaseModel):
    """How long and how fast; part of a recipe.

    minutes bounds the training time of all sessions together (a resumed run goes on counting; on a CPU, what other
    processes take of it is not counted). Evaluation happens every `evaluate_every` epochs; a model is chosen on the
    mean of its last `average` validation figures and is the average of those checkpoints' weights, because early
    stopping on one figure is the largest source of noise in small transformers. `patience` counts evaluations without
    a better mean.
    batch: windows of a step, of like length. Every step weighs alike, so that a target of a long window counts for less
        than one of a short window. batch_targets: so many targets a step instead, and every target counts alike; for
        losses at all positions. Where lengths differ much (Amazon Beauty: 2 to 50 targets) it is worth a tenth of
        NDCG@10 (EXPERIMENTS.md).
    beta2: of Adam's second moment; small batches over many items want it near .999.
    decay: the learning rate falls in a straight line to 0, after the warm-up, at the end of `epochs` or `minutes`,
    whichever comes first; a run that ends earlier (`patience`) ends above 0.
    stop_after: trains exactly so many epochs and judges nothing: the last `average` checkpoints are kept, whatever
        validation says. What a final fit sets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: PositiveInt = 200
    minutes: PositiveFloat | None = None
    batch: PositiveInt = 64
    batch_targets: PositiveInt | None = None
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    item_learning_rate: PositiveFloat | None = None
    weight_decay: float = 0.0
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.98
    warmup_steps: NonNegativeInt = 0
    decay: bool = False
    clip: PositiveFloat | None = None
    evaluate_every: PositiveInt = 3
    patience: PositiveInt = 8
    average: PositiveInt = 3
    stop_after: PositiveInt | None = None

    @property
    def last_epoch(self) -> int:
        return self.epochs if self.stop_after is None else self.stop_after

    def after_step(self, objective: Objective, progress: Progress, *, loss: float) -> None:
        """Nothing here; a plan that watches a training looks now. It must leave weights and random state as they are.

        A resumed run repeats the steps after its last checkpoint, and calls for them again.
        """


def fit(
    objective: Objective,
    windows: HistoryBatch | Callable[[int], HistoryBatch],
    *,
    plan: FitPlan,
    validate: Callable[[], float],
    checkpoints: Path,
    seed: int,
    stage: str = "fit",
    measure: str = "ndcg@10",
) -> Progress:
    """Train `objective` on `windows`, leave the chosen weights in it, and return the curve.

    windows: the same in every epoch, or a function of the epoch.
    validate: NDCG@10 of the objective's encoder as it stands, or what `measure` names (more is better). A killed run
    goes on from its last evaluation, and reaches the same weights as one that was not killed. Under `accelerate launch`
    every process takes its share of each batch.

    ValueError when there is nothing to learn from; Diverged.
    """
    windows_of = windows if callable(windows) else lambda _epoch: windows
    first = windows_of(0)
    if len(first) == 0:
        raise ValueError(
            "no user has two training events: there is no step from one item to the next to learn from; bring longer "
            "histories, or choose a protocol that holds out fewer events"
        )
    if plan.batch_targets is not None and objective.targets(first) < int((first.lengths - 1).sum()):
        raise ValueError(
            f"recipe.{stage}.batch_targets counts a target at every position, and this loss has fewer: "
            f"set recipe.{stage}.batch, and leave batch_targets out"
        )
    accelerator = Accelerator(
        gradient_accumulation_steps=plan.accumulate, log_with="tensorboard", project_dir=checkpoints
    )
    accelerator.init_trackers(stage)
    # The optimiser copies bfloat16 parameters: they must be where they will train.
    objective.to(accelerator.device)
    _keep_constants_at_home(objective)
    optimizer = _optimizer(objective, plan)
    model, optimizer = accelerator.prepare(objective, optimizer)
    progress = Progress(measure=measure)
    accelerator.register_for_checkpointing(progress)
    folder = checkpoints / f"checkpoint-{stage}"
    if load_checkpoint(accelerator, folder):
        logger.info("%s: resumes after epoch %d", stage, progress.epoch)
    while not progress.done:
        worked = _WorkClock(accelerator.device)
        read = windows_of(progress.epoch)
        loss = _epoch(model, optimizer, read, plan=plan, accelerator=accelerator, progress=progress, seed=seed)
        progress.epoch += 1
        progress.seconds, loss = as_main_says((progress.seconds + worked.seconds(), loss))
        if not math.isfinite(loss):
            raise Diverged(
                f"{stage}: the loss is {loss} in epoch {progress.epoch}; lower recipe.{stage}.learning_rate, or set "
                f"recipe.{stage}.clip"
            )
        out_of_time = plan.minutes is not None and plan.stop_after is None and progress.seconds >= 60 * plan.minutes
        last = out_of_time or progress.epoch >= plan.last_epoch
        if last or progress.epoch % plan.evaluate_every == 0:
            # Without a judge every checkpoint is better than the one before it, so the last ones are kept.
            figure = as_main_says(validate() if plan.stop_after is None else float(progress.epoch))
            progress.judge(objective, figure, loss=loss, average=plan.average, figures=objective.figures())
            progress.done = last or progress.since_best >= plan.patience
            accelerator.log({"loss": loss, f"validation_{measure}": figure}, step=progress.steps)
            logger.info(
                "%s: epoch %d loss %.4f %s %.4f (best mean %.4f)",
                stage,
                progress.epoch,
                loss,
                measure,
                figure,
                progress.best,
            )
            save_checkpoint(accelerator, folder)
    progress.restore_best(objective)
    # Not `end_training`: it would also end the talk between processes, and there is more to train or to publish.
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.free_memory()
    return progress


class _WorkClock:
    """Seconds this process has worked. What a neighbour takes of a shared processor is not counted, so that a budget
    buys as much training on a busy machine as on a quiet one; a process cannot tell for a GPU, whose wall clock counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._shared = device.type == "cpu"
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        wall = time.perf_counter() - self._wall
        # Several threads work more seconds than pass.
        return min(wall, time.process_time() - self._cpu) if self._shared else wall


def _keep_constants_at_home(objective: nn.Module) -> None:
    """Every process makes the buffers itself, and some stay on the CPU, from where NCCL cannot send them."""
    names = [name for name, _ in objective.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, names)  # type: ignore[no-untyped-call]


def _optimizer(objective: Objective, plan: FitPlan) -> torch.optim.Optimizer:
    items = {id(parameter) for parameter in objective.item_parameters()}
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in items], "lr": plan.learning_rate},
        {"params": [p for p in trainable if id(p) in items], "lr": plan.item_learning_rate or plan.learning_rate},
    ]
    return MasterWeightAdamW(
        [group for group in groups if group["params"]], betas=(0.9, plan.beta2), weight_decay=plan.weight_decay
    )


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    windows: HistoryBatch,
    *,
    plan: FitPlan,
    accelerator: Accelerator,
    progress: Progress,
    seed: int,
) -> float:
    objective: Objective = accelerator.unwrap_model(model)
    drawn = shuffled_batches(windows, plan.batch, seed=seed, epoch=progress.epoch, targets=plan.batch_targets)
    batches = list(drawn)
    total, count = 0.0, 0
    model.train()
    # Dropout of an epoch is a function of (seed, epoch), so a resumed run repeats it.
    torch.manual_seed(seed * 100_003 + progress.epoch)
    bar = tqdm(
        batches,
        desc=f"epoch {progress.epoch + 1}",
        unit="step",
        disable=not accelerator.is_main_process or not sys.stderr.isatty(),
        leave=False,
    )
    started, tokens = time.perf_counter(), 0
    for done, indices in enumerate(bar, start=1):
        mine = indices[accelerator.process_index :: accelerator.num_processes] or indices[:1]
        batch = windows.select(mine)
        _set_learning_rate(optimizer, _share_of_rate(plan, progress, done - 1, epoch_steps=len(batches)))
        # An epoch ends with a step, full or not: a checkpoint keeps no gradients.
        accelerator.sync_gradients = done % plan.accumulate == 0 or done == len(batches)
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            loss = model(batch)
            accelerator.backward(loss)
            if plan.clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
            optimizer.zero_grad()
        targets, value = objective.targets(batch), float(loss.detach())
        total, count = total + value * targets, count + targets
        progress.steps += 1
        progress.targets += targets
        progress.items_read += len(batch.rows)
        plan.after_step(objective, progress, loss=value)
        tokens += len(batch.rows)
        bar.set_postfix(loss=f"{total / max(count, 1):.3f}", tokens_s=f"{tokens / (time.perf_counter() - started):.0f}")
    model.eval()
    return total / max(count, 1)


def _share_of_rate(plan: FitPlan, progress: Progress, done: int, *, epoch_steps: int) -> float:
    """Of the full learning rate, for the step that comes after `done` others of this epoch."""
    step = progress.steps
    share = min(1.0, (step + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    if not plan.decay:
        return share
    spent = step / (plan.epochs * epoch_steps)
    if plan.minutes is not None and progress.epoch:
        # From whole epochs, which all processes agree on: a clock read here would give each another rate.
        seconds = progress.seconds * (1 + done / epoch_steps / progress.epoch)
        spent = max(spent, seconds / (60 * plan.minutes))
    return share * max(0.0, 1 - spent)


def _set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group.setdefault("full_lr", group["lr"])
        group["lr"] = group["full_lr"] * share
