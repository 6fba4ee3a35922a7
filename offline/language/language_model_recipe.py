"""What the recipes of language-model families share: the reading of items, the next-item stage, and the export."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from peft import PeftModel
from pydantic import Field, PositiveInt
from torch import Tensor

import offline.recipe
from model_store.base_models import BaseModel as Base
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.encoders.token_row import TokenBlocks
from model_store.text_tower import TextTower, TextTowerConfig
from model_store.token_blocks import tokenize_blocks
from offline.evaluation.validation import Validation
from offline.language.item_text import item_texts
from offline.language.item_towers import CachedTower, FrozenTower
from offline.language.language_model_export import language_model_parts
from offline.language.language_models import LanguageModel, TextVectors, text_vectors
from offline.language.light_fallback import light_fallback
from offline.language.tower_export import text_tower
from offline.recipe import TrainedModel
from offline.splits.sequences import SequenceDataset
from offline.text_stages.stage_adapters import StageAdapter
from offline.training.loop import FitPlan, fit
from offline.training.read_out_objective import ReadOutNextItem
from offline.training.windows import cuts, training_windows


class LanguageModelRecipe(offline.recipe.Recipe, ABC):
    """item_text: the template of what is read of an item, cut at max_text_tokens.

    prompt: stands before the first item.
    targets_per_user: of encoders that give one vector per history, targets drawn of each user in each epoch.
    """

    reads_text = True

    max_text_tokens: PositiveInt = 48
    prompt: str = "Items in the order they were chosen, oldest first:\n"
    max_history: PositiveInt = 50
    targets_per_user: PositiveInt = 10
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    lm: LanguageModel = LanguageModel()
    fit: FitPlan

    @property
    def needs_texts(self) -> bool:
        # What answers with another version's vectors reads as that version does.
        return "vectors_from" not in self.parent_references()

    @property
    def _jump(self) -> int:
        return max(1, self.max_history // 4)

    def _prefix(self, base: Base) -> tuple[int, ...]:
        return tuple(tokenize_blocks(base.tokenizer_file, [self.prompt]).tokens.tolist())

    def _item_blocks(self, dataset: SequenceDataset, base: Base) -> TokenBlocks:
        """One block per item, the same in training and serving: " " + item text + "\\n"."""
        texts = [f" {text}\n" for text in item_texts(dataset.items, self.item_text)]
        blocks = tokenize_blocks(base.tokenizer_file, texts, max_tokens=self.max_text_tokens)
        silent = (blocks.offsets.diff() == 0).nonzero().flatten().tolist()
        if not silent:
            return blocks
        # Of a tokenizer that drops white space: an item without a text would have no place to be read at.
        for row in silent:
            texts[row] = " ?\n"
        return tokenize_blocks(base.tokenizer_file, texts, max_tokens=self.max_text_tokens)

    def _text_vectors(self, dataset: SequenceDataset) -> TextVectors:
        return text_vectors(
            self.lm,
            item_texts(dataset.items, self.item_text),
            max_tokens=self.max_text_tokens,
            trained_N=dataset.trained_items,
        )

    def _text_tower(
        self,
        tower: FrozenTower | CachedTower,
        dataset: SequenceDataset,
        base: Base,
        *,
        served: LanguageModelEncoder,
        causal: bool = True,
    ) -> TextTower:
        """What placed the items, as it is served. served: the encoder as exported: its language model is the adapted
        one."""
        frozen = isinstance(tower, FrozenTower)
        config = TextTowerConfig(
            lm=base.config,
            vocabulary=1,
            inner_dim=served.dim,
            item_text=self.item_text,
            max_tokens=self.max_text_tokens,
            causal=causal,
        )
        texts = item_texts(dataset.items, self.item_text)
        if not frozen:
            read_as = config.model_copy(update={"before": " ", "after": "\n", "empty": ""})
            return text_tower(
                base,
                served.lm,
                tower.head,
                settings=self.lm,
                texts=texts,
                config=read_as,
                trained_N=dataset.trained_items,
            )
        reader = self.lm.open_for_texts()
        config = config.model_copy(update={"lm": reader.config, "centred": True, "causal": True})
        centre_H = self._text_vectors(dataset).centre_H
        return text_tower(
            reader,
            reader.lm,
            tower.head,
            settings=self.lm,
            texts=texts,
            config=config,
            trained_N=dataset.trained_items,
            centre_H=centre_H,
        )

    def _windows(
        self, dataset: SequenceDataset, objective: ReadOutNextItem
    ) -> HistoryBatch | Callable[[int], HistoryBatch]:
        if not objective.single_target:
            return training_windows(dataset.train, self.max_history)
        return lambda epoch: cuts(
            dataset.train, self.max_history, per_user=self.targets_per_user, seed=self.seed, epoch=epoch
        )

    def _exported(self, encoder: LanguageModelEncoder) -> PeftModel | None:  # noqa: ARG002 - for those that override
        """The plain LoRA that a trained gated one is merged as; None serves it unmerged."""
        return None

    def _trained(
        self,
        family: str,
        objective: ReadOutNextItem,
        dataset: SequenceDataset,
        *,
        adapted: PeftModel | None,
        base: Base,
        checkpoints: Path,
        choose: Callable[[Tensor, Validation], dict[str, object]] | None = None,
        before: Sequence[StageAdapter] = (),
        items_of: Bundle | None = None,
    ) -> TrainedModel:
        """Fit the one stage, choose on validation what `choose` chooses (given the item vectors), and export.

        adapted: the encoder's LM as PEFT sees it; None where the encoder's LoRA is gated.
        before: the adapters of earlier stages, merged into `base`.
        items_of: the version whose items training began with: its encoder is the light one if they are still the same.
        """
        validation = Validation.of(dataset)
        progress = fit(
            objective,
            self._windows(dataset, objective),
            plan=self.fit,
            validate=lambda: validation.ndcg10(objective.encoder, objective.refresh()),
            checkpoints=checkpoints,
            seed=self.seed,
        )
        item_vectors_ND = objective.eval().refresh()
        log = progress.figures() | (choose(item_vectors_ND, validation) if choose else {})
        objective.cpu()
        parts = language_model_parts(
            family,
            dataset,
            objective.encoder,
            item_vectors_ND=item_vectors_ND,
            settings=self.lm,
            adapted=self._exported(objective.encoder) if adapted is None else adapted,
            base=base,
            adapter_folder=checkpoints / "adapter",
            before=before,
        )
        if items_of is not None:
            parts = replace(parts, fallback=light_fallback(items_of, item_vectors_ND))
        return TrainedModel(parts, log=log)
