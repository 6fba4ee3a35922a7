"""Large float32 products on a CPU, by whichever of the two libraries that torch carries is the faster one there.

torch multiplies float32 matrices with MKL, which takes AVX2 on processors that are not Intel's even where they have
AVX-512. oneDNN takes what the processor has: 2.2 x as fast on an AMD EPYC (Zen 5; 3,264 x 576 x 1,536, one thread).
Both compute in float32: the largest error against float64 is below 1e-6 of the largest product with either.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from model_store.processor import processor_fields

# oneDNN compiles a kernel for each number of rows it meets (13 ms): rows are filled up, so that it meets few, and few
# rows are not worth it.
TOGETHER = 128
FEWEST = 512


def product(x_SI: Tensor, weight_OI: Tensor, *, fewest: int = FEWEST) -> Tensor:
    """x W^T, [S, O]; without gradient, for use inside an autograd function. fewest: rows that pay for oneDNN."""
    rows = len(x_SI)
    if rows < fewest or x_SI.dtype != torch.float32 or x_SI.device.type != "cpu" or not onednn_is_faster():
        return linear(x_SI, weight_OI)
    filled = pad(x_SI, (0, 0, 0, -rows % TOGETHER)) if rows % TOGETHER else x_SI
    output: Tensor = torch.ops.mkldnn._linear_pointwise(filled, weight_OI, None, "none", [], "")
    return output[:rows]


@cache
def onednn_is_faster() -> bool:
    """Whether this processor has AVX-512 that MKL leaves unused. A rule, not a measurement: the same machine always
    computes the same figures."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "GenuineIntel" not in _vendor()


def _vendor() -> str:
    """Intel's where nothing is told, which changes nothing."""
    return processor_fields().get("vendor_id", "GenuineIntel")
