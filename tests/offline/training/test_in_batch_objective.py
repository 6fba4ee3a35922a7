from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model_store.base_models import BaseModel
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, encoder_on
from model_store.token_blocks import tokenize_blocks
from offline.language.injected_items import ItemProjector
from offline.language.item_towers import CachedTower
from offline.language.language_models import LanguageModel
from offline.training import in_batch_objective
from offline.training.in_batch_objective import InBatchNextItem, in_batch_loss, log_target_shares

ITEMS, DIM = 10, 6


def _loss(scores_TN: Tensor, targets_T: Tensor, log_q_N: Tensor) -> Tensor:
    rows, columns, counts = torch.unique(targets_T, return_inverse=True, return_counts=True)
    return in_batch_loss(
        scores_TN[:, rows], targets_T=targets_T, columns_T=columns, rows_U=rows, counts_U=counts, log_q_N=log_q_N
    )


def test_it_is_the_cross_entropy_over_one_column_per_target() -> None:
    draw = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(7, ITEMS, generator=draw), torch.tensor([3, 1, 3, 9, 1, 1, 0])
    log_q = torch.randn(ITEMS, generator=draw)
    columns = scores[:, targets] - log_q[targets]
    same = (targets[:, None] == targets[None, :]) & ~torch.eye(7, dtype=torch.bool)
    expected = cross_entropy(columns.masked_fill(same, float("-inf")), torch.arange(7))
    torch.testing.assert_close(_loss(scores, targets, log_q), expected)


def test_an_item_s_share_is_of_the_targets() -> None:
    train = HistoryBatch.of([[1, 2, 2, 3], [], [2], [3, 1]])
    shares = log_target_shares(train, 5).exp()
    # Targets: 2, 2, 3, 1. Items 0 and 4 never are one.
    torch.testing.assert_close(shares[[1, 2, 3]], torch.tensor([0.25, 0.5, 0.25]))
    assert shares.isfinite().all()


def test_with_log_q_subtracted_the_batch_stands_for_the_catalogue() -> None:
    """Gradients with respect to the scores of every item, mean over many batches, against the full softmax's."""
    draw = torch.Generator().manual_seed(0)
    items, batch = 30, 256
    q = torch.rand(items, generator=draw) ** 3 + 0.1
    q = q / q.sum()
    scores_TN = torch.randn(batch, items, generator=draw)
    signs = {"subtracted": 1.0, "none": 0.0, "added": -1.0}
    full, found = torch.zeros(items), {name: torch.zeros(items) for name in signs}
    for _ in range(60):
        targets = torch.multinomial(q, batch, replacement=True, generator=draw)
        scores = scores_TN.clone().requires_grad_()
        full += torch.autograd.grad(cross_entropy(scores, targets), scores)[0].sum(0)
        for name, sign in signs.items():
            found[name] += torch.autograd.grad(_loss(scores, targets, sign * q.log()), scores)[0].sum(0)
    off = {name: float((ours - full).norm() / full.norm()) for name, ours in found.items()}
    assert off["subtracted"] < 0.2
    assert off["subtracted"] < 0.3 * off["none"] < 0.3 * off["added"]


def test_the_partition_function_is_estimated_without_bias() -> None:
    """log(1/n sum_j exp(s_j) / q_j) over targets drawn by q is log sum exp(s) of the whole catalogue."""
    draw = torch.Generator().manual_seed(1)
    q = torch.rand(30, generator=draw) + 0.05
    q = q / q.sum()
    scores = torch.randn(1, 30, generator=draw)
    estimates = []
    for _ in range(200):
        targets = torch.multinomial(q, 400, replacement=True, generator=draw)
        loss = _loss(scores.expand(400, -1), targets, q.log())
        # Every user is the same: -s_i + log q_i + log(n Z), but for the further columns of the own item.
        estimates.append(loss + (scores[0, targets] - q[targets].log()).mean() - torch.tensor(400.0).log())
    off = torch.stack(estimates).mean() - scores.logsumexp(1)[0]
    assert abs(float(off)) < 0.1
    wrong = torch.stack([_loss(scores.expand(400, -1), targets, torch.zeros(30)) + scores[0, targets].mean()])
    assert abs(float(wrong.mean() - torch.tensor(400.0).log() - scores.logsumexp(1)[0])) > 1


@pytest.fixture
def make(tiny_base: Path) -> Callable[..., InBatchNextItem]:
    def made(**settings: Any) -> InBatchNextItem:
        torch.manual_seed(0)
        language_model = LanguageModel(base=str(tiny_base), keep_layers=2, rank=4)
        base: BaseModel = language_model.open()
        config = LanguageModelConfig(
            lm=base.config, items=ITEMS, dim=DIM, max_history=7, jump=2, item_input="vector", normalize=True
        )
        encoder = encoder_on(config, base)
        adapted = language_model.with_adapters(encoder.lm)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # zero at the start: half of the adapter would have no gradient
                torch.nn.init.normal_(parameter, std=0.1)
        blocks = tokenize_blocks(base.tokenizer_file, [f"Item {row}" for row in range(ITEMS)])
        text = torch.randn(ITEMS, base.hidden)
        projector = ItemProjector(dim=None, text_NH=text, hidden=base.hidden, input_std=base.input_std)
        tower = CachedTower(encoder.lm, base.embedding, blocks, dim=DIM, refresh=3)
        log_q = torch.rand(ITEMS).log()
        return InBatchNextItem(encoder, tower, projector=projector, log_q_N=log_q, **settings)

    return made


@pytest.fixture
def windows() -> HistoryBatch:
    return HistoryBatch.of([[1, 2, 3, 4], [5, 3], [9, 8, 7, 0, 1, 2, 3], [4, 4, 6], [2, 9]])


def _gradients(objective: InBatchNextItem, windows: HistoryBatch) -> dict[str, Tensor]:
    torch.manual_seed(5)
    objective.zero_grad()
    objective(windows).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("single_target", [False, True])
def test_reading_in_chunks_changes_no_gradient(
    make: Callable[..., InBatchNextItem], windows: HistoryBatch, monkeypatch: pytest.MonkeyPatch, single_target: bool
) -> None:
    monkeypatch.setattr(in_batch_objective, "MOST_TARGETS", 3)
    plain = _gradients(make(single_target=single_target), windows)
    chunked = _gradients(make(single_target=single_target, chunk=2), windows)
    assert plain.keys() == chunked.keys()
    assert {name.partition(".")[0] for name in plain} == {"encoder", "items", "projector"}
    for name, gradient in plain.items():
        assert float(gradient.abs().sum()) > 0, name
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_second_reading_draws_the_same_dropout(
    make: Callable[..., InBatchNextItem], windows: HistoryBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = _gradients(make(chunk=2, dropout=0.5), windows)
    monkeypatch.setattr(in_batch_objective, "_read_twice", lambda read, given: read(given))
    once = _gradients(make(chunk=2, dropout=0.5), windows)
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], gradient, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_candidates_are_the_batch_s_targets_but_for_twins(
    make: Callable[..., InBatchNextItem], windows: HistoryBatch
) -> None:
    groups = torch.arange(ITEMS)
    groups[6] = 3  # the same film twice, both of them targets
    plain, masked = make(), make(groups_N=groups)
    items_ND = plain.refresh()
    users, targets = [], []
    for history in map(windows.history, range(len(windows))):
        for end in range(1, len(history)):
            users.append(plain.encoder(HistoryBatch.of([history[:end]]))[0])
            targets.append(int(history[end]))
    for objective, alike in ((plain, torch.arange(ITEMS)), (masked, groups)):
        losses = []
        for i, (user_D, target) in enumerate(zip(users, targets, strict=True)):
            others = [j for j, other in enumerate(targets) if j != i and alike[other] != alike[target]]
            rows = torch.tensor([target, *(targets[j] for j in others)])
            logits = user_D @ items_ND[rows].T - plain.log_q_N[rows]
            losses.append(logits.logsumexp(0) - logits[0])
        torch.testing.assert_close(objective(windows), torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    assert float(masked(windows)) < float(plain(windows))
