from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from model_store.base_models import BaseModel
from model_store.encoders.history import HistoryBatch
from model_store.token_blocks import tokenize_blocks
from offline.datasets import Interactions
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel
from offline.language.lm_head import lm_head
from offline.splits.protocols import split
from offline.text_stages.next_token import NextToken
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, StagePlan, TokenPlan, held_out_loss, train_stage
from offline.training.objectives import Objective


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=3, rank=4, served_dtype="float32")


@pytest.fixture
def histories(small_world: Interactions, tiny_base: Path) -> SerialisedHistories:
    dataset = split(small_world, "last-10").dataset
    texts = [f" {text}\n" for text in item_texts(dataset.items, "{title}")]
    blocks = tokenize_blocks(tiny_base / "tokenizer.json", texts)
    return SerialisedHistories(dataset, blocks, prefix=(1, 2), max_history=10)


@pytest.mark.parametrize(("tokens", "portions"), [(100, 1), (101, 2), (1_000, 10)])
def test_a_stage_is_bounded_by_tokens(tokens: int, portions: int) -> None:
    plan = StagePlan(tokens=tokens, check_tokens=100).fit_plan()
    assert (plan.epochs, plan.average, plan.evaluate_every) == (portions, 1, 1)
    assert plan.patience >= portions, "nothing else ends it but minutes"
    assert StagePlan(minutes=2).fit_plan().minutes == 2
    with pytest.raises(ValidationError):
        TokenPlan(share=0)


def test_a_stage_reads_the_tokens_that_its_plan_names_and_hands_its_adapter_on_merged(
    settings: LanguageModel, histories: SerialisedHistories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def objective_on(base: BaseModel) -> Objective:
        objective = NextToken(base, histories, head_VH=lm_head(settings, base), share=0.3)
        original = objective.forward

        def counted(windows: HistoryBatch) -> Tensor:
            if torch.is_grad_enabled():
                read.append(int(histories.tokens(windows).sum()))
            return original(windows)

        monkeypatch.setattr(objective, "forward", counted)
        return objective

    plan = StagePlan(tokens=900, check_tokens=300, batch=4, learning_rate=0.01)
    staged = Staged.start(settings)
    for number, name in enumerate(("one", "two"), start=1):
        staged = train_stage(name, staged, objective_on, histories=histories, plan=plan, checkpoints=tmp_path, seed=0)
        assert 850 * number < sum(read) < 960 * number
        assert len(staged.adapters) == number
        assert not any("lora" in parameter for parameter, _ in staged.base.lm.named_parameters())
    assert list(staged.logs) == ["one", "two"]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-one", "checkpoint-two"]
    # The second stage starts where the first ended, and the merged decoder is where the second did.
    first, second = staged.logs["one"], staged.logs["two"]
    assert second["held_out_nats_before"] == pytest.approx(first["held_out_nats"], abs=1e-4)
    merged = objective_on(staged.base)
    assert held_out_loss(merged, histories, batch=4) == pytest.approx(second["held_out_nats"], abs=1e-4)
    assert staged.seconds == pytest.approx(float(str(first["seconds"])) + float(str(second["seconds"])))


class _Drawn(Objective):
    """A loss that is drawn, as masks and dropout are; a window counts as its items."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows.rows)

    def forward(self, windows: HistoryBatch) -> Tensor:
        drawn: Tensor = self.dropout(torch.ones(64)).mean()
        return drawn + windows.rows.float().mean()


def test_the_held_out_loss_is_of_the_same_draws_every_time(histories: SerialisedHistories) -> None:
    objective = _Drawn().eval()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    whole = held_out_loss(objective, histories, batch=100)
    assert torch.equal(torch.random.get_rng_state(), state), "training draws on as if nobody had looked"
    torch.manual_seed(4)
    assert held_out_loss(objective, histories, batch=100) == whole
    assert not objective.training
    exact = float(histories.held_out.rows.float().mean())
    assert whole == pytest.approx(exact + 1, abs=0.5)
    assert whole != exact + 1, "dropout is on: what differs by it alone could not be told apart else"


def test_held_out_losses_weigh_targets_not_batches(histories: SerialisedHistories) -> None:
    objective = _Drawn()
    objective.dropout = nn.Dropout(0.0)
    losses = [held_out_loss(objective, histories, batch=batch) for batch in (1, 2, 100)]
    assert losses == pytest.approx([losses[0]] * 3)
