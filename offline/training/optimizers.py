"""AdamW that keeps float32 master weights of parameters that compute in bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class MasterWeightAdamW(torch.optim.AdamW):
    """Adapters compute in the base's dtype; a bfloat16 update of 1e-4 would mostly round to nothing.

    Steps float32 copies and writes them back rounded (mixed-precision training, Micikevicius et al., 2018). float32
    parameters are stepped in place: for them this is AdamW.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **settings: Any) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        groups = []
        for group in params:
            masters = []
            for parameter in group["params"]:
                if parameter.dtype == torch.float32:
                    masters.append(parameter)
                else:
                    master = torch.nn.Parameter(parameter.detach().float().clone())
                    self._pairs.append((parameter, master))
                    masters.append(master)
            groups.append({**group, "params": masters})
        super().__init__(groups, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter, master in self._pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
        loss = super().step(closure)
        for parameter, master in self._pairs:
            parameter.copy_(master)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter, _ in self._pairs:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "masters": [master.detach() for _, master in self._pairs]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "masters"})
        for (parameter, master), saved in zip(self._pairs, state_dict["masters"], strict=True):
            master.copy_(saved)
            parameter.copy_(master)
