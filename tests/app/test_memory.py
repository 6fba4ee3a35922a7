from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.memory import GIB, available, estimate, give_back, held_bytes, shortage
from model_store.manifest import FileRecord

if TYPE_CHECKING:
    from tests.app.conftest import Pair


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MEMINFO = "MemTotal:  8388608 kB\nMemAvailable:   4194304 kB\nHugePages_Total:       0\n"


def test_the_nearest_limit_counts(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": MEMINFO})
    assert available("cpu", root).host == 4 * GIB
    assert available("cpu", root).where == "memory of this machine"
    write(
        root,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "5\n",
            "sys/fs/cgroup/a/memory.max": f"{3 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{2 * GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GIB // 4}\nactive_file {GIB // 4}\n",
        },
    )
    assert (available("cpu", root).host, available("cpu", root).where) == (1.5 * GIB, "limit of the control group")


def test_control_groups_of_the_first_kind(tmp_path: Path) -> None:
    memory = "sys/fs/cgroup/memory"
    root = write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n",
            f"{memory}/job/memory.limit_in_bytes": f"{GIB}",
            f"{memory}/job/memory.usage_in_bytes": f"{GIB // 4}",
            f"{memory}/job/memory.stat": "cache 1\ninactive_file 9\ntotal_inactive_file 0\n",
            f"{memory}/memory.limit_in_bytes": "9223372036854771712",
            f"{memory}/memory.usage_in_bytes": "0",
        },
    )
    assert available("cpu", root).host == 0.75 * GIB


def test_this_machine_has_some(tmp_path: Path) -> None:
    assert 0 < available("cpu").host < 2**60
    assert available("cpu", tmp_path).host == float("inf"), "a system that tells nothing refuses nothing"


def test_a_version_that_fits_and_one_that_does_not(pair: Pair, tmp_path: Path) -> None:
    manifest = pair.store.manifest(pair.beta)
    root = write(tmp_path, {"proc/meminfo": MEMINFO})
    assert shortage(manifest, "cpu", margin=1.1, root=root) is None
    large = {**manifest.files, "encoder/weights.safetensors": FileRecord(sha256="", bytes=4 * GIB)}
    said = shortage(manifest.model_copy(update={"files": large}), "cpu", margin=1.1, root=root)
    assert said == (
        "no memory: it needs about 4.03 GiB (times 1.1, NAISEKI_MEMORY_MARGIN), "
        "and 4.00 GiB is free (memory of this machine)"
    )
    assert shortage(manifest.model_copy(update={"files": large}), "cpu", margin=0, root=root) is None


def test_half_precision_takes_twice_its_file_where_it_is_emulated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = pair.store.manifest(pair.beta)
    half = manifest.model_copy(update={"dtype": "bfloat16"})
    weights = manifest.files["encoder/weights.safetensors"].bytes
    monkeypatch.setattr("app.memory.multiplies_bfloat16", lambda device: False)
    assert estimate(half, "cpu").host - estimate(manifest, "cpu").host == weights
    assert estimate(half, "cuda").device == estimate(manifest, "cuda").device > weights


def test_freed_memory_is_given_back_without_an_error() -> None:
    give_back("cpu")


def test_what_a_bundle_holds_is_counted(pair: Pair) -> None:
    bundle = pair.store.open(pair.beta)
    vectors = bundle.index.vectors_ND.nbytes
    assert vectors < held_bytes(bundle) < estimate(bundle.manifest, "cpu").host
