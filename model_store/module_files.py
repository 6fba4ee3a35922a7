"""A torch module from files: built without memory, given its tensors, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_store.errors import BundleRefused


class _Rebuilding(Protocol):
    def rebuild_buffers(self) -> None: ...


ModuleT = TypeVar("ModuleT", bound=nn.Module)
ConfigT = TypeVar("ConfigT")


class _WithoutInitialValues(TorchFunctionMode):
    """Leaves out torch.nn.init: a normal draw on the meta device imports torch._dynamo and sympy, for a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def read_config(file: Path, kind: TypeAdapter[ConfigT], name: str) -> ConfigT:
    """What a config.json says; `name` is what the bundle calls that file. BundleRefused unless it says all of it."""
    try:
        return kind.validate_json(file.read_bytes())
    except ValidationError as error:
        raise BundleRefused(f"{name}: {error.errors()[0]['msg']}") from error


def built_empty(build: Callable[[], ModuleT], config_name: str) -> ModuleT:
    """On the meta device: without memory. BundleRefused, naming the config's file, when there is no such module.

    The first module with a language model imports transformers, which takes seconds.
    """
    try:
        with torch.device("meta"), _WithoutInitialValues():
            return build()
    except (RuntimeError, ValueError, TypeError) as error:  # a decoder's config that transformers refuses
        raise BundleRefused(f"{config_name}: {error}") from error


def fill(module: ModuleT, state: dict[str, Tensor], *, weights_name: str, config_name: str, device: str) -> ModuleT:
    """Gives a module of `built_empty` its tensors; empties `state`. BundleRefused unless they fit exactly."""
    try:
        module.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError, TypeError) as error:  # keys, shapes
        raise BundleRefused(f"{weights_name} does not fit {config_name}: {error}") from error
    state.clear()  # or each tensor would outlive its cast, and the language model be in memory twice
    rebuilding: _Rebuilding = module  # type: ignore[assignment]  # encoders and rankers both can
    rebuilding.rebuild_buffers()
    left = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    if left:
        raise BundleRefused(f"{weights_name}: nothing fills {', '.join(left)}")
    return module.to(device).eval().requires_grad_(False)


def state_to_save(module: nn.Module) -> dict[str, Tensor]:
    """Cloned: safetensors refuses tensors that share memory, and a view would drag its whole storage along."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, copied out of the mapping.

    A mapped file that somebody truncates is SIGBUS, which ends the process: hence the copies.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise BundleRefused(f"{file.name}: {error}") from error
