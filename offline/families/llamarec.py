"""LlamaRec: a sequence encoder retrieves, a language model reorders what it found.

Yue et al., 2023, "LlamaRec: Two-Stage Recommendation using Large Language Models for Ranking"; theirs learns from
random negatives and is tested on the retriever's candidates. Ours mines candidates by retrievers that have not seen
the user, and weighs the ranker against the retriever: the weight is chosen on validation, where it never loses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceEncoder
from model_store.ranker import InterpolatedRanker
from model_store.rankers.verbalizer import VerbalizerRanker
from model_store.token_blocks import tokenize_blocks
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.language.language_models import save_adapter
from offline.ranking.fold_retrievers import FoldRetriever, fold_retrievers, retriever_recipe
from offline.ranking.mined_candidates import MinedTarget, draw_prompts, mine
from offline.ranking.ranked_parts import pointwise_controls, pointwise_ranker, ranked_parts
from offline.ranking.reranking import RerankingProblem, best_ndcg10, choose_weight, keep_weight
from offline.ranking.verbalizer_objective import VerbalizerObjective
from offline.ranking.verbalizer_training import (
    Identifiers,
    served_verbalizer,
    untrained_verbalizer,
    verbalizer_controls,
)
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.text_stages.healing import heal, refuse_without_healing
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stage_adapters import combined, take_adapter
from offline.text_stages.stages import Staged, TokenPlan
from offline.training.loop import FitPlan, fit

MINED = 100
READER = "the verbalizer"
OF_BOTH = frozenset({"seed", "retriever", "ranker", "vectors_from", "window"})


class Recipe(LanguageModelRecipe):
    """retriever: the SASRec version whose encoder and index the bundle answers with.

    ranker: `verbalizer` reads history and `window` candidates in one prompt; `pointwise` takes the inner products of
    another version, `vectors_from` (a language-model family), which is not trained again. window: candidates that are
    reordered; windows: so many prompts per request, each with its own. identifiers: of the places in a window,
    `letters` or tokens that the base has never seen (`unused`); they learn at fit.item_learning_rate.
    folds, targets_per_user: of the mining; prompts: at most so many of the mined targets are learnt from.
    validation_prompts: so many queries judge each epoch; the weight is chosen on all.
    healing: a stage on serialised histories that gives a truncated base its head back, before the ranker learns; a
    base that lacks layers is refused without it. The adapters of both stages are served merged.
    """

    reranks = True

    retriever: str
    ranker: Literal["verbalizer", "pointwise"] = "verbalizer"
    vectors_from: str | None = None
    window: PositiveInt = 20
    windows: PositiveInt = 1
    item_text: str = "{title}"
    max_text_tokens: PositiveInt = 12
    prompt: str = "Chosen, oldest first:\n"
    candidates_prompt: str = "Candidates:\n"
    answer_prompt: str = "Chosen next:\n"
    identifiers: Identifiers = "letters"
    max_history: PositiveInt = 20
    folds: PositiveInt = 5
    targets_per_user: PositiveInt = 4
    prompts: PositiveInt | None = None
    validation_prompts: PositiveInt = 500
    healing: TokenPlan | None = None
    fit: FitPlan = FitPlan(
        learning_rate=5e-4, warmup_steps=20, epochs=3, batch=16, decay=True, evaluate_every=1, average=1, clip=1.0
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.ranker == "pointwise":
            if self.vectors_from is None:
                raise ValueError('ranker = "pointwise" scores with another version\'s vectors: set vectors_from')
            fields = type(self).model_fields
            if unused := sorted(n for n in fields if n not in OF_BOTH and getattr(self, n) != fields[n].default):
                raise ValueError(f'ranker = "pointwise" trains nothing and reads no text: remove {", ".join(unused)}')
        elif self.vectors_from is not None:
            raise ValueError('ranker = "verbalizer" reads text and no vectors: remove vectors_from')
        if self.window < 2:
            raise ValueError("window = 1 leaves nothing to reorder: set window = 2 or more")
        if self.folds < 2:
            raise ValueError("folds = 1 would leave nobody to fit a retriever to: set folds = 2 or more")
        return self

    def parent_references(self) -> dict[str, str]:
        named = {"retriever": self.retriever}
        return named if self.vectors_from is None else named | {"vectors_from": self.vectors_from}

    @property
    def refits(self) -> bool:
        return True

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        # Healing is judged by users that no stage on text learns from, in a final fit too.
        return ("weight",) if self.ranker == "pointwise" else ("best_epoch", "fold_epochs", "weight")

    @property
    def weighed_parents(self) -> tuple[str, ...]:
        return tuple(self.parent_references())

    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        retriever = parents["retriever"]
        if not isinstance(retriever.encoder, SequenceEncoder):
            raise ValueError(
                f"retriever: {retriever.version} ({retriever.manifest.family}) is no sequence encoder: name a SASRec"
            )
        problem = RerankingProblem.of(dataset, retriever, depth=self.window * self.windows)
        if self.ranker == "pointwise":
            ranker = pointwise_ranker(parents["vectors_from"], window=self.window)
            log = self._weighed(problem, ranker)
            parts = ranked_parts(dataset, retriever, ranker=ranker)
            return TrainedModel(replace(parts, ranker_controls=pointwise_controls(ranker)), log=log)
        return self._verbalizer(dataset, checkpoints, retriever=retriever, problem=problem)

    def _verbalizer(
        self, dataset: SequenceDataset, checkpoints: Path, *, retriever: Bundle, problem: RerankingProblem
    ) -> TrainedModel:
        refuse_without_healing(self.lm, READER, healing=self.healing)
        staged, head_VH = self._readable(dataset, checkpoints)
        mined, fold_epochs = self._mined(dataset, retriever, checkpoints)
        torch.manual_seed(self.seed)
        ranker = self._untrained(dataset, staged.base, head_VH=head_VH)
        adapted = self.lm.with_adapters(ranker.lm)
        objective = VerbalizerObjective(ranker, dropout=self.dropout)
        judged = problem.sample(self.validation_prompts)
        progress = fit(
            objective,
            lambda epoch: self._prompts(dataset, mined, epoch),
            plan=self.fit,
            validate=lambda: best_ndcg10(judged, ranker),
            checkpoints=checkpoints,
            seed=self.seed,
        )
        objective.cpu()
        one = combined(self.lm, [*staged.adapters, take_adapter(adapted)]) if staged.adapters else adapted
        served = served_verbalizer(ranker, self.lm, one)
        log = progress.figures() | {"mined": len(mined), "fold_epochs": fold_epochs} | self._weighed(problem, served)
        if staged.logs:
            log |= {"stages": staged.logs, "seconds": progress.seconds + staged.seconds}
        return TrainedModel(
            replace(
                ranked_parts(dataset, retriever, ranker=served),
                ranker_controls=verbalizer_controls(served, self.lm),
                ranker_adapter=save_adapter(one, checkpoints / "adapter"),
                tokenizer=staged.base.tokenizer_file,
                base=staged.base.identity,
            ),
            log=log,
        )

    def _weighed(self, problem: RerankingProblem, ranker: InterpolatedRanker) -> dict[str, object]:
        return choose_weight(problem, ranker) if self._chosen is None else keep_weight(ranker, self._chosen)

    def _readable(self, dataset: SequenceDataset, checkpoints: Path) -> tuple[Staged, Tensor | None]:
        """The base, healed where that is asked for, and then its head."""
        if self.healing is None:
            return Staged.start(self.lm), None
        base = self.lm.open()
        blocks, prefix = self._item_blocks(dataset, base), self._prefix(base)
        text = SerialisedHistories(dataset, blocks, prefix=prefix, max_history=self.max_history)
        healed = heal(self.lm, text, plan=self.healing, checkpoints=checkpoints, seed=self.seed)
        healed.refuse_unless_readable(READER)
        return healed.staged, healed.head_VH

    def _untrained(self, dataset: SequenceDataset, base: Base, *, head_VH: Tensor | None) -> VerbalizerRanker:
        prefix, middle, suffix = (
            tokenize_blocks(base.tokenizer_file, [text])
            for text in (self.prompt, self.candidates_prompt, self.answer_prompt)
        )
        return untrained_verbalizer(
            base,
            self._item_blocks(dataset, base),
            prompt=(prefix, middle, suffix),
            window=self.window,
            windows=self.windows,
            max_history=self.max_history,
            identifiers=self.identifiers,
            dtype=self.lm.dtype,
            head_VH=head_VH,
        )

    def _mined(
        self, dataset: SequenceDataset, retriever: Bundle, checkpoints: Path
    ) -> tuple[list[MinedTarget], list[int | None]]:
        """The targets, and how many epochs each fold's retriever has trained."""
        folds = fold_retrievers(
            dataset,
            retriever_recipe(retriever),
            folds=self.folds,
            seed=self.seed,
            checkpoints=checkpoints,
            epochs=None if self._chosen is None else self._chosen["fold_epochs"],  # type: ignore[arg-type]  # of JSON
        )
        epochs: list[int | None] = []

        def noted() -> Iterator[FoldRetriever]:
            for fold in folds:
                epochs.append(fold.best_epoch)
                yield fold

        mined = mine(dataset, noted(), per_user=self.targets_per_user, depth=MINED, seed=self.seed)
        if self.prompts is None or self.prompts >= len(mined):
            return mined, epochs
        drawn = torch.randperm(len(mined), generator=torch.Generator().manual_seed(self.seed))[: self.prompts]
        return [mined[place] for place in drawn.sort().values.tolist()], epochs

    def _prompts(self, dataset: SequenceDataset, mined: list[MinedTarget], epoch: int) -> HistoryBatch:
        return draw_prompts(
            mined,
            trained_N=torch.from_numpy(dataset.trained_items),
            window=self.window,
            max_history=self.max_history,
            seed=self.seed,
            epoch=epoch,
        )
