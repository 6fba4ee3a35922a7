"""Files that survive a crash, and folders that refuse to be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.errors import ReadOnlyStore, StoreError

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing() -> Iterator[None]:
    """Turns the errors of a folder that may not be written, or has no room, into ReadOnlyStore."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise ReadOnlyStore(f"the store cannot be written: {error.strerror}") from error
        raise


@contextmanager
def reading() -> Iterator[None]:
    """Turns the errors of what may not be read, or is of another kind, into StoreError, which names the file.

    What is not there stays FileNotFoundError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"the store cannot be read: {error.strerror}: {error.filename}") from error


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
