"""A checked, private copy of a bundle, made by a child process so that a service never opens the store's weights.

    python -m model_store.preparing FOLDER CACHE

prints {"folder": ...}, or {"reason": ...} and ends with 1. One thread; whoever starts it decides how nice it is.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import torch

from model_store.durable import sync, write_durably
from model_store.errors import BundleRefused
from model_store.manifest import FileRecord
from model_store.verification import (
    BLOCK,
    MANIFEST,
    MANIFEST_SHA256,
    read_manifest,
    regular_files,
    verify_contents,
    verify_files,
)

KEPT = 6  # prepared versions in a cache
ABANDONED_SECONDS = 3600.0
LOCK = ".lock"
SEEN = ".seen"  # beside each copy: what its files looked like when their checksums were taken


def prepare(bundle_folder: Path, cache_folder: Path) -> Path:
    """Checks the bundle while it copies it to `<cache>/<sha256 of its manifest>/`, which `Bundle.open` opens.

    What is there already is checked again and used. The copy appears whole or not at all. BundleRefused with the
    reason; OSError when the cache cannot be written.
    """
    target = _place(bundle_folder, cache_folder)
    cache_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(target):
        seen = _seen_if_ready(target)
        if seen is None:
            copy = cache_folder / f".preparing-{secrets.token_hex(8)}"
            copy.mkdir(mode=0o700)
            try:
                _copy(bundle_folder, copy)
                seen = _put(copy, target)
            finally:
                shutil.rmtree(copy, ignore_errors=True)
        write_durably(_seen_file(target), json.dumps(seen).encode())
        os.utime(target)
    _tidy(cache_folder)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process prepares a version; a second one waits and finds it done. It would else remove, as damaged, what the
    first has just put there and is opening. The kernel frees the lock when its holder dies."""
    file = target.with_name(target.name + LOCK)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_file(descriptor, file):
            break
        os.close(descriptor)  # its holder has removed it: whoever comes next locks another
    try:
        yield
    finally:
        if _is_file(descriptor, file):
            file.unlink()
        os.close(descriptor)


def _is_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def find_prepared(bundle_folder: Path, cache_folder: Path) -> Path | None:
    """The copy that `prepare` made, if its files are those whose checksums were taken then; None: `prepare` it.

    Asks sizes and times of change, and reads no weights: it may run in a process that serves.
    BundleRefused when the bundle's own manifest is damaged or gone.
    """
    target = _place(bundle_folder, cache_folder)
    try:
        if json.loads(_seen_file(target).read_bytes()) != _looks(target):
            return None
        os.utime(target)
    except (BundleRefused, OSError, ValueError):
        return None
    return target


def _place(bundle_folder: Path, cache_folder: Path) -> Path:
    read_manifest(bundle_folder)
    return cache_folder / hashlib.sha256((bundle_folder / MANIFEST).read_bytes()).hexdigest()


def _seen_file(target: Path) -> Path:
    return target.with_name(target.name + SEEN)


def _looks(folder: Path) -> dict[str, list[int]]:
    """Name -> bytes, and when the file last changed, in ns: of its times the one that no program can set."""
    stats = {name: file.stat() for name, file in regular_files(folder).items()}
    return {name: [stat.st_size, stat.st_ctime_ns] for name, stat in stats.items()}


def _copy(source: Path, copy: Path) -> None:
    for name in (MANIFEST, MANIFEST_SHA256):
        shutil.copyfile(source / name, copy / name, follow_symlinks=False)
    expected = read_manifest(copy)
    manifest = verify_files(source, read=lambda name, file: _copied(file, copy / name))
    if manifest != expected:
        raise BundleRefused(f"{MANIFEST} changed while it was read")
    verify_contents(copy, manifest)


def _copied(source: Path, target: Path) -> FileRecord:
    """The checksum is of the bytes that are written, whatever happens to the source."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as read, target.open("xb") as written:
        while block := read.read(BLOCK):
            digest.update(block)
            size += written.write(block)
    sync(target)  # else a crash could leave a file of the right size, and other content
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def _put(copy: Path, target: Path) -> dict[str, list[int]]:
    """What the files look like."""
    shutil.rmtree(target, ignore_errors=True)  # a damaged one: `_seen_if_ready` has looked
    seen = _looks(copy)
    try:
        copy.rename(target)
    except OSError:
        theirs = _seen_if_ready(target)  # another process was quicker
        if theirs is None:
            raise
        return theirs
    return seen


def _seen_if_ready(target: Path) -> dict[str, list[int]] | None:
    """What the files of a whole copy look like, from before their checksums were taken; None when it is not whole."""
    if not target.exists():
        return None
    try:
        seen = _looks(target)
        verify_contents(target, verify_files(target))
    except BundleRefused:
        return None
    return seen if hashlib.sha256((target / MANIFEST).read_bytes()).hexdigest() == target.name else None


def _tidy(cache: Path) -> None:
    """Keeps the versions used last. Whoever has opened one holds no file of it any more."""
    prepared = sorted((path for path in cache.iterdir() if path.is_dir()), key=_used, reverse=True)
    abandoned = [
        path for path in prepared if path.name.startswith(".") and time.time() - _used(path) > ABANDONED_SECONDS
    ]
    for path in [*[path for path in prepared if not path.name.startswith(".")][KEPT:], *abandoned]:
        shutil.rmtree(path, ignore_errors=True)
    for seen in cache.glob(f"*{SEEN}"):
        if not seen.with_suffix("").is_dir():
            seen.unlink(missing_ok=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # tidied by another process
        return 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model_store.preparing", description=prepare.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache", type=Path)
    given = parser.parse_args(arguments)
    try:
        answer, code = {"folder": str(prepare(given.folder, given.cache).absolute())}, 0
    except (BundleRefused, OSError) as error:
        answer, code = {"reason": str(error)}, 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    sys.exit(main())
