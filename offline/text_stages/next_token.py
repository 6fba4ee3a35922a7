"""Tokens predicted from the state one position before them, through the language model's head.

With mask_token: masked next token prediction (BehnamGhader et al., 2024, "LLM2Vec"), where the drawn tokens are hidden,
as attention that looks both ways would else show them. Without: the ordinary causal loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model_store.base_models import BaseModel as Base
from model_store.encoders.decoder import read_row
from model_store.encoders.history import HistoryBatch
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import TokenRow
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.training.objectives import Objective


class TextReading(nn.Module):
    """A decoder that reads serialised histories. `lm` is registered and trains; the token table does neither."""

    def __init__(self, base: Base, histories: SerialisedHistories, *, causal: bool) -> None:
        super().__init__()
        self.lm = base.lm
        self.histories = histories
        self.causal = causal
        self._borrowed = (base.embedding,)

    def states(self, tokens_S: Tensor, row: TokenRow) -> Tensor:
        """[S, H] in the LM's dtype."""
        (embedding,) = self._borrowed
        device = next(self.lm.parameters()).device
        with torch.no_grad():
            # The table stays where it was made: nobody moves what is not registered.
            inputs_SH = embedding(tokens_S.to(next(embedding.parameters()).device)).to(device)
        return read_row(self.lm, inputs_SH, row.positions_S.to(device), Packed(row.lengths, causal=self.causal))


class NextToken(Objective):
    """Mean cross entropy, in nats, over a drawn share of each window's item tokens; logits at those alone.

    head_VH: the LM head, which stays as it is. share: of the item tokens of each window, rounded, at least one. Tokens
    of the prefix are no targets, nor is a window's first token, which has no state before it.
    """

    head_VH: Tensor

    def __init__(
        self,
        base: Base,
        histories: SerialisedHistories,
        *,
        head_VH: Tensor,
        share: float,
        mask_token: int | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        assert causal or mask_token is not None, "a bidirectional state has seen the token it is to predict"
        self.reading = TextReading(base, histories, causal=causal)
        self.share = share
        self.mask_token = mask_token
        self.register_buffer("head_VH", head_VH, persistent=False)

    def targets(self, windows: HistoryBatch) -> int:
        histories = self.reading.histories
        skipped = max(1, len(histories.prefix))
        return sum(self._drawn(length - skipped) for length in histories.tokens(windows).tolist())

    def forward(self, windows: HistoryBatch) -> Tensor:
        written = self.reading.histories.written(windows)
        places_X = self.draw(written.row)
        inputs_S = written.tokens_S
        if self.mask_token is not None:
            inputs_S = inputs_S.index_fill(0, places_X, self.mask_token)
        states_SH = self.reading.states(inputs_S, written.row)
        logits_XV = states_SH[(places_X - 1).to(states_SH.device)] @ self.head_VH.T
        return cross_entropy(logits_XV.float(), written.tokens_S[places_X].to(logits_XV.device))

    def draw(self, row: TokenRow) -> Tensor:
        """int64 [X]: places in the row, ascending within each window; each has a place of the same window before it."""
        drawn: list[Tensor] = []
        for window, start in enumerate(row.starts):
            span = row.item_span(window)
            first = max(span.start, start + 1)
            among = torch.randperm(span.stop - first)[: self._drawn(span.stop - first)]
            drawn.append(first + among.sort().values)
        return torch.cat(drawn)

    def _drawn(self, candidates: int) -> int:
        return min(candidates, max(1, round(self.share * candidates)))
