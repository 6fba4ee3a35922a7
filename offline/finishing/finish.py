"""What is done to a trained model before it is staged: new items placed, popularity taken out."""

from __future__ import annotations

from collections.abc import Mapping

from offline.finishing.cold_start import place_cold_items
from offline.finishing.popularity_debiasing import debiased
from offline.recipe import Recipe, TrainedModel
from offline.splits.sequences import SequenceDataset


def finished(
    trained: TrainedModel, recipe: Recipe, dataset: SequenceDataset, *, chosen: Mapping[str, object] | None = None
) -> TrainedModel:
    """As the recipe asks; itself where it asks for nothing. chosen: the log of a training whose choices are kept."""
    parts, log = trained.parts, trained.log
    if recipe.cold_start == "regression":
        parts, figures = place_cold_items(parts, dataset, template=recipe.item_text, chosen=chosen)
        log = log | figures
    if recipe.popularity_debiasing:
        parts, figures = debiased(parts, dataset, chosen=chosen)
        log = log | figures
    return TrainedModel(parts, log=log)
