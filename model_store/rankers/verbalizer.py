"""A language model that reads history and candidates together, and answers with a candidate's identifier.

After Yue et al., 2023, "LlamaRec: Two-Stage Recommendation using Large Language Models for Ranking": the scores are the
logits of one vocabulary token per candidate, all from one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from model_store.encoders.decoder import build_decoder, cast_decoder, read_row, rebuild_buffers, take_embedding
from model_store.encoders.history import HistoryBatch
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import ItemTokens
from model_store.ranker import InterpolatedRanker
from model_store.rankers.pointwise import Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKEN_BUDGET = 8_192  # tokens per forward pass


class VerbalizerConfig(BaseModel):
    """A prompt reads [prefix] history blocks [middle] (identifier, candidate's block) ... [suffix].

    identifiers: the token of each place of the window; an id past the base's vocabulary is a row that was added.
    windows: how many prompts the candidates are dealt to, round-robin over the retriever's ranks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["verbalizer"] = "verbalizer"
    weight: Weight
    window: PositiveInt
    windows: PositiveInt = 1
    lm: dict[str, Any]  # the transformers config, kept layers already in num_hidden_layers
    items: PositiveInt
    max_history: PositiveInt
    vocabulary: PositiveInt  # rows of the token table: only tokens that items use
    item_tokens: PositiveInt  # tokens of all item blocks together
    prefix: tuple[int, ...] = ()
    middle: tuple[int, ...] = ()
    suffix: tuple[int, ...]
    identifiers: tuple[int, ...]
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def candidates(self) -> int:
        return self.window * self.windows

    @property
    def item_count(self) -> int:
        return self.items

    def build(self, lm: PreTrainedModel | None = None) -> VerbalizerRanker:
        """lm: a decoder to take over instead of building one."""
        if len(set(self.identifiers)) != self.window:
            raise ValueError(f"a window of {self.window} needs as many identifiers, all different")
        if not self.suffix:
            raise ValueError("a prompt needs a suffix: its last token is where the answer is read")
        return VerbalizerRanker(self, lm)


class VerbalizerRanker(InterpolatedRanker):
    """Places in the prompt follow a fixed shuffle of item rows, never the retriever's order: the answer depends on
    which candidates there are, and what the retriever thinks of them enters through its own scores alone.

    frame_inputs: [P + M + S, H], the fixed tokens' vectors. identifier_inputs, identifier_outputs: float32 [W, H],
    what the language model reads of an identifier, and the rows of the head that its logits are made with.
    """

    frame_inputs: Tensor
    token_inputs: Tensor

    def __init__(self, config: VerbalizerConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config: VerbalizerConfig = config
        dtype = _DTYPES[config.dtype]
        self.lm = build_decoder(config.lm, dtype) if lm is None else lm
        take_embedding(self.lm)
        H = int(self.lm.config.hidden_size)
        frame = len(config.prefix) + len(config.middle) + len(config.suffix)
        self.register_buffer("frame_inputs", torch.zeros(frame, H, dtype=dtype))
        self.register_buffer("token_inputs", torch.zeros(config.vocabulary, H, dtype=dtype))
        self.item_tokens = ItemTokens(config.items, config.item_tokens)
        self.identifier_inputs = nn.Parameter(torch.zeros(config.window, H))
        self.identifier_outputs = nn.Parameter(torch.zeros(config.window, H))

    def opinions(self, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        """Of several windows each is a distribution of its own: logit - logsumexp(window)."""
        prompts: list[tuple[int, Tensor]] = []  # request, its columns in the order of the prompt
        for b, rows_K in enumerate(item_rows_BK):
            present = int((rows_K >= 0).sum())
            windows = -(-present // self.config.window)
            if windows > self.config.windows:
                raise ValueError(f"{present} candidates do not fit into {self.config.windows} windows")
            for first in range(windows):
                columns = torch.arange(first, present, windows)
                prompts.append((b, columns[_shuffled(rows_K[columns]).argsort(stable=True)]))
        opinions_BK = torch.zeros(item_rows_BK.shape)
        logits = self.logits(
            [histories.history(b) for b, _ in prompts], [item_rows_BK[b, columns] for b, columns in prompts]
        )
        for (b, columns), logits_W in zip(prompts, logits, strict=True):
            opinions_BK[b, columns] = logits_W.log_softmax(dim=0).cpu()
        return opinions_BK

    def logits(
        self, histories: Sequence[Tensor], candidates: Sequence[Tensor], *, dropout: nn.Module | None = None
    ) -> list[Tensor]:
        """Per prompt float32 [n]: the logit of each of its candidates, which stand in the prompt as they are given.

        histories: item rows int [T], oldest first; the last max_history are read. candidates: item rows int64 [n],
        n <= window. dropout: in training, at the inputs and at the read-out.
        """
        sources = [self._sources(*pair) for pair in zip(histories, candidates, strict=True)]
        answers: list[Tensor] = [torch.empty(0)] * len(sources)
        for chunk in _chunks([len(source) for source in sources]):
            read_outs_PH = self._read_outs([sources[p] for p in chunk], dropout)
            logits_PW = read_outs_PH @ self.identifier_outputs.T
            for place, p in enumerate(chunk):
                answers[p] = logits_PW[place, : len(candidates[p])]
        return answers

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        """Candidates are not known yet: they are counted as blocks of mean length."""
        config = self.config
        if not self.depth:
            return [0] * len(histories)
        block = 1 + config.item_tokens / config.items
        each = len(self.frame_inputs) + round(config.window * block)
        read = histories.windowed(config.max_history, 1)
        tokens = [int(self.item_tokens.lengths(read.history(b)).sum()) for b in range(len(read))]
        return [config.windows * (each + history) for history in tokens]

    def rebuild_buffers(self) -> None:
        rebuild_buffers(self.lm, self.identifier_inputs.device)

    def compute_in(self, dtype: torch.dtype) -> None:
        cast_decoder(self.lm, dtype)
        self.frame_inputs, self.token_inputs = self.frame_inputs.to(dtype), self.token_inputs.to(dtype)

    def _sources(self, history_T: Tensor, candidates_K: Tensor) -> Tensor:
        """int64 [S]: each token's row in [frame ; identifiers ; token_inputs]."""
        config = self.config
        frame = torch.arange(len(self.frame_inputs))
        prefix, middle, suffix = torch.split(frame, [len(config.prefix), len(config.middle), len(config.suffix)])
        identifiers = len(self.frame_inputs) + torch.arange(config.window)
        first = len(self.frame_inputs) + config.window
        blocks = torch.split(self.item_tokens.of(candidates_K), self.item_tokens.lengths(candidates_K).tolist())
        listed = [part for k, block in enumerate(blocks) for part in (identifiers[k, None], first + block)]
        history = first + self.item_tokens.of(history_T[-config.max_history :])
        return torch.cat([prefix, history, middle, *listed, suffix])

    def _read_outs(self, sources: Sequence[Tensor], dropout: nn.Module | None) -> Tensor:
        """float32 [P, H]: the state at each prompt's last token."""
        dtype, device = self.frame_inputs.dtype, self.frame_inputs.device
        lengths = [len(source) for source in sources]
        table_XH = torch.cat((self.frame_inputs, self.identifier_inputs.to(dtype), self.token_inputs))
        inputs_SH = table_XH[torch.cat(list(sources)).to(device)]
        positions_S = torch.cat([torch.arange(length) for length in lengths]).to(device)
        states_SH = read_row(
            self.lm, inputs_SH if dropout is None else dropout(inputs_SH), positions_S, Packed(lengths)
        )
        read_outs_PH = states_SH[torch.tensor(lengths).cumsum(0).to(device) - 1].float()
        return read_outs_PH if dropout is None else dropout(read_outs_PH)


def _shuffled(rows_K: Tensor) -> Tensor:
    """Sort keys: a fixed shuffle of all 32-bit rows (Knuth's multiplicative hash), so that ids' order tells nothing."""
    return (rows_K.long() * 2_654_435_761) % 2**32


def _chunks(lengths: Sequence[int]) -> list[list[int]]:
    """Prompts of rising length (equal ones attend as one batch), up to the token budget or one longer prompt."""
    chunks: list[list[int]] = []
    tokens = TOKEN_BUDGET
    for p in sorted(range(len(lengths)), key=lengths.__getitem__):
        if tokens + lengths[p] > TOKEN_BUDGET:
            chunks.append([])
            tokens = 0
        chunks[-1].append(p)
        tokens += lengths[p]
    return chunks
