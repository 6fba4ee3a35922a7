"""Packed rows give what a stock attention gives one by one: values, gradients, and continued rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from model_store.encoders.decoder import build_decoder, read_row
from model_store.encoders.packed_attention import ATTENTION, Packed

LENGTHS = (7, 7, 3, 11, 1, 1, 9)


@pytest.fixture
def lm(architecture: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_decoder(architecture, torch.float32).eval()


@pytest.fixture
def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(length, 32, generator=generator) for length in LENGTHS]


def _packed(lm: PreTrainedModel, rows: Sequence[Tensor], packed: Packed, known: Sequence[int] | None = None) -> Tensor:
    starts = known or [0] * len(rows)
    positions = torch.cat([torch.arange(t, t + len(row)) for t, row in zip(starts, rows, strict=True)])
    return read_row(lm, torch.cat(list(rows)), positions, packed)


def _stock(lm: PreTrainedModel, rows: Sequence[Tensor], attention: str) -> Tensor:
    lm.set_attn_implementation(attention)
    try:
        return torch.cat([lm(inputs_embeds=row[None], use_cache=False).last_hidden_state[0] for row in rows])
    finally:
        lm.set_attn_implementation(ATTENTION)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_one_by_one(lm: PreTrainedModel, rows: list[Tensor], attention: str) -> None:
    with torch.no_grad():
        packed = _packed(lm, rows, Packed(LENGTHS))
        torch.testing.assert_close(packed, _stock(lm, rows, attention), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"], indirect=True)
def test_a_window_is_seen_by_the_result(rows: list[Tensor], architecture: dict[str, Any]) -> None:
    torch.manual_seed(0)
    narrow = build_decoder(architecture, torch.float32).eval()
    torch.manual_seed(0)
    wide = build_decoder(architecture | {"sliding_window": 100}, torch.float32).eval()
    with torch.no_grad():
        difference = (_packed(narrow, rows[3:4], Packed([11])) - _packed(wide, rows[3:4], Packed([11]))).abs()
    assert float(difference[:4].max()) == 0
    assert float(difference[-1].max()) > 1e-3


def test_gradients_equal_one_by_one(lm: PreTrainedModel, rows: list[Tensor]) -> None:
    weights = torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(3))
    inputs = [row.clone().requires_grad_() for row in rows]
    torch.autograd.backward((_packed(lm, inputs, Packed(LENGTHS)) * weights).sum())
    packed = _gradients(lm, inputs)
    inputs = [row.clone().requires_grad_() for row in rows]
    torch.autograd.backward((_stock(lm, inputs, "sdpa") * weights).sum())
    stock = _gradients(lm, inputs)
    assert packed.keys() == stock.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, stock[name], atol=2e-4, rtol=1e-4, msg=name)


def _gradients(lm: PreTrainedModel, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    named = [*lm.named_parameters(), *((f"input {i}", x) for i, x in enumerate(inputs))]
    gradients = {name: x.grad.clone() for name, x in named if x.grad is not None}
    lm.zero_grad()
    assert len(gradients) > len(inputs)
    return gradients


@torch.no_grad()
def test_continued_rows_equal_whole_ones(lm: PreTrainedModel, rows: list[Tensor]) -> None:
    whole = torch.split(_packed(lm, rows, Packed(LENGTHS)), list(LENGTHS))
    heads = [row[: len(row) // 2] for row in rows if len(row) > 1]
    first = Packed([len(head) for head in heads], keep=True)
    _packed(lm, heads, first)
    pasts = _pasts(first)
    mixed_pasts: list[list[Tensor] | None] = []
    news, known = [], []
    for row in rows:
        past = pasts.pop(0) if len(row) > 1 else None
        mixed_pasts.append(past)
        known.append(0 if past is None else past[0].shape[2])
        news.append(row[known[-1] :])
    before = [[layer.clone() for layer in past] for past in mixed_pasts if past is not None]
    lengths = [len(new) for new in news]
    tails = torch.split(_packed(lm, news, Packed(lengths, mixed_pasts), known), lengths)
    for tail, expected in zip(tails, whole, strict=True):
        torch.testing.assert_close(tail, expected[-len(tail) :], atol=2e-6, rtol=1e-5)
    after = [past for past in mixed_pasts if past is not None]
    for one, other in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _pasts(packed: Packed) -> list[list[Tensor]]:
    layers = [packed.new[layer] for layer in sorted(packed.new)]
    starts = torch.tensor([0, *packed.lengths]).cumsum(0).tolist()
    spans = [slice(a, b) for a, b in pairwise(starts)]
    return [[torch.stack([x[:, span] for x in layer]) for layer in layers] for span in spans]


@pytest.mark.parametrize("causal", [True, False])
def test_the_last_token_reaches_the_first_state_only_without_causality(
    lm: PreTrainedModel, rows: list[Tensor], causal: bool
) -> None:
    row = rows[2]  # shorter than every window
    changed = torch.cat((row[:-1], row[-1:] + 1))
    with torch.no_grad():
        states = [_packed(lm, [x], Packed([len(x)], causal=causal)) for x in (row, changed)]
    assert torch.equal(states[0][0], states[1][0]) is causal


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("architecture", ["mistral", "gemma3"], indirect=True)
def test_a_window_reaches_tokens_at_a_distance_below_it(
    architecture: dict[str, Any], rows: list[Tensor], causal: bool
) -> None:
    """One sliding layer: the state in the middle hears of exactly the tokens that the definition names."""
    one = architecture | {"num_hidden_layers": 1}
    if "layer_types" in one:
        one["layer_types"] = ["sliding_attention"]
    torch.manual_seed(0)
    lm = build_decoder(one, torch.float32).eval()
    row, middle, window = rows[3], 5, one["sliding_window"]
    with torch.no_grad():
        before = _packed(lm, [row], Packed([len(row)], causal=causal))[middle]
        heard = []
        for token in range(len(row)):
            changed = row.clone()
            changed[token] += 1
            after = _packed(lm, [changed], Packed([len(row)], causal=causal))[middle]
            if not torch.equal(before, after):
                heard.append(token)
    last = middle if causal else middle + window - 1
    assert heard == list(range(middle - window + 1, last + 1))


def test_bidirectional_rows_do_not_see_each_other(lm: PreTrainedModel, rows: list[Tensor]) -> None:
    with torch.no_grad():
        together = _packed(lm, rows, Packed(LENGTHS, causal=False))
        alone = torch.cat([_packed(lm, [row], Packed([len(row)], causal=False)) for row in rows])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)


def test_equal_neighbours_are_read_in_one_call() -> None:
    assert [(run.start, run.length, run.histories) for run in Packed(LENGTHS).runs] == [
        (0, 7, (0, 1)),
        (14, 3, (2,)),
        (17, 11, (3,)),
        (28, 1, (4, 5)),
        (30, 9, (6,)),
    ]


def _refused() -> Iterator[tuple[str, dict[str, Any]]]:
    past = [torch.zeros(2, 2, 3, 8)]
    yield "at least one new token", {"lengths": [2, 0]}
    yield "at least one new token", {"lengths": []}
    yield "1 pasts for 2 histories", {"lengths": [2, 2], "pasts": [past]}
    yield "cannot have a past", {"lengths": [2], "pasts": [past], "causal": False}


@pytest.mark.parametrize(("reason", "arguments"), _refused())
def test_impossible_rows_are_refused(reason: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=reason):
        Packed(**arguments)


def test_a_row_of_another_length_is_refused(lm: PreTrainedModel, rows: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="39 tokens, the lengths add up to 38"):
        _packed(lm, rows, Packed([*LENGTHS[:-1], LENGTHS[-1] - 1]))


def test_soft_capping_is_refused(llama: dict[str, Any]) -> None:
    gemma2 = llama | {"model_type": "gemma2", "query_pre_attn_scalar": 8}
    lm = build_decoder(gemma2, torch.float32).eval()
    with pytest.raises(ValueError, match="softcap"):
        _packed(lm, [torch.randn(4, 32)], Packed([4]))
