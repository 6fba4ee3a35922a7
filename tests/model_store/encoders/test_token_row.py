"""Every token of a batch stands where a reader who spells the histories out by hand expects it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.encoders.history import HistoryBatch
from model_store.encoders.token_row import ItemTokens, Spelling, lay_out

BLOCKS = [[10], [20, 21], [30, 31, 32], [40, 41]]
PREFIX, SUFFIX = [1, 2], [9]


@pytest.fixture
def item_tokens() -> ItemTokens:
    return _item_tokens()


def _item_tokens() -> ItemTokens:
    made = ItemTokens(len(BLOCKS), sum(map(len, BLOCKS)))
    made.tokens.copy_(torch.tensor([token for block in BLOCKS for token in block]))
    made.offsets.copy_(torch.tensor([0, *map(len, BLOCKS)]).cumsum(0))
    return made


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 7)), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_row_reads_as_it_is_spelled(
    drawn: list[tuple[list[int], int]], text: bool, vector: bool, around: bool
) -> None:
    if not (text or vector):
        return
    histories = HistoryBatch.of([rows for rows, _ in drawn])
    known = [tokens for _, tokens in drawn]
    prefix, suffix = (PREFIX, SUFFIX) if around else ([], [])
    item_tokens = _item_tokens()
    text_T = item_tokens.lengths(histories.rows) if text else torch.zeros(len(histories.rows), dtype=torch.int64)
    row = lay_out(histories, text_T, spelling=Spelling(len(prefix), len(suffix), vector), known=known)

    vectors = [-1 - event for event in range(len(histories.rows))] if vector else []
    texts = item_tokens.of(histories.rows).tolist() if text else []
    sources = torch.tensor([*prefix, *suffix, *vectors, *texts])
    spelled: list[int] = []
    positions: list[int] = []
    ends, event = [], 0
    items: list[int] = []
    for b, (rows, tokens) in enumerate(drawn):
        start = len(spelled)
        assert row.starts[b] == start
        spelled += prefix if tokens == 0 else []
        items += [-1] * (len(spelled) - start)
        assert row.item_span(b).start == len(spelled)
        for item in rows:
            spelled += BLOCKS[item] if text else []
            spelled += [-1 - event] if vector else []
            items += [event] * (len(spelled) - len(items))
            ends.append(len(spelled) - 1)
            event += 1
        assert row.item_span(b).stop == len(spelled)
        assert row.kept_span(b) == slice(start, len(spelled))
        spelled += suffix
        items += [event - 1] * len(suffix)
        positions += range(tokens, tokens + len(spelled) - start)
        assert row.lengths[b] == len(spelled) - start
    assert sources[row.sources_S].tolist() == spelled
    assert row.positions_S.tolist() == positions
    assert row.item_ends_T.tolist() == ends
    assert row.items_S.tolist() == items


def test_an_item_without_tokens_cannot_be_read_out() -> None:
    with pytest.raises(ValueError, match="no token to be read out at"):
        lay_out(HistoryBatch.of([[0, 1]]), torch.tensor([2, 0]), spelling=Spelling(0, 0, item_vector=False))


def test_item_tokens_stay_where_rows_are_laid_out(item_tokens: ItemTokens) -> None:
    moved = torch.nn.ModuleDict({"item_tokens": item_tokens}).to("meta")
    assert not any(buffer.is_meta for buffer in moved.buffers())
    assert item_tokens.of(torch.tensor([2, 0], dtype=torch.int32)).tolist() == [30, 31, 32, 10]
