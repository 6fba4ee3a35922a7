"""Checkpoints on disk that a kill at any moment leaves whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """A checkpoint appears whole or not at all: written beside the old one, then renamed."""
    fresh, old = _beside(folder)
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> bool:
    """Whether there was a checkpoint to go on from."""
    fresh, old = _beside(folder)
    if accelerator.is_main_process and old.exists() and not folder.exists():
        # Killed between the two renames: by then the fresh one was whole.
        fresh.rename(folder)
    accelerator.wait_for_everyone()
    if not folder.exists():
        return False
    accelerator.load_state(str(folder))
    return True


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the next checkpoint is written, and where the last one waits until that one has its place."""
    return folder.with_suffix(".new"), folder.with_suffix(".old")
