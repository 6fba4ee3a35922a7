"""How much a ranker adds to its retriever, by the code that serves; the weight between the two is chosen here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.ranker import InterpolatedRanker, interpolated, reranked
from model_store.retrieval import Candidates, Want
from offline.evaluation.metrics import weighted_mean
from offline.splits.sequences import SequenceDataset

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
TOGETHER = 64  # queries whose prompts are laid out at once


@dataclass(frozen=True, slots=True, eq=False)
class RerankingProblem:
    """What the retriever found for the validation queries, searched once. Items of cold events are not offered: nothing
    about them may be chosen on.

    histories: cut to the retriever's window. weights: of each query in a mean, None: all alike (`Queries`).
    depth: how many of each the ranker sees. rows_QK: int64 [Q, depth], best first, -1 pads; scores_QK: float64.
    """

    histories: HistoryBatch
    targets: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64] | None
    found: list[Candidates]
    depth: int
    rows_QK: Tensor
    scores_QK: Tensor

    @classmethod
    def of(cls, dataset: SequenceDataset, retriever: Bundle, *, depth: int) -> RerankingProblem:
        """retriever: a bundle without a ranker."""
        queries = dataset.validation
        cold = np.flatnonzero(dataset.cold_items).astype(np.int64)
        found: list[Candidates] = []
        for part in _parts(len(queries), 256):
            vectors_BD = retriever.encode(queries.histories.select(part)).vectors_BD
            seen = [queries.seen_items.history(q).numpy() if dataset.exclude_seen else cold[:0] for q in part]
            wants = [Want(max(depth, 10), excluded_rows=np.union1d(rows, cold).astype(np.int64)) for rows in seen]
            found += retriever.search(vectors_BD, wants)
        rows_QK = torch.full((len(found), depth), -1, dtype=torch.int64)
        scores_QK = torch.zeros(len(found), depth, dtype=torch.float64)
        for q, each in enumerate(found):
            rows_QK[q, : len(each.rows[:depth])] = torch.from_numpy(each.rows[:depth])
            scores_QK[q, : len(each.rows[:depth])] = torch.from_numpy(each.scores[:depth])
        windowed = queries.histories.windowed(retriever.manifest.max_history, retriever.manifest.jump)
        return cls(windowed, queries.targets, queries.weights, found, depth, rows_QK, scores_QK)

    def sample(self, most: int) -> RerankingProblem:
        """So many of its queries at most, drawn once by a constant seed."""
        order = torch.randperm(len(self.found), generator=torch.Generator().manual_seed(0))
        drawn = order[:most].sort().values.tolist()
        return RerankingProblem(
            self.histories.select(drawn),
            self.targets[drawn],
            None if self.weights is None else self.weights[drawn],
            [self.found[q] for q in drawn],
            self.depth,
            self.rows_QK[drawn],
            self.scores_QK[drawn],
        )

    @torch.inference_mode()
    def opinions(self, ranker: InterpolatedRanker) -> Tensor:
        """float32 [Q, depth] on the CPU."""
        was_training = ranker.training
        ranker.eval()
        parts = [
            ranker.opinions(self.histories.select(part), self.rows_QK[part.start : part.stop])
            for part in _parts(len(self.found), TOGETHER)
        ]
        ranker.train(was_training)
        return torch.cat(parts)

    def ndcg10(self, opinions_QK: Tensor, *, weight: float) -> float:
        """Of the lists as they would be served with that weight."""
        gains = [
            _gain(found, target) for found, target in zip(self._lists(opinions_QK, weight), self.targets, strict=True)
        ]
        return float(weighted_mean(np.array(gains), self.weights))

    def recall(self) -> float:
        """Share of queries whose target the ranker sees at all: what no order can pass."""
        seen_Q = (self.rows_QK == torch.from_numpy(self.targets).long()[:, None]).any(dim=1)
        return float(weighted_mean(seen_Q.double().numpy(), self.weights))

    def _lists(self, opinions_QK: Tensor, weight: float) -> list[Candidates]:
        if weight == 0:
            return self.found
        final_QK = interpolated(self.scores_QK, opinions_QK, present_BK=self.rows_QK >= 0, weight=weight).numpy()
        return [
            reranked(found, final_K[: len(found.rows)]) if len(found.rows) else found
            for found, final_K in zip(self.found, final_QK, strict=True)
        ]


def choose_weight(problem: RerankingProblem, ranker: InterpolatedRanker) -> dict[str, object]:
    """Sets the ranker's weight (until now above 0) to the best on these queries, the smallest among equals: never
    below the retriever.

    The figures: G = (N_rerank - N_retriever) / (R@K - N_retriever), the share taken of what any order of these
    candidates could add to NDCG@10; and what it costs.
    """
    tokens = float(np.mean(ranker.token_counts(problem.histories)))
    started = time.perf_counter()
    opinions_QK = problem.opinions(ranker)
    seconds = time.perf_counter() - started
    figures = {weight: problem.ndcg10(opinions_QK, weight=weight) for weight in WEIGHTS}
    best = max(figures, key=lambda weight: (figures[weight], -weight))
    ranker.config = ranker.config.model_copy(update={"weight": best})
    recall, alone = problem.recall(), figures[0.0]
    return {
        "weight": best,
        "ndcg@10_by_weight": {str(weight): figure for weight, figure in figures.items()},
        "retriever_ndcg@10": alone,
        "reranked_ndcg@10": figures[best],
        f"recall@{problem.depth}": recall,
        "G": (figures[best] - alone) / (recall - alone) if recall > alone else 0.0,
        "rank_ms_per_request": 1000 * seconds / max(1, len(problem.found)),
        "rank_tokens_per_request": tokens,
    }


def keep_weight(ranker: InterpolatedRanker, chosen: Mapping[str, object]) -> dict[str, object]:
    """Sets the ranker's weight to that of the log `chosen`; the figure for the log."""
    weight = chosen["weight"]
    assert isinstance(weight, float)
    ranker.config = ranker.config.model_copy(update={"weight": weight})
    return {"weight": weight}


def best_ndcg10(problem: RerankingProblem, ranker: InterpolatedRanker) -> float:
    """At the weight that is best for it: what training is judged by."""
    opinions_QK = problem.opinions(ranker)
    return max(problem.ndcg10(opinions_QK, weight=weight) for weight in WEIGHTS[1:])


def _gain(found: Candidates, target: int) -> float:
    places = np.flatnonzero(found.rows[:10] == target)
    return 1 / float(np.log2(2 + places[0])) if len(places) else 0.0


def _parts(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
