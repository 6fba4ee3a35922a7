"""Whether a folder is a whole bundle, and holds what its manifest says."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from polars.exceptions import PolarsError
from pydantic import ValidationError

from model_store.catalog import ItemCatalog
from model_store.encoder_files import ITEM_TOKENS, WEIGHTS, read_encoder_config
from model_store.errors import BundleRefused
from model_store.fallback_files import WEIGHTS as FALLBACK_WEIGHTS
from model_store.fallback_files import verify_fallback
from model_store.item_index import ItemIndex
from model_store.item_placer import CONFIG as PLACER
from model_store.item_placer import read_placer
from model_store.manifest import SCHEMA_VERSION, FileRecord, Manifest
from model_store.module_files import read_tensors
from model_store.ranker_files import NEEDED as RANKER_NEEDED
from model_store.ranker_files import WEIGHTS as RANKER_WEIGHTS
from model_store.ranker_files import read_ranker_config
from model_store.text_tower_files import CONFIG as TEXT_TOWER
from model_store.text_tower_files import WEIGHTS as TEXT_TOWER_WEIGHTS
from model_store.text_tower_files import read_text_tower_config

MANIFEST = "manifest.json"
MANIFEST_SHA256 = "manifest.sha256"
ITEMS = "items.parquet"
INDEX = "items.faiss"
NEEDED = (ITEMS, INDEX, WEIGHTS, "encoder/config.json", "golden.safetensors")
BLOCK = 1 << 20


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder, checked against manifest.sha256; BundleRefused with the reason otherwise."""
    files = regular_files(folder)
    for name in (MANIFEST, MANIFEST_SHA256):
        if name not in files:
            raise BundleRefused(f"{name} is missing: not a whole bundle")
    content = files[MANIFEST].read_bytes()
    if (
        hashlib.sha256(content).hexdigest()
        != files[MANIFEST_SHA256].read_text(encoding="ascii", errors="replace").strip()
    ):
        raise BundleRefused(f"{MANIFEST} does not have the checksum in {MANIFEST_SHA256}")
    return parse_manifest(content)


def parse_manifest(content: bytes) -> Manifest:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter for brackets within brackets without end
        raise BundleRefused(f"{MANIFEST} is not JSON: {error}") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if not isinstance(schema, int):
        raise BundleRefused(f"{MANIFEST} is not a manifest: it names no schema")
    if schema > SCHEMA_VERSION:
        raise BundleRefused(f"{MANIFEST} has schema {schema}, newer than {SCHEMA_VERSION}, which this program reads")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleRefused(f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def regular_files(folder: Path) -> dict[str, Path]:
    """Every file under `folder` by its relative path; BundleRefused for a link or anything else that is no file."""
    if folder.is_symlink() or not folder.is_dir():
        raise BundleRefused(f"{folder.name} is not a folder")
    return dict(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(path, f"{prefix}{path.name}/")
        elif stat.S_ISREG(mode):
            yield prefix + path.name, path
        else:
            raise BundleRefused(f"{prefix}{path.name} is neither a file nor a folder (links are refused)")


def verify_files(folder: Path, *, read: Callable[[str, Path], FileRecord] | None = None) -> Manifest:
    """Checks that the folder holds exactly the manifest's files with their checksums.

    read: reads one file once and returns its checksum and size (`preparing` copies meanwhile).
    """
    manifest = read_manifest(folder)
    files = regular_files(folder)
    found = files.keys() - {MANIFEST, MANIFEST_SHA256}
    needed = NEEDED if manifest.ranker is None else (*NEEDED, *RANKER_NEEDED)
    for name in sorted({*needed, *manifest.files} - found):
        raise BundleRefused(f"{name} is missing")
    for name in sorted(found - manifest.files.keys()):
        raise BundleRefused(f"{name} is not in the manifest")
    for name, expected in sorted(manifest.files.items()):
        actual = read(name, files[name]) if read else record(files[name])
        if actual.bytes != expected.bytes:
            raise BundleRefused(f"{name} has {actual.bytes} bytes, not {expected.bytes}")
        if actual.sha256 != expected.sha256:
            raise BundleRefused(f"{name} does not have the checksum in {MANIFEST}")
    return manifest


def record(file: Path) -> FileRecord:
    digest = hashlib.sha256()
    size = 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def verify_contents(folder: Path, manifest: Manifest) -> None:
    """Checks of what checksums cannot know: kinds, shapes, and that every number is finite."""
    config = read_encoder_config(folder)
    if config != manifest.encoder:
        raise BundleRefused(f"encoder/config.json is not the encoder of {MANIFEST}")
    for name in ("dim", "items", "max_history", "jump"):
        if getattr(config, name) != getattr(manifest, name):
            raise BundleRefused(
                f"encoder/config.json: {name} is {getattr(config, name)}, not {getattr(manifest, name)}"
            )
    catalog = read_catalog(folder)
    if len(catalog) != manifest.items:
        raise BundleRefused(f"{ITEMS} has {len(catalog)} items, not {manifest.items}")
    index = read_index(folder)
    if (len(index), index.dim) != (manifest.items, manifest.dim):
        raise BundleRefused(f"{INDEX} is {len(index)} x {index.dim}, not {manifest.items} x {manifest.dim}")
    if not torch.isfinite(torch.from_numpy(index.vectors_ND)).all():
        raise BundleRefused(f"{INDEX}: an item vector is not finite")
    _verify_ranker(folder, manifest)
    verify_fallback(folder, items=manifest.items, dim=manifest.dim)
    placer = read_placer(folder)
    if placer is not None and placer.dim != manifest.dim:
        raise BundleRefused(f"{PLACER}: the placer makes vectors of {placer.dim}, not {manifest.dim}")
    tower = read_text_tower_config(folder)
    if tower is not None and tower.dim != manifest.dim:
        raise BundleRefused(f"{TEXT_TOWER}: the text tower makes vectors of {tower.dim}, not {manifest.dim}")
    for name in (WEIGHTS, ITEM_TOKENS, RANKER_WEIGHTS, TEXT_TOWER_WEIGHTS, FALLBACK_WEIGHTS):
        if (folder / name).exists():
            for key, tensor in read_tensors(folder / name).items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise BundleRefused(f"{name}: {key} is not finite")


def _verify_ranker(folder: Path, manifest: Manifest) -> None:
    if manifest.ranker is None:
        if (folder / "ranker").exists():
            raise BundleRefused(f"there is a ranker/, of which {MANIFEST} says nothing")
        return
    if read_ranker_config(folder) != manifest.ranker:
        raise BundleRefused(f"ranker/config.json is not the ranker of {MANIFEST}")
    if manifest.ranker_golden is None:
        raise BundleRefused(f"{MANIFEST} says nothing of how far the ranker's golden scores may move")
    items = manifest.ranker.item_count
    if items != manifest.items:
        raise BundleRefused(f"ranker/config.json: the ranker knows {items} items, not {manifest.items}")


def read_catalog(folder: Path) -> ItemCatalog:
    try:
        return ItemCatalog.read(folder / ITEMS)
    except (PolarsError, ValueError, OSError) as error:
        raise BundleRefused(f"{ITEMS}: {error}") from error


def read_index(folder: Path, *, device: str = "cpu") -> ItemIndex:
    try:
        return ItemIndex.read(folder / INDEX, device=device)
    except ValueError as error:
        raise BundleRefused(f"{INDEX}: {error}") from error
