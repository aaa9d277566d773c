"""Norms of gradients, over all shards of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors  # as DDP does it: much faster than torch.cat of views made in Python
from torch.nn import Parameter

from lightning_solver.sharding import is_sharded, local

_HALF = (torch.float16, torch.bfloat16)
SMALL = 2048
"""Numbers of a tensor up to which, on the CPU, copying it beside others costs less than a call for its norm."""
TOGETHER = 32_768
"""Numbers that are copied together: so few that they are still in the cache when they are summed up."""
FEW = 64
"""Numbers that may be summed up one by one in float32, as torch does on the CPU, without a loss of digits."""


def order_of(norm_type: float | str) -> float:
    """The order of a norm as a number."""
    return math.inf if norm_type == "inf" else float(norm_type)


def dense(gradient: Tensor) -> Tensor:
    """The numbers of a gradient that this process has; of a sparse one those that are there.

    Args:
        gradient: Strided, sparse (with each index once, where a norm is asked for), or sharded.
    """
    part = local(gradient)
    return part._values() if part.is_sparse else part  # values() refuses one that is summed up still


class Gradients:
    """The gradients of some parameters. What does not change from step to step is looked at once.

    Args:
        parameters: The parameters, which stay on the devices on which they are.

    Attributes:
        parameters: The parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = tuple(parameters)
        alike = {(type(p) in (Parameter, Tensor), p.device, p.dtype) for p in self.parameters}
        self._plain = len(alike) == 1 and next(iter(alike))[0]
        self._sharded = any(is_sharded(p) for p in self.parameters)
        on_cpu = self._plain and self.parameters[0].device.type == "cpu" and self.parameters[0].dtype is torch.float32
        small = [p for p in self.parameters if p.numel() <= SMALL] if on_cpu else []
        self._batches = _batches(small) if len(small) > 1 else []
        self._large = [p for p in self.parameters if p.numel() > SMALL] if self._batches else list(self.parameters)
        # the same for all of them, and none is empty, of which there is no greatest number
        self._at_once = self._plain and all(p.numel() for p in self.parameters)
        self._ordered = [p for batch in self._batches for p in batch] + self._large
        self._ends = [*itertools.accumulate(map(len, self._batches))]

    def __bool__(self) -> bool:
        return any(parameter.grad is not None for parameter in self.parameters)

    def present(self) -> list[Tensor]:
        """The gradients that are there; sparse ones with each index once, sharded ones summed up."""
        return self._present(self.parameters)

    def parts(self, gradients: list[Tensor]) -> list[list[Tensor]]:
        """The numbers of gradients that this process has, by the device on which they are.

        Args:
            gradients: What :meth:`present` gave.
        """
        if self._plain and not any(gradient.is_sparse for gradient in gradients):
            return [gradients] if gradients else []
        return by_device(map(dense, gradients))

    def norm(self, order: float = 2.0) -> Tensor:
        """The norm of all of them together, over all of their shards; a collective call where they have some.

        Args:
            order: The order of the norm.

        Returns:
            A tensor of one number, on the device of the first gradient; 0 where there is none.
        """
        found = [gradient for parameter in self._ordered if (gradient := parameter.grad) is not None]
        parts: list[Tensor] = []
        if self._at_once and len(found) == len(self._ordered) and not any(gradient.is_sparse for gradient in found):
            begin = 0
            for end in self._ends:
                parts.append(_norm(_flatten_dense_tensors(found[begin:end]), order))  # type: ignore[no-untyped-call]
                begin = end
            parts += _each(found[begin:], order) if begin < len(found) else []
            return _norm(torch.stack(parts), order)
        found = []
        for batch in self._batches:
            some = _present(batch, leave=True)
            if any(gradient.is_sparse for gradient in some):
                found += some
            elif any(gradient.numel() for gradient in some):  # of no numbers there is no greatest one
                parts.append(_norm(_flatten_dense_tensors(some), order))  # type: ignore[no-untyped-call]
        found += self._present(self._large, leave=True)
        if found and self._at_once and not any(gradient.is_sparse for gradient in found):
            parts += _each(found, order)
        else:
            parts += [norm for own in by_device(found) for norm in tensor_norms(own, order).unbind()]
        return joint_norm(parts, order) if parts else torch.zeros(())

    def _present(self, parameters: Sequence[Tensor], *, leave: bool = False) -> list[Tensor]:
        if self._sharded:
            _sum_up(parameters)
        return _present(parameters, leave=leave)


def _present(parameters: Sequence[Tensor], *, leave: bool = False) -> list[Tensor]:
    """The gradients that are there; the parameters keep sparse ones as they are where they are to be left alone."""
    found = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if any(gradient.is_sparse and not gradient.is_coalesced() for gradient in found):
        if leave:  # an optimiser may add up their numbers in another order
            return [gradient.coalesce() if gradient.is_sparse else gradient for gradient in found]
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return found


def _sum_up(parameters: Iterable[Tensor]) -> None:
    """Sum up gradients of which each process has a mere summand; a collective call where there are some."""
    from torch.distributed.tensor import Replicate

    for parameter in parameters:
        given: Any = parameter.grad
        if given is not None and is_sharded(given) and any(placement.is_partial() for placement in given.placements):
            placements = [Replicate() if placement.is_partial() else placement for placement in given.placements]
            parameter.grad = given.redistribute(placements=placements)


def tensor_norms(gradients: Sequence[Tensor], order: float) -> Tensor:
    """The norm of each gradient, over all of its shards.

    Numbers in half precision are summed up in float32.

    Args:
        gradients: At least one, on one device.
        order: The order of the norm.

    Returns:
        Shape (len(gradients),).
    """
    if all(type(gradient) is Tensor and not gradient.is_sparse for gradient in gradients):
        return _own_norms(gradients, order)
    return over_shards(_own_norms([dense(gradient) for gradient in gradients], order), gradients, order)


def joint_norm(norms: Sequence[Tensor], order: float) -> Tensor:
    """The norm of all, from the norms of parts that do not overlap.

    Args:
        norms: At least one, of one number each or of several, on any devices.
        order: The order of the norm.

    Returns:
        A tensor of one number.
    """
    if len(norms) == 1:
        return _norm(norms[0], order)
    device = norms[0].device
    if all(norm.ndim == 0 and norm.device == device for norm in norms):
        return _norm(torch.stack(list(norms)), order)
    return _norm(torch.cat([norm.reshape(-1).to(device) for norm in norms]), order)


def over_shards(norms: Tensor, gradients: Sequence[Tensor], order: float) -> Tensor:
    """The norms of whole tensors from those of the parts that this process has; a collective call.

    One sum for all tensors that are spread over the same processes.

    Args:
        norms: Shape (len(gradients),).
        gradients: Which tensors they are of, sharded or not.
        order: The order of the norms.
    """
    spread = spread_tensors(gradients)
    if not spread:
        return norms
    found = norms.clone()
    for where, indices in spread.items():
        if len(indices) == len(gradients):
            return joined(norms, where, order)
        found[indices] = joined(norms[indices], where, order)
    return found


Spread = tuple[Any, tuple[int, ...]]
"""A mesh of processes and those of its dimensions over which something is spread."""


def spread_tensors(
    tensors: Sequence[Tensor], counts: Callable[[Tensor, int], bool] | None = None
) -> dict[Spread, list[int]]:
    """Which tensors are spread over which processes: the indices of those that are.

    Args:
        tensors: Sharded or not.
        counts: Whether it counts that a tensor is sharded in a dimension; every one does by default.
    """
    found: dict[Spread, list[int]] = {}
    for index, tensor in enumerate(tensors):
        if not is_sharded(tensor):
            continue
        given: Any = tensor
        places = [(at, _sharded_dim(placement, tensor)) for at, placement in enumerate(given.placements)]
        dims = tuple(at for at, dim in places if dim is not None and (counts is None or counts(tensor, dim)))
        if dims:
            found.setdefault((given.device_mesh, dims), []).append(index)
    return found


def _sharded_dim(placement: Any, tensor: Tensor) -> int | None:
    """The dimension of which a process has a part; ``None`` where it has all.

    The shards of shards of FSDP2 beside tensor parallelism say of themselves that they are none.
    """
    if placement.is_replicate() or placement.is_partial():
        return None
    dim: int = placement.dim
    return dim % tensor.ndim


def joined(norms: Tensor, where: Spread, order: float) -> Tensor:
    """The norms of wholes from those of parts, of which each process has one; a collective call.

    Args:
        norms: Of the parts that this process has.
        where: Over which processes they are spread.
        order: The order of the norms; 1 for a sum.
    """
    wide, greatest = norms.double(), math.isinf(order)
    # The greatest is looked for among whole numbers, which have the order of the bits of floats: nan is beyond all
    # there, where MAX of floats may lose it.
    part = wide.abs().view(torch.int64) if greatest else wide**order
    how = torch.distributed.ReduceOp.MAX if greatest else torch.distributed.ReduceOp.SUM
    mesh, dims = where
    for dim in dims:
        torch.distributed.all_reduce(part, how, group=mesh.get_group(dim))
    return (part.view(torch.float64) if greatest else part ** (1 / order)).to(norms.dtype)


def by_device(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors by the device on which they are."""
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return list(found.values())


def _batches(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Small tensors, as many at a time as can be summed up together."""
    found: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        if room <= 0:
            found.append([])
            room = TOGETHER
        found[-1].append(tensor)
        room -= tensor.numel()
    return found


def _norm(tensor: Tensor, order: float) -> Tensor:
    """The norm of many numbers together, with the digits that the norms of few would have kept."""
    found: Tensor
    if tensor.device.type != "cpu" or tensor.numel() <= FEW or math.isinf(order) or tensor.dtype is torch.float64:
        found = torch.linalg.vector_norm(tensor, order, dtype=torch.float32 if tensor.dtype in _HALF else None)
    elif order == 2.0 and tensor.dtype is torch.float32:
        found = tensor.square().sum().sqrt()  # in pairs, where vector_norm adds one by one
    else:
        found = torch.linalg.vector_norm(tensor, order, dtype=torch.float64).float()
    return found


def _each(tensors: Sequence[Tensor], order: float) -> list[Tensor]:
    """The norms of tensors of one type, none of which is empty."""
    wide = torch.float32 if tensors[0].dtype in _HALF else None
    return list(torch._foreach_norm(list(tensors), order, dtype=wide))


def _own_norms(tensors: Sequence[Tensor], order: float) -> Tensor:
    """The norms of what this process has."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1 and not any(tensor.numel() == 0 for tensor in tensors):  # an empty one has no greatest value
        return torch.stack(_each(tensors, order))
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    zero = torch.zeros((), dtype=wide, device=tensors[0].device)
    return torch.stack([torch.linalg.vector_norm(t, order, dtype=wide) if t.numel() else zero for t in tensors])
