from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from offline import processes
from offline.processes import as_main_says, measuring_device, this_process


def test_one_process_is_the_main_one_and_agrees_with_itself() -> None:
    assert this_process().is_main_process
    assert as_main_says((1.5, "a")) == (1.5, "a")


@pytest.mark.parametrize(("trains_on", "measures_on"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("mps", "cpu")])
def test_versions_are_measured_where_they_can_be_served(
    trains_on: str, measures_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "this_process", lambda: SimpleNamespace(device=torch.device(trains_on)))
    assert measuring_device() == measures_on
