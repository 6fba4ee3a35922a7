"""Damage by somebody who knows the format: checksums that fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from model_store.staging_area import write_manifest
from model_store.verification import MANIFEST, MANIFEST_SHA256, parse_manifest, record, regular_files


def sign(folder: Path, **changes: object) -> None:
    """Makes checksums fit what the folder now holds. changes: fields of the manifest."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    files = {name: record(file) for name, file in regular_files(folder).items() if not name.startswith("manifest.")}
    write_manifest(folder, manifest.model_copy(update={"files": files, **changes}))


def edit_manifest(folder: Path, **changes: object) -> None:
    """Changes raw fields, which need not be those of a manifest."""
    fields = json.loads((folder / MANIFEST).read_bytes()) | changes
    content = json.dumps(fields).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / MANIFEST_SHA256).write_text(hashlib.sha256(content).hexdigest())
