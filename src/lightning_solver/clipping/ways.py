"""What each kind of clipping does to gradients, in place.

A coefficient is ``limit / (norm + eps)``, at most 1. On a GPU everything is scaled by it, so that nothing has to wait
for its value; on the CPU what has a coefficient of 1 is left alone. Coefficients are tensors: a number from Python
would be made into one again for every tensor that it scales.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
    spread_tensors,
    tensor_norms,
)


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
    """A kind of clipping at work.

    Attributes:
        by_group: Whether gradients are given by group.
    """

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
            if not unit:
                continue
            norm = unit.norm(self._order)
            if norm.device.type == "cpu" and float(norm) + self._eps < limit * (1 - 1e-6):  # beyond doubt
                before.append(norm)
                after.append(norm)
                scaled.append(torch.zeros((), dtype=torch.bool))
                continue
            coefficient = torch.clamp(limit / (norm + self._eps), max=1.0)
            scale_together(unit.parts(unit.present()), coefficient)
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


def _share_above(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Which part of all numbers lies beyond a limit, over all shards."""
    counts = []
    for own in by_device(gradients):
        above = [(dense(gradient).abs() > limit).sum() for gradient in own]
        counts.append(counted(above, own))
    return share_of(counts, sum(gradient.numel() for gradient in gradients))


def counted(
    counts: Sequence[Tensor], tensors: Sequence[Tensor], apart: Callable[[Tensor, int], bool] | None = None
) -> Tensor:
    """A sum over all shards; a collective call where there are some.

    Args:
        counts: Of each tensor, what was counted in the part of it that this process has.
        tensors: The tensors, on one device.
        apart: Whether processes count apart what lies in different parts of a dimension of a tensor; by default always.
    """
    found = torch.stack(list(counts))
    for (mesh, dims), indices in spread_tensors(tensors, apart).items():
        part = found[indices]
        for dim in dims:
            torch.distributed.all_reduce(part, group=mesh.get_group(dim))
        found[indices] = part
    return found.sum()


def share_of(counts: Sequence[Tensor], number: int) -> Tensor:
    """Which part of all was counted.

    Args:
        counts: What was counted, on any devices.
        number: How many there are.
    """
    return torch.stack([count.to(counts[0].device) for count in counts]).sum().float() / max(number, 1)
