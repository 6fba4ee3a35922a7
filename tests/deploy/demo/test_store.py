from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.demo.processes import StepFailed
from deploy.demo.store import labelled, newest_of_run


def publish(store: Path, version: str, run: str) -> None:
    (store / version).mkdir(parents=True)
    (store / version / "manifest.json").write_text(json.dumps({"version": version, "provenance": {"run": run}}))


def test_the_newest_version_of_a_run(tmp_path: Path) -> None:
    assert newest_of_run(tmp_path / "absent", "demo-sasrec") is None
    publish(tmp_path, "20260101-sasrec-a", "demo-sasrec")
    publish(tmp_path, "20260201-sasrec-b", "demo-sasrec")
    publish(tmp_path, "20260301-e4srec-c", "demo-e4srec")
    publish(tmp_path / ".staging", "20260401-sasrec-d", "demo-sasrec")
    assert newest_of_run(tmp_path, "demo-sasrec") == "20260201-sasrec-b"
    assert newest_of_run(tmp_path, "demo-e4srec") == "20260301-e4srec-c"
    assert newest_of_run(tmp_path, "other") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"provenance": {"run": 1}}', '{"provenance": null}'])
def test_a_damaged_version_counts_as_none(tmp_path: Path, content: str) -> None:
    publish(tmp_path, "20260101-sasrec-a", "demo-sasrec")
    publish(tmp_path, "20260201-sasrec-b", "demo-sasrec")
    (tmp_path / "20260201-sasrec-b" / "manifest.json").write_text(content)
    assert newest_of_run(tmp_path, "demo-sasrec") == "20260101-sasrec-a"


def test_damaged_labels_are_a_failed_step_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(StepFailed, match="restore it, or remove it"):
        labelled(tmp_path)


def test_labels(tmp_path: Path) -> None:
    assert labelled(tmp_path) == {"live": None, "previous": None}
    (tmp_path / "labels.json").write_text('{"generation": 2, "live": "b", "previous": "a", "canary": null}')
    assert labelled(tmp_path) == {"live": "b", "previous": "a"}
