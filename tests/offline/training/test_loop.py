from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
import torch

from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from offline.training.loop import FitPlan, _keep_constants_at_home, _share_of_rate, _WorkClock, fit
from offline.training.objectives import NextItem
from offline.training.optimizers import MasterWeightAdamW
from offline.training.progress import Progress
from offline.training.windows import training_windows

ITEMS = 12


class Killed(Exception):
    pass


class ReadOut(NextItem):
    """One target per window."""

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows)


def _windows() -> HistoryBatch:
    """Each user walks round the items: the next one is always one further."""
    return training_windows(HistoryBatch.of([(torch.arange(15) + user) % ITEMS for user in range(20)]), 7)


def _encoder() -> SequenceEncoder:
    torch.manual_seed(0)
    return SequenceConfig(items=ITEMS, dim=16, blocks=1, heads=2, max_history=7, jump=1, dropout=0.1).build()


def _fit(folder: Path, *, plan: FitPlan, kill_at: int | None = None) -> tuple[SequenceEncoder, Progress]:
    encoder = _encoder()
    looks = 0

    def validate() -> float:
        nonlocal looks
        looks += 1
        if looks == kill_at:
            raise Killed
        # A figure of the weights alone, so that a resumed run sees the same curve; it grows, so that all epochs count.
        return float(encoder.positions.weight.detach().abs().sum())

    progress = fit(NextItem(encoder), _windows(), plan=plan, validate=validate, checkpoints=folder, seed=3)
    return encoder, progress


PLAN = FitPlan(epochs=6, batch=8, evaluate_every=1, average=2, learning_rate=1e-2)


def test_it_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    encoder, progress = _fit(tmp_path, plan=PLAN.model_copy(update={"epochs": 30, "patience": 100}))
    losses = [point["loss"] for point in progress.curve]
    assert losses[-1] < 0.5 * losses[0]
    assert progress.targets == 30 * 20 * 14
    with torch.inference_mode():
        scores = encoder.eval()(HistoryBatch.of([[3, 4, 5]])) @ encoder.item_vectors_ND.T
    assert int(scores.argmax()) == 6


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = (_fit(tmp_path / name, plan=PLAN)[0] for name in "ab")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("accumulate", [1, 3])  # an epoch has five batches
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, accumulate: int) -> None:
    plan = PLAN.model_copy(update={"accumulate": accumulate})
    whole, expected = _fit(tmp_path / "whole", plan=plan)
    with pytest.raises(Killed):
        _fit(tmp_path / "killed", plan=plan, kill_at=3)
    resumed, progress = _fit(tmp_path / "killed", plan=plan)
    assert [point["epoch"] for point in progress.curve] == [1, 2, 3, 4, 5, 6]
    assert progress.best_epoch == expected.best_epoch > 3, (
        "else what was learnt after the kill is compared with nothing"
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    trained, _ = _fit(tmp_path, plan=PLAN)
    again, progress = _fit(tmp_path, plan=PLAN, kill_at=1)  # no look at validation: it would raise
    assert progress.epoch == 6
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_model_is_the_average_of_the_best_checkpoints(tmp_path: Path) -> None:
    figures = iter([0.1, 0.5, 0.4, 0.2, 0.1, 0.1])
    encoder = _encoder()
    seen: list[torch.Tensor] = []

    def validate() -> float:
        seen.append(encoder.items.weight.detach().clone())
        return next(figures)

    progress = fit(NextItem(encoder), _windows(), plan=PLAN, validate=validate, checkpoints=tmp_path, seed=0)
    assert progress.best_epoch == 3
    assert progress.best == pytest.approx(0.45)
    torch.testing.assert_close(encoder.items.weight.detach(), (seen[1] + seen[2]) / 2)


def test_batches_of_targets_are_for_losses_at_all_positions(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"batch_targets": 28})
    _, progress = _fit(tmp_path / "all", plan=plan)
    assert progress.targets == 6 * 20 * 14
    assert progress.steps == 6 * 10
    encoder = _encoder()
    with pytest.raises(
        ValueError, match=r"recipe\.fit\.batch_targets counts a target at every position.*leave batch_targets"
    ):
        fit(
            ReadOut(encoder),
            _windows(),
            plan=plan,
            validate=lambda: 0.0,
            checkpoints=tmp_path / "one",
            seed=0,
        )


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """AdamW's first step is the sign of the gradient, so two steps differ from one."""
    steps: list[int] = []

    class Counting(NextItem):
        def forward(self, windows: HistoryBatch) -> torch.Tensor:
            grad = self.encoder.get_parameter("items.weight").grad
            steps.append(grad is None)
            loss: torch.Tensor = super().forward(windows)
            return loss

    plan = PLAN.model_copy(update={"accumulate": 3, "epochs": 2})
    fit(Counting(_encoder()), _windows(), plan=plan, validate=lambda: 0.1, checkpoints=tmp_path, seed=0)
    # Five batches: a step after the third, and one after the last.
    assert steps == [True, False, False, True, False] * 2


def test_a_loss_that_is_no_number_is_refused_with_the_keys_to_change(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit: the loss is nan in epoch \d+.*fit\.learning_rate.*fit\.clip"):
        _fit(tmp_path, plan=PLAN.model_copy(update={"learning_rate": 1e30}))


def test_processes_send_each_other_gradients_and_no_constants(tmp_path: Path) -> None:
    """Token tables stay on the CPU, from where NCCL cannot send."""
    objective = NextItem(_encoder())
    objective.encoder.register_buffer("item_tokens", torch.zeros(3))
    _keep_constants_at_home(objective)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(objective)
        assert parallel.modules_buffers == []
        parallel(_windows().select([0])).backward()
        # A reducer that outlives the group joins its threads with the interpreter's lock held, and may wait for ever.
        del parallel
        gc.collect()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    windows = training_windows(HistoryBatch.of([[3], [], [4]]), 7)
    with pytest.raises(ValueError, match="no user has two training events"):
        fit(NextItem(_encoder()), windows, plan=PLAN, validate=lambda: 0.0, checkpoints=tmp_path, seed=0)


def test_patience_and_minutes_end_a_run(tmp_path: Path) -> None:
    encoder = _encoder()
    plan = PLAN.model_copy(update={"epochs": 50, "patience": 2, "average": 1})
    figures = iter([0.3, 0.2, 0.1])
    progress = fit(
        NextItem(encoder), _windows(), plan=plan, validate=lambda: next(figures), checkpoints=tmp_path / "a", seed=0
    )
    assert progress.epoch == 3
    _, short = _fit(tmp_path / "b", plan=plan.model_copy(update={"minutes": 1e-4}))
    assert short.epoch == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 2}, [1 / 2, 1, 1, 1, 1, 1]),
        ({"decay": True}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"decay": True, "warmup_steps": 3}, [1 / 3, 5 / 9, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], expected: list[float]
) -> None:
    rates: list[float] = []
    original = MasterWeightAdamW.step

    def watched(self: MasterWeightAdamW, closure: object = None) -> object:
        rates.extend({group["lr"] for group in self.param_groups})
        return original(self, closure)

    monkeypatch.setattr(MasterWeightAdamW, "step", watched)
    # Twenty windows of seven targets and twenty of the seven before: one batch is an epoch.
    _fit(tmp_path, plan=PLAN.model_copy(update={"batch": 100, **changes}))
    assert rates == pytest.approx([1e-2 * share for share in expected])


def test_a_budget_does_not_count_what_other_processes_take() -> None:
    clock = _WorkClock(torch.device("cpu"))
    time.sleep(0.3)
    waited = clock.seconds()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert waited < 0.1
    assert 0.1 <= clock.seconds() < 0.3
    on_gpu = _WorkClock(torch.device("cuda"))
    time.sleep(0.05)
    assert on_gpu.seconds() >= 0.05


def test_the_learning_rate_also_falls_to_the_end_of_the_minutes() -> None:
    plan = FitPlan(decay=True, epochs=100, minutes=1.0)
    half_way = Progress(epoch=3, steps=30, seconds=30.0)
    # Ten seconds an epoch: 35 of 60 seconds in the middle of the fourth.
    assert _share_of_rate(plan, half_way, 5, epoch_steps=10) == pytest.approx(1 - 35 / 60)
    assert _share_of_rate(plan, Progress(), 0, epoch_steps=10) == 1.0
    assert _share_of_rate(plan, Progress(epoch=9, steps=90, seconds=90.0), 0, epoch_steps=10) == 0.0
