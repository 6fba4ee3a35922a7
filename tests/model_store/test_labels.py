from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from model_store.errors import StoreError
from model_store.labels import Label, Labels, label_lock, read_labels, write_labels


def test_a_live_version_makes_the_former_one_previous() -> None:
    labels = Labels().labelled("live", "a", by="me").labelled("live", "b", by="you")
    assert (labels.live, labels.previous, labels.generation, labels.by) == ("b", "a", 2, "you")
    assert labels.at.endswith("Z")


def test_naming_the_live_version_again_changes_the_generation_only() -> None:
    labels = Labels().labelled("live", "a", by="me").labelled("live", "b", by="me")
    again = labels.labelled("live", "b", by="me")
    assert (again.live, again.previous, again.generation) == ("b", "a", 3)


def test_labels_apply_independently() -> None:
    labels = Labels().labelled("live", "a", by="me").labelled("canary", "b", by="me", traffic=0.25)
    labels = labels.labelled("shadow", "c", by="me").labelled("previous", "d", by="me").good("e")
    assert labels.canary is not None
    assert (labels.canary.version, labels.canary.traffic) == ("b", 0.25)
    assert labels.versions() == {"a", "b", "c", "d", "e"}
    assert labels.labelled("shadow", None, by="me").versions() == {"a", "b", "d", "e"}
    assert labels.labelled("canary", None, by="me").canary is None


def test_a_promoted_canary_is_none_any_more() -> None:
    labels = Labels().labelled("live", "a", by="me").labelled("canary", "b", by="me", traffic=0.25)
    assert labels.labelled("live", "b", by="me").canary is None
    assert labels.labelled("live", "c", by="me").canary == labels.canary


def test_a_version_that_becomes_live_is_shadow_and_canary_no_more() -> None:
    labels = Labels().labelled("live", "a", by="me").labelled("live", "b", by="me")
    labels = labels.labelled("canary", "a", by="me", traffic=0.5).labelled("shadow", "a", by="me")
    back = labels.rolled_back(by="me")
    assert (back.live, back.previous, back.canary, back.shadow) == ("a", "b", None, None)


@pytest.mark.parametrize("label", ["previous", "canary", "shadow"])
def test_the_live_version_gets_no_other_label(label: Label) -> None:
    labels = Labels().labelled("live", "a", by="me")
    with pytest.raises(StoreError, match=f"a is live: it cannot be {label} too"):
        labels.labelled(label, "a", by="me", traffic=0.5 if label == "canary" else None)


def test_the_salt_stays() -> None:
    labels = Labels().labelled("live", "a", by="me")
    assert len(labels.salt) == 32
    assert labels.labelled("canary", "b", by="me", traffic=0.1).salt == labels.salt
    assert Labels().labelled("live", "a", by="me").salt != labels.salt


@pytest.mark.parametrize(
    ("label", "version", "traffic"),
    [
        ("live", None, None),
        ("canary", "a", None),
        ("canary", None, 0.5),
        ("live", "a", 0.5),
        ("generation", "a", None),
        ("last_good", "a", None),
        ("canary", "a", 1.5),
        ("live", "../a", None),
    ],
)
def test_what_is_no_label_is_refused(label: str, version: str | None, traffic: float | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        Labels().labelled(label, version, by="me", traffic=traffic)  # type: ignore[arg-type]  # on purpose


def test_written_and_read(tmp_path: Path) -> None:
    labels = Labels().labelled("live", "a", by="日本", traffic=None)
    with label_lock(tmp_path):
        write_labels(tmp_path, labels)
    assert read_labels(tmp_path) == labels
    assert sorted(path.name for path in tmp_path.iterdir()) == [".labels.lock", "labels.json"]


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    write_labels(tmp_path, Labels())
    with (tmp_path / "labels.json").open("rb") as old:
        write_labels(tmp_path, Labels().labelled("live", "a", by="me"))
        assert Labels.model_validate_json(old.read()) == Labels()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"generation": -1}', '{"live": "../x"}', '{"color": "red"}'])
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(StoreError, match=r"labels\.json is damaged"):
        read_labels(tmp_path)


def test_a_damaged_file_tells_the_cure(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(StoreError, match="restore it, or remove it"):
        read_labels(tmp_path)


def test_what_is_no_file_and_no_store_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "labels.json").mkdir()
    with pytest.raises(StoreError, match=r"cannot be read: Is a directory: .*labels\.json"):
        read_labels(tmp_path)
    (tmp_path / "store").touch()
    with pytest.raises(StoreError, match="cannot be read: Not a directory"):
        read_labels(tmp_path / "store")


def test_a_link_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, Labels())
    (tmp_path / "labels.json").rename(tmp_path / "elsewhere")
    (tmp_path / "labels.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        read_labels(tmp_path)


def test_no_store(tmp_path: Path) -> None:
    assert read_labels(tmp_path / "none") == Labels()
    with pytest.raises(StoreError, match="there is no store"), label_lock(tmp_path / "none"):
        pass


def test_labels_are_immutable() -> None:
    with pytest.raises(ValidationError):
        setattr(Labels(), "live", "a")  # noqa: B010 - mypy would refuse the assignment
