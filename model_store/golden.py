"""Golden queries: a bundle proves on whatever hardware serves it that it answers as it did when it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from model_store.encoders.history import AllPositions, Growing, HistoryBatch, QueryEncoder
from model_store.errors import BundleRefused
from model_store.item_index import ItemIndex
from model_store.manifest import GoldenTolerances
from model_store.module_files import read_tensors
from model_store.retrieval import Want

FILE = "golden.safetensors"
QUERIES = 32
TOP = 10
TOLERANCES = {
    "float32": GoldenTolerances(cosine=1e-5, norm=1e-3),
    "bfloat16": GoldenTolerances(cosine=1e-3, norm=1e-2),
    "float16": GoldenTolerances(cosine=1e-3, norm=1e-2),
}


T = TypeVar("T")


def read_recorded(kind: Callable[..., T], folder: Path, name: str) -> T:
    """kind(histories, **tensors) of what `write_recorded` wrote; BundleRefused where the tensors are not its fields."""
    tensors = read_tensors(folder / name)
    try:
        return kind(HistoryBatch(tensors.pop("history_rows"), tensors.pop("history_offsets")), **tensors)
    except (KeyError, TypeError) as error:
        raise BundleRefused(f"{name} lacks a tensor, or has one too many: {error}") from error


def write_recorded(histories: HistoryBatch, tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({**tensors, "history_rows": histories.rows, "history_offsets": histories.offsets}, file)


@dataclass(frozen=True, slots=True, eq=False)
class GoldenQueries:
    """histories: Q windowed histories. vectors_QD: float32. rows_QK, scores_QK: the top 11 (fewer in a tiny catalogue);
    the 11th is the mark that the ten above it are held to."""

    histories: HistoryBatch
    vectors_QD: Tensor
    rows_QK: Tensor
    scores_QK: Tensor

    @classmethod
    def record(cls, encoder: QueryEncoder, index: ItemIndex, histories: HistoryBatch) -> GoldenQueries:
        """Of the encoder and index as they will be served; `histories` are windowed."""
        with torch.inference_mode():
            vectors_QD = encoder(histories).float().cpu().clone()
        if not torch.isfinite(vectors_QD).all():
            raise ValueError("a golden query vector is not finite")
        found = index.search(vectors_QD, [_want(index) for _ in range(len(histories))])
        rows_QK = torch.from_numpy(np.stack([each.rows for each in found]))
        scores_QK = torch.from_numpy(np.stack([each.scores for each in found]))
        return cls(histories, vectors_QD, rows_QK, scores_QK)

    @classmethod
    def read(cls, folder: Path, name: str = FILE) -> GoldenQueries:
        return read_recorded(cls, folder, name)

    def write(self, folder: Path, name: str = FILE) -> None:
        tensors = {name: getattr(self, name).contiguous() for name in ("vectors_QD", "rows_QK", "scores_QK")}
        write_recorded(self.histories, tensors, folder / name)

    def replay(
        self, encoder: QueryEncoder, index: ItemIndex, *, tolerances: GoldenTolerances, name: str = FILE
    ) -> None:
        """BundleRefused unless every encode path gives the recorded vectors and items, within tolerance."""
        with torch.inference_mode():
            for path, vectors_QD in encode_paths(encoder, self.histories):
                if reason := self.mismatch(vectors_QD, index, tolerances=tolerances):
                    raise BundleRefused(f"{name}: {path}: {reason}")

    def mismatch(self, vectors_QD: Tensor, index: ItemIndex, *, tolerances: GoldenTolerances) -> str | None:
        """Why these vectors are not the golden ones; None when they are."""
        vectors_QD = vectors_QD.float().cpu()
        failing = self.failing(vectors_QD, tolerances=tolerances)
        if failing.any():
            return f"query vector {int(failing.nonzero()[0])} is not the recorded one"
        found = index.search(vectors_QD, [_want(index) for _ in range(len(self.histories))])
        for q, candidates in enumerate(found):
            if missing := self._held(q, index, tolerances=tolerances) - set(candidates.rows[:TOP].tolist()):
                return f"query {q} no longer finds item row {min(missing)} among its first {TOP}"
        return None

    def failing(self, vectors_QD: Tensor, *, tolerances: GoldenTolerances) -> Tensor:
        """bool[Q]: whose cosine or norm lies outside the tolerances. A cosine alone misses a lost temperature."""
        given, golden = vectors_QD.double(), self.vectors_QD.double()
        if given.shape != golden.shape:
            return torch.ones(len(golden), dtype=torch.bool)
        norms, golden_norms = given.norm(dim=1), golden.norm(dim=1)
        # Of two zero vectors (a history of items without weight) the cosine is undefined, and they are equal.
        both_zero = (norms == 0) & (golden_norms == 0)
        cosines = torch.where(both_zero, 1.0, (given * golden).sum(dim=1) / (norms * golden_norms))
        # Written so that NaN fails.
        near: Tensor = (cosines >= 1 - tolerances.cosine) & (
            (norms - golden_norms).abs() <= tolerances.norm * golden_norms
        )
        return near.logical_not()

    def _held(self, q: int, index: ItemIndex, *, tolerances: GoldenTolerances) -> set[int]:
        """Golden rows that stand so far above the 11th that no tolerated vector can lose them."""
        if self.rows_QK.shape[1] <= TOP:
            return set()
        spread = float(self.vectors_QD[q].norm()) * index.max_norm * math.sqrt(2 * tolerances.cosine)
        sure = self.scores_QK[q, :TOP] > self.scores_QK[q, TOP] + spread
        return set(self.rows_QK[q, :TOP][sure].tolist())


def encode_paths(encoder: QueryEncoder, histories: HistoryBatch) -> Iterator[tuple[str, Tensor]]:
    """Every way in which this encoder can be asked for the same vectors, [Q, D] each.

    An optional path may refuse these histories (ValueError), and is then left out: it refuses when serving as well.
    """
    singles = [histories.select([q]) for q in range(len(histories))]
    yield "whole batch", encoder(histories)
    yield "one by one", torch.cat([encoder(single) for single in singles])
    optional: list[tuple[str, Callable[[], Tensor]]] = []
    if isinstance(encoder, AllPositions):
        ends_Q = histories.offsets[1:] - 1
        optional.append(("all positions", lambda: encoder.forward_positions(histories)[ends_Q]))
    if isinstance(encoder, Growing):
        optional.append(("from nothing", lambda: encoder.extend([None] * len(histories), histories).vectors_BD))
        optional.append(("extended", lambda: _extended(encoder, histories)))
    for name, path in optional:
        try:
            yield name, path()
        except ValueError:
            continue


def _extended(encoder: Growing, histories: HistoryBatch) -> Tensor:
    """The first half of each history is read, and then the rest upon it; a single item is read upon nothing."""
    whole = [histories.history(q) for q in range(len(histories))]
    long = [q for q, history in enumerate(whole) if len(history) > 1]
    states = {}
    if long:
        read = encoder.extend([None] * len(long), HistoryBatch.of([whole[q][: len(whole[q]) // 2] for q in long]))
        states = dict(zip(long, read.states, strict=True))
    rest = [history[len(history) // 2 :] if q in states else history for q, history in enumerate(whole)]
    return encoder.extend([states.get(q) for q in range(len(whole))], HistoryBatch.of(rest)).vectors_BD


def choose(
    histories: HistoryBatch,
    vectors_QD: Tensor,
    *,
    controls: Mapping[str, Tensor],
    tolerances: GoldenTolerances,
) -> list[int]:
    """Which of `histories` to keep: 32 evenly taken ones, with one that notices each missing part where any does."""
    count = len(histories)
    taken = [int(q) for q in np.linspace(0, count - 1, min(QUERIES, count)).round()]
    offered = GoldenQueries(histories, vectors_QD, torch.empty(0), torch.empty(0))
    needed = set()
    for without_QD in controls.values():
        noticing = offered.failing(without_QD.float().cpu(), tolerances=tolerances).nonzero().flatten().tolist()
        if noticing and not set(noticing) & set(taken):
            needed.add(noticing[0])
    kept = taken[: len(taken) - max(0, len(taken) + len(needed) - QUERIES)]
    return sorted({*kept, *needed})


def _want(index: ItemIndex) -> Want:
    return Want(k=min(TOP + 1, len(index)), rerank=False)
