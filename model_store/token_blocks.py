"""Texts as token blocks, tokenised one by one; and the part of a vocabulary that they use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_store.encoders.token_row import TokenBlocks


def tokenize_blocks(tokenizer_file: Path, texts: Sequence[str], *, max_tokens: int | None = None) -> TokenBlocks:
    """No special tokens. A longer block loses tokens before its last one, so that all blocks still end alike."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return blocks_of(tokenizer, texts, max_tokens=max_tokens)


def blocks_of(tokenizer: Tokenizer, texts: Sequence[str], *, max_tokens: int | None = None) -> TokenBlocks:
    """As `tokenize_blocks`, by a tokenizer that neither pads nor truncates."""
    blocks = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    if max_tokens is not None:
        blocks = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in blocks]
    lengths = torch.tensor([0, *map(len, blocks)], dtype=torch.int64)
    return TokenBlocks(torch.tensor([t for ids in blocks for t in ids], dtype=torch.int32), lengths.cumsum(0))


@dataclass(frozen=True, slots=True, eq=False)
class CompactVocabulary:
    """kept: int64[V], the token ids in use, ascending. blocks: the same blocks, each token as its place in `kept`."""

    kept: Tensor
    blocks: TokenBlocks


def compact_vocabulary(blocks: TokenBlocks) -> CompactVocabulary:
    kept, places = torch.unique(blocks.tokens.long(), return_inverse=True)
    return CompactVocabulary(kept, TokenBlocks(places.int(), blocks.offsets))
