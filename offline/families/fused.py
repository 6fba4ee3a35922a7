"""Fusion: two or more published versions as one bundle, scores added with weights, still one search."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

import offline.recipe
from model_store.bundle import Bundle
from model_store.encoder_files import as_stored, suit
from model_store.encoders.fused import FusedConfig, FusedEncoder
from model_store.encoders.history import HistoryBatch
from model_store.staging import BundleParts, Control
from offline.evaluation.validation import Validation
from offline.finishing.golden_histories import golden_histories
from offline.finishing.weight_search import Fusion, check_fusible, choose_weights, part_scores
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset

logger = logging.getLogger(__name__)


class Recipe(offline.recipe.Recipe):
    """score = sum_p w_p * score_p / deviation_p; the weights sum to 1 and are chosen on validation.

    parts: versions, `run:NAME` (the version of this seed), `run:NAME@1` (of seed 1) or `run:NAME@+1` (of the next
        seed). Nothing is drawn: the seed names parts.
    grid: steps of each weight from 0 to 1; of the best weights those that lean most on the earlier parts.
    """

    parts: Annotated[tuple[str, ...], Field(min_length=2, max_length=4)]
    grid: PositiveInt = 40

    @field_validator("parts")
    @classmethod
    def _distinct(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({part for part in parts if parts.count(part) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice: another seed of a run is run:NAME@+1")
        return parts

    def parent_references(self) -> dict[str, str]:
        return {_role(place): reference for place, reference in enumerate(self.parts)}

    @property
    def knows_items_by_id(self) -> bool:
        return True  # whatever its parts know: one regression places new items for all of them

    @property
    def refits(self) -> bool:
        return True

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        return ("weights", "deviations")

    @property
    def weighed_parents(self) -> tuple[str, ...]:
        return tuple(self.parent_references())

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:  # noqa: ARG002
        bundles = [parents[_role(place)] for place in range(len(self.parts))]
        for bundle in bundles:
            check_fusible(bundle, dataset)
        fusion = self._choose(bundles, dataset) if self._chosen is None else Fusion.kept(self._chosen)
        silent = [b.version for b, weight in zip(bundles, fusion.weights, strict=True) if weight == 0]
        if silent:
            logger.warning("%s has weight 0: on validation the fusion is best without it", ", ".join(silent))
        return TrainedModel(_parts(bundles, fusion, dataset), log=fusion.figures() | {"silent": silent})

    def _choose(self, bundles: list[Bundle], dataset: SequenceDataset) -> Fusion:
        validation = Validation.of(dataset)
        scores = [part_scores(bundle, validation) for bundle in bundles]
        return choose_weights(scores, validation, steps=self.grid, trained_N=torch.from_numpy(dataset.trained_items))


def _role(place: int) -> str:
    return f"parts[{place}]"


def _parts(bundles: list[Bundle], fusion: Fusion, dataset: SequenceDataset) -> BundleParts:
    config = FusedConfig(parts=tuple(bundle.manifest.encoder for bundle in bundles), weights=fusion.on_queries)
    encoder = FusedEncoder(config, [bundle.encoder for bundle in bundles]).eval()
    as_stored(encoder)
    items_ND = torch.cat([torch.from_numpy(bundle.index.vectors_ND) for bundle in bundles], dim=1)
    bases = {bundle.manifest.base for bundle in bundles} - {None}
    return BundleParts(
        family="fused",
        catalog=dataset.catalog,
        encoder=encoder,
        item_vectors_ND=items_ND,
        golden_histories=golden_histories(dataset.train),
        controls={
            f"part {place + 1} ({bundle.version})": _without(encoder, place) for place, bundle in enumerate(bundles)
        },
        base=bases.pop() if len(bases) == 1 else None,
    )


def _without(encoder: FusedEncoder, place: int) -> Control:
    config = encoder.config
    weights = tuple(0.0 if part == place else weight for part, weight in enumerate(config.weights))
    stripped = FusedEncoder(config.model_copy(update={"weights": weights}), encoder.encoders).eval()

    def control(histories: HistoryBatch) -> Tensor:
        # In what the golden queries are recorded in, else the two would differ by rounding.
        suit(stripped, str(next(stripped.parameters()).device))
        vectors_BD: Tensor = stripped(histories)
        return vectors_BD

    return control
