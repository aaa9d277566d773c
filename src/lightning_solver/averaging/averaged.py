"""The core of an average: tensors that follow other tensors. No module, no trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from lightning_solver.averaging.average import Average, Count
from lightning_solver.averaging.exchange import Exchange
from lightning_solver.averaging.moving import Pairs
from lightning_solver.averaging.offload import Offload
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.sharding import local

_HALF = (torch.float16, torch.bfloat16)
_CHUNK = 16_777_216  # numbers that are converted at a time


class Averaged:
    """An average of tensors; made by :meth:`Average.over`. Call :meth:`update` after each real optimiser step.

    One step costs one pass over the tensors, without communication: of sharded tensors each process averages its part.

    Args:
        average: What is averaged, and how.
        tensors: What is averaged, by name. It is read at each update and changed by :meth:`swap` only.
        run: The length of the run.
        where: The path of the average, for error messages.

    Attributes:
        average: What is averaged, and how.
        count: How many steps and updates there were.
        latest_share: The share of the weights in the latest update since this was made; ``None`` before there was one,
            and of the first, which copies.
    """

    def __init__(self, average: Average, tensors: Mapping[str, Tensor], run: RunLength, where: str = "average") -> None:
        self.average, self.where = average, where
        self.count = Count()
        self.latest_share: float | None = None
        self._weights: dict[str, Tensor] = {}
        self._values: list[Tensor] = []
        self._shares = average.lay(run, where)
        self._stale = False
        self._offload: Offload | None = None
        self._take_in(tensors)
        self._shares.begin(self.count)

    # ------------------------------------------------------------------ the average

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is averaged, in the order of :attr:`values`."""
        return tuple(self._weights)

    @property
    def begun(self) -> bool:
        """Whether the average has taken in any weights; what it holds before is of no use."""
        return self.count.updates > 0

    @property
    def start(self) -> int:
        """The step with whose weights the average begins."""
        return self._shares.start

    def snapshot_due(self) -> bool:
        """Whether the average is to be written to a file of its own now."""
        return self.begun and self._shares.snapshot_due(self.count.steps)

    @property
    def swapped(self) -> bool:
        """Whether the averages are in the place of the weights."""
        return self._exchange.swapped

    @property
    def values(self) -> list[Tensor]:
        """The averages, in the order of the tensors; of a sharded one the part of this process."""
        self._refresh()
        return [self._exchange.average(index) for index in range(len(self._values))]

    @property
    def weights(self) -> list[Tensor]:
        """The tensors that are averaged as they are trained, also while the averages are in their place."""
        return [self._exchange.weight(index) for index in range(len(self._values))]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the model themselves, whatever they hold at present."""
        return list(self._weights.values())

    def update(self, steps: int = 1) -> None:
        """Count real optimiser steps, and take in the weights if an update is due after them.

        Args:
            steps: How many steps were made since the last call.

        Raises:
            SolverError: The averages are in the place of the weights, or a tensor has another shape now.
        """
        if self._exchange.swapped:
            do = "leave swapped_in(), or call swap() once more, before training goes on"
            raise SolverError(self.where, "the averages are in the place of the weights", do=do)
        share = self._shares.take(self.count, steps)
        if share == 0.0:
            return
        if not self.begun and self.average.before == "follow" and self.average.first == "copy":
            self._stale = True  # copied when somebody looks
            return
        self._stale = False
        self.latest_share = share if self.count.updates > 1 or self.average.first == "blend" else None
        self._move(share)

    def conclude(self) -> None:
        """Take in the weights at the end of training, where the average is of them too and the run ended early."""
        share = self._shares.conclude(self.count)
        if share:
            self._stale = False
            self.latest_share = share
            self._move(share)

    def settle(self) -> None:
        """Wait until the weights may be changed again; needed on a GPU with ``device="cpu"`` only.

        :meth:`update` has begun to copy the weights there. Before the next optimiser step it has to be through: the
        GPU waits for it, the program does not.
        """
        if self._offload is not None:
            self._offload.settle()

    def lay(self, run: RunLength) -> None:
        """Go on in a run of another length.

        Args:
            run: The length of the run.
        """
        self._shares = self.average.lay(run, self.where)
        if self._shares.begin(self.count):
            self._move(1.0)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Average further tensors from here on, such as those that were frozen so far: their average is what they are.

        Args:
            tensors: The tensors by name.
        """
        if not tensors:
            return
        if self._exchange.swapped:
            raise SolverError(self.where, "the averages are in the place of the weights", do="call swap() first")
        known = [name for name in tensors if name in self._weights]
        if known:
            raise SolverError(self.where, "is averaged already", got=", ".join(known), do="add each tensor once")
        self._take_in(tensors)

    def drop(self, names: Sequence[str]) -> None:
        """Average some tensors no longer.

        Args:
            names: Their names.
        """
        if not names or self.swapped:
            return
        left = [(name, value) for name, value in zip(self.names, self._values) if name not in names]
        self._weights = {name: self._weights[name] for name, _ in left}
        self._values = [value for _, value in left]
        self._pair_up()

    def rebind(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with other tensors in the place of those of the same names, which nobody uses any more.

        Args:
            tensors: Tensors by name; those of other names, and the same ones, change nothing.
        """
        new = {n: t for n, t in tensors.items() if n in self._weights and t is not self._weights[n]}
        if not new or self.swapped:
            return
        self._weights.update(new)
        self._pair_up()

    # ------------------------------------------------------------------ changing places

    def swap(self) -> None:
        """Put the averages into the place of the weights, or the weights back.

        Raises:
            SolverError: A tensor has another shape now.
        """
        self._refresh()
        if [part.shape for part in self._locals] != self._shapes:
            self._refuse_shapes()
        self._exchange.swap()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The averages are in the place of the weights for a while, whatever happens in it; also within itself."""
        before = self.swapped
        try:
            if not before:
                self.swap()
            yield
        finally:
            if self.swapped != before:
                self.swap()

    def restart(self) -> None:
        """Begin anew from what the tensors hold, which is the weights from here on."""
        self._exchange.forget()
        self.count, self._stale = Count(), False
        self._move(1.0)
        self._shares.begin(self.count)

    def begin_late(self, steps: int) -> None:
        """Go on after steps that the average has not seen: it begins with the present weights if it is time.

        Args:
            steps: Real optimiser steps so far.
        """
        self.restart()
        self.count = Count(steps=steps, latest=steps)
        self._shares.begin(self.count)

    def to_devices(self) -> None:
        """Bring what is kept to where the tensors are now."""
        self._finish()
        for index, tensor in enumerate(self._weights.values()):
            part = local(tensor.detach())
            if self._offload is None and self._values[index].device != part.device:
                self._values[index].data = self._values[index].data.to(part.device)
        self._exchange.to_devices()
        self._sort()

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """How far the average has come, and its values by name; shares memory with them."""
        return {"count": asdict(self.count), "values": dict(zip(self.names, self.values))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            SolverError: The state is of other tensors.
        """
        try:
            values, count = state["values"], Count(**state["count"])
        except (KeyError, TypeError) as error:
            do = "pass what state_dict() gave"
            raise SolverError(self.where, "is not the state of an average", got=str(error), do=do) from error
        self.load_values(values)
        self.count = count

    def load_values(self, values: Mapping[str, Tensor]) -> None:
        """Take averages by name.

        Args:
            values: Name -> average; whole, or the part of this process.

        Raises:
            SolverError: A name is missing, or of another shape.
        """
        own = dict(zip(self.names, self.values))
        for name, value in own.items():
            if name not in values:
                what = "the saved average lacks a tensor that is averaged now"
                do = "resume with the same only, leave_out and buffers, or without the average"
                raise SolverError(f"{self.where}: {name}", what, got=f"{len(values)} tensors", do=do)
            if values[name].shape != value.shape:
                got = f"{tuple(values[name].shape)} there, {tuple(value.shape)} here"
                do = "resume the model that it was saved from"
                raise SolverError(f"{self.where}: {name}", "the saved average has another shape", got=got, do=do)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(values[name])
        self._stale = False

    # ------------------------------------------------------------------ not for users

    def _take_in(self, tensors: Mapping[str, Tensor]) -> None:
        self._weights.update(tensors)
        with torch.inference_mode(False), torch.no_grad():
            for tensor in tensors.values():
                self._values.append(self._copy(local(tensor.detach())))
        self._pair_up()

    def _pair_up(self) -> None:
        """Put each tensor and its average together."""
        self._finish()
        in_place = self.average.swap == "copy"
        self._exchange = Exchange(list(self._weights.values()), self._values, in_place=in_place)
        self._sort()

    def _copy(self, tensor: Tensor) -> Tensor:
        """The memory of the average of a tensor, with its values in it."""
        dtype = average_dtype(tensor, self.average)
        device = "cpu" if self.average.device == "cpu" else tensor.device
        return torch.empty_like(tensor, dtype=dtype, device=device, requires_grad=False).copy_(tensor)

    def _sort(self) -> None:
        """Sort the tensors by how they are averaged."""
        with torch.no_grad():
            self._locals = [local(tensor) for tensor in self._weights.values()]
        self._shapes = [value.shape for value in self._values]
        pairs = list(zip(self._values, self._locals))
        moving = [pair for pair in pairs if pair[0].is_floating_point() or pair[0].is_complex()]
        self._counts = [pair for pair in pairs if not (pair[0].is_floating_point() or pair[0].is_complex())]
        apart = [pair for pair in moving if pair[0].device != pair[1].device]
        beside = [pair for pair in moving if pair[0].device == pair[1].device]
        self._offload = Offload([v for v, _ in apart], [t for _, t in apart]) if apart else None
        alike = [pair for pair in beside if pair[0].dtype == pair[1].dtype]
        self._same = Pairs([v for v, _ in alike], [t for _, t in alike])
        known = {id(value) for value in self._same.fused}  # of which the memory is looked at
        looked_at = [pair for pair in pairs if id(pair[0]) not in known]
        self._looked_at, self._sizes = [part for _, part in looked_at], [value.numel() for value, _ in looked_at]
        self._mixed = list(_chunks([pair for pair in beside if pair[0].dtype != pair[1].dtype]))

    def _refresh(self) -> None:
        if self._stale:
            self._move(1.0)
            self._stale = False
        self._finish()

    def _finish(self) -> None:
        """Wait for averages that are being moved."""
        if self._offload is not None:
            self._offload.finish()

    def _move(self, share: float) -> None:
        """Move the averages towards the weights."""
        if self._same.moved():
            self._sort()
        if list(map(Tensor.numel, self._looked_at)) != self._sizes:  # cheap; a shape that broadcasts would go unseen
            self._refuse_shapes()
        try:
            self._move_now(share)
        except RuntimeError:
            self._refuse_shapes()
            raise

    def _refuse_shapes(self) -> None:
        for name, value, part in zip(self._weights, self._values, self._locals):
            if value.shape != part.shape:
                what = "has another shape than when its average was made"
                got = f"{tuple(part.shape)} now, {tuple(value.shape)} then"
                do = "make the average after the model has its shape"
                raise SolverError(f"{self.where}: {name}", what, got=got, do=do)

    @torch.no_grad()
    def _move_now(self, share: float) -> None:
        if self._offload is not None:
            self._offload.move(share)
        if share == 1.0:
            self._same.copy()
            for value, weight in (*(pair for chunk in self._mixed for pair in chunk), *self._counts):
                value.copy_(weight)
            return
        self._same.move(share)
        for chunk in self._mixed:
            torch._foreach_lerp_([v for v, _ in chunk], [w.to(v.dtype) for v, w in chunk], share)
        for value, weight in self._counts:
            value.copy_(weight)


def average_dtype(tensor: Tensor, average: Average) -> torch.dtype:
    """The type of the average of a tensor.

    Args:
        tensor: The tensor.
        average: The average.
    """
    wide = average.dtype == "float32" or (average.dtype == "auto" and tensor.dtype in _HALF)
    return torch.float32 if wide and tensor.is_floating_point() else tensor.dtype


def _chunks(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Pairs in lists of some 64 MB each, that few of them are converted at a time."""
    chunk: list[tuple[Tensor, Tensor]] = []
    numbers = 0
    for pair in pairs:
        if chunk and numbers + pair[0].numel() > _CHUNK:
            yield chunk
            chunk, numbers = [], 0
        chunk.append(pair)
        numbers += pair[0].numel()
    if chunk:
        yield chunk
