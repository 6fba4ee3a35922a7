"""Where bundles are written before anybody may see them: `<store>/.staging`, on the same file system."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_store.durable import sync, write_durably
from model_store.manifest import Manifest
from model_store.verification import MANIFEST, MANIFEST_SHA256, regular_files

NAME = ".staging"
ABANDONED_SECONDS = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A bundle that is written but not visible; `Bundle.load(folder)` opens it.

    It belongs to the process that staged it: when that process ends, the folder counts as abandoned.
    """

    folder: Path
    manifest: Manifest
    lock: int  # descriptor of the folder, locked while its owner lives

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


def stage_in(area: Path, name: str, *, write: Callable[[Path], Manifest]) -> Staged:
    """Makes a folder, lets `write` fill it, and adds its manifest; nothing is left when that fails."""
    sweep(area)
    folder = area / f"{name}-{secrets.token_hex(6)}"
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manifest = write(folder)
        write_manifest(folder, manifest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        raise
    return Staged(folder, manifest, lock)


def move_into_place(staged: Staged, target: Path, manifest: Manifest) -> None:
    """Everything to the disk, the final manifest last, one rename."""
    (staged.folder / MANIFEST).unlink()
    files = regular_files(staged.folder).values()
    for path in [*files, *{file.parent for file in files}]:
        sync(path)
    write_manifest(staged.folder, manifest)
    staged.folder.rename(target)
    sync(target.parent)
    os.close(staged.lock)


def remove(folder: Path, area: Path) -> None:
    """Out of sight at once: deleting file by file would show a half version."""
    gone = area / f"{folder.name}-{secrets.token_hex(6)}"
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(area: Path) -> None:
    """Removes what killed processes left: folders whose lock nobody holds, and that are not brand new."""
    for folder in area.iterdir():
        if folder.is_symlink() or not folder.is_dir() or age(folder) < ABANDONED_SECONDS:
            continue
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    content = (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    write_durably(folder / MANIFEST_SHA256, (hashlib.sha256(content).hexdigest() + "\n").encode())
    write_durably(folder / MANIFEST, content)
    sync(folder)


def age(path: Path) -> float:
    """Seconds since it was last changed."""
    return time.time() - path.lstat().st_mtime
