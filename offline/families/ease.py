"""EASE, recency-weighted: closed form, and the best cheap row without a language model on small catalogues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

import offline.recipe
from model_store.bundle import Bundle
from model_store.encoders.weighted_sum import WeightedSumConfig, WeightedSumEncoder
from model_store.staging import BundleParts
from offline.ease import Factors, ease_weights, factorise
from offline.evaluation.baselines import RecencyEase
from offline.evaluation.metrics import Floats
from offline.evaluation.validation import Validation
from offline.finishing.golden_histories import golden_histories
from offline.finishing.weight_search import check_fusible, choose_weights, part_scores
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset

EXACT_UP_TO = 3_000  # items: both factors of a full rank cost 8 N^2 bytes
TRUNCATED_RANK = 1_024
CHOSEN = "validation"
LAMS = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
TAUS = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 16.0, 32.0)
STEPS = 20  # of the weight beside another version, while ridge and decay are chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """log: what was tried, empty where nothing was."""

    weights_NN: Floats
    lam: float
    tau: float | None
    log: dict[str, object]


class Recipe(offline.recipe.Recipe):
    """score(i) = sum_j exp(-(n - j) / tau) B[h_j, i], B of EASE (Steck, 2019) on the training split.

    lam: ridge. tau: decay in items; None weighs the whole history alike (plain EASE). Either may be "validation": the
    value of LAMS or TAUS by which validation NDCG@10 is best, the smallest of equals. rank: of the factors of B; None
    is exact up to 3,000 items and 1,024 above.
    beside: a version, or `run:NAME`, that this one is to be fused with: what is chosen is best for the weighted sum of
        both, the weight as good as it gets. The best alone forgets too fast beside what knows the last items already.
    Nothing is drawn: a seed names `beside` and changes nothing else.
    """

    lam: PositiveFloat | Literal["validation"] = 200.0
    tau: PositiveFloat | Literal["validation"] | None = 10.0
    rank: PositiveInt | None = None
    beside: str | None = None

    @model_validator(mode="after")
    def _something_is_chosen_beside_it(self) -> Self:
        if self.beside is not None and CHOSEN not in (self.lam, self.tau):
            raise ValueError(
                "beside is what lam and tau are chosen for, and both are given: "
                'set lam or tau = "validation", or leave beside out'
            )
        return self

    def parent_references(self) -> dict[str, str]:
        return {} if self.beside is None else {"beside": self.beside}

    @property
    def knows_items_by_id(self) -> bool:
        return True

    @property
    def refits(self) -> bool:
        return True

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        return tuple(key for key in ("lam", "tau") if getattr(self, key) == CHOSEN)

    def refitted(self, log: Mapping[str, object]) -> Self:
        return self.model_copy(update={key: log[key] for key in self.chosen_figures} | {"beside": None})

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:  # noqa: ARG002
        choice = self._choice(dataset, None if self.beside is None else parents["beside"])
        items = len(dataset.catalog)
        rank = self.rank if self.rank is not None or items <= EXACT_UP_TO else TRUNCATED_RANK
        factors = factorise(choice.weights_NN, rank)
        parts = BundleParts(
            family="ease",
            catalog=dataset.catalog,
            encoder=_encoder(factors, choice.tau),
            item_vectors_ND=torch.from_numpy(factors.right_ND),
            golden_histories=golden_histories(dataset.train),
            controls={"item table": _encoder(_of_other_items(factors), choice.tau)},
        )
        return TrainedModel(parts, log={"rank": factors.left_ND.shape[1], "kept_of_B": factors.kept} | choice.log)

    def _choice(self, dataset: SequenceDataset, partner: Bundle | None) -> _Choice:
        """One matrix is fitted per ridge; validation sees the matrix itself, not its factors."""
        items = len(dataset.catalog)
        if not isinstance(self.lam, str) and not isinstance(self.tau, str):
            return _Choice(ease_weights(dataset.train, items, lam=self.lam), self.lam, self.tau, {})
        lams = LAMS if isinstance(self.lam, str) else (self.lam,)
        taus = TAUS if isinstance(self.tau, str) else (self.tau,)
        validation = Validation.of(dataset)
        judge = _judge(dataset, validation, partner)
        figures: dict[tuple[float, float | None], float] = {}
        best: _Choice | None = None
        for lam in lams:
            weights_NN = ease_weights(dataset.train, items, lam=lam)
            for tau in taus:
                scores_QN = RecencyEase(weights_NN, tau=tau)(validation.histories)
                figure = judge(torch.from_numpy(scores_QN).float())
                if best is None or figure > max(figures.values()):
                    best = _Choice(weights_NN, lam, tau, {})
                figures[lam, tau] = figure
        assert best is not None, "there are lams and taus"
        tried = {f"lam {lam:g}, tau {tau}": round(figure, 4) for (lam, tau), figure in figures.items()}
        return replace(best, log={"lam": best.lam, "tau": best.tau, "ndcg@10_by_lam_and_tau": tried})


def _judge(dataset: SequenceDataset, validation: Validation, partner: Bundle | None) -> Callable[[Tensor], float]:
    """Validation NDCG@10 of scores float32 [Q, N], which are written into: alone, or best weighed beside another's."""
    if partner is None:
        return validation.ndcg_of_scores
    check_fusible(partner, dataset)
    theirs_QN, trained_N = part_scores(partner, validation), torch.from_numpy(dataset.trained_items)

    def beside(scores_QN: Tensor) -> float:
        fusion = choose_weights([theirs_QN, scores_QN], validation, steps=STEPS, trained_N=trained_N)
        return max(fusion.ndcg10.values())

    return beside


def _encoder(factors: Factors, tau: float | None) -> WeightedSumEncoder:
    items, dim = factors.left_ND.shape
    config = WeightedSumConfig(items=items, dim=dim, max_history=2_000, jump=500, decay_items=tau)
    encoder = config.build()
    encoder.left.weight.data = torch.from_numpy(factors.left_ND)
    return encoder.eval()


def _of_other_items(factors: Factors) -> Factors:
    """The rows of the item table in reverse order: nothing of what was learnt is at its place."""
    return Factors(factors.left_ND[::-1].copy(), factors.right_ND, factors.kept)
