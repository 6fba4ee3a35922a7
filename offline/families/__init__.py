"""One module per family, one class `Recipe` in each: the file's name is the family's name."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from offline.recipe import Recipe


def names() -> list[str]:
    """Families that exist, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def recipe_class(family: str) -> type[Recipe]:
    """ValueError with the known names when there is no such family."""
    if family not in names():
        raise ValueError(f"there is no family {family!r}; known: {', '.join(names())}")
    found: type[Recipe] = import_module(f"{__name__}.{family}").Recipe
    assert issubclass(found, Recipe)
    return found
