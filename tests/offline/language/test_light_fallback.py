from __future__ import annotations

from collections.abc import Callable

import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.staging import BundleParts
from offline.finishing.score_offsets import with_offsets
from offline.language.light_fallback import light_fallback
from offline.splits.sequences import SequenceDataset
from tests.offline.families.conftest import dataset, start  # noqa: F401 - fixtures

OpenBundle = Callable[[BundleParts], Bundle]
HISTORIES = HistoryBatch.of([[1], [2, 3, 4], list(range(30))])


def test_it_is_the_encoder_whose_items_these_are(start: Bundle) -> None:  # noqa: F811
    items_ND = torch.from_numpy(start.index.vectors_ND).clone()
    light = light_fallback(start, items_ND)
    assert light is not None
    assert light is not start.encoder
    items_ND[0, 0] += 1e-6
    assert light_fallback(start, items_ND) is None


def test_offsets_are_added_to_light_answers_too(
    dataset: SequenceDataset,  # noqa: F811
    start: Bundle,  # noqa: F811
    open_bundle: OpenBundle,
) -> None:
    parts = BundleParts(
        family="e4srec",
        catalog=dataset.catalog,
        encoder=start.encoder,
        item_vectors_ND=torch.from_numpy(start.index.vectors_ND).clone(),
        golden_histories=dataset.train,
        fallback=light_fallback(start, torch.from_numpy(start.index.vectors_ND)),
    )
    offsets_N = torch.linspace(-1, 1, len(dataset.catalog))
    for times in (1, 2):
        parts = with_offsets(parts, offsets_N)
        bundle = open_bundle(parts)
        scores_BN = bundle.encode_light(HISTORIES) @ torch.from_numpy(bundle.index.vectors_ND).T
        plain_BN = start.encode(HISTORIES).vectors_BD @ torch.from_numpy(start.index.vectors_ND).T
        torch.testing.assert_close(scores_BN, plain_BN + times * offsets_N)
