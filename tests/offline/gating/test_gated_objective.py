from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model_store.encoders.gated_lora import gated_layers
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, encoder_on
from offline.evaluation.validation import Validation
from offline.gating.gated_objective import GatedNextItem, GateStatistics
from offline.gating.mean_gate import use_mean_gate
from offline.gating.out_of_fold import InFold, OutOfFold
from offline.language.injected_items import FixedItemProjector
from offline.language.language_models import LanguageModel
from offline.splits.sequences import Queries
from offline.training.read_out_objective import TiedItems
from offline.training.windows import UserWindows, inputs_and_targets

ITEMS, DIM = 10, 6
SEQUENCE = {"items": ITEMS, "dim": DIM, "blocks": 1, "heads": 1, "max_history": 7, "jump": 2, "dropout": 0.5}
MakeObjective = Callable[..., GatedNextItem]


@pytest.fixture
def make(tiny_base: Path) -> MakeObjective:
    """As trained: every adapter and gate has an effect."""

    def made(*, gate: str = "causal", residual: bool = False, folds: int = 0, **settings: Any) -> GatedNextItem:
        torch.manual_seed(0)
        base = LanguageModel(base=str(tiny_base), keep_layers=2).open()
        config = LanguageModelConfig.model_validate(
            {
                "lm": base.config,
                "items": ITEMS,
                "dim": DIM,
                "max_history": 7,
                "jump": 2,
                "item_input": "vector",
                "prefix": (1, 2),
                "residual": {"sequence": SEQUENCE, "beta": 1.0} if residual else None,
                "gated_lora": {"experts": 2, "rank": 4, "alpha": 8, "gate": gate, "sequence": SEQUENCE},
            }
        )
        encoder = encoder_on(config, base)
        for layer in gated_layers(encoder.lm).values():
            nn.init.normal_(layer.lora_B, std=0.3)
        nn.init.normal_(encoder.gated_lora.router.weight)
        ids_ND = torch.randn(ITEMS, DIM)
        assert encoder.sequence is not None
        same = encoder.sequence.config.build().eval()
        same.load_state_dict(encoder.sequence.state_dict())
        sequence: InFold | OutOfFold = InFold(same, ids_ND)
        if folds:
            others = [encoder.sequence.config.build().eval() for _ in range(folds)]
            sequence = OutOfFold(others, torch.arange(3) % folds, ids_ND)
        projector = FixedItemProjector(ids_ND, text_NH=None, hidden=base.hidden, input_std=base.input_std)
        items = TiedItems(ids_ND, trainable=False)
        return GatedNextItem(encoder, items, projector=projector, sequence=sequence, **settings)

    return made


@pytest.fixture
def windows() -> UserWindows:
    pieces = [torch.tensor(piece, dtype=torch.int32) for piece in ([1, 2, 3, 4], [5, 3], [9, 8, 7, 0, 1, 2, 3])]
    return UserWindows.of_users(pieces, [2, 0, 1])


@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_the_loss_at_all_positions_is_that_of_what_is_served(
    make: MakeObjective, windows: UserWindows, residual: bool
) -> None:
    objective = make(residual=residual, branch_drop=0.0).eval()
    items_ND = objective.refresh()
    losses = []
    for history in map(windows.history, range(3)):
        for length in range(1, len(history)):
            user_1D = objective.encoder(HistoryBatch.of([history[:length]]))
            losses.append(cross_entropy(user_1D @ items_ND.T, history[length : length + 1].long()))
    torch.testing.assert_close(objective(windows), torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_whole_history_s_gate_has_one_target(make: MakeObjective, windows: UserWindows) -> None:
    objective = make(gate="history").eval()
    assert objective.single_target
    assert objective.targets(windows) == 3
    items_ND = objective.refresh()
    users_BD = objective.encoder(HistoryBatch.of([windows.history(b)[:-1] for b in range(3)]))
    expected = cross_entropy(users_BD @ items_ND.T, torch.tensor([4, 3, 3]))
    torch.testing.assert_close(objective(windows), expected, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_what_learns_and_nothing_else(make: MakeObjective, windows: UserWindows) -> None:
    objective = make(residual=True)
    assert objective.encoder.sequence is not None
    objective.encoder.sequence.requires_grad_(False)
    for name, parameter in objective.encoder.lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
    objective(windows).backward()
    learning = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert {name for name, p in objective.named_parameters() if p.grad is not None} == learning
    silent = [n for n, p in objective.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) == 0]
    assert silent == []
    assert not any("_sequence." in name for name in objective.state_dict() if not name.startswith("encoder."))


@torch.no_grad()
def test_out_of_fold_states_gate_and_stand_in_for_the_residual(make: MakeObjective, windows: UserWindows) -> None:
    objective = make(residual=True, folds=3, branch_drop=0.0)
    inputs, _ = inputs_and_targets(windows)
    folds = objective._sequence
    assert isinstance(folds, OutOfFold)
    expected_TD = torch.cat(
        [folds._encoders[user].forward_positions(inputs.select([b])) for b, user in enumerate((2, 0, 1))]
    )
    torch.testing.assert_close(objective.gate_states(inputs), expected_TD)
    torch.testing.assert_close(objective._sequence_vectors(inputs), expected_TD)
    seen: list[Tensor] = []
    objective.encoder.gated_lora.norm.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    objective(windows)
    assert all(torch.equal(states, expected_TD) for states in seen)
    plain = make(residual=True)
    assert not torch.allclose(plain._sequence_vectors(inputs), plain._sequence_vectors(inputs))  # its dropout is on
    assert torch.equal(plain.gate_states(inputs), plain.gate_states(inputs))


def test_the_curve_tells_what_the_gates_choose(make: MakeObjective, windows: UserWindows) -> None:
    objective = make()
    assert objective.figures() == {}
    objective(windows)
    figures = objective.figures()
    assert sorted(figures) == ["expert_load_0", "expert_load_1", "gate_entropy", "gate_entropy_most"]
    assert objective.figures() == {}
    objective.eval()
    objective(windows)
    assert objective.figures() == {}


def test_entropy_and_load() -> None:
    statistics = GateStatistics()
    statistics.add(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    statistics.add(torch.tensor([[1.0, 0.0]]))
    assert statistics.take() == {
        "gate_entropy": pytest.approx(math.log(2) / 3),
        "gate_entropy_most": math.log(2),
        "expert_load_0": pytest.approx(2.5 / 3),
        "expert_load_1": pytest.approx(0.5 / 3),
    }


@torch.no_grad()
def test_the_mean_gate_is_the_mean_over_training_positions(make: MakeObjective, windows: UserWindows) -> None:
    objective = make().eval()
    inputs, _ = inputs_and_targets(windows)
    encoder = objective.encoder
    expected_E = encoder.gated_lora.gates(objective.gate_states(inputs)).mean(0)
    validation = Validation(
        Queries(windows, torch.tensor([5, 6, 8]).numpy(), torch.arange(3).numpy()), exclude_seen=True
    )
    log = use_mean_gate(objective, objective.refresh(), windows, validation=validation, batch=2)
    torch.testing.assert_close(torch.tensor(log["mean_gate"]), expected_E)
    torch.testing.assert_close(encoder.gated_lora.gates(torch.randn(2, DIM)), expected_E.expand(2, 2))
    torch.testing.assert_close(encoder.gated_lora.no_history_1E[0], expected_E)
    assert log["loss_mean"] == pytest.approx(float(objective(windows)), rel=1e-5)
    assert log["loss_causal"] != pytest.approx(log["loss_mean"], rel=1e-5)
