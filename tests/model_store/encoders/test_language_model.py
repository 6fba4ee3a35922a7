"""The vector of a history depends on that history alone, on every path that can make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from model_store.encoders.history import AllPositions, Growing, HistoryBatch, UserState
from model_store.encoders.language_model import (
    AllPositionsLanguageModelEncoder,
    GrowingLanguageModelEncoder,
    LanguageModelEncoder,
)

Make = Callable[..., LanguageModelEncoder]
SPELLINGS: list[dict[str, Any]] = [
    {"item_input": "vector"},
    {"item_input": "vector", "prefix": (), "pooling": "weighted_mean", "normalize": True},
    {"item_input": "tokens", "pooling": "mean", "head": "mlp"},
    {"item_input": "tokens+vector", "pooling": "last"},
    {"item_input": "tokens", "suffix": (4, 5)},
    {"item_input": "tokens+vector", "suffix": (4, 5), "pooling": "mean"},
    {"item_input": "tokens", "causal": False, "pooling": "weighted_mean"},
]
CAUSAL = [spelling for spelling in SPELLINGS if spelling.get("causal", True)]
ALL_POSITIONS = [spelling for spelling in CAUSAL if "suffix" not in spelling]
RESIDUAL = {
    "sequence": {"items": 40, "dim": 12, "blocks": 1, "heads": 2, "max_history": 24, "jump": 6},
    "beta": 0.5,
}


def _assert_close(vectors: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(vectors, expected, atol=3e-6, rtol=3e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_batch_of_one_and_any_order_give_the_same_vector(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make_encoder(**spelling)
    vectors_BD = encoder(histories)
    assert vectors_BD.dtype == torch.float32
    assert vectors_BD.shape == (16, 12)
    assert float(vectors_BD.std(0).min()) > 1e-3
    _assert_close(torch.cat([encoder(histories.select([b])) for b in range(16)]), vectors_BD)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5)).tolist()
    _assert_close(encoder(histories.select(order)), vectors_BD[order])


@pytest.mark.parametrize("spelling", ALL_POSITIONS)
@torch.no_grad()
def test_every_position_is_the_vector_of_its_prefix(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make_encoder(**spelling, residual=RESIDUAL)
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    prefixes = [h[: t + 1] for h in map(histories.history, range(16)) for t in range(len(h))]
    _assert_close(encoder.forward_positions(histories), encoder(HistoryBatch.of(prefixes)))


@pytest.mark.parametrize("spelling", [*CAUSAL, {"residual": RESIDUAL}])
@torch.no_grad()
def test_an_extension_equals_a_full_recompute(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make_encoder(**spelling)
    assert isinstance(encoder, GrowingLanguageModelEncoder)
    cuts = [len(histories.history(b)) // 3 for b in range(16)]
    states: list[UserState | None] = [None] * 16
    known = [b for b in range(16) if cuts[b] > 0]
    first = encoder.extend([None] * len(known), HistoryBatch.of([histories.history(b)[: cuts[b]] for b in known]))
    for b, state in zip(known, first.states, strict=True):
        states[b] = state
    grown = encoder.extend(states, HistoryBatch.of([histories.history(b)[cuts[b] :] for b in range(16)]))
    _assert_close(grown.vectors_BD, encoder(histories))
    whole = encoder.extend([None] * 16, histories)
    for extended, recomputed in zip(grown.states, whole.states, strict=True):
        assert extended is not None
        assert recomputed is not None
        assert extended.rows == recomputed.rows
        for layer, expected in zip(extended.keys_values, recomputed.keys_values, strict=True):
            _assert_close(layer, expected)


@torch.no_grad()
def test_two_continuations_of_one_state_do_not_disturb_it(make_encoder: Make) -> None:
    encoder = make_encoder(pooling="mean")
    assert isinstance(encoder, Growing)
    (state,) = encoder.extend([None], HistoryBatch.of([[3, 1, 4]])).states
    assert state is not None
    before = [kv.clone() for kv in state.keys_values]
    both = encoder.extend([state, state], HistoryBatch.of([[1, 5], [9]]))
    _assert_close(both.vectors_BD, encoder(HistoryBatch.of([[3, 1, 4, 1, 5], [3, 1, 4, 9]])))
    assert all(torch.equal(a, b) for a, b in zip(before, state.keys_values, strict=True))
    for kv in state.keys_values:
        assert kv.untyped_storage().nbytes() == kv.nbytes  # owns its memory: pins no batch


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_one_forward_of_exactly_the_batchs_tokens(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make_encoder(**spelling)
    rows: list[tuple[int, ...]] = []
    encoder.lm.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    encoder(histories)
    text = [0 if spelling["item_input"] == "vector" else 1 + row % 4 for row in histories.rows.tolist()]
    around = len(spelling.get("prefix", (1, 2, 3))) + len(spelling.get("suffix", ()))
    total = sum(text) + 16 * around + (0 if spelling["item_input"] == "tokens" else len(histories.rows))
    assert rows == [(1, total)]
    assert sum(encoder.token_counts(histories)) == total


def test_capabilities_follow_from_the_config(make_encoder: Make) -> None:
    plain, suffixed, bidirectional = make_encoder(), make_encoder(suffix=(1,)), make_encoder(causal=False)
    assert [isinstance(e, AllPositions) for e in (plain, suffixed, bidirectional)] == [True, False, False]
    assert [isinstance(e, Growing) for e in (plain, suffixed, bidirectional)] == [True, True, False]


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_a_bidirectional_first_state_sees_the_last_item(make_encoder: Make, causal: bool) -> None:
    encoder = make_encoder(causal=causal)
    states: list[Tensor] = []
    encoder.lm.register_forward_hook(lambda _module, _args, output: states.append(output.last_hidden_state[0, 0]))
    encoder(HistoryBatch.of([[1, 2, 3]]))
    encoder(HistoryBatch.of([[1, 2, 4]]))
    assert torch.equal(*states) is causal


@pytest.mark.parametrize("history", [[], list(range(25))])
def test_histories_outside_the_window_are_refused(make_encoder: Make, history: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1\.\.24"):
        make_encoder()(HistoryBatch.of([[1], history]))


def test_growing_past_the_window_is_refused(make_encoder: Make) -> None:
    encoder = make_encoder()
    assert isinstance(encoder, Growing)
    states = encoder.extend([None], HistoryBatch.of([list(range(20))])).states
    with pytest.raises(ValueError, match="more than 24 items"):
        encoder.extend(states, HistoryBatch.of([[1, 2, 3, 4, 5]]))


@torch.no_grad()
def test_the_scale_is_part_of_the_vector(make_encoder: Make, histories: HistoryBatch) -> None:
    encoder = make_encoder(normalize=True)
    encoder.scale.fill_(7.0)
    torch.testing.assert_close(encoder(histories).norm(dim=1), torch.full((16,), 7.0))


@torch.no_grad()
def test_the_residual_adds_the_sequence_encoder(make_encoder: Make, histories: HistoryBatch) -> None:
    encoder = make_encoder(residual=RESIDUAL)
    alone = encoder.project(encoder.final_read_outs(histories))
    _assert_close(encoder(histories), encoder.residual_sequence(histories) + 0.5 * alone)


def test_a_shorter_residual_is_windowed_but_has_no_positions(make_encoder: Make, histories: HistoryBatch) -> None:
    sequence = RESIDUAL["sequence"] | {"max_history": 8, "jump": 2}  # type: ignore[operator]
    encoder = make_encoder(residual={"sequence": sequence, "beta": 0.0})
    assert isinstance(encoder, AllPositions)
    with torch.no_grad():
        torch.testing.assert_close(encoder(histories), encoder.residual_sequence(histories.windowed(8, 2)))
    with pytest.raises(ValueError, match="shorter window"):
        encoder.forward_positions(histories)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spelling", SPELLINGS[1:4])
@torch.no_grad()
def test_built_on_meta_and_loaded_it_answers_the_same(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any], dtype: str
) -> None:
    original = make_encoder(**spelling, dtype=dtype, residual=RESIDUAL)
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    assert not any("embed_tokens" in name for name in state)
    assert {tensor.dtype for name, tensor in state.items() if name.startswith("head.")} == {torch.float32}
    with torch.device("meta"):
        loaded = original.config.build()
    loaded.load_state_dict(state, assign=True)
    loaded.rebuild_buffers()
    assert torch.equal(loaded.eval()(histories), original(histories))


@torch.no_grad()
def test_bfloat16_stays_near_float32(make_encoder: Make, histories: HistoryBatch) -> None:
    exact, coarse = make_encoder()(histories), make_encoder(dtype="bfloat16")(histories)
    assert float(torch.cosine_similarity(exact, coarse).min()) > 0.99


@torch.no_grad()
def test_a_bfloat16_encoder_can_compute_in_float32(make_encoder: Make, histories: HistoryBatch) -> None:
    encoder = make_encoder(item_input="tokens+vector", dtype="bfloat16")
    coarse, state = encoder(histories), encoder.state_dict()
    encoder.compute_in(torch.float32)
    widened = encoder(histories)
    exact = make_encoder(item_input="tokens+vector")
    exact.load_state_dict(state)
    assert torch.equal(widened, exact(histories))
    assert not torch.equal(widened, coarse)
    assert float(torch.cosine_similarity(widened, coarse).min()) > 0.99


@pytest.mark.parametrize("spelling", [{"item_input": "vector"}, {"item_input": "tokens+vector", "pooling": "mean"}])
def test_gradients_reach_the_item_vectors_and_equal_those_one_by_one(
    make_encoder: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make_encoder(**spelling)
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    inputs_TH = torch.randn(len(histories.rows), 32, generator=torch.Generator().manual_seed(6)).requires_grad_()
    weights_TH = torch.randn(len(histories.rows), 32, generator=torch.Generator().manual_seed(7))
    torch.autograd.backward((encoder.read_outs(histories, inputs_TH) * weights_TH).sum())
    assert inputs_TH.grad is not None
    together = inputs_TH.grad.clone()
    inputs_TH.grad = None
    for b in range(16):
        span = slice(int(histories.offsets[b]), int(histories.offsets[b + 1]))
        read_outs = encoder.read_outs(histories.select([b]), inputs_TH[span])
        torch.autograd.backward((read_outs * weights_TH[span]).sum())
    torch.testing.assert_close(together, inputs_TH.grad, atol=2e-5, rtol=1e-4)
    assert float(together.abs().min(1).values.max()) > 0


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj", "down_proj"]])
def test_lora_trains_through_the_encoder_and_merges(
    make_encoder: Make, histories: HistoryBatch, targets: str | list[str]
) -> None:
    encoder = make_encoder()
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    with torch.no_grad():
        start = encoder(histories)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets)
    adapted = get_peft_model(encoder.lm, config, autocast_adapter_dtype=False)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(8):
        vectors_TD = encoder.project(encoder.read_outs(histories))
        loss = torch.nn.functional.cross_entropy(vectors_TD, histories.rows.long() % 12)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    encoder.eval()
    with torch.no_grad():
        unmerged = encoder(histories)
        encoder.lm = adapted.merge_and_unload()
        assert not any("lora" in name for name in encoder.state_dict())
        _assert_close(encoder(histories), unmerged)
    assert float((unmerged - start).abs().max()) > 0.05
    fresh = encoder.config.build()
    fresh.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        _assert_close(fresh.eval()(histories), unmerged)
