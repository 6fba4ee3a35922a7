"""LoRA whose experts are weighed by the history: a mixture in rank space, over a stock decoder.

iLoRA (Kong et al., 2024, "Customizing Language Models with Instance-wise LoRA for Sequential Recommendation") keeps E
small adapters and mixes them by a gate that reads the user's SASRec vector. In rank space the mixture is one adapter:

    y = W x + b + alpha / r* . B (repeat_interleave(g, r*) * (A x)),    r* = rank / E

rank rows e r* .. (e + 1) r* - 1 belong to expert e. At the uniform gate g = 1 / E this is plain LoRA of that rank and
that alpha. Gates differ between the tokens of one packed row, so nothing can be merged: two thin products per layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from model_store.encoders.gated_products import GatedWeights, gated_linears
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.token_row import TokenRow

# What stock decoders call the layers that read one and the same input.
READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class GatedLoraConfig(BaseModel):
    """gate: `causal`, the sequence encoder's state after each item weighs the experts for that item's tokens, and
    tokens before the first item have the gate of no history, softmax(bias); `history`, its vector of the whole history
    does it for all tokens.

    sequence: the encoder whose states the gate reads; with a residual, that is the residual's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experts: PositiveInt
    rank: PositiveInt  # of all experts together
    alpha: PositiveFloat
    gate: Literal["causal", "history"] = "causal"
    sequence: SequenceConfig

    @model_validator(mode="after")
    def _whole_experts(self) -> Self:
        if self.rank % self.experts:
            raise ValueError(f"rank = {self.rank} cannot be shared among experts = {self.experts}")
        return self

    @property
    def expert_rank(self) -> int:
        return self.rank // self.experts


class GateSwitch:
    """The gate of the forward pass that is under way; one for all layers of a decoder, and one pass at a time."""

    def __init__(self) -> None:
        self._gate_SR: Tensor | None = None

    @contextmanager
    def over(self, gate_SR: Tensor) -> Iterator[None]:
        """gate_SR: [S, rank], scaled, one row per token. RuntimeError when a pass is already under way."""
        if self._gate_SR is not None:
            raise RuntimeError("a gated forward pass is already under way: gates do not nest")
        self._gate_SR = gate_SR
        try:
            yield
        finally:
            self._gate_SR = None

    @property
    def gate_SR(self) -> Tensor:
        if self._gate_SR is None:
            raise RuntimeError("this decoder's LoRA is gated: run it inside GatedLora.over")
        return self._gate_SR


class GatedLinear(nn.Module):
    """Takes the place of a linear layer, whose weight and bias it keeps under their names.

    lora_A [R, in], lora_B [out, R], in the weight's dtype; B = 0 at the start, as in LoRA.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear, rank: int, switch: GateSwitch) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        self.lora_A = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # PEFT's
        self.switch = switch
        self.shared = SharedInput([self])

    def forward(self, x: Tensor) -> Tensor:
        """[1, S, in] -> [1, S, out]."""
        return self.shared.output(self, x)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={len(self.lora_A)}"


class SharedInput:
    """Layers that read the same input (query, key and value): the first one asked computes for all of them.

    Without effect on what comes out: a layer that is asked for another input computes anew.
    """

    def __init__(self, layers: list[GatedLinear]) -> None:
        self._layers = layers
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def output(self, layer: GatedLinear, x: Tensor) -> Tensor:
        place = next(i for i, each in enumerate(self._layers) if each is layer)
        if self._input is not x or place not in self._waiting:
            weights = [GatedWeights(each.weight, each.bias, each.lora_A, each.lora_B) for each in self._layers]
            self._input = x
            self._waiting = dict(enumerate(gated_linears(x, weights, layer.switch.gate_SR)))
        output = self._waiting.pop(place)
        if not self._waiting:
            self._input = None  # nothing of a pass outlives it
        return output


class GatedLora(nn.Module):
    """The gate network, and the adapted layers' switch. The layers themselves are the decoder's, changed in place.

    The gate is softmax(linear(LayerNorm(state))) in float32, uniform before it is trained.
    """

    def __init__(self, config: GatedLoraConfig, lm: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.sequence.dim)
        self.router = nn.Linear(config.sequence.dim, config.experts)
        nn.init.zeros_(self.router.weight)
        nn.init.zeros_(self.router.bias)
        self._switch = GateSwitch()
        for name, module in list(lm.named_modules()):
            assert not isinstance(module, GatedLinear), "a decoder is adapted once"
            if isinstance(module, nn.Linear):
                lm.set_submodule(name, GatedLinear(module, config.rank, self._switch))
        for parent in lm.modules():
            for names in READ_TOGETHER:
                found = [layer for name in names if isinstance(layer := getattr(parent, name, None), GatedLinear)]
                shared = SharedInput(found)
                for layer in found:
                    layer.shared = shared

    def gates(self, states_XD: Tensor) -> Tensor:
        """float32 [X, experts], each row sums to 1. states_XD: of the sequence encoder."""
        return torch.softmax(self.router(self.norm(states_XD.float())), dim=-1)

    @contextmanager
    def reading(self, row: TokenRow, states_XD: Tensor, dtype: torch.dtype) -> Iterator[None]:
        """The decoder's one pass over `row` happens inside.

        states_XD: `causal`, [T, D] for the row's items; `history`, [B, D] for its histories. dtype: the decoder's.
        """
        gates_XE = self.gates(states_XD)
        if self.config.gate == "history":
            lengths_B = torch.tensor(row.lengths, device=gates_XE.device)
            gates_SE = gates_XE.repeat_interleave(lengths_B, dim=0)
        else:
            # Index -1, a token before the first item, finds the last row.
            gates_SE = torch.cat((gates_XE, self.no_history_1E))[row.items_S.to(gates_XE.device)]
        with self._switch.over(self.in_rank_space(gates_SE).to(dtype)):
            yield

    @property
    def no_history_1E(self) -> Tensor:
        """float32 [1, experts]: the gate of tokens before the first item, alike for all histories."""
        return torch.softmax(self.router.bias, dim=-1)[None]

    def make_constant(self, gate_E: Tensor) -> None:
        """From now on every token has this gate: plain LoRA, which can be merged."""
        with torch.no_grad():
            self.router.weight.zero_()
            self.router.bias.copy_(gate_E.clamp_min(1e-30).log())

    def in_rank_space(self, gates_SE: Tensor) -> Tensor:
        """[S, rank]: alpha / r* times the gate of each rank row's expert."""
        r = self.config.expert_rank
        return gates_SE.repeat_interleave(r, dim=1) * (self.config.alpha / r)


def gated_layers(lm: nn.Module) -> dict[str, GatedLinear]:
    """Name in `lm` -> adapted layer."""
    return {name: module for name, module in lm.named_modules() if isinstance(module, GatedLinear)}
