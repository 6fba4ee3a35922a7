from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_store.encoders.sequence import SequenceConfig
from offline.datasets import Interactions
from offline.ranking.fold_retrievers import FoldRetriever
from offline.ranking.mined_candidates import MinedTarget, draw_prompts, mine, read_prompt
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset


@pytest.fixture(scope="module")
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture(scope="module")
def mined(dataset: SequenceDataset) -> list[MinedTarget]:
    torch.manual_seed(0)
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=2, max_history=16, jump=4).build().eval()
    folds = [FoldRetriever(users, encoder, torch.randn(40, 8)) for users in np.array_split(np.arange(60), 2)]
    return mine(dataset, folds, per_user=4, depth=10, seed=0)


def test_targets_are_the_next_items_of_training_and_never_seen_before(
    dataset: SequenceDataset, mined: list[MinedTarget]
) -> None:
    assert 60 < len(mined) <= 240
    sequences = [dataset.train.history(user).tolist() for user in range(60)]
    for each in mined:
        history = each.history_T.tolist()
        assert any(s[: len(history)] == history and s[len(history) :][:1] == [each.target] for s in sequences)
        assert each.target not in history
        assert not set(each.hard_C.tolist()) & {each.target, *history}
        assert 9 <= len(each.hard_C) <= 10


def test_the_target_stands_nowhere_in_its_prompt_but_among_the_candidates(
    dataset: SequenceDataset, mined: list[MinedTarget]
) -> None:
    trained_N = torch.from_numpy(dataset.trained_items)
    rows = draw_prompts(mined, trained_N=trained_N, window=8, max_history=5, seed=0, epoch=0)
    assert len(rows) == len(mined)
    for b, each in enumerate(mined):
        prompt = read_prompt(rows.history(b))
        candidates = prompt.candidates_K.tolist()
        assert prompt.history_T.tolist() == each.history_T[-5:].tolist()
        assert each.target not in prompt.history_T.tolist()
        assert candidates.count(each.target) == 1
        assert candidates[prompt.place] == each.target
        assert len(candidates) == len(set(candidates)) == 8
        assert not set(candidates) & set(each.history_T.tolist())
        assert trained_N[prompt.candidates_K].all()
        assert len(set(candidates) & set(each.hard_C.tolist())) >= 4


def test_each_epoch_draws_anew_and_places_tell_nothing(dataset: SequenceDataset, mined: list[MinedTarget]) -> None:
    trained_N = torch.from_numpy(dataset.trained_items)

    def drawn(epoch: int) -> torch.Tensor:
        return draw_prompts(mined, trained_N=trained_N, window=8, max_history=5, seed=0, epoch=epoch).rows

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(0), drawn(1))
    rows = draw_prompts(mined, trained_N=trained_N, window=8, max_history=5, seed=0, epoch=3)
    places = np.bincount([read_prompt(rows.history(b)).place for b in range(len(rows))], minlength=8)
    assert places.min() > 0.3 * len(mined) / 8


def test_a_catalogue_smaller_than_the_window_gives_what_there_is() -> None:
    target = MinedTarget(torch.tensor([0, 1], dtype=torch.int32), 2, torch.tensor([3]), torch.tensor([0, 1]))
    rows = draw_prompts(
        [target], trained_N=torch.tensor([True] * 5 + [False]), window=20, max_history=9, seed=0, epoch=0
    )
    assert sorted(read_prompt(rows.history(0)).candidates_K.tolist()) == [2, 3, 4]


def test_where_seen_items_may_come_back_repeats_are_targets(dataset: SequenceDataset) -> None:
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=2, max_history=16, jump=4).build().eval()
    fold = FoldRetriever(np.arange(60), encoder, torch.randn(40, 8))
    kept = replace(dataset, exclude_seen=False)
    every = mine(kept, [fold], per_user=1_000, depth=5, seed=0)
    assert len(every) == int((dataset.train.lengths - 1).clamp(min=0).sum())
    assert all(len(each.excluded) == 0 for each in every)


def test_a_cold_item_is_no_candidate_however_much_the_retriever_likes_it(small_world: Interactions) -> None:
    data = split(small_world, "cold-items-0").dataset
    cold_N, trained_N = torch.from_numpy(data.cold_items), torch.from_numpy(data.trained_items)
    torch.manual_seed(0)
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=2, max_history=16, jump=4).build().eval()
    folds = [FoldRetriever(np.arange(60), encoder, torch.randn(40, 8).index_fill(0, cold_N.nonzero().flatten(), 0.0))]
    liked = replace(folds[0], item_vectors_ND=folds[0].item_vectors_ND.clone())
    liked.item_vectors_ND[cold_N] = 100 * torch.randn(int(cold_N.sum()), 8)
    first, again = (mine(data, [fold], per_user=2, depth=10, seed=0) for fold in (folds[0], liked))
    assert [each.hard_C.tolist() for each in first] == [each.hard_C.tolist() for each in again]
    prompts = draw_prompts(again, trained_N=trained_N, window=20, max_history=16, seed=0, epoch=0)
    shown = torch.cat([read_prompt(prompts.history(p)).candidates_K for p in range(len(prompts))])
    assert not cold_N[shown].any()
