"""Adaptive clipping, unit by unit: rows of matrices, output channels of convolutions, whole vectors.

On the CPU most of the time for small tensors goes into calls: those of one shape are stacked, so that their norms come
from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_solver.clipping.norms import Gradients, by_device, joined, order_of, spread_tensors
from lightning_solver.clipping.ways import Clipped, Way, counted, share_of
from lightning_solver.sharding import local

_HALF = (torch.float16, torch.bfloat16)
SMALL = 16_384
"""Numbers of a tensor up to which copying it beside others costs less than calls of its own."""


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
        parameters = [parameter.detach() for parameter in unit.parameters if parameter.grad is not None]
        before = unit.norm() if measure else None
        clipped: dict[int, Tensor] = {}
        for indices in _alike(gradients):
            own, weights = [gradients[i] for i in indices], [parameters[i] for i in indices]
            if len(own) > 1:
                norms = _stacked_norms(weights, self._order), _stacked_norms(own, self._order)
                coefficients = self._coefficients(*norms, limit)
                _scale_stacked(own, coefficients)
            else:
                norms = _unit_norms(weights[0], self._order), _unit_norms(own[0], self._order)
                coefficients = self._coefficients(*norms, limit)
                _scale_units(own[0], coefficients)
            if measure:
                below = (coefficients < 1.0).reshape(len(own), -1).sum(1)
                clipped.update(zip(indices, below.unbind()))
        if not measure:
            return Clipped(limit=limit)
        places = {id(gradient): i for i, gradient in enumerate(gradients)}
        counts = [counted([clipped[places[id(g)]] for g in own], own, _has_rows) for own in by_device(gradients)]
        return Clipped(before, unit.norm(), share_of(counts, sum(map(_units, gradients))), limit)

    def _coefficients(self, weights: Tensor, norms: Tensor, limit: float) -> Tensor:
        allowed = weights.clamp(min=self._eps).mul_(limit)
        if self._eps:
            return torch.where(norms < allowed, 1.0, allowed / norms.clamp(min=1e-6)).clamp_(max=1.0)
        # Without a least norm a unit whose weights and gradient are 0 is left as it is.
        return torch.nan_to_num(allowed / norms, nan=1.0).clamp_(max=1.0)


def _alike(gradients: Sequence[Tensor]) -> list[list[int]]:
    """Indices of gradients that can be stacked, and of each other one by itself."""
    found: dict[Any, list[int]] = {}
    for index, gradient in enumerate(gradients):
        alone = type(gradient) is not Tensor or gradient.is_sparse or not 0 < gradient.numel() <= SMALL
        key = index if alone else (gradient.shape, gradient.dtype, gradient.device)
        found.setdefault(key, []).append(index)
    return list(found.values())


def _stacked_norms(tensors: Sequence[Tensor], order: float) -> Tensor:
    """The norms of the units of tensors of one shape: (tensors, rows), or (tensors,) of vectors."""
    stack = torch.stack(list(tensors))
    wide = torch.float32 if stack.dtype in _HALF else None
    rows = stack.reshape(len(tensors), -1) if stack.ndim <= 2 else stack.flatten(2)
    norms: Tensor = torch.linalg.vector_norm(rows, order, -1, dtype=wide)
    return norms


def _scale_stacked(gradients: list[Tensor], coefficients: Tensor) -> None:
    if coefficients.device.type == "cpu" and float(coefficients.min()) == 1.0:
        return
    scales = coefficients.reshape(*coefficients.shape, *[1] * (gradients[0].ndim + 1 - coefficients.ndim))
    torch._foreach_mul_(gradients, list(scales.unbind(0)))


def _unit_norms(tensor: Tensor, order: float) -> Tensor:
    """The norms of the units of a tensor: of its rows, or one of a vector."""
    own = local(tensor)
    if own.is_sparse:
        own = own.to_dense()
    wide = torch.float32 if own.dtype in _HALF else None
    if not own.numel():
        norms = torch.zeros(own.shape[0] if own.ndim > 1 else 1, dtype=wide or own.dtype, device=own.device)
    elif own.ndim <= 1:
        norms = torch.linalg.vector_norm(own, order, dtype=wide).reshape(1)
    else:
        norms = torch.linalg.vector_norm(own, order, tuple(range(1, own.ndim)), dtype=wide)
    # Rows that lie in one process have their whole norm there; others are summed up over the processes.
    for where in spread_tensors([tensor], lambda tensor, dim: not _has_rows(tensor, dim)):
        norms = joined(norms, where, order)
    return norms


def _scale_units(gradient: Tensor, coefficients: Tensor) -> None:
    """Scale the units of a gradient."""
    own = local(gradient)
    if not own.numel() or (coefficients.device.type == "cpu" and float(coefficients.min()) == 1.0):
        return
    if own.is_sparse:
        values = own.values()  # Gradients.present has seen to it that each index is there once
        rows = coefficients[own.indices()[0]] if own.ndim > 1 else coefficients
        values.mul_(rows.reshape(-1, *[1] * (values.ndim - 1)))
        return
    own.mul_(coefficients.reshape(-1, *[1] * (own.ndim - 1)) if own.ndim > 1 else coefficients.reshape(()))


def _units(tensor: Tensor) -> int:
    """How many units a tensor has, over all of its shards."""
    return tensor.shape[0] if tensor.ndim > 1 else 1


def _has_rows(tensor: Tensor, dim: int) -> bool:
    """Whether a process that has a part of a dimension has whole units."""
    return tensor.ndim > 1 and dim == 0
