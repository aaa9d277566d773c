"""What an average is made of, found by running it on weights of which each step has a number of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_solver.averaging import Average
from lightning_solver.averaging.averaged import Averaged


class Steps:
    """A run of an average: after step ``i`` the weights are 1 at place ``i`` and 0 elsewhere; place 0 is the start."""

    def __init__(self, average: Average, total: int, **run: Any) -> None:
        self.weights = torch.zeros(total + 1, dtype=torch.float64)
        self.weights[0] = 1.0
        self.averaged: Averaged = average.over([self.weights], total_steps=total, **run)
        self.step = 0

    def go(self, steps: int = 1, at_once: bool = False) -> Steps:
        for _ in range(steps):
            self.step += 1
            self.weights.zero_()[self.step] = 1.0
            if not at_once:
                self.averaged.update()
        if at_once:
            self.averaged.update(steps)
        return self

    def members(self) -> np.ndarray:
        """The part that the weights of each step have in the average at present."""
        return self.averaged.values[0].numpy().copy()


def members(average: Average, total: int, **run: Any) -> np.ndarray:
    """The part that the weights after each step have in the average at the end of a run, float64, (total + 1,)."""
    return Steps(average, total, **run).go(total).members()
