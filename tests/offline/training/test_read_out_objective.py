from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from model_store.base_models import BaseModel
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import (
    AllPositionsLanguageModelEncoder,
    LanguageModelConfig,
    ResidualConfig,
    encoder_on,
)
from model_store.encoders.sequence import SequenceConfig
from offline.language.injected_items import ItemProjector
from offline.language.item_towers import FrozenTower
from offline.language.language_models import LanguageModel
from offline.teaching.distillation import Distillation, Read, distillation_loss, seen_pairs, soft_targets
from offline.training.read_out_objective import ReadOutNextItem, TextAndIdItems, TiedItems
from offline.training.windows import input_and_target, inputs_and_targets

ITEMS, DIM = 10, 6
MakeObjective = Callable[..., ReadOutNextItem]


@pytest.fixture
def base(tiny_base: Path) -> BaseModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2).open()


@pytest.fixture
def make(base: BaseModel) -> MakeObjective:
    def made(*, residual: ResidualConfig | None = None, **settings: Any) -> ReadOutNextItem:
        torch.manual_seed(0)
        config = LanguageModelConfig(
            lm=base.config,
            items=ITEMS,
            dim=DIM,
            max_history=7,
            jump=2,
            item_input="vector",
            prefix=(1, 2),
            residual=residual,
        )
        encoder = encoder_on(config, base)
        assert isinstance(encoder, AllPositionsLanguageModelEncoder)
        projector = ItemProjector(dim=DIM, text_NH=None, hidden=base.hidden, input_std=base.input_std)
        items = settings.pop("items", None) or TiedItems(torch.randn(ITEMS, DIM))
        return ReadOutNextItem(encoder, items, projector=projector, **settings)

    return made


@pytest.fixture
def windows() -> HistoryBatch:
    """Item 3 is a target, and a negative of other targets."""
    return HistoryBatch.of([[1, 2, 3, 4], [5, 3], [9, 8, 7, 0, 1, 2, 3]])


def _one_by_one(objective: ReadOutNextItem, windows: HistoryBatch) -> list[tuple[torch.Tensor, int]]:
    """Logits [N] and target of every prefix, each encoded by itself as the service would."""
    items_ND = objective.refresh()
    found = []
    for history in map(windows.history, range(len(windows))):
        for length in range(1, len(history)):
            user_D = objective.encoder(HistoryBatch.of([history[:length]]))[0]
            found.append((user_D @ items_ND.T, int(history[length])))
    return found


def test_the_loss_at_all_positions_is_the_mean_of_single_targets(make: MakeObjective, windows: HistoryBatch) -> None:
    objective = make()
    with torch.no_grad():
        singles = _one_by_one(objective, windows)
        expected = torch.stack([cross_entropy(logits, torch.tensor(target)) for logits, target in singles]).mean()
        assert objective.targets(windows) == len(singles) == 10
        torch.testing.assert_close(objective(windows), expected, rtol=1e-5, atol=1e-5)


def test_twins_are_no_negatives_of_each_other(make: MakeObjective, windows: HistoryBatch) -> None:
    groups = torch.arange(ITEMS)
    groups[[6, 9]] = 3  # 3, 6 and 9 are the same film
    objective = make(groups_N=groups)
    targets = torch.tensor([3, 9, 4])
    masked = objective._without_twins(torch.zeros(3, ITEMS), targets)
    hidden = [(row, item) for row, item in torch.nonzero(masked == -math.inf).tolist()]
    assert hidden == [(0, 6), (0, 9), (1, 3), (1, 6)]
    with torch.no_grad():
        losses = []
        for logits, target in _one_by_one(objective, windows):
            kept = [item for item in range(ITEMS) if item == target or int(groups[item]) != int(groups[target])]
            losses.append(torch.logsumexp(logits[kept], 0) - logits[target])
        loss = objective(windows)
        torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)
        assert loss < make()(windows)


def test_without_twins_nothing_is_masked(make: MakeObjective) -> None:
    assert make(groups_N=torch.arange(ITEMS)).groups_N is None


def test_gradient_reaches_the_parts_that_learn(make: MakeObjective, windows: HistoryBatch) -> None:
    objective = make()
    objective(windows).backward()
    silent = [name for name, p in objective.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    assert silent == []
    assert [id(p) for p in objective.item_parameters()] == [id(objective.items.vectors_ND)]


def test_items_of_text_and_id_start_where_they_came_from_and_place_the_unchosen_by_text(make: MakeObjective) -> None:
    draw = torch.Generator().manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(ITEMS, 4, generator=draw), dim=-1)
    start = text @ torch.randn(4, DIM, generator=draw) + 0.1 * torch.randn(ITEMS, DIM, generator=draw)
    truth = start.clone()
    start[[2, 7]] = 100.0  # whatever a model says of what it never saw
    chosen = torch.full((ITEMS,), 5)
    chosen[[2, 7]] = 0
    items = TextAndIdItems(start, text, chosen)
    warm = chosen > 0
    torch.testing.assert_close(items()[warm], start[warm])
    torch.testing.assert_close(items()[~warm], items.text(text)[~warm])
    assert float((items().detach()[~warm] - truth[~warm]).norm()) < 0.5 * float(truth[~warm].norm())
    objective = make(items=items)
    assert {id(p) for p in objective.item_parameters()} == {id(items.vectors_ND), id(items.text.weight)}
    objective(HistoryBatch.of([[1, 2, 3, 4], [5, 3]])).backward()
    assert items.vectors_ND.grad is not None
    assert float(items.vectors_ND.grad[~warm].abs().max()) == 0
    assert float(items.vectors_ND.grad[warm].abs().min()) > 0
    frozen = TextAndIdItems(start, text, chosen, trainable=False)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_teacher_is_added_to_the_cross_entropy(make: MakeObjective, windows: HistoryBatch) -> None:
    """After every item, or, with a single target, after the last one."""

    class Knowing:
        items_ND = torch.randn(ITEMS, 3, generator=torch.Generator().manual_seed(5))

        def read(self, inputs: HistoryBatch) -> Read:
            return Read(torch.arange(len(inputs.rows)), self.items_ND[inputs.rows.long()])

    for single in (False, True):
        with torch.no_grad():
            plain = make(single_target=single)
            taught = make(single_target=single, distillation=Distillation(Knowing(), weight=0.5))
            inputs, targets = (input_and_target if single else inputs_and_targets)(windows)
            items_ND = taught.refresh()
            logits = taught._users(inputs, items_ND) @ items_ND.T
            positions = inputs.offsets[1:] - 1 if single else torch.arange(len(inputs.rows))
            scores = Knowing.items_ND[inputs.rows.long()[positions]] @ Knowing.items_ND.T
            soft = soft_targets(scores, targets, excluded=seen_pairs(inputs, positions))
            expected = plain(windows) + 0.5 * distillation_loss(logits, soft)
            torch.testing.assert_close(taught(windows), expected)


def test_a_tower_has_no_item_parameters(make: MakeObjective) -> None:
    assert make(items=FrozenTower(torch.randn(ITEMS, 4), DIM)).item_parameters() == []


def test_the_scale_is_clamped_in_training_and_in_what_is_served(make: MakeObjective, windows: HistoryBatch) -> None:
    looks: list[Callable[[ReadOutNextItem], torch.Tensor]] = [lambda o: o(windows), lambda o: o.refresh()]
    for look in looks:
        objective = make(largest_scale=100.0)
        with torch.no_grad():
            objective.encoder.scale.fill_(250)
        look(objective)
        assert objective.encoder.scale.item() == 100
        free = make()
        with torch.no_grad():
            free.encoder.scale.fill_(250)
        look(free)
        assert free.encoder.scale.item() == 250


def test_refresh_makes_the_encoder_read_what_training_injects(make: MakeObjective, windows: HistoryBatch) -> None:
    objective = make()
    assert float(objective.encoder.item_inputs.abs().max()) == 0
    with torch.no_grad():
        items_ND = objective.refresh()
        users = objective._users(windows, items_ND)
        assert isinstance(objective.encoder, AllPositionsLanguageModelEncoder)
        torch.testing.assert_close(objective.encoder.forward_positions(windows), users)


RESIDUAL = ResidualConfig(
    sequence=SequenceConfig(items=ITEMS, dim=DIM, blocks=1, heads=1, max_history=7, jump=2), beta=1.0
)


@torch.no_grad()
def test_the_sequence_branch_is_silent_in_a_share_of_the_sequences(make: MakeObjective) -> None:
    histories = HistoryBatch.of([[b % ITEMS, (b + 3) % ITEMS] for b in range(400)])
    objective = make(residual=RESIDUAL, branch_drop=0.25)
    items_ND = objective.refresh()
    lm = objective.encoder.project(objective._read_outs(histories, None))
    branch = objective.encoder.residual_sequence.forward_positions(histories)
    heard = objective._users(histories, items_ND) - lm
    speaks = (heard.abs().sum(1) > 1e-4).view(400, 2)
    # By whole sequence, never by position.
    assert torch.equal(speaks[:, 0], speaks[:, 1])
    torch.testing.assert_close(heard, speaks.flatten()[:, None] * branch, rtol=1e-3, atol=1e-4)
    assert 0.15 < 1 - float(speaks.float().mean()) < 0.35


@torch.no_grad()
@pytest.mark.parametrize(("branch_drop", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_branch_that_always_or_never_speaks(
    make: MakeObjective, windows: HistoryBatch, branch_drop: float, share: float
) -> None:
    objective = make(residual=RESIDUAL, branch_drop=branch_drop)
    items_ND = objective.refresh()
    lm = objective.encoder.project(objective._read_outs(windows, None))
    branch = objective.encoder.residual_sequence.forward_positions(windows)
    torch.testing.assert_close(objective._users(windows, items_ND), lm + share * branch)


@torch.no_grad()
def test_a_single_target_is_the_last_of_all_positions(make: MakeObjective, windows: HistoryBatch) -> None:
    """The same window read whole: its last position's loss, whether or not the others are read."""
    residual = ResidualConfig(
        sequence=SequenceConfig(items=ITEMS, dim=DIM, blocks=1, heads=1, max_history=7, jump=2), beta=1.0
    )
    for changes in ({}, {"residual": residual, "branch_drop": 0.0}):
        every, last = (make(single_target=single, **changes).eval() for single in (False, True))
        assert last.targets(windows) == len(windows)
        assert every.targets(windows) > len(windows)
        losses, lengths = [], windows.lengths.tolist()
        for b in range(len(windows)):
            one, shorter = windows.select([b]), HistoryBatch.of([windows.history(b)[:-1]])
            total = float(every(one)) * (lengths[b] - 1)
            losses.append(total - (float(every(shorter)) * (lengths[b] - 2) if lengths[b] > 2 else 0.0))
        assert float(last(windows)) == pytest.approx(sum(losses) / len(losses), abs=1e-4)
