from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_store.encoder_files import read_encoder, write_encoder
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, encoder_on
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.language.language_model_export import language_model_parts
from offline.language.language_models import LanguageModel
from offline.splits.protocols import split

HISTORIES = HistoryBatch.of([[1], [4, 2], list(range(9))])


@pytest.fixture
def parts(small_world: Interactions, tiny_base: Path, tmp_path: Path) -> BundleParts:
    """Adapters as they are before training: without effect. Served in bfloat16."""
    settings = LanguageModel(base=str(tiny_base), keep_layers=2, rank=4)
    base = settings.open()
    config = LanguageModelConfig(lm=base.config, items=40, dim=6, max_history=9, jump=3, item_input="vector")
    torch.manual_seed(0)
    encoder = encoder_on(config, base)
    encoder.item_inputs.normal_()
    return language_model_parts(
        "test",
        split(small_world, "last-10").dataset,
        encoder,
        item_vectors_ND=torch.randn(40, 6),
        settings=settings,
        adapted=settings.with_adapters(encoder.lm),
        base=base,
        adapter_folder=tmp_path / "adapter",
    )


def test_controls_compute_as_the_golden_queries_do(parts: BundleParts, tmp_path: Path) -> None:
    """An adapter without effect must not seem to have one because something was rounded elsewhere."""
    write_encoder(parts.encoder, tmp_path)
    with torch.inference_mode():
        golden = read_encoder(tmp_path)(HISTORIES)
    torch.testing.assert_close(parts.controls["adapter"](HISTORIES), golden, rtol=1e-6, atol=1e-6)
    for part in ("projector", "item table"):
        assert not torch.allclose(parts.controls[part](HISTORIES), golden, rtol=0.05), part


def test_controls_leave_what_is_served_as_it_is(parts: BundleParts) -> None:
    before = {name: tensor.clone() for name, tensor in parts.encoder.state_dict().items()}
    for control in parts.controls.values():
        control(HISTORIES)
    for name, tensor in parts.encoder.state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name
