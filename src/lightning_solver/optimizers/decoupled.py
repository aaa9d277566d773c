"""SGD with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.optimizer import ParamsT

from lightning_solver.optimizers.unhooked import unhooked_step


class SGDW(SGD):
    """SGD with decoupled weight decay, by Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization".

    Every parameter that has a gradient is first multiplied by ``1 - lr * weight_decay``; then follows the step of
    ``torch.optim.SGD`` without weight decay, in the implementation that was asked for. The decay therefore never enters
    the momentum. It follows the learning rate, as that of ``torch.optim.AdamW`` does.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        momentum: Factor of the moving sum of gradients.
        dampening: By how much less than fully a gradient enters that sum.
        weight_decay: Share of a parameter that is taken away in one step at a learning rate of 1.
        nesterov: Whether to look ahead along the momentum.
        maximize: Whether to ascend. The decay stays a decay.
        foreach: Whether to work on all tensors at once; torch decides if not given.
        fused: Whether to use torch's fused kernel; torch decides if not given.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> weight.grad = torch.tensor([1.0])
        >>> SGDW([weight], lr=0.1, weight_decay=0.5).step()  # 2 * (1 - 0.1 * 0.5) - 0.1 * 1
        >>> round(weight.item(), 6)
        1.8
    """

    # Torch's fused kernel would skip a step with non-finite gradients by itself, when the decay has already happened.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, foreach=foreach, fused=fused
        )
        self._step_supports_amp_scaling = False  # which SGD has set on the object if it is fused

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step.

        Args:
            closure: Evaluates the model anew and returns the loss; it is called once, before the decay.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decays: list[Any] = [group["weight_decay"] for group in self.param_groups]
        try:
            for group, decay in zip(self.param_groups, decays):
                _shrink(group, 1 - group["lr"] * decay)
                group["weight_decay"] = 0.0
            unhooked_step(SGD)(self)
        finally:
            for group, decay in zip(self.param_groups, decays):
                group["weight_decay"] = decay
        return loss


@torch.no_grad()
def _shrink(group: dict[str, Any], factor: float | Tensor) -> None:
    """Multiply the parameters of a group that have a gradient."""
    tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
    if not group["weight_decay"] or not tensors:
        return
    if group["foreach"] or group["fused"]:
        torch._foreach_mul_(tensors, factor)
    else:
        for tensor in tensors:
            tensor.mul_(factor)
