"""The parts a trained model hands to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.ranker import Ranker


@dataclass(frozen=True, slots=True, eq=False)
class BundleParts:
    """What `ModelStore.stage` writes.

    encoder: in the form that is served (merged, cast, eval mode).
    item_vectors_ND: float32, exactly what training scored against.
    golden_histories: 32 whole histories of all lengths, from the training split.
    controls: name of a part (adapter, projector, item table) -> the same encode without that part, float32 [B, D];
        golden queries must fail on each of them, else the manifest says that they prove nothing of it.
    adapter: folder in PEFT format. tokenizer: a tokenizer.json. base: identity of the base LM.
    """

    family: str
    catalog: ItemCatalog
    encoder: QueryEncoder
    item_vectors_ND: Tensor
    golden_histories: HistoryBatch
    controls: Mapping[str, Callable[[HistoryBatch], Tensor]] = field(default_factory=dict)
    ranker: Ranker | None = None
    fallback: QueryEncoder | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    base: str | None = None
