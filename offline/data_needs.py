"""What a recipe needs of the data, looked at before anything is trained."""

from __future__ import annotations

from offline.datasets.refusal import DataRefused
from offline.language.item_text import item_texts
from offline.recipe import Recipe
from offline.splits.sequences import SequenceDataset

FEWEST_ITEMS = 2


def check_data(recipe: Recipe, dataset: SequenceDataset) -> None:
    """DataRefused with the reason and the cure, where a training could only crash or learn nothing."""
    check_items(dataset)
    if recipe.needs_texts:
        check_texts(dataset, template=recipe.item_text)


def check_items(dataset: SequenceDataset) -> None:
    trained = int(dataset.trained_items.sum())
    if trained < FEWEST_ITEMS:
        raise DataRefused(
            dataset.name,
            f"the training events hold {trained} item{'s' * (trained != 1)}, and there is nothing to choose between",
            cure="bring events with at least two items, or lower `min_rating` or `k_core`",
        )


def check_texts(dataset: SequenceDataset, *, template: str) -> None:
    texts = item_texts(dataset.items, template)
    if not any(texts[row] for row in dataset.trained_items.nonzero()[0]):
        raise DataRefused(
            dataset.name,
            f'this recipe reads item texts, and recipe.item_text = "{template}" finds none in what training holds',
            cure="name the columns that hold them in [data.item_columns], write recipe.item_text over others, or "
            'choose what knows items by ID alone (ease, sasrec, or e4srec with history_input = "id")',
        )
