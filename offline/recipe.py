"""The contract of a family: hyper-parameters, and one method that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.sequences import SequenceDataset


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """parts: what the bundle will hold. log: figures of the training (curves, chosen epoch), for the record."""

    parts: BundleParts
    log: dict[str, object] = field(default_factory=dict)


class Recipe(BaseModel, ABC):
    """The fields are the hyper-parameters; a run file's [recipe] section is validated by them.

    A family is one module in `offline/families/` with one class named `Recipe` that derives from this one; the file's
    name is the family's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0

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

    @abstractmethod
    def train(self, dataset: SequenceDataset, checkpoints: Path, parents: Mapping[str, Bundle]) -> TrainedModel:
        """Fit to `dataset.train`, choose on `dataset.validation`; resume from `checkpoints` when something is there.

        parents: the versions that the recipe names, opened; each carries the same split fingerprint.
        """
