"""What a training step costs beside the bare forward and backward pass of the same tokens.

    make bench            (or: pytest tests/benchmarks/bench_training.py -s -o python_files='bench_*.py')

With `--page DIR` the ratios are also written beside the comparison page in that folder, which then tells them.

Two layers of SmolLM2-135M, float32, one thread: 32 windows of ML-100K's size, one token per item, ID and text vector
added. The bare pass is that of the frozen base as torch computes it, with gradient to its inputs; the step is
everything: projector, SASRec, adapters, softmax over 1,682 items, backward pass, AdamW. CPU time, so that a busy
machine counts less; the best of five, taken in turn. Where the step multiplies through another library than torch
would (`model_store/encoders/products.py`), a bare pass that does so too stands beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_store.base_models import BaseModel, open_base
from model_store.encoders.decoder import read_row
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, encoder_on
from model_store.encoders.packed_attention import Packed
from model_store.encoders.products import product
from model_store.errors import BaseModelRefused
from offline.compare.results import TRAINING_STEP
from offline.compare.targets import BARE_BY_OUR_PRODUCTS, MOST_OF_A_STEP
from offline.gating.gated_objective import GatedNextItem
from offline.gating.out_of_fold import InFold
from offline.language.injected_items import FixedItemProjector, ItemProjector
from offline.language.language_models import LanguageModel
from offline.training.optimizers import MasterWeightAdamW
from offline.training.read_out_objective import ReadOutNextItem, TiedItems

ITEMS, DIM, WINDOWS, LENGTH, ROUNDS = 1682, 64, 32, 101, 5
SEQUENCE = {"items": ITEMS, "dim": DIM, "blocks": 2, "heads": 2, "max_history": 100, "jump": 25, "dropout": 0.3}
PREFIX = (1, 2)
STEEP = 1.5  # popularity falls as (rank + 100) ** -1.5
Step = Callable[[], object]


def test_a_step_beside_the_bare_pass(
    report: Callable[[str, float, float, str], None], request: pytest.FixtureRequest
) -> None:
    try:
        open_base("smollm2-135m", keep_layers=2, dtype=torch.float32)
    except BaseModelRefused as refused:
        pytest.skip(f"SmolLM2 CANNOT BE HAD HERE, so no step was timed: {refused}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {
            "bare": bare(),
            BARE_BY_OUR_PRODUCTS: bare(products=True),
            "E4SRec, sum, rank 16": e4srec(),
            "iLoRA, sum, rank 16": ilora(rank=16),
            "iLoRA, sum, rank 8 (as published)": ilora(rank=8),
        }
        best = dict.fromkeys(steps, float("inf"))
        for _ in range(ROUNDS):
            for name, step in steps.items():
                started = time.process_time()
                step()
                best[name] = min(best[name], time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    least = best.pop("bare")
    for name, seconds in best.items():
        report(f"Training step, {name}, beside the bare pass ({least:.2f} s)", seconds / least, MOST_OF_A_STEP, "x")
    if (page := request.config.getoption("--page")) is not None:
        ratios = {name: round(seconds / least, 3) for name, seconds in best.items()}
        (Path(page) / TRAINING_STEP).write_text(json.dumps(ratios, indent=1) + "\n")


def base_of() -> BaseModel:
    return open_base("smollm2-135m", keep_layers=2, dtype=torch.float32)


def windows() -> HistoryBatch:
    """As in ML-100K, 32 windows of 101 films hold about 950 different ones."""
    generator = torch.Generator().manual_seed(0)
    popularity_N = (torch.arange(ITEMS) + 100.0) ** -STEEP
    return HistoryBatch.of([torch.multinomial(popularity_N, LENGTH, generator=generator) for _ in range(WINDOWS)])


class Product(torch.autograd.Function):
    """A frozen layer by the products of the step."""

    @staticmethod
    def forward(ctx: Any, x_SI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI)
        return product(x_SI, weight_OI)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight_OI,) = ctx.saved_tensors
        return product(gradients[0], weight_OI.T), None


class FrozenLinear(torch.nn.Module):
    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.weight_OI = weight_OI

    def forward(self, x_1SI: Tensor) -> Tensor:
        y_SO: Tensor = Product.apply(x_1SI[0], self.weight_OI)  # type: ignore[no-untyped-call]
        return y_SO[None]


def bare(*, products: bool = False) -> Step:
    lm = base_of().lm.requires_grad_(False)
    for name, module in list(lm.named_modules()) if products else ():
        if isinstance(module, torch.nn.Linear):
            lm.set_submodule(name, FrozenLinear(module.weight))
    tokens = LENGTH - 1 + len(PREFIX)
    inputs_SH = torch.randn(WINDOWS * tokens, int(lm.config.hidden_size), requires_grad=True)
    positions_S = torch.arange(tokens).repeat(WINDOWS)
    gradient_SH = torch.randn_like(inputs_SH)

    def step() -> None:
        read_row(lm, inputs_SH, positions_S, Packed([tokens] * WINDOWS)).backward(gradient_SH)  # type: ignore[no-untyped-call]
        inputs_SH.grad = None

    return step


def config_of(base: BaseModel, **more: Any) -> LanguageModelConfig:
    return LanguageModelConfig.model_validate(
        {
            "lm": base.config,
            "items": ITEMS,
            "dim": DIM,
            "max_history": LENGTH - 1,
            "jump": 25,
            "item_input": "vector",
            "prefix": PREFIX,
        }
        | more
    )


def e4srec() -> Step:
    base = base_of()
    encoder = encoder_on(config_of(base), base)
    LanguageModel(keep_layers=2).with_adapters(encoder.lm)
    projector = ItemProjector(
        dim=DIM, text_NH=torch.randn(ITEMS, base.hidden), hidden=base.hidden, input_std=base.input_std
    )
    items = TiedItems(torch.randn(ITEMS, DIM))
    return step_of(ReadOutNextItem(encoder, items, projector=projector, dropout=0.2))


def ilora(*, rank: int) -> Step:
    base = base_of()
    gated = {"experts": 4, "rank": rank, "alpha": 32, "sequence": SEQUENCE}
    encoder = encoder_on(config_of(base, gated_lora=gated), base)
    assert encoder.sequence is not None
    encoder.sequence.requires_grad_(False)
    for name, parameter in encoder.lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
    ids_ND = torch.randn(ITEMS, DIM)
    projector = FixedItemProjector(
        ids_ND, text_NH=torch.randn(ITEMS, base.hidden), hidden=base.hidden, input_std=base.input_std
    )
    sequence = InFold(encoder.sequence.config.build().eval(), ids_ND)
    items = TiedItems(ids_ND, trainable=False)
    return step_of(GatedNextItem(encoder, items, projector=projector, sequence=sequence, dropout=0.2))


def step_of(objective: ReadOutNextItem) -> Step:
    optimizer = MasterWeightAdamW([{"params": [p for p in objective.parameters() if p.requires_grad], "lr": 1e-3}])
    batch = windows()

    def step() -> None:
        objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
