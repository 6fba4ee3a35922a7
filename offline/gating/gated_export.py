"""What a trained gated LoRA becomes: an unmerged encoder, a PEFT adapter, or, under one gate for all, plain LoRA."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file

from model_store.encoders.gated_lora import gated_layers
from model_store.encoders.language_model import LanguageModelEncoder
from offline.language.language_models import DTYPES, LanguageModel
from offline.training.processes import this_process


def gated_as_served(encoder: LanguageModelEncoder, settings: LanguageModel) -> LanguageModelEncoder:
    """The base opened anew in the dtype that is served, with the adapters cast once; gates stay float32."""
    dtype = DTYPES[settings.served_dtype]
    config = encoder.config.model_copy(update={"dtype": settings.served_dtype})
    served = config.build(settings.open(dtype=dtype).lm)
    # Only what is no weight of the base: that was cast from its own file, not from what training computed in.
    ours = {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if not name.startswith("lm.") or name.endswith((".lora_A", ".lora_B"))
    }
    missing, unexpected = served.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(name.startswith("lm.") for name in missing)
    return served.eval().requires_grad_(False)


def save_gated_adapter(encoder: LanguageModelEncoder, settings: LanguageModel, folder: Path) -> Path:
    """In PEFT's format: all experts together, which is the mixture at the uniform gate. Written by the main process."""
    if not this_process().is_main_process:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    config = settings.lora_config()
    layers = gated_layers(encoder.lm)
    # By name: "all-linear" is resolved by PEFT when it adapts a model, and no model is adapted here.
    config.target_modules = {name.rpartition(".")[2] for name in layers}
    config.base_model_name_or_path = settings.base
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {}
    for name, layer in layers.items():
        for half in ("lora_A", "lora_B"):
            tensors[f"base_model.model.{name}.{half}.weight"] = getattr(layer, half).detach().cpu().contiguous()
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    return folder


def plain_lora(encoder: LanguageModelEncoder, settings: LanguageModel) -> PeftModel:
    """The adapters under the gate that all tokens share, as plain LoRA: B's columns carry experts * gate.

    Exact where the encoder's gate is constant (`GatedLora.make_constant`).
    """
    gated = encoder.gated_lora
    share_R = gated.in_rank_space(gated.no_history_1E)[0] * gated.config.rank / gated.config.alpha
    adapted = settings.with_adapters(settings.open().lm)
    with torch.no_grad():
        for name, layer in gated_layers(encoder.lm).items():
            plain = adapted.base_model.model.get_submodule(name)
            plain.lora_A["default"].weight.copy_(layer.lora_A)
            plain.lora_B["default"].weight.copy_(layer.lora_B * share_R)
    return adapted
