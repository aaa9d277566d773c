"""Moves averages towards weights on their own device: one pass over all of them.

``torch._foreach_lerp_`` is that pass. On the CPU it calls one kernel after another, and for small tensors the calls
take most of the time. The kernel of the fused SGD takes them all in one call, and with a rate of ``-share`` and a
weight decay of -1 its step is ``average + share * (weight - average)``: the very formula, and the very bits, of
``lerp`` for shares below a half. It is used where a trial shows that it is so, for small tensors without gaps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

SMALL = 32_768
"""Numbers of a tensor up to which torch works on it in one thread anyway."""


class Pairs:
    """Averages and weights of the same types, devices and shapes.

    Args:
        averages: The averages.
        weights: The weights.
    """

    def __init__(self, averages: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        pairs = list(zip(averages, weights))
        small = [pair for pair in pairs if _may_be_fused(*pair)]
        known = {id(average) for average, _ in small}
        rest = [pair for pair in pairs if id(pair[0]) not in known]
        self._averages, self._weights = [average for average, _ in pairs], [weight for _, weight in pairs]
        self._rest = [average for average, _ in rest], [weight for _, weight in rest]
        self._small = [weight for _, weight in small]
        self._places = [weight.data_ptr() for weight in self._small]
        # Tensors of their own for the same memory, so that whatever becomes of the weights, it is there.
        self._fused: list[tuple[list[Tensor], list[Tensor]]] = []
        for dtype in dict.fromkeys(average.dtype for average, _ in small):
            own = [pair for pair in small if pair[0].dtype == dtype]
            self._fused.append(([average for average, _ in own], [weight.detach() for _, weight in own]))

    @property
    def fused(self) -> list[Tensor]:
        """The averages that one kernel takes."""
        return [average for averages, _ in self._fused for average in averages]

    def moved(self) -> bool:
        """Whether weights that one kernel takes have other memory now, which may be laid out in another way."""
        return list(map(Tensor.data_ptr, self._small)) != self._places

    def copy(self) -> None:
        """Copy the weights."""
        if self._averages:
            torch._foreach_copy_(self._averages, self._weights)

    def move(self, share: float) -> None:
        """Move the averages towards the weights, which have not moved.

        Args:
            share: The share of the weights, from 0 to 1.
        """
        if not self._fused or share >= 0.5:
            _lerp(self._averages, self._weights, share)
            return
        _lerp(*self._rest, share)
        threads = torch.get_num_threads()
        if threads > 1:
            torch.set_num_threads(1)  # the kernel would start them anew for every tensor
        try:
            for averages, weights in self._fused:
                _fused_lerp(averages, weights, share)
        finally:
            if threads > 1:
                torch.set_num_threads(threads)


def _lerp(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
    if averages:
        with torch.inference_mode():  # a little faster than no_grad; the tensors stay what they are
            torch._foreach_lerp_(averages, weights, share)


def _fused_lerp(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
    torch._fused_sgd_(
        averages,
        weights,
        [],
        weight_decay=-1.0,
        momentum=0.0,
        lr=-share,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _may_be_fused(average: Tensor, weight: Tensor) -> bool:
    if average.device.type != "cpu" or weight.device.type != "cpu" or not 0 < average.numel() <= SMALL:
        return False
    if average.stride() != weight.stride() or not (average.is_contiguous() and weight.is_contiguous()):
        return False
    return average.dtype == weight.dtype and average.shape == weight.shape and fused_agrees(average.dtype)


@functools.cache
def fused_agrees(dtype: torch.dtype) -> bool:
    """Whether the fused kernel gives what ``lerp`` gives, to the last bit.

    Args:
        dtype: The type of averages and weights.
    """
    if dtype not in (torch.float32, torch.float64):
        return False
    generator = torch.Generator().manual_seed(0)
    for numel in (1, 7, 64, 1003):
        for share in (0.0, 1e-4, 0.1, 0.49):
            average, weight = (torch.randn(numel, dtype=dtype, generator=generator, device="cpu") for _ in range(2))
            wanted = torch.lerp(average, weight, share)
            try:
                _fused_lerp([average], [weight], share)
            except (AttributeError, RuntimeError, TypeError, NotImplementedError):
                return False
            if not torch.equal(average, wanted):
                return False
    return True
