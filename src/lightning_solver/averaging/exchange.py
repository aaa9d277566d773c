"""Puts averages into the place of the weights and takes them out again, without copying where that is right.

Where both own all of their memory, the average lends the model its own. Where something else looks at the memory (the
all-gather of FSDP2, the flat weights of a recurrent layer, a captured graph) the numbers are exchanged in place, by way
of one tensor at a time. Where average and weights differ in type, the weights are set aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

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
        self._aside: dict[int, Tensor] = {}  # the weights that are neither in the model nor in the averages
        self._sorted = True
        self._sort()

    def to_devices(self) -> None:
        """Bring the weights that are set aside to where the model is, after it was moved."""
        self._aside = {i: aside.to(self._weights[i].device) for i, aside in self._aside.items()}
        self._sorted = False
        if not self.swapped:
            self._sort()

    def swap(self) -> None:
        """Exchange the two; what was done is undone if it is interrupted."""
        with torch.inference_mode(False), torch.no_grad():
            if self.swapped:
                self._put_back()
            else:
                self._put_in()

    def forget(self) -> None:
        """Take what the model holds as the weights, whatever it was."""
        for i in self._free if self.swapped else ():
            self._averages[i].data = self._aside[i]  # it has lent the model its memory
        self.swapped = False
        self._aside = {}
        self._sort()

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

    # ------------------------------------------------------------------ not for users

    def _sort(self) -> None:
        """Find out how each pair can change places."""
        self._sorted = True
        pairs = list(enumerate(zip(self._weights, self._averages)))
        self._rounded = [i for i, (weight, average) in pairs if weight.dtype != average.dtype]
        rest = [(i, pair) for i, pair in pairs if pair[0].dtype == pair[1].dtype]
        places = [_place(weight) for weight in self._weights]
        alone = {place for place, number in Counter(places).items() if number == 1}
        self._free = [i for i, pair in rest if not self._in_place and places[i] in alone and may_exchange(*pair)]
        free = set(self._free)
        copied: dict[Hashable, list[int]] = {}
        for i, _ in rest:
            if i not in free:
                copied.setdefault(places[i], []).append(i)
        self._copied = list(copied.values())  # tensors in the same memory change places together

    def _put_in(self) -> None:
        """The averages lend the model their memory; that of the weights is set aside."""
        weights, averages = self._weights, self._averages
        aside = {i: weights[i].data for i in self._free}
        copied: dict[int, tuple[Tensor | None, bool]] = {}
        try:
            for i in self._free:
                weights[i].data = averages[i]
            for group in self._copied:
                self._swap_copied(group, copied)
            for i in self._rounded:
                aside[i] = local(weights[i]).clone()
            for i in self._rounded:
                local(weights[i]).copy_(averages[i])
            self._aside, self.swapped = aside, True
        except BaseException:
            self._aside, self.swapped = {}, False
            for i in self._free:
                weights[i].data = aside[i]
            self._uncopy(copied)
            for i in self._rounded:
                if i in aside:
                    local(weights[i]).copy_(aside[i])
            raise

    def _put_back(self) -> None:
        """The weights come back; what was written to the model meanwhile is the averages'."""
        weights, averages, aside = self._weights, self._averages, self._aside
        lent = [weights[i].data for i in self._free]
        copied: dict[int, tuple[Tensor | None, bool]] = {}
        try:
            for i in self._free:
                if weights[i].data_ptr() != averages[i].data_ptr():  # the model was moved
                    averages[i].copy_(weights[i])
                weights[i].data = aside[i]
            for group in self._copied:
                self._swap_copied(group, copied)
            for i in self._rounded:
                self._keep_written(local(weights[i]), averages[i])
            for i in self._rounded:
                local(weights[i]).copy_(aside[i])
            self._aside, self.swapped = {}, False
        except BaseException:
            self._aside, self.swapped = aside, True
            for i, data in zip(self._free, lent):
                weights[i].data = data
            self._uncopy(copied)
            for i in self._rounded:
                local(weights[i]).copy_(averages[i])
            raise
        if not self._sorted:  # the model was moved meanwhile
            self._sort()

    def _swap_copied(self, group: list[int], copied: dict[int, tuple[Tensor | None, bool]]) -> None:
        """Exchange the numbers, noting at each moment where they are: weights aside, average crossed or not."""
        kept = {i: local(self._weights[i]).clone() for i in group}
        copied.update((i, (kept[i], False)) for i in group)
        for i in group:
            local(self._weights[i]).copy_(self._averages[i])
        for i in group:
            copied[i] = (kept[i], True)
            self._averages[i].copy_(kept[i])
            copied[i] = (None, True)

    def _uncopy(self, copied: dict[int, tuple[Tensor | None, bool]]) -> None:
        weights = {i: self._averages[i].clone() if kept is None else kept for i, (kept, _) in copied.items()}
        for i, (_, crossed) in copied.items():
            if crossed:
                self._averages[i].copy_(local(self._weights[i]))
        for i, kept in weights.items():
            local(self._weights[i]).copy_(kept)

    def _keep_written(self, weight: Tensor, average: Tensor) -> None:
        """Take over numbers of a rounded average that were written meanwhile, such as statistics estimated anew."""
        written = weight != average.to(weight.dtype)
        average.copy_(torch.where(written, weight.to(average.dtype), average))


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


def _place(tensor: Tensor) -> Hashable:
    """What tensors in the same memory have in common."""
    part = local(tensor.detach())
    return part.untyped_storage().data_ptr() or id(tensor)


def _owns_memory(tensor: Tensor) -> bool:
    """Whether nothing but this tensor lies in its memory, as far as can be seen."""
    return tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
