"""Items that training never saw, placed by their texts: content-to-ID regression, alone or beside a text tower.

Whatever is chosen (ridge, offset) is chosen on validation as if each trained item had been new: ten folds, the items of
one fold placed by a regression that was fitted without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from model_store.encoders import EncoderConfig
from model_store.encoders.appended import AppendedConfig
from model_store.encoders.fused import FusedConfig
from model_store.item_placer import ItemPlacer, Piece, PlacerConfig, content_features, scaled
from model_store.staging import BundleParts
from model_store.tf_idf import TfIdf
from model_store.years import centres
from offline.evaluation.validation import Validation
from offline.finishing.content_regression import FOLDS, Floats, as_wide, fit_regression, norm_of_rare, popularity_folds
from offline.finishing.score_offsets import validation_vectors, with_offsets
from offline.language.item_text import item_texts
from offline.splits.sequences import SequenceDataset

RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
OFFSETS = tuple(step / 8 for step in range(-24, 9))  # in deviations of the scores
FOLD_SEED = 1
TOWER_SHARE = 0.5  # of a text tower in where it and a regression place a new item together (EXPERIMENTS.md)


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """items: of the catalogue. rows: the trained ones, and their features_RF, vectors_RD, events_R. pieces: of the
    vector, and their lengths in a new item; empty: each is as long as it is predicted.
    """

    items: int
    rows: npt.NDArray[np.int64]
    features_RF: scipy.sparse.csr_array
    vectors_RD: Floats
    events_R: npt.NDArray[np.int64]
    pieces: tuple[Piece, ...]

    def weights(self, kept_R: npt.NDArray[np.bool_], *, ridge: float) -> Floats:
        features_KF, vectors_KD = self.features_RF[kept_R], self.vectors_RD[kept_R]
        weights_FD = fit_regression(features_KF, vectors_KD, self.events_R[kept_R], lam=ridge)
        return weights_FD if self.pieces else as_wide(weights_FD, features_KF, vectors_KD)

    def placed(self, features_NF: scipy.sparse.csr_array, weights_FD: Floats) -> Floats:
        predicted_ND = np.asarray(features_NF @ weights_FD)
        return scaled(predicted_ND, self.pieces) if self.pieces else predicted_ND

    def placed_unseen(self, out_R: npt.NDArray[np.bool_], *, ridge: float) -> Tensor:
        """float32 [C, D]: these trained items, by a regression on the others."""
        return torch.from_numpy(self.placed(self.features_RF[out_R], self.weights(~out_R, ridge=ridge))).float()


def place_cold_items(
    parts: BundleParts, dataset: SequenceDataset, *, template: str, chosen: Mapping[str, object] | None = None
) -> tuple[BundleParts, dict[str, object]]:
    """The bundle with every untrained item placed by its text and a placer for items to come; figures for the log.

    Trained items keep their vectors. Vocabulary, word weights, years and regression are fitted to trained items alone.
    Where a text tower places items already, a new one stands between its place and the regression's. chosen: a log
    whose ridge and offset are kept. ValueError where no trained item has a text.
    """
    read = _ReadTexts.of(dataset, template)
    by_tower = parts.text_tower is not None
    rows = np.flatnonzero(dataset.trained_items)
    vectors_RD, events_R = parts.item_vectors_ND.double().numpy()[rows], dataset.catalog.popularity[rows]
    pieces = () if by_tower else _pieces(parts.encoder.config, vectors_RD, events_R)  # type: ignore[arg-type]  # a union's
    content = _Content(len(read.texts), rows, read.features_NF[rows], vectors_RD, events_R, pieces=pieces)
    choice = _kept(chosen, by_tower=by_tower) or _choose(content, Validation.of(dataset), parts, by_tower=by_tower)
    weights_FD = content.weights(np.ones(len(rows), dtype=bool), ridge=choice.ridge)
    if by_tower:
        placer = read.placer((1 - TOWER_SHARE) * weights_FD, tower_share=TOWER_SHARE)
    else:
        norm = norm_of_rare(vectors_RD, events_R)
        placer = read.placer(weights_FD, norm=norm, pieces=pieces if len(pieces) > 1 else ())
    new = np.flatnonzero(~dataset.trained_items)
    texts_of_new = [read.texts[row] for row in new]
    placed_ND = parts.item_vectors_ND.clone()
    placed_ND[new] = placer.beside(placed_ND[new], texts_of_new) if by_tower else placer.encode_texts(texts_of_new)
    placed = replace(parts, item_vectors_ND=placed_ND, placer=placer)
    if choice.offset is None:
        return placed, choice.figures()
    offsets_N = torch.from_numpy(np.where(dataset.trained_items, 0.0, choice.offset)).float()
    return with_offsets(placed, offsets_N, new=choice.offset), choice.figures()


@dataclass(frozen=True, slots=True, eq=False)
class _ReadTexts:
    """Of all items, by words and years that trained items have. features_NF: as `content_features` of them."""

    template: str
    texts: list[str]
    tf_idf: TfIdf
    years: tuple[int, ...]
    features_NF: scipy.sparse.csr_array

    @classmethod
    def of(cls, dataset: SequenceDataset, template: str) -> _ReadTexts:
        texts = item_texts(dataset.items, template)
        trained = [texts[row] for row in np.flatnonzero(dataset.trained_items)]
        tf_idf = TfIdf.fit(trained)
        if not tf_idf.vocabulary:
            raise ValueError('cold_start = "regression" needs items with texts, and no trained item has one')
        years = centres(trained)
        return cls(template, texts, tf_idf, years, content_features(tf_idf, years, texts))

    def placer(self, weights_FD: Floats, **lengths: Any) -> ItemPlacer:
        """lengths: keys of `PlacerConfig` that say how long a new item's vector is."""
        config = PlacerConfig(
            item_text=self.template,
            vocabulary=self.tf_idf.vocabulary,
            unseen=self.tf_idf.unseen,
            years=self.years,
            **lengths,
        )
        return ItemPlacer(config, self.tf_idf, weights_FD)


def _pieces(config: EncoderConfig, vectors_RD: Floats, events_R: npt.NDArray[np.int64]) -> tuple[Piece, ...]:
    """One for a whole vector, of a fusion one per part: a new item stands where the parts' own regressions would place
    it. Coordinates that encoders appended get nothing: what a part was given there is chosen anew for the whole.
    """
    found, start = [], 0
    for width, appended in _widths(config):
        part_RW = vectors_RD[:, start : start + width]
        found.append(Piece(width=width, norm=0.0 if appended else norm_of_rare(part_RW, events_R)))
        start += width
    return tuple(found)


def _widths(config: EncoderConfig) -> list[tuple[int, bool]]:
    """(coordinates, whether they were appended) of each piece."""
    if isinstance(config, FusedConfig):
        return [piece for part in config.parts for piece in _widths(part)]
    if isinstance(config, AppendedConfig):
        return [*_widths(config.inner), (config.coordinates, True)]
    return [(config.dim, False)]


@dataclass(frozen=True, slots=True)
class _Choice:
    """offset: None where there is none. recalls: recall@10 among a fold's items by ridge. shown: share of the first ten
    places that unknown items take, by offset in deviations of the scores.
    """

    ridge: float
    offset: float | None
    recalls: dict[float, float]
    shown: dict[float, float]

    def figures(self) -> dict[str, object]:
        by_ridge = {str(key): value for key, value in self.recalls.items()}
        figures: dict[str, object] = {"cold_ridge": self.ridge, "recall@10_among_fold_by_ridge": by_ridge}
        if self.offset is None:
            return figures
        by_offset = {str(key): value for key, value in self.shown.items()}
        return figures | {"cold_offset": self.offset, "cold_share_of_10_by_cold_offset": by_offset}


def _kept(chosen: Mapping[str, object] | None, *, by_tower: bool) -> _Choice | None:
    if chosen is None:
        return None
    ridge, offset = chosen["cold_ridge"], None if by_tower else chosen["cold_offset"]
    assert isinstance(ridge, float)
    assert offset is None or isinstance(offset, float)
    return _Choice(ridge, offset, {}, {})


def _choose(content: _Content, validation: Validation, parts: BundleParts, *, by_tower: bool) -> _Choice:
    """The ridge by how targets rank among their own fold, all of it unknown.

    The offset so that unknown items, one in ten, fill a tenth of the first ten places, as often as they are chosen. By
    NDCG alone nothing unknown is ever shown (nine in ten events ask for something known), and by the harmonic mean over
    known and unknown targets unknown items fill a third of all places (measured on MovieLens 100K). None beside a text
    tower: it was trained on the texts of every fold, so that none can stand for what is new to it; and its new items
    are shown about as often as they should be by themselves (measured there: .08 of the places for .10 of the items).
    """
    folds_R = popularity_folds(content.events_R, seed=FOLD_SEED)
    users_QD = validation_vectors(parts, validation)
    recalls: dict[float, float] = {}
    placings: dict[float, list[Tensor]] = {}
    for ridge in RIDGES:
        placings[ridge] = [content.placed_unseen(folds_R == f, ridge=ridge) for f in range(FOLDS)]
        recalls[ridge] = _recall_among(content, folds_R, validation, users_QD, placings[ridge])
    best = max(recalls, key=lambda ridge: (recalls[ridge], ridge))
    if by_tower:
        return _Choice(best, None, recalls, {})
    scores_QN = users_QD @ parts.item_vectors_ND.T
    deviation = float(scores_QN[:, torch.from_numpy(content.rows)].std(dim=1).mean())
    shown = dict.fromkeys(OFFSETS, 0.0)
    for f, placed_CD in enumerate(placings[best]):
        cold = torch.from_numpy(content.rows[folds_R == f])
        with_fold_QN, fold_QC = validation.open_scores(scores_QN), users_QD @ placed_CD.T
        open_QC = with_fold_QN[:, cold].isfinite()
        for step in OFFSETS:
            with_fold_QN[:, cold] = (fold_QC + step * deviation).masked_fill(~open_QC, float("-inf"))
            top_QK = with_fold_QN.topk(min(10, content.items), dim=1).indices
            shown[step] += float(torch.isin(top_QK, cold).float().mean()) / FOLDS
    # Every target is unknown in one fold of ten.
    step = min(shown, key=lambda step: (abs(shown[step] - 1 / FOLDS), step))
    return _Choice(best, step * deviation, recalls, shown)


def _recall_among(
    content: _Content,
    folds_R: npt.NDArray[np.int64],
    validation: Validation,
    users_QD: Tensor,
    placings: list[Tensor],
) -> float:
    """Share of validation targets among the best ten of their fold's items, what was seen left out."""
    hits, asked = 0, 0
    for f, placed_CD in enumerate(placings):
        cold = torch.from_numpy(content.rows[folds_R == f])
        chosen = torch.isin(validation.targets, cold).nonzero().flatten()
        scores_QN = torch.full((len(chosen), content.items), float("-inf"))
        scores_QN[:, cold] = users_QD[chosen] @ placed_CD.T
        hits += int((validation.gains_of_scores(scores_QN, chosen) > 0).sum())
        asked += len(chosen)
    return hits / max(asked, 1)
