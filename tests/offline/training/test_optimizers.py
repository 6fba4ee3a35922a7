from __future__ import annotations

import torch

from offline.training.optimizers import MasterWeightAdamW


def test_float32_parameters_are_stepped_as_by_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(torch.arange(4.0)) for _ in range(2))
    for parameter, optimizer in (
        (ours, MasterWeightAdamW([{"params": [ours]}], lr=0.1, weight_decay=0.01)),
        (theirs, torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward((parameter**2).sum())
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_updates_below_bfloat16_resolution_add_up() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = MasterWeightAdamW([{"params": [parameter]}], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(parameter.sum())
        optimizer.step()
    # 100 steps of 1e-4; each alone would round back to 1.
    torch.testing.assert_close(parameter.float(), torch.full((3,), 0.99), atol=4e-3, rtol=0)
    assert (parameter < 1).all()


def test_masters_survive_a_checkpoint() -> None:
    def run(steps: int, saved: dict[str, object] | None = None) -> tuple[torch.nn.Parameter, MasterWeightAdamW]:
        parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = MasterWeightAdamW([{"params": [parameter]}], lr=3e-4)
        if saved is not None:
            optimizer.load_state_dict(saved)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward((parameter.float() ** 2).sum())
            optimizer.step()
        return parameter, optimizer

    whole, _ = run(20)
    _, half = run(10)
    resumed, _ = run(10, half.state_dict())
    assert torch.equal(whole, resumed)
