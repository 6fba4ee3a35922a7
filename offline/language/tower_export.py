"""From a trained item side that reads texts to the text tower of a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from model_store import base_models
from model_store.encoders.decoder import cast_decoder
from model_store.text_tower import TextTower, TextTowerConfig
from offline.language.language_models import DTYPES, LanguageModel

GOLDEN = 8


def text_tower(
    base: base_models.BaseModel,
    lm: PreTrainedModel,
    head: nn.Module,
    *,
    settings: LanguageModel,
    texts: Sequence[str],
    config: TextTowerConfig,
    trained_N: npt.NDArray[np.bool_],
    centre_H: Tensor | None = None,
) -> TextTower:
    """lm: the decoder that read the texts, without token table; it is cast to what is served, in place.

    config: how texts are read; lm, vocabulary, dtype and golden texts are filled in. texts: of all items, by row.
    trained_N: bool[N], whose vectors are the tower's; golden texts are theirs.
    """
    dtype = DTYPES[settings.served_dtype]
    cast_decoder(lm, dtype)
    tokenizer = Tokenizer.from_file(str(base.tokenizer_file))
    table = next(base.embedding.parameters())
    size = len(table)
    with torch.no_grad():
        token_inputs = base.embedding(torch.arange(size, device=table.device)).cpu().to(dtype)
    trained = np.flatnonzero(trained_N)
    spread = torch.linspace(0, len(trained) - 1, min(GOLDEN, len(trained))).round().int().tolist()
    rows = tuple(sorted({int(trained[place]) for place in spread}))
    filled = config.model_copy(
        update={
            "vocabulary": size,
            "dtype": settings.served_dtype,
            "golden_rows": rows,
            "golden_texts": tuple(texts[row] for row in rows),
        }
    )
    made = filled.build(lm)
    made.token_inputs.copy_(token_inputs)
    made.head.load_state_dict(head.state_dict())
    if centre_H is not None:
        made.centre_H.copy_(centre_H)
    made.tokenizer = tokenizer
    return made.cpu().eval().requires_grad_(False)


def with_value(constants: tuple[float, ...], value: float, *, added: bool) -> tuple[float, ...]:
    """With one more behind them, or (added) with `value` more in the last one."""
    return (*constants[:-1], constants[-1] + value) if added else (*constants, value)


def with_constant(tower: TextTower | None, value: float, *, added: bool) -> TextTower | None:
    """The tower in a space with one more coordinate, or (added) with `value` more in the last one."""
    if tower is None:
        return None
    constants = with_value(tower.config.constants, value, added=added)
    made = tower.config.model_copy(update={"constants": constants}).build(tower.lm)
    state = {name: tensor for name, tensor in tower.state_dict().items() if name != "golden_GD"}
    made.load_state_dict(state, strict=False)
    made.tokenizer = tower.tokenizer
    return made.eval().requires_grad_(False)
