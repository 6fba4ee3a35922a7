from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.encoders.sequence import SequenceConfig
from offline.__main__ import main
from offline.datasets import DataRefused, Interactions
from offline.ease import user_item_matrix
from offline.evaluation.cold_rows import tf_idf_of
from offline.evaluation.validation import Validation
from offline.language.item_text import item_texts
from offline.splits.cold_items import draw_cold_items
from offline.splits.protocols import COLD, PROTOCOLS, fitted_events, split
from offline.splits.sequences import Split
from offline.training.objectives import NextItem
from offline.training.windows import training_windows


@pytest.fixture
def whole(small_world: Interactions) -> Split:
    return split(small_world, "last-10")


@pytest.fixture
def data(small_world: Interactions) -> Split:
    return split(small_world, "cold-items-0")


def test_one_of_each_ten_by_popularity_is_drawn(whole: Split) -> None:
    cold = draw_cold_items(whole, seed=0)
    tens = cold[whole.dataset.catalog.by_popularity].reshape(4, 10)
    assert tens.sum(axis=1).tolist() == [1, 1, 1, 1]
    assert [p for p in PROTOCOLS if p in COLD] == ["cold-items-0", "cold-items-1", "cold-items-2"]
    draws = {tuple(np.flatnonzero(draw_cold_items(whole, seed=seed))) for seed in range(3)}
    assert len(draws) == 3


def test_a_cold_item_is_in_nothing_fitted(small_world: Interactions, data: Split) -> None:
    cold, dataset = data.dataset.cold_items, data.dataset
    assert cold.sum() == 4
    assert not cold[dataset.train.rows.numpy()].any()
    assert not cold[dataset.validation.targets].any()
    assert not cold[dataset.validation.histories.rows.numpy()].any()
    assert not cold[data.test.histories.rows.numpy()].any()
    assert (dataset.catalog.popularity[cold] == 0).all()
    assert not (dataset.trained_items & cold).any()
    assert not cold[small_world.item_rows[fitted_events(small_world, "cold-items-0")]].any()
    assert len(dataset.catalog) == 40
    gram = user_item_matrix(dataset.train, 40)
    assert gram[:, cold].nnz == 0


def test_word_weights_are_fitted_without_cold_texts(data: Split) -> None:
    texts = item_texts(data.dataset.items, "{title}")
    planted = int(np.flatnonzero(data.dataset.cold_items)[0])
    texts[planted] = "unheardof item"
    fitted = tf_idf_of(data.dataset, texts)
    assert "unheardof" not in fitted.vocabulary
    assert data.dataset.trained_items.sum() == len(fitted.vocabulary) - 1  # their numbers, and "item"


def test_every_test_event_of_a_cold_target_is_asked(whole: Split, data: Split) -> None:
    cold = data.dataset.cold_items
    expected = [
        (int(user), int(target))
        for q, (user, target) in enumerate(zip(whole.test.users, whole.test.targets, strict=True))
        if cold[target] and (~cold[whole.test.histories.history(q).numpy()]).any()
    ]
    assert [(int(u), int(t)) for u, t in zip(data.test.users, data.test.targets, strict=True)] == expected
    assert len(expected) > 20


def test_what_a_user_has_chosen_counts_as_seen_though_no_model_reads_it(whole: Split, data: Split) -> None:
    seen, read = data.test.seen_items, data.test.histories
    assert len(seen) == len(read) == len(data.test)
    hidden = 0
    for query in range(len(read)):
        mine = seen.history(query).numpy()
        assert mine[~data.dataset.cold_items[mine]].tolist() == read.history(query).tolist()
        hidden += len(mine) - len(read.history(query))
    assert hidden > 0


def test_too_few_items_to_hide_one_of_ten_are_refused(small_world: Interactions) -> None:
    few = replace(small_world, items=small_world.items[:9], item_rows=small_world.item_rows % 9)
    with pytest.raises(DataRefused, match=r"cold-items-1.*there are 9"):
        split(few, "cold-items-1")


def test_a_cold_item_s_vector_changes_no_loss_and_gets_no_gradient(data: Split) -> None:
    cold = data.dataset.cold_items
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=1, max_history=9, jump=4).build()
    windows = training_windows(data.dataset.train, 9)
    objective = NextItem(encoder, cold_N=cold)
    loss = objective(windows)
    loss.backward()
    assert encoder.items.weight.grad is not None
    assert float(encoder.items.weight.grad[cold].abs().max()) == 0
    leaking = NextItem(encoder)(windows)
    with torch.no_grad():
        encoder.items.weight[torch.from_numpy(cold)] *= -3.0
    torch.testing.assert_close(objective(windows), loss, rtol=0, atol=0)
    assert float((NextItem(encoder)(windows) - leaking).detach().abs()) > 1e-3


def test_validation_ranks_no_cold_item(data: Split) -> None:
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=1, max_history=9, jump=4).build()
    vectors = encoder.item_vectors_ND.detach().clone()
    before = Validation.of(data.dataset).ndcg10(encoder, vectors)
    vectors[torch.from_numpy(data.dataset.cold_items)] *= 50
    assert Validation.of(data.dataset).ndcg10(encoder, vectors) == before
    assert Validation(data.dataset.validation, exclude_seen=True).ndcg10(encoder, vectors) != before


WriteRun = Callable[..., Path]


@pytest.mark.parametrize("protocol", ["cold-items-1", "temporal"])
def test_the_commands_take_the_protocol(
    protocol: str, write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    file = str(write_run("tiny", "ease", protocol=protocol))
    for arguments in (
        ["run", file],
        ["evaluate", "run:tiny", "--cheap", "--final", "--record", str(tmp_path / "r.md")],
    ):
        assert main(["--store", store, *arguments]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert f"tiny, {protocol}, test" in printed
    if protocol == "temporal":
        assert "| share user new | user new |" in printed
    else:
        assert "| recall@10 | MRR | recall@10 among cold | MRR among cold |" in printed
        assert "| tfidf-knn | 1 |" in printed
    assert main(["--store", store, "data", file, "--protocol", protocol]) == 0
    assert "training" in capsys.readouterr().out
