"""An optimiser of one's own: any class of any module is named by its dotted path.

python train.py fit --config digits.yaml --model.solver.optimizer '{name: optimizer.SignSGD, args: {lr: 0.002}}'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class SignSGD(Optimizer):
    """Steps of equal size against the sign of each gradient (Bernstein et al. 2018)."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    tensor.mul_(1 - group["lr"] * group["weight_decay"])
                    tensor.sub_(tensor.grad.sign(), alpha=group["lr"])
        return loss
