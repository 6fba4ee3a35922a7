"""`labels.json`: which versions are wanted. One small file, replaced whole."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.errors import ReadOnlyStore, StoreError
from model_store.manifest import VersionName

FILE = "labels.json"
LOCK = ".labels.lock"
Label = Literal["live", "previous", "canary", "shadow"]


class Canary(BaseModel):
    """traffic: share of users, 0..1, by a hash of (salt, user id)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: VersionName
    traffic: Annotated[float, Field(ge=0, le=1)]


class Labels(BaseModel):
    """What is wanted. `generation` grows with every change of what is wanted, and never for `last_good`.

    salt: of the canary's hash; kept for the life of the store, so that a growing share only adds users.
    by, at: who changed it last, and when (RFC 3339, UTC).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: Annotated[int, Field(ge=0)] = 0
    live: VersionName | None = None
    previous: VersionName | None = None
    canary: Canary | None = None
    shadow: VersionName | None = None
    last_good: VersionName | None = None
    salt: str = ""
    by: str = ""
    at: str = ""

    def versions(self) -> set[str]:
        """Every version that carries a label."""
        canary = self.canary.version if self.canary else None
        return {name for name in (self.live, self.previous, canary, self.shadow, self.last_good) if name}


def read_labels(store: Path) -> Labels:
    """Generation 0 and no label where there is no file yet. StoreError when the file is damaged."""
    file = store / FILE
    if file.is_symlink():
        raise StoreError(f"{FILE} is a link")
    try:
        return Labels.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Labels()
    except ValidationError as error:
        raise StoreError(f"{FILE} is damaged: {error.errors()[0]['msg']}") from error


def write_labels(store: Path, labels: Labels) -> None:
    """Call under `label_lock`. A reader, or a crash at any moment, finds the old file or the new one."""
    temporary = store / f".{FILE}.new"
    with writing():
        write_durably(temporary, (labels.model_dump_json(indent=2) + "\n").encode())
        temporary.replace(store / FILE)
        sync_folder(store)


@contextmanager
def label_lock(store: Path) -> Iterator[None]:
    """One process or thread at a time reads, decides and writes. The kernel frees the lock when its holder dies."""
    if not store.is_dir():
        raise StoreError(f"there is no store at {store}")
    with writing():
        descriptor = os.open(store / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing() -> Iterator[None]:
    """Turns the errors of a folder that may not be written into ReadOnlyStore."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnlyStore(f"the store cannot be written: {error.strerror}") from error
        raise


def write_durably(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
