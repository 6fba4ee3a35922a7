"""Masked next token prediction: how a causal decoder learns to use attention that looks both ways.

BehnamGhader et al., 2024, "LLM2Vec": a fifth of the tokens reads "_", and each is predicted from the state before it.
"""

from __future__ import annotations

from pathlib import Path

from model_store.token_blocks import tokenize_blocks
from offline.language.lm_head import lm_head
from offline.text_stages.next_token import NextToken
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, TokenPlan, train_stage

MASK = "_"


def masked_next_token(
    before: Staged, histories: SerialisedHistories, *, causal: bool, plan: TokenPlan, checkpoints: Path, seed: int
) -> Staged:
    """The stage `mntp`. causal: False for a bidirectional encoder; True trains the causal arm of a comparison alike."""
    head_VH = lm_head(before.settings, before.base)
    mask_token = _mask_token(before)
    return train_stage(
        "mntp",
        before,
        lambda base: NextToken(
            base, histories, head_VH=head_VH, share=plan.share, mask_token=mask_token, causal=causal
        ),
        histories=histories,
        plan=plan,
        checkpoints=checkpoints,
        seed=seed,
    )


def _mask_token(staged: Staged) -> int:
    tokens = tokenize_blocks(staged.base.tokenizer_file, [MASK]).tokens
    if len(tokens) != 1:
        raise ValueError(f'{staged.settings.base} has no token of its own for "{MASK}", which mntp hides tokens with')
    return int(tokens[0])
