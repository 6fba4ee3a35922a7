from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from offline.training.gathered import gather

ROOT = Path(__file__).parents[3]
# Two processes with their own rows: gathered loss and gradients against those of one process with all rows.
PROCESS = """
import sys
import torch
from torch import distributed
from offline.training.gathered import gather
from offline.training.in_batch_objective import in_batch_loss

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
draw = torch.Generator().manual_seed(0)
users, items = torch.randn(6, 4, generator=draw), torch.randn(9, 4, generator=draw)
log_q, targets = torch.randn(9, generator=draw), torch.tensor([1, 5, 1, 3, 1, 8])
mine = slice(0, 2) if rank == 0 else slice(2, 6)
table = items.clone().requires_grad_()


def loss_of(users, targets, table):
    own, columns, counts = torch.unique(targets, return_inverse=True, return_counts=True)
    vectors, start = gather(table[own])
    rows, counts = gather(own)[0], gather(counts)[0]
    told = dict(targets_T=targets, columns_T=columns + start, rows_U=rows, counts_U=counts, log_q_N=log_q)
    return in_batch_loss(users @ vectors.T, **told)


loss = loss_of(users[mine], targets[mine], table)
loss.backward()
distributed.all_reduce(table.grad)
distributed.all_reduce(loss := loss.detach() * len(targets[mine]))
distributed.destroy_process_group()

alone = items.clone().requires_grad_()
whole = loss_of(users, targets, alone)
torch.testing.assert_close(loss / 6, whole.detach())
# The mean of each process's mean, as processes that train together average.
each = sum(
    torch.nn.functional.cross_entropy(logits[part], own[part])
    for logits, own in [(lambda l: (l, torch.arange(6)))(
        (users @ alone[targets].T - log_q[targets]).masked_fill(
            (targets[:, None] == targets[None]) & ~torch.eye(6, dtype=torch.bool), float("-inf")))]
    for part in (slice(0, 2), slice(2, 6))
)
(expected,) = torch.autograd.grad(each, alone)
torch.testing.assert_close(table.grad, expected)
"""


def test_one_process_has_all_there_is() -> None:
    rows = torch.arange(3)
    whole, start = gather(rows)
    assert whole is rows
    assert start == 0


def test_two_processes_learn_from_each_other_s_targets(tmp_path: Path) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    started = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "process.py"), str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
