"""A bundle and its overlay as one catalogue: the same answers as of a bundle that had the items from the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from app.overlay import Overlay
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.index_memory import Floats
from model_store.retrieval import Candidates, Rows, Want

MOST_DROPPED = 1000  # hidden rows of the bundle that are fetched and dropped; with more, only the others are scored


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """readable: what the encoder can read, oldest first. seen: all rows under which those items may be found now.

    unknown: ids that neither bundle nor overlay has. An item of the overlay alone is seen and not readable.
    """

    readable: list[int]
    seen: list[int]
    unknown: list[str]


@dataclass(frozen=True, eq=False)
class Serving:
    """One immutable object: a request that has taken it meets the same items from its first step to its last."""

    bundle: Bundle
    overlay: Overlay

    @classmethod
    def of(cls, bundle: Bundle) -> Serving:
        """Without a change."""
        return cls(bundle, Overlay())

    def row(self, item_id: str) -> int | None:
        """Where the item is found now; None for one that is unknown or removed."""
        added = self.overlay.items.get(item_id)
        if added is not None:
            return added.row
        row = self.bundle.catalog.row(item_id)
        return None if row is None or row in self._hidden else row

    def rows(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """As `ItemCatalog.rows`."""
        if self.overlay.changes_nothing:
            return self.bundle.catalog.rows(item_ids)
        found = [(item_id, self.row(item_id)) for item_id in item_ids]
        return [row for _, row in found if row is not None], [item_id for item_id, row in found if row is None]

    def history(self, item_ids: Sequence[str]) -> HistoryRows:
        """A changed item is read as the encoder learnt it, and so is a removed one: the user did choose it."""
        readable, unread = self.bundle.catalog.rows(item_ids)
        if self.overlay.changes_nothing:
            return HistoryRows(readable, readable, unread)
        added = [self.overlay.items[item_id].row for item_id in item_ids if item_id in self.overlay.items]
        unknown = [item_id for item_id in unread if item_id not in self.overlay.items]
        return HistoryRows(readable, readable + added, unknown)

    def ids(self, rows: Rows) -> list[str]:
        known = self.bundle.catalog.ids
        return [known[row] if row < len(known) else self.overlay.at_row[row].record.item_id for row in rows.tolist()]

    def titles(self, rows: Rows) -> list[str]:
        if self.overlay.changes_nothing:
            return self.bundle.catalog.titles(rows)
        size = len(self.bundle.catalog)
        return [
            self.bundle.catalog.titles([row])[0] if row < size else self.overlay.at_row[row].record.title
            for row in rows.tolist()
        ]

    def describe(self, row: int) -> dict[str, object]:
        """item_id, title, text, categories, popularity of one item."""
        if row < len(self.bundle.catalog):
            return self.bundle.catalog.describe(row)
        item = self.overlay.at_row[row]
        return {
            "item_id": item.record.item_id,
            "title": item.record.title,
            "text": item.record.text,
            "categories": list(item.record.categories),
            "popularity": item.popularity,
        }

    def vector(self, row: int) -> Floats:
        """float32 [D]."""
        size = len(self.bundle.catalog)
        return self.bundle.index.vectors_ND[row] if row < size else self.overlay.at_row[row].vector_D

    def search_titles(self, text: str, limit: int) -> list[int]:
        """As `ItemCatalog.search_titles`."""
        catalog, overlay = self.bundle.catalog, self.overlay
        if overlay.changes_nothing:
            return catalog.search_titles(text, limit)
        found = [row for row in catalog.search_titles(text, limit + len(overlay.hidden)) if row not in self._hidden]
        ranked = [(-int(catalog.popularity[row]), row) for row in found]
        ranked += [(-overlay.at_row[row].popularity, row) for row in overlay.search_titles(text.lower().split())]
        return [row for _, row in sorted(ranked)[:limit]]

    def search(self, vectors_BD: Floats | torch.Tensor, wants: Sequence[Want]) -> list[Candidates]:
        """As `Bundle.search`: both parts are scored by the same canonical routine, so they merge exactly."""
        if self.overlay.changes_nothing:
            return self.bundle.search(vectors_BD, wants)
        found = self.bundle.search(vectors_BD, [self._of_bundle(want) for want in wants])
        if not self.overlay.items:
            return [replace(one, want=want) for one, want in zip(found, wants, strict=True)]
        added = self.overlay.index.search(
            vectors_BD,
            [replace(want, excluded_rows=self.overlay.places(want.excluded_rows)) for want in wants],
            allowed=[self.overlay.allowed(want) for want in wants],
            counts=[self._count(want) for want in wants],
        )
        return [
            self._merged(want, one, replace(other, rows=self.overlay.rows[other.rows]), count=self._count(want))
            for want, one, other in zip(wants, found, added, strict=True)
        ]

    def rank(self, histories: HistoryBatch, candidates: Sequence[Candidates]) -> list[Candidates]:
        """As `Bundle.rank`. The ranker does not know added items: each keeps the place that the search gave it."""
        size = len(self.bundle.catalog)
        added = [np.flatnonzero(found.rows >= size) for found in candidates]
        if not any(len(places) for places in added):
            return self.bundle.rank(histories, candidates)
        known = [
            replace(found, rows=np.delete(found.rows, places), scores=np.delete(found.scores, places))
            for found, places in zip(candidates, added, strict=True)
        ]
        ranked = self.bundle.rank(histories, known)
        asked = self.bundle.ranker is not None and self.bundle.ranker.depth > 0
        return [
            _put_back(found, one, places, keep_scores=not (asked and found.want.rerank))
            for found, one, places in zip(candidates, ranked, added, strict=True)
        ]

    def popular(self, wants: Sequence[Want]) -> list[Candidates]:
        """As `Bundle.popular`."""
        if self.overlay.changes_nothing:
            return self.bundle.popular(wants)
        found = self.bundle.popular([self._of_bundle(want) for want in wants])
        return [
            self._merged(want, one, self._popular_added(want), count=want.k)
            for want, one in zip(wants, found, strict=True)
        ]

    def _popular_added(self, want: Want) -> Candidates:
        overlay = self.overlay
        allowed = overlay.allowed(want) if overlay.items else np.empty(0, dtype=np.int64)
        places = np.arange(len(overlay.rows)) if allowed is None else allowed
        places = places[~np.isin(overlay.rows[places], want.excluded_rows)]
        return Candidates(want, overlay.rows[places], overlay.popularity[places].astype(np.float64), exhausted=False)

    def _of_bundle(self, want: Want) -> Want:
        """What the bundle is asked: its hidden rows are dropped after the search, or never scored."""
        hidden = self.overlay.hidden
        if not len(hidden):
            return want
        if len(hidden) <= MOST_DROPPED:
            return replace(want, excluded_rows=np.union1d(want.excluded_rows, hidden))
        allowed = self._shown
        if want.allowed_rows is not None:
            allowed = np.intersect1d(allowed, want.allowed_rows)
        return replace(want, allowed_rows=allowed)

    def _count(self, want: Want) -> int:
        ranker = self.bundle.ranker
        return max(want.k, ranker.depth) if ranker is not None and want.rerank else want.k

    def _merged(self, want: Want, one: Candidates, other: Candidates, *, count: int) -> Candidates:
        rows, scores = np.concatenate((one.rows, other.rows)), np.concatenate((one.scores, other.scores))
        order = np.lexsort((rows, -scores))[:count]
        return Candidates(want, rows[order], scores[order], exhausted=len(order) < want.k)

    @cached_property
    def _hidden(self) -> frozenset[int]:
        return frozenset(self.overlay.hidden.tolist())

    @cached_property
    def _shown(self) -> Rows:
        return np.delete(np.arange(len(self.bundle.catalog)), self.overlay.hidden)


def _put_back(found: Candidates, ranked: Candidates, places: Rows, *, keep_scores: bool) -> Candidates:
    """The added items of `found` at their places among the ranked ones, cut to k."""
    size = min(found.want.k, len(ranked.rows) + len(places))
    rows: list[int] = ranked.rows.tolist()
    scores: list[float] = ranked.scores.tolist()
    for place in places[places < size].tolist():
        rows.insert(place, int(found.rows[place]))
        if keep_scores:
            score = float(found.scores[place])
        else:  # scores fall all the way down, and a ranker's compare within one answer only
            score = scores[place - 1] if place else float(np.nextafter(scores[0], np.inf)) if scores else 0.0
        scores.insert(place, score)
    return Candidates(found.want, np.array(rows[:size], np.int64), np.array(scores[:size], np.float64), found.exhausted)
