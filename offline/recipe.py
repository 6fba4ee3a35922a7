"""The contract of a family: hyper-parameters, and one method that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator, model_validator

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.language.item_text import check_template
from offline.splits.sequences import SequenceDataset


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """parts: what the bundle will hold. log: figures of the training (curves, chosen epoch), for the record."""

    parts: BundleParts
    log: dict[str, object] = field(default_factory=dict)


class Recipe(BaseModel, ABC):
    """The fields are the hyper-parameters; a run file's [recipe] section is validated by them.

    A family is one module in `offline/families/` with one class named `Recipe` that derives from this one; the file's
    name is the family's name.

    cold_start: `regression` places items that training never saw by a regression from their text (`item_text`, a
        template over title, text, categories and year); for families that know items by ID alone, and halfway for those
        whose bundle has a text tower.
    popularity_debiasing: takes a part of log popularity from every score, as much as validation likes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reranks: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False  # training does: `item_text` is part of what it depends on

    seed: int = 0
    item_text: str = "{title} ({year}) | {categories}"
    cold_start: Literal["none", "regression"] = "none"
    popularity_debiasing: bool = False

    # Not a field: what a twin chose is no part of the recipe, neither of its record nor of its fingerprint.
    _chosen: Mapping[str, object] | None = PrivateAttr(default=None)

    @field_validator("item_text")
    @classmethod
    def _known_fields(cls, template: str) -> str:
        return check_template(template)

    @model_validator(mode="after")
    def _what_is_done_after_training_is_possible(self) -> Self:
        if self.cold_start == "regression" and not (self.knows_items_by_id or self.has_text_tower):
            raise ValueError(
                'cold_start = "regression" is for families that train one vector per item ID, or publish the text '
                'tower that they place items by, and this one does neither: set cold_start = "none"'
            )
        if self.popularity_debiasing and self.reranks:
            raise ValueError(
                "popularity_debiasing = true changes the scores that a ranker was weighed against: set it to false, or "
                "debias the retriever's own run"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _sections_keep_the_family_s_values(cls, given: Any) -> Any:
        """A sub-section that a run file writes in part ([recipe.fit]) changes those keys and no others."""
        if not isinstance(given, dict):
            return given
        completed = dict(given)
        for name, field_info in cls.model_fields.items():
            section = given.get(name)
            if isinstance(section, dict) and isinstance(field_info.default, BaseModel):
                completed[name] = field_info.default.model_dump(exclude_unset=True) | section
        return completed

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Self:
        """The recipe that a manifest's provenance holds. It names every field: those that stand at their defaults count
        as not written, as in the run file, for a recipe may refuse a pair only where both were asked for.
        """
        defaults = {
            name: info.get_default(call_default_factory=True)
            for name, info in cls.model_fields.items()
            if not info.is_required()
        }
        dumped = {name: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for name, v in defaults.items()}
        return cls.model_validate({k: v for k, v in record.items() if k not in dumped or v != dumped[k]})

    def parent_references(self) -> dict[str, str]:
        """Role -> version, or `run:NAME` for the newest version of that run: what `train` gets as `parents`."""
        return {}

    @property
    def knows_items_by_id(self) -> bool:
        """Whether it has no vector of its own for an item that training never saw."""
        return False

    @property
    def has_text_tower(self) -> bool:
        """Whether its bundles can place an item by its text as training placed all items."""
        return False

    @property
    def needs_texts(self) -> bool:
        """Whether data in which no item has a text cannot be trained on."""
        return self.cold_start == "regression"

    @property
    def refits(self) -> bool:
        """Whether `refitted` can tell all that was chosen; else a run cannot ask for `final_fit`."""
        return False

    @property
    def chosen_figures(self) -> tuple[str, ...]:
        """Keys of the training log that hold what this recipe's training chooses on validation."""
        return ("best_epoch",) if hasattr(self, "fit") else ()

    @property
    def weighed_parents(self) -> tuple[str, ...]:
        """Roles of the parents whose scores a chosen weight adds to others: of a final fit they must be final fits, for
        a weight between two models that knew the same events says nothing of two that do not. It starts from others.
        """
        return ()

    def refitted(self, log: Mapping[str, object]) -> Self:
        """The recipe that trains as this one was found best to, and chooses nothing.

        log: of that training; it holds every one of `chosen_figures`, and `train` finds it as `_chosen`.
        """
        plan, best = getattr(self, "fit", None), log.get("best_epoch")
        changes = {} if plan is None else {"fit": plan.model_copy(update={"stop_after": best})}
        refitted = self.model_copy(update=changes)
        refitted._chosen = log
        return refitted

    @abstractmethod
    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        """Fit to `dataset.train`, choose on `dataset.validation`; resume from `checkpoints` when something is there.

        parents: the versions that the recipe names, opened; each carries the same split fingerprint.
        """
