"""Files that survive a crash, and folders that refuse to be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.errors import ReadOnlyStore


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
    """On the disk when it returns; the folder's entry is not (`sync`)."""
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
