"""What will be averaged in a run, worked out before it starts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_solver.averaging.average import Average, Shares, find_evaluated, globs
from lightning_solver.averaging.averaged import average_dtype
from lightning_solver.averaging.batch_norm import norm_layers
from lightning_solver.averaging.kinds import EMA
from lightning_solver.averaging.tensors import Scope, averaged_tensors
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.optimizers.modes import has_modes


@dataclass(frozen=True)
class PlannedAverage:
    """An average of a plan.

    Args:
        average: What is averaged, and how.
        names: The names of the parameters and buffers that are averaged.
        memory: Bytes of the average over all processes.
        start: The step with whose weights it begins, counted from 1; 0 for those that the run begins with.
        updates: How often it takes in the weights; ``None`` if the length of the run is not known.
        evaluated: Whether it is what is validated, tested and saved.
    """

    average: Average
    names: tuple[str, ...]
    memory: int
    start: int
    updates: int | None
    evaluated: bool


def plan_averages(
    averages: Mapping[str, Average],
    module: nn.Module,
    run: RunLength,
    *,
    scope: Scope,
    optimizers: Iterable[Any],
    notes: list[str],
) -> dict[str, PlannedAverage]:
    """The averages of a plan, by name.

    Args:
        averages: The averages by name.
        module: The module.
        run: The length of the run.
        scope: Which tensors they may be of.
        optimizers: The classes of the optimisers.
        notes: What is odd is added here.

    Raises:
        SolverError: A glob that matches nothing, a duration that the run does not know, or an optimiser that averages
            the weights itself.
    """
    if averages:
        refuse_modes(optimizers, ", ".join(averages))
    evaluated = find_evaluated(averages)
    planned = {}
    for name, average in averages.items():
        where = f"averages.{name}"
        tensors = averaged_tensors(module, average, where, scope)
        shares = average.lay(run, where)
        total = None if run.total_steps is None else int(run.total_steps)
        planned[name] = PlannedAverage(
            average=average,
            names=tuple(tensors),
            memory=sum(tensor.numel() * average_dtype(tensor, average).itemsize for tensor in tensors.values()),
            start=shares.first,
            updates=None if total is None else shares.updates(total),
            evaluated=name == evaluated,
        )
        notes += average_notes(average, module, run, where, evaluated=name == evaluated, shares=shares)
    return planned


def average_notes(
    average: Average, module: nn.Module, run: RunLength, where: str, *, evaluated: bool, shares: Shares | None = None
) -> list[str]:
    """What is odd about an average in a run.

    Args:
        average: The average.
        module: The module.
        run: The length of the run.
        where: The path of the average.
        evaluated: Whether it is the one that is evaluated.
        shares: The average laid over the run, if it has been.
    """
    notes = []
    if average.update_bn and not norm_layers(module):
        notes.append(f"{where}.update_bn: the module has no batch norms whose statistics could be estimated")
    if run.total_steps is None:
        return notes
    shares, total = shares or average.lay(run, where), int(run.total_steps)
    updates, kept = shares.updates(total), ": the trained weights are evaluated and kept" * evaluated
    if updates == 0:
        end = f"until is step {shares.until}" if shares.until is not None else f"the run ends after {total}"
        notes.append(f"{where} begins after step {shares.first}, but {end}{kept}")
    elif updates == 1 and average.first == "copy":
        notes.append(f"{where} takes in the weights only once, after step {shares.first}, and is what they are then")
    else:
        notes += _young(average, run, where, total - shares.start, shares)
    return notes


def _young(average: Average, run: RunLength, where: str, steps: int, shares: Shares) -> list[str]:
    """An exponential average that is longer than the run is mostly what it began with."""
    if not isinstance(average, EMA) or average.warmup is not None:
        return []
    decay = average.resolved(run, where).decay
    assert decay is not None
    every = 1 if average.decay_per == "step" else max(steps, 1) / max(shares.updates(steps), 1)
    rest = decay ** (steps / every)
    if rest > 0.5:
        what = f"remembers some {1 / (1 - decay):,.0f} steps" if decay < 1 else "never takes in anything"
        do = "give it a shorter half_life, or a warmup"
        return [f"{where} {what}: {rest:.0%} of it are the weights that it began with when the run ends; {do}"]
    return []


def refuse_modes(optimizers: Iterable[Any], names: str) -> None:
    """Refuse averages beside optimisers that are evaluated at other weights than they train.

    Args:
        optimizers: The optimisers, or their classes.
        names: The names of the averages.

    Raises:
        SolverError: One of them has modes.
    """
    for optimizer in optimizers:
        if has_modes(optimizer):
            name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
            what = f"{name} averages the weights itself, and is evaluated at that average"
            raise SolverError("averages", what, got=names, do="drop the averages, or take another optimiser")


def scope_of(trained: Iterable[Tensor], only: Any) -> Scope:
    """What the averages of an optimiser may be of: the parameters that it trains, and the buffers beside them.

    Args:
        trained: The parameters.
        only: The globs of its ``only``.
    """
    ours = {id(tensor) for tensor in trained}
    patterns = [re.compile(fnmatch.translate(pattern)) for pattern in globs(only)]

    def owns(name: str, tensor: Tensor) -> bool:
        if isinstance(tensor, torch.nn.Parameter):
            return id(tensor) in ours
        return not patterns or any(pattern.match(name) for pattern in patterns)

    return owns
