"""The light encoder that a version may carry: the SASRec whose items it answers with."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import QueryEncoder
from model_store.fallback_files import reads_with_language_model


def light_fallback(start: Bundle, item_vectors_ND: Tensor) -> QueryEncoder | None:
    """The encoder of `start`, where its item vectors are these: then both queries are matched with the same items.

    None where the items have moved in training, or live in another space: a SASRec's query would mean nothing there.
    """
    if reads_with_language_model(start.encoder.config):
        return None
    if not torch.equal(torch.from_numpy(start.index.vectors_ND), item_vectors_ND.detach().float().cpu()):
        return None
    return deepcopy(start.encoder).cpu()
