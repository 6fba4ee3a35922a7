"""A gate per token, in rank space: what it equals, and that a history's vector still depends on that history alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import linear

from model_store.encoders.decoder import build_decoder, read_row
from model_store.encoders.gated_lora import GatedLinear, GatedLora, GatedLoraConfig, GateSwitch, gated_layers
from model_store.encoders.gated_products import GatedWeights, gated_linears
from model_store.encoders.history import AllPositions, Growing, HistoryBatch, UserState
from model_store.encoders.language_model import (
    AllPositionsLanguageModelEncoder,
    GrowingLanguageModelEncoder,
    LanguageModelEncoder,
)
from model_store.encoders.packed_attention import Packed
from model_store.encoders.sequence import SequenceConfig

Make = Callable[..., LanguageModelEncoder]
SEQUENCE = {"items": 40, "dim": 12, "blocks": 1, "heads": 2, "max_history": 24, "jump": 6}
GATED = {"experts": 3, "rank": 6, "alpha": 5.0, "sequence": SEQUENCE}
RESIDUAL = {"sequence": SEQUENCE, "beta": 0.5}
SPELLINGS: list[dict[str, Any]] = [
    {"item_input": "vector"},
    {"item_input": "vector", "residual": RESIDUAL},
    {"item_input": "tokens+vector", "pooling": "mean", "prefix": ()},
    {"item_input": "tokens", "suffix": (4, 5)},
]
ALL_POSITIONS = [spelling for spelling in SPELLINGS if "suffix" not in spelling]


@pytest.fixture
def make(make_encoder: Make) -> Make:
    """As trained: every adapter and gate has an effect."""

    def made(*, gate: str = "causal", **changes: Any) -> LanguageModelEncoder:
        encoder = make_encoder(gated_lora=GATED | {"gate": gate}, **changes)
        for layer in gated_layers(encoder.lm).values():
            nn.init.normal_(layer.lora_B, std=0.3)
        nn.init.normal_(encoder.gated_lora.router.weight)
        return encoder

    return made


def _assert_close(vectors: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(vectors, expected, atol=5e-6, rtol=5e-5)


def _layer(rank: int = 6) -> GatedLinear:
    torch.manual_seed(0)
    layer = GatedLinear(nn.Linear(5, 7), rank, GateSwitch())
    nn.init.normal_(layer.lora_B)
    return layer


def _module(lm: nn.Module | None = None, **changes: Any) -> GatedLora:
    return GatedLora(GatedLoraConfig.model_validate(GATED | changes), lm or nn.Module())


@torch.no_grad()
def test_the_uniform_gate_is_peft_s_lora(architecture: dict[str, Any]) -> None:
    torch.manual_seed(0)
    lm, theirs = build_decoder(architecture, torch.float32).eval(), build_decoder(architecture, torch.float32).eval()
    theirs.load_state_dict(lm.state_dict())
    settings = LoraConfig(r=6, lora_alpha=5, lora_dropout=0.0, target_modules="all-linear")
    adapted = get_peft_model(theirs, settings, autocast_adapter_dtype=False)
    ours = _module(lm)
    layers = gated_layers(lm)
    for name, layer in layers.items():
        nn.init.normal_(layer.lora_B, std=0.3)
        peft_layer = adapted.base_model.model.get_submodule(name)
        peft_layer.lora_A["default"].weight.copy_(layer.lora_A)
        peft_layer.lora_B["default"].weight.copy_(layer.lora_B)
    assert len(layers) == sum("lora_A" in name for name, _ in adapted.named_parameters()) >= 14
    inputs_SH, positions_S = torch.randn(9, 32), torch.cat((torch.arange(4), torch.arange(5)))
    expected = read_row(theirs, inputs_SH, positions_S, Packed([4, 5]))
    with ours._switch.over(ours.in_rank_space(ours.gates(torch.randn(9, 12)))):  # untrained: uniform
        _assert_close(read_row(lm, inputs_SH, positions_S, Packed([4, 5])), expected)


@torch.no_grad()
def test_the_mixture_is_the_sum_over_experts() -> None:
    layer, module = _layer(), _module()
    x_SI, gates_SE = torch.randn(4, 5), torch.rand(4, 3)
    expected = linear(x_SI, layer.weight, layer.bias)
    for expert in range(3):
        rows = slice(2 * expert, 2 * expert + 2)
        low = x_SI @ layer.lora_A[rows].T @ layer.lora_B[:, rows].T
        expected = expected + gates_SE[:, expert, None] * (5.0 / 2) * low
    with layer.switch.over(module.in_rank_space(gates_SE)):
        _assert_close(layer(x_SI[None])[0], expected)


@torch.no_grad()
def test_experts_and_gate_columns_permuted_together_change_nothing(make: Make, histories: HistoryBatch) -> None:
    encoder = make()
    before = encoder(histories)
    order = torch.tensor([2, 0, 1])
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    for layer in gated_layers(encoder.lm).values():
        layer.lora_A.copy_(layer.lora_A[rows])
        layer.lora_B.copy_(layer.lora_B[:, rows])
    assert not torch.allclose(encoder(histories), before, atol=1e-3)  # the gates still name the old experts
    router = encoder.gated_lora.router
    router.weight.copy_(router.weight[order])
    router.bias.copy_(router.bias[order])
    _assert_close(encoder(histories), before)


@pytest.mark.parametrize("widths", [(7,), (3, 7, 2)])
def test_outputs_and_gradients_are_those_of_the_formula(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    fixed = [(drawn(out, 5).detach(), None if out == 3 else drawn(out).detach()) for out in widths]
    x, gate, *thin = drawn(1, 4, 5), drawn(4, 6), *(half for out in widths for half in (drawn(6, 5), drawn(out, 6)))

    def products(x: Tensor, gate: Tensor, *thin: Tensor) -> tuple[Tensor, ...]:
        layers = [GatedWeights(*layer, *thin[2 * i : 2 * i + 2]) for i, layer in enumerate(fixed)]
        return gated_linears(x, layers, gate)

    for i, output in enumerate(products(x, gate, *thin)):
        a, b = thin[2 * i : 2 * i + 2]
        torch.testing.assert_close(output, linear(x, *fixed[i]) + ((x @ a.T) * gate) @ b.T)
    assert torch.autograd.gradcheck(products, (x, gate, *thin))


@torch.no_grad()
def test_layers_that_read_one_input_compute_together_and_keep_nothing(llama: dict[str, Any]) -> None:
    lm = build_decoder(llama, torch.float32)
    module = _module(lm)
    attention = lm.layers[0].self_attn
    assert attention.q_proj.shared is attention.k_proj.shared is attention.v_proj.shared
    assert attention.o_proj.shared is not attention.q_proj.shared
    for layer in gated_layers(lm).values():
        nn.init.normal_(layer.lora_B)
    one, other = torch.randn(1, 4, 32), torch.randn(1, 4, 32)
    with module._switch.over(torch.rand(4, 6)):
        alone = [attention.q_proj(x) for x in (one, other)]  # the second input comes before k and v were asked
        for x, expected in ((one, alone[0]), (other, alone[1]), (one, alone[0])):
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                output = projection(x)
                assert projection is not attention.q_proj or torch.equal(output, expected)
    assert attention.q_proj.shared._input is None
    assert attention.q_proj.shared._waiting == {}


@pytest.mark.parametrize("gate", ["causal", "history"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_a_batch_of_one_and_any_order_give_the_same_vector(
    make: Make, histories: HistoryBatch, spelling: dict[str, Any], gate: str
) -> None:
    encoder = make(**spelling, gate=gate)
    vectors_BD = encoder(histories)
    _assert_close(torch.cat([encoder(histories.select([b])) for b in range(16)]), vectors_BD)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5)).tolist()
    _assert_close(encoder(histories.select(order)), vectors_BD[order])


@pytest.mark.parametrize("spelling", ALL_POSITIONS)
@torch.no_grad()
def test_every_position_is_the_vector_of_its_prefix(
    make: Make, histories: HistoryBatch, spelling: dict[str, Any]
) -> None:
    encoder = make(**spelling)
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    prefixes = [h[: t + 1] for h in map(histories.history, range(16)) for t in range(len(h))]
    _assert_close(encoder.forward_positions(histories), encoder(HistoryBatch.of(prefixes)))


@torch.no_grad()
def test_the_next_item_changes_no_vector_before_it(make: Make) -> None:
    encoder = make(residual=RESIDUAL)
    assert isinstance(encoder, AllPositions)
    one, other = (encoder.forward_positions(HistoryBatch.of([[3, 1, 4, 1, last, 9]])) for last in (5, 6))
    _assert_close(one[:4], other[:4])
    assert float((one[4:] - other[4:]).abs().max(1).values.min()) > 1e-2


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_an_extension_equals_a_full_recompute(make: Make, histories: HistoryBatch, spelling: dict[str, Any]) -> None:
    encoder = make(**spelling)
    assert isinstance(encoder, GrowingLanguageModelEncoder)
    cuts = [len(histories.history(b)) // 3 for b in range(16)]
    states: list[UserState | None] = [None] * 16
    known = [b for b in range(16) if cuts[b] > 0]
    first = encoder.extend([None] * len(known), HistoryBatch.of([histories.history(b)[: cuts[b]] for b in known]))
    for b, state in zip(known, first.states, strict=True):
        states[b] = state
    grown = encoder.extend(states, HistoryBatch.of([histories.history(b)[cuts[b] :] for b in range(16)]))
    _assert_close(grown.vectors_BD, encoder(histories))
    for extended, recomputed in zip(grown.states, encoder.extend([None] * 16, histories).states, strict=True):
        assert extended is not None
        assert recomputed is not None
        for layer, expected in zip(extended.keys_values, recomputed.keys_values, strict=True):
            _assert_close(layer, expected)


def test_a_whole_history_s_gate_allows_neither_positions_nor_growth(make: Make) -> None:
    causal, whole = make(), make(gate="history")
    assert [isinstance(e, AllPositions) for e in (causal, whole)] == [True, False]
    assert [isinstance(e, Growing) for e in (causal, whole)] == [True, False]


@torch.no_grad()
def test_the_gate_reads_the_history_and_the_prefix_has_that_of_none(make: Make, histories: HistoryBatch) -> None:
    encoder = make()
    seen: list[Tensor] = []
    encoder.lm.register_forward_pre_hook(lambda *_: seen.append(encoder.gated_lora._switch.gate_SR.clone()))
    encoder(histories.select([0]))
    (gate_SR,) = seen
    assert gate_SR.shape == (3 + 5, 6)
    torch.testing.assert_close(gate_SR[:3, ::2], 5.0 / 2 * encoder.gated_lora.no_history_1E.expand(3, 3))
    assert encoder.sequence is not None
    states_TD = encoder.sequence.forward_positions(histories.select([0]))
    torch.testing.assert_close(gate_SR[3:, ::2], 5.0 / 2 * encoder.gated_lora.gates(states_TD))
    assert torch.equal(gate_SR[:, ::2], gate_SR[:, 1::2])
    assert float(gate_SR[3:].std(0).min()) > 0.01


def test_gates_do_not_nest_and_are_needed() -> None:
    layer, gate_SR = _layer(), torch.rand(4, 6)
    with pytest.raises(RuntimeError, match=r"inside GatedLora\.over"):
        layer(torch.randn(1, 4, 5))
    with layer.switch.over(gate_SR), pytest.raises(RuntimeError, match="do not nest"), layer.switch.over(gate_SR):
        pass
    with pytest.raises(KeyError), layer.switch.over(gate_SR):
        raise KeyError
    with layer.switch.over(gate_SR):  # free again
        layer(torch.randn(1, 4, 5))
        with pytest.raises(AssertionError, match="gate for 4 tokens"):
            layer(torch.randn(1, 3, 5))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.no_grad()
def test_built_on_meta_and_loaded_it_answers_the_same(make: Make, histories: HistoryBatch, dtype: str) -> None:
    for changes in ({}, {"residual": RESIDUAL}):
        original = make(dtype=dtype, **changes)
        state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
        assert sum(name.endswith("items.weight") for name in state) == 1  # one sequence encoder, not two
        assert {t.dtype for name, t in state.items() if name.startswith("gated_lora.")} == {torch.float32}
        with torch.device("meta"):
            loaded = original.config.build()
        loaded.load_state_dict(state, assign=True)
        loaded.rebuild_buffers()
        assert torch.equal(loaded.eval()(histories), original(histories))
        if dtype == "bfloat16":
            loaded.compute_in(torch.float32)
            assert float(torch.cosine_similarity(loaded(histories), original(histories)).min()) > 0.98


def test_what_cannot_be_is_refused(make: Make) -> None:
    with pytest.raises(ValidationError, match="rank = 6 cannot be shared among experts = 4"):
        _module(experts=4)
    short = SequenceConfig(**(SEQUENCE | {"max_history": 8}))  # type: ignore[arg-type]
    config = make().config
    values = config.model_dump()
    with pytest.raises(ValidationError, match="reads 8 items, max_history is 24"):
        type(config).model_validate(values | {"gated_lora": GATED | {"sequence": short}})
    with pytest.raises(ValidationError, match="must be equal"):
        type(config).model_validate(values | {"residual": {"sequence": SEQUENCE | {"blocks": 2}, "beta": 1.0}})
