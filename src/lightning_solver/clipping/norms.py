"""Norms of gradients, over all shards of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
"""Numbers that are copied together: beyond it the sum of squares in float32 loses digits that single norms keep."""


def order_of(norm_type: float | str) -> float:
    """The order of a norm as a number."""
    return math.inf if norm_type == "inf" else float(norm_type)


def dense(gradient: Tensor) -> Tensor:
    """The numbers of a gradient that this process has; of a sparse one those that are there.

    Args:
        gradient: Strided, sparse with each index once, or sharded.
    """
    part = local(gradient)
    return part._values() if part.is_sparse else part


class Gradients:
    """The gradients of some parameters. What does not change from step to step is looked at once.

    Args:
        parameters: The parameters.

    Attributes:
        parameters: The parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = tuple(parameters)
        alike = {(type(p) in (Parameter, Tensor), p.device, p.dtype) for p in self.parameters}
        self._plain = len(alike) == 1 and next(iter(alike))[0]
        on_cpu = self._plain and self.parameters[0].device.type == "cpu" and self.parameters[0].dtype is torch.float32
        small = [p for p in self.parameters if p.numel() <= SMALL] if on_cpu else []
        self._batches = _batches(small) if len(small) > 1 else []
        self._large = [p for p in self.parameters if p.numel() > SMALL] if self._batches else list(self.parameters)

    def present(self) -> list[Tensor]:
        """The gradients that are there; sparse ones with each index once."""
        return _present(self.parameters)

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
        found, parts = [], []
        for batch in self._batches:
            some = _present(batch)
            if any(gradient.is_sparse for gradient in some):
                found += some
            elif some:
                parts.append(_norm(_flatten_dense_tensors(some), order))  # type: ignore[no-untyped-call]
        found += _present(self._large)
        together = [found] if self._plain and found else by_device(found)
        parts += [tensor_norms(own, order) for own in together]
        return joint_norm(parts, order) if parts else torch.zeros(())


def _present(parameters: Sequence[Tensor]) -> list[Tensor]:
    found = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if any(gradient.is_sparse and not gradient.is_coalesced() for gradient in found):
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return found


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
    given = [_summed(gradient) for gradient in gradients]
    return over_shards(_own_norms([dense(gradient) for gradient in given], order), given, order)


def joint_norm(norms: Sequence[Tensor], order: float) -> Tensor:
    """The norm of all, from the norms of parts that do not overlap.

    Args:
        norms: At least one, of any shapes, on any devices.
        order: The order of the norm.

    Returns:
        A tensor of one number.
    """
    if len(norms) == 1:
        return _norm(norms[0], order)
    flat = [norm.reshape(-1).to(norms[0].device) for norm in norms]
    return _norm(torch.cat(flat), order)


def over_shards(norms: Tensor, gradients: Sequence[Tensor], order: float) -> Tensor:
    """The norms of whole tensors from those of the parts that this process has; a collective call.

    One sum for all tensors that are sharded over one mesh in one way.

    Args:
        norms: Shape (len(gradients), ...).
        gradients: Which tensors they are of, sharded or not.
        order: The order of the norms.
    """
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, gradient in enumerate(gradients):
        if is_sharded(gradient):
            given: Any = gradient
            kinds.setdefault((given.device_mesh, tuple(given.placements)), []).append(index)
    if not kinds:
        return norms
    found = norms.clone()
    greatest = math.isinf(order)
    for (mesh, placements), indices in kinds.items():
        part = norms[indices] if greatest else norms[indices] ** order
        how = torch.distributed.ReduceOp.MAX if greatest else torch.distributed.ReduceOp.SUM
        for dim, placement in enumerate(placements):
            if placement.is_shard():
                torch.distributed.all_reduce(part, how, group=mesh.get_group(dim))
        found[indices] = part if greatest else part ** (1 / order)
    return found


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


def _summed(gradient: Tensor) -> Tensor:
    """A gradient of which no process has a mere summand."""
    given: Any = gradient
    if not is_sharded(gradient) or not any(placement.is_partial() for placement in given.placements):
        return gradient
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if placement.is_partial() else placement for placement in given.placements]
    redistributed: Tensor = given.redistribute(placements=placements)
    return redistributed


def _norm(tensor: Tensor, order: float) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor, order)
    return found


def _own_norms(tensors: Sequence[Tensor], order: float) -> Tensor:
    """The norms of what this process has."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1 and not any(tensor.numel() == 0 for tensor in tensors):  # an empty one has no greatest value
        (dtype,) = dtypes
        wide = torch.float32 if dtype in _HALF else None
        return torch.stack(torch._foreach_norm(list(tensors), order, dtype=wide))
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    zero = torch.zeros((), dtype=wide, device=tensors[0].device)
    return torch.stack([torch.linalg.vector_norm(t, order, dtype=wide) if t.numel() else zero for t in tensors])
