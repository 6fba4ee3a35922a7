from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.encoders.history import AllPositions, Growing
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.staging import BundleParts
from offline.families import contriever
from offline.finishing.score_offsets import with_offsets
from offline.language.item_text import item_texts
from offline.language.item_towers import IdTower
from offline.splits.sequences import SequenceDataset
from offline.training.read_out_objective import ReadOutNextItem

OpenBundle = Callable[[BundleParts], Bundle]


def _recipe(tiny_base: Path, **changes: Any) -> contriever.Recipe:
    section = {
        "prompt": "a b",
        "max_history": 16,
        "dim": 8,
        "lm": {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4},
        "fit": {"epochs": 1, "evaluate_every": 1, "batch": 16, "learning_rate": 1e-3},
    }
    return contriever.Recipe.model_validate(section | changes)


def test_the_temperature_is_learnt_and_served(dataset: SequenceDataset, tmp_path: Path, tiny_base: Path) -> None:
    trained = _recipe(tiny_base, temperature=0.1).train(dataset, tmp_path, {})
    encoder = trained.parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    assert trained.log["scale"] == float(encoder.scale.detach())
    assert trained.log["scale"] != 10.0
    with torch.inference_mode():
        users_BD = encoder(dataset.train.windowed(16, 4).select(range(5)))
    torch.testing.assert_close(users_BD.norm(dim=-1), encoder.scale.detach().expand(5))
    torch.testing.assert_close(trained.parts.item_vectors_ND.norm(dim=-1), torch.ones(len(dataset.catalog)))


def test_text_and_id_towers_differ_on_the_item_side_alone(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives: list[ReadOutNextItem] = []
    original = ReadOutNextItem.__init__

    def watched(self: ReadOutNextItem, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        objectives.append(self)

    monkeypatch.setattr(ReadOutNextItem, "__init__", watched)
    for changes in ({}, {"item_tower": "id", "items_from": "v"}):
        recipe = _recipe(tiny_base, **changes)
        parents = dict.fromkeys(recipe.parent_references(), start)
        recipe.train(dataset, tmp_path / str(len(changes)), parents)
    text, ids = objectives
    for one, other in ((text.encoder, ids.encoder), (text.projector, ids.projector)):
        assert one is not None
        assert other is not None
        shapes = [{name: tensor.shape for name, tensor in part.state_dict().items()} for part in (one, other)]
        assert shapes[0] == shapes[1]
    assert text.encoder.config == ids.encoder.config
    assert isinstance(ids.items, IdTower)
    vectors_ND = torch.from_numpy(start.index.vectors_ND)
    assert torch.equal(ids.items.ids_ND, vectors_ND / vectors_ND.std())
    assert torch.equal(text.projector.text_NH, ids.projector.text_NH)  # type: ignore[union-attr, arg-type]


def test_a_prompt_stands_after_the_history_and_is_read_at_its_end(
    dataset: SequenceDataset, tmp_path: Path, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, pooling="prompt", suffix="a ? b")
    encoder = recipe.train(dataset, tmp_path, {}).parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    assert encoder.config.suffix == (1, 0, 2)
    assert isinstance(encoder, Growing)
    assert not isinstance(encoder, AllPositions)
    history = dataset.train.windowed(16, 4).select([0])
    assert encoder.token_counts(history) == [2 + len(history.rows) + 3]
    with torch.inference_mode():
        before = encoder(history)
        encoder.suffix_inputs[-1] += 1.0
        assert not torch.allclose(encoder(history), before)


@pytest.mark.parametrize(
    ("changes", "targets"), [({"pooling": "prompt"}, 3), ({"all_positions": False}, 3), ({}, None)]
)
def test_what_gives_one_vector_per_history_learns_from_cuts(
    dataset: SequenceDataset, tmp_path: Path, tiny_base: Path, changes: dict[str, Any], targets: int | None
) -> None:
    trained = _recipe(tiny_base, targets_per_user=3, **changes).train(dataset, tmp_path, {})
    expected = sum(min(targets or n, n - 1) for n in dataset.train.lengths.tolist() if n > 1)
    assert trained.log["curve"][-1]["targets"] == expected  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"item_tower": "id"}, r'item_tower = "id".*items_from'),
        ({"items_from": "v"}, r'items_from = "v".*item_tower = "id"'),
        ({"item_tower": "id", "items_from": "v", "item_training": "cached"}, r'item_training = "cached".*item_tower'),
        (
            {"item_tower": "id", "items_from": "v", "item_training": "in_batch"},
            r'item_training = "in_batch".*item_tower',
        ),
        ({"chunk": 4}, r'chunk = 4.*item_training = "in_batch"'),
        ({"suffix": "a"}, r'suffix.*pooling = "last"'),
        ({"pooling": "prompt", "suffix": " "}, r'pooling = "prompt".*suffix'),
        ({"pooling": "prompt", "all_positions": True}, r'pooling = "prompt".*all_positions = true'),
    ],
)
def test_impossible_pairs_are_refused_with_both_keys(tiny_base: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        _recipe(tiny_base, **changes)


@pytest.mark.parametrize(
    ("item_training", "text_layers", "served_layers"),
    [("frozen", None, 3), ("frozen", 1, 1), ("cached", None, 2), ("in_batch", None, 2)],
)
def test_the_text_tower_puts_items_where_training_did(
    dataset: SequenceDataset,
    tmp_path: Path,
    tiny_base: Path,
    open_bundle: OpenBundle,
    item_training: str,
    text_layers: int | None,
    served_layers: int,
) -> None:
    """So a new item, or a text to search with, is placed as if it had been there from the start."""
    section: dict[str, Any] = {"item_training": item_training, "item_text": "{title}"}
    recipe = _recipe(tiny_base, **section)
    recipe = recipe.model_copy(update={"lm": recipe.lm.model_copy(update={"text_layers": text_layers})})
    parts = recipe.train(dataset, tmp_path, {}).parts
    assert parts.text_tower is not None
    assert parts.text_tower.config.lm["num_hidden_layers"] == served_layers
    texts = item_texts(dataset.items, recipe.item_text)
    torch.testing.assert_close(parts.text_tower.encode_texts(texts), parts.item_vectors_ND, atol=1e-4, rtol=1e-4)
    bundle = open_bundle(parts)
    assert bundle.text_tower is not None
    assert not bundle.manifest.warnings
    torch.testing.assert_close(
        bundle.text_tower.encode_texts(texts[:3]), parts.item_vectors_ND[:3], atol=1e-4, rtol=1e-4
    )
    assert len(bundle.text_tower.encode_texts(["", "never seen"])) == 2


def test_an_offset_is_part_of_where_a_text_is_put(
    dataset: SequenceDataset, tmp_path: Path, tiny_base: Path, open_bundle: OpenBundle
) -> None:
    parts = _recipe(tiny_base).train(dataset, tmp_path, {}).parts
    offsets_N = -torch.arange(len(dataset.catalog)).float()
    parts = with_offsets(with_offsets(parts, offsets_N), offsets_N)
    assert parts.text_tower is not None
    (vector_D,) = open_bundle(parts).text_tower.encode_texts(["a"])  # type: ignore[union-attr]
    assert float(vector_D[-1]) == 2 * float(offsets_N[int(dataset.catalog.popularity.argmin())])


def test_an_id_tower_reads_no_text(dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path) -> None:
    recipe = _recipe(tiny_base, item_tower="id", items_from="v")
    assert recipe.train(dataset, tmp_path, {"items_from": start}).parts.text_tower is None
