"""An offset per item that is part of its vector: one appended coordinate, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from model_store.encoder_files import as_stored, suit
from model_store.encoders.appended import AppendedConfig, AppendedEncoder
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.item_placer import ItemPlacer
from model_store.staging import BundleParts
from offline.evaluation.full_ranking import encoded
from offline.evaluation.validation import Validation
from offline.language.tower_export import with_constant, with_value


def with_offsets(parts: BundleParts, offsets_N: Tensor, *, new: float | None = None) -> BundleParts:
    """The same bundle with offsets_N float32 [N] added to every score; in the coordinate that is there, if one is.

    new: the offset of items to come; None: as that of the item that fewest have chosen.
    """
    items_ND = parts.item_vectors_ND.clone()
    new = float(offsets_N[int(parts.catalog.popularity.argmin())]) if new is None else new
    if isinstance(parts.encoder, AppendedEncoder):
        items_ND[:, -1] += offsets_N
        tower = with_constant(parts.text_tower, new, added=True)
        return replace(
            parts, item_vectors_ND=items_ND, text_tower=tower, placer=_placing(parts.placer, new, added=True)
        )
    config = AppendedConfig(inner=parts.encoder.config)  # type: ignore[arg-type]  # one of the union
    light = parts.fallback
    return replace(
        parts,
        encoder=config.build(parts.encoder).eval(),
        fallback=light and AppendedConfig(inner=light.config).build(light).eval(),  # type: ignore[arg-type]  # as above
        item_vectors_ND=torch.cat((items_ND, offsets_N[:, None]), dim=1),
        text_tower=with_constant(parts.text_tower, new, added=False),
        placer=_placing(parts.placer, new, added=False),
        controls={name: _appended(control) for name, control in parts.controls.items()},
    )


def _placing(placer: ItemPlacer | None, value: float, *, added: bool) -> ItemPlacer | None:
    """As `with_constant` of a text tower."""
    if placer is None:
        return None
    constants = with_value(placer.config.constants, value, added=added)
    return replace(placer, config=placer.config.model_copy(update={"constants": constants}))


def _appended(control: Callable[[HistoryBatch], Tensor]) -> Callable[[HistoryBatch], Tensor]:
    def with_one(histories: HistoryBatch) -> Tensor:
        vectors_BD = control(histories)
        return torch.cat((vectors_BD, torch.ones_like(vectors_BD[:, :1])), dim=1)

    return with_one


def validation_vectors(parts: BundleParts, validation: Validation) -> Tensor:
    """float32 [Q, D]: query vectors of the validation queries."""
    with _computing(parts.encoder):
        return encoded(parts.encoder, validation.queries, name=parts.family)


@contextmanager
def _computing(encoder: QueryEncoder) -> Iterator[None]:
    """In what is fast here; afterwards as it is to be stored."""
    suit(encoder, "cpu")
    try:
        yield
    finally:
        as_stored(encoder)
