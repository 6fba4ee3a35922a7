from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from model_store.encoders import products
from model_store.encoders.products import FEWEST, TOGETHER, onednn_is_faster, product


@pytest.fixture(autouse=True)
def fresh_rule() -> Iterator[None]:
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


@pytest.fixture
def through_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("THIS TORCH HAS NO ONEDNN: its products were not tested")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


@pytest.mark.usefixtures("through_onednn")
@pytest.mark.parametrize("rows", [1, FEWEST - 1, FEWEST, FEWEST + 1, FEWEST + TOGETHER - 1, FEWEST + TOGETHER])
def test_both_libraries_multiply_in_float32(rows: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 96), torch.randn(40, 96)
    exact = x.double() @ weight.double().T
    found = product(x, weight)
    assert found.shape == exact.shape
    assert float((found - exact).abs().max() / exact.abs().max()) < 2e-6


@pytest.mark.usefixtures("through_onednn")
def test_a_transposed_weight_and_a_slice_are_read_as_they_are() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2 * FEWEST, 70)[::2], torch.randn(70, 30)
    torch.testing.assert_close(product(x, weight.T), x @ weight)


@pytest.mark.usefixtures("through_onednn")
def test_few_rows_and_other_numbers_are_multiplied_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "pad", lambda *_: pytest.fail("nothing is to be filled up"))
    few, weight = torch.randn(FEWEST - 1, 8), torch.randn(4, 8)
    assert torch.equal(product(few, weight), linear(few, weight))
    many, half = torch.randn(FEWEST + 1, 8).bfloat16(), weight.bfloat16()
    assert torch.equal(product(many, half), linear(many, half))


@pytest.mark.parametrize(
    ("capability", "vendor", "faster"),
    [
        ("AVX512", "vendor_id\t: AuthenticAMD", True),
        ("AVX512", "vendor_id\t: GenuineIntel", False),
        ("AVX2", "vendor_id\t: AuthenticAMD", False),
        ("AVX512", "no such line", False),
    ],
)
def test_the_rule_looks_at_the_processor_alone(
    capability: str, vendor: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\n{vendor}\n")
    assert onednn_is_faster() is faster


def test_where_no_processor_is_told_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Path) -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(Path, "read_text", missing)
    assert onednn_is_faster() is False
