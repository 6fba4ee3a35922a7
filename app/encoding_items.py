"""Where a bundle puts an item by what is written of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from app.item_records import ItemRecord
from app.work import Urgency, Work
from model_store.bundle import Bundle
from model_store.index_memory import Floats
from model_store.item_reader import item_reader


class NotPlaced(ValueError):
    """The encoder made no usable vector of a text."""


@dataclass(frozen=True, slots=True, eq=False)
class TextEncoding(Work[Floats]):
    """The vector of one text in the space of the bundle's items, float32 [D]. ValueError: it has none.

    new: it is of an item that training never saw, which some bundles place by more than where such a text stands.
    """

    urgency: ClassVar[Urgency] = Urgency.TEXT
    text: str
    new: bool

    @classmethod
    def of(cls, bundle: Bundle, text: str, *, new: bool = False) -> TextEncoding:
        return cls(bundle, 1 + len(text.encode()) // 4, None, text, new)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Floats]]) -> list[Floats]:
        reader = item_reader(bundle)
        assert reader is not None, "only a bundle that can read is asked to"
        entries = [entry for entry in batch if isinstance(entry, TextEncoding)]
        with torch.inference_mode():
            vectors = reader.vectors([entry.text for entry in entries], [entry.new for entry in entries])
        vectors_ND = np.ascontiguousarray(vectors.numpy(), dtype=np.float32)
        if vectors_ND.shape != (len(batch), bundle.manifest.dim):
            raise NotPlaced(f"texts became vectors of shape {vectors_ND.shape}")
        if not np.isfinite(vectors_ND).all():
            raise NotPlaced("a text became a vector that is not finite")
        return list(vectors_ND)


def own_vector(bundle: Bundle, item_id: str) -> Floats | None:
    """What training made of the item, where the bundle knows it by more than its text: a new title moves it nowhere."""
    row = bundle.catalog.row(item_id)
    if row is None:
        return None
    reader = item_reader(bundle)
    kept = reader is None or (not reader.by_meaning and not is_new(bundle, item_id))
    return bundle.index.vectors_ND[row].copy() if kept else None


def is_new(bundle: Bundle, item_id: str) -> bool:
    """Whether training never saw anybody choose the item."""
    row = bundle.catalog.row(item_id)
    return row is None or int(bundle.catalog.popularity[row]) == 0


def can_show(bundle: Bundle, item_id: str) -> bool:
    """Whether the bundle can ever have a vector for this item."""
    return item_reader(bundle) is not None or bundle.catalog.row(item_id) is not None


def text_of(bundle: Bundle, record: ItemRecord) -> str:
    """What the bundle reads of an item, as it was trained to."""
    reader = item_reader(bundle)
    assert reader is not None
    return reader.text(title=record.title, text=record.text, categories=record.categories)
