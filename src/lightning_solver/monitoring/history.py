"""What series were: their latest values one by one, and the mean of all, in metrics of torchmetrics."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torchmetrics.aggregation import CatMetric, MeanMetric

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.monitoring.series import check_name

KEPT = 500
"""Values of a series that are kept one by one, unless told otherwise."""
_AT_ONCE = 1000  # values that wait to be taken into a metric, or on their device


class History:
    """The values of a series. All but the latest of them are dropped, yet count in :attr:`global_mean`.

    Values that are not finite are in :attr:`values` and in :attr:`count`; means and medians leave them out.

    Args:
        kept: How many values are kept one by one.

    Example:
        >>> history = History()
        >>> for step, value in enumerate([1.0, 2.0, 6.0]):
        ...     history.add(step, value)
        >>> history.latest, history.mean(2), history.median(3), history.global_mean
        (6.0, 4.0, 2.0, 3.0)
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._values: deque[tuple[int, float]] = deque(maxlen=kept)
        self._count = 0
        self._mean = _mean()
        self._waiting: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add a value.

        Args:
            step: The step that it is of, as the logger has it.
            value: The value.
        """
        self._values.append((step, value))
        self._count += 1
        if math.isfinite(value):
            self._waiting.append(value)
            if len(self._waiting) >= _AT_ONCE:
                self._take_in()

    @property
    def latest(self) -> float:
        """The latest value."""
        return self._values[-1][1]

    @property
    def count(self) -> int:
        """How many values there were, those that are dropped by now included."""
        return self._count

    @property
    def values(self) -> list[tuple[int, float]]:
        """The latest values with their steps, oldest first."""
        return list(self._values)

    def mean(self, window: int) -> float:
        """The mean of the latest values.

        Args:
            window: How many; of those that are kept if there are fewer.
        """
        return _result(_mean(), self._finite(window))

    def median(self, window: int) -> float:
        """The median of the latest values; between the two in the middle where their number is even.

        Args:
            window: How many; of those that are kept if there are fewer.
        """
        values = self._finite(window)
        return float(torch.tensor(values, dtype=torch.float64).quantile(0.5)) if values else math.nan

    @property
    def global_mean(self) -> float:
        """The mean of all values that there were."""
        metric = self.mean_metric
        return float(metric.compute()) if float(metric.weight) > 0 else math.nan

    @property
    def mean_metric(self) -> MeanMetric:
        """The mean of all values as a metric of torchmetrics, up to date; not to be updated by others."""
        self._take_in()
        return self._mean

    @property
    def recent_metric(self) -> CatMetric:
        """The values that are kept as a metric of torchmetrics, made anew."""
        metric = CatMetric(nan_strategy="ignore").set_dtype(torch.float64)
        metric.update(torch.tensor([value for _, value in self._values], dtype=torch.float64))
        assert isinstance(metric, CatMetric)
        return metric

    def state_dict(self) -> dict[str, Any]:
        """The history as tensors and plain numbers."""
        metric = self.mean_metric
        return {
            "count": self._count,
            "mean": self.global_mean,
            "weight": float(metric.weight),
            "steps": torch.tensor([step for step, _ in self._values], dtype=torch.int64),
            "values": torch.tensor([value for _, value in self._values], dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Args:
            state: It.
        """
        self._values.clear()
        self._values.extend(zip(state["steps"].tolist(), state["values"].tolist()))
        self._count, self._mean, self._waiting = int(state["count"]), _mean(), []
        if state["weight"]:
            self._mean.update(torch.tensor(state["mean"], dtype=torch.float64), state["weight"])

    def _finite(self, window: int) -> list[float]:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise SolverError("window", "must be a whole number >= 1", got=repr(window), do="give a number of values")
        begin = max(len(self._values) - window, 0)
        return [value for _, value in islice(self._values, begin, None) if math.isfinite(value)]

    def _take_in(self) -> None:
        """A metric is updated by many values at once: each call costs as much as hundreds of them."""
        if self._waiting:
            self._mean.update(torch.tensor(self._waiting, dtype=torch.float64))
            self._waiting = []


class Histories(Mapping[str, History]):
    """The histories of all series by name, and the values that users put beside them.

    Args:
        kept: How many values of each series are kept one by one.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._histories: dict[str, History] = {}
        self._put: dict[str, _Put] = {}

    def __getitem__(self, name: str) -> History:
        return self._histories[name]

    def called(self, name: str) -> History:
        """The history of a series, with an error that helps.

        Args:
            name: The name of the series.

        Raises:
            SolverError: Nothing was logged by this name.
        """
        if name not in self._histories:
            do = suggestion(name, self._histories, "series")
            raise SolverError("history", "nothing was logged by this name", got=repr(name), do=do)
        return self._histories[name]

    def __contains__(self, name: object) -> bool:
        return name in self._histories

    def __iter__(self) -> Iterator[str]:
        return iter(self._histories)

    def __len__(self) -> int:
        return len(self._histories)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a value to each of some series.

        Args:
            step: The step that they are of.
            values: Name of a series -> value.
        """
        for name, value in values.items():
            if name not in self._histories:
                self._histories[name] = History(self._kept)
            self._histories[name].add(step, value)

    def put(self, step: int, name: str, value: float | Tensor, *, smooth: bool = True) -> None:
        """Take a value of the user's own. A tensor is not waited for.

        Args:
            step: The step that it is of.
            name: The name of the series.
            value: A number, or a tensor of one.
            smooth: Whether the mean since the last time is what is logged, or the latest value.

        Raises:
            SolverError: A name that not every logger takes or that is taken, or something that is no number.
        """
        own = self._put.get(name)
        if own is None:
            own = self._put[check_name(name, "put")] = _Put()
        own.smooth = smooth
        if isinstance(value, Tensor) and value.numel() == 1:
            # A copy, because the tensor may be written to before it is looked at.
            own.waiting.append((step, value.detach().reshape(()).clone()))
        elif isinstance(value, (int, float)):
            own.waiting.append((step, float(value)))
        else:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise SolverError(f"put: {name}", "is no number", got=got, do="give a number, or a tensor of one")
        if len(own.waiting) >= _AT_ONCE:
            self._look_at(name, own)

    def take(self) -> dict[str, float]:
        """What users have put since the last call, as it is to be logged; now it is waited for."""
        found = {}
        for name, own in self._put.items():
            self._look_at(name, own)
            if own.seen:
                mean = own.total / own.finite if own.finite else math.nan
                found[name] = mean if own.smooth else self._histories[name].latest
                own.total, own.finite, own.seen = 0.0, 0, 0
        return found

    def state_dict(self) -> dict[str, Any]:
        """All histories, as tensors and plain numbers."""
        for name, own in self._put.items():
            self._look_at(name, own)
        return {name: history.state_dict() for name, history in self._histories.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Args:
            state: It.
        """
        self._histories, self._put = {}, {}
        for name, own in state.items():
            self._histories[name] = History(self._kept)
            self._histories[name].load_state_dict(own)

    def _look_at(self, name: str, own: _Put) -> None:
        steps = [step for step, _ in own.waiting]
        values = to_floats([value for _, value in own.waiting])
        own.waiting = []
        for step, value in zip(steps, values):
            self.add(step, {name: value})
            own.seen += 1
            if math.isfinite(value):
                own.total += value
                own.finite += 1


class _Put:
    """Values of a user's series that were not logged yet: those not looked at, and the sum of the others."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, float | Tensor]] = []
        self.smooth = True
        self.total, self.finite, self.seen = 0.0, 0, 0


def to_floats(values: list[float | Tensor]) -> list[float]:
    """Numbers from numbers and tensors of one; for all tensors of a device it is waited once.

    Args:
        values: Any of them.
    """
    found: list[float] = [0.0 if isinstance(value, Tensor) else float(value) for value in values]
    by_device: dict[torch.device, list[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(index)
    for device, indices in by_device.items():
        own: list[Any] = [values[index] for index in indices]
        if device.type == "cpu":
            numbers = [float(value) for value in own]
        else:
            numbers = torch.stack([value.detach().reshape(()).float() for value in own]).tolist()
        for index, number in zip(indices, numbers):
            found[index] = number
    return found


def _mean() -> MeanMetric:
    metric = MeanMetric(nan_strategy="ignore").set_dtype(torch.float64)
    assert isinstance(metric, MeanMetric)
    return metric


def _result(metric: MeanMetric, values: list[float]) -> float:
    if not values:
        return math.nan
    metric.update(torch.tensor(values, dtype=torch.float64))
    return float(metric.compute())
