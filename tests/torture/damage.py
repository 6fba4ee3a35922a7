"""What can be wrong with a bundle on disk: every file flipped, cut, emptied or gone, and damage that is signed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from model_store.encoder_files import WEIGHTS
from model_store.verification import INDEX, ITEMS, MANIFEST, MANIFEST_SHA256, regular_files
from tests.model_store.signing import edit_manifest, sign


@dataclass(frozen=True, slots=True)
class Damage:
    """do: damages the folder. reason: a word that the refusal must hold."""

    name: str
    do: Callable[[Path], object]
    reason: str


def of_bytes(folder: Path) -> list[Damage]:
    """Every file of this bundle in every way that a disk, a copy or a person can spoil it."""
    found = []
    for name, file in regular_files(folder).items():
        size = file.stat().st_size
        word = Path(name).name.split(".")[0]
        places = sorted({0, size // 3, size // 2, size - 2})
        found += [Damage(f"{name}: byte {place} flipped", _flip(name, place), word) for place in places]
        found.append(Damage(f"{name}: cut in half", _cut(name, size // 2), word))
        found.append(Damage(f"{name}: empty", _cut(name, 0), word))
        found.append(Damage(f"{name}: a byte more", _append(name), word))
        gone = "no version" if name in (MANIFEST, MANIFEST_SHA256) else "missing"
        found.append(Damage(f"{name}: missing", _remove(name), gone))
    return found


def _flip(name: str, position: int) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[position] ^= 0x01
        (folder / name).write_bytes(content)

    return do


def _cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, size)


def _append(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"x")


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _signed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        change(folder)
        sign(folder)

    return do


def _weights(change: Callable[[dict[str, torch.Tensor], str], object]) -> Callable[[Path], object]:
    """change: gets the tensors, and the name of a large one of floating point."""

    def do(folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        large = max((n for n, t in state.items() if t.is_floating_point()), key=lambda n: state[n].numel())
        change(state, large)
        save_file(state, folder / WEIGHTS)
        sign(folder)

    return do


def _index(change: Callable[[np.ndarray], faiss.Index]) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        index = faiss.read_index(str(folder / INDEX))
        faiss.write_index(change(index.reconstruct_n(0, index.ntotal)), str(folder / INDEX))
        sign(folder)

    return do


def _flat(vectors: np.ndarray, kind: type[faiss.Index] = faiss.IndexFlatIP) -> faiss.Index:
    index = kind(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _not_finite(vectors: np.ndarray) -> faiss.Index:
    vectors[len(vectors) // 2, 0] = np.nan
    return _flat(vectors)


def _catalogue(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], object]:
    return _signed(lambda folder: change(pl.read_parquet(folder / ITEMS)).write_parquet(folder / ITEMS))


def _link(name: str) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        outside = folder.parent.parent / f"outside-{Path(name).name}"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return do


def _config(folder: Path) -> None:
    file = folder / "encoder/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "os.system"}))


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"weights": [1.0]}))


CRAFTED = (
    Damage("manifest: newer schema", lambda folder: edit_manifest(folder, schema=99), "schema 99"),
    Damage("manifest: unknown field", lambda folder: edit_manifest(folder, run_this="rm"), "run_this"),
    Damage("manifest: unknown encoder", lambda folder: edit_manifest(folder, encoder={"kind": "x"}), "encoder"),
    Damage("manifest: of another version", lambda folder: edit_manifest(folder, version="another-one"), "another-one"),
    Damage("manifest: another dim", lambda folder: sign(folder, dim=5), "dim"),
    Damage("manifest: another item count", lambda folder: sign(folder, items=5), "items"),
    Damage("manifest: another window", lambda folder: sign(folder, max_history=5), "max_history"),
    Damage("config: unknown kind", _signed(_config), "encoder/config.json"),
    Damage("weights: a pickle", _signed(_pickled), "weights"),
    Damage("weights: not finite", _weights(lambda s, name: s[name].view(-1)[7:8].fill_(float("nan"))), "not finite"),
    Damage("weights: a tensor missing", _weights(lambda s, name: s.pop(name)), "weights"),
    Damage("weights: a tensor more", _weights(lambda s, _: s.update(stray=torch.zeros(1))), "weights"),
    Damage("weights: another shape", _weights(lambda s, name: s.update({name: torch.zeros(3)})), "weights"),
    Damage("weights: of another training", _weights(lambda s, name: s[name].mul_(-3)), "golden"),
    Damage("index: by distance", _index(lambda v: _flat(v, faiss.IndexFlatL2)), "IndexFlatIP"),
    Damage("index: an item short", _index(lambda v: _flat(v[:-1])), "items.faiss"),
    Damage("index: another dim", _index(lambda v: _flat(v[:, :-1])), "items.faiss"),
    Damage("index: not finite", _index(_not_finite), "not finite"),
    Damage("index: rows in another order", _index(lambda v: _flat(v[::-1])), "golden"),
    Damage("index: noise", _signed(lambda f: (f / INDEX).write_bytes(bytes(range(256)) * 4)), "items.faiss"),
    Damage("catalogue: an item short", _catalogue(lambda frame: frame.head(len(frame) - 1)), "items.parquet"),
    Damage("catalogue: no ids", _catalogue(lambda frame: frame.drop("item_id")), "item_id"),
    Damage("catalogue: an id twice", _catalogue(lambda f: pl.concat([f.head(1), f.head(len(f) - 1)])), "items.parquet"),
    Damage("catalogue: noise", _signed(lambda f: (f / ITEMS).write_bytes(b"PAR1" * 99)), "items.parquet"),
    Damage("a file more", lambda folder: (folder / "encoder/code.py").write_text("raise SystemExit"), "code.py"),
    Damage("a linked file", _link(WEIGHTS), "weights"),
    Damage("a linked folder", _link("encoder"), "encoder"),
)
