"""Puts averages into the place of the weights and takes them out again, without copying where that is right.

Two tensors exchange their memory where both own all of it. Where something else looks at the memory itself (the
all-gather of FSDP2, the flat weights of a recurrent layer, a captured graph) the numbers are exchanged in place, by way
of one tensor at a time. Where average and weights differ in type, the weights are set aside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_solver.sharding import is_sharded, local


class Exchange:
    """Weights and their averages, which can change places.

    Args:
        weights: The tensors of the model.
        averages: Their averages, each of the shape of the local part of its weights.
        in_place: Whether memory is never exchanged.

    Attributes:
        swapped: Whether the averages are in the place of the weights.
    """

    def __init__(self, weights: Sequence[Tensor], averages: Sequence[Tensor], *, in_place: bool = False) -> None:
        self.swapped = False
        self._weights, self._averages = list(weights), list(averages)
        self._in_place = in_place
        self._aside: dict[int, Tensor] = {}
        self.sort()

    def sort(self) -> None:
        """Find out anew how each pair can change places, after tensors were moved to other devices."""
        pairs = list(enumerate(zip(self._weights, self._averages)))
        self._rounded = [i for i, (weight, average) in pairs if weight.dtype != average.dtype]
        rest = [(i, pair) for i, pair in pairs if pair[0].dtype == pair[1].dtype]
        self._free = [i for i, pair in rest if not self._in_place and may_exchange(*pair)]
        free = set(self._free)
        self._copied = [i for i, _ in rest if i not in free]
        self._aside = {i: aside.to(self._weights[i].device) for i, aside in self._aside.items()}

    def swap(self) -> None:
        """Exchange the two; what was done is undone if it is interrupted."""
        was = self.swapped
        with torch.inference_mode(False), torch.no_grad():
            here = [self._weights[i].data for i in self._free]
            there = [self._averages[i].data for i in self._free]
            copied: dict[int, tuple[Tensor | None, bool]] = {}
            aside = dict(self._aside)
            try:
                for i, old, new in zip(self._free, here, there):
                    self._weights[i].data = new
                    self._averages[i].data = old
                for i in self._copied:
                    self._swap_copied(i, copied)
                for i in self._rounded:
                    self._swap_rounded(i)
                self.swapped = not was
            except BaseException:
                self.swapped = was
                for i, old, new in zip(self._free, here, there):
                    self._weights[i].data = old
                    self._averages[i].data = new
                for i, (kept, crossed) in copied.items():
                    weights = self._averages[i].clone() if kept is None else kept
                    if crossed:
                        self._averages[i].copy_(local(self._weights[i]))
                    local(self._weights[i]).copy_(weights)
                for i in self._rounded:
                    if i in aside:
                        self._aside[i] = aside[i]
                        local(self._weights[i]).copy_(self._averages[i])
                    elif i in self._aside:
                        local(self._weights[i]).copy_(self._aside[i])
                        del self._aside[i]
                raise

    def forget(self) -> None:
        """Take what the model holds as the weights, whatever it was."""
        self.swapped = False
        self._aside = {}

    def average(self, index: int) -> Tensor:
        """The local part of an average, wherever it is at present; detached, sharing memory."""
        if self.swapped and index not in self._aside:
            return local(self._weights[index].detach())
        return self._averages[index]

    def weight(self, index: int) -> Tensor:
        """The local part of the trained weights, wherever they are at present; detached, sharing memory."""
        if not self.swapped:
            return local(self._weights[index].detach())
        return self._aside.get(index, self._averages[index])

    def _swap_copied(self, index: int, copied: dict[int, tuple[Tensor | None, bool]]) -> None:
        """Exchange the numbers, noting at each moment where they are: weights aside, average crossed or not."""
        weight, weights = local(self._weights[index]), local(self._weights[index]).clone()
        copied[index] = (weights, False)
        weight.copy_(self._averages[index])
        copied[index] = (weights, True)
        self._averages[index].copy_(weights)
        copied[index] = (None, True)

    def _swap_rounded(self, index: int) -> None:
        """Set the weights aside and round the average into their place, or bring them back."""
        weight, average = local(self._weights[index]), self._averages[index]
        if index in self._aside:
            # what was written to the model meanwhile is the average's, such as statistics that were estimated anew
            written = weight != average.to(weight.dtype)
            average.copy_(torch.where(written, weight.to(average.dtype), average))
            weight.copy_(self._aside[index])
            del self._aside[index]
        else:
            self._aside[index] = weight.clone()
            weight.copy_(average)


def may_exchange(weight: Tensor, average: Tensor) -> bool:
    """Whether two tensors can exchange their memory without anybody taking notice.

    Args:
        weight: A tensor of the model.
        average: Its average.
    """
    if is_sharded(weight) or type(weight) not in (Tensor, nn.Parameter, nn.Buffer):
        return False
    if weight.device != average.device or weight.stride() != average.stride():
        return False
    return all(_owns_memory(tensor) for tensor in (weight, average))


def _owns_memory(tensor: Tensor) -> bool:
    """Whether nothing but this tensor lies in its memory, as far as can be seen."""
    return tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
