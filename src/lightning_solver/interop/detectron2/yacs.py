"""The keys of ``SOLVER`` in a yacs config."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.detectron2.arguments import NOT_HERE, not_here, numbers, whole_number
from lightning_solver.interop.detectron2.averages import read_averages, take_precise
from lightning_solver.interop.detectron2.classic import OLD, OLD_ARGUMENTS, read_class
from lightning_solver.interop.detectron2.clipping import KEY, read_clipping
from lightning_solver.interop.detectron2.composite import WarmupParam
from lightning_solver.interop.detectron2.curves import CosineParam
from lightning_solver.interop.detectron2.scheduler import ParamScheduler
from lightning_solver.interop.detectron2.shares import phases_of
from lightning_solver.interop.detectron2.stairs import fixed_gamma, multi_step
from lightning_solver.interop.detectron2.yacs_optimizer import OPTIMIZER_KEYS, project_of, read_yacs_optimizer
from lightning_solver.schedules import Schedule

_OLD_KEYS = {
    "max_iters": "MAX_ITER",
    "milestones": "STEPS",
    "gamma": "GAMMA",
    "power": "POLY_LR_POWER",
    "constant_ending": "POLY_LR_CONSTANT_ENDING",
    "warmup_factor": "WARMUP_FACTOR",
    "warmup_iters": "WARMUP_ITERS",
    "warmup_method": "WARMUP_METHOD",
}
_COMMON_KEYS = ("LR_SCHEDULER_NAME", "MAX_ITER", "WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD")
_KEYS_OF = {
    "WarmupMultiStepLR": ("STEPS", "GAMMA", "RESCALE_INTERVAL"),
    "WarmupCosineLR": ("BASE_LR_END", "RESCALE_INTERVAL"),
    "WarmupStepWithFixedGammaLR": ("NUM_DECAYS", "GAMMA", "RESCALE_INTERVAL"),
    "WarmupPolyLR": ("POLY_LR_POWER", "POLY_LR_CONSTANT_ENDING"),
}

SCHEDULE_KEYS = tuple(dict.fromkeys([*_COMMON_KEYS, *(key for keys in _KEYS_OF.values() for key in keys)]))
"""The keys that a schedule is made from."""

_OTHER_KEYS = ("AMP", "IMS_PER_BATCH", "CHECKPOINT_PERIOD", "REFERENCE_WORLD_SIZE")
_PET = ("LR_POLICY", "LR_POW", "WARM_UP_ITERS", "WARM_UP_EPOCH", "WARM_UP_METHOD", "WARM_UP_FACTOR", "SCHEDULER")


def read_solver(data: Mapping[str, Any], notes: Notes, run: int | None) -> tuple[list[Schedule], dict[str, Any]]:
    """A config with ``SOLVER``.

    Args:
        data: The config.
        notes: Takes what is odd or not mapped.
        run: The length of the run, where that is known from outside.

    Returns:
        The phases of the schedule, and the fields of the spec that say how the optimiser is made and what is averaged.

    Raises:
        SolverError: What detectron2 refuses, keys of another system, a factor below 0.
    """
    if not isinstance(data["SOLVER"], Mapping):
        Settings(data["SOLVER"], "SOLVER", notes)  # says what is wrong
    for mark in _PET:
        if mark in data["SOLVER"]:
            what = f"is not for from_detectron2: {mark} is a key of another system"
            raise SolverError("SOLVER", what, got=mark, do="use interop.from_pet")
    whole = Settings(data, "", notes)
    solver = Settings({key: _literal(v) for key, v in whole.take("SOLVER").items()}, "SOLVER", notes)
    legacy = whole.flag("legacy_class", solver.flag("legacy_class", False))
    builder, model = whole.take("builder", solver.take("builder")), data.get("MODEL")
    fields = read_yacs_optimizer(solver, builder, model)
    if isinstance(clip := _decoded(solver.take(KEY)), Mapping):
        clipping = read_clipping(clip, solver.path(KEY), notes, own=project_of(solver, builder, model))
        fields |= {} if clipping is None else {"clip": clipping}
    elif clip is not None:
        Settings(clip, solver.path(KEY), notes)  # says what is wrong
    phases = _solver(solver, legacy, run)
    if solver.number("REFERENCE_WORLD_SIZE", 0):
        what = "detectron2 rescales BASE_LR, MAX_ITER, STEPS and WARMUP_ITERS where another number of workers is used"
        notes.say(solver.path("REFERENCE_WORLD_SIZE"), f"{what}: read for that number of workers")
    solver.rest(_why_not, (*SCHEDULE_KEYS, *OPTIMIZER_KEYS, KEY, *_OTHER_KEYS))
    fields |= read_yacs_averages(whole)
    whole.rest(not_here)
    return phases, fields


def read_yacs_averages(whole: Settings) -> dict[str, Any]:
    """The field ``averages`` of a yacs config, if it has any."""
    config, where = whole.take("MODEL_EMA"), "MODEL_EMA"
    averages = read_averages(_decoded(config), where, take_precise(whole), whole.notes)
    return {"averages": averages} if averages else {}


def _solver(solver: Settings, legacy: bool, run: int | None) -> list[Schedule]:
    name = solver.choice("LR_SCHEDULER_NAME", _KEYS_OF, "WarmupMultiStepLR")
    if legacy and name not in OLD:
        do = f"give one of {', '.join(OLD)}, or take legacy_class out"
        raise SolverError(solver.path("LR_SCHEDULER_NAME"), "is not one of the old classes", got=name, do=do)
    for key in SCHEDULE_KEYS:
        used = key in _KEYS_OF[name] or key in _COMMON_KEYS
        if key in solver and not (used and not (legacy and key in ("BASE_LR_END", "RESCALE_INTERVAL"))):
            solver.ignore(key)
            solver.notes.say(solver.path(key), f"is not used by {'the old ' if legacy else ''}{name}")
    total = whole_number(solver, "MAX_ITER", 40000, 1)
    factor = solver.number("WARMUP_FACTOR", 0.001, low=0)
    iters = solver.number("WARMUP_ITERS", 1000)
    if legacy or name == "WarmupPolyLR":
        old = {
            "warmup_factor": factor,
            "warmup_iters": iters,
            "warmup_method": solver.take("WARMUP_METHOD", "linear"),
        }
        names = {new: f"SOLVER.{key}" for new, key in _OLD_KEYS.items()}
        given = {new: solver.take(key) for new, key in _OLD_KEYS.items() if key in _KEYS_OF[name] and key in solver}
        given = {"max_iters": total, "milestones": (30000,), **given, **old}
        wanted = {key: value for key, value in given.items() if key in OLD_ARGUMENTS[name]}
        return read_class(name, _Named(wanted, "SOLVER", solver.notes, names), run)
    method = solver.choice("WARMUP_METHOD", ("linear", "constant"), "linear")
    scheduler = _built(name, solver, total)
    rescale = solver.flag("RESCALE_INTERVAL", False)
    if iters < 0 and rescale:
        raise SolverError(solver.path("WARMUP_ITERS"), "must be at least 0", got=repr(iters), do="correct it")
    if iters > total:
        solver.notes.say(
            solver.path("WARMUP_ITERS"), f"the warm-up lasts longer than the run: it is cut to {total} steps"
        )
    share = min(max(iters, 0) / total, 1.0)
    warmup = WarmupParam.around(scheduler, factor, share, method, rescale, "SOLVER")
    if not rescale and iters > 0 and scheduler.value(0.0) != scheduler.value(share) and name != "WarmupCosineLR":
        what = "a drop comes before the warm-up ends: the warm-up leads to the value after it"
        solver.notes.say(solver.path("WARMUP_ITERS"), what)
    return phases_of(warmup, total, run, solver.notes, solver.path("MAX_ITER"), percent=False)


def _built(name: str, solver: Settings, total: int) -> ParamScheduler:
    if name == "WarmupCosineLR":
        base, end = solver.number("BASE_LR", 0.001), solver.number("BASE_LR_END", 0.0)
        if not (base and 0 <= end / base <= 1):
            do = "give a BASE_LR_END from 0 to BASE_LR"
            raise SolverError(solver.path("BASE_LR_END"), "must not lie above BASE_LR", got=f"{end} of {base}", do=do)
        if end:
            ratio = float(exact(end) / exact(base))
            what = f"only its ratio to BASE_LR counts: every group ends at {ratio:g} times its own rate"
            solver.notes.say(solver.path("BASE_LR_END"), what)
        return CosineParam("SOLVER.BASE_LR_END", 1.0, float(exact(end) / exact(base)))
    gamma = solver.number("GAMMA", 0.1)
    if name == "WarmupStepWithFixedGammaLR":
        decays = whole_number(solver, "NUM_DECAYS", 3, 1)
        return fixed_gamma(1.0, decays, gamma, "SOLVER.GAMMA")
    steps = numbers(solver, "STEPS", (30000,))
    kept = [step for step in steps if step <= total]
    if len(kept) < len(steps):
        gone = ", ".join(f"{step:g}" for step in steps if step > total)
        solver.notes.say(solver.path("STEPS"), f"{gone} lies beyond MAX_ITER and is left out, as detectron2 does")
    values = [gamma**k for k in range(len(kept) + 1)]
    return multi_step(values, total, kept, solver.path, ("GAMMA", "MAX_ITER", "STEPS"))


def _literal(value: Any) -> Any:
    """A text such as ``(60000, 80000)`` as yacs takes it."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _decoded(config: Any) -> Any:
    """A mapping with its texts taken as yacs takes them."""
    return {key: _literal(value) for key, value in config.items()} if isinstance(config, Mapping) else config


def _why_not(key: str) -> str | None:
    if key == "AMP":
        return "the precision belongs to the Trainer: Trainer(precision='16-mixed') where it is enabled"
    return NOT_HERE if key in _OTHER_KEYS else None


class _Named(Settings):
    """Settings whose keys have other names in the config."""

    def __init__(self, data: Mapping[str, Any], where: str, notes: Notes, names: Mapping[str, str]) -> None:
        super().__init__(data, where, notes)
        self._names = names

    def path(self, key: str) -> str:
        return self._names.get(key) or super().path(key)
