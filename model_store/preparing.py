"""A checked, private copy of a bundle, made by a child process so that a service never opens the store's weights.

    python -m model_store.preparing FOLDER CACHE

prints {"folder": ...}, or {"reason": ...} and ends with 1. Niced and on one thread: a service goes on answering.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path

import faiss
import torch

from model_store.errors import BundleRefused
from model_store.manifest import FileRecord
from model_store.verification import (
    BLOCK,
    MANIFEST,
    MANIFEST_SHA256,
    read_manifest,
    verify_contents,
    verify_files,
)

KEPT = 6  # prepared versions in a cache
ABANDONED_SECONDS = 3600.0


def prepare(bundle_folder: Path, cache_folder: Path) -> Path:
    """Checks the bundle while it copies it to `<cache>/<sha256 of its manifest>/`, which `Bundle.open` opens.

    What is there already is checked again and used. The copy appears whole or not at all. BundleRefused with the
    reason; OSError when the cache cannot be written.
    """
    read_manifest(bundle_folder)
    content = (bundle_folder / MANIFEST).read_bytes()
    target = cache_folder / hashlib.sha256(content).hexdigest()
    if not _is_ready(target):
        cache_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy = cache_folder / f".preparing-{secrets.token_hex(8)}"
        copy.mkdir(mode=0o700)
        try:
            _copy(bundle_folder, copy)
            _put(copy, target)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    os.utime(target)
    _tidy(cache_folder)
    return target


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
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def _put(copy: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # a damaged one: `_is_ready` has looked
    try:
        copy.rename(target)
    except OSError:
        if not _is_ready(target):  # else another process was quicker
            raise


def _is_ready(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        verify_contents(target, verify_files(target))
    except BundleRefused:
        return False
    return hashlib.sha256((target / MANIFEST).read_bytes()).hexdigest() == target.name


def _tidy(cache: Path) -> None:
    """Keeps the versions used last. Whoever has opened one holds no file of it any more."""
    prepared = sorted((path for path in cache.iterdir() if path.is_dir()), key=_used, reverse=True)
    abandoned = [
        path for path in prepared if path.name.startswith(".") and time.time() - _used(path) > ABANDONED_SECONDS
    ]
    for path in [*[path for path in prepared if not path.name.startswith(".")][KEPT:], *abandoned]:
        shutil.rmtree(path, ignore_errors=True)


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
    os.nice(19)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    sys.exit(main())
