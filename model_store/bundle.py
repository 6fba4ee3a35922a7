"""A version in memory: everything that is needed to answer a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_store.catalog import ItemCatalog
from model_store.encoder_files import read_encoder
from model_store.encoders.history import Encoded, Growing, HistoryBatch, QueryEncoder, UserState
from model_store.fallback_files import read_fallback, replay_fallback
from model_store.golden import GoldenQueries
from model_store.index_memory import Floats
from model_store.item_index import ItemIndex
from model_store.item_placer import ItemPlacer, read_placer
from model_store.manifest import Manifest
from model_store.ranker import Ranker, reranked
from model_store.ranker_files import read_ranker
from model_store.ranker_golden import GoldenRanking
from model_store.retrieval import Candidates, Rows, Want
from model_store.text_tower import TextTower
from model_store.text_tower_files import read_text_tower
from model_store.verification import read_catalog, read_index, read_manifest, verify_contents, verify_files


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Immutable. Belongs to whoever loads it until it is published, and to the inference thread afterwards.

    Histories are given whole; the bundle cuts them to the encoder's window, the same way offline and online.
    placer: an `ItemTextEncoder` for items that the encoder knows by ID alone, where the bundle has one. text_tower:
    one by which all items stand where they are. fallback: a light encoder in the same item space, for when there is no
    time for `encoder`.
    """

    manifest: Manifest
    catalog: ItemCatalog
    encoder: QueryEncoder
    index: ItemIndex
    ranker: Ranker | None = None
    placer: ItemPlacer | None = None
    text_tower: TextTower | None = None
    fallback: QueryEncoder | None = None

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Bundle:
        """Checks everything in this process, then opens. BundleRefused names the file and the reason."""
        verify_contents(folder, verify_files(folder))
        return cls.open(folder, device)

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> Bundle:
        """Opens a folder that `preparing.prepare` made (verified, private to this host), and replays its golden
        queries. No checksum is taken here: the loader's thread must not hold the interpreter for long.
        """
        manifest = read_manifest(folder)
        bundle = cls(
            manifest,
            read_catalog(folder),
            read_encoder(folder, device=device),
            read_index(folder, device=device),
            ranker := read_ranker(folder, device=device),
            read_placer(folder),
            read_text_tower(folder, device=device),
            fallback := read_fallback(folder, device=device),
        )
        GoldenQueries.read(folder).replay(bundle.encoder, bundle.index, tolerances=manifest.golden)
        if ranker is not None:
            assert manifest.ranker_golden is not None  # verify_contents has looked
            GoldenRanking.read(folder).replay(ranker, tolerances=manifest.ranker_golden)
        if fallback is not None:
            replay_fallback(fallback, bundle.index, folder)
        return bundle

    @property
    def version(self) -> str:
        return self.manifest.version

    @torch.inference_mode()
    def encode(self, histories: HistoryBatch, states: Sequence[UserState | None] | None = None) -> Encoded:
        """Query vectors, float32 [B, D] on the CPU, of whole histories; ValueError for an empty one.

        states: per history what is known of it; given (if only Nones), a growing encoder reads the new items alone and
        returns new states. A state that is no proper prefix of the windowed history is not used.
        """
        if len(histories) and int(histories.lengths.min()) == 0:
            raise ValueError("an empty history has no query vector")
        histories = histories.windowed(self.manifest.max_history, self.manifest.jump)
        if states is None or not isinstance(self.encoder, Growing):
            vectors_BD = self.encoder(histories)
            return Encoded(vectors_BD.float().cpu(), (None,) * len(histories))
        usable: list[UserState | None] = []
        new: list[torch.Tensor] = []
        for b, state in enumerate(states):
            history = histories.history(b)
            known = len(state.rows) if state is not None else 0
            fits = state is not None and known < len(history) and tuple(history[:known].tolist()) == state.rows
            usable.append(state if fits else None)
            new.append(history[known:] if fits else history)
        grown = self.encoder.extend(usable, HistoryBatch.of(new))
        return Encoded(grown.vectors_BD.float().cpu(), grown.states)

    @torch.inference_mode()
    def encode_light(self, histories: HistoryBatch) -> torch.Tensor:
        """As `encode`, by the light encoder where there is one: float32 [B, D], matched with the same items."""
        if self.fallback is None:
            return self.encode(histories).vectors_BD
        windowed = histories.windowed(self.fallback.max_history, self.fallback.jump)
        vectors_BD: torch.Tensor = self.fallback(windowed)
        return vectors_BD.float().cpu()

    def search(self, vectors_BD: Floats | torch.Tensor, wants: Sequence[Want]) -> list[Candidates]:
        """The exact top max(k, the ranker's depth) under each want's filters."""
        return self.index.search(
            vectors_BD,
            wants,
            allowed=[self._allowed(want) for want in wants],
            counts=[max(want.k, self.ranker.depth) if self.ranker and want.rerank else want.k for want in wants],
        )

    def rank(self, histories: HistoryBatch, candidates: Sequence[Candidates]) -> list[Candidates]:
        """Lets the ranker reorder the first `depth` where the want asks for it, and cuts to k."""
        ranked = list(candidates)
        depth = 0 if self.ranker is None else self.ranker.depth
        chosen = [b for b, found in enumerate(candidates) if depth and found.want.rerank and len(found.rows)]
        if self.ranker is not None and chosen:
            windowed = histories.windowed(self.manifest.max_history, self.manifest.jump).select(chosen)
            rows_BK = _padded([candidates[b].rows[:depth] for b in chosen], -1)
            retriever_BK = _padded([candidates[b].scores[:depth] for b in chosen], 0.0)
            with torch.inference_mode():
                scores_BK = self.ranker.score(windowed, rows_BK, retriever_BK).double().cpu().numpy()
            for b, scores_K in zip(chosen, scores_BK, strict=True):
                ranked[b] = reranked(candidates[b], scores_K[: len(candidates[b].rows)])
        return [Candidates(c.want, c.rows[: c.want.k], c.scores[: c.want.k], c.exhausted) for c in ranked]

    def retrieve(self, histories: HistoryBatch, wants: Sequence[Want]) -> list[Candidates]:
        """Encode, search, rank: what evaluation measures and, with caches in between, what the service answers."""
        return self.rank(histories, self.search(self.encode(histories).vectors_BD, wants))

    def popular(self, wants: Sequence[Want]) -> list[Candidates]:
        """The most popular items under the same filters; scores are their popularity.

        A service asks on its event loop: nothing here sorts a part of the catalogue.
        """
        found = []
        for want in wants:
            most = want.k + len(want.excluded_rows)  # no more than the excluded can drop out
            order = self._most_popular(most, self._allowed(want))
            rows = order[~np.isin(order, want.excluded_rows)][: want.k]
            scores = self.catalog.popularity[rows].astype(np.float64)
            found.append(Candidates(want, rows, scores, exhausted=len(rows) < want.k))
        return found

    def _most_popular(self, count: int, allowed: Rows | None) -> Rows:
        order = self.catalog.by_popularity
        if allowed is None:
            return order[:count]
        allowed_N = np.zeros(len(order), dtype=bool)
        allowed_N[allowed[(allowed >= 0) & (allowed < len(order))]] = True
        for share in (64, 8, 1):  # of a broad category, a small part of the catalogue holds enough
            rows = order[: len(order) // share]
            rows = rows[allowed_N[rows]][:count]
            if len(rows) == count:
                break
        return rows

    def _allowed(self, want: Want) -> Rows | None:
        if want.categories is None:
            return want.allowed_rows
        rows = self.catalog.rows_in(want.categories)
        return rows if want.allowed_rows is None else np.intersect1d(rows, want.allowed_rows)


def _padded(parts: Sequence[npt.NDArray[Any]], padding: float) -> torch.Tensor:
    rows = [torch.from_numpy(part) for part in parts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
