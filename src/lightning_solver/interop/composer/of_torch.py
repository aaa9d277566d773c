"""Schedulers of torch, which Composer's trainer takes as well."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import FACTS, Imported
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.optimizer import Optimizer
from lightning_solver.interop.reading import Call


def are_of_torch(calls: Sequence[Call], where: str) -> bool:
    """Whether these are schedulers of torch, which the trainer takes as well."""
    torch = [call.name for call in calls if call.name in _TORCH]
    if torch and len(torch) < len(calls):
        do = "give schedulers of one kind"
        raise SolverError(
            where, "mixes schedulers of torch and of Composer", got=", ".join(c.name for c in calls), do=do
        )
    return bool(torch)


_TORCH: dict[str, tuple[str, ...]] = {
    "StepLR": ("optimizer", "step_size"),
    "MultiStepLR": ("optimizer", "milestones"),
    "ExponentialLR": ("optimizer", "gamma"),
    "CosineAnnealingLR": ("optimizer", "T_max"),
    "CosineAnnealingWarmRestarts": ("optimizer", "T_0"),
    **dict.fromkeys(
        (
            "ChainedScheduler",
            "ConstantLR",
            "CyclicLR",
            "LambdaLR",
            "LinearLR",
            "MultiplicativeLR",
            "OneCycleLR",
            "PolynomialLR",
            "SequentialLR",
        ),
        (),
    ),
}
"""Schedulers of torch; those that ``scale_schedule_ratio`` reaches with the argument that it changes."""


def read_torch(
    calls: Sequence[Call],
    clock: Clock,
    every_batch: bool,
    strict: bool,
    optimizer: Optimizer | None,
    more: Mapping[str, Any],
) -> Imported:
    """Schedulers of torch, which the trainer steps by the epoch unless told otherwise."""
    from lightning_solver.interop.torch import from_torch

    notes = clock.notes
    notes.say("schedulers", f"schedulers of torch are stepped once per {'batch' if every_batch else 'epoch'}")
    scaled = [_scaled(call, clock.ratio) if clock.ratio != 1 else call for call in calls]
    facts = {name: clock.facts.get(name) for name in FACTS if clock.facts.get(name) is not None}
    facts["step_on"] = "step" if every_batch else "epoch"
    if clock.run is not None and clock.run.unit == "ep":
        facts.setdefault("epochs", clock.run.value)
    if clock.length is not None:
        facts.setdefault("total_iters", math.ceil(clock.length))
    made = {} if optimizer is None else {"optimizer": optimizer.made}
    read = from_torch({"schedulers": scaled, **made}, facts=facts, strict=strict)
    for note in read.notes:
        where, _, what = note.partition(": ")
        notes.say(where, what)
    rules = () if optimizer is None else optimizer.rules
    return notes.imported(read.spec.replace(rules=(*read.spec.rules, *rules), **more), strict)


def _scaled(call: Call, ratio: float) -> Call:
    """A scheduler of torch as the trainer edits it."""
    names = _TORCH[call.name]
    if not names:
        do = f"use one of {', '.join(name for name, keys in _TORCH.items() if keys)}"
        raise SolverError("scale_schedule_ratio", f"cannot scale {call.name}", got=repr(ratio), do=do)
    key, position = names[1], 1
    value = call.kwargs.get(key, call.args[position] if len(call.args) > position else None)
    if value is None:
        raise SolverError(f"schedulers.{call.name}.{key}", "is missing", do=f"add {key}")
    if key == "gamma":
        value = value ** (1 / ratio)
    else:
        value = [int(point * ratio) for point in value] if isinstance(value, (list, tuple)) else int(value * ratio)
    if key in call.kwargs:
        return dataclasses.replace(call, kwargs={**call.kwargs, key: value})
    return dataclasses.replace(call, args=(*call.args[:position], value, *call.args[position + 1 :]))
