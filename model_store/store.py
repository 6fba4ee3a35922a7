"""Where versions live: made invisibly, published by one rename, wanted by label."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model_store.bundle import Bundle
from model_store.errors import BundleRefused, LabelConflict, StoreError, UnknownVersion
from model_store.labels import (
    Canary,
    Label,
    Labels,
    label_lock,
    read_labels,
    sync_folder,
    write_durably,
    write_labels,
    writing,
)
from model_store.manifest import GoldenTolerances, Manifest, Metric, Provenance
from model_store.staging import BundleParts, write_parts
from model_store.verification import MANIFEST, MANIFEST_SHA256, read_manifest, regular_files

Versions = list[str]
Manifests = list[Manifest]

STAGING = ".staging"
ABANDONED_SECONDS = 600.0
YOUNG_SECONDS = 3600.0
_VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_FAMILY = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A bundle that is written but not visible; `Bundle.load(folder)` opens it.

    It belongs to the process that staged it: when that process ends, the folder counts as abandoned.
    """

    folder: Path
    manifest: Manifest
    lock: int  # descriptor of the folder, locked

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


class ModelStore:
    """A folder of versions. Several processes may use it at once; nothing is kept in memory."""

    def __init__(self, folder: Path) -> None:
        """Makes nothing; the folder appears with the first `stage`."""
        self.root = folder.absolute()

    def stage(
        self,
        parts: BundleParts,
        *,
        provenance: Provenance,
        catalogue_at: str | None = None,
        tolerances: GoldenTolerances | None = None,
    ) -> Staged:
        """Writes a whole bundle into `.staging`, with a preliminary manifest, so that it can be loaded and measured.

        catalogue_at: when the items were taken from their source (RFC 3339, UTC); by default now.
        """
        if not _FAMILY.fullmatch(parts.family):
            raise ValueError(f"{parts.family!r} cannot be part of a version's name")
        now = datetime.now(UTC)
        with writing():
            (self.root / STAGING).mkdir(parents=True, exist_ok=True)
            self._sweep()
            folder = self.root / STAGING / f"{now:%Y%m%dt%H%M%S}-{parts.family}-{secrets.token_hex(6)}"
            folder.mkdir()
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            manifest = write_parts(
                parts,
                folder,
                version=folder.name,
                catalogue_at=catalogue_at or now.isoformat().replace("+00:00", "Z"),
                provenance=provenance,
                tolerances=tolerances,
            )
            _write_manifest(folder, manifest)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            raise
        return Staged(folder, manifest, lock)

    def publish(self, staged: Staged, *, metrics: Sequence[Metric] = ()) -> str:
        """Makes the staged bundle visible, whole and durable, and returns its version."""
        manifest = staged.manifest.model_copy(update={"metrics": list(metrics)})
        digest = hashlib.sha256(manifest.model_dump_json(exclude={"version"}).encode()).hexdigest()
        version = f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{manifest.family}-{digest[:12]}"
        with writing():
            (staged.folder / MANIFEST).unlink()
            for file in regular_files(staged.folder).values():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            _write_manifest(staged.folder, manifest.model_copy(update={"version": version}))
            for folder in {file.parent for file in regular_files(staged.folder).values()} | {staged.folder}:
                sync_folder(folder)
            staged.folder.rename(self.root / version)
            sync_folder(self.root)
        os.close(staged.lock)
        return version

    def list_names(self) -> Versions:
        """Whole versions, oldest first. Half-written, foreign and linked folders are not seen."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if self._is_whole(path.name))

    def list(self) -> Manifests:
        """Manifests of the versions that can be read, oldest first."""
        manifests = []
        for version in self.list_names():
            try:
                manifests.append(self.manifest(version))
            except BundleRefused:  # it stands in `list_names`; `verify` tells what is wrong with it
                continue
        return manifests

    def folder(self, version: str) -> Path:
        """UnknownVersion unless a whole bundle of this name is here. Nothing in it is checked yet."""
        if not self._is_whole(version):
            raise UnknownVersion(f"there is no version {version!r} in the store")
        return self.root / version

    def manifest(self, version: str) -> Manifest:
        """BundleRefused when it is damaged, or speaks of another version (a folder that was renamed)."""
        manifest = read_manifest(self.folder(version))
        if manifest.version != version:
            raise BundleRefused(f"{MANIFEST} is of version {manifest.version}, not {version}")
        return manifest

    def open(self, version: str, device: str = "cpu") -> Bundle:
        """Checks everything in this process and opens; a service prepares in a child process instead."""
        self.manifest(version)
        return Bundle.load(self.folder(version), device)

    def verify(self, version: str) -> None:
        """BundleRefused with the reason when anything about this version is not as it was published."""
        self.open(version)

    def labels(self) -> Labels:
        return read_labels(self.root)

    def label(
        self,
        label: Label,
        version: str | None,
        *,
        by: str,
        traffic: float | None = None,
        expected_generation: int | None = None,
    ) -> Labels:
        """Writes what is wanted, and returns it; None takes the label away (not from `live`).

        A version that becomes `live` makes the former one `previous`, and is no canary any more. Naming the live
        version again changes only the generation: services try again what failed to load.
        LabelConflict unless `expected_generation`, when given, is still the current one.
        """
        if version is None and label == "live":
            raise ValueError("a store cannot be without a live version once it has one")
        if (traffic is not None) != (label == "canary" and version is not None):
            raise ValueError("traffic belongs to a canary, and a canary has traffic")
        with label_lock(self.root):
            labels = self._expected(expected_generation)
            if version is not None:
                self.manifest(version)
            changes: dict[str, object] = {label: version}
            if label == "canary" and version is not None:
                changes["canary"] = Canary(version=version, traffic=traffic or 0.0)
            if label == "live":
                changes["previous"] = labels.previous if labels.live == version else labels.live
                if labels.canary and labels.canary.version == version:
                    changes["canary"] = None
            return self._write(labels, changes, by=by)

    def activate(self, version: str, *, by: str, expected_generation: int | None = None) -> Labels:
        return self.label("live", version, by=by, expected_generation=expected_generation)

    def rollback(self, *, by: str, expected_generation: int | None = None) -> Labels:
        """Swaps `live` and `previous`. StoreError when there is no previous version."""
        with label_lock(self.root):
            labels = self._expected(expected_generation)
            if labels.previous is None:
                raise StoreError("there is no previous version to go back to")
            self.manifest(labels.previous)
            return self._write(labels, {"live": labels.previous, "previous": labels.live}, by=by)

    def mark_good(self, version: str) -> Labels:
        """A process is ready on this live version: written without raising the generation."""
        with label_lock(self.root):
            labels = read_labels(self.root)
            if labels.last_good != version:
                labels = Labels.model_validate({**labels.model_dump(), "last_good": version})
                write_labels(self.root, labels)
            return labels

    def prune(self, keep: int = 5) -> Versions:
        """Removes old versions and names them; never one that has a label, is of the last `keep`, or under an hour old."""
        if keep < 0:
            raise ValueError(f"keep = {keep} is negative")
        with label_lock(self.root), writing():
            names = self.list_names()
            safe = self.labels().versions() | set(names[max(0, len(names) - keep) :])
            removed = [name for name in names if name not in safe and _age(self.root / name / MANIFEST) > YOUNG_SECONDS]
            (self.root / STAGING).mkdir(exist_ok=True)
            for name in removed:
                # Out of sight at once: deleting file by file would show a half version.
                gone = self.root / STAGING / f"{name}-{secrets.token_hex(6)}"
                (self.root / name).rename(gone)
                shutil.rmtree(gone)
        return removed

    def _is_whole(self, name: str) -> bool:
        folder = self.root / name
        if not _VERSION.fullmatch(name) or folder.is_symlink() or not folder.is_dir():
            return False
        return all((folder / file).is_file() for file in (MANIFEST, MANIFEST_SHA256))

    def _expected(self, generation: int | None) -> Labels:
        labels = read_labels(self.root)
        if generation is not None and labels.generation != generation:
            raise LabelConflict(f"labels are at generation {labels.generation}, not {generation}")
        return labels

    def _write(self, labels: Labels, changes: dict[str, object], *, by: str) -> Labels:
        stamp = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")}
        salt = labels.salt or secrets.token_hex(16)
        new = labels.model_copy(update={**changes, **stamp, "salt": salt, "generation": labels.generation + 1})
        write_labels(self.root, new)
        return new

    def _sweep(self) -> None:
        """Removes what a killed process left in `.staging`: nobody holds its lock, and it is not brand new."""
        for folder in (self.root / STAGING).iterdir():
            if folder.is_symlink() or not folder.is_dir() or _age(folder) < ABANDONED_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    content = (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    write_durably(folder / MANIFEST_SHA256, (hashlib.sha256(content).hexdigest() + "\n").encode())
    write_durably(folder / MANIFEST, content)


def _age(path: Path) -> float:
    """Seconds since it was last changed."""
    return time.time() - path.lstat().st_mtime
