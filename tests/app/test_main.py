"""What the service costs before it has served anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = ("transformers", "peft", "accelerate")


@pytest.mark.parametrize("module", ["app.main", "app.server", "model_store.bundle", "model_store.preparing"])
def test_no_import_of_what_only_language_models_need(module: str) -> None:
    """Seconds at every start, and in every child that prepares a bundle, for a SASRec that has no use for them."""
    look = f"import sys, {module}; print([name for name in {SLOW_TO_IMPORT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
