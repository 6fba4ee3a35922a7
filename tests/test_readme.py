"""README's map of the modules is the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["app", "model_store", "offline", "deploy"])
def test_every_module_has_its_line(package: str) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.split(f"\n`{package}/`\n", 1)[1].split("\n`", 1)[0]
    listed = re.findall(r"^- `([\w/]+\.py)` \S", section, flags=re.MULTILINE)
    modules = [file for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
    assert modules
    assert {str(file.relative_to(ROOT / package)) for file in modules} <= set(listed)
    assert all((ROOT / package / name).exists() for name in listed)
