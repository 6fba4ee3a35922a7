"""RELIABILITY.md names the test of every line of the table, what to do for every alert, and every miss."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.torture.figures import RESULTS
from tests.torture.promises import PROMISES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "RELIABILITY.md").read_text()
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def test_every_alert_has_its_entry() -> None:
    entries = dict(re.findall(r"^### (Naiseki\w+)\n\n(.*?)(?=\n###|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
    assert len(ALERTS) >= 9
    assert [name for name in ALERTS if name not in entries] == []
    assert [name for name, text in entries.items() if len(text) < 200] == []


@pytest.mark.parametrize("name", PROMISES)
def test_every_promise_is_told(name: str) -> None:
    told = re.findall(r"\*([^*|]+)\*", TEXT.split("## What is not promised")[0])
    assert any(name.startswith(start.partition(", ...")[0]) for start in told)


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) >= 15
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (RESULTS.parent / file).read_text(), flags=re.MULTILINE), test


def test_every_torture_is_named() -> None:
    named = {file for file, _ in re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)}
    assert named == {file.name for file in RESULTS.parent.glob("test_*.py")} - {Path(__file__).name, "test_figures.py"}


def test_every_miss_is_stated() -> None:
    if not RESULTS.exists():
        pytest.skip("make torture has not written its figures yet")
    misses = [row["name"] for row in json.loads(RESULTS.read_text())["rows"] if row["held"] is not True]
    assert [name for name in misses if name not in TEXT.split("## Misses")[1]] == []
