"""What of a bundle can place an item by its text alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import ItemTextEncoder
from model_store.item_placer import ItemPlacer
from model_store.item_text import item_text

TITLE = "{title}"


@dataclass(frozen=True, slots=True, eq=False)
class ItemReader:
    """template: of the texts that `encoder` was made for.

    by_meaning: all items stand where their texts put them, so a text can be searched with; else (content regression
    beside an encoder that knows items by ID) a text is only the best guess for an item that training never saw.
    beside: what such items are placed by together with `encoder`, where the bundle has both.
    """

    encoder: ItemTextEncoder
    template: str
    by_meaning: bool
    beside: ItemPlacer | None = None

    def text(self, *, title: str, text: str | None, categories: Sequence[str]) -> str:
        return item_text(self.template, {"title": title, "text": text, "categories": categories})

    def vectors(self, texts: Sequence[str], new: Sequence[bool]) -> Tensor:
        """float32 [N, D] in the space of the item vectors. new: which are of items that training never saw."""
        made_ND = self.encoder.encode_texts(texts).float().cpu()
        rows = [row for row, unseen in enumerate(new) if unseen]
        if self.beside is not None and rows:
            made_ND[rows] = self.beside.beside(made_ND[rows], [texts[row] for row in rows])
        return made_ND


def item_reader(bundle: Bundle) -> ItemReader | None:
    """None for a bundle that knows items by their IDs and nothing else."""
    if bundle.text_tower is not None:
        template = bundle.text_tower.config.item_text
        return ItemReader(bundle.text_tower, template, by_meaning=True, beside=bundle.placer)
    if isinstance(bundle.encoder, ItemTextEncoder):
        return ItemReader(bundle.encoder, TITLE, by_meaning=True)
    if bundle.placer is not None:
        return ItemReader(bundle.placer, bundle.placer.config.item_text, by_meaning=False)
    return None
