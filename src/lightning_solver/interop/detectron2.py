"""Configs of detectron2 and schedulers of fvcore, whose values are functions of the share of training that is done."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import (
    HOLD,
    Facts,
    Imported,
    Notes,
    Settings,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
)
from lightning_solver.interop.reading import Call, load, read_calls, read_python
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    Over,
    Polynomial,
    Schedule,
    Step,
    Warmup,
)

EARLY = 1e-6
"""What fvcore adds to the share of training done before it looks whether a switch or a drop has come."""


def from_detectron2(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a detectron2 config or a scheduler of fvcore as a spec.

    It reads a yacs config with ``SOLVER`` (or ``SOLVER`` by itself) as today's ``build_lr_scheduler`` and DeepLab's
    does; a LazyConfig with ``lr_multiplier`` and ``train.max_iter``; ``param_scheduler`` or the bare text of any
    scheduler of fvcore; and the old classes ``WarmupMultiStepLR``, ``WarmupCosineLR`` and ``WarmupPolyLR``, which
    multiply their warm-up onto the curve (``legacy_class: true`` beside ``SOLVER`` asks for these too).

    Args:
        config: A mapping, the path of a YAML (with its ``_BASE_``), JSON or Python file, or the text of a constructor.
        facts: ``total_iters``, where the run has another length than the config says, or the config says none.
        strict: Whether a key that is not mapped is an error.

    Returns:
        The spec with its schedule, and what a reader should know.

    Raises:
        SolverError: What detectron2 or fvcore refuse, keys and classes that they do not know, another peer's config,
            and factors below 0.

    Example:
        >>> imported = from_detectron2({"SOLVER": {"MAX_ITER": 90000, "STEPS": (60000, 80000)}})
        >>> for phase in imported.spec.schedules["lr"]:
        ...     print(phase)
        Linear(start=0.001, end=1.0, until=1000)
        MultiStep(at=(60000, 80000), gamma=0.1, start=1.0, until=None)
    """
    notes = Notes()
    known = Facts(facts, notes)
    length_of_run = known.get("total_iters")
    reader = _Reader(notes, None if length_of_run is None else int(length_of_run))
    phases = reader.read(_loaded(config))
    return notes.imported(imported_spec({"lr": simple(phases)}), strict)


# ------------------------------------------------------------------ the forms of a config


@dataclass(frozen=True)
class _Reader:
    """Reads a config; ``run`` is the length of the run in steps, where that is known from outside."""

    notes: Notes
    run: int | None

    def read(self, data: Any) -> list[Schedule]:
        if isinstance(data, Mapping):
            return self._mapping(data)
        calls = read_calls(data, "config")
        known = [call for call in calls if call.name in (*_OLD, *_FVCORE, "LRMultiplier")]
        return self._call(_only(known or calls, "config"), "config")

    def _mapping(self, data: Mapping[str, Any]) -> list[Schedule]:
        if "SOLVER" in data:
            return self._config(data)
        for name in ("cfg", "_C"):  # of Python text: cfg.SOLVER.MAX_ITER = 300
            if isinstance(data.get(name), Mapping):
                return self._mapping({**data[name], **{key: value for key, value in data.items() if key != name}})
        if "lr_multiplier" in data:
            return self._lazy(data)
        if "param_scheduler" in data and _names_fvcore(data["param_scheduler"]):
            settings = Settings(data, "", self.notes)
            where = "param_scheduler"
            phases = self._call(_only(read_calls(settings.take(where), where), where), where)
            settings.rest(_not_here)
            return phases
        if any(key in data for key in ("type", "class_path", "_target_", "legacy_class")):
            rest = {key: value for key, value in data.items() if key != "legacy_class"}
            return self._call(_only(read_calls(rest, "config"), "config"), "config")
        if any(key in data for key in _SCHEDULE_KEYS):
            return self._config({"SOLVER": data})
        refuse_other_peers(data, "from_detectron2")
        values = [*data.values(), *(data["calls"] if isinstance(data.get("calls"), list) else [])]
        known = [
            value for value in values if isinstance(value, Call) and value.name in (*_OLD, *_FVCORE, "LRMultiplier")
        ]
        if known or len(data) == 1:
            return self._call(_only(known or read_calls(data, "config"), "config"), "config")
        do = "give SOLVER, lr_multiplier or param_scheduler; what a Python file imports is not followed"
        raise SolverError("config", "has no schedule of detectron2", got=f"keys {', '.join(data)}"[:120], do=do)

    def _call(self, call: Call, where: str) -> list[Schedule]:
        if call.name in _OLD:
            return self._old(call.name, _arguments(call, where, self.notes, _OLD_ARGUMENTS[call.name]))
        if call.name == "LRMultiplier":
            arguments = _arguments(call, where, self.notes, ("optimizer", "multiplier", "max_iter", "last_iter"))
            arguments.ignore("optimizer")
            _from_the_start(arguments, "last_iter")
            scheduler = _scheduler(arguments.needed("multiplier"), arguments.path("multiplier"), self.notes)
            return self._shares(scheduler, _whole(arguments, "max_iter", None, 1), arguments.path("max_iter"))
        return self._shares(_scheduler(call, where, self.notes), self.run, where)

    def _lazy(self, data: Mapping[str, Any]) -> list[Schedule]:
        settings = Settings(data, "", self.notes)
        scheduler = _scheduler(settings.needed("lr_multiplier"), "lr_multiplier", self.notes)
        total = self.run
        if isinstance(data.get("train"), Mapping):
            train = Settings(settings.take("train"), "train", self.notes)
            if "max_iter" in train:
                total = _whole(train, "max_iter", None, 1)
            train.rest(_not_here)
        phases = self._shares(scheduler, total, "train.max_iter")
        settings.rest(_not_here)
        return phases

    def _config(self, data: Mapping[str, Any]) -> list[Schedule]:
        if not isinstance(data["SOLVER"], Mapping):
            Settings(data["SOLVER"], "SOLVER", self.notes)  # says what is wrong
        for mark in _PET:
            if mark in data["SOLVER"]:
                what = f"is not for from_detectron2: {mark} is a key of another system"
                raise SolverError("SOLVER", what, got=mark, do="use interop.from_pet")
        whole = Settings(data, "", self.notes)
        solver = Settings({key: _literal(v) for key, v in whole.take("SOLVER").items()}, "SOLVER", self.notes)
        legacy = whole.flag("legacy_class", solver.flag("legacy_class", False))
        phases = self._solver(solver, legacy)
        if solver.number("REFERENCE_WORLD_SIZE", 0):
            what = (
                "detectron2 rescales BASE_LR, MAX_ITER, STEPS and WARMUP_ITERS where another number of workers is used"
            )
            self.notes.say(solver.path("REFERENCE_WORLD_SIZE"), f"{what}: read for this number of workers")
        solver.rest(_why_not, (*_SCHEDULE_KEYS, *_OTHER_KEYS))
        whole.rest(_not_here)
        return phases

    def _solver(self, solver: Settings, legacy: bool) -> list[Schedule]:
        name = solver.choice("LR_SCHEDULER_NAME", _KEYS_OF, "WarmupMultiStepLR")
        if legacy and name not in _OLD:
            do = f"give one of {', '.join(_OLD)}, or take legacy_class out"
            raise SolverError(solver.path("LR_SCHEDULER_NAME"), "is not one of the old classes", got=name, do=do)
        for key in _SCHEDULE_KEYS:
            used = key in _KEYS_OF[name] or key in _COMMON_KEYS
            if key in solver and not (used and not (legacy and key in ("BASE_LR_END", "RESCALE_INTERVAL"))):
                solver.ignore(key)
                self.notes.say(solver.path(key), f"is not used by {'the old ' if legacy else ''}{name}")
        total = _whole(solver, "MAX_ITER", 40000, 1)
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
            wanted = {key: value for key, value in given.items() if key in _OLD_ARGUMENTS[name]}
            return self._old(name, _Named(wanted, "SOLVER", self.notes, names))
        method = solver.choice("WARMUP_METHOD", ("linear", "constant"), "linear")
        scheduler = self._built(name, solver, total)
        rescale = solver.flag("RESCALE_INTERVAL", False)
        if iters < 0 and rescale:
            raise SolverError(solver.path("WARMUP_ITERS"), "must be at least 0", got=repr(iters), do="correct it")
        if iters > total:
            self.notes.say(
                solver.path("WARMUP_ITERS"), f"the warm-up lasts longer than the run: it is cut to {total} steps"
            )
        share = min(max(iters, 0) / total, 1.0)
        warmup = _Warmup.around(scheduler, factor, share, method, rescale, "SOLVER")
        if not rescale and iters > 0 and scheduler.value(0.0) != scheduler.value(share) and name != "WarmupCosineLR":
            what = "a drop comes before the warm-up ends: the warm-up leads to the value after it"
            self.notes.say(solver.path("WARMUP_ITERS"), what)
        return self._shares(warmup, total, solver.path("MAX_ITER"), percent=False)

    def _built(self, name: str, solver: Settings, total: int) -> _Scheduler:
        if name == "WarmupCosineLR":
            base, end = solver.number("BASE_LR", 0.001), solver.number("BASE_LR_END", 0.0)
            if not (base and 0 <= end / base <= 1):
                do = "give a BASE_LR_END from 0 to BASE_LR"
                raise SolverError(
                    solver.path("BASE_LR_END"), "must not lie above BASE_LR", got=f"{end} of {base}", do=do
                )
            if end:
                ratio = float(exact(end) / exact(base))
                what = f"only its ratio to BASE_LR counts: every group ends at {ratio:g} times its own rate"
                self.notes.say(solver.path("BASE_LR_END"), what)
            self.notes.unmapped(solver.path("BASE_LR"), _NOT_HERE)
            return _Cosine("SOLVER.BASE_LR_END", 1.0, float(exact(end) / exact(base)))
        gamma = solver.number("GAMMA", 0.1)
        if name == "WarmupStepWithFixedGammaLR":
            decays = _whole(solver, "NUM_DECAYS", 3, 1)
            return _fixed_gamma(1.0, decays, gamma, "SOLVER.GAMMA")
        steps = _numbers(solver, "STEPS", (30000,))
        kept = [step for step in steps if step <= total]
        if len(kept) < len(steps):
            gone = ", ".join(f"{step:g}" for step in steps if step > total)
            self.notes.say(solver.path("STEPS"), f"{gone} lies beyond MAX_ITER and is left out, as detectron2 does")
        values = [gamma**k for k in range(len(kept) + 1)]
        return _multi_step(values, total, kept, solver.path, ("GAMMA", "MAX_ITER", "STEPS"))

    # -------------------------------------------------------------- the old classes

    def _old(self, name: str, settings: Settings) -> list[Schedule]:
        """A class that multiplies its warm-up, of ``factor * (1 - t / iters) + t / iters``, onto its curve."""
        settings.ignore("optimizer")
        _from_the_start(settings, "last_epoch")
        factor = settings.number("warmup_factor", 0.001, low=0)
        iters = settings.number("warmup_iters", 1000)
        ramp: Schedule | None = None
        if iters > 0:
            method = settings.choice("warmup_method", ("linear", "constant"), "linear")
            ramp_class = Linear if method == "linear" else Constant
            ramp = ramp_class(float(factor), until=length(iters)) if factor != 1 else None
        settings.ignore("warmup_method")
        if name == "WarmupMultiStepLR":
            return self._old_multi_step(settings, ramp, iters)
        total = _whole(settings, "max_iters", None, 1)
        _say_length(self.notes, settings.path("max_iters"), total, self.run)
        if name == "WarmupCosineLR":
            curve = _until([Cosine()], total, self.run)
            if self.run is not None and self.run > total:
                curve += _mirrored(1.0, 0.0, total, total, self.run)
                self.notes.say(settings.path("max_iters"), "the cosine rises again after its end, as the class has it")
            return [Warmup(ramp, tuple(curve) if len(curve) > 1 else curve[0], "multiply")] if ramp else curve
        return self._old_polynomial(settings, ramp, iters, total)

    def _old_multi_step(self, settings: Settings, ramp: Schedule | None, iters: float) -> list[Schedule]:
        settings.needed("milestones")
        points = _numbers(settings, "milestones", ())
        gamma = settings.number("gamma", 0.1)
        if points != sorted(points):
            do = "sort the list"
            raise SolverError(settings.path("milestones"), "is not in increasing order", got=repr(points), do=do)
        start = gamma ** sum(point <= 0 for point in points)
        drops = {point: gamma ** bisect_right(points, point) for point in points if point > 0}
        where = settings.path("gamma")
        curve = _stairs(start, [(length(point), value) for point, value in drops.items()], where)
        if ramp is None:
            return curve
        if all(point >= iters for point in drops):
            level = _level(float(getattr(ramp, "start", getattr(ramp, "value", 1.0))) * start, where)
            first = Constant(level) if isinstance(ramp, Constant) else Linear(level, _level(start, where))
            return [dataclasses.replace(first, until=ramp.until), *curve]
        what = "a drop comes before the warm-up ends: it lowers the warm-up, as the class multiplies the two"
        self.notes.say(settings.path("milestones"), what)
        return [Warmup(ramp, simple(curve), "multiply")]

    def _old_polynomial(self, settings: Settings, ramp: Schedule | None, iters: float, total: int) -> list[Schedule]:
        power = settings.number("power", 0.9, low=0)
        floor = settings.number("constant_ending", 0.0)
        if self.run is not None and self.run > total + 1:
            what = f"(1 - t / {total}) ** {power:g} has no value beyond step {total}"
            raise SolverError(settings.path("max_iters"), what, got=f"a run of {self.run}", do="make the run shorter")
        curve: Schedule = Polynomial(float(power)) if power else Constant()
        low: Schedule | None = None
        if floor > 0 and (power or floor > 1):
            # The class looks at the floor only once the warm-up is over.
            if ramp is None or (power and floor < 1 and total * (1 - floor ** (1 / power)) >= iters):
                curve = Clip(curve, min=float(floor)) if floor < 1 else Constant(float(floor))
            else:
                low = Constant(float(floor))
        if ramp is not None and low is not None:
            curve = Over(curve, end=total) if isinstance(curve, Polynomial) else curve
            return [Warmup(ramp, curve, "multiply", until=ramp.until), low]
        phases = _until([curve], total, self.run)
        if self.run is not None and self.run > total:
            phases.append(HOLD)
        return [Warmup(ramp, simple(phases), "multiply")] if ramp else phases

    # -------------------------------------------------------------- schedulers of the share of training done

    def _shares(self, scheduler: _Scheduler, total: int | None, where: str, percent: bool = True) -> list[Schedule]:
        """The phases of a scheduler that counts shares of ``total`` steps."""
        other = self.run is not None and self.run != total
        measure = _Measure(total, self.run, percent and not other, self.notes, where)
        if total is None:
            what = "fvcore adds 1e-6 to the share of training done, which moves switches in runs of a million steps"
            self.notes.say(where, f"{what}: give facts={{'total_iters': ...}} for such a run")
        elif percent is False or where.endswith("max_iter"):
            _say_length(self.notes, where, total, self.run)
        at = (lambda step: step / total) if total else float
        view = _View(Fraction(0), Fraction(1), Fraction(0), Fraction(1), at, measure)
        phases = scheduler.phases(view)
        if total is None or self.run is None or not other:
            return phases
        phases = _until(phases, total, self.run)
        return phases + scheduler.beyond(view, self.run) if self.run > total else phases


_OLD = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")
_OLD_WARMUP = ("warmup_factor", "warmup_iters", "warmup_method", "last_epoch")
_OLD_ARGUMENTS = {
    "WarmupMultiStepLR": ("optimizer", "milestones", "gamma", *_OLD_WARMUP),
    "WarmupCosineLR": ("optimizer", "max_iters", *_OLD_WARMUP),
    "WarmupPolyLR": ("optimizer", "max_iters", *_OLD_WARMUP, "power", "constant_ending"),
}
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
_SCHEDULE_KEYS = tuple(dict.fromkeys([*_COMMON_KEYS, *(key for keys in _KEYS_OF.values() for key in keys)]))
_OTHER_KEYS = (
    "BASE_LR",
    "MOMENTUM",
    "NESTEROV",
    "WEIGHT_DECAY",
    "WEIGHT_DECAY_NORM",
    "WEIGHT_DECAY_BIAS",
    "WEIGHT_DECAY_EMBED",
    "BIAS_LR_FACTOR",
    "BACKBONE_MULTIPLIER",
    "OPTIMIZER",
    "CLIP_GRADIENTS",
    "AMP",
    "IMS_PER_BATCH",
    "CHECKPOINT_PERIOD",
    "REFERENCE_WORLD_SIZE",
)
_PET = ("LR_POLICY", "LR_POW", "WARM_UP_ITERS", "WARM_UP_EPOCH", "WARM_UP_METHOD", "WARM_UP_FACTOR", "SCHEDULER")


_NOT_HERE = "is not part of the schedules"


def _not_here(_: str) -> str:
    return _NOT_HERE


def _why_not(key: str) -> str | None:
    return _NOT_HERE if key in _OTHER_KEYS else None


def _say_length(notes: Notes, where: str, total: int, run: int | None) -> None:
    if run is None or run == total:
        notes.say(where, f"the schedule is made for a run of {total} steps: Trainer(max_steps={total})")
    else:
        notes.say(where, f"the schedule is made for {total} steps, while the run has {run}")


def _until(phases: list[Schedule], total: int, run: int | None) -> list[Schedule]:
    """Phases whose last one ends at ``total``, where the run ends elsewhere."""
    last = phases[-1]
    if run is None or run == total or (run < total and isinstance(last, (Constant, MultiStep, Step))):
        return phases
    return [*phases[:-1], dataclasses.replace(last, until=total)]  # type: ignore[call-arg]


def _mirrored(start: float, end: float, span: Fraction | int, total: int, run: int) -> list[Schedule]:
    """What a cosine does after its end: it goes back and forth."""
    phases: list[Schedule] = []
    point = Fraction(total)
    while point < run:
        start, end, point = end, start, point + span
        phases.append(Cosine(start, end, until=length(point)))
    return phases


# ------------------------------------------------------------------ reading


def _loaded(config: Any) -> Any:
    """The config as data: files read with their bases, and Python text of more than a call as a mapping."""
    if isinstance(config, str) and "=" in config and "\n" in config.strip():
        data = read_python(config)
        return data if {"lr_multiplier", "SOLVER", "param_scheduler", "cfg", "_C"} & data.keys() else config
    data = load(config)
    if data is not config and isinstance(data, Mapping):
        return _with_bases(data, Path(config))
    if isinstance(data, Mapping) and "_BASE_" in data:
        do = "give the path of the file, so that what it names can be read"
        raise SolverError("config._BASE_", "names files beneath this config", got=repr(data["_BASE_"]), do=do)
    return data


def _with_bases(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A yacs file with what its ``_BASE_`` files hold beneath it."""
    own = {key: value for key, value in data.items() if key != "_BASE_"}
    bases = data.get("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        file = path.parent / Path(str(base)).expanduser()
        merged = _merged(merged, _with_bases(load(file, f"{path}: _BASE_"), file))
    return _merged(merged, own)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            both[key] = _merged(below[key], above[key])
    return both


def _literal(value: Any) -> Any:
    """A text such as ``(60000, 80000)`` as yacs takes it."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _only(calls: Sequence[Call], where: str) -> Call:
    if len(calls) != 1:
        got = ", ".join(call.name for call in calls) or "none"
        raise SolverError(where, "must be one scheduler", got=got, do="give the one that sets the learning rate")
    return calls[0]


def _names_fvcore(value: Any) -> bool:
    try:
        return all(call.name.endswith("ParamScheduler") for call in read_calls(value, "param_scheduler"))
    except SolverError:
        return False


class _Named(Settings):
    """Settings whose keys have other names in the config."""

    def __init__(self, data: Mapping[str, Any], where: str, notes: Notes, names: Mapping[str, str]) -> None:
        super().__init__(data, where, notes)
        self._names = names

    def path(self, key: str) -> str:
        return self._names.get(key) or super().path(key)


def _arguments(call: Call, where: str, notes: Notes, names: Sequence[str]) -> Settings:
    """The arguments of a constructor call.

    Raises:
        SolverError: Too many of them.
    """
    bound = call.bound(names, where)
    for name in bound:
        if name not in names:
            notes.unknown(f"{where}.{name}", name, call.name, names)
    return Settings({name: value for name, value in bound.items() if name in names}, where, notes)


def _from_the_start(settings: Settings, key: str) -> None:
    if settings.take(key, -1) != -1:
        settings.notes.unmapped(settings.path(key), "resumes a run: read as if it were -1")


def _whole(settings: Settings, key: str, default: int | None, low: int) -> int:
    if default is None:
        settings.needed(key)
    value = settings.number(key, default, low=low)
    if value != int(value):
        raise SolverError(settings.path(key), "must be a whole number", got=repr(value), do="correct it")
    return int(value)


def _numbers(settings: Settings, key: str, default: Sequence[float]) -> list[Any]:
    values = settings.take(key, default)
    if not isinstance(values, (list, tuple)) or not all(_is_number(value) for value in values):
        raise SolverError(settings.path(key), "must be a list of numbers", got=repr(values), do="correct it")
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _level(value: float, where: str) -> float:
    if value < 0:
        what = "gives a factor below 0, which no learning rate can have here"
        raise SolverError(where, what, got=repr(float(value)), do="correct it")
    return float(value)


# ------------------------------------------------------------------ shares of a run


@dataclass(frozen=True)
class _Measure:
    """How shares of a run are written: ``total`` steps make 1, while the run may have another length, ``run``."""

    total: int | None
    run: int | None
    percent: bool
    notes: Notes
    where: str

    def text(self, share: Fraction) -> int | str:
        """A point or a length: a short percentage, whole steps, or an exact fraction."""
        if share == 0:
            return 0
        if self.total is None or (self.percent and share <= 1 and (share * 10_000).denominator == 1):
            return length(share * 100, "%")
        steps = share * self.total
        if (steps * 1000).denominator == 1 or share > 1 or not (self.run is None or self.run == self.total):
            return length(steps)
        return length(share * 100, "%")

    def texts(self, shares: Sequence[Fraction], steps: bool) -> list[int | str]:
        """Points at which a value drops: all in per cent or, if ``steps`` or where that is not short, in steps."""
        if self.total is None or (
            not steps and self.percent and all((share * 10_000).denominator == 1 for share in shares)
        ):
            return [length(share * 100, "%") for share in shares]
        return [self.step(share) for share in shares]

    def step(self, share: Fraction) -> int:
        """The first step at or after a point."""
        assert self.total is not None
        return math.ceil(share * self.total)

    def same(self, one: Fraction, other: Fraction) -> bool:
        """Whether two points are the same for every step."""
        return one == other if self.total is None else self.step(one) == self.step(other)

    def share(self, value: float) -> Fraction:
        """The share that a number stands for: a simple fraction, or whole steps, if it is one but for rounding."""
        near = Fraction(value).limit_denominator(1_000_000)
        if abs(near - Fraction(value)) <= Fraction(1, 10**15):
            return near
        if self.total is not None and abs(value * self.total - round(value * self.total)) < 1e-9:
            return Fraction(round(value * self.total), self.total)
        return Fraction(str(value))


@dataclass(frozen=True)
class _View:
    """Where a scheduler lies in the run, in exact shares of it, and which part of it is seen.

    Args:
        begin: Where the scheduler itself begins (its own share is 0).
        end: Where it ends (its own share is 1).
        first: From where on it is seen.
        last: Where something else takes over.
        at: The scheduler's own share at a step, worked out as fvcore does.
        measure: The run.
    """

    begin: Fraction
    end: Fraction
    first: Fraction
    last: Fraction
    at: Callable[[int], float]
    measure: _Measure

    def point(self, share: Fraction) -> Fraction:
        """The point of the run at which the scheduler's own share is ``share``."""
        return self.begin + (self.end - self.begin) * share

    def own(self, point: Fraction) -> Fraction:
        """The scheduler's own share at a point of the run."""
        return (point - self.begin) / (self.end - self.begin)

    def when(self, share: Fraction, reached: Callable[[float], bool]) -> Fraction:
        """The point, within what is seen, from which on ``reached`` says yes to the scheduler's own share.

        That is the point of ``share``, unless the margin of fvcore makes it an earlier step.
        """
        point = self.point(share)
        if self.measure.total is None:
            return min(max(point, self.first), self.last)
        low, high = self.measure.step(self.first), self.measure.step(self.last)
        step = bisect_right(range(high), False, lo=low, key=lambda i: reached(self.at(i))) if low < high else low
        if step >= high:
            return self.last
        if step == low:
            return self.first
        if step == self.measure.step(point):
            return point
        what = "fvcore adds 1e-6 to the share of training done: what comes earlier by it is written where it comes"
        self.measure.notes.say(self.measure.where, what)
        return Fraction(step, self.measure.total)

    def laid(self, curve: Schedule) -> list[Schedule]:
        """A curve, wrapped where it begins before it is seen or would end after."""
        begin = None if self.begin == self.first else self.measure.text(self.begin)
        end = None if self.end == self.last else self.measure.text(self.end)
        return [curve] if begin is None and end is None else [Over(curve, begin=begin, end=end)]

    @property
    def to_the_end(self) -> bool:
        """Whether nothing takes over before the run ends."""
        return self.last == 1


@dataclass(frozen=True)
class _Scheduler(ABC):
    """A scheduler of fvcore; ``where`` is its path in the config."""

    where: str

    @abstractmethod
    def value(self, share: float) -> float:
        """The factor when ``share`` of training is done."""

    @abstractmethod
    def phases(self, view: _View) -> list[Schedule]:
        """The scheduler as phases over what is seen of it; the last one has no end."""

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        """What it does from its end to step ``run``."""
        raise self._fails(f"fails at the end of training, while the run has {run} steps")

    def _with_early(self, view: _View, curve: Schedule) -> list[Schedule]:
        """The curve, after the steps before its own begin, where fvcore's margin makes the scheduler come early."""
        measure = view.measure
        first, begin = measure.step(view.first), measure.step(min(view.begin, view.last))
        if first >= begin:
            return view.laid(curve)
        start, values = self.value(0.0), [self.value(view.at(step)) for step in range(first, begin)]
        if min(values) < 0:
            what = f"fvcore gives {min(values):g}, below 0, as the scheduler comes before its begin: it is 0 here"
            measure.notes.say(self.where, what)
            values = [max(0.0, value) for value in values]
        if all(math.isclose(value, start, rel_tol=1e-10, abs_tol=1e-13) for value in values):
            values = [start]
        early: list[Schedule] = [Constant(value, until=first + i) for i, value in enumerate(values, 1)]
        if view.last <= view.begin:
            return [*early[:-1], Constant(values[-1])]
        early[-1] = Constant(values[-1], until=measure.text(view.begin))
        return early + dataclasses.replace(view, first=view.begin).laid(curve)

    def _fails(self, what: str) -> SolverError:
        return SolverError(self.where, what, do="make the run as long as the schedule, or choose another one")


@dataclass(frozen=True)
class _Constant(_Scheduler):
    level: float

    def value(self, share: float) -> float:
        if share >= 1:
            raise self._fails("a ConstantParamScheduler has no value at the end of training, where it is asked for")
        return self.level

    def phases(self, view: _View) -> list[Schedule]:
        if view.to_the_end:
            _say_after_last(view, "ConstantParamScheduler raises RuntimeError")
        return [Constant(_level(self.level, self.where))]


@dataclass(frozen=True)
class _Cosine(_Scheduler):
    start: float
    end: float

    def value(self, share: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * share))

    def phases(self, view: _View) -> list[Schedule]:
        start, end = _level(self.start, self.where), _level(self.end, self.where)
        if start == end:
            return [Constant(start)]
        if view.first < view.begin:  # a cosine is even: it comes from where it goes to
            return self._with_early(view, Cosine(start, end))
        return view.laid(Cosine(start, end))

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        total = view.measure.total
        assert total is not None
        view.measure.notes.say(self.where, "the cosine turns back after its end, as in fvcore")
        return _mirrored(self.start, self.end, (view.end - view.begin) * total, total, run)


@dataclass(frozen=True)
class _Exponential(_Scheduler):
    start: float
    decay: float

    def value(self, share: float) -> float:
        try:
            return float(self.start * self.decay**share)
        except OverflowError:
            raise self._fails("grows beyond what a float holds") from None

    def phases(self, view: _View) -> list[Schedule]:
        if self.decay <= 0:
            raise SolverError(f"{self.where}.decay", "must be > 0", got=repr(self.decay), do="correct it")
        start = _level(self.start, self.where)
        if view.first <= view.begin and (view.first, view.last) != (view.begin, view.end):
            every = view.measure.text(view.end - view.begin)
            return [Exponential(float(self.decay), every, _level(self.value(float(view.own(view.first))), self.where))]
        return view.laid(Exponential(float(self.decay), start=start))

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        every = view.measure.text(view.end - view.begin)
        return [Exponential(float(self.decay), every, self.value(1.0))]


@dataclass(frozen=True)
class _Linear(_Scheduler):
    start: float
    end: float

    def value(self, share: float) -> float:
        return self.end * share + self.start * (1 - share)

    def phases(self, view: _View) -> list[Schedule]:
        if self.start == self.end:
            return [Constant(_level(self.start, self.where))]
        before = exact(self.start) + (exact(self.end) - exact(self.start)) * view.own(view.first)
        if view.last > view.end or (view.first < view.begin and before < 0):
            line = Linear(_level(self.start, self.where), _level(self.end, self.where))
            return self._with_early(view, line) if view.first < view.begin else view.laid(line)
        return [self._line(view, view.first, view.last)]

    def _line(self, view: _View, first: Fraction, last: Fraction) -> Schedule:
        """The part of the line between two points, which is a line."""
        start, end = (self._at(view.own(point)) for point in (first, last))
        return Constant(start) if start == end else Linear(start, end)

    def _at(self, share: Fraction) -> float:
        start, end = exact(self.start), exact(self.end)
        return _level(float(start + (end - start) * share), self.where)

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        assert view.measure.total is not None
        return [self._line(view, Fraction(1), Fraction(run, view.measure.total))]


@dataclass(frozen=True)
class _Polynomial(_Scheduler):
    base: float
    power: float

    def value(self, share: float) -> float:
        if share > 1 and self.power % 1:
            raise self._fails("gives complex numbers beyond the end of training, where it is asked for")
        return float(self.base * (1 - share) ** self.power)

    def phases(self, view: _View) -> list[Schedule]:
        if self.power < 0:
            what = "must be at least 0, or the factor grows without bound"
            raise SolverError(f"{self.where}.power", what, got=repr(self.power), do="correct it")
        base = _level(self.base, self.where)
        if self.power == 0:
            return [Constant(base)]
        if view.first < view.begin:
            base *= float(1 - view.own(view.first)) ** self.power
            view = dataclasses.replace(view, begin=view.first)
        return view.laid(Polynomial(float(self.power), base))

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        total = view.measure.total
        assert total is not None
        if self.power == 0 or run == total + 1:
            return [HOLD]
        if self.power % 2:
            raise self._fails(
                f"(1 - share) ** {self.power:g} is no factor beyond the end, while the run has {run} steps"
            )
        share = float((Fraction(run, total) - 1) / (view.end - view.begin))
        return [Polynomial(start=0.0, end=self.base * share**self.power, time_power=float(self.power))]


@dataclass(frozen=True)
class _Stairs(_Scheduler):
    """Values one after another: ``MultiStep``, ``Step`` and ``StepWithFixedGamma``.

    Value ``i`` holds from where ``int((share + 1e-6) * count)`` is ``points[i - 1]``.
    """

    values: tuple[float, ...]
    points: tuple[float, ...]
    count: float
    even: bool
    """Whether they are equally long, and there is no value at the end itself."""

    def value(self, share: float) -> float:
        reached = int((share + EARLY) * self.count)
        if share > 1 or (self.even and reached >= self.count):
            raise self._fails("has no value at the end of training, where it is asked for")
        return self.values[bisect_right(self.points, reached)]

    def phases(self, view: _View) -> list[Schedule]:
        total = view.measure.total
        if self.even and total is not None:
            step = view.measure.step(view.last) - 1
            if int((view.at(step) + EARLY) * self.count) >= self.count:
                raise self._fails(f"raises IndexError before the end, as of step {step} at the latest")
        if self.even and view.to_the_end:
            _say_after_last(view, "it raises IndexError")
        value, drops = self.values[0], list[tuple[Fraction, float]]()
        regular = view.first == view.begin
        for point, new in zip(self.points, self.values[1:]):
            share = exact(point) / exact(self.count)
            found = view.when(share, functools.partial(self._reached, point))
            regular &= found == view.point(share) or found >= view.last
            if found >= view.last:
                break
            if found <= view.first:
                value, regular = new, False
            elif drops and view.measure.same(found, drops[-1][0]):
                drops[-1], regular = (found, new), False
            else:
                drops.append((found, new))
        gamma = _common_ratio([value, *(new for _, new in drops)])
        if self.even and regular and drops and gamma not in (None, 1.0):
            every = view.measure.text((view.end - view.begin) / exact(self.count))
            return [Step(every, gamma or 1.0, _level(value, self.where))]
        in_steps = view.measure.total == self.count
        texts = view.measure.texts([share for share, _ in drops], in_steps)
        if not self.even and total is not None and self.count != total and drops and view.at(1) == 1 / total:
            what = f"counts {self.count:g} updates, while training has {total} steps: the milestones are scaled"
            view.measure.notes.say(self.where, what)
        return _stairs(value, list(zip(texts, (new for _, new in drops))), self.where)

    def _reached(self, point: float, share: float) -> bool:
        return int((share + EARLY) * self.count) >= point

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        if self.even or view.measure.total is None or run > view.measure.total + 1:
            return super().beyond(view, run)
        return [HOLD]


@dataclass(frozen=True)
class _Composite(_Scheduler):
    """Schedulers one after another, each over a share of training."""

    parts: tuple[_Scheduler, ...]
    lengths: tuple[float, ...]
    rescaled: tuple[bool, ...]

    def _totals(self) -> list[float]:
        """Where each part ends, added up as fvcore does."""
        totals = [self.lengths[0]]
        for part in self.lengths[1:]:
            totals.append(totals[-1] + part)
        return totals

    def _own(self, i: int, share: float) -> float:
        """The share that part ``i`` is given."""
        if not self.rescaled[i]:
            return share
        if self.lengths[i] == 0:
            raise self._fails(f"part {i} has no length, by which fvcore divides")
        return (share - (self._totals()[i] - self.lengths[i])) / self.lengths[i]

    def value(self, share: float) -> float:
        ends = self._totals()[:-1]
        i = next((i for i, end in enumerate(ends) if not share + EARLY > end), len(ends))
        return self.parts[i].value(self._own(i, share))

    def phases(self, view: _View) -> list[Schedule]:
        views = [(i, seen) for i, seen in enumerate(self._seen(view)) if not view.measure.same(seen.first, seen.last)]
        found: list[Schedule] = []
        for i, seen in views:
            if seen.end <= seen.begin:  # or as good as none, but for rounding
                raise self._fails(f"part {i} has no length, by which fvcore divides")
        for (i, seen), (_, after) in itertools.pairwise(views):
            part = self.parts[i].phases(dataclasses.replace(seen, last=after.first))
            found += [*part[:-1], dataclasses.replace(part[-1], until=view.measure.text(after.first))]  # type: ignore[call-arg]
        i, seen = views[-1]
        return found + self.parts[i].phases(dataclasses.replace(seen, last=view.last))

    def _seen(self, view: _View) -> list[_View]:
        """What is seen of each part."""
        views: list[_View] = []
        first, begin, reached = view.first, Fraction(0), -math.inf
        for i, total in enumerate(self._totals()):
            final = i == len(self.parts) - 1
            end = Fraction(1) if final else view.measure.share(total)
            reached = max(reached, total)
            last = view.last if final else max(first, view.when(end, functools.partial(_passed, reached)))
            own = (view.point(begin), view.point(end)) if self.rescaled[i] else (view.begin, view.end)
            views.append(_View(*own, first, last, functools.partial(self._at, i, view), view.measure))
            first, begin = last, end
        return views

    def _at(self, i: int, view: _View, step: int) -> float:
        return self._own(i, view.at(step))

    def beyond(self, view: _View, run: int) -> list[Schedule]:
        return self.parts[-1].beyond(self._seen(view)[-1], run)


def _passed(total: float, share: float) -> bool:
    return share + EARLY > total


@dataclass(frozen=True)
class _Warmup(_Composite):
    """A warm-up to the value that its scheduler will have reached, or from where it starts if that is rescaled."""

    @classmethod
    def around(
        cls, scheduler: _Scheduler, factor: float, share: float, method: str, rescale: bool, where: str
    ) -> _Warmup:
        """detectron2's ``WarmupParamScheduler``."""
        first = scheduler.value(0.0)
        end = first if rescale else scheduler.value(share)
        start = float(exact(factor) * exact(first))
        ramp = _Constant(where, start) if method == "constant" else _Linear(where, start, end)
        return cls(where, (ramp, scheduler), (share, 1 - share), (True, rescale))

    def phases(self, view: _View) -> list[Schedule]:
        ramp, after = self._seen(view)
        if self.rescaled[1] or view.first != view.begin or not ramp.first < ramp.last < view.last:
            return super().phases(view)
        curve = self.parts[1].phases(dataclasses.replace(view, at=after.at))
        rest = self.parts[1].phases(after)
        (warm,) = self.parts[0].phases(ramp)
        warm = dataclasses.replace(warm, until=view.measure.text(ramp.last))  # type: ignore[call-arg]
        if curve == rest:  # still flat where the warm-up ends
            return [warm, *rest]
        total = view.measure.total
        whole = total is not None and (ramp.end * total).denominator == 1 and ramp.end == ramp.last
        if isinstance(warm, Linear) and whole:
            warm = Linear(warm.start, until=warm.until)
        meets = "interpolate" if whole and isinstance(warm, Linear) else "beneath"
        return [Warmup(warm, simple(curve), meets)]  # type: ignore[arg-type]


def _say_after_last(view: _View, what: str) -> None:
    measure = view.measure
    measure.notes.say(measure.where, f"{what} in the scheduler's step after the last update; here nothing does")


def _stairs(value: float, drops: Iterable[tuple[int | str, float]], where: str) -> list[Schedule]:
    """Values one after another: a :class:`MultiStep` where one factor makes them, else constants."""
    kept: list[tuple[int | str, float]] = []
    current = value
    for point, new in drops:
        if new != current:
            kept.append((point, new))
        current = new
    values = [_level(new, where) for new in (value, *(new for _, new in kept))]
    gamma = _common_ratio(values)
    if kept and gamma is not None:
        return [MultiStep([point for point, _ in kept], gamma, values[0])]
    ends = [point for point, _ in kept]
    return [*(Constant(new, until=end) for new, end in zip(values, ends)), Constant(values[-1])]


def _common_ratio(values: Sequence[float]) -> float | None:
    """The factor from each value to the next, where it is the same."""
    if len(values) < 2 or min(values) <= 0:
        return None
    ratio = exact(values[1]) / exact(values[0])
    near = ratio.limit_denominator(1_000_000)
    gamma = float(near if math.isclose(near, ratio, rel_tol=1e-15) else ratio)
    if not 1e-6 <= gamma <= 1e6 or (len(values) == 2 and values[0] != 1 and gamma != round(gamma, 6)):
        return None  # two values that have nothing to do with each other
    fits = all(math.isclose(value, values[0] * gamma**i, rel_tol=1e-12) for i, value in enumerate(values))
    return gamma if fits else None


# ------------------------------------------------------------------ constructors of fvcore


def _scheduler(value: Any, where: str, notes: Notes) -> _Scheduler:
    """A scheduler of fvcore from its constructor call, in any form.

    Raises:
        SolverError: A class that fvcore does not have, or arguments that it refuses.
    """
    call = value if isinstance(value, Call) else _only(read_calls(value, where), where)
    if call.name not in _FVCORE:
        do = suggestion(call.name, [*_FVCORE, *_OLD], "schedulers")
        raise SolverError(where, "is not a scheduler of fvcore or detectron2", got=call.name, do=do)
    names, make = _FVCORE[call.name]
    return make(_arguments(call, where, notes, names))


def _make_constant(given: Settings) -> _Scheduler:
    return _Constant(given.where, _needed(given, "value"))


def _make_cosine(given: Settings) -> _Scheduler:
    return _Cosine(given.where, _needed(given, "start_value"), _needed(given, "end_value"))


def _make_exponential(given: Settings) -> _Scheduler:
    return _Exponential(given.where, _needed(given, "start_value"), _needed(given, "decay"))


def _make_linear(given: Settings) -> _Scheduler:
    return _Linear(given.where, _needed(given, "start_value"), _needed(given, "end_value"))


def _make_polynomial(given: Settings) -> _Scheduler:
    return _Polynomial(given.where, _needed(given, "base_value"), _needed(given, "power"))


def _make_step(given: Settings) -> _Scheduler:
    if _needed(given, "num_updates") <= 0:
        raise SolverError(
            given.path("num_updates"), "must be > 0", got=repr(given.take("num_updates")), do="correct it"
        )
    return _even(_needed_list(given, "values"), given.where)


def _make_fixed_gamma(given: Settings) -> _Scheduler:
    base, gamma = _needed(given, "base_value"), _needed(given, "gamma")
    decays = _whole(given, "num_decays", None, 1)
    _whole(given, "num_updates", None, 1)
    if base <= 0:
        raise SolverError(given.path("base_value"), "must be > 0", got=repr(base), do="correct it")
    return _fixed_gamma(base, decays, gamma, given.path("gamma"))


def _fixed_gamma(base: float, decays: int, gamma: float, where: str) -> _Scheduler:
    if gamma <= 0:
        raise SolverError(where, "must be > 0", got=repr(gamma), do="correct it")
    return _even([float(exact(base) * exact(gamma) ** k) for k in range(decays + 1)], where)


def _even(values: Sequence[float], where: str) -> _Stairs:
    if not values:
        raise SolverError(where, "needs at least one value", got="none", do="give the values")
    count = len(values)
    return _Stairs(where, tuple(values), tuple(range(1, count)), count, even=True)


def _make_multi_step(given: Settings) -> _Scheduler:
    values = _needed_list(given, "values")
    updates = given.number("num_updates")
    if given.take("milestones") is not None:
        milestones = _numbers(given, "milestones", ())
    elif updates is None:
        do = "give milestones whose last one is the end, or num_updates"
        raise SolverError(given.path("milestones"), "is missing, and num_updates too", do=do)
    else:
        width = math.ceil(updates / len(values)) if values else 0
        milestones = [width * (i + 1) for i in range(len(values) - 1)]
    if len(milestones) != len(values) - (updates is not None):
        what = (
            "does not fit the values: there is one milestone less than values, or as many where there is no num_updates"
        )
        got = f"{len(milestones)} for {len(values)} values"
        raise SolverError(given.path("milestones"), what, got=got, do="correct it")
    if updates is None:
        updates = milestones.pop()
    return _multi_step(values, updates, milestones, given.path, ("values", "num_updates", "milestones"))


def _multi_step(
    values: Sequence[float],
    updates: float,
    milestones: Sequence[float],
    path: Callable[[str], str],
    names: tuple[str, str, str],
) -> _Stairs:
    """``MultiStepParamScheduler``; ``names`` are the keys of values, updates and milestones."""
    of_values, of_updates, of_milestones = names
    if updates < len(values):
        got = f"{updates} for {len(values)} values"
        raise SolverError(path(of_updates), "is less than the number of values", got=got, do="correct it")
    for i, (before, milestone) in enumerate(itertools.pairwise((0, *milestones))):
        where = f"{path(of_milestones)}[{i}]"
        if milestone >= updates:
            do = "take it out, or lengthen the run"
            raise SolverError(where, f"must lie before the end at {updates:g}", got=repr(milestone), do=do)
        if milestone <= before:
            raise SolverError(where, f"must be more than {before:g}", got=repr(milestone), do="sort the list")
    return _Stairs(path(of_values), tuple(values), tuple(milestones), updates, even=False)


def _make_composite(given: Settings) -> _Scheduler:
    inner = given.needed("schedulers")
    if not isinstance(inner, (list, tuple)):
        raise SolverError(
            given.path("schedulers"), "must be a list of schedulers", got=repr(inner)[:80], do="correct it"
        )
    path = given.path("schedulers")
    parts = tuple(_scheduler(part, f"{path}[{i}]", given.notes) for i, part in enumerate(inner))
    lengths = _needed_list(given, "lengths")
    scaling = given.needed("interval_scaling")
    if not parts or len(parts) != len(lengths):
        got = f"{len(lengths)} for {len(parts)} schedulers"
        raise SolverError(given.path("lengths"), "must give the length of every scheduler", got=got, do="correct it")
    if abs(sum(lengths) - 1) >= 1e-3:
        raise SolverError(given.path("lengths"), "must add up to 1", got=f"{sum(lengths):g}", do="correct it")
    if sum(lengths) != 1:
        lengths[-1] = 1.0 - sum(lengths[:-1])
    if not isinstance(scaling, (list, tuple)) or len(scaling) < len(parts):
        what = "must say fixed or rescaled for every scheduler"
        raise SolverError(given.path("interval_scaling"), what, got=repr(scaling), do="correct it")
    for i, word in enumerate(scaling):
        if word not in ("rescaled", "fixed"):
            do = suggestion(str(word), ["rescaled", "fixed"], "values")
            raise SolverError(f"{given.path('interval_scaling')}[{i}]", "unknown value", got=repr(word), do=do)
    rescaled = tuple(word == "rescaled" for word in scaling[: len(parts)])
    return _Composite(given.where, parts, tuple(lengths), rescaled)


def _make_warmup(given: Settings) -> _Scheduler:
    inner = _scheduler(given.needed("scheduler"), given.path("scheduler"), given.notes)
    factor, share = _needed(given, "warmup_factor"), _needed(given, "warmup_length")
    if not 0 <= share <= 1:
        what = "is a share of training, from 0 to 1"
        raise SolverError(given.path("warmup_length"), what, got=repr(share), do="divide the steps by train.max_iter")
    method = given.choice("warmup_method", ("linear", "constant"), "linear")
    return _Warmup.around(inner, factor, share, method, given.flag("rescale_interval", False), given.where)


def _needed(given: Settings, key: str) -> float:
    given.needed(key)
    number: float = given.number(key)
    return number


def _needed_list(given: Settings, key: str) -> list[Any]:
    given.needed(key)
    return _numbers(given, key, ())


_FVCORE: dict[str, tuple[tuple[str, ...], Callable[[Settings], _Scheduler]]] = {
    "ConstantParamScheduler": (("value",), _make_constant),
    "CosineParamScheduler": (("start_value", "end_value"), _make_cosine),
    "ExponentialParamScheduler": (("start_value", "decay"), _make_exponential),
    "LinearParamScheduler": (("start_value", "end_value"), _make_linear),
    "PolynomialDecayParamScheduler": (("base_value", "power"), _make_polynomial),
    "StepParamScheduler": (("num_updates", "values"), _make_step),
    "StepWithFixedGammaParamScheduler": (("base_value", "num_decays", "gamma", "num_updates"), _make_fixed_gamma),
    "MultiStepParamScheduler": (("values", "num_updates", "milestones"), _make_multi_step),
    "CompositeParamScheduler": (("schedulers", "lengths", "interval_scaling"), _make_composite),
    "WarmupParamScheduler": (
        ("scheduler", "warmup_factor", "warmup_length", "warmup_method", "rescale_interval"),
        _make_warmup,
    ),
}
