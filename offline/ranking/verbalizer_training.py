"""A verbalizer before its training and after: its prompt and identifiers, and the form in which it is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from string import ascii_lowercase, ascii_uppercase
from typing import Literal

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from model_store.base_models import BaseModel as Base
from model_store.encoder_files import multiplies_bfloat16
from model_store.encoders.history import HistoryBatch
from model_store.encoders.token_row import TokenBlocks
from model_store.rankers.verbalizer import VerbalizerConfig, VerbalizerRanker
from model_store.staging import RankerControl
from model_store.token_blocks import compact_vocabulary
from offline.language.language_models import LanguageModel
from offline.text_stages.stage_adapters import merged

Identifiers = Literal["letters", "unused"]


def letter_tokens(base: Base) -> list[int]:
    """The tokens of A to Z and a to z, as many as are tokens of the base's own."""
    tokenizer = Tokenizer.from_file(str(base.tokenizer_file))
    found = (tokenizer.token_to_id(letter) for letter in (*ascii_uppercase, *ascii_lowercase))
    return [token for token in found if token is not None]


def unused_tokens(base: Base, *, used: Tensor) -> list[int]:
    """Special tokens of the base that no prompt uses and that do not begin, end or pad a text."""
    added = json.loads(base.tokenizer_file.read_bytes()).get("added_tokens") or []
    meant = [base.config.get(f"{name}_token_id") for name in ("bos", "eos", "pad")]
    taken = {*used.tolist(), *(i for ids in meant for i in (ids if isinstance(ids, list) else [ids]))}
    return [int(token["id"]) for token in added if token["special"] and token["id"] not in taken]


def untrained_verbalizer(
    base: Base,
    blocks: TokenBlocks,
    *,
    prompt: tuple[TokenBlocks, TokenBlocks, TokenBlocks],
    window: int,
    windows: int,
    max_history: int,
    identifiers: Identifiers,
    dtype: str,
    head_VH: Tensor | None = None,
) -> VerbalizerRanker:
    """Takes over `base.lm`. prompt: prefix, middle and suffix. Weight 1 until it is chosen.

    `letters` start as the base's rows for them, as input, and as output those of head_VH (None: the token table, to
    which most heads are tied). `unused` tokens start as random rows of the same size: their own were never trained and
    are nearly equal (SmolLM2), so no place could be told from another. Where the base has too few tokens of a kind,
    rows past its vocabulary are added. All of them learn.
    """
    frame = [part.tokens.long() for part in prompt]
    items = compact_vocabulary(blocks)
    words = len(next(base.embedding.parameters()))
    known = letter_tokens(base)[:window] if identifiers == "letters" else []
    named = known or unused_tokens(base, used=torch.cat((items.kept, *frame)))[:window]
    tokens = (*named, *range(words, words + window - len(named)))
    config = VerbalizerConfig(
        weight=1.0,
        window=window,
        windows=windows,
        lm=base.config,
        items=len(blocks.offsets) - 1,
        max_history=max_history,
        vocabulary=len(items.kept),
        item_tokens=len(blocks.tokens),
        prefix=tuple(frame[0].tolist()),
        middle=tuple(frame[1].tolist()),
        suffix=tuple(frame[2].tolist()),
        identifiers=tokens,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
    )
    ranker = config.build(base.lm)
    with torch.no_grad():
        ranker.frame_inputs.copy_(base.embedding(torch.cat(frame)))
        ranker.token_inputs.copy_(base.embedding(items.kept))
        ranker.item_tokens.tokens.copy_(items.blocks.tokens)
        ranker.item_tokens.offsets.copy_(items.blocks.offsets)
        new_WH = torch.randn(window - len(known), base.hidden) * base.input_std
        rows_WH = torch.cat((base.embedding(torch.tensor(known, dtype=torch.int64)).float(), new_WH))
        ranker.identifier_inputs.copy_(rows_WH)
        if head_VH is not None:
            rows_WH[: len(known)] = head_VH[known].float()
        ranker.identifier_outputs.copy_(rows_WH)
    return ranker


def served_verbalizer(ranker: VerbalizerRanker, settings: LanguageModel, adapted: PeftModel) -> VerbalizerRanker:
    """The adapters merged in float32 and cast once. adapted: one for all stages together."""
    return _with_decoder(ranker, merged(settings, adapted))


def verbalizer_controls(served: VerbalizerRanker, settings: LanguageModel) -> Mapping[str, RankerControl]:
    """Its opinions without one of its parts: the golden rankings must notice each."""

    def without_adapter(histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        bare = _with_decoder(served, settings.open(dtype=served.lm.dtype).lm)
        return _opinions(bare, histories, item_rows_BK)

    def without_item_text(histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        stripped = deepcopy(served)
        stripped.token_inputs.zero_()
        return _opinions(stripped, histories, item_rows_BK)

    return {"ranker's adapter": without_adapter, "ranker's item text": without_item_text}


def _with_decoder(ranker: VerbalizerRanker, lm: PreTrainedModel) -> VerbalizerRanker:
    config = ranker.config.model_copy(update={"dtype": str(lm.dtype).removeprefix("torch.")})
    made = config.build(lm)
    ours = {name: tensor for name, tensor in ranker.state_dict().items() if not name.startswith("lm.")}
    missing, unexpected = made.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(name.startswith("lm.") for name in missing)
    return made.eval().requires_grad_(False)


@torch.inference_mode()
def _opinions(ranker: VerbalizerRanker, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
    """In what the golden rankings are recorded in: see `language_model_export`."""
    if not multiplies_bfloat16(ranker.frame_inputs.device):
        ranker.compute_in(torch.float32)
    return ranker.opinions(histories, item_rows_BK)
