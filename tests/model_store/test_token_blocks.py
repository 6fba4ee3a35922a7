"""Blocks are tokenised one by one, end alike after a cut, and use a part of the vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model_store.token_blocks import compact_vocabulary, tokenize_blocks

WORDS = ["[BOS]", "a", "b", "c", "d", ".", "?"]


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """Words, with a special token in front, truncation and padding on: nothing of it may show."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 0)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_blocks_have_no_special_tokens(tokenizer_file: Path) -> None:
    blocks = tokenize_blocks(tokenizer_file, ["a b .", "", "d ."])
    assert blocks.tokens.tolist() == [1, 2, 5, 4, 5]
    assert blocks.offsets.tolist() == [0, 3, 3, 5]
    assert (blocks.tokens.dtype, blocks.offsets.dtype) == (torch.int32, torch.int64)


def test_a_cut_block_keeps_its_last_token(tokenizer_file: Path) -> None:
    blocks = tokenize_blocks(tokenizer_file, ["a b c d .", "a b ."], max_tokens=3)
    assert blocks.tokens.tolist() == [1, 2, 5, 1, 2, 5]


def test_no_texts_make_no_blocks(tokenizer_file: Path) -> None:
    assert tokenize_blocks(tokenizer_file, []).offsets.tolist() == [0]


def test_a_compact_vocabulary_gives_the_tokens_back(tokenizer_file: Path) -> None:
    blocks = tokenize_blocks(tokenizer_file, ["a d .", "d d"])
    compact = compact_vocabulary(blocks)
    assert compact.kept.tolist() == [1, 4, 5]
    assert compact.kept[compact.blocks.tokens.long()].tolist() == blocks.tokens.tolist()
    assert torch.equal(compact.blocks.offsets, blocks.offsets)
