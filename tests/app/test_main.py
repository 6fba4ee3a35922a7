"""What the service costs before it has served anything, and what it says of itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded_valkey import ValkeyRefused
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = ("transformers", "peft", "accelerate")


@pytest.mark.parametrize("module", ["app.main", "app.server", "model_store.bundle", "model_store.preparing"])
def test_no_import_of_what_only_language_models_need(module: str) -> None:
    """Seconds at every start, and in every child that prepares a bundle, for a SASRec that has no use for them."""
    look = f"import sys, {module}; print([name for name in {SLOW_TO_IMPORT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_refusal_to_start_is_told_in_one_line_with_its_cure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").touch()
    app = create_app(Settings(store=tmp_path / "store", data=tmp_path / "data"))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(ValkeyRefused):
        asyncio.run(start())
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("the service cannot start: NAISEKI_DATA=")


def test_the_description_is_for_callers(tmp_path: Path) -> None:
    described = create_app(Settings(store=tmp_path)).openapi()["info"]["description"]
    assert "recommendations" in described
