"""A language model beside a SASRec: query = u_SASRec + beta * u_LM in the SASRec's frozen item space."""

from __future__ import annotations

from torch import Tensor, nn

from model_store.bundle import Bundle
from model_store.encoders.language_model import LanguageModelEncoder, ResidualConfig
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from offline.evaluation.validation import Validation

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def sequence_config(start: Bundle, max_history: int, *, needed_by: str) -> SequenceConfig:
    """Of the version that items_from names; ValueError unless it is a SASRec that reads whole windows."""
    if not isinstance(start.encoder, SequenceEncoder) or start.encoder.max_history < max_history:
        raise ValueError(
            f"{needed_by} needs items_from to be a SASRec that reads at least max_history = {max_history} items"
        )
    return start.encoder.config


def take_sequence(encoder: LanguageModelEncoder, start: Bundle) -> None:
    """The SASRec inside `encoder` becomes that of `start`, frozen; a residual begins as that SASRec exactly."""
    assert encoder.sequence is not None
    encoder.sequence.load_state_dict(start.encoder.state_dict())
    encoder.sequence.requires_grad_(False)
    if encoder.config.residual is not None:
        nn.init.zeros_(encoder.head[-1].weight)  # type: ignore[arg-type]  # both heads end in a linear layer
        nn.init.zeros_(encoder.head[-1].bias)  # type: ignore[arg-type]


def residual_config(start: Bundle, max_history: int) -> ResidualConfig:
    return ResidualConfig(sequence=sequence_config(start, max_history, needed_by="residual = true"), beta=1.0)


def choose_beta(encoder: LanguageModelEncoder, item_vectors_ND: Tensor, validation: Validation) -> dict[str, object]:
    """Sets the encoder's beta to the best on validation (the smallest among equals)."""
    residual = encoder.config.residual
    assert residual is not None
    figures: dict[float, float] = {}
    for beta in BETAS:
        changed = residual.model_copy(update={"beta": beta})
        encoder.config = encoder.config.model_copy(update={"residual": changed})
        figures[beta] = validation.ndcg10(encoder, item_vectors_ND)
    best = max(figures, key=lambda beta: (figures[beta], -beta))
    encoder.config = encoder.config.model_copy(update={"residual": residual.model_copy(update={"beta": best})})
    return {"beta": best, "ndcg@10_by_beta": {str(beta): figure for beta, figure in figures.items()}}
