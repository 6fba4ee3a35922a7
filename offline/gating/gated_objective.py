"""Next item from a language model whose LoRA a SASRec gates: what the gates read in training, and what they choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import AllPositionsLanguageModelEncoder
from offline.gating.out_of_fold import InFold, OutOfFold
from offline.training.read_out_objective import ReadOutNextItem


class GatedNextItem(ReadOutNextItem):
    """sequence: whose states the gates read in training, without dropout. A residual adds the encoder's own SASRec with
    its dropout or, out of fold, the same states that the gates read."""

    def __init__(self, *args: Any, sequence: InFold | OutOfFold, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sequence = sequence  # no module: neither trained nor saved with what trains
        self._gates = GateStatistics()

    def figures(self) -> dict[str, float]:
        return self._gates.take()

    def gate_states(self, inputs: HistoryBatch) -> Tensor:
        """What the gates read in training: [T, D], or [B, D] where the gate is of whole histories."""
        return self._states(inputs, whole=self.encoder.gated_lora.config.gate == "history")

    def _read_outs(self, inputs: HistoryBatch, injected_TH: Tensor | None) -> Tensor:
        gate_XD = self.gate_states(inputs)
        if self.training:
            self._gates.add(self.encoder.gated_lora.gates(gate_XD))
        if self.single_target:
            return self.encoder.final_read_outs(inputs, injected_TH, gate_XD=gate_XD)
        assert isinstance(self.encoder, AllPositionsLanguageModelEncoder)
        return self.encoder.read_outs(inputs, injected_TH, gate_XD=gate_XD)

    def _sequence_vectors(self, inputs: HistoryBatch) -> Tensor:
        if isinstance(self._sequence, OutOfFold):
            return self._states(inputs, whole=self.single_target)
        return super()._sequence_vectors(inputs)

    def _states(self, inputs: HistoryBatch, *, whole: bool) -> Tensor:
        """[T, D] after every item, or [B, D] of whole histories."""
        device = self.encoder.scale.device
        self._sequence.to(device)
        states_TD = self._sequence.positions(inputs).to(device)
        return states_TD[(inputs.offsets[1:] - 1).to(device)] if whole else states_TD


@dataclass(slots=True, eq=False)
class GateStatistics:
    """Entropy in nats (log E: no choice is made; 0: one expert alone) and load (mean weight) of each of E experts."""

    count: int = 0
    entropy: float = 0.0
    load_E: Tensor = field(default_factory=lambda: torch.zeros(()))

    @torch.no_grad()
    def add(self, gates_XE: Tensor) -> None:
        self.count += len(gates_XE)
        self.entropy += float(torch.special.entr(gates_XE).sum())
        self.load_E = self.load_E + gates_XE.sum(0).double().cpu()

    def take(self) -> dict[str, float]:
        """Means over all gates since the last call, for a training's curve; nothing where there were none."""
        if not self.count:
            return {}
        loads = (self.load_E / self.count).tolist()
        figures = {"gate_entropy": self.entropy / self.count, "gate_entropy_most": math.log(len(loads))}
        self.count, self.entropy, self.load_E = 0, 0.0, torch.zeros(())
        return figures | {f"expert_load_{expert}": load for expert, load in enumerate(loads)}
