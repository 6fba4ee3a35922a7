"""Where an item stands that only its text is known of: content-to-ID regression, as a bundle stores it.

v(text) = scaled to `norm`: W [TF-IDF(text) ; years(text) ; 1]; behind it the constants that encoders with appended ones
ask for. Of a fusion each part's piece of the vector is scaled to a length of its own. Beside a text tower
v(text) = share * tower(text) + W [...], at whatever length that has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    model_validator,
)
from safetensors.torch import save_file
from torch import Tensor

from model_store.errors import BundleRefused
from model_store.module_files import read_config, read_tensors
from model_store.tf_idf import TfIdf
from model_store.years import year_features

CONFIG = "placer/config.json"
WEIGHTS = "placer/weights.safetensors"
NEEDED = (CONFIG, WEIGHTS)
Floats = npt.NDArray[np.float64]


class Piece(BaseModel):
    """width: coordinates of an item vector that one part of a fusion reads. norm: their length in a new item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt
    norm: NonNegativeFloat


class PlacerConfig(BaseModel):
    """placer/config.json. item_text: the template over title, text, categories and year that texts were made with.
    norm: of a new item's vector. pieces: of a fusion, each part's, in order; they have lengths of their own instead.
    tower_share: of the vector of the bundle's text tower in a new item's; the rest is what W predicts, as it stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["content_regression"] = "content_regression"
    item_text: str
    vocabulary: tuple[str, ...]
    unseen: PositiveFloat
    years: tuple[int, ...] = ()  # centres of `year_features`
    norm: PositiveFloat | None = None
    pieces: tuple[Piece, ...] = ()
    tower_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    constants: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.norm is None) != (self.tower_share is not None):
            raise ValueError("norm is given where tower_share is not")
        return self


def content_features(tf_idf: TfIdf, years: Sequence[int], texts: Sequence[str]) -> scipy.sparse.csr_array:
    """float64 [N, W + C + 1]: word weights, years, and a one."""
    one_N1 = scipy.sparse.csr_array(np.ones((len(texts), 1)))
    return scipy.sparse.hstack([tf_idf.vectors(texts), year_features(texts, years), one_N1]).tocsr()


def scaled(predicted_ND: Floats, pieces: Sequence[Piece]) -> Floats:
    """float64 [N, D]: each piece of a row at its length; a zero piece (nothing is known of the text) stays zero."""
    placed_ND = np.empty_like(predicted_ND)
    start = 0
    for piece in pieces:
        part_NW = predicted_ND[:, start : start + piece.width]
        lengths_N1 = np.linalg.norm(part_NW, axis=1, keepdims=True)
        placed_ND[:, start : start + piece.width] = part_NW / np.where(lengths_N1 > 0, lengths_N1, 1.0) * piece.norm
        start += piece.width
    return placed_ND


@dataclass(frozen=True, slots=True, eq=False)
class ItemPlacer:
    """An `ItemTextEncoder` beside an encoder that knows items by ID. weights_FD: float64 [W + C + 1, D]."""

    config: PlacerConfig
    tf_idf: TfIdf
    weights_FD: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    @property
    def dim(self) -> int:
        return int(self.weights_FD.shape[1]) + len(self.config.constants)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """float32 [N, D], in the space of the item vectors."""
        placed_ND = self._predicted(texts)
        if self.config.norm is not None:
            whole = Piece(width=self.weights_FD.shape[1], norm=self.config.norm)
            placed_ND = scaled(placed_ND, self.config.pieces or (whole,))
        constants = np.tile(np.array(self.config.constants), (len(texts), 1))
        return torch.from_numpy(np.concatenate((placed_ND, constants), axis=1)).float()

    def beside(self, tower_ND: Tensor, texts: Sequence[str]) -> Tensor:
        """float32 [N, D]: new items of these texts, which the bundle's text tower puts at tower_ND."""
        assert self.config.tower_share is not None
        width = self.weights_FD.shape[1]
        new_ND = tower_ND.clone()
        new_ND[:, :width] *= self.config.tower_share
        new_ND[:, :width] += torch.from_numpy(self._predicted(texts)).float()
        return new_ND

    def _predicted(self, texts: Sequence[str]) -> Floats:
        return np.asarray(content_features(self.tf_idf, self.config.years, texts) @ self.weights_FD)

    def write(self, folder: Path) -> None:
        """Into the bundle folder `folder`."""
        (folder / "placer").mkdir()
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        tensors = {"idf_W": torch.from_numpy(self.tf_idf.idf_W), "weights_FD": torch.from_numpy(self.weights_FD)}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


_PLACER = TypeAdapter(PlacerConfig)


def read_placer(folder: Path) -> ItemPlacer | None:
    """None where the bundle has none; BundleRefused when its files do not fit each other."""
    if not (folder / CONFIG).exists():
        return None
    config = read_config(folder / CONFIG, _PLACER, CONFIG)
    if not (folder / WEIGHTS).exists():
        raise BundleRefused(f"{WEIGHTS} is missing")
    tensors = read_tensors(folder / WEIGHTS)
    try:
        idf_W, weights_FD = (tensors[name].double().numpy() for name in ("idf_W", "weights_FD"))
    except KeyError as error:
        raise BundleRefused(f"{WEIGHTS} lacks {error}") from error
    words, features = len(config.vocabulary), len(config.vocabulary) + len(config.years) + 1
    if idf_W.shape != (words,) or weights_FD.ndim != 2 or len(weights_FD) != features:
        raise BundleRefused(f"{WEIGHTS} does not fit the {words} words and {len(config.years)} years of {CONFIG}")
    if not (np.isfinite(idf_W).all() and np.isfinite(weights_FD).all()):
        raise BundleRefused(f"{WEIGHTS}: not every number is finite")
    return ItemPlacer(config, TfIdf(config.vocabulary, idf_W, config.unseen), weights_FD)
