from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from model_store.base_models import BaseModel, encode_texts_mean
from model_store.encoders.decoder import read_row
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import tokenize_blocks
from offline.language.item_towers import CachedTower, FrozenTower, IdTower
from offline.language.language_models import LanguageModel

ITEMS, DIM = 12, 5


@pytest.fixture
def base(tiny_base: Path) -> BaseModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2, rank=4).open()


@pytest.fixture
def adapted(base: BaseModel) -> PeftModel:
    model = LanguageModel(rank=4).with_adapters(base.lm)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start: nothing would move
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def blocks(base: BaseModel) -> TokenBlocks:
    texts = [f"Item {row} a" if row % 2 else f"Item {row}" for row in range(ITEMS)]
    return tokenize_blocks(base.tokenizer_file, texts)


@pytest.fixture
def tower(base: BaseModel, adapted: PeftModel, blocks: TokenBlocks) -> CachedTower:
    torch.manual_seed(2)
    return CachedTower(base.lm, base.embedding, blocks, dim=DIM, refresh=3)


def _adapters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_the_frozen_tower_gives_unit_vectors_with_gradient_to_every_item() -> None:
    text = torch.nn.functional.normalize(torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    tower = FrozenTower(text, DIM)
    vectors = tower(torch.tensor([3]))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(ITEMS))
    torch.testing.assert_close(vectors, tower())
    (grad,) = torch.autograd.grad((vectors * torch.randn(ITEMS, DIM)).sum(), vectors)
    assert (grad.abs().sum(1) > 0).all()
    assert list(tower.state_dict()) == [f"head.{name}" for name in tower.head.state_dict()]


def test_the_id_tower_gives_unit_vectors_and_knows_how_long_an_id_vector_is() -> None:
    ids = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(0))
    ids[1] = 3 * ids[0]
    torch.manual_seed(0)
    tower = IdTower(ids, DIM, hidden=9)
    vectors = tower(torch.tensor([3]))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(ITEMS))
    (grad,) = torch.autograd.grad((vectors * torch.randn(ITEMS, DIM)).sum(), vectors)
    assert (grad.abs().sum(1) > 0).all()
    assert float((vectors[0] @ vectors[1]).detach()) < 0.9999
    # The scale of the whole matrix is another matter: a projector starts the same on any SASRec.
    torch.manual_seed(0)
    torch.testing.assert_close(IdTower(7 * ids, DIM, hidden=9)(), tower())
    assert {name for name, _ in tower.named_parameters()} == set(tower.state_dict())


def test_without_targets_every_item_is_what_the_adapted_model_makes_of_its_text(
    tower: CachedTower, base: BaseModel, blocks: TokenBlocks
) -> None:
    means = encode_texts_mean(base, blocks, token_budget=7)
    expected = torch.nn.functional.normalize(tower.head(means), dim=-1)
    torch.testing.assert_close(tower(), expected, rtol=1e-4, atol=1e-5)
    frozen = FrozenTower(means, DIM)
    frozen.head = tower.head
    torch.testing.assert_close(tower(), frozen(), rtol=1e-4, atol=1e-5)


def test_gradient_flows_through_the_targets_of_the_batch_alone(tower: CachedTower, adapted: PeftModel) -> None:
    targets = torch.tensor([4, 7, 4])
    weights = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(3))
    vectors = tower(targets)
    torch.testing.assert_close(vectors, tower(), rtol=1e-4, atol=1e-5)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(loss, list(_adapters(adapted).values()), retain_graph=True)
        return dict(zip(_adapters(adapted), found, strict=True))

    whole = gradients((vectors * weights).sum())
    of_targets = gradients((vectors[[4, 7]] * weights[[4, 7]]).sum())
    assert sum(float(grad.abs().sum()) for grad in whole.values()) > 0
    for name, grad in whole.items():
        torch.testing.assert_close(grad, of_targets[name])
    others = [row for row in range(ITEMS) if row not in (4, 7)]
    for grad in gradients((vectors[others] * weights[others]).sum()).values():
        assert float(grad.abs().max()) == 0


def test_the_cache_is_rebuilt_when_it_is_old(tower: CachedTower, adapted: PeftModel) -> None:
    rebuilt: list[int] = []
    original, step = tower._rebuild, 0

    def rebuild() -> None:
        rebuilt.append(step)
        original()

    tower._rebuild = rebuild  # type: ignore[method-assign]
    for step in range(8):
        before = tower.cache_ND.clone()
        vectors = tower(torch.tensor([0]))
        if rebuilt[-1] != step:
            # Old for all items but the target, which is new.
            torch.testing.assert_close(vectors[1:], before[1:], rtol=0, atol=0)
            assert not torch.equal(vectors[0], before[0])
        with torch.no_grad():
            for parameter in _adapters(adapted).values():
                parameter.mul_(1.1)
    assert rebuilt == [0, 3, 6]
    step = 8
    fresh = tower()
    assert rebuilt == [0, 3, 6, 8]
    torch.testing.assert_close(tower(torch.tensor([0])), fresh, rtol=1e-4, atol=1e-5)
    assert rebuilt == [0, 3, 6, 8], "a cache that was just made is not made again"


def test_a_tower_that_resumes_after_a_validation_goes_on_as_one_that_never_stopped(
    base: BaseModel, adapted: PeftModel, blocks: TokenBlocks
) -> None:
    def steps(tower: CachedTower, count: int) -> list[Tensor]:
        made = []
        for _ in range(count):
            made.append(tower(torch.tensor([0])).detach())
            with torch.no_grad():
                for parameter in _adapters(adapted).values():
                    parameter.mul_(1.1)
        return made

    def new() -> CachedTower:
        torch.manual_seed(2)
        return CachedTower(base.lm, base.embedding, blocks, dim=DIM, refresh=3)

    whole = new()
    steps(whole, 4)
    whole()
    saved: dict[str, Any] = {name: p.detach().clone() for name, p in _adapters(adapted).items()}
    expected = steps(whole, 5)
    with torch.no_grad():
        for name, parameter in _adapters(adapted).items():
            parameter.copy_(saved[name])
    for one, other in zip(steps(new(), 5), expected, strict=True):
        assert torch.equal(one, other)


def test_neither_the_language_model_nor_the_token_table_belongs_to_the_tower(tower: CachedTower) -> None:
    assert {name.partition(".")[0] for name, _ in tower.named_parameters()} == {"head"}
    assert {name.partition(".")[0] for name in tower.state_dict()} == {"head"}


@torch.no_grad()
def test_item_texts_are_read_both_ways_where_histories_are(base: BaseModel, blocks: TokenBlocks) -> None:
    """Changing an item's last token changes the state of its first one, and so the mean without it."""
    found = {}
    for causal in (True, False):
        torch.manual_seed(2)
        tower = CachedTower(base.lm, base.embedding, blocks, dim=DIM, refresh=3, causal=causal)
        found[causal] = tower()
        tokens = blocks.tokens[: int(blocks.offsets[1])].long()
        packed = Packed([len(tokens)], causal=causal)
        mean_H = read_row(base.lm, base.embedding(tokens), torch.arange(len(tokens)), packed).mean(0)
        expected = torch.nn.functional.normalize(tower.head(mean_H), dim=-1)
        torch.testing.assert_close(found[causal][0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[True], found[False], rtol=0.01)
