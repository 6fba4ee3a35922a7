"""How far a training has come, and which weights are the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Progress:
    """Everything about a training that a checkpoint keeps, beside weights and optimiser.

    measure: what is judged by, the more the better.
    """

    measure: str = "ndcg@10"
    epoch: int = 0
    steps: int = 0
    targets: int = 0
    items_read: int = 0
    seconds: float = 0.0
    since_best: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    done: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)
    recent: list[dict[str, Tensor]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def figures(self) -> dict[str, object]:
        """What the record keeps of a training."""
        return {
            "best_epoch": self.best_epoch,
            "epochs": self.epoch,
            f"best_mean_{self.measure}": self.best,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def judge(
        self, objective: nn.Module, figure: float, *, loss: float, average: int, figures: Mapping[str, float]
    ) -> None:
        """Takes one validation figure of the weights as they stand; `figures` go into the curve beside it.

        Judged is the mean of the last `average` figures; kept is the average of their weights.
        """
        self.curve.append(
            {
                "epoch": self.epoch,
                "targets": self.targets,
                "items_read": self.items_read,
                "seconds": self.seconds,
                "loss": loss,
                self.measure: figure,
                **figures,
            }
        )
        self.recent = [*self.recent, _trainable(objective)][-average:]
        judged = [point[self.measure] for point in self.curve[-average:]]
        mean = sum(judged) / len(judged)
        if mean > self.best:
            self.best, self.best_epoch, self.since_best = mean, self.epoch, 0
            self.best_weights = _average(self.recent)
        else:
            self.since_best += 1

    def restore_best(self, objective: nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in objective.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.best_weights[name])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def _trainable(objective: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU: a checkpoint is read back there, and copies of both kinds could not be averaged."""
    return {n: p.detach().to("cpu", copy=True) for n, p in objective.named_parameters() if p.requires_grad}


def _average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(states[0][name].dtype)
        for name in states[0]
    }
