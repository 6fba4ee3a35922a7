from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.errors import BundleRefused, LabelConflict, ReadOnlyStore, StoreError, UnknownVersion
from model_store.manifest import GoldenTolerances, Metric, Provenance
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore

Publish = Callable[..., str]
TinyParts = Callable[..., BundleParts]


def make_old(store: ModelStore, version: str) -> None:
    past = time.time() - 4000
    os.utime(store.root / version / "manifest.json", (past, past))


def test_a_new_store_is_empty(store: ModelStore) -> None:
    assert store.list_names() == []
    assert store.list() == []
    assert store.labels().generation == 0
    assert not store.root.exists()


def test_stage_publish_open(store: ModelStore, tiny_parts: TinyParts, provenance: Provenance) -> None:
    parts = tiny_parts()
    staged = store.stage(parts, provenance=provenance, catalogue_at="2026-01-02T03:04:05Z")
    assert store.list_names() == []
    measured = Bundle.load(staged.folder)
    metric = Metric(
        dataset="d",
        dataset_fingerprint="f",
        protocol="last-10",
        subset="validation",
        name="ndcg@10",
        seen_removed=True,
        value=0.5,
        events=1,
        users=1,
    )
    version = store.publish(staged, metrics=[metric])
    assert re.fullmatch(r"\d{8}t\d{6}-sasrec-[0-9a-f]{12}", version)
    assert store.list_names() == [version]
    (manifest,) = store.list()
    assert manifest.version == version
    assert manifest.metrics == [metric]
    assert manifest.catalogue_at == "2026-01-02T03:04:05Z"
    assert manifest.provenance == provenance
    assert manifest.warnings == []
    opened = store.open(version)
    histories, wants = HistoryBatch.of([[1, 2], [3]]), [Want(9), Want(9)]
    for a, b in zip(measured.retrieve(histories, wants), opened.retrieve(histories, wants), strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.scores.tolist() == b.scores.tolist()
    store.verify(version)
    assert os.listdir(store.root / ".staging") == []


def test_published_twice_is_two_versions(publish: Publish, store: ModelStore) -> None:
    assert len({publish(), publish(), publish("ease")}) == 3
    assert len(store.list_names()) == 3


def test_discarded_leaves_nothing(store: ModelStore, tiny_parts: TinyParts, provenance: Provenance) -> None:
    store.stage(tiny_parts(), provenance=provenance).discard()
    assert os.listdir(store.root / ".staging") == []


def test_a_failed_stage_leaves_nothing(store: ModelStore, tiny_parts: TinyParts, provenance: Provenance) -> None:
    def unwilling(histories: HistoryBatch) -> torch.Tensor:
        raise RuntimeError("no such part")

    parts = tiny_parts()
    broken = BundleParts(
        parts.family,
        parts.catalog,
        parts.encoder,
        parts.item_vectors_ND,
        parts.golden_histories,
        {"adapter": unwilling},
    )
    with pytest.raises(RuntimeError, match="no such part"):
        store.stage(broken, provenance=provenance)
    assert os.listdir(store.root / ".staging") == []


def test_tolerances_too_tight_refuse_the_stage(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance
) -> None:
    with pytest.raises(BundleRefused, match=r"golden\.safetensors"):
        store.stage(tiny_parts(), provenance=provenance, tolerances=GoldenTolerances(cosine=-1, norm=0))


@pytest.mark.parametrize("family", ["SASRec", "../x", "", "a" * 60, "a b"])
def test_a_family_that_cannot_be_a_name(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance, family: str
) -> None:
    with pytest.raises(ValueError, match="cannot be part of a version's name"):
        store.stage(tiny_parts(family), provenance=provenance)
    assert not store.root.exists()


@pytest.mark.parametrize(
    "version", ["", ".", "..", "../store", "/etc", ".staging", "A", "x/y", "none", "a" * 81, "v\n"]
)
def test_a_version_that_is_not_there(publish: Publish, store: ModelStore, version: str) -> None:
    publish()
    for call in (store.folder, store.manifest, store.open, store.verify):
        with pytest.raises(UnknownVersion):
            call(version)
    with pytest.raises(UnknownVersion):
        store.activate(version, by="test")
    assert store.labels().generation == 0


def test_what_is_not_a_version_is_not_seen(publish: Publish, store: ModelStore, tmp_path: Path) -> None:
    version = publish()
    shutil.copytree(store.folder(version), tmp_path / "outside")
    (store.root / "linked").symlink_to(tmp_path / "outside")
    (store.root / "half").mkdir()
    shutil.copy(store.folder(version) / "manifest.json", store.root / "half")
    (store.root / "foreign").mkdir()
    (store.root / "file").write_text("")
    shutil.copytree(store.folder(version), store.root / "renamed")
    (store.root / "renamed" / "manifest.sha256").unlink()
    assert store.list_names() == [version]
    for name in ("linked", "half", "foreign", "file", "renamed"):
        with pytest.raises(UnknownVersion):
            store.open(name)


def test_a_renamed_version_is_refused(publish: Publish, store: ModelStore) -> None:
    version = publish()
    store.folder(version).rename(store.root / "mine")
    with pytest.raises(BundleRefused, match=f"manifest.json is of version {version}, not mine"):
        store.open("mine")
    assert store.list() == []
    assert store.list_names() == ["mine"]


def test_activate_and_rollback(publish: Publish, store: ModelStore) -> None:
    first, second = publish(), publish()
    labels = store.activate(first, by="test")
    assert (labels.generation, labels.live, labels.previous, labels.by) == (1, first, None, "test")
    with pytest.raises(StoreError, match="no previous version"):
        store.rollback(by="test")
    store.activate(second, by="test")
    labels = store.rollback(by="someone")
    assert (labels.generation, labels.live, labels.previous, labels.by) == (3, first, second, "someone")
    assert store.labels() == labels


def test_a_lost_race_is_a_conflict(publish: Publish, store: ModelStore) -> None:
    first, second = publish(), publish()
    store.activate(first, by="test", expected_generation=0)
    with pytest.raises(LabelConflict, match="at generation 1, not 0"):
        store.activate(second, by="test", expected_generation=0)
    with pytest.raises(LabelConflict, match="at generation 1, not 0"):
        store.rollback(by="test", expected_generation=0)
    assert store.labels().live == first


def test_two_writers_lose_no_change(publish: Publish, store: ModelStore) -> None:
    first, second = publish(), publish()

    def write(version: str) -> None:
        for _ in range(20):
            ModelStore(store.root).activate(version, by="thread")

    threads = [threading.Thread(target=write, args=(version,)) for version in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.labels().generation == 40
    assert {store.labels().live, store.labels().previous} == {first, second}


def test_a_damaged_version_gets_no_label(publish: Publish, store: ModelStore) -> None:
    version = publish()
    (store.folder(version) / "manifest.json").write_text("{}")
    with pytest.raises(BundleRefused):
        store.activate(version, by="test")
    assert store.labels().generation == 0


def test_rollback_to_a_version_that_is_gone(publish: Publish, store: ModelStore) -> None:
    first, second = publish(), publish()
    store.activate(first, by="test")
    store.activate(second, by="test")
    shutil.rmtree(store.folder(first))
    with pytest.raises(UnknownVersion):
        store.rollback(by="test")
    assert store.labels().live == second


def test_last_good_does_not_raise_the_generation(publish: Publish, store: ModelStore) -> None:
    version = publish()
    before = store.activate(version, by="test")
    after = store.mark_good(version)
    assert after.last_good == version
    assert after.model_copy(update={"last_good": None}) == before
    written = (store.root / "labels.json").stat().st_ino
    store.mark_good(version)
    assert (store.root / "labels.json").stat().st_ino == written  # nothing to write


def test_prune_keeps_what_is_needed(publish: Publish, store: ModelStore) -> None:
    versions = [publish("ease" if i % 2 else "sasrec") for i in range(7)]
    names = store.list_names()
    assert sorted(versions) == names
    store.activate(names[0], by="test")
    store.activate(names[1], by="test")  # names[0] is previous
    store.mark_good(names[2])
    for name in names[:-1]:
        make_old(store, name)
    young = names[3]
    os.utime(store.root / young / "manifest.json")
    assert store.prune(keep=1) == names[4:6]
    assert store.list_names() == [*names[:4], names[6]]
    assert os.listdir(store.root / ".staging") == []
    assert store.prune(keep=1) == []
    with pytest.raises(ValueError, match="negative"):
        store.prune(-1)


def test_prune_of_the_canary_and_the_shadow(publish: Publish, store: ModelStore) -> None:
    names = sorted(publish() for _ in range(4))
    store.label("canary", names[0], by="test", traffic=0.1)
    store.label("shadow", names[1], by="test")
    for name in names:
        make_old(store, name)
    assert store.prune(keep=0) == names[2:]


KILLED = """
# One process that has imported everything, and a fork of it that dies at each moment.
import os, signal, sys
from dataclasses import replace
from pathlib import Path
tests, root = sys.argv[1:]
sys.path.insert(0, tests)
from conftest import make_parts, make_provenance
from model_store import staging_area
from model_store.store import ModelStore

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def work(store, moment):
    if moment == "staging":
        store.stage(replace(make_parts(), controls={"any": kill}), provenance=make_provenance())
    staged = store.stage(make_parts(), provenance=make_provenance())
    if moment == "publishing":
        staging_area.write_manifest = kill
    if moment == "evaluating":
        kill()
    store.publish(staged)

for moment in ("staging", "evaluating", "publishing", "never"):
    child = os.fork()
    if child == 0:
        work(ModelStore(Path(root, moment)), moment)
        os._exit(0)
    print(moment, os.waitpid(child, 0)[1])
"""


def test_a_killed_process_leaves_nothing_visible(tmp_path: Path, tiny_parts: TinyParts, provenance: Provenance) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["staging 9", "evaluating 9", "publishing 9", "never 0", ""], done.stderr
    assert len(ModelStore(tmp_path / "never").list_names()) == 1
    for moment in ("staging", "evaluating", "publishing"):
        store = ModelStore(tmp_path / moment)
        assert store.list_names() == []
        (left,) = (store.root / ".staging").iterdir()
        staged = store.stage(tiny_parts(), provenance=provenance)
        assert left.exists()  # it could be somebody's who is only about to lock it
        for folder in (left, staged.folder):
            os.utime(folder, (time.time() - 4000,) * 2)
        store.stage(tiny_parts(), provenance=provenance).discard()
        assert not left.exists()
        assert staged.folder.exists()  # its owner lives
        store.verify(store.publish(staged))


def test_a_store_that_cannot_be_written(
    publish: Publish, store: ModelStore, tiny_parts: TinyParts, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish()

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patched:  # root may write anywhere: permissions cannot be tried
        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(ReadOnlyStore, match="Read-only file system"):
            store.stage(tiny_parts(), provenance=provenance)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(ReadOnlyStore, match="Read-only file system"):
            store.activate(version, by="test")
    assert store.labels().generation == 0
    store.open(version)


def test_a_full_disk_is_a_refusal(publish: Publish, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(ReadOnlyStore, match="No space left on device"):
            store.activate(version, by="test")
    assert store.labels().generation == 0
    store.activate(version, by="test")


def test_a_store_that_cannot_be_read(publish: Publish, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:  # root may read anything: permissions cannot be tried
        patched.setattr(Path, "iterdir", refuse)
        for read in (store.list, lambda: store.manifest(version)):
            with pytest.raises(StoreError, match="cannot be read: Permission denied"):
                read()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", refuse)
        with pytest.raises(StoreError, match="cannot be read: Permission denied"):
            store.folder(version)
        assert store.list_names() == []
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_symlink", refuse)
        with pytest.raises(StoreError, match="cannot be read: Permission denied"):
            store.labels()
