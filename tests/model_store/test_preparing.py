from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from model_store import preparing
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.errors import BundleRefused
from model_store.preparing import find_prepared, prepare
from model_store.store import ModelStore


def test_the_copy_answers_like_the_bundle(bundle_folder: Path, tmp_path: Path) -> None:
    prepared = prepare(bundle_folder, tmp_path / "cache")
    assert prepared.name == hashlib.sha256((bundle_folder / "manifest.json").read_bytes()).hexdigest()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {prepared.name, f"{prepared.name}.seen"}
    histories = HistoryBatch.of([[1, 2, 3]])
    vectors_BD = Bundle.open(prepared).encode(histories).vectors_BD
    assert torch.equal(vectors_BD, Bundle.load(bundle_folder).encode(histories).vectors_BD)


def test_the_service_needs_nothing_of_the_store(store: ModelStore, publish: Callable[..., str], tmp_path: Path) -> None:
    version = publish()
    prepared = prepare(store.folder(version), tmp_path / "cache")
    store.root.rename(tmp_path / "gone")
    assert Bundle.open(prepared).version == version


def test_what_is_ready_is_used_again(bundle_folder: Path, tmp_path: Path) -> None:
    first = prepare(bundle_folder, tmp_path / "cache")
    files = {path: path.stat().st_ino for path in first.rglob("*")}
    assert prepare(bundle_folder, tmp_path / "cache") == first
    assert {path: path.stat().st_ino for path in first.rglob("*")} == files


@pytest.mark.parametrize("damage", ["flipped", "missing", "extra"])
def test_a_damaged_copy_is_made_again(bundle_folder: Path, tmp_path: Path, damage: str) -> None:
    prepared = prepare(bundle_folder, tmp_path / "cache")
    file = prepared / "encoder" / "weights.safetensors"
    if damage == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        (prepared / "extra").write_text("")
    assert prepare(bundle_folder, tmp_path / "cache") == prepared
    Bundle.load(prepared)


def test_an_untouched_copy_is_found_without_reading_it(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert find_prepared(bundle_folder, cache) is None
    prepared = prepare(bundle_folder, cache)
    os.utime(prepared, (1, 1))
    for name in ("verify_files", "verify_contents"):
        monkeypatch.setattr(preparing, name, lambda *_, **__: pytest.fail("it was read"))
    assert find_prepared(bundle_folder, cache) == prepared
    assert prepared.stat().st_mtime > 1, "used just now, so it is the last to be tidied away"


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "extra", "link", "gone", "unseen", "half seen"])
def test_a_touched_copy_is_not_found_until_it_was_checked(bundle_folder: Path, tmp_path: Path, damage: str) -> None:
    prepared = prepare(bundle_folder, tmp_path / "cache")
    file, seen = prepared / "encoder" / "weights.safetensors", prepared.with_name(f"{prepared.name}.seen")
    before = file.stat()
    if damage == "flipped":
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nobody had been there
    elif damage == "truncated":
        file.write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    elif damage == "extra":
        (prepared / "extra").write_text("")
    elif damage == "link":
        (prepared / "extra").symlink_to(file)
    elif damage == "gone":
        shutil.rmtree(prepared)
    elif damage == "unseen":
        seen.unlink()
    else:
        seen.write_bytes(seen.read_bytes()[:20])
    assert find_prepared(bundle_folder, tmp_path / "cache") is None
    assert prepare(bundle_folder, tmp_path / "cache") == prepared
    assert find_prepared(bundle_folder, tmp_path / "cache") == prepared
    Bundle.load(prepared)


def test_a_bundle_without_its_manifest_has_no_copy(bundle_folder: Path, tmp_path: Path) -> None:
    prepare(bundle_folder, tmp_path / "cache")
    (bundle_folder / "manifest.json").unlink()
    with pytest.raises(BundleRefused, match=r"manifest\.json"):
        find_prepared(bundle_folder, tmp_path / "cache")


def test_a_bundle_that_changes_while_it_is_read(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = preparing._copied

    def meddling(source: Path, target: Path) -> object:
        if source.name == "weights.safetensors":
            source.write_bytes(source.read_bytes()[:-4] + b"\0\0\0\1")
        return original(source, target)

    monkeypatch.setattr(preparing, "_copied", meddling)
    with pytest.raises(BundleRefused, match=r"weights\.safetensors does not have the checksum"):
        prepare(bundle_folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_process_may_be_quicker(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system whose locks do nothing."""
    monkeypatch.setattr(preparing, "_alone", lambda _: contextlib.nullcontext())
    original = preparing._put

    def late(copy: Path, target: Path) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(preparing, "_put", original)
            prepare(bundle_folder, tmp_path / "cache")
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
        original(copy, target)

    monkeypatch.setattr(preparing, "_put", late)
    Bundle.load(prepare(bundle_folder, tmp_path / "cache"))


def test_the_cache_does_not_grow_for_ever(store: ModelStore, publish: Callable[..., str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepared = []
    for age in range(preparing.KEPT + 1, 0, -1):
        prepared.append(prepare(store.folder(publish()), cache))
        os.utime(prepared[-1], (time.time() - age * 10,) * 2)
    (cache / ".preparing-old").mkdir()
    os.utime(cache / ".preparing-old", (time.time() - 5000,) * 2)
    (cache / ".preparing-new").mkdir()
    prepared.append(prepare(store.folder(publish()), cache))
    kept = {path.name for path in prepared[2:]}
    assert {path.name for path in cache.iterdir()} == {*kept, *[f"{name}.seen" for name in kept], ".preparing-new"}


def test_the_child_process(bundle_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_store.preparing", str(bundle_folder), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    prepared = Path(json.loads(done.stdout)["folder"])
    assert prepared.is_absolute()
    assert Bundle.open(prepared).version == bundle_folder.name


def test_a_refusal_tells_why(bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle_folder / "items.faiss").unlink()
    assert preparing.main([str(bundle_folder), str(tmp_path / "cache")]) == 1
    assert json.loads(capsys.readouterr().out) == {"reason": "items.faiss is missing"}


def test_a_cache_that_cannot_be_made(bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert preparing.main([str(bundle_folder), str(tmp_path / "file")]) == 1
    assert "file" in json.loads(capsys.readouterr().out)["reason"]


def test_two_that_prepare_at_once_make_one_copy(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas on one host hear of a version in the same second: neither may replace what the other opens."""
    original, copies = preparing._copy, []

    def slow(source: Path, copy: Path) -> None:
        copies.append(copy)
        time.sleep(0.1)
        original(source, copy)

    monkeypatch.setattr(preparing, "_copy", slow)
    with ThreadPoolExecutor(3) as threads:
        prepared = set(threads.map(lambda _: prepare(bundle_folder, tmp_path / "cache"), range(3)))
    assert (len(prepared), len(copies)) == (1, 1)
