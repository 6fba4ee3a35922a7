"""Where versions live: made invisibly, published by one rename, wanted by label."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from model_store.audit import LabelChange, read_changes, record
from model_store.bundle import Bundle
from model_store.durable import reading, writing
from model_store.errors import BundleRefused, LabelConflict, StoreError, UnknownVersion
from model_store.labels import Label, Labels, label_lock, read_labels, write_labels
from model_store.manifest import GoldenTolerances, Manifest, Metric, Provenance
from model_store.staging import BundleParts, write_parts
from model_store.staging_area import NAME as STAGING
from model_store.staging_area import Staged, age, move_into_place, remove, stage_in
from model_store.verification import MANIFEST, MANIFEST_SHA256, read_manifest

Versions = list[str]
Manifests = list[Manifest]
Changes = list[LabelChange]

YOUNG_SECONDS = 3600.0
_VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_FAMILY = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


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
        """Writes a whole bundle out of sight, with a preliminary manifest, so that it can be loaded and measured.

        catalogue_at: when the items were taken from their source (RFC 3339, UTC); by default now.
        """
        if not _FAMILY.fullmatch(parts.family):
            raise ValueError(f"{parts.family!r} cannot be part of a version's name")
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dt%H%M%S}-{parts.family}"

        def write(folder: Path) -> Manifest:
            return write_parts(
                parts,
                folder,
                version=folder.name,
                catalogue_at=catalogue_at or now.isoformat().replace("+00:00", "Z"),
                provenance=provenance,
                tolerances=tolerances,
            )

        with writing():
            area = self.root / STAGING
            area.mkdir(parents=True, exist_ok=True)
            return stage_in(area, name, write=write)

    def publish(self, staged: Staged, *, metrics: Sequence[Metric] = ()) -> str:
        """Makes the staged bundle visible, whole and durable, and returns its version."""
        manifest = staged.manifest.model_copy(update={"metrics": [*metrics]})
        digest = hashlib.sha256(manifest.model_dump_json(exclude={"version"}).encode()).hexdigest()
        version = f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{manifest.family}-{digest[:12]}"
        with writing():
            move_into_place(staged, self.root / version, manifest.model_copy(update={"version": version}))
        return version

    def list_names(self) -> Versions:
        """Whole versions, oldest first. Half-written, foreign, linked and unreadable folders are not seen."""
        with reading():
            names = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
        return sorted(name for name in names if self._is_seen(name))

    def list(self) -> Manifests:
        """Manifests of the versions whose manifest can be read, oldest first; `verify` tells of the others."""
        manifests = []
        for version in self.list_names():
            try:
                manifests.append(self.manifest(version))
            except (StoreError, FileNotFoundError):  # damaged, not ours to read, or pruned meanwhile
                continue
        return manifests

    def folder(self, version: str) -> Path:
        """UnknownVersion unless a whole bundle of this name is here. Nothing in it is checked yet."""
        with reading():
            if not self._is_whole(version):
                raise UnknownVersion(f"there is no version {version!r} in the store")
        return self.root / version

    def manifest(self, version: str) -> Manifest:
        """BundleRefused when it is damaged, or speaks of another version (a folder that was renamed)."""
        with reading():
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
        """Writes what is wanted (`Labels.labelled` tells the rules), and returns it.

        UnknownVersion; BundleRefused for a damaged manifest; LabelConflict unless `expected_generation`, when given,
        is still the current one.
        """
        with label_lock(self.root):
            labels = self._expected(expected_generation)
            if version is not None:
                self.manifest(version)
            new = labels.labelled(label, version, by=by, traffic=traffic)
            record(self.root, labels, new, asked=label)
            write_labels(self.root, new)
            return new

    def activate(self, version: str, *, by: str, expected_generation: int | None = None) -> Labels:
        return self.label("live", version, by=by, expected_generation=expected_generation)

    def rollback(self, *, by: str, expected_generation: int | None = None) -> Labels:
        """Swaps `live` and `previous`. StoreError when there is no previous version, or it is gone."""
        with label_lock(self.root):
            labels = self._expected(expected_generation)
            new = labels.rolled_back(by=by)
            assert new.live is not None
            self.manifest(new.live)
            record(self.root, labels, new, asked="live")
            write_labels(self.root, new)
            return new

    def audit(self, limit: int = 100) -> Changes:
        """The last `limit` moves of labels, newest first; also where the labels themselves are damaged."""
        try:
            labels = self.labels()
        except StoreError:  # then somebody looks here for what they were
            labels = None
        return read_changes(self.root, labels, limit=limit)

    def mark_good(self, version: str) -> Labels:
        """A process is ready on this live version: written without raising the generation."""
        with label_lock(self.root):
            labels = read_labels(self.root)
            if labels.last_good != version:
                labels = labels.good(version)
                write_labels(self.root, labels)
            return labels

    def prune(self, keep: int = 5) -> Versions:
        """Removes old versions and names them; never one that has a label, is of the last `keep`, or under an hour old.

        No version can get a label meanwhile.
        """
        if keep < 0:
            raise ValueError(f"keep = {keep} is negative")
        with label_lock(self.root), writing():
            names = self.list_names()
            safe = self.labels().versions() | {*names[max(0, len(names) - keep) :]}
            old = [name for name in names if name not in safe and age(self.root / name / MANIFEST) > YOUNG_SECONDS]
            area = self.root / STAGING
            area.mkdir(exist_ok=True)
            for name in old:
                remove(self.root / name, area)
        return old

    def _is_seen(self, name: str) -> bool:
        try:
            return self._is_whole(name)
        except OSError:  # not ours to read: `folder` says so, and the others can still be listed
            return False

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
