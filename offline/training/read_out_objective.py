"""Next item from a language model's read-outs: the loss that E4SRec and Contriever-Rec share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import AllPositionsLanguageModelEncoder, LanguageModelEncoder
from offline.language.injected_items import ItemProjector, VocabularyRows
from offline.language.text_map import fit_text_map
from offline.teaching.distillation import Distillation
from offline.training.full_softmax import full_softmax_loss
from offline.training.objectives import Denominator, Objective
from offline.training.windows import input_and_target, inputs_and_targets


class TiedItems(nn.Module):
    """One ID matrix that is both what the language model reads and what query vectors are matched with."""

    def __init__(self, start_ND: Tensor, *, trainable: bool = True) -> None:
        super().__init__()
        self.vectors_ND = nn.Parameter(start_ND.detach().clone(), requires_grad=trainable)

    def forward(self, targets_T: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all items learn, targets or not
        """float32 [N, D]."""
        return self.vectors_ND


class TextAndIdItems(TiedItems):
    """v_i = e_i + W t_i: an ID vector, and what the item's text says of it. An item that nobody chose has no e_i.

    At the start v_i is start_ND's for every chosen item, and W t_i the best guess of it by the text
    (`text_map`), so a new item has a place from the first step on: W t.
    text_NH: unit text vectors. chosen_N: int64 [N], how often each item was chosen in training.
    """

    text_NH: Tensor
    chosen_N1: Tensor

    def __init__(self, start_ND: Tensor, text_NH: Tensor, chosen_N: Tensor, *, trainable: bool = True) -> None:
        content = fit_text_map(text_NH, start_ND, chosen_N)
        super().__init__(start_ND - text_NH @ content.weight_DF.T, trainable=trainable)
        self.explained = content.explained
        self.text = nn.Linear(text_NH.shape[1], start_ND.shape[1], bias=False).requires_grad_(trainable)
        with torch.no_grad():
            self.text.weight.copy_(content.weight_DF)
        self.register_buffer("text_NH", text_NH, persistent=False)
        self.register_buffer("chosen_N1", (chosen_N > 0).to(start_ND.dtype)[:, None], persistent=False)

    def forward(self, targets_T: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all items learn, targets or not
        """float32 [N, D]."""
        vectors_ND: Tensor = self.vectors_ND * self.chosen_N1 + self.text(self.text_NH)
        return vectors_ND


class ReadOutNextItem(Objective):
    """Full-softmax cross entropy after every item; gradient reaches adapters, projector, head and item side.

    Of an encoder that cannot read all positions (bidirectional, with a suffix, with a gate over the whole history), and
    with single_target, only the last item of a window is a target: give it `windows.cuts`.

    items: a module that gives the item vectors [N, D]; called with a batch's targets in training, without otherwise.
    projector: makes injected vectors (None: text alone).
    groups_N: items of one number are never each other's negatives.
    dropout: at the inputs and at the read-outs; the language model itself has none.
    branch_drop: share of sequences in which the residual's sequence encoder is silent, so that the language model's
        branch learns what it does not already know.
    largest_scale: clamps the learnt 1 / temperature.
    distillation: added to the cross entropy, where there is a teacher.
    cold_N: bool[N], items that are in no denominator (`SequenceDataset.cold_items`).
    """

    groups_N: Tensor | None

    def __init__(
        self,
        encoder: LanguageModelEncoder,
        items: nn.Module,
        *,
        projector: ItemProjector | VocabularyRows | None,
        single_target: bool = False,
        groups_N: Tensor | None = None,
        dropout: float = 0.0,
        branch_drop: float = 0.25,
        largest_scale: float | None = None,
        distillation: Distillation | None = None,
        cold_N: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.items = items
        self.projector = projector
        self.single_target = single_target or not isinstance(encoder, AllPositionsLanguageModelEncoder)
        self.dropout = nn.Dropout(dropout)
        self.branch_drop = branch_drop
        self.largest_scale = largest_scale
        self.distillation = distillation
        self.denominator = Denominator(cold_N)
        alone = groups_N is None or len(torch.unique(groups_N)) == len(groups_N)
        self.register_buffer("groups_N", None if alone else groups_N, persistent=False)

    def item_parameters(self) -> list[nn.Parameter]:
        return list(self.items.parameters()) if isinstance(self.items, TiedItems) else []

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows) if self.single_target else super().targets(windows)

    def forward(self, windows: HistoryBatch) -> Tensor:
        inputs, targets_T = input_and_target(windows) if self.single_target else inputs_and_targets(windows)
        targets_T = targets_T.to(self.encoder.scale.device)
        self._clamp()
        vectors_ND = self.items(targets_T)
        users_TD = self._users(inputs, vectors_ND)
        if self.distillation is None:
            return full_softmax_loss(
                users_TD, vectors_ND, targets_T, closed_N=self.denominator.cold_N, groups_N=self.groups_N
            )
        logits_TN = users_TD @ vectors_ND.T
        loss = cross_entropy(self._without_twins(self.denominator(logits_TN), targets_T), targets_T)
        return loss + self.distillation(inputs, targets_T, logits_TN, single_target=self.single_target)

    @torch.no_grad()
    def refresh(self) -> Tensor:
        """Puts the current injected vectors into the encoder, so that it encodes as served; the item vectors."""
        self._clamp()
        vectors_ND: Tensor = self.items()
        if self.projector is not None:
            table_NH = self.projector.table(len(vectors_ND), vectors_ND)
            self.encoder.item_inputs.copy_(table_NH)
        return vectors_ND.detach()

    def _clamp(self) -> None:
        if self.largest_scale is not None:
            self.encoder.scale.data.clamp_(max=self.largest_scale)

    def _users(self, inputs: HistoryBatch, vectors_ND: Tensor) -> Tensor:
        injected_TH = None
        if self.projector is not None:
            injected_TH = self.dropout(self.projector(inputs.rows.long().to(vectors_ND.device), vectors_ND))
        users_TD = self.encoder.project(self.dropout(self._read_outs(inputs, injected_TH)))
        if self.encoder.config.residual is None:
            return users_TD
        speaks_T = torch.rand(len(inputs)) >= self.branch_drop
        if not self.single_target:
            speaks_T = torch.repeat_interleave(speaks_T, inputs.lengths)
        return speaks_T[:, None].to(users_TD) * self._sequence_vectors(inputs) + users_TD

    def _sequence_vectors(self, inputs: HistoryBatch) -> Tensor:
        """[T, D] of the residual's sequence encoder, with its dropout; with single_target [B, D]."""
        sequence = self.encoder.residual_sequence
        vectors_TD: Tensor = sequence(inputs) if self.single_target else sequence.forward_positions(inputs)
        return vectors_TD

    def _read_outs(self, inputs: HistoryBatch, injected_TH: Tensor | None) -> Tensor:
        if self.single_target:
            return self.encoder.final_read_outs(inputs, injected_TH)
        assert isinstance(self.encoder, AllPositionsLanguageModelEncoder)
        return self.encoder.read_outs(inputs, injected_TH)

    def _without_twins(self, logits_TN: Tensor, targets_T: Tensor) -> Tensor:
        if self.groups_N is None:
            return logits_TN
        twins_TN = self.groups_N[targets_T][:, None] == self.groups_N[None, :]
        twins_TN[torch.arange(len(targets_T), device=twins_TN.device), targets_T] = False
        return logits_TN.masked_fill(twins_TN, float("-inf"))
