from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from model_store.base_models import BaseModel
from model_store.encoders.history import HistoryBatch
from model_store.token_blocks import tokenize_blocks
from offline.datasets import Interactions
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel
from offline.splits.protocols import split
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.two_views import TwoViews

WINDOWS = HistoryBatch.of([[1, 2, 3, 4], [7, 8], [20, 21, 22]])


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2, rank=4)


@pytest.fixture
def base(settings: LanguageModel) -> BaseModel:
    return settings.open()


@pytest.fixture
def histories(small_world: Interactions, base: BaseModel) -> SerialisedHistories:
    dataset = split(small_world, "last-10").dataset
    blocks = tokenize_blocks(base.tokenizer_file, [f" {text}\n" for text in item_texts(dataset.items, "{title}")])
    return SerialisedHistories(dataset, blocks, prefix=(1, 2), max_history=10)


def _views(base: BaseModel, histories: SerialisedHistories, *, attention_dropout: float = 0.0) -> TwoViews:
    return TwoViews(
        base,
        histories,
        pooling="weighted_mean",
        causal=False,
        temperature=0.5,
        attention_dropout=attention_dropout,
    )


def _largest_difference(objective: TwoViews) -> float:
    first, second = objective.views(WINDOWS).unbind()
    return float((first - second).abs().max())


@torch.no_grad()
def test_dropout_of_attention_weights_makes_the_views_differ(base: BaseModel, histories: SerialisedHistories) -> None:
    assert _largest_difference(_views(base, histories).train()) == 0, "a Llama has no dropout by itself"
    objective = _views(base, histories, attention_dropout=0.3)
    assert _largest_difference(objective.train()) > 0.01
    assert _largest_difference(objective.eval()) == 0


@torch.no_grad()
def test_dropout_of_the_adapters_makes_the_views_differ(
    settings: LanguageModel, base: BaseModel, histories: SerialisedHistories
) -> None:
    adapted = settings.with_adapters(base.lm, dropout=0.3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    objective = _views(base, histories)
    assert _largest_difference(objective.train()) > 0.01
    assert _largest_difference(objective.eval()) == 0


@torch.no_grad()
def test_the_loss_finds_a_history_s_second_view_among_all(base: BaseModel, histories: SerialisedHistories) -> None:
    objective = _views(base, histories, attention_dropout=0.3)
    assert objective.targets(WINDOWS) == 3
    torch.manual_seed(0)
    first, second = objective.views(WINDOWS).unbind()
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(3))
    torch.manual_seed(0)
    expected = cross_entropy(first @ second.T / 0.5, torch.arange(3))
    torch.testing.assert_close(objective(WINDOWS), expected)


@torch.no_grad()
def test_equal_histories_are_no_negatives_of_each_other(base: BaseModel, histories: SerialisedHistories) -> None:
    objective = _views(base, histories).eval()
    assert float(objective(WINDOWS.select([1, 1]))) == pytest.approx(0.0, abs=1e-6)
    assert float(objective(WINDOWS.select([1, 1, 2]))) < math.log(2)
