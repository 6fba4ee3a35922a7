from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import audit
from model_store.errors import ReadOnlyStore, StoreError
from model_store.labels import Labels, label_lock, read_labels
from model_store.store import ModelStore

Publish = Callable[..., str]


def told(store: ModelStore, limit: int = 100) -> list[tuple[int, str, str | None, str | None]]:
    return [(one.generation, one.label, one.from_, one.to) for one in store.audit(limit)]


def test_every_label_that_moves_has_its_line(store: ModelStore, publish: Publish) -> None:
    a, b = publish(seed=1), publish(seed=2)
    assert store.root.joinpath(audit.FILE).exists() is False
    store.activate(a, by="ann")
    store.label("canary", b, by="ben", traffic=0.25)
    store.activate(b, by="cem")
    store.rollback(by="dan")
    store.label("shadow", b, by="eve")
    store.label("shadow", None, by="eve")
    assert told(store) == [
        (6, "shadow", b, None),
        (5, "shadow", None, b),
        (4, "previous", a, b),
        (4, "live", b, a),
        (3, "canary", b, None),
        (3, "previous", None, a),
        (3, "live", a, b),
        (2, "canary", None, b),
        (1, "live", None, a),
    ]
    assert told(store, 2) == told(store)[:2]
    lines = [json.loads(line) for line in (store.root / audit.FILE).read_text().splitlines()]
    assert lines[1] == {
        "generation": 2, "at": lines[1]["at"], "by": "ben", "label": "canary", "from": None, "to": b, "traffic": 0.25,
    }  # fmt: skip
    assert lines[1]["at"].endswith("Z")


def test_a_wish_that_is_repeated_is_told_too(store: ModelStore, publish: Publish) -> None:
    a = publish()
    store.activate(a, by="ann")
    store.activate(a, by="ann")
    assert told(store) == [(2, "live", a, a), (1, "live", None, a)]


def test_what_is_not_done_is_not_told(store: ModelStore, publish: Publish) -> None:
    a, b = publish(seed=1), publish(seed=2)
    store.activate(a, by="ann")
    with pytest.raises(ValueError, match="traffic"):
        store.label("canary", b, by="ann")
    with label_lock(store.root):  # a crash after the line and before the labels
        audit.record(
            store.root, read_labels(store.root), read_labels(store.root).labelled("live", b, by="x"), asked="live"
        )
    assert told(store) == [(1, "live", None, a)]
    store.label("shadow", b, by="ann")
    assert told(store) == [(2, "shadow", None, b), (1, "live", None, a)]


@pytest.mark.parametrize("torn", [b'{"generation": 2, "at', b"\xff\xfe\x00", b"{}\n", b"\n\n"])
def test_a_damaged_line_costs_no_other(store: ModelStore, publish: Publish, torn: bytes) -> None:
    a, b = publish(seed=1), publish(seed=2)
    store.activate(a, by="ann")
    with (store.root / audit.FILE).open("ab") as file:
        file.write(torn)
    assert told(store) == [(1, "live", None, a)]
    store.activate(b, by="ann")
    assert told(store) == [(2, "previous", None, a), (2, "live", a, b), (1, "live", None, a)]


def test_damaged_labels_can_be_looked_up(store: ModelStore, publish: Publish) -> None:
    a, b = publish(seed=1), publish(seed=2)
    store.activate(a, by="ann")
    store.activate(b, by="ann")
    (store.root / "labels.json").write_text("{")
    assert told(store) == [(2, "previous", None, a), (2, "live", a, b), (1, "live", None, a)]


def test_labels_that_start_again_keep_what_was_told(store: ModelStore, publish: Publish) -> None:
    a, b = publish(seed=1), publish(seed=2)
    for version in (a, b, a):
        store.activate(version, by="ann")
    (store.root / "labels.json").unlink()
    store.activate(b, by="ann")
    assert [generation for generation, label, *_ in told(store) if label == "live"] == [1, 3, 2, 1]


def test_a_label_that_cannot_be_told_of_does_not_move(store: ModelStore, publish: Publish, tmp_path: Path) -> None:
    version = publish()
    (tmp_path / "elsewhere").touch()
    (store.root / audit.FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        store.activate(version, by="ann")
    assert store.labels() == Labels()
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.write", lambda *_: 0)
    with pytest.raises(ReadOnlyStore, match="No space"):
        audit.record(tmp_path, Labels(), Labels().labelled("live", "a", by="ann"), asked="live")
