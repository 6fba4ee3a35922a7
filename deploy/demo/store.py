"""What the store and its labels say, read from their files: the demo imports neither app nor offline."""

from __future__ import annotations

import json
from pathlib import Path


def newest_of_run(store: Path, run: str) -> str | None:
    """The newest published version that run file `run` made; names of versions begin with their time."""
    made = []
    for file in store.glob("*/manifest.json"):
        manifest = json.loads(file.read_text())
        if Path(manifest["provenance"]["run"]).stem == run:
            made.append(str(manifest["version"]))
    return max(made, default=None)


def labelled(store: Path) -> dict[str, str | None]:
    """Version under `live` and under `previous`; None where a label is not set."""
    try:
        labels = json.loads((store / "labels.json").read_text())
    except FileNotFoundError:
        labels = {}
    return {label: labels.get(label) for label in ("live", "previous")}
