"""A retriever with a ranker behind it, as the parts of one bundle; the ranker that another version's vectors make."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from model_store.bundle import Bundle
from model_store.encoder_files import multiplies_bfloat16
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.encoders.sequence import SequenceEncoder
from model_store.ranker import InterpolatedRanker
from model_store.rankers.pointwise import PointwiseConfig, PointwiseRanker
from model_store.staging import BundleParts, RankerControl
from offline.finishing.golden_histories import golden_histories
from offline.splits.sequences import SequenceDataset


def ranked_parts(dataset: SequenceDataset, retriever: Bundle, *, ranker: InterpolatedRanker) -> BundleParts:
    """The retriever as it is, and the ranker behind it."""
    assert isinstance(retriever.encoder, SequenceEncoder)
    without_items = deepcopy(retriever.encoder)
    nn.init.zeros_(without_items.items.weight)
    return BundleParts(
        family="llamarec",
        catalog=dataset.catalog,
        encoder=retriever.encoder,
        item_vectors_ND=torch.from_numpy(retriever.index.vectors_ND).clone(),
        golden_histories=golden_histories(dataset.train),
        controls={"item table": without_items},
        ranker=ranker,
    )


def pointwise_ranker(source: Bundle, *, window: int) -> PointwiseRanker:
    """The source's encoder and item vectors, weight 1 until it is chosen; ValueError unless a language model reads."""
    if not isinstance(source.encoder, LanguageModelEncoder):
        raise ValueError(f"vectors_from: {source.version} ({source.manifest.family}) reads with no language model")
    ranker = PointwiseConfig(weight=1.0, window=window, encoder=source.encoder.config).build()
    ranker.encoder.load_state_dict(source.encoder.state_dict())
    ranker.item_vectors_ND.copy_(torch.from_numpy(source.index.vectors_ND))
    return ranker.eval().requires_grad_(False)


def pointwise_controls(ranker: PointwiseRanker) -> Mapping[str, RankerControl]:
    """Its opinions without one of its two tables: the golden rankings must notice each."""

    def without(table: str) -> RankerControl:
        stripped = deepcopy(ranker)
        stripped.get_buffer(table).zero_()
        if not multiplies_bfloat16(stripped.item_vectors_ND.device):
            stripped.compute_in(torch.float32)
        return stripped.opinions

    read = "token_inputs" if ranker.encoder.config.item_input == "tokens" else "item_inputs"
    return {"ranker's item table": without("item_vectors_ND"), "ranker's item inputs": without(f"encoder.{read}")}
