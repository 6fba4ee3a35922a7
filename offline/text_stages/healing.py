"""A language model whose last layers were left out learns to be read by its head again.

The head of a truncated model is of no use: 6 of 30 layers of SmolLM2 need 17.4 nats per token on film histories, where
guessing evenly needs 10.8. Adapters on all kept layers learn the next token of serialised histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from offline.language.language_models import LanguageModel
from offline.language.lm_head import lm_head, truncated
from offline.text_stages.next_token import NextToken
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, TokenPlan, train_stage

LARGEST_LOSS = 4.0  # nats per token, held out


class NotHealed(ValueError):
    """The head of a truncated model is still of no use; the message names the keys to change."""


@dataclass(frozen=True, slots=True, eq=False)
class Healed:
    """staged: the base with the healing adapter merged. head_VH: its LM head, as it always was.

    held_out_nats: per token, of users that no stage on text learns from.
    """

    staged: Staged
    head_VH: Tensor
    held_out_nats: float

    def refuse_unless_readable(self, reader: str) -> None:
        """NotHealed when the held-out loss is not below 4 nats per token. reader: who needs the head."""
        if not self.held_out_nats < LARGEST_LOSS:
            raise NotHealed(
                f"{reader} reads the LM head, and after healing the held-out loss is {self.held_out_nats:.2f} nats per "
                f"token, not below {LARGEST_LOSS:g}: raise healing.tokens or lm.keep_layers"
            )


def heal(
    settings: LanguageModel, histories: SerialisedHistories, *, plan: TokenPlan, checkpoints: Path, seed: int
) -> Healed:
    """Resumes from `checkpoints`; done already, it only reads its checkpoint."""
    staged = next_title("healing", Staged.start(settings), histories, plan=plan, checkpoints=checkpoints, seed=seed)
    loss = float(str(staged.logs["healing"]["held_out_nats"]))
    return Healed(staged, lm_head(settings, staged.base), loss)


def next_title(
    name: str, before: Staged, histories: SerialisedHistories, *, plan: TokenPlan, checkpoints: Path, seed: int
) -> Staged:
    """The causal language-model loss on serialised histories, as a stage called `name`."""
    head_VH = lm_head(before.settings, before.base)
    return train_stage(
        name,
        before,
        lambda base: NextToken(base, histories, head_VH=head_VH, share=plan.share),
        histories=histories,
        plan=plan,
        checkpoints=checkpoints,
        seed=seed,
    )


def refuse_without_healing(settings: LanguageModel, reader: str, *, healing: TokenPlan | None) -> None:
    """ValueError when `reader`, a stage or a ranker of the recipe, would read the head of a model that lacks layers.

    To be asked before anything is trained.
    """
    if healing is None and truncated(settings):
        raise ValueError(
            f"{reader} reads the LM head, which is of no use with lm.keep_layers = {settings.keep_layers}, fewer than "
            "the base has: add [recipe.healing], or keep all layers"
        )
