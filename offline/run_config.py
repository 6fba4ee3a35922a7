"""A run file: which data, which protocol, which family with which hyper-parameters, and what `tune` may vary."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from offline import families
from offline.datasets import DataConfig
from offline.recipe import Recipe
from offline.splits.protocols import Protocol


class RunRefused(ValueError):
    """A run file asks for something that cannot be; the message names file and key."""


class _File(BaseModel):
    """The file as it is written. `recipe` is validated by the family's own class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol
    data: DataConfig
    recipe: dict[str, Any]
    final_fit: bool = False
    tune: dict[str, list[Any]] = {}


@dataclass(frozen=True, slots=True)
class RunConfig:
    """name: the run file's name without its ending. tune: dotted recipe key -> values to draw from.

    final_fit: after the evaluation, what ships is fitted again, to all events, as long as was found best.
    """

    name: str
    family: str
    protocol: Protocol
    data: DataConfig
    recipe: Recipe
    tune: dict[str, list[Any]]
    final_fit: bool = False

    @classmethod
    def load(cls, file: Path) -> RunConfig:
        """RunRefused names the file and each wrong key."""
        try:
            raw = tomllib.loads(file.read_text())
        except FileNotFoundError as error:
            raise RunRefused(f"{file}: there is no such run file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunRefused(f"{file}: not TOML: {error}") from error
        try:
            parsed = _File.model_validate(raw)
        except ValidationError as error:
            raise RunRefused(f"{file}: {_reasons(error, prefix='')}") from error
        section = dict(parsed.recipe)
        family = section.pop("family", None)
        if not isinstance(family, str):
            raise RunRefused(f"{file}: [recipe] lacks family = one of {', '.join(families.names())}")
        return cls.of(
            name=file.stem,
            family=family,
            protocol=parsed.protocol,
            data=parsed.data,
            recipe=section,
            tune=parsed.tune,
            final_fit=parsed.final_fit,
            said_by=file,
        )

    @classmethod
    def of(
        cls,
        *,
        name: str,
        family: str,
        protocol: Protocol,
        data: DataConfig,
        recipe: dict[str, Any],
        tune: dict[str, list[Any]],
        final_fit: bool = False,
        said_by: Path | None = None,
    ) -> RunConfig:
        """A run from its parts; said_by: the file that refusals name."""
        said_by = said_by or Path(name)
        checked = _recipe(said_by, family, recipe)
        if final_fit and not checked.refits:
            raise RunRefused(
                f"{said_by}: final_fit = true with recipe.family = {family!r}: what this recipe chooses on validation "
                "beside the number of epochs cannot be carried over; set final_fit = false"
            )
        config = cls(name, family, protocol, data, checked, tune, final_fit)
        for key, values in config.tune.items():
            for value in values:
                config.varied({key: value})
        return config

    def with_seed(self, seed: int) -> RunConfig:
        return self.varied({"seed": seed})

    def varied(self, changes: dict[str, Any]) -> RunConfig:
        """The same run with some dotted recipe keys replaced; RunRefused when the recipe does not take them."""
        # A default stays one: a recipe may refuse a pair of values only when both were asked for.
        written = self.recipe.model_fields_set | {key.partition(".")[0] for key in changes}
        section = {key: value for key, value in self.recipe.model_dump().items() if key in written}
        for key, value in changes.items():
            *path, leaf = key.split(".")
            target = section
            for part in path:
                target = target.setdefault(part, {})
                if not isinstance(target, dict):
                    raise RunRefused(f"{self.name}: recipe.{key}: {part} has no parts")
            target[leaf] = value
        return replace(self, recipe=_recipe(Path(self.name), self.family, section))

    def fingerprint(self, *, split_fingerprint: str, parents: dict[str, str]) -> str:
        """12 hex digits over everything that the trained weights depend on; names the checkpoint folder."""
        # Keys that came later and are not used say nothing: what was trained before them is still that.
        unused = {key for key in ("item_text", "cold_start", "popularity_debiasing") if self._is_unused(key)}
        recipe = self.recipe.model_dump(mode="json", exclude=unused)
        if isinstance(recipe.get("fit"), dict) and recipe["fit"].get("stop_after") is None:
            recipe["fit"].pop("stop_after", None)
        parts: list[object] = [self.family, recipe, split_fingerprint, parents]
        # Choices on validation depend on it, and the split does not. Only said where it is not the default.
        parts += [] if self.data.exclude_seen else ["seen items kept"]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _is_unused(self, key: str) -> bool:
        if key == "item_text":
            return not self.recipe.reads_text and self.recipe.cold_start == "none"
        return bool(getattr(self.recipe, key) == type(self.recipe).model_fields[key].default)


def _recipe(file: Path, family: str, section: dict[str, Any]) -> Recipe:
    try:
        return families.recipe_class(family).model_validate(section)
    except ValidationError as error:
        raise RunRefused(f"{file}: {_reasons(error, prefix='recipe.')}") from error
    except ValueError as error:
        raise RunRefused(f"{file}: recipe.family: {error}") from error


def _reasons(error: ValidationError, *, prefix: str) -> str:
    """What a recipe's own check says stands as it was written, after the section where no single key is to blame."""
    reasons = []
    for e in error.errors():
        place = (prefix + ".".join(map(str, e["loc"]))).rstrip(".")
        said = e["msg"].removeprefix("Value error, ")
        reasons.append(f"{place}: {said}" if place else said)
    return "; ".join(reasons)
