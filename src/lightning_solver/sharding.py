"""Sharded tensors and modules: the part that this process has, and making a module look at it again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``, of which each process has a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has: all of it, but for a sharded one."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def reshard(module: nn.Module) -> None:
    """Let go of weights that FSDP2 has gathered; the next forward gathers them anew."""
    if not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for inner in module.modules():
        if isinstance(inner, FSDPModule):
            inner.reshard()
