"""Damage of every kind is refused with the reason, by a load in process and by the child that prepares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from model_store.bundle import Bundle
from model_store.encoder_files import WEIGHTS
from model_store.errors import BundleRefused
from model_store.preparing import prepare
from model_store.verification import MANIFEST, MANIFEST_SHA256, parse_manifest, regular_files, verify_files
from tests.model_store.signing import edit_manifest, sign


def refused(folder: Path, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=reason):
        Bundle.load(folder)
    with pytest.raises(BundleRefused, match=reason):
        prepare(folder, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"] == []


def test_a_whole_bundle_passes(bundle_folder: Path, tmp_path: Path) -> None:
    assert verify_files(bundle_folder).version == bundle_folder.name
    assert prepare(bundle_folder, tmp_path / "cache").is_dir()


def test_a_flipped_byte_in_any_file(bundle_folder: Path) -> None:
    files = regular_files(bundle_folder)
    assert len(files) >= 7
    for name, file in files.items():
        whole = file.read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 2}:
            damaged = bytearray(whole)
            damaged[position] ^= 0x01
            file.write_bytes(damaged)
            with pytest.raises(BundleRefused, match=name.split(".")[0]):
                Bundle.load(bundle_folder)
        file.write_bytes(whole)
    Bundle.load(bundle_folder)


def test_any_file_truncated(bundle_folder: Path) -> None:
    for name, file in regular_files(bundle_folder).items():
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BundleRefused, match=name.split(".")[0]):
            Bundle.load(bundle_folder)
        file.write_bytes(whole)


def test_any_file_missing(bundle_folder: Path) -> None:
    for name, file in regular_files(bundle_folder).items():
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(BundleRefused, match=f"{name} is missing"):
            Bundle.load(bundle_folder)
        file.write_bytes(whole)


def test_a_needed_file_that_no_manifest_names(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "golden.safetensors").unlink()
    sign(bundle_folder)
    refused(bundle_folder, "golden.safetensors is missing", tmp_path)


def test_an_extra_file(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "encoder" / "code.py").write_text("raise SystemExit")
    refused(bundle_folder, r"encoder/code.py is not in the manifest", tmp_path)


def test_a_link(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes((bundle_folder / WEIGHTS).read_bytes())
    (bundle_folder / WEIGHTS).unlink()
    (bundle_folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    refused(bundle_folder, "weights.safetensors is neither a file nor a folder", tmp_path)


def test_a_linked_folder(bundle_folder: Path, tmp_path: Path) -> None:
    shutil.move(bundle_folder / "encoder", tmp_path / "encoder")
    (bundle_folder / "encoder").symlink_to(tmp_path / "encoder")
    refused(bundle_folder, "encoder is neither a file nor a folder", tmp_path)


def test_a_bundle_that_is_itself_a_link(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle_folder)
    refused(tmp_path / "link", "link is not a folder", tmp_path)


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "pytorch_model.bin").write_bytes(b"weights")
    refused(tmp_path / "foreign", "manifest.json is missing: not a whole bundle", tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_SHA256])
def test_half_written(bundle_folder: Path, tmp_path: Path, name: str) -> None:
    (bundle_folder / name).unlink()
    refused(bundle_folder, f"{name} is missing", tmp_path)


def test_a_tampered_manifest(bundle_folder: Path, tmp_path: Path) -> None:
    text = (bundle_folder / MANIFEST).read_text()
    (bundle_folder / MANIFEST).write_text(text.replace('"family": "sasrec"', '"family": "sasrek"'))
    refused(bundle_folder, "manifest.json does not have the checksum", tmp_path)


def test_a_newer_schema(bundle_folder: Path, tmp_path: Path) -> None:
    edit_manifest(bundle_folder, schema=2, something_new={})
    refused(bundle_folder, "schema 2, newer than 1", tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"{", b"\xff\xfe", b'{"schema": "1"}'])
def test_a_manifest_that_is_none(content: bytes) -> None:
    with pytest.raises(BundleRefused, match=r"^manifest\.json is not"):
        parse_manifest(content)


def test_an_unknown_encoder_kind(bundle_folder: Path, tmp_path: Path) -> None:
    edit_manifest(bundle_folder, encoder={"kind": "os.system", "items": 40})
    refused(bundle_folder, "manifest.json: encoder: .*os.system", tmp_path)


def test_an_unknown_encoder_kind_in_the_config(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "encoder" / "config.json").write_text('{"kind": "os.system"}')
    sign(bundle_folder)
    refused(bundle_folder, "encoder/config.json: .*os.system", tmp_path)


def test_a_field_that_no_manifest_has(bundle_folder: Path, tmp_path: Path) -> None:
    edit_manifest(bundle_folder, run_this="rm")
    refused(bundle_folder, "manifest.json: run_this", tmp_path)


def write_index(folder: Path, make: Callable[[int], faiss.Index], *, items: int = 40, dim: int = 8) -> None:
    index = make(dim)
    vectors = np.random.default_rng(0).normal(size=(items, dim)).astype(np.float32)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / "items.faiss"))
    sign(folder)


@pytest.mark.parametrize(
    "make",
    [
        faiss.IndexFlatL2,
        lambda dim: faiss.IndexFlat(dim, faiss.METRIC_L1),
        lambda dim: faiss.index_factory(dim, "IVF1,Flat", faiss.METRIC_INNER_PRODUCT),
        lambda dim: faiss.index_factory(dim, "SQ8", faiss.METRIC_INNER_PRODUCT),
        lambda dim: faiss.index_factory(dim, "HNSW8,Flat", faiss.METRIC_INNER_PRODUCT),
    ],
)
def test_another_kind_of_index(bundle_folder: Path, tmp_path: Path, make: Callable[[int], faiss.Index]) -> None:
    write_index(bundle_folder, make)
    refused(bundle_folder, "items.faiss: holds a .*, not an IndexFlatIP", tmp_path)


@pytest.mark.parametrize(("items", "dim"), [(39, 8), (41, 8), (40, 9)])
def test_an_index_of_another_size(bundle_folder: Path, tmp_path: Path, items: int, dim: int) -> None:
    write_index(bundle_folder, faiss.IndexFlatIP, items=items, dim=dim)
    refused(bundle_folder, f"items.faiss is {items} x {dim}, not 40 x 8", tmp_path)


def test_an_empty_index(bundle_folder: Path, tmp_path: Path) -> None:
    write_index(bundle_folder, faiss.IndexFlatIP, items=0)
    refused(bundle_folder, "items.faiss: the index is empty", tmp_path)


def test_no_index_at_all(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / "items.faiss").write_bytes(b"not FAISS")
    sign(bundle_folder)
    refused(bundle_folder, "items.faiss: FAISS cannot read it", tmp_path)


def test_an_item_vector_that_is_not_finite(bundle_folder: Path, tmp_path: Path) -> None:
    index = faiss.read_index(str(bundle_folder / "items.faiss"))
    vectors = index.reconstruct_n(0, 40)
    vectors[17, 3] = np.nan
    damaged = faiss.IndexFlatIP(8)
    damaged.add(vectors)
    faiss.write_index(damaged, str(bundle_folder / "items.faiss"))
    sign(bundle_folder)
    refused(bundle_folder, "items.faiss: an item vector is not finite", tmp_path)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    sign(folder)


def test_a_weight_that_is_not_finite(bundle_folder: Path, tmp_path: Path) -> None:
    change_weights(bundle_folder, lambda state: state["norm.weight"].fill_(float("inf")))
    refused(bundle_folder, "weights.safetensors: norm.weight is not finite", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("norm.weight"),
        lambda state: state.update(stray=torch.zeros(1)),
        lambda state: state.update({"norm.weight": torch.zeros(9)}),
    ],
)
def test_weights_of_another_encoder(bundle_folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    change_weights(bundle_folder, change)
    with pytest.raises(BundleRefused, match=r"weights\.safetensors does not fit encoder/config\.json"):
        Bundle.load(bundle_folder)


def test_weights_that_answer_otherwise(bundle_folder: Path) -> None:
    change_weights(bundle_folder, lambda state: state["positions.weight"].zero_())
    with pytest.raises(BundleRefused, match=r"golden\.safetensors: whole batch: query vector"):
        Bundle.load(bundle_folder)


def test_a_config_that_is_not_the_manifests(bundle_folder: Path, tmp_path: Path) -> None:
    file = bundle_folder / "encoder" / "config.json"
    file.write_text(file.read_text().replace('"heads": 2', '"heads": 4'))
    sign(bundle_folder)
    refused(bundle_folder, "encoder/config.json is not the encoder of manifest.json", tmp_path)


@pytest.mark.parametrize("field", ["dim", "items", "max_history", "jump"])
def test_a_manifest_at_odds_with_the_encoder(bundle_folder: Path, tmp_path: Path, field: str) -> None:
    sign(bundle_folder, **{field: 5})
    refused(bundle_folder, f"encoder/config.json: {field} is", tmp_path)


def test_a_catalogue_of_another_length(bundle_folder: Path, tmp_path: Path) -> None:
    file = bundle_folder / "items.parquet"
    pl.read_parquet(file).head(39).write_parquet(file)
    sign(bundle_folder)
    refused(bundle_folder, "items.parquet has 39 items, not 40", tmp_path)


@pytest.mark.parametrize("column", ["item_id", "popularity"])
def test_a_catalogue_without_a_column(bundle_folder: Path, tmp_path: Path, column: str) -> None:
    file = bundle_folder / "items.parquet"
    pl.read_parquet(file).drop(column).write_parquet(file)
    sign(bundle_folder)
    refused(bundle_folder, f"items.parquet: catalogue lacks column.s. {column}", tmp_path)


@pytest.mark.parametrize("name", ["items.parquet", "encoder/weights.safetensors", "golden.safetensors"])
def test_a_file_of_noise(bundle_folder: Path, name: str) -> None:
    (bundle_folder / name).write_bytes(bytes(range(256)) * 4)
    sign(bundle_folder)
    with pytest.raises(BundleRefused, match=Path(name).name):
        Bundle.load(bundle_folder)
