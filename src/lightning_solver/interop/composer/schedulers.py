"""The scheduler classes by name, and how one of them is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Phases, Settings
from lightning_solver.interop.composer.ask import Ask
from lightning_solver.interop.composer.clock import Clock
from lightning_solver.interop.composer.curves import (
    constant,
    cosine,
    exponential,
    linear,
    multi_step,
    polynomial,
    step,
    warm_restarts,
)
from lightning_solver.interop.composer.warmups import (
    constant_with_warmup,
    cosine_with_warmup,
    inverse_sqrt_with_warmup,
    linear_with_warmup,
    multi_step_with_warmup,
    polynomial_with_warmup,
)
from lightning_solver.interop.reading import Call


@dataclass(frozen=True)
class _Class:
    """A scheduler: the arguments that it takes, in order, and how it is made."""

    order: tuple[str, ...]
    make: Callable[[Ask], Phases]


CLASSES = {
    "StepScheduler": _Class(("step_size", "gamma"), step),
    "MultiStepScheduler": _Class(("milestones", "gamma"), multi_step),
    "ConstantScheduler": _Class(("alpha", "t_max"), constant),
    "LinearScheduler": _Class(("alpha_i", "alpha_f", "t_max"), linear),
    "ExponentialScheduler": _Class(("gamma", "decay_period"), exponential),
    "CosineAnnealingScheduler": _Class(("t_max", "alpha_f"), cosine),
    "CosineAnnealingWarmRestartsScheduler": _Class(("t_0", "t_mult", "alpha_f"), warm_restarts),
    "PolynomialScheduler": _Class(("power", "t_max", "alpha_f"), polynomial),
    "MultiStepWithWarmupScheduler": _Class(("t_warmup", "milestones", "gamma", "scale_warmup"), multi_step_with_warmup),
    "ConstantWithWarmupScheduler": _Class(("t_warmup", "alpha", "t_max", "scale_warmup"), constant_with_warmup),
    "LinearWithWarmupScheduler": _Class(
        ("t_warmup", "alpha_i", "alpha_f", "t_max", "scale_warmup"), linear_with_warmup
    ),
    "CosineAnnealingWithWarmupScheduler": _Class(("t_warmup", "t_max", "alpha_f", "scale_warmup"), cosine_with_warmup),
    "PolynomialWithWarmupScheduler": _Class(
        ("t_warmup", "power", "t_max", "alpha_f", "scale_warmup"), polynomial_with_warmup
    ),
    "InverseSquareRootWithWarmupScheduler": _Class(
        ("t_warmup", "t_scale", "t_cooldown", "t_max", "alpha_f_decay", "alpha_f_cooldown"), inverse_sqrt_with_warmup
    ),
}
"""The scheduler classes of Composer, and the one of llm-foundry."""

_SHORT = {
    "constant_with_warmup": "ConstantWithWarmupScheduler",
    "cosine_with_warmup": "CosineAnnealingWithWarmupScheduler",
    "linear_decay_with_warmup": "LinearWithWarmupScheduler",
    "inv_sqrt_with_warmup": "InverseSquareRootWithWarmupScheduler",
}
"""llm-foundry's names."""


def read_schedule(call: Call, clock: Clock, where: str, notes: Notes) -> Phases:
    """One scheduler as a schedule of the clock's time."""
    found = CLASSES.get(_SHORT.get(call.name, call.name))
    if found is None:
        do = suggestion(call.name, [*CLASSES, *_SHORT], "schedulers")
        raise SolverError(where, "there is no such scheduler", got=repr(call.name), do=do)
    given = call.bound(found.order, where)
    for key in given:
        if key not in found.order:
            notes.unknown(f"{where}.{key}", key, call.name, found.order)
    return found.make(Ask(Settings(given, where, notes), clock, notes))
