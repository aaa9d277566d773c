"""Averages on the CPU of weights on a GPU, brought up to date while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Offload:
    """Moves averages in a thread of its own, from copies of the weights that a stream of its own makes.

    Neither the program nor the GPU waits for an update: the copies are made beside the next forward and backward pass,
    the averages are moved on the CPU. Only the next update waits for the one before it, and the next change of the
    weights for their copies (:meth:`settle`).

    Memory: on the CPU, page-locked copies of the weights beside the averages.

    Args:
        averages: On the CPU.
        weights: On an accelerator; of the same shapes.
    """

    def __init__(self, averages: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        self._averages, self._weights = list(averages), list(weights)
        devices = [weight.device for weight in weights if weight.device.type == "cuda"]
        pinned = bool(devices)
        self._copies = [
            torch.empty_like(weight, device="cpu", pin_memory=pinned, requires_grad=False) for weight in weights
        ]
        cuda: Any = torch.cuda
        self._stream: Any = cuda.Stream(devices[0]) if devices else None
        self._copied: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lightning_solver_average")
        self._moving: Future[None] | None = None

    def move(self, share: float) -> None:
        """Begin to move the averages towards the present weights.

        Args:
            share: The share of the weights.
        """
        self.finish()
        if self._stream is None:
            self._copy()
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                self._copy()
                self._copied = self._stream.record_event()
        self._moving = self._thread.submit(self._move, share, self._copied)

    def settle(self) -> None:
        """Let the present stream wait until the weights are copied, so that they may be changed."""
        if self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)

    def finish(self) -> None:
        """Wait until the averages have been moved.

        Raises:
            Exception: Whatever went wrong in the thread.
        """
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.result()

    def _copy(self) -> None:
        with torch.no_grad():
            for copy, weight in zip(self._copies, self._weights):
                copy.copy_(weight, non_blocking=True)

    def _move(self, share: float, copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
        with torch.no_grad():
            if share == 1.0:
                torch._foreach_copy_(self._averages, self._copies)
            else:
                copies = [copy.to(average.dtype) for average, copy in zip(self._averages, self._copies)]
                torch._foreach_lerp_(self._averages, copies, share)
