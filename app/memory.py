"""How much memory a version takes, before it is loaded and afterwards; and how much there is."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from model_store.bundle import Bundle
from model_store.encoder_files import multiplies_bfloat16
from model_store.manifest import Manifest

CATALOGUE_FACTOR = 6  # of a compressed table, as columns and as Python's strings
ITEM_BYTES = 400  # id, row and title of one item as Python objects, and where it stands among the popular ones
WORKING_BYTES = 32 << 20  # a trial batch
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes. device: of a GPU; 0 on the CPU. where: which limit of the host is the nearest."""

    host: float
    device: float
    where: str = ""


def estimate(manifest: Manifest, device: str) -> Room:
    """What a bundle will take, from the sizes of its files.

    Half precision is computed in float32 on a CPU that only emulates it, so such weights take twice their files.
    """
    sizes = {name: file.bytes for name, file in manifest.files.items()}
    on_cpu = torch.device(device).type == "cpu"
    widened = manifest.dtype != "float32" and on_cpu and not multiplies_bfloat16(torch.device(device))
    models = sum(size for name, size in sizes.items() if name.endswith("weights.safetensors")) * (2 if widened else 1)
    index = sizes.get("items.faiss", 0)
    tables = CATALOGUE_FACTOR * sizes.get("items.parquet", 0) + ITEM_BYTES * manifest.items
    rest = sum(size for name, size in sizes.items() if name.endswith("tokens.safetensors"))
    largest = max((size for name, size in sizes.items() if name.endswith(".safetensors")), default=0)
    if on_cpu:
        return Room(models + index + tables + rest + WORKING_BYTES, 0.0)
    return Room(index + tables + rest + largest + WORKING_BYTES, models + index + WORKING_BYTES)


def available(device: str, root: Path = Path("/")) -> Room:
    """What can be had without paging. root: where /proc and /sys are."""
    limits = [("memory of this machine", float(_meminfo(root).get("MemAvailable", math.inf)))]
    limits += [("limit of the control group", room) for room in _control_groups(root)]
    where, host = min(limits, key=lambda limit: limit[1])
    return Room(host, _on_card(torch.device(device)), where)


def shortage(manifest: Manifest, device: str, *, margin: float, root: Path = Path("/")) -> str | None:
    """Why a version will not fit, with the figures; None when it will. margin: times the estimate; 0 asks nothing."""
    if not margin:
        return None
    needed, room = estimate(manifest, device), available(device, root)
    for name, needs, has in (
        (room.where, needed.host, room.host),
        (f"memory of {device}", needed.device, room.device),
    ):
        if needs * margin > has:
            return (
                f"no memory: it needs about {needs / GIB:.2f} GiB (times {margin:g}, NAISEKI_MEMORY_MARGIN), "
                f"and {has / GIB:.2f} GiB is free ({name})"
            )
    return None


def held_bytes(bundle: Bundle) -> int:
    """What encoders, ranker, text tower, index and catalogue hold."""
    parts = (bundle.encoder, bundle.ranker, bundle.text_tower, bundle.fallback)
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    tensors = {id(one): one.nbytes for module in modules for one in (*module.parameters(), *module.buffers())}
    return sum(tensors.values()) + bundle.index.vectors_ND.nbytes + int(bundle.catalog.frame.estimated_size())


def give_back(device: str) -> None:
    """Returns what was freed to the system: both allocators keep it, in pieces that the next version may not fit into.

    Off the event loop: 7 to 11 ms for a heap of 700 MB, in which others wait for the allocator.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; a call through ctypes holds no interpreter
    if trim is not None:
        trim(0)


def _on_card(device: torch.device) -> float:
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _meminfo(root: Path) -> dict[str, int]:
    lines = _text(root / "proc/meminfo").splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}


def _control_groups(root: Path) -> Iterator[float]:
    """Room below every limit from this process's group up to the root, of both versions of control groups."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _rooms(root / "sys/fs/cgroup", path, names=("memory.max", "memory.current"), prefix="")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _rooms(root / "sys/fs/cgroup/memory", path, names=names, prefix="total_")


def _rooms(top: Path, path: str, *, names: tuple[str, str], prefix: str) -> Iterator[float]:
    """A group is charged for the files that it has read, too; those are given up when memory is wanted."""
    group = Path(path.lstrip("/"))
    for folder in (top / group, *(top / parent for parent in group.parents)):
        limit, used = (_text(folder / name).strip() for name in names)
        if limit.isdigit() and used.isdigit():
            stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
            yield float(int(limit) - int(used) + cached)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no such kernel, or not ours to read
        return ""
