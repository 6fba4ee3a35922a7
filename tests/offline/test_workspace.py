from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


def test_the_environment_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAISEKI_CACHE", str(tmp_path / "there"))
    assert Workspace.from_environment().folder == tmp_path / "there"
    monkeypatch.delenv("NAISEKI_CACHE")
    monkeypatch.chdir(tmp_path)
    assert Workspace.from_environment().folder == tmp_path / ".cache"
    assert list(tmp_path.iterdir()) == []


def test_a_published_run_keeps_its_log_and_drops_its_checkpoints(workspace: Workspace) -> None:
    folder = workspace.run_folder("tiny", "0123")
    assert workspace.published(folder) is None
    (folder / "checkpoint-fit").mkdir()
    (folder / "checkpoint-fit/model.safetensors").write_bytes(b"weights")
    workspace.mark_published(folder, "v1", log={"best_epoch": 3})
    assert [path.name for path in folder.iterdir()] == ["published.json"]
    assert json.loads((folder / "published.json").read_text()) == {"version": "v1", "log": {"best_epoch": 3}}
    assert workspace.published(folder) == "v1"


def test_a_version_that_was_not_noted_is_no_version(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workspace.run_folder("tiny", "0123")

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            workspace.mark_published(folder, "v1", log={})
    assert workspace.published(folder) is None
    workspace.mark_published(folder, "v1", log={})
    assert workspace.published(folder) == "v1"


def test_files_of_different_things_are_different(workspace: Workspace) -> None:
    files = [
        workspace.run_folder("tiny", "a"),
        workspace.run_folder("tiny", "b"),
        workspace.scores_file("v1", "test-unseen"),
        workspace.scores_file("v1", "test-all"),
        workspace.scores_file("v2", "test-all"),
        workspace.tuning_file("tiny", "a"),
        workspace.tuning_file("tiny", "b"),
    ]
    assert len(set(files)) == len(files)
    assert all(file.parent.is_dir() for file in files)
