from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from offline.training.checkpoints import load_checkpoint, save_checkpoint


class Killed(Exception):
    pass


def _value(model: torch.nn.Linear) -> float:
    return float(model.weight.detach()[0, 0])


def _with(value: float, accelerator: Accelerator) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    prepared: torch.nn.Linear = accelerator.prepare(model)
    return prepared


@pytest.mark.parametrize(
    ("killed_at", "expected"),
    [("write", 1.0), ("first rename", 1.0), ("second rename", 2.0), ("never", 2.0)],
)
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, killed_at: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, accelerator = tmp_path / "checkpoint-fit", Accelerator()
    model = _with(1.0, accelerator)
    assert not load_checkpoint(accelerator, folder)
    save_checkpoint(accelerator, folder)
    torch.nn.init.constant_(model.weight, 2.0)
    rename, renamed = Path.rename, 0

    def killing(path: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if killed_at == ("first rename", "second rename")[renamed - 1]:
            raise Killed
        return rename(path, target)

    def half(path: str) -> None:
        Path(path).mkdir()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killing)
        if killed_at == "write":
            patch.setattr(accelerator, "save_state", half)
        if killed_at == "never":
            save_checkpoint(accelerator, folder)
        else:
            with pytest.raises(Killed):
                save_checkpoint(accelerator, folder)
    again = Accelerator()
    read = _with(0.0, again)
    assert load_checkpoint(again, folder)
    assert _value(read) == expected
    save_checkpoint(again, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-fit"]
