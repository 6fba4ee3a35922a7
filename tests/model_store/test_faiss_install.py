from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_store.faiss_install import WrongFaissInstall, check_one_faiss, installed_faiss


def pretend_installed(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_one_that_is_installed_here() -> None:
    import faiss

    name, version = check_one_faiss().split()
    assert name in {"faiss-cpu", "faiss-gpu"}
    assert version.startswith(faiss.__version__.rsplit(".", 1)[0])


def test_two_are_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(tmp_path, "faiss-cpu", "1.15.1")
    pretend_installed(tmp_path, "faiss_gpu", "1.15.1")
    pretend_installed(tmp_path, "faiss-helpers", "3")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_faiss() == {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}
    with pytest.raises(WrongFaissInstall, match="pip uninstall --yes faiss-cpu faiss-gpu"):
        check_one_faiss()


@pytest.mark.parametrize("name", ["faiss-gpu-cu12", "faiss"])
def test_other_builds_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend_installed(tmp_path, name, "1.14.1")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert check_one_faiss() == f"{name} 1.14.1"


def test_none_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(WrongFaissInstall, match="pip install faiss-cpu"):
        check_one_faiss()


def test_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_store.faiss_install"]
    repository = Path(__file__).parents[2]
    fine = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (fine.returncode, fine.stdout) == (0, f"one FAISS: {check_one_faiss()}\n")
    pretend_installed(tmp_path, "faiss-gpu", "1.15.1")
    environment = {"PYTHONPATH": str(tmp_path)}
    both = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert both.returncode == 1
    assert both.stderr.startswith("error: 2 FAISS distributions are installed (faiss-cpu faiss-gpu)")
