"""Where the vectors of a FAISS index lie: lent out on the CPU, copied to a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]

GPU_SCRATCH_BYTES = 64 << 20  # FAISS reserves about 1.5 GB by itself


@dataclass(frozen=True, slots=True, eq=False)
class _IndexMemory:
    """Lends the memory of an index as an array that keeps the index alive."""

    index: faiss.IndexFlatIP

    @property
    def __array_interface__(self) -> dict[str, object]:
        shape = (int(self.index.ntotal), int(self.index.d))
        address = faiss.rev_swig_ptr(self.index.get_xb(), shape[0] * shape[1]).ctypes.data
        return {"version": 3, "shape": shape, "typestr": "<f4", "data": (address, False)}


def view(index: faiss.IndexFlatIP) -> Floats:
    """float32 [N, D], the index's own memory; it lives as long as anybody holds the array."""
    return np.asarray(_IndexMemory(index))


def on_gpu(index: faiss.IndexFlatIP, device: torch.device) -> faiss.GpuIndexFlatIP:
    """A float32 copy on the GPU, with resources of its own: they are not safe to share between threads."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    config = faiss.GpuIndexFlatConfig()
    config.device = device.index or 0
    config.useFloat16 = False  # it would round the queries too
    return faiss.GpuIndexFlatIP(resources, index, config)  # the wrapper keeps `resources` alive
