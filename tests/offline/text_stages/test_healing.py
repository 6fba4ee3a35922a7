from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_store.token_blocks import tokenize_blocks
from offline.datasets import Interactions
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel
from offline.language.lm_head import lm_head
from offline.splits.protocols import split
from offline.text_stages.healing import Healed, NotHealed, heal, refuse_without_healing
from offline.text_stages.next_token import NextToken
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, TokenPlan, held_out_loss

PLAN = TokenPlan(tokens=4_000, check_tokens=1_000, batch=8, learning_rate=0.01, warmup_steps=2)


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2, rank=4, served_dtype="float32")


@pytest.fixture
def histories(small_world: Interactions, tiny_base: Path) -> SerialisedHistories:
    dataset = split(small_world, "last-10").dataset
    texts = [f" {text}\n" for text in item_texts(dataset.items, "{title}")]
    blocks = tokenize_blocks(tiny_base / "tokenizer.json", texts)
    return SerialisedHistories(dataset, blocks, prefix=(1, 2), max_history=10)


@pytest.fixture
def healed(settings: LanguageModel, histories: SerialisedHistories, tmp_path: Path) -> Healed:
    return heal(settings, histories, plan=PLAN, checkpoints=tmp_path, seed=0)


def test_a_truncated_model_learns_to_be_read_by_its_head(
    healed: Healed, settings: LanguageModel, histories: SerialisedHistories
) -> None:
    log = healed.staged.logs["healing"]
    assert healed.held_out_nats == log["held_out_nats"]
    assert healed.held_out_nats < float(str(log["held_out_nats_before"])) - 0.5
    # What comes back is the merged decoder: it has that loss, without any adapter beside it.
    base = healed.staged.base
    assert not any("lora" in name for name, _ in base.lm.named_parameters())
    objective = NextToken(base, histories, head_VH=healed.head_VH, share=PLAN.share)
    assert held_out_loss(objective, histories, batch=8) == pytest.approx(healed.held_out_nats, abs=1e-4)
    raw = settings.open()
    unhealed = NextToken(raw, histories, head_VH=lm_head(settings, raw), share=PLAN.share)
    assert held_out_loss(unhealed, histories, batch=8) == pytest.approx(log["held_out_nats_before"], abs=1e-4)


def test_a_healed_model_resumes_from_its_checkpoint(
    healed: Healed, settings: LanguageModel, histories: SerialisedHistories, tmp_path: Path
) -> None:
    again = heal(settings, histories, plan=PLAN, checkpoints=tmp_path, seed=0)
    assert again.held_out_nats == healed.held_out_nats
    for name, tensor in healed.staged.base.lm.state_dict().items():
        assert torch.equal(tensor, again.staged.base.lm.state_dict()[name]), name


def test_a_head_is_read_below_four_nats_only(settings: LanguageModel) -> None:
    staged, head = Staged.start(settings), torch.zeros(1, 1)
    Healed(staged, head, 3.99).refuse_unless_readable("mntp")
    for loss in (4.0, 17.4, float("nan")):
        with pytest.raises(NotHealed, match=r"mntp .* healing\.tokens or lm\.keep_layers"):
            Healed(staged, head, loss).refuse_unless_readable("mntp")


def test_a_reader_of_the_head_is_refused_without_healing(settings: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"mntp .* lm\.keep_layers = 2.* \[recipe\.healing\]"):
        refuse_without_healing(settings, "mntp", healing=None)
    refuse_without_healing(settings, "mntp", healing=PLAN)
    refuse_without_healing(settings.model_copy(update={"keep_layers": 3}), "mntp", healing=None)
