"""docs/modules.md is the tree: a line for every module, and no line for what is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["app", "model_store", "offline", "deploy"])
def test_every_module_has_its_line(package: str) -> None:
    section = (ROOT / "docs/modules.md").read_text().split(f"\n## `{package}/`", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^- `([\w/]+\.py)` \S", section, flags=re.MULTILINE)
    modules = [file for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
    assert modules
    assert sorted(listed) == sorted(str(file.relative_to(ROOT / package)) for file in modules)
