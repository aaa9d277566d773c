"""What each kind of clipping does to gradients, in place.

A coefficient is ``limit / (norm + eps)``, at most 1. On a GPU everything is scaled by it, so that nothing has to wait
for its value; on the CPU what has a coefficient of 1 is left alone. Coefficients are tensors: a number from Python
would be made into one again for every tensor that it scales.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_solver.clipping.norms import (
    Gradients,
    by_device,
    dense,
    joint_norm,
    order_of,
    over_shards,
    tensor_norms,
)
from lightning_solver.sharding import is_sharded, local


@dataclass(frozen=True)
class Clipped:
    """What a clipping measured: tensors of one number, on the device of the gradients. Nothing is waited for.

    Args:
        norm: The norm of all gradients that it is for, before; ``None`` if it was not asked for and is no by-product.
        clipped_norm: The same afterwards.
        share: Which part of what the kind looks at was scaled down or cut off, from 0 to 1: of all gradients together,
            of the groups, the tensors, the units or the numbers. ``None`` if it was not asked for and is no by-product.
        limit: The limit that held.
    """

    norm: Tensor | None = None
    clipped_norm: Tensor | None = None
    share: Tensor | None = None
    limit: float | Tensor | None = None


class Way(ABC):
    """A kind of clipping at work."""

    by_group = False

    @abstractmethod
    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        """Clip gradients, of which at least one is there.

        Args:
            units: The gradients; by group where :attr:`by_group` says so, else all of them at once.
            limit: The limit, where the kind has one.
            measure: Whether norms and shares are wanted that are no by-product.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, as tensors and plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have learnt nothing
        """Go on from what :meth:`state_dict` gave."""


class ByNorm(Way):
    """Gradients are scaled down to a norm, all together or group by group.

    Args:
        norm_type: The order of the norm.
        eps: What is added to a norm that is divided by.
        by_group: Whether each group is scaled by itself.
    """

    def __init__(self, norm_type: float | str, eps: float, *, by_group: bool = False) -> None:
        self._order, self._eps, self.by_group = order_of(norm_type), eps, by_group

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        assert limit is not None
        before, after, scaled = [], [], []
        for unit in units:
            gradients = unit.present()
            if not gradients:
                continue
            norm = unit.norm(self._order)
            coefficient = torch.clamp(limit / (norm + self._eps), max=1.0)
            scale_together(unit.parts(gradients), coefficient)
            before.append(norm)
            after.append(norm * coefficient)
            scaled.append(coefficient < 1.0)
        if len(before) == 1:
            return Clipped(before[0], after[0], scaled[0].float(), limit)
        share = torch.stack([one.to(scaled[0].device) for one in scaled]).float().mean()
        return Clipped(joint_norm(before, self._order), joint_norm(after, self._order), share, limit)


class ByParameter(Way):
    """Each gradient is scaled down to a norm of its own.

    Args:
        norm_type: The order of the norm.
        eps: What is added to a norm that is divided by.
    """

    def __init__(self, norm_type: float | str, eps: float) -> None:
        self._order, self._eps = order_of(norm_type), eps

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        assert limit is not None
        before, after, scaled = [], [], []
        for own in by_device(units[0].present()):
            norms = tensor_norms(own, self._order)
            coefficients = torch.clamp(limit / (norms + self._eps), max=1.0)
            scale_each(own, coefficients)
            before.append(norms)
            if measure:
                after.append(norms * coefficients)
                scaled.append((coefficients < 1.0).float())
        if not measure:
            return Clipped(limit=limit)
        share = torch.cat([part.to(scaled[0].device) for part in scaled]).mean()
        return Clipped(joint_norm(before, self._order), joint_norm(after, self._order), share, limit)


class ByValue(Way):
    """Numbers are cut off."""

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        assert limit is not None
        (unit,) = units
        gradients = unit.present()
        before = unit.norm() if measure else None
        share = _share_above(gradients, limit) if measure else None
        for own in unit.parts(gradients):
            torch._foreach_clamp_min_(own, -limit)
            torch._foreach_clamp_max_(own, limit)
        return Clipped(before, unit.norm() if measure else None, share, limit)


class ByUnit(Way):
    """Each unit is scaled down by the norm of its own weights.

    Args:
        norm_type: The order of the norms.
        eps: The least norm of weights that is reckoned with.
    """

    def __init__(self, norm_type: float | str, eps: float) -> None:
        self._order, self._eps = order_of(norm_type), eps

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        assert limit is not None
        (unit,) = units
        gradients = unit.present()
        parameters = [parameter for parameter in unit.parameters if parameter.grad is not None]
        before = unit.norm() if measure else None
        clipped, counted = [], 0
        for indices in _alike(gradients):
            own = [gradients[i] for i in indices]
            allowed = self._norms([parameters[i].detach() for i in indices]).clamp_(min=self._eps).mul_(limit)
            coefficients = self._coefficients(allowed, self._norms(own))
            _scale_units(own, coefficients)
            if measure:
                clipped.append((coefficients < 1.0).sum())
                counted += coefficients.numel()
        if not measure:
            return Clipped(limit=limit)
        share = torch.stack([part.to(clipped[0].device) for part in clipped]).sum() / max(counted, 1)
        return Clipped(before, unit.norm(), share, limit)

    def _norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """The norms of all units of some tensors, one after another."""
        found = []
        for tensor in tensors:
            own = local(tensor)
            if own.is_sparse:
                own = own.to_dense()
            wide = torch.float32 if own.dtype in (torch.float16, torch.bfloat16) else None
            if own.ndim <= 1:
                norm = torch.linalg.vector_norm(own, self._order, dtype=wide) if own.numel() else own.new_zeros(())
                found.append(over_shards(norm.reshape(1), [tensor], self._order))
                continue
            dims = tuple(range(1, own.ndim))
            norms = torch.linalg.vector_norm(own, self._order, dims, dtype=wide) if own.numel() else own.new_zeros(0)
            # Rows that lie in one process have their whole norm there; others are summed up over the processes.
            inner = is_sharded(tensor) and any(p.is_shard() and p.dim != 0 for p in tensor.placements)  # type: ignore[attr-defined]
            found.append(_over_columns(norms, tensor, self._order) if inner else norms)
        return torch.cat(found) if len(found) > 1 else found[0]

    def _coefficients(self, allowed: Tensor, norms: Tensor) -> Tensor:
        if self._eps:
            return torch.clamp(allowed / norms.clamp(min=1e-6), max=1.0)
        # Without a least norm a unit whose weights and gradient are 0 is left as it is.
        return torch.nan_to_num(allowed / norms, nan=1.0).clamp_(max=1.0)


def scale_together(parts: Sequence[list[Tensor]], coefficient: Tensor) -> None:
    """Scale gradients by one coefficient; on the CPU only where it is not 1.

    Args:
        parts: The gradients, by device; see :meth:`Gradients.parts`.
        coefficient: A tensor of one number.
    """
    if coefficient.device.type == "cpu" and float(coefficient) == 1.0:
        return
    for own in parts:
        torch._foreach_mul_(own, coefficient.to(own[0].device))


def scale_each(gradients: Sequence[Tensor], coefficients: Tensor) -> None:
    """Scale each gradient by a coefficient of its own; on the CPU only where it is not 1.

    Args:
        gradients: The gradients, on one device.
        coefficients: Shape (len(gradients),).
    """
    own = [dense(gradient) for gradient in gradients]
    if coefficients.device.type != "cpu":
        torch._foreach_mul_(own, list(coefficients.unbind()))
        return
    for tensor, coefficient in zip(own, coefficients.tolist()):
        if coefficient != 1.0:
            tensor.mul_(coefficient)


def _scale_units(gradients: Sequence[Tensor], coefficients: Tensor) -> None:
    """Scale the units of gradients, whose coefficients lie one after another."""
    begin = 0
    on_cpu = coefficients.device.type == "cpu"
    if on_cpu and float(coefficients.min() if coefficients.numel() else 1.0) == 1.0:
        return
    for gradient in gradients:
        own = local(gradient)
        count = own.shape[0] if own.ndim > 1 else 1
        part = coefficients[begin : begin + count]
        begin += count
        if on_cpu and part.numel() and float(part.min()) == 1.0:
            continue
        if own.is_sparse:
            rows = part.reshape(-1, *[1] * (own.ndim - 1))
            values = own._values()
            values.mul_(rows[own._indices()[0]] if own.ndim > 1 else rows)
            continue
        own.mul_(part.reshape(-1, *[1] * (own.ndim - 1)) if own.ndim > 1 else part.reshape(()))


def _alike(gradients: Sequence[Tensor]) -> list[list[int]]:
    """Indices of gradients of one device and type, in order."""
    found: dict[Any, list[int]] = {}
    for index, gradient in enumerate(gradients):
        found.setdefault((gradient.device, gradient.dtype), []).append(index)
    return list(found.values())


def _over_columns(norms: Tensor, tensor: Any, order: float) -> Tensor:
    """The norms of rows of which this process has a part of the columns only."""
    part = norms if math.isinf(order) else norms**order
    how = torch.distributed.ReduceOp.MAX if math.isinf(order) else torch.distributed.ReduceOp.SUM
    for dim, placement in enumerate(tensor.placements):
        if placement.is_shard() and placement.dim != 0:
            torch.distributed.all_reduce(part, how, group=tensor.device_mesh.get_group(dim))
    return part if math.isinf(order) else part ** (1 / order)


def _share_above(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Which part of all numbers lies beyond a limit, over all shards."""
    counts, numel = [], 0
    for gradient in gradients:
        above = (dense(gradient).abs() > limit).sum().double().reshape(1)
        counts.append(over_shards(above, [gradient], 1.0).cpu() if is_sharded(gradient) else above)
        numel += gradient.numel()
    return torch.cat([count.to(counts[0].device) for count in counts]).sum().float() / max(numel, 1)
