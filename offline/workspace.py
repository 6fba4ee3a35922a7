"""Where unfinished runs live: checkpoints, training logs, tuning trials, score files. Not a store, not shared."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder (`NAISEKI_CACHE`, default `./.cache` against the working folder)."""

    folder: Path

    @classmethod
    def from_environment(cls) -> Workspace:
        return cls(Path(os.environ.get("NAISEKI_CACHE", ".cache")).resolve())

    def run_folder(self, run: str, fingerprint: str) -> Path:
        folder = self.folder / "runs" / f"{run}-{fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def published(self, run_folder: Path) -> str | None:
        """The version that this run became, or None."""
        file = run_folder / "published.json"
        return str(json.loads(file.read_text())["version"]) if file.exists() else None

    def log_of(self, run_folder: Path) -> dict[str, object]:
        """The training log of a published run."""
        log: dict[str, object] = json.loads((run_folder / "published.json").read_text())["log"]
        return log

    def mark_published(self, run_folder: Path, version: str, *, log: dict[str, object]) -> None:
        """Keeps the training log and drops the checkpoints."""
        fresh = run_folder / "published.new"
        fresh.write_text(json.dumps({"version": version, "log": log}, indent=1))
        fresh.rename(run_folder / "published.json")
        for path in run_folder.glob("checkpoint-*"):
            shutil.rmtree(path)

    def training_log(self, version: str) -> dict[str, object]:
        """What its training recorded; empty where it was trained elsewhere."""
        for file in sorted((self.folder / "runs").glob("*/published.json")):
            content = json.loads(file.read_text())
            if content["version"] == version:
                return dict(content["log"])
        return {}

    def scores_file(self, version: str, name: str) -> Path:
        folder = self.folder / "scores"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{version}.{name}.npz"

    def tuning_file(self, run: str, fingerprint: str) -> Path:
        folder = self.folder / "tuning"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{run}-{fingerprint}.jsonl"
