from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from model_store.rankers.verbalizer import VerbalizerRanker

MakeVerbalizer = Callable[..., VerbalizerRanker]
HISTORIES = HistoryBatch.of([[1, 2, 3], [5], list(range(20))])
ROWS_BK = torch.tensor([[4, 9, 30, 7, 12, 8], [1, 2, 3, -1, -1, -1], [39, 21, 22, 23, -1, -1]])


@torch.inference_mode()
def test_a_batch_equals_its_members_and_padding_changes_nothing(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer()
    opinions_BK = ranker.opinions(HISTORIES, ROWS_BK)
    assert opinions_BK.shape == ROWS_BK.shape
    for b in range(3):
        rows_K = ROWS_BK[b][ROWS_BK[b] >= 0]
        alone = ranker.opinions(HISTORIES.select([b]), rows_K[None])[0]
        torch.testing.assert_close(opinions_BK[b, : len(rows_K)], alone)
        assert float(alone.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert float(alone.std()) > 1e-3


@torch.inference_mode()
def test_scores_follow_the_items_whatever_order_the_retriever_gives(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first = HISTORIES.select([0])
    given, permuted = ranker.opinions(first, ROWS_BK[:1]), ranker.opinions(first, ROWS_BK[:1, order])
    assert torch.equal(given[:, order], permuted)
    # The places are no row order either: a catalogue's order may tell how old or how popular an item is.
    prompts: list[list[int]] = []
    original = ranker.logits

    def spying(histories: Sequence[Tensor], candidates: Sequence[Tensor]) -> list[Tensor]:
        prompts.extend(rows.tolist() for rows in candidates)
        return original(histories, candidates)

    ranker.logits = spying  # type: ignore[method-assign,assignment]
    ranker.opinions(first, torch.arange(6)[None])
    assert sorted(prompts[0]) == list(range(6)) != prompts[0]


@torch.inference_mode()
def test_the_prompt_holds_history_and_candidates_and_nothing_else(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer()
    history, candidates = torch.arange(10, dtype=torch.int32), torch.tensor([30, 31])
    sources = ranker._sources(history, candidates).tolist()
    first = 5 + 6  # frame and identifiers
    block = {row: [first + token for token in ranker.item_tokens.of(torch.tensor([row])).tolist()] for row in range(40)}
    read = [token for row in range(4, 10) for token in block[row]]  # the last six
    assert sources == [0, 1, *read, 2, 5, *block[30], 6, *block[31], 3, 4]


@torch.inference_mode()
def test_more_windows_are_dealt_round_robin_over_the_ranks(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer(window=4, windows=2)
    one = HISTORIES.select([0])
    rows_1K = torch.tensor([[4, 9, 30, 7, 12, 8, 33]])
    both = ranker.opinions(one, rows_1K)[0]
    for first in (0, 1):
        alone = verbalizer(window=4).opinions(one, rows_1K[:, first::2])[0]
        torch.testing.assert_close(both[first::2], alone)
        assert float(alone.exp().sum()) == pytest.approx(1, abs=1e-5)
    # Few candidates are not torn apart.
    torch.testing.assert_close(ranker.opinions(one, rows_1K[:, :4]), verbalizer(window=4).opinions(one, rows_1K[:, :4]))
    with pytest.raises(ValueError, match="windows"):
        verbalizer(window=3).opinions(one, rows_1K)


def test_what_cannot_be_a_ranker_is_refused(verbalizer: MakeVerbalizer) -> None:
    config = verbalizer().config
    for changes, reason in (({"identifiers": (1, 1, 2, 3, 4, 5)}, "identifiers"), ({"suffix": ()}, "suffix")):
        with pytest.raises(ValueError, match=reason):
            config.model_copy(update=changes).build()


def test_the_cost_is_that_of_the_prompts(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer()
    expected = [
        len(ranker._sources(HISTORIES.history(b), torch.tensor([0, 1, 2, 3, 4, 5]))) for b in range(len(HISTORIES))
    ]
    assert ranker.token_counts(HISTORIES) == expected
    assert verbalizer(windows=2).token_counts(HISTORIES) == [2 * tokens for tokens in expected]
    assert verbalizer(weight=0.0).token_counts(HISTORIES) == [0, 0, 0]


@torch.inference_mode()
def test_bfloat16_and_float32_agree_and_the_identifiers_stay_exact(verbalizer: MakeVerbalizer) -> None:
    ranker = verbalizer(dtype="bfloat16")
    before = ranker.opinions(HISTORIES, ROWS_BK)
    ranker.compute_in(torch.float32)
    assert ranker.frame_inputs.dtype == ranker.token_inputs.dtype == ranker.identifier_outputs.dtype == torch.float32
    torch.testing.assert_close(before, ranker.opinions(HISTORIES, ROWS_BK), rtol=0.05, atol=0.05)
