"""What the facts tell of: the length of the run, and the learning rates of its groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.interop.base import Facts


@dataclass(frozen=True)
class Run:
    """The run that the facts tell of: its epochs, its steps, and the steps of an epoch."""

    epochs: Fraction | None
    steps: Fraction | None
    per_epoch: int | None

    @classmethod
    def of(cls, facts: Facts, accumulated: Any = None) -> Run:
        """What the facts say; the script accumulates so many batches into a step."""
        given = [facts.get(name) for name in ("epochs", "total_iters", "iters_per_epoch")]
        epochs, steps, batches = (None if number is None else exact(number) for number in given)
        if batches is None:
            return cls(epochs, steps, None)
        exactly = batches / exact(facts.get("batches_per_step") or accumulated or 1)
        whole = math.ceil(exactly)  # a step is made at the end of the epoch, whatever number of batches are left
        if steps is None:
            steps = None if epochs is None else epochs * whole
        elif epochs is None or steps not in (epochs * exactly, epochs * whole):
            epochs = steps / exactly
        return cls(epochs, steps, whole)


def base_rates(facts: Facts) -> list[float] | None:
    """The learning rates of the groups, where they are known."""
    given = facts.get("base_lr")
    return None if given is None else [float(x) for x in (given if isinstance(given, (list, tuple)) else [given])]
