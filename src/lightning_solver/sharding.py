"""Several processes: sharded tensors, the part that this one has, and making a module look at its weights again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_first_process() -> bool:
    """Whether this is the first of the processes, or the only one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


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


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """A sharded tensor of which this process has ``part``, laid out as another; sharing memory with ``part``.

    Args:
        part: What this process has.
        tensor: The tensor to be like; if it is not sharded, ``part`` is all of it.
    """
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    given: Any = tensor
    return DTensor.from_local(
        part, given.device_mesh, given.placements, run_check=False, shape=given.shape, stride=given.stride()
    )


def whole(part: Tensor, tensor: Tensor) -> Tensor | None:
    """All of a tensor, on the CPU of the first process; a collective call, ``None`` in the others.

    Args:
        part: What this process has.
        tensor: The tensor that it is laid out as; if it is not sharded, ``part`` is all of it.
    """
    if not is_sharded(tensor):
        return part
    made: Any = like(part, tensor)
    full: Tensor = made.full_tensor()
    return full.cpu() if is_first_process() else None


def part_of(full: Tensor, tensor: Tensor) -> Tensor:
    """The part of a whole tensor that this process has; a collective call.

    Args:
        full: All of it, the same in every process.
        tensor: The tensor that it is to be laid out as.
    """
    if not is_sharded(tensor):
        return full
    from torch.distributed.tensor import distribute_tensor

    given: Any = tensor
    return local(distribute_tensor(full.to(local(given.detach()).device), given.device_mesh, given.placements))
