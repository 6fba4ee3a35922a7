from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from model_store.encoders.history import HistoryBatch
from model_store.rankers.verbalizer import VerbalizerRanker
from model_store.token_blocks import tokenize_blocks
from offline.language.language_models import LanguageModel
from offline.ranking.mined_candidates import MinedTarget, draw_prompts
from offline.ranking.verbalizer_objective import VerbalizerObjective
from offline.ranking.verbalizer_training import (
    Identifiers,
    letter_tokens,
    served_verbalizer,
    untrained_verbalizer,
    unused_tokens,
    verbalizer_controls,
)

HISTORIES = HistoryBatch.of([[1, 2, 3], [5, 0]])
ROWS_BK = torch.tensor([[4, 6, 7, 8], [1, 2, -1, -1]])


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=3, rank=4, served_dtype="float32")


def _untrained(settings: LanguageModel, identifiers: Identifiers = "letters") -> VerbalizerRanker:
    torch.manual_seed(0)
    base = settings.open()
    blocks = tokenize_blocks(base.tokenizer_file, [f" Item {row}\n" for row in range(10)])
    prefix, middle, suffix = (tokenize_blocks(base.tokenizer_file, [text]) for text in ("a b", "b", "a"))
    return untrained_verbalizer(
        base,
        blocks,
        prompt=(prefix, middle, suffix),
        window=4,
        windows=1,
        max_history=5,
        identifiers=identifiers,
        dtype="float32",
    )


def test_letters_are_the_base_s_own_and_then_new_rows(settings: LanguageModel) -> None:
    ranker = _untrained(settings)
    base = settings.open()
    words = len(next(base.embedding.parameters()))
    assert letter_tokens(base) == [1, 2]  # "a" and "b" are all that this vocabulary has
    assert ranker.config.identifiers == (1, 2, words, words + 1)
    torch.testing.assert_close(ranker.identifier_inputs[:2], base.embedding(torch.tensor([1, 2])).float())
    assert torch.equal(ranker.identifier_inputs, ranker.identifier_outputs)


def test_unused_tokens_are_special_ones_without_a_meaning_and_told_apart(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = [(40, True), (2, True), (41, True), (42, False), (43, True)]  # 2 ends a text, 43 is in use
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"] = [{"id": i, "content": f"<{i}>", "special": s} | plain for i, s in special]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = LanguageModel(base=str(folder), keep_layers=1)
    base = settings.open()
    assert base.config["eos_token_id"] == 2
    assert unused_tokens(base, used=torch.tensor([43])) == [40, 41]
    ranker = _untrained(settings, identifiers="unused")
    words = len(next(base.embedding.parameters()))
    assert ranker.config.identifiers == (40, 41, 43, words)
    assert torch.pdist(ranker.identifier_inputs.detach()).min() > 0.1


def test_it_learns_which_candidate_came_next(settings: LanguageModel) -> None:
    """Item 9 follows whatever was chosen: it is found by its text, wherever it stands and whatever its identifier."""
    ranker = _untrained(settings)
    objective = VerbalizerObjective(ranker, dropout=0.0)
    settings.with_adapters(ranker.lm)
    nothing = torch.empty(0, dtype=torch.int64)
    mined = [MinedTarget(torch.tensor([r], dtype=torch.int32), 9, nothing, torch.tensor([r])) for r in range(9)]
    trainable = [p for p in objective.parameters() if p.requires_grad]
    assert {id(ranker.identifier_inputs), id(ranker.identifier_outputs)} < {id(p) for p in trainable}
    optimizer = torch.optim.AdamW(trainable, lr=3e-3)
    losses = []
    for epoch in range(60):
        rows = draw_prompts(mined, trained_N=torch.ones(10).bool(), window=4, max_history=5, seed=0, epoch=epoch)
        assert objective.targets(rows) == 9
        loss = objective(rows)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] > 1.0
    assert sum(losses[-10:]) / 10 < 0.3


def test_what_is_served_is_what_was_trained_and_the_controls_are_not(settings: LanguageModel) -> None:
    ranker = _untrained(settings)
    adapted = settings.with_adapters(ranker.lm)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.inference_mode():
        trained = ranker.opinions(HISTORIES, ROWS_BK)
    served = served_verbalizer(ranker, settings, adapted)
    with torch.inference_mode():
        torch.testing.assert_close(served.opinions(HISTORIES, ROWS_BK), trained, rtol=1e-4, atol=1e-5)
    controls = verbalizer_controls(served, settings)
    assert sorted(controls) == ["ranker's adapter", "ranker's item text"]
    before = {name: tensor.clone() for name, tensor in served.state_dict().items()}
    for name, control in controls.items():
        assert not torch.allclose(control(HISTORIES, ROWS_BK), trained, atol=1e-3), name
    for name, tensor in served.state_dict().items():
        assert torch.equal(tensor, before[name]), name
