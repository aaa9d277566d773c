"""The curves of the policies, over the run and beyond it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Phases, Settings, drops, length, simple
from lightning_solver.schedules import Constant, Cosine, Linear, Polynomial, Schedule, Warmup


def read_curve(
    settings: Settings,
    policy: str,
    unit: str,
    total: Any,
    key: str,
    warmup: Schedule | None,
    facts: Facts,
    notes: Notes,
) -> Phases:
    """The curve of a policy, with its warm-up.

    Args:
        settings: The keys.
        policy: ``POLICY``.
        unit: Of lengths: ``ep`` or ``st``.
        total: Length of the run in it; ``None`` where the config leaves it open.
        key: The key of the length.
        warmup: The factor that is multiplied onto the curve.
        facts: What the config leaves to its surroundings.
        notes: Takes what is odd.

    Raises:
        SolverError: What Pet refuses, and ``STEP_COSINE``.
    """
    gamma = float(settings.number("GAMMA", 0.1, low=0))
    power = float(settings.number("LR_POW", 0.9, low=0))
    steps = _steps(settings, needed=policy in ("STEP", "STEP_COSINE"))
    if settings.take("LOG_LR_CHANGE_THRESHOLD") is not None:
        what = "is when Pet writes a change to its log, which changes no value"
        notes.say(settings.path("LOG_LR_CHANGE_THRESHOLD"), what)
    used = {"STEP": ("STEPS", "GAMMA"), "POLY": ("LR_POW",), "STEP_COSINE": ("STEPS", "GAMMA")}.get(policy, ())
    for name in ("STEPS", "GAMMA", "LR_POW"):
        if name in settings and name not in used and settings.take(name) not in ([], (), None):
            notes.say(settings.path(name), f"changes nothing under the policy {policy}")
    if policy == "STEP_COSINE":
        name = "LR_POLICY" if "LR_POLICY" in settings else "POLICY"
        _refuse_step_cosine(settings.path(name), [length(step, unit) for step in steps], gamma)
    if policy == "STEP":
        _note_length(settings.path(key), total, unit, notes)
        curve = drops(steps, gamma, unit)
    else:
        cycles = _runs(settings.path(key), total, unit, facts, notes)
        curve = _cosine(cycles, total, unit) if policy == "COSINE" else _poly(cycles, total, unit, power, settings)
    return curve if warmup is None else Warmup(ramp=warmup, of=curve, meets="multiply")


def _steps(settings: Settings, needed: bool) -> list[float]:
    steps = settings.needed("STEPS") if needed else settings.take("STEPS")
    steps = () if steps is None else steps
    if not isinstance(steps, (list, tuple)) or any(
        isinstance(s, bool) or not isinstance(s, (int, float)) for s in steps
    ):
        raise SolverError(settings.path("STEPS"), "must be a list of numbers", got=repr(steps), do="correct it")
    if list(steps) != sorted(steps):
        do = "sort it; Pet refuses such a list for every policy"
        raise SolverError(settings.path("STEPS"), "is not sorted", got=repr(steps), do=do)
    return list(steps)


def _refuse_step_cosine(where: str, steps: list[int | str], gamma: float) -> None:
    what = "Pet fails at the last of STEPS, where the cosine should begin: it calls a method that it does not have"
    if len(steps) < 2:
        first = f"Constant(until: {steps[0] if steps else '...'})"
    else:
        points = ", ".join(map(str, steps[:-1]))
        first = f"MultiStep(at: [{points}], gamma: {gamma:g}, until: {steps[-1]})"
    do = f"write what was meant as schedules.lr: [{first}, Cosine(start: previous)]"
    raise SolverError(where, what, got="'STEP_COSINE'", do=do)


def _note_length(where: str, total: Any, unit: str, notes: Notes) -> None:
    if total is not None:
        trainer = f"max_epochs={total}" if unit == "ep" else f"max_steps={total}"
        what = "epochs" if unit == "ep" else "iterations"
        notes.say(where, f"the schedule is made for a run of {total} {what}: Trainer({trainer})")


def _runs(where: str, total: Any, unit: str, facts: Facts, notes: Notes) -> Fraction | None:
    """How many times as long as the config says the run is; ``None`` where it is as long, for all that is known."""
    _note_length(where, total, unit, notes)
    per_epoch = facts.get("iters_per_epoch")
    steps, epochs = facts.get("total_iters"), facts.get("epochs")
    actual = epochs if unit == "ep" else steps
    if actual is None and per_epoch:
        other = steps if unit == "ep" else epochs
        factor = 1 / exact(per_epoch) if unit == "ep" else exact(per_epoch)
        actual = None if other is None else exact(other) * factor
    if total is None or actual is None or exact(actual) == exact(total):
        return None
    what = "epochs" if unit == "ep" else "iterations"
    notes.say(where, f"the facts say {float(exact(actual)):g} {what}: the curve ends where the config says")
    return exact(actual) / exact(total)


def _cosine(runs: Fraction | None, total: Any, unit: str) -> Phases:
    """Down to 0 at the end; beyond it Pet's cosine rises again, and so on."""
    if runs is None:
        return Cosine()
    ends = [length(exact(total) * (i + 1), unit) for i in range(max(math.ceil(runs), 1))]
    return simple([Cosine(until=e) if i % 2 == 0 else Cosine(0.0, 1.0, until=e) for i, e in enumerate(ends)])


def _poly(runs: Fraction | None, total: Any, unit: str, power: float, settings: Settings) -> Phases:
    """``(1 - t / T) ** power``, beyond the end too."""
    if power == 0:
        return Constant()
    until = None if runs is None else length(exact(total), unit)
    down: Schedule = Linear(end=0.0, until=until) if power == 1 else Polynomial(power=power, until=until)
    if runs is None or runs <= 1:
        return down
    if power % 2:
        do = "train no longer than the config says, or give an even power"
        what = "is no learning rate beyond the end"
        raise SolverError(settings.path("LR_POW"), what, got=repr(power), do=do)
    more = math.ceil(runs) - 1
    end = length(exact(total) * (1 + more), unit)
    return (down, Polynomial(power=1.0, start=0.0, end=float(more**power), time_power=power, until=end))
