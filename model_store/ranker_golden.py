"""A ranker proves, as the encoder does, that it still says what it said when the bundle was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from model_store.errors import BundleRefused
from model_store.golden import read_recorded, write_recorded
from model_store.manifest import GoldenTolerances
from model_store.ranker import InterpolatedRanker
from model_store.ranker_files import GOLDEN
from model_store.retrieval import Rows

QUERIES = 4  # a verbalizer reads hundreds of tokens for each, and a load waits for it
# Of what softmax_K sees: differences between scores. They are smaller than the scores, and their rounding is not.
TOLERANCES = {
    "float32": GoldenTolerances(cosine=1e-4, norm=1e-2),
    "bfloat16": GoldenTolerances(cosine=2e-2, norm=2e-1),
}


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRanking:
    """histories: Q histories. item_rows_QK: their candidates, -1 pads. opinions_QK: float32, the ranker's scores."""

    histories: HistoryBatch
    item_rows_QK: Tensor
    opinions_QK: Tensor

    @classmethod
    def record(cls, ranker: InterpolatedRanker, histories: HistoryBatch, candidates: Sequence[Rows]) -> GoldenRanking:
        """candidates: per history, best first."""
        rows = [torch.from_numpy(found) for found in candidates]
        rows_QK = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        with torch.inference_mode():
            opinions_QK = ranker.opinions(histories, rows_QK).clone()
        if not torch.isfinite(opinions_QK).all():
            raise ValueError("a golden score of the ranker is not finite")
        return cls(histories, rows_QK, opinions_QK)

    @classmethod
    def read(cls, folder: Path) -> GoldenRanking:
        return read_recorded(cls, folder, GOLDEN)

    def write(self, folder: Path) -> None:
        tensors = {"item_rows_QK": self.item_rows_QK, "opinions_QK": self.opinions_QK}
        write_recorded(self.histories, tensors, folder / GOLDEN)

    def replay(self, ranker: InterpolatedRanker, *, tolerances: GoldenTolerances) -> None:
        """BundleRefused unless the ranker scores as recorded, all at once and one by one."""
        with torch.inference_mode():
            whole = ranker.opinions(self.histories, self.item_rows_QK)
            singles = [
                ranker.opinions(self.histories.select([q]), self.item_rows_QK[q, None])
                for q in range(len(self.histories))
            ]
        for path, opinions_QK in (("whole batch", whole), ("one by one", torch.cat(singles))):
            if reason := self.mismatch(opinions_QK, tolerances=tolerances):
                raise BundleRefused(f"{GOLDEN}: {path}: {reason}")

    def mismatch(self, opinions_QK: Tensor, *, tolerances: GoldenTolerances) -> str | None:
        """Why these scores are not the golden ones; None when they are. A common offset changes no softmax."""
        if opinions_QK.shape != self.opinions_QK.shape:
            return f"scores are {tuple(opinions_QK.shape)}, not {tuple(self.opinions_QK.shape)}"
        given, golden = (self._centred(scores) for scores in (opinions_QK, self.opinions_QK))
        norms, golden_norms = given.norm(dim=1), golden.norm(dim=1)
        both_zero = (norms == 0) & (golden_norms == 0)  # a single candidate has no difference to another
        cosines = torch.where(both_zero, 1.0, (given * golden).sum(dim=1) / (norms * golden_norms))
        # Written so that NaN fails.
        near = (cosines >= 1 - tolerances.cosine) & ((norms - golden_norms).abs() <= tolerances.norm * golden_norms)
        return None if near.all() else f"the scores of query {int((~near).nonzero()[0])} are not the recorded ones"

    def _centred(self, opinions_QK: Tensor) -> Tensor:
        present_QK = self.item_rows_QK >= 0
        scores_QK = opinions_QK.double().cpu().where(present_QK, 0.0)
        mean_Q1 = scores_QK.sum(dim=1, keepdim=True) / present_QK.sum(dim=1, keepdim=True).clamp(min=1)
        return (scores_QK - mean_Q1).where(present_QK, 0.0)
