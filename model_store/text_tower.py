"""The item side of a text family: a language model that puts an item where its text says, beside the query encoder.

v(text) = unit(head(x)); x is the mean over the text's tokens of the last hidden state, centred and of unit length where
the tower was trained on such; behind it the constants that encoders with appended ones ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_store.encoders.decoder import build_decoder, cast_decoder, read_row, rebuild_buffers, take_embedding
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import blocks_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

AT_ONCE = 4096  # tokens that go through the language model together
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def item_head(hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, dim))


class TextTowerConfig(BaseModel):
    """item_text/config.json.

    item_text: the template that texts were made with; each is read between `before` and `after`, `empty` in place of
    one that says nothing, cut at max_tokens. golden_texts: of the items in golden_rows, to prove that it still reads
    as it did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["text_tower"] = "text_tower"
    lm: dict[str, Any]
    vocabulary: PositiveInt
    inner_dim: PositiveInt
    item_text: str
    max_tokens: PositiveInt
    before: str = ""
    after: str = ""
    empty: str = "?"
    causal: bool = True
    centred: bool = False
    constants: tuple[float, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    golden_texts: tuple[str, ...] = ()
    golden_rows: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        return self.inner_dim + len(self.constants)

    def build(self, lm: PreTrainedModel | None = None) -> TextTower:
        """lm: a decoder without token table, to take over instead of building one."""
        return TextTower(self, lm)


class TextTower(nn.Module):
    """An `ItemTextEncoder`. token_inputs [V, H] in the language model's input space and dtype; centre_H, head and
    golden_GD (what it made of the golden texts) in float32.
    """

    token_inputs: Tensor
    centre_H: Tensor
    golden_GD: Tensor

    def __init__(self, config: TextTowerConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config = config
        dtype = _DTYPES[config.dtype]
        self.lm = build_decoder(config.lm, dtype) if lm is None else lm
        if lm is None:
            take_embedding(self.lm)
        H = int(self.lm.config.hidden_size)
        self.register_buffer("token_inputs", torch.zeros(config.vocabulary, H, dtype=dtype))
        self.register_buffer("centre_H", torch.zeros(H))
        self.register_buffer("golden_GD", torch.zeros(len(config.golden_texts), config.dim))
        self.head = item_head(H, config.inner_dim)
        self.tokenizer: Tokenizer | None = None  # given by whoever reads or makes it

    @property
    def dim(self) -> int:
        return self.config.dim

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """float32 [N, D] on the CPU, in the space of the item vectors."""
        blocks = self._blocks(texts)
        lengths = blocks.offsets.diff().tolist()
        means: list[Tensor] = []
        first = 0
        while first < len(lengths):
            last, tokens = first, 0
            while last < len(lengths) and (last == first or tokens + lengths[last] <= AT_ONCE):
                tokens, last = tokens + lengths[last], last + 1
            means += self._means(blocks, lengths, first, last)
            first = last
        if not means:
            return torch.empty(0, self.dim)
        read_NH = torch.stack(means)
        if self.config.centred:
            read_NH = normalize(read_NH - self.centre_H, dim=-1)
        vectors_ND = normalize(self.head(read_NH), dim=-1).float().cpu()
        constants = torch.tensor(self.config.constants).expand(len(vectors_ND), -1)
        return torch.cat((vectors_ND, constants), dim=1)

    def compute_in(self, dtype: torch.dtype) -> None:
        """As of `LanguageModelEncoder`."""
        cast_decoder(self.lm, dtype)
        self.token_inputs = self.token_inputs.to(dtype)

    def rebuild_buffers(self) -> None:
        rebuild_buffers(self.lm, self.centre_H.device)

    def _means(self, blocks: TokenBlocks, lengths: list[int], first: int, last: int) -> list[Tensor]:
        device, sizes = self.centre_H.device, lengths[first:last]
        tokens_S = blocks.tokens[blocks.offsets[first] : blocks.offsets[last]].long().to(device)
        positions_S = torch.cat([torch.arange(size) for size in sizes]).to(device)
        packed = Packed(sizes, causal=self.config.causal)
        states_SH = read_row(self.lm, self.token_inputs[tokens_S], positions_S, packed)
        return [part.float().mean(0) for part in torch.split(states_SH, sizes)]

    def _blocks(self, texts: Sequence[str]) -> TokenBlocks:
        assert self.tokenizer is not None
        before, after, empty = self.config.before, self.config.after, self.config.empty
        whole = [before + (text or empty) + after for text in texts]
        blocks = blocks_of(self.tokenizer, whole, max_tokens=self.config.max_tokens)
        silent = (blocks.offsets.diff() == 0).nonzero().flatten().tolist()
        if silent:  # of a tokenizer that drops white space
            for place in silent:
                whole[place] = before + "?" + after
            blocks = blocks_of(self.tokenizer, whole, max_tokens=self.config.max_tokens)
        return blocks
