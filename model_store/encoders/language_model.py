"""A decoder language model over a history: item tokens and / or injected item vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_store.encoders.decoder import (
    build_decoder,
    cast_decoder,
    has_sliding_window,
    read_row,
    rebuild_buffers,
    take_embedding,
)
from model_store.encoders.gated_lora import GatedLora, GatedLoraConfig
from model_store.encoders.history import Encoded, HistoryBatch, QueryEncoder, UserState
from model_store.encoders.packed_attention import Packed
from model_store.encoders.pooling import Pooled, Pooling, pool, pool_running
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from model_store.encoders.token_row import ItemTokens, Spelling, TokenRow, lay_out, sums

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from model_store.base_models import BaseModel as BaseLanguageModel
    from model_store.token_blocks import CompactVocabulary

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ResidualConfig(BaseModel):
    """u = u_sequence + beta * u_language_model; with beta = 0 it is the sequence encoder it stands beside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: SequenceConfig
    beta: float


class LanguageModelConfig(BaseModel):
    """A history reads [prefix] item blocks [suffix]; a block is the item's text tokens, its vector, or both in turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["language_model"] = "language_model"
    lm: dict[str, Any]  # the transformers config, kept layers already in num_hidden_layers
    items: PositiveInt
    dim: PositiveInt
    max_history: PositiveInt
    jump: PositiveInt
    item_input: Literal["vector", "tokens", "tokens+vector"]
    vocabulary: NonNegativeInt = 0  # rows of the token table: only tokens that items use
    item_tokens: NonNegativeInt = 0  # tokens of all item blocks together
    prefix: tuple[int, ...] = ()  # token ids before the first item
    suffix: tuple[int, ...] = ()  # token ids after the last item; forbids reading all positions
    pooling: Pooling = "last"
    causal: bool = True
    # Bidirectional windows have two definitions in transformers: this one, and distance <= window.
    bidirectional_window: Literal["distance < window"] | None = None
    head: Literal["linear", "mlp"] = "linear"  # LayerNorm + linear | LayerNorm + two-layer GELU MLP
    normalize: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the LM; head and pooling are float32
    residual: ResidualConfig | None = None
    gated_lora: GatedLoraConfig | None = None

    @model_validator(mode="after")
    def _one_sequence_encoder(self) -> Self:
        gated = self.gated_lora
        if gated is None:
            return self
        if gated.sequence.max_history < self.max_history:
            raise ValueError(
                f"gated_lora.sequence reads {gated.sequence.max_history} items, max_history is {self.max_history}"
            )
        if self.residual is not None and self.residual.sequence != gated.sequence:
            raise ValueError("residual.sequence and gated_lora.sequence are one encoder: they must be equal")
        return self

    @model_validator(mode="after")
    def _window_is_defined(self) -> Self:
        slides = not self.causal and has_sliding_window(self.lm)
        if slides != (self.bidirectional_window is not None):
            raise ValueError(
                "bidirectional_window is for causal = false with a sliding window, and must be stated then"
            )
        return self

    def build(self, lm: PreTrainedModel | None = None) -> LanguageModelEncoder:
        """The class says what the encoder can do. lm: a decoder to take over instead of building one."""
        whole_gate = self.gated_lora is not None and self.gated_lora.gate == "history"
        if not self.causal or whole_gate:
            return LanguageModelEncoder(self, lm)
        return GrowingLanguageModelEncoder(self, lm) if self.suffix else AllPositionsLanguageModelEncoder(self, lm)


def encoder_on(
    config: LanguageModelConfig,
    base: BaseLanguageModel,
    *,
    items: CompactVocabulary | None = None,
) -> LanguageModelEncoder:
    """An encoder for training that takes over `base.lm` and fills its frozen inputs from the base's token table.

    items: the item blocks' tokens where items are text. The item vectors stay zero: training hands its own in, and
    the export fills `item_inputs`.
    """
    if items is not None:
        sizes = {"vocabulary": len(items.kept), "item_tokens": len(items.blocks.tokens)}
        config = config.model_copy(update=sizes)
    encoder = config.build(base.lm)
    with torch.no_grad():
        encoder.prefix_inputs.copy_(base.embedding(torch.tensor(config.prefix, dtype=torch.int64)))
        encoder.suffix_inputs.copy_(base.embedding(torch.tensor(config.suffix, dtype=torch.int64)))
        if items is not None:
            encoder.token_inputs.copy_(base.embedding(items.kept))
            encoder.item_tokens.tokens.copy_(items.blocks.tokens)
            encoder.item_tokens.offsets.copy_(items.blocks.offsets)
    return encoder


class LanguageModelEncoder(QueryEncoder):
    """Frozen inputs are buffers, in the LM's input space and dtype; `lm`, `head` and `scale` are what trains.

    prefix_inputs [P, H], suffix_inputs [S, H]; item_inputs [N, H] where items are vectors; token_inputs [V, H] and
    item_tokens where they are text. The query vector is scale * (normalised) head(read-out): the learnt temperature
    is part of it.
    """

    prefix_inputs: Tensor
    suffix_inputs: Tensor
    item_inputs: Tensor
    token_inputs: Tensor

    def __init__(self, config: LanguageModelConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config: LanguageModelConfig = config
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump
        dtype = _DTYPES[config.dtype]
        self.lm = build_decoder(config.lm, dtype) if lm is None else lm
        take_embedding(self.lm)
        H = int(self.lm.config.hidden_size)
        self.spelling = Spelling(len(config.prefix), len(config.suffix), config.item_input != "tokens")
        self.register_buffer("prefix_inputs", torch.zeros(len(config.prefix), H, dtype=dtype))
        self.register_buffer("suffix_inputs", torch.zeros(len(config.suffix), H, dtype=dtype))
        if config.item_input != "tokens":
            self.register_buffer("item_inputs", torch.zeros(config.items, H, dtype=dtype))
        if config.item_input != "vector":
            self.register_buffer("token_inputs", torch.zeros(config.vocabulary, H, dtype=dtype))
            self.item_tokens = ItemTokens(config.items, config.item_tokens)
        self.head = _head(config.head, H, config.dim)
        self.scale = nn.Parameter(torch.ones(()))
        if config.residual is not None:
            self.residual_sequence = config.residual.sequence.build()
        if config.gated_lora is not None:
            self.gated_lora = GatedLora(config.gated_lora, self.lm)
            if config.residual is None:
                self.gate_sequence = config.gated_lora.sequence.build()

    @property
    def sequence(self) -> SequenceEncoder | None:
        """The sequence encoder inside: of the residual, of the gates, or of both."""
        found: SequenceEncoder | None = getattr(self, "residual_sequence", getattr(self, "gate_sequence", None))
        return found

    def forward(self, histories: HistoryBatch) -> Tensor:
        gate_XD = self.gate_states(histories)
        return self._query_vectors(histories, self.final_read_outs(histories, gate_XD=gate_XD), gate_XD)

    def gate_states(self, histories: HistoryBatch) -> Tensor | None:
        """What the gates read: [T, D] after every item, [B, D] where the gate is of whole histories; None: no gate."""
        if self.config.gated_lora is None:
            return None
        assert self.sequence is not None
        if self.config.gated_lora.gate == "causal":
            return self.sequence.forward_positions(histories)
        states_BD: Tensor = self.sequence(histories)
        return states_BD

    def final_read_outs(
        self, histories: HistoryBatch, item_inputs_TH: Tensor | None = None, *, gate_XD: Tensor | None = None
    ) -> Tensor:
        """float32 [B, H]: the pooled LM state of each whole history; the arguments as in `read_outs`."""
        row = self._row(histories)
        packed = Packed(row.lengths, causal=self.config.causal)
        states_SH = self._read(histories, row, item_inputs_TH, packed=packed, gate_XD=gate_XD)
        return torch.stack([self._pooled(states_SH, row, b)[0] for b in range(len(histories))])

    def project(self, read_outs_XH: Tensor) -> Tensor:
        """float32 [X, H] -> [X, D]: head, normalisation, scale; not the residual."""
        vectors_XD: Tensor = self.head(read_outs_XH)
        if self.config.normalize:
            vectors_XD = normalize(vectors_XD, dim=-1)
        return vectors_XD * self.scale

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        """Without laying out a row: a service asks for every request, also for those that it then refuses."""
        around = self.spelling.prefix + self.spelling.suffix
        if self.config.item_input == "vector":
            return [around + length for length in histories.lengths.tolist()]
        block_T = self.item_tokens.lengths(histories.rows) + int(self.spelling.item_vector)
        return [around + tokens for tokens in sums(block_T, histories.offsets).tolist()]

    def compute_in(self, dtype: torch.dtype) -> None:
        """Cast the LM and its inputs in place; head and pooling stay float32, config.dtype says what was trained.

        A bfloat16 bundle on a CPU without bfloat16 arithmetic is several times faster in float32, and as exact.
        """
        cast_decoder(self.lm, dtype)
        for name, buffer in list(self.named_buffers(recurse=False)):
            setattr(self, name, buffer.to(dtype))

    def rebuild_buffers(self) -> None:
        rebuild_buffers(self.lm, self.scale.device)

    def _query_vectors(self, histories: HistoryBatch, read_outs_BH: Tensor, gate_XD: Tensor | None = None) -> Tensor:
        vectors_BD = self.project(read_outs_BH)
        residual = self.config.residual
        if residual is None:
            return vectors_BD
        if gate_XD is not None:  # read already: the gates and the residual share their encoder
            ends_B = (histories.offsets[1:] - 1).to(gate_XD.device)
            sequence_BD = gate_XD if len(gate_XD) == len(ends_B) else gate_XD[ends_B]
        else:
            sequence = self.residual_sequence
            sequence_BD = sequence(histories.windowed(sequence.max_history, sequence.jump))
        return sequence_BD + residual.beta * vectors_BD

    def _row(self, histories: HistoryBatch, known: Sequence[int] | None = None) -> TokenRow:
        lengths = histories.lengths
        if len(histories) == 0 or not 1 <= int(lengths.min()) <= int(lengths.max()) <= self.max_history:
            raise ValueError(f"history lengths must lie in 1..{self.max_history}")
        if self.config.item_input == "vector":
            text_T = torch.zeros(len(histories.rows), dtype=torch.int64)
        else:
            text_T = self.item_tokens.lengths(histories.rows)
        return lay_out(histories, text_T, spelling=self.spelling, known=known)

    def _read(
        self,
        histories: HistoryBatch,
        row: TokenRow,
        item_inputs_TH: Tensor | None,
        *,
        packed: Packed,
        gate_XD: Tensor | None = None,
    ) -> Tensor:
        """One forward pass of exactly the row's tokens: states [S, H]."""
        device, dtype = self.prefix_inputs.device, self.prefix_inputs.dtype
        sources = [self.prefix_inputs, self.suffix_inputs]
        if self.spelling.item_vector:
            table = self.item_inputs[histories.rows.to(device).long()] if item_inputs_TH is None else item_inputs_TH
            sources.append(table.to(dtype))
        if self.config.item_input != "vector":
            sources.append(self.token_inputs[self.item_tokens.of(histories.rows).to(device)])
        inputs_SH = torch.cat(sources).index_select(0, row.sources_S.to(device))
        if self.config.gated_lora is None:
            return read_row(self.lm, inputs_SH, row.positions_S.to(device), packed)
        states_XD = self.gate_states(histories) if gate_XD is None else gate_XD
        assert states_XD is not None
        with self.gated_lora.reading(row, states_XD, dtype):
            return read_row(self.lm, inputs_SH, row.positions_S.to(device), packed)

    def _pooled(
        self, states_SH: Tensor, row: TokenRow, history: int, before: Pooled | None = None
    ) -> tuple[Tensor, Pooled | None]:
        """`last` reads the suffix's end where there is one; means are over the items' tokens."""
        if self.config.pooling == "last":
            return states_SH[row.starts[history] + row.lengths[history] - 1].float(), None
        return pool(states_SH[row.item_span(history)], self.config.pooling, before=before)


class GrowingLanguageModelEncoder(LanguageModelEncoder):
    """Causal: what was read of a history stays right when it grows. The suffix runs after it and is never kept."""

    @torch.no_grad()
    def extend(self, states: Sequence[UserState | None], new: HistoryBatch) -> Encoded:
        """Vectors and states of (rows of states[b]) ++ new[b]; None stands for no known prefix. Changes no state.

        ValueError unless every new[b] has an item and no history passes max_history.
        """
        known = [0 if state is None else state.tokens for state in states]
        row = self._row(new, known)
        whole = HistoryBatch.of([_rows(state) + tuple(new.history(b).tolist()) for b, state in enumerate(states)])
        if int(whole.lengths.max()) > self.max_history:
            raise ValueError(f"a history of more than {self.max_history} items")
        gate_TD = self.gate_states(whole)
        pasts = [None if state is None else state.keys_values for state in states]
        packed = Packed(row.lengths, pasts, keep=True)
        new_gate_TD = None if gate_TD is None else gate_TD[_last_of_each(whole, new.lengths).to(gate_TD.device)]
        hidden_SH = self._read(new, row, None, packed=packed, gate_XD=new_gate_TD)
        read_outs, grown = [], []
        for b, state in enumerate(states):
            before = None
            if state is not None and state.pooled_H is not None:
                before = Pooled(state.pooled_H, state.tokens - self.spelling.prefix)
            read_out_H, after = self._pooled(hidden_SH, row, b, before)
            read_outs.append(read_out_H)
            grown.append(_grown(state, new.history(b), packed, row.kept_span(b), after))
        return Encoded(self._query_vectors(whole, torch.stack(read_outs), gate_TD), tuple(grown))


class AllPositionsLanguageModelEncoder(GrowingLanguageModelEncoder):
    """Causal and without suffix: one pass reads a query vector after every item."""

    def forward_positions(self, histories: HistoryBatch) -> Tensor:
        """float32 [total, D]; position t of history b equals `forward` of its first t + 1 items."""
        gate_TD = self.gate_states(histories)
        vectors_TD = self.project(self.read_outs(histories, gate_XD=gate_TD))
        residual = self.config.residual
        if residual is None:
            return vectors_TD
        if gate_TD is not None:
            return gate_TD + residual.beta * vectors_TD
        if self.residual_sequence.max_history < int(histories.lengths.max()):
            raise ValueError("the residual's sequence encoder has a shorter window: positions would not be prefixes")
        return self.residual_sequence.forward_positions(histories) + residual.beta * vectors_TD

    def read_outs(
        self, histories: HistoryBatch, item_inputs_TH: Tensor | None = None, *, gate_XD: Tensor | None = None
    ) -> Tensor:
        """float32 [total, H]: the pooled LM state after every item, before the head.

        item_inputs_TH: the input vector of every event (T = total), for training; by default rows of `item_inputs`.
        gate_XD: what the gates read instead of `gate_states`, for training.
        """
        row = self._row(histories)
        states_SH = self._read(histories, row, item_inputs_TH, packed=Packed(row.lengths), gate_XD=gate_XD)
        ends_T = row.item_ends_T
        if self.config.pooling == "last":
            return states_SH.index_select(0, ends_T.to(states_SH.device)).float()
        ends = torch.split(ends_T.to(states_SH.device), histories.lengths.tolist())
        return torch.cat(
            [
                pool_running(states_SH[row.item_span(b)], ends_t - row.item_starts[b], self.config.pooling)
                for b, ends_t in enumerate(ends)
            ]
        )


def _rows(state: UserState | None) -> tuple[int, ...]:
    return () if state is None else state.rows


def _last_of_each(whole: HistoryBatch, counts_B: Tensor) -> Tensor:
    """Places of the last counts_B[b] items of each history in `whole.rows`."""
    from_end_T = torch.repeat_interleave(whole.offsets[1:], whole.lengths) - torch.arange(len(whole.rows))
    return (from_end_T <= torch.repeat_interleave(counts_B, whole.lengths)).nonzero().flatten()


def _grown(state: UserState | None, new_rows: Tensor, packed: Packed, span: slice, pooled: Pooled | None) -> UserState:
    """Stacking copies, so the state pins no batch."""
    keys_values = []
    for layer in sorted(packed.new):
        read = torch.stack([x[:, span] for x in packed.new[layer]])
        keys_values.append(read if state is None else torch.cat((state.keys_values[layer], read), dim=2))
    rows = _rows(state) + tuple(new_rows.tolist())
    return UserState(rows, tuple(keys_values), None if pooled is None else pooled.sum_H)


def _head(kind: Literal["linear", "mlp"], H: int, dim: int) -> nn.Sequential:
    if kind == "linear":
        return nn.Sequential(nn.LayerNorm(H), nn.Linear(H, dim))
    return nn.Sequential(nn.LayerNorm(H), nn.Linear(H, H), nn.GELU(), nn.Linear(H, dim))
