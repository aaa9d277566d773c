"""Pet: ``SOLVER.SCHEDULER``, and the flat names of its earlier releases."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, nearest
from lightning_solver.interop.base import (
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    drops,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
)
from lightning_solver.interop.reading import load, read_python
from lightning_solver.schedules import Constant, Cosine, Linear, Polynomial, Schedule, Warmup

POLICIES = ("STEP", "COSINE", "STEP_COSINE", "POLY")


def from_pet(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the learning rate schedule of a Pet config.

    The scheduler is taken as newly made: its argument ``start_iter`` is 0. It moves with every iteration, also where
    lengths are in epochs.

    Args:
        config: A whole config with ``SOLVER``, or the mapping ``SOLVER`` or ``SCHEDULER`` itself; a mapping, the path
            of a .yaml, .json or .py file, or Python text. Read are ``SCHEDULER`` (``POLICY``, ``TOTAL_EPOCHS``, ...) or
            the flat names of earlier releases (``LR_POLICY``, ``MAX_ITER``, ``MAX_EPOCHS``, ``WARM_UP_EPOCH``, ...).
        facts: ``total_iters`` (or ``epochs``) and ``iters_per_epoch``, only where the run is not as long as the config
            says.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes.

    Raises:
        SolverError: What Pet refuses: unknown policies and methods, ``STEPS`` that are not sorted, a missing length,
            and ``STEP_COSINE``, which fails when its cosine begins. A config of another system.

    Example:
        >>> config = "SCHEDULER = dict(POLICY='POLY', TOTAL_ITERS=90000, WARM_UP_ITERS=0, LR_POW=2.0)"
        >>> from_pet(config).spec.schedules
        {'lr': Polynomial(power=2.0, start=1.0, end=0.0, time_power=1.0, until=None)}
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load(config)
    data = read_python(data) if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise SolverError("config", "must be a mapping", got=repr(data)[:120], do="give a config, or its path")
    whole = Settings(data, "", notes)
    refuse_other_peers(data, "from_pet")
    has_solver = "SOLVER" in whole
    solver = whole.take("SOLVER") if has_solver else data
    outer = Settings(_decoded(solver), "SOLVER" if has_solver else "", notes)
    _refuse_detectron2(outer)
    if "SCHEDULER" in outer:
        inner = Settings(_decoded(outer.take("SCHEDULER")), outer.path("SCHEDULER"), notes)
        schedule = _nested(inner, given, notes)
        inner.rest(known=_NESTED)
        outer.rest(lambda key: f"is not read beside {inner.where}" if key in _FLAT else _why(key))
    elif any(key in outer for key in ("POLICY", "TOTAL_ITERS", "TOTAL_EPOCHS")):
        schedule = _nested(outer, given, notes)
        outer.rest(_why, _NESTED)
    elif any(key in outer for key in _FLAT):
        schedule = _flat(outer, given, notes)
        outer.rest(_why, _FLAT)
    else:
        names = [str(key) for key in solver]
        do = f"rename {near[0]}" if (near := nearest("SCHEDULER", names)) else "give SOLVER.SCHEDULER"
        raise SolverError(outer.path("SCHEDULER"), "is missing", got=f"keys {', '.join(names) or '(none)'}", do=do)
    if has_solver:
        whole.rest(_why)
    return notes.imported(imported_spec({"lr": schedule}), strict)


_COMMON = ("STEPS", "GAMMA", "LR_POW", "WARM_UP_FACTOR", "WARM_UP_METHOD", "WARM_UP_ITERS", "LOG_LR_CHANGE_THRESHOLD")
_NESTED = (*_COMMON, "POLICY", "TOTAL_EPOCHS", "TOTAL_ITERS", "WARM_UP_EPOCHS")
_FLAT = (*_COMMON, "LR_POLICY", "MAX_EPOCHS", "MAX_ITER", "WARM_UP_EPOCH")


def _why(key: str) -> str | None:
    others = (
        *("OPTIMIZER", "TYPE", "BASE_LR", "BIAS_LR_FACTOR", "BACKBONE_LR_FACTOR", "LR_MULTIPLE", "MOMENTUM"),
        *("BACKBONE_WEIGHT_DECAY_FACTOR", "CLIP_GRADIENTS", "AMP", "SNAPSHOT_EPOCHS", "SNAPSHOT_ITERS"),
        *("MODEL", "DATA", "DATALOADER", "TRAIN", "TEST", "MISC", "VIS", "DATASETS"),
    )
    return "is not part of the schedules" if key in others or key.startswith("WEIGHT_DECAY") else None


def _refuse_detectron2(solver: Settings) -> None:
    for mark in ("LR_SCHEDULER_NAME", "WARMUP_ITERS", "WARMUP_FACTOR", "WARMUP_METHOD", "BASE_LR_END"):
        if mark in solver:
            do = "use interop.from_detectron2"
            raise SolverError(solver.path(mark), "is a key of detectron2", got=repr(solver.take(mark)), do=do)


def _decoded(data: Any) -> Any:
    """A mapping whose texts are read as yacs reads them: ``"(30, 40)"`` is a list, ``"None"`` nothing."""
    if not isinstance(data, Mapping):
        return data
    result = dict(data)
    for key, value in result.items():
        if isinstance(value, str):
            try:
                result[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                continue
    return result


# ------------------------------------------------------------------ the two forms


def _nested(settings: Settings, facts: Facts, notes: Notes) -> Phases:
    """``SCHEDULER``; epochs or iterations for the run and for the warm-up, each by itself."""
    policy = settings.choice("POLICY", POLICIES, "COSINE")
    by_epoch = settings.take("TOTAL_EPOCHS") is not None
    key = "TOTAL_EPOCHS" if by_epoch else "TOTAL_ITERS"
    total = _length(settings, key)
    if by_epoch and settings.take("TOTAL_ITERS") is not None:
        notes.say(settings.path("TOTAL_ITERS"), "is not read by Pet beside TOTAL_EPOCHS")
    warm_by_epoch = settings.take("WARM_UP_EPOCHS") is not None
    if warm_by_epoch and settings.take("WARM_UP_ITERS") is not None:
        notes.say(settings.path("WARM_UP_ITERS"), "is not read by Pet beside WARM_UP_EPOCHS")
    warm = "WARM_UP_EPOCHS" if warm_by_epoch else "WARM_UP_ITERS"
    warmup = _warmup(settings, warm, warm_by_epoch, 0.1, notes)
    return _schedule(settings, policy, "ep" if by_epoch else "st", total, key, warmup, facts, notes)


def _flat(settings: Settings, facts: Facts, notes: Notes) -> Phases:
    """The names of earlier releases: all in iterations where there is ``MAX_ITER``, else all in epochs."""
    by_epoch = "MAX_ITER" not in settings
    settings.needed("LR_POLICY")
    policy = settings.choice("LR_POLICY", POLICIES)
    key, other = ("MAX_EPOCHS", "MAX_ITER") if by_epoch else ("MAX_ITER", "MAX_EPOCHS")
    warm, other_warm = ("WARM_UP_EPOCH", "WARM_UP_ITERS") if by_epoch else ("WARM_UP_ITERS", "WARM_UP_EPOCH")
    settings.needed(key)
    for name in (other, other_warm):
        if settings.take(name) is not None:
            which = "without MAX_ITER" if by_epoch else "beside MAX_ITER"
            notes.say(settings.path(name), f"is not read by Pet {which}")
    warmup = _warmup(settings, warm, by_epoch, None, notes)
    return _schedule(settings, policy, "ep" if by_epoch else "st", _length(settings, key), key, warmup, facts, notes)


def _length(settings: Settings, key: str) -> Any:
    total = settings.number(key)
    if total is not None and total <= 0:
        raise SolverError(settings.path(key), "must be > 0", got=repr(total), do="correct it, or leave it out")
    return total


def _warmup(settings: Settings, key: str, by_epoch: bool, default: float | None, notes: Notes) -> Schedule | None:
    method = settings.choice("WARM_UP_METHOD", ("CONSTANT", "LINEAR"), "LINEAR")
    if settings.take(key) is None:
        do = f"add {key}: 0 for no warm-up"
        raise SolverError(settings.path(key), "is missing, and what Pet takes then differs between its releases", do=do)
    count = settings.number(key, low=0)
    factor = settings.number("WARM_UP_FACTOR", default, low=0)
    if count == 0:
        return None
    if factor is None:
        do = "add it: the default was 1/3 in some releases, 0.1 in others"
        raise SolverError(settings.path("WARM_UP_FACTOR"), "is missing", do=do)
    if factor == 1:
        notes.say(settings.path("WARM_UP_FACTOR"), "a warm-up by the factor 1 is left out")
        return None
    until = length(count, "ep" if by_epoch else "st")
    return Constant(float(factor), until=until) if method == "CONSTANT" else Linear(start=float(factor), until=until)


# ------------------------------------------------------------------ the curve


def _schedule(
    settings: Settings,
    policy: str,
    unit: str,
    total: Any,
    key: str,
    warmup: Schedule | None,
    facts: Facts,
    notes: Notes,
) -> Phases:
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
