"""What is done to a trained model before it is staged: new items placed, popularity taken out."""

from __future__ import annotations

from offline.cold_start import place_cold_items
from offline.popularity_debiasing import debiased
from offline.recipe import Recipe, TrainedModel
from offline.sequences import SequenceDataset


def finished(trained: TrainedModel, recipe: Recipe, dataset: SequenceDataset) -> TrainedModel:
    """As the recipe asks; itself where it asks for nothing."""
    parts, log = trained.parts, trained.log
    if recipe.cold_start == "regression":
        parts, figures = place_cold_items(parts, dataset, template=recipe.item_text)
        log = log | figures
    if recipe.popularity_debiasing:
        parts, figures = debiased(parts, dataset)
        log = log | figures
    return TrainedModel(parts, log=log)
