"""An answer for when there is no time for the whole one: a light encoder in the same item space, and no ranker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from app.serving import Serving
from app.work import Found, StageTimes, Urgency, Work, by_serving
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Candidates, Want


@dataclass(frozen=True, slots=True, eq=False)
class Light(Work[Found]):
    """Goes before everything else, for it is over in a moment."""

    urgency: ClassVar[Urgency] = Urgency.LIGHT
    history: torch.Tensor  # int32 [T], T >= 1, cut to the light encoder's window
    want: Want
    serving: Serving

    @staticmethod
    def possible(bundle: Bundle, *, rerank: bool) -> bool:
        """Whether the bundle has something lighter than the whole answer; where a ranker is heavy, the search alone."""
        return bundle.fallback is not None or (bundle.ranker is not None and bundle.ranker.depth > 0 and rerank)

    @classmethod
    def of(cls, serving: Serving, rows: Sequence[int], want: Want) -> Light | None:
        """None where that is not possible."""
        bundle = serving.bundle
        if not cls.possible(bundle, rerank=want.rerank):
            return None
        encoder = bundle.fallback if bundle.fallback is not None else bundle.encoder
        window = HistoryBatch.of([rows]).windowed(encoder.max_history, encoder.jump)
        tokens = max(1, encoder.token_counts(window)[0])
        return cls(bundle, tokens, None, window.rows, replace(want, rerank=False), serving)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Found]]) -> list[Found]:
        entries = [entry for entry in batch if isinstance(entry, Light)]
        started = time.perf_counter()
        vectors_BD = bundle.encode_light(HistoryBatch.of([entry.history for entry in entries]))
        encoded = time.perf_counter()
        found: dict[int, Candidates] = {}
        for group in by_serving(entries):
            found |= zip(group.places, group.serving.search(vectors_BD[group.places], group.wants), strict=True)
        times = StageTimes(encoded - started, time.perf_counter() - encoded, 0.0)
        return [Found(found[b], times, len(entries)) for b in range(len(entries))]
