"""A language model beside a SASRec: query = u_SASRec + beta * u_LM in the SASRec's frozen item space."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from model_store.bundle import Bundle
from model_store.encoders.language_model import LanguageModelEncoder, ResidualConfig
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from offline.evaluation.full_ranking import encoded
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


def choose_beta(
    encoder: LanguageModelEncoder,
    item_vectors_ND: Tensor,
    validation: Validation,
    *,
    chosen: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Sets the encoder's beta to the best on validation (the smallest among equals), by NDCG without a cut; figures for
    the log. chosen: a log whose beta is kept.

    Four events of five have their target below the tenth place, and NDCG@10 does not hear them: on MovieLens 100K its
    best beta jumped between 0 and 1 from seed to seed. Scores are linear in beta: histories are read for two of them.
    """
    if chosen is not None:
        kept = chosen["beta"]
        assert isinstance(kept, float)
        _set_beta(encoder, kept)
        return {"beta": kept}
    encoder.eval()
    alone_QN, added_QN = (_scores(encoder, item_vectors_ND, validation, beta=beta) for beta in (0.0, 1.0))
    added_QN -= alone_QN
    figures: dict[float, float] = {}
    at_ten: dict[str, float] = {}
    for beta in BETAS:
        mixed_QN = alone_QN + beta * added_QN
        figures[beta] = validation.ndcg_of_scores(mixed_QN, cut=None)
        at_ten[str(beta)] = validation.ndcg_of_scores(mixed_QN)
    best = max(figures, key=lambda beta: (figures[beta], -beta))
    _set_beta(encoder, best)
    by_beta = {str(beta): figure for beta, figure in figures.items()}
    return {"beta": best, "ndcg_by_beta": by_beta, "ndcg@10_by_beta": at_ten}


def _scores(encoder: LanguageModelEncoder, item_vectors_ND: Tensor, validation: Validation, *, beta: float) -> Tensor:
    """float32 [Q, N] on the CPU."""
    _set_beta(encoder, beta)
    return encoded(encoder, validation.queries, name="residual") @ item_vectors_ND.float().cpu().T


def _set_beta(encoder: LanguageModelEncoder, beta: float) -> None:
    assert encoder.config.residual is not None
    changed = encoder.config.residual.model_copy(update={"beta": beta})
    encoder.config = encoder.config.model_copy(update={"residual": changed})
