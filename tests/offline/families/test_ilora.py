from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.encoders.gated_lora import gated_layers
from model_store.encoders.language_model import AllPositionsLanguageModelEncoder, LanguageModelEncoder
from model_store.staging import BundleParts
from offline.families import ease, ilora
from offline.splits.sequences import SequenceDataset

OpenBundle = Callable[[BundleParts], Bundle]


def _recipe(tiny_base: Path, **changes: Any) -> ilora.Recipe:
    section: dict[str, Any] = {
        "items_from": "v",
        "prompt": "a b",
        "max_history": 16,
        "experts": 2,
        "lm": {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4},
        "fit": {"epochs": 2, "evaluate_every": 1, "batch": 16, "learning_rate": 3e-3},
    }
    return ilora.Recipe.model_validate(section | changes)


def test_step_0_with_residual_is_the_sasrec_it_starts_from(
    dataset: SequenceDataset, start: Bundle, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, residual=True)
    encoder = recipe._encoder(dataset, recipe.lm.open(), start).eval()
    histories = dataset.train.windowed(16, 4).select(range(10))
    with torch.inference_mode():
        torch.testing.assert_close(encoder(histories), start.encoder(histories), rtol=0, atol=0)


def test_what_trains_is_adapters_gate_head_and_projector(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    trained = _recipe(tiny_base, residual=True).train(dataset, tmp_path / "run", {"items_from": start})
    encoder = trained.parts.encoder
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    base = _recipe(tiny_base).lm.open().lm.state_dict()
    served = encoder.lm.state_dict()
    assert all(torch.equal(served[name], tensor) for name, tensor in base.items())
    assert len(served) == len(base) + 2 * len(gated_layers(encoder.lm))
    assert all(float(layer.lora_B.abs().max()) > 0 for layer in gated_layers(encoder.lm).values())
    assert float(encoder.gated_lora.router.weight.abs().max()) > 0
    assert encoder.sequence is not None
    for name, tensor in encoder.sequence.state_dict().items():
        assert torch.equal(tensor, start.encoder.state_dict()[name]), name
    assert torch.equal(trained.parts.item_vectors_ND, torch.from_numpy(start.index.vectors_ND))
    assert encoder.config.residual is not None
    assert encoder.config.residual.beta == trained.log["beta"]
    curve = trained.log["curve"]
    assert isinstance(curve, list)
    for point in curve:
        assert 0 < point["gate_entropy"] <= point["gate_entropy_most"] + 1e-6
        assert point["expert_load_0"] + point["expert_load_1"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"space": "common", "dim": 8}])
def test_every_part_is_missed_when_it_is_gone(
    dataset: SequenceDataset,
    start: Bundle,
    tmp_path: Path,
    tiny_base: Path,
    open_bundle: OpenBundle,
    changes: dict[str, Any],
) -> None:
    fit = {"epochs": 6, "evaluate_every": 6, "batch": 16, "learning_rate": 3e-2}
    parts = _recipe(tiny_base, fit=fit, **changes).train(dataset, tmp_path / "run", {"items_from": start}).parts
    assert sorted(parts.controls) == ["adapter", "gate", "item table", "projector"]
    bundle = open_bundle(parts)
    assert bundle.manifest.warnings == []
    assert (bundle.fallback is None) == ("space" in changes), "no SASRec's query is at home in a common space"


def test_the_mean_gate_is_served_merged(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    trained = _recipe(tiny_base, gate="mean").train(dataset, tmp_path / "run", {"items_from": start})
    encoder = trained.parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    assert encoder.config.gated_lora is None
    assert encoder.sequence is None
    assert not gated_layers(encoder.lm)
    assert {"loss_causal", "loss_mean", "ndcg@10_causal", "ndcg@10_mean"} <= trained.log.keys()


def test_a_common_space_has_unit_items_and_a_clamped_scale(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, space="common", dim=6, temperature=0.009)
    trained = recipe.train(dataset, tmp_path / "run", {"items_from": start})
    torch.testing.assert_close(trained.parts.item_vectors_ND.norm(dim=1), torch.ones(40))
    with torch.inference_mode():
        norms = trained.parts.encoder(dataset.train.windowed(16, 4).select(range(5))).norm(dim=1)
    scale = trained.log["scale"]
    assert isinstance(scale, float)
    assert 50 < scale <= 100
    torch.testing.assert_close(norms, torch.full((5,), scale))


def test_the_sasrec_teaches_unless_it_is_added(tiny_base: Path) -> None:
    assert _recipe(tiny_base)._distillation == 0.5
    assert _recipe(tiny_base, residual=True)._distillation == 0
    assert _recipe(tiny_base, distillation=0)._distillation == 0


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"residual": True, "distillation": 0.5}, ("residual", "distillation")),
        ({"gate": "history", "single_target": False}, ("gate", "single_target")),
        ({"residual": True, "space": "common"}, ("residual", "space")),
        ({"item_tower": "text"}, ("item_tower", "space")),
        ({"dim": 8}, ("dim", "space")),
        ({"temperature": 0.1}, ("temperature", "space")),
        ({"experts": 3}, (r"lm\.rank", "experts")),
        ({"distillation": -1}, ("distillation",)),
        ({"branch_drop": 1.1}, ("branch_drop",)),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    tiny_base: Path, changes: dict[str, Any], keys: tuple[str, ...]
) -> None:
    for key in keys:
        with pytest.raises(ValidationError, match=key):
            _recipe(tiny_base, **changes)


def test_the_gate_needs_a_sasrec_that_reads_the_whole_window(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path, open_bundle: OpenBundle
) -> None:
    with pytest.raises(ValueError, match="max_history = 32"):
        _recipe(tiny_base, max_history=32).train(dataset, tmp_path, {"items_from": start})
    other = open_bundle(ease.Recipe(lam=5).train(dataset, tmp_path, {}).parts)
    with pytest.raises(ValueError, match="to be a SASRec"):
        _recipe(tiny_base).train(dataset, tmp_path, {"items_from": other})
