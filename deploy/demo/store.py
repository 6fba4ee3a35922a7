"""What the store and its labels say, read from their files: the demo imports neither app nor offline."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.demo.processes import StepFailed


def newest_of_run(store: Path, run: str) -> str | None:
    """The newest published version that run file `run` made; names of versions begin with their time.

    A version whose manifest is damaged counts as none: the service would not serve it either.
    """
    made = []
    for file in store.glob("*/manifest.json"):
        try:
            manifest = json.loads(file.read_text())
            if Path(manifest["provenance"]["run"]).stem == run:
                made.append(str(manifest["version"]))
        except (ValueError, KeyError, TypeError):
            continue
    return max(made, default=None)


def labelled(store: Path) -> dict[str, str | None]:
    """Version under `live` and under `previous`; None where a label is not set. StepFailed for a damaged file."""
    file = store / "labels.json"
    try:
        labels = json.loads(file.read_text())
    except FileNotFoundError:
        labels = {}
    except ValueError as error:
        raise StepFailed(f"{file} is damaged ({error}): restore it, or remove it to begin with new labels") from None
    return {label: labels.get(label) for label in ("live", "previous")}
