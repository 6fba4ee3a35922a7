from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model_store.base_models import BaseModel
from model_store.encoders.decoder import read_row
from model_store.encoders.history import HistoryBatch
from model_store.encoders.packed_attention import Packed
from model_store.token_blocks import tokenize_blocks
from offline.datasets import Interactions
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel
from offline.language.lm_head import lm_head
from offline.splits.protocols import split
from offline.text_stages.next_token import NextToken
from offline.text_stages.serialised_histories import SerialisedHistories

Make = Callable[..., NextToken]
MASK = 0


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=3, rank=4)


@pytest.fixture
def base(settings: LanguageModel) -> BaseModel:
    return settings.open()


@pytest.fixture
def make(settings: LanguageModel, base: BaseModel, small_world: Interactions) -> Make:
    dataset = split(small_world, "last-10").dataset
    blocks = tokenize_blocks(base.tokenizer_file, [f" {text}\n" for text in item_texts(dataset.items, "{title}")])

    def made(*, prefix: tuple[int, ...] = (1, 2, 3), **arguments: Any) -> NextToken:
        histories = SerialisedHistories(dataset, blocks, prefix=prefix, max_history=20)
        return NextToken(base, histories, head_VH=lm_head(settings, base), **arguments)

    return made


@pytest.fixture
def windows() -> HistoryBatch:
    return HistoryBatch.of([list(range(10)), [11, 12, 13], [20], list(range(5, 25))])


def test_a_share_of_the_item_tokens_of_each_window_is_drawn(make: Make, windows: HistoryBatch) -> None:
    objective = make(share=0.2, mask_token=MASK)
    row = objective.reading.histories.written(windows).row
    drawn = objective.draw(row)
    # Two tokens an item ("Item", its number): .2 of 20, 6, 2 and 40.
    assert [sum(start <= place < start + n for place in drawn.tolist()) for start, n in _spans(row)] == [4, 1, 1, 8]
    assert objective.targets(windows) == len(drawn) == 14
    assert all(place >= start + 3 for start, n in _spans(row) for place in drawn.tolist() if start <= place < start + n)
    assert not torch.equal(drawn, objective.draw(row))


def _spans(row: Any) -> list[tuple[int, int]]:
    return list(zip(row.starts, row.lengths, strict=True))


def test_without_a_prefix_the_first_token_is_never_a_target(make: Make, windows: HistoryBatch) -> None:
    objective = make(share=1.0, prefix=())
    row = objective.reading.histories.written(windows).row
    drawn = objective.draw(row).tolist()
    assert not set(drawn) & set(row.starts)
    assert objective.targets(windows) == len(drawn) == sum(row.lengths) - len(windows)


@pytest.mark.parametrize(("causal", "mask_token"), [(True, None), (False, MASK), (True, MASK)])
@torch.no_grad()
def test_token_i_is_predicted_from_the_state_before_it(
    make: Make, base: BaseModel, settings: LanguageModel, *, windows: HistoryBatch, causal: bool, mask_token: int | None
) -> None:
    """Against the loss computed window by window; with a wrong shift it would be another number."""
    objective = make(share=0.3, mask_token=mask_token, causal=causal)
    torch.manual_seed(5)
    found = objective(windows)
    written = objective.reading.histories.written(windows)
    torch.manual_seed(5)
    places = set(objective.draw(written.row).tolist())
    head = lm_head(settings, base)
    by_shift: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for start, length in _spans(written.row):
        tokens = written.tokens_S[start : start + length]
        mine = [place - start for place in sorted(places) if start <= place < start + length]
        read = tokens.clone()
        if mask_token is not None:
            read[mine] = mask_token
        states = read_row(base.lm, base.embedding(read), torch.arange(length), Packed([length], causal=causal))
        for shift, losses in by_shift.items():
            losses += [cross_entropy(states[place - shift] @ head.T, tokens[place]) for place in mine]
    means = {shift: float(torch.stack(losses).mean()) for shift, losses in by_shift.items()}
    assert float(found) == pytest.approx(means[1], abs=1e-4)
    assert abs(means[1] - means[0]) > 0.01
    assert abs(means[1] - means[2]) > 0.01


def test_what_is_hidden_is_not_read(make: Make, windows: HistoryBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make(share=0.5, mask_token=MASK, causal=False)
    read: list[Tensor] = []
    original = objective.reading.states

    def seen(tokens_S: Tensor, row: Any) -> Tensor:
        read.append(tokens_S)
        return original(tokens_S, row)

    monkeypatch.setattr(objective.reading, "states", seen)
    torch.manual_seed(1)
    objective(windows)
    written = objective.reading.histories.written(windows)
    torch.manual_seed(1)
    drawn = objective.draw(written.row)
    assert (read[0][drawn] == MASK).all()
    kept = torch.ones(len(read[0]), dtype=torch.bool)
    kept[drawn] = False
    assert torch.equal(read[0][kept], written.tokens_S[kept])


def test_a_state_that_saw_its_token_is_no_prediction(make: Make) -> None:
    with pytest.raises(AssertionError, match="has seen the token"):
        make(share=0.2, causal=False)


def test_the_head_and_the_token_table_do_not_train(make: Make) -> None:
    objective = make(share=0.2)
    names = {name for name, _ in objective.named_parameters()}
    assert all(name.startswith("reading.lm.layers.") or name == "reading.lm.norm.weight" for name in names)
    assert not any("head" in name for name in objective.state_dict())
