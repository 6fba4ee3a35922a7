"""A bundle by somebody who knows the format and wants to be read, or to be written, somewhere else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle import Bundle
from model_store.errors import BundleRefused, StoreError, UnknownVersion
from model_store.preparing import prepare
from model_store.store import ModelStore
from model_store.verification import MANIFEST, MANIFEST_SHA256, parse_manifest

Publish = Callable[..., str]


def name_also(folder: Path, name: str, content: bytes) -> None:
    """Adds a file of that name, with its true checksum, to the manifest, and gives the manifest a fitting checksum."""
    fields = json.loads((folder / MANIFEST).read_bytes())
    fields["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write(folder, json.dumps(fields).encode())


def write(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    (folder / MANIFEST_SHA256).write_text(hashlib.sha256(content).hexdigest())


def everything_under(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "encoder/../../outside",
        "encoder/../../../outside",
        "{absolute}",
        "//{absolute}",
        "./outside",
        "encoder//outside",
        "encoder/",
        ".hidden",
        "encoder/.hidden",
        "..\\outside",
        "C:\\outside",
        "",
        ".",
        "..",
        "~/outside",
        "new\nline",
        "nul\x00byte",
        "a" * 300,
        "/".join("a" * 20),
    ],
)
def test_a_manifest_that_names_a_file_elsewhere(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    """The file is where the name points to, with the checksum that the manifest gives: only the name is wrong."""
    content = b"outside"
    (tmp_path / "outside").write_bytes(content)
    (bundle_folder.parent / "outside").write_bytes(content)
    name_also(bundle_folder, name.format(absolute=tmp_path / "outside"), content)
    before = everything_under(tmp_path)
    for load in (Bundle.load, lambda folder: prepare(folder, tmp_path / "cache")):
        with pytest.raises(BundleRefused, match=r"^manifest\.json: files"):
            load(bundle_folder)
    assert everything_under(tmp_path) == before, "nothing was written, neither there nor here"


def test_names_of_real_bundles_pass(bundle_folder: Path) -> None:
    fields = json.loads((bundle_folder / MANIFEST).read_bytes())
    record = {"sha256": "0" * 64, "bytes": 1}
    names = ["ranker/adapter/README.md", "encoder/config.json", "fallback/weights.safetensors", "a/_b/c-d.e_f"]
    fields["files"] |= dict.fromkeys(names, record)
    assert set(names) <= set(parse_manifest(json.dumps(fields).encode()).files)


@pytest.mark.parametrize("target", ["file outside", "file of another version", "folder outside", "nothing", "device"])
def test_a_link_within_a_bundle(bundle_folder: Path, tmp_path: Path, target: str) -> None:
    content = (bundle_folder / "items.parquet").read_bytes()
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "file").write_bytes(content)
    other = tmp_path / "store" / "other"
    other.mkdir()
    (other / "items.parquet").write_bytes(content)
    places = {
        "file outside": tmp_path / "away" / "file",
        "file of another version": other / "items.parquet",
        "folder outside": tmp_path / "away",
        "nothing": tmp_path / "gone",
        "device": Path("/dev/zero"),
    }
    (bundle_folder / "items.parquet").unlink()
    (bundle_folder / "items.parquet").symlink_to(places[target])
    for load in (Bundle.load, lambda folder: prepare(folder, tmp_path / "cache")):
        with pytest.raises(BundleRefused, match=r"items\.parquet is neither a file nor a folder"):
            load(bundle_folder)


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_SHA256])
def test_a_manifest_that_is_a_link(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    (bundle_folder / name).rename(tmp_path / name)
    (bundle_folder / name).symlink_to(tmp_path / name)
    store = ModelStore(bundle_folder.parent)
    with pytest.raises(BundleRefused, match="links are refused"):
        store.open(bundle_folder.name)
    with pytest.raises(BundleRefused, match="links are refused"):
        store.activate(bundle_folder.name, by="test")


def test_a_pipe_within_a_bundle_is_not_waited_for(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "items.parquet").unlink()
    os.mkfifo(bundle_folder / "items.parquet")
    with pytest.raises(BundleRefused, match=r"items\.parquet is neither a file nor a folder"):
        prepare(bundle_folder, tmp_path / "cache")


def test_a_version_that_leads_out_of_the_store(publish: Publish, store: ModelStore, tmp_path: Path) -> None:
    version = publish()
    outside = tmp_path / "outside"
    store.folder(version).rename(outside)
    (store.root / version).symlink_to(outside)
    assert store.list() == []
    for call in (store.folder, store.manifest, store.open, store.verify):
        with pytest.raises(UnknownVersion):
            call(version)
    assert store.prune(keep=0) == []
    assert outside.is_dir()


def test_the_store_itself_may_be_a_link(publish: Publish, store: ModelStore, tmp_path: Path) -> None:
    """An operator's mount, not a stranger's trick."""
    version = publish()
    (tmp_path / "linked").symlink_to(store.root)
    assert ModelStore(tmp_path / "linked").list_names() == [version]


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 100_000, b'{"schema": ' + b"[" * 200_000])
def test_brackets_without_end_hide_no_other_version(publish: Publish, store: ModelStore, content: bytes) -> None:
    bad, good = publish(), publish("other")
    write(store.folder(bad), content)
    with pytest.raises(BundleRefused, match=r"manifest\.json is not JSON"):
        store.manifest(bad)
    assert [manifest.version for manifest in store.list()] == [good]


def test_labels_that_lead_out_of_the_store(publish: Publish, store: ModelStore, tmp_path: Path) -> None:
    publish()
    (tmp_path / "labels.json").write_text('{"generation": 1, "live": "../outside"}')
    (store.root / "labels.json").write_bytes((tmp_path / "labels.json").read_bytes())
    with pytest.raises(StoreError, match="damaged"):
        store.labels()
