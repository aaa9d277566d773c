"""What is measured of optimisers, weights and batches. Only torch; nothing waits for a device unless it says so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_solver.clipping.norms import Gradients, by_device, joint_norm, tensor_norms
from lightning_solver.monitoring.series import group_names

OPTIONS = ("lr", "momentum", "weight_decay")


class Options:
    """The options of the parameter groups of an optimiser.

    Args:
        optimizer: The optimiser.
        prefix: What goes before the names of groups: the name of the optimiser where there are several.
        wanted: Which of learning rate, momentum and weight decay are looked at.
        most: With how many groups each has series of its own; with more there are the least and the greatest value,
            and that of the group with the most weights.

    Attributes:
        names: The names of the groups.
        largest: The number of the group with the most weights.
    """

    def __init__(
        self, optimizer: Optimizer, *, prefix: str = "", wanted: Sequence[str] = OPTIONS, most: int = 8
    ) -> None:
        self._optimizer, self._prefix, self._most = optimizer, prefix, most
        groups = optimizer.param_groups
        self.names = group_names(optimizer)
        self._plain = all(isinstance(_read(g, place), (int, float)) for g in groups for place in _places(g).values())
        self._places: list[tuple[str, list[int], Callable[[Sequence[Mapping[str, Any]]], list[Any]]]] = []
        for option in OPTIONS:
            places = {index: found[option] for index, g in enumerate(groups) if option in (found := _places(g))}
            if option in wanted and places:
                self._places.append((option, [*places], _reader(places, len(groups))))
        sizes = [sum(tensor.numel() for tensor in group["params"]) for group in groups]
        self.largest = sizes.index(max(sizes)) if sizes else 0

    @property
    def stale(self) -> bool:
        """Whether the optimiser has other groups than when it was looked at."""
        return len(self._optimizer.param_groups) != len(self.names)

    def read(self) -> list[list[Any]]:
        """The present values, option by option and group by group; nothing is waited for."""
        groups = self._optimizer.param_groups
        found = [read(groups) for _, _, read in self._places]
        if self._plain:
            return found
        return [[v.detach().clone() if isinstance(v, Tensor) else v for v in values] for values in found]

    def rates(self, values: Sequence[list[Any]]) -> list[Any]:
        """The learning rates among values, by group.

        Args:
            values: What :meth:`read` gave.
        """
        return values[0] if self._places and self._places[0][0] == "lr" else []

    def named(self, values: Sequence[list[Any]]) -> dict[str, Any]:
        """Values by the names of their series.

        Args:
            values: What :meth:`read` gave.
        """
        found: dict[str, Any] = {}
        for (option, indices, _), own in zip(self._places, values):
            found |= self.by_group(option, indices, own)
        return found

    def main(self, values: Sequence[list[Any]]) -> dict[str, Any]:
        """Option -> its value in the group with the most weights.

        Args:
            values: What :meth:`read` gave.
        """
        found = {}
        for (option, indices, _), own in zip(self._places, values):
            if self.largest in indices:
                found[option] = own[indices.index(self.largest)]
        return found

    def by_group(
        self, series: str, indices: Sequence[int], values: Sequence[Any], *, beside_total: bool = False
    ) -> dict[str, Any]:
        """Values of groups by the names of their series; a summary where there are too many groups.

        Args:
            series: The name of the series.
            indices: The numbers of the groups.
            values: A value for each of them.
            beside_total: Whether the bare name is that of a value of all groups together.
        """
        head = f"{series}/{self._prefix}" if self._prefix else series
        if len(self.names) == 1:
            return {} if beside_total else {head: values[0]}
        if len(self.names) <= self._most:
            return {f"{head}/{self.names[index]}": value for index, value in zip(indices, values)}
        found = {f"{head}/min": _extreme(torch.min, min, values), f"{head}/max": _extreme(torch.max, max, values)}
        if self.largest in indices and not beside_total:
            found = {head: values[list(indices).index(self.largest)], **found}
        return found


def _extreme(of_tensor: Callable[[Tensor], Tensor], of_numbers: Callable[..., Any], values: Sequence[Any]) -> Any:
    """The least or the greatest of some values; of tensors, on whose device nobody waits for it, a tensor."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return of_numbers(values)
    device = tensors[0].device
    alike = [torch.as_tensor(value, dtype=torch.float32).detach().reshape(()).to(device) for value in values]
    return of_tensor(torch.stack(alike))


def _places(group: Mapping[str, Any]) -> dict[str, tuple[str, int | None]]:
    """Option -> the key of a group that holds it, and the place in its value."""
    found: dict[str, tuple[str, int | None]] = {name: (name, None) for name in OPTIONS if group.get(name) is not None}
    if "momentum" not in found and isinstance(group.get("betas"), (tuple, list)):
        found["momentum"] = ("betas", 0)
    return found


def _read(group: Mapping[str, Any], place: tuple[str, int | None]) -> Any:
    key, at = place
    return group[key] if at is None else group[key][at]


def _reader(places: Mapping[int, tuple[str, int | None]], groups: int) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
    """What reads an option of all groups that have it; read at every step, so that one loop has to do."""
    kinds = set(places.values())
    if len(kinds) == 1 and len(places) == groups:
        ((key, at),) = kinds
        if at is None:
            return lambda given: [group[key] for group in given]
        return lambda given: [group[key][at] for group in given]
    listed = [*places.items()]
    return lambda given: [_read(given[index], place) for index, place in listed]


def changed_rates(before: Sequence[float], after: Sequence[float], factor: float) -> list[int]:
    """The groups whose learning rate has changed by more than a factor.

    As in Pet and Detectron: up or down, and not where the new one is 1e-7 or less.

    Args:
        before: The learning rates of a step.
        after: Those of the next one.
        factor: The factor.

    Example:
        >>> changed_rates([0.1, 0.1, 0.1], [0.1, 0.01, 0.095], 1.1)
        [1]
    """
    found = []
    for index, (old, new) in enumerate(zip(before, after)):
        if old != new and new > 1e-7 and max(new / max(old, 1e-10), old / new) > factor:
            found.append(index)
    return found


class Norms:
    """The norms of the gradients of an optimiser.

    Args:
        optimizer: The optimiser.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        groups = [group["params"] for group in optimizer.param_groups]
        self._all = Gradients([tensor for group in groups for tensor in group])
        self._groups = [Gradients(group) for group in groups]

    @torch.no_grad()
    def total(self) -> Tensor:
        """The norm of all; a collective call where they are sharded."""
        return self._all.norm()

    @torch.no_grad()
    def by_group(self, order: float = 2.0) -> list[Tensor]:
        """The norm of each group; a collective call where they are sharded.

        Args:
            order: The order of the norms.
        """
        return [group.norm(order) for group in self._groups]


class Update:
    """What one step changes. It copies the weights when it is made, and forgets them when it is asked.

    Args:
        optimizer: The optimiser that is about to make the step.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._weights = [[*group["params"]] for group in optimizer.param_groups]
        self._before = [[tensor.detach().clone() for tensor in group] for group in self._weights]

    @torch.no_grad()
    def ratios(self) -> tuple[Tensor, list[Tensor]]:
        """The norm of the change over that of the weights before it, of all and by group; once, after the step.

        A collective call where weights are sharded.
        """
        changes, weights = [], []
        for now, before in zip(self._weights, self._before):
            weights.append(_norm(before))
            changes.append(_norm([one.detach() - other for one, other in zip(now, before)]))
        self._weights, self._before = [], []
        groups = [change / weight.to(change.device) for change, weight in zip(changes, weights)]
        change = joint_norm(changes, 2.0)
        return change / joint_norm(weights, 2.0).to(change.device), groups


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    parts = [tensor_norms(own, 2.0) for own in by_device(tensors)]
    return joint_norm(parts, 2.0) if parts else torch.zeros(())


class Mean:
    """A mean of tensors that nobody has waited for."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, value: Tensor) -> None:
        """Take in a value.

        Args:
            value: A tensor of one number.
        """
        self._total = value if self._total is None else self._total + value
        self._count += 1

    def take(self) -> Tensor | None:
        """The mean of what was taken in since the last call; ``None`` if there was nothing."""
        total, count = self._total, self._count
        self._total, self._count = None, 0
        return None if total is None else total / count


class Clock:
    """Seconds that batches take, and that pass between them while the loop waits for data."""

    def __init__(self) -> None:
        self._mark: float | None = None
        self._data = self._batches = 0.0

    def wait(self) -> None:
        """From here on the next batch is waited for."""
        self._mark = time.perf_counter()

    def begin(self) -> None:
        """The batch is there."""
        now = time.perf_counter()
        if self._mark is not None:
            self._data += now - self._mark
        self._mark = now

    def end(self) -> None:
        """The batch is done; the next one is waited for."""
        now = time.perf_counter()
        if self._mark is not None:
            self._batches += now - self._mark
        self._mark = now

    def pause(self) -> None:
        """Something else is done for a while, until :meth:`wait`."""
        if self._mark is not None:
            self._data += time.perf_counter() - self._mark
        self._mark = None

    def take(self, steps: int) -> dict[str, float]:
        """Seconds per step since the last call, and how many of them were waited for data.

        Args:
            steps: How many steps there were.
        """
        data, batches = self._data, self._batches
        self._data = self._batches = 0.0
        return {} if steps < 1 else {"time/step": (data + batches) / steps, "time/data": data / steps}


def samples_in(batch: Any) -> float:
    """How many samples a batch has: the length of the first tensor in it; NaN where there is none.

    A list of mappings is one of samples, as detectors have it.

    Args:
        batch: A tensor, or mappings, lists and tuples of them.

    Example:
        >>> samples_in({"image": torch.zeros(4, 3, 2, 2), "label": torch.zeros(4)})
        4.0
    """
    if isinstance(batch, Tensor):
        return float(batch.shape[0]) if batch.ndim else math.nan
    if isinstance(batch, Mapping):
        batch = batch.values()
    elif not isinstance(batch, (list, tuple)):
        return math.nan
    elif batch and isinstance(batch[0], Mapping):
        return float(len(batch))
    for part in islice(batch, 8):
        found = samples_in(part)
        if not math.isnan(found):
            return found
    return math.nan
