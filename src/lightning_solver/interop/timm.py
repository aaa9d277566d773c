"""Schedules of timm: the keywords of ``create_scheduler_v2``, the arguments of its ``train.py``, and its classes.

timm's schedules are functions of ``t``, the number of epochs that are over, or of optimiser steps ("updates"). The
group holds the value of ``t`` from then on, so that a schedule by epochs is a staircase.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Literal

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import (
    HOLD,
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    absolute,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
)
from lightning_solver.interop.reading import Call, Name, Unread, load, read_calls
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    Noise,
    Over,
    PerGroup,
    Plateau,
    Polynomial,
    Product,
    Schedule,
    Staircase,
    Step,
    Sum,
    Tanh,
    Warmup,
)
from lightning_solver.schedules.base import Level

_WARMUP = {"warmup_t": 0, "warmup_lr_init": 0.0}
_NOISE = {"noise_range_t": None, "noise_pct": 0.67, "noise_std": 1.0, "noise_seed": 42}
_CYCLES = {"lr_min": 0.0, "cycle_mul": 1.0, "cycle_decay": 1.0, "cycle_limit": 1, **_WARMUP, "warmup_prefix": False}
_COUNT = {"t_in_epochs": True}
_STAIRS = {"decay_t": None, "decay_rate": 1.0, **_WARMUP, "warmup_prefix": True, **_COUNT, **_NOISE, "initialize": True}
CLASSES: dict[str, dict[str, Any]] = {
    "CosineLRScheduler": {"t_initial": None, **_CYCLES, **_COUNT, **_NOISE, "k_decay": 1.0, "initialize": True},
    "TanhLRScheduler": {"t_initial": None, "lb": -7.0, "ub": 3.0, **_CYCLES, **_COUNT, **_NOISE, "initialize": True},
    "PolyLRScheduler": {
        **{"t_initial": None, "power": 0.5, **_CYCLES, **_COUNT, **_NOISE},
        **{"k_decay": 1.0, "initialize": True},
    },
    "StepLRScheduler": _STAIRS,
    "MultiStepLRScheduler": _STAIRS,
    "PlateauLRScheduler": {
        **{"decay_rate": 0.1, "patience_t": 10, "threshold": 1e-4, "cooldown_t": 0, **_WARMUP, "lr_min": 0.0},
        **{"mode": "max", "noise_range_t": None, "noise_type": "normal", **_NOISE, "initialize": True},
    },
    "WSDLRScheduler": {
        **{"t_initial": None, "decay_t": None, "lr_min": 0.0},
        **{"stable_fn": "constant", "stable_timescale": None, "stable_power": 0.5},
        **{"decay_fn": "1-sqrt", "decay_power": 0.5, "decay_ratio": 0.1},
        **{**_WARMUP, **_COUNT, **_NOISE, "initialize": True},
    },
}
"""The classes: their arguments in order but for the optimiser, with their defaults; ``None`` if there is none."""

FACTORY: dict[str, Any] = {
    **{"sched": "cosine", "num_epochs": 300, "decay_epochs": None, "decay_milestones": (90, 180, 270)},
    **{"cooldown_epochs": 0, "patience_epochs": 10, "decay_rate": 0.1, "min_lr": 0.0},
    **{"warmup_lr": 1e-5, "warmup_epochs": 0, "warmup_prefix": False},
    **{"noise": None, "noise_pct": 0.67, "noise_std": 1.0, "noise_seed": 42},
    **{"cycle_mul": 1.0, "cycle_decay": 0.1, "cycle_limit": 1, "k_decay": 1.0},
    **{"decay_fn": None, "stable_timescale": None, "plateau_mode": "max"},
    **{"step_on_epochs": True, "updates_per_epoch": 0},
}
"""The keywords of ``create_scheduler_v2`` in order, with their defaults."""

NAMESPACE: dict[str, Any] = {"num_epochs": 100, "decay_epochs": 30, "decay_milestones": (30, 60), "warmup_epochs": 5}
"""Defaults of ``create_scheduler(args)``, for what the arguments lack, where they differ."""

SCRIPT: dict[str, Any] = {"warmup_epochs": 5, "cycle_decay": 0.5}
"""Defaults of ``train.py``, where they differ."""

ARGUMENTS: dict[str, str] = {
    **{"num_epochs": "epochs", "noise": "lr_noise", "noise_seed": "seed", "stable_timescale": "lr_stable_timescale"},
    **{name: f"lr_{name}" for name in ("noise_pct", "noise_std", "k_decay", "decay_fn")},
    **{name: f"lr_{name}" for name in ("cycle_mul", "cycle_decay", "cycle_limit")},
}
"""Keywords of the factory that have another name among the arguments of ``train.py``."""

KEYWORDS: dict[str, str] = {
    **{"t_initial": "num_epochs", "lr_min": "min_lr", "warmup_t": "warmup_epochs", "warmup_lr_init": "warmup_lr"},
    **{"noise_range_t": "noise", "patience_t": "patience_epochs", "mode": "plateau_mode", "power": "decay_rate"},
}
"""Arguments of the classes that have another name among the keywords of the factory."""

SCHEDULERS: dict[str, str] = {
    **{"cosine": "CosineLRScheduler", "tanh": "TanhLRScheduler", "poly": "PolyLRScheduler"},
    **{"step": "StepLRScheduler", "multistep": "MultiStepLRScheduler", "constant": "StepLRScheduler"},
    **{"plateau": "PlateauLRScheduler", "wsd": "WSDLRScheduler", "rsqrt": "WSDLRScheduler", "none": ""},
}
"""The names that the factory has for the classes."""

_FACTORIES = ("create_scheduler_v2", "create_scheduler", "scheduler_kwargs")
_OWN = ("step_on_epochs", "updates_per_epoch", "plateau_mode")
_SHARED = [ARGUMENTS.get(name, name) for name in FACTORY if name not in _OWN]
_MARKS = {*ARGUMENTS.values(), "sched_on_updates", "eval_metric", "stop_epoch", "lr", "lr_base", "opt", "model"}


def from_timm(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a schedule of timm 1.0 as a spec.

    Args:
        config: One of: ``{"create_scheduler_v2": {...}}``, its keywords alone, or the text of the call;
            ``{"create_scheduler": {...}}``; the arguments of ``train.py`` by name, with dashes or underscores, or the
            ``args.yaml`` that it wrote; a class of ``timm.scheduler``, as ``{"type": "CosineLRScheduler", ...}`` or as
            the text of the call. Or the path of a ``.yaml``, ``.json`` or ``.py`` file with one of these.
        facts: What the config leaves open: ``epochs`` or ``total_iters`` where the run is not as long as timm would
            make it, ``iters_per_epoch`` where a length in updates is rounded, ``base_lr`` where a group's rate may lie
            below ``min_lr``, ``lr_scale`` for ``sched="none"``, ``metrics`` by name for a plateau.
        strict: Whether a key that is not mapped is an error.

    Raises:
        SolverError: What timm refuses, what has no counterpart, a config of another system, a fact that is needed.

    Example:
        >>> imported = from_timm("CosineLRScheduler(optimizer, t_initial=20, t_in_epochs=False)")
        >>> imported.spec.to_dict()["schedules"]["lr"][0]
        {'class_path': 'Cosine', 'init_args': {'until': 20}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    name, settings = _read(load(config), notes)
    phases = (_of_class if name in CLASSES else _of_factory)(name, settings, known)
    return notes.imported(imported_spec({} if phases is None else {"lr": phases}), strict)


# ------------------------------------------------------------------ what is given


def _read(config: Any, notes: Notes) -> tuple[str, Settings]:
    """Whose arguments they are ("train.py" for those of the script), and the arguments."""
    if not isinstance(config, Mapping):
        return _called(config, "config", notes)
    refuse_other_peers(config, "from_timm")
    for name in _FACTORIES:
        if name in config:
            for key in config:
                if key != name:
                    notes.unmapped(str(key), "is not part of the schedules")
            inner = config[name]
            return _arguments(name, inner, notes) if isinstance(inner, Mapping) else _called(inner, name, notes)
    if any(key in config for key in ("type", "class_path", "_target_")) or (
        len(config) == 1 and set(config) & set(CLASSES)
    ):
        return _called(config, "config", notes)
    calls = [value for value in (*config.values(), *config.get("calls", ())) if isinstance(value, Call)]
    calls = [call for call in calls if call.name in CLASSES or call.name in _FACTORIES]
    return _called(calls, "config", notes) if calls else _flat(config, notes)


def _called(config: Any, where: str, notes: Notes) -> tuple[str, Settings]:
    calls = read_calls(config, where)
    if len(calls) != 1:
        got, do = ", ".join(call.name for call in calls), "give one; timm does not join several"
        raise SolverError(where, "must be one scheduler", got=got or repr(config)[:80], do=do)
    (call,) = calls
    if call.name in ("create_scheduler", "scheduler_kwargs"):
        do = "give {'create_scheduler': {...}} with the arguments themselves"
        raise SolverError(where, "takes its arguments from an object that is not here", got=call.name, do=do)
    names = CLASSES.get(call.name) or (FACTORY if call.name == "create_scheduler_v2" else None)
    if names is None:
        do = suggestion(call.name, [*CLASSES, *_FACTORIES], "schedulers")
        raise SolverError(where, "is not a scheduler of timm", got=repr(call.name), do=do)
    return _arguments(call.name, call.bound(("optimizer", *names), call.name), notes)


def _arguments(name: str, given: Mapping[str, Any], notes: Notes) -> tuple[str, Settings]:
    """The arguments of a class or of the factory."""
    data = {str(key): value for key, value in given.items() if key != "optimizer"}
    if isinstance(data.get("updates_per_epoch"), (Call, Name, Unread)):  # len(loader): a fact, where it matters
        del data["updates_per_epoch"]
    if name in ("create_scheduler", "scheduler_kwargs"):
        return name, Settings(_underscored(data, name), name, notes)
    return name, Settings(_known(data, CLASSES.get(name, FACTORY), name, name, notes), name, notes)


def _known(data: Mapping[str, Any], names: Iterable[str], owner: str, where: str, notes: Notes) -> dict[str, Any]:
    """The arguments that a function has; others are noted."""
    known = list(names)
    for key in data:
        if key not in known:
            notes.unknown(f"{where}.{key}" if where else key, key, owner, known)
    return {key: value for key, value in data.items() if key in known}


def _underscored(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in config.items():
        name = str(key).lstrip("-").replace("-", "_")
        name = "decay_rate" if name == "dr" else name
        if name in data:
            raise SolverError(f"{where}.{name}", "is given twice", got=repr(value)[:80], do="give it once")
        data[name] = value
    return data


def _flat(config: Mapping[str, Any], notes: Notes) -> tuple[str, Settings]:
    """Keywords of the factory, or arguments of the script: told apart by the names that only one of them has."""
    data = _underscored(config, "config")
    ours, theirs = (sorted(set(data) & names) for names in (set(FACTORY) - set(_SHARED), _MARKS))
    if not ours and not set(data) & {*_SHARED, "sched_on_updates"} - {"seed"}:
        do = "give the arguments of train.py, {'create_scheduler_v2': {...}}, or a class with its arguments"
        got = ", ".join(map(str, config))[:120] or "nothing"
        raise SolverError("config", "has nothing of timm's schedules", got=got, do=do)
    if ours and theirs:
        do = "give the keywords of create_scheduler_v2, or the arguments of train.py"
        what = "is a keyword of create_scheduler_v2 among arguments of train.py"
        raise SolverError(ours[0], what, got=", ".join(theirs), do=do)
    if theirs:
        return "train.py", Settings(data, "", notes)
    if not ours and "warmup_epochs" not in data:
        notes.say("config", "is read as keywords of create_scheduler_v2, which warms up for 0 epochs; train.py for 5")
    name = "create_scheduler_v2"
    return name, Settings(_known(data, FACTORY, name, "", notes), "", notes)


def _numbers(value: Any, where: str, least: int = 0) -> list[float]:
    kinds = isinstance(value, (list, tuple)) and {type(number) for number in value} <= {int, float}
    if not kinds or len(value) < least:
        what = f"must be a list of at least {least} numbers" if least else "must be a list of numbers"
        raise SolverError(where, what, got=repr(value), do="write [30, 60]")
    return list(value)


# ------------------------------------------------------------------ what is counted


@dataclass(frozen=True)
class _Clock:
    """What the numbers of a schedule count.

    Args:
        unit: ``ep`` or ``st``.
        stairs: Whether ``t`` counts epochs; updates otherwise.
        ticks: How many ``t`` make a unit; ``None`` if that is not known.
        run: Length of the run in units, where it is known.
    """

    unit: Literal["ep", "st"]
    stairs: bool
    ticks: int | None = 1
    run: Fraction | None = None

    @property
    def one(self) -> str:
        """The unit of ``t``."""
        return "ep" if self.stairs else "st"

    @property
    def tick(self) -> int | str:
        """One ``t``."""
        return length(1, self.one)

    def text(self, units: Fraction, ticks: int = 0) -> int | str:
        """So many units and so many ``t``, as a duration."""
        if self.one == self.unit:
            return length(units + ticks, self.unit)
        if units and ticks:
            return f"{length(units, 'ep')}{ticks:+}st"
        return length(units, "ep") if units else length(ticks)

    def at(self, units: Fraction, ticks: float | None) -> int | str:
        """``units`` as a duration, where timm calculates with ``ticks`` for it, which rounding may have changed."""
        if ticks is None or self.ticks is None or units * self.ticks == exact(ticks):
            return length(units, self.unit)
        return length(ticks, self.one)

    def after(self, units: Fraction) -> bool:
        """Whether the run goes on after ``units``, as far as is known."""
        return self.run is None or self.run > units


@dataclass(frozen=True)
class _Run:
    """The run that the facts tell of: its epochs, its steps, and the steps of an epoch."""

    epochs: Fraction | None
    steps: Fraction | None
    per_epoch: int | None

    @classmethod
    def of(cls, facts: Facts, accumulated: Any = None) -> _Run:
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


@dataclass(frozen=True)
class _Source:
    """The arguments of a class, given as such or by way of the factory.

    Args:
        settings: What is given.
        clock: What its numbers count.
        names: Argument of the class -> the name that it has in ``settings``, where it has another.
        defaults: Argument of the class -> default.
        scale: How many units of the clock a number of the config is.
    """

    settings: Settings
    clock: _Clock
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    scale: int = 1

    def name(self, argument: str) -> str:
        return self.names.get(argument, argument)

    def path(self, argument: str) -> str:
        return self.settings.path(self.name(argument))

    def take(self, argument: str) -> Any:
        value = self.settings.take(self.name(argument))
        return self.defaults[argument] if value is None else value

    def number(self, argument: str, low: float | None = None) -> Any:
        if self.defaults[argument] is None:
            self.settings.needed(self.name(argument))
        return self.settings.number(self.name(argument), self.defaults[argument], low=low)

    def positive(self, argument: str, below: float = math.inf) -> Any:
        value = self.number(argument)
        if not 0 < value < below:
            what = "must be > 0" if below == math.inf else f"must lie between 0 and {below:g}"
            raise SolverError(self.path(argument), what, got=repr(value), do="correct it")
        return value

    def units(self, number: float) -> Fraction:
        """A number of the config in units of the clock."""
        return exact(number) * self.scale

    def ticks(self, number: float) -> float | None:
        """A number of the config as the number of ``t`` that timm calculates with, if known."""
        per = None if self.clock.ticks is None else self.clock.ticks * self.scale
        return None if per is None else number if per == 1 else number * per

    def say(self, argument: str, what: str) -> None:
        self.settings.notes.say(self.path(argument), what)


# ------------------------------------------------------------------ parts of every schedule


@dataclass(frozen=True)
class _Ramp:
    """The warm-up: its length in units, the value it starts at, and whether the curve waits for its end."""

    length: Fraction = Fraction(0)
    start: float = 0.0
    prefix: bool = False

    @property
    def offset(self) -> Fraction:
        """Where the curve begins."""
        return self.length if self.prefix else Fraction(0)

    def line(self, clock: _Clock, end: Level = 1.0) -> Linear:
        return Linear(start=_scaled(self.start), end=end, until=clock.text(self.length))


def _ramp(source: _Source, prefix: bool | None = None) -> _Ramp:
    if prefix is None:
        prefix = source.settings.flag(source.name("warmup_prefix"), source.defaults["warmup_prefix"])
    return _Ramp(source.units(source.number("warmup_t", low=0)), source.number("warmup_lr_init", low=0), prefix)


@dataclass(frozen=True)
class _Jitter:
    """The noise: from where, and perhaps up to where, as pairs of units and the first ``t`` there, if known."""

    begin: tuple[Fraction, int | None]
    end: tuple[Fraction, int | None] | None
    noise: Noise

    def phases(self, clock: _Clock) -> Phases:
        units, ticks = self.begin
        early = units <= 0 if ticks is None else ticks < 1  # none is drawn before the first call
        phases = (Constant(until=clock.tick if early else clock.at(units, ticks)),)
        if self.end is None or not clock.after(self.end[0]):
            return (*phases, self.noise)
        return (*phases, replace(self.noise, until=clock.at(*self.end)), Constant())


def _jitter(source: _Source, shares_of: float | None = None) -> _Jitter | None:
    """The noise; its range is given in shares of ``shares_of`` by the factory, and there in a list of one as well."""
    given, path = source.settings.take(source.name("noise_range_t")), source.path("noise_range_t")
    if given is None:
        return None
    if isinstance(given, (list, tuple)):
        bounds = _numbers(given, path, 2 if shares_of is None else 1)[:2]
    else:
        bounds = [source.settings.number(source.name("noise_range_t"))]
    uniform = "noise_type" in source.defaults and source.take("noise_type") != "normal"
    limit, std, seed = source.number("noise_pct"), source.number("noise_std", low=0), source.number("noise_seed", low=0)
    if not 0 < limit <= 1:
        what = "above 1 makes rates negative" if limit > 1 else "lets timm draw for ever"
        raise SolverError(source.path("noise_pct"), what, got=repr(limit), do="give a limit > 0 and at most 1")
    if seed != int(seed):
        raise SolverError(source.path("noise_seed"), "must be a whole number", got=repr(seed), do="correct it")
    if std == 0 and not uniform:
        source.say("noise_std", "is 0, so that there is no noise")
        return None
    points: list[tuple[Fraction, int | None]] = []
    for bound in bounds:
        whole = 1 if shares_of is None else shares_of
        ticks = source.ticks(whole)
        points.append((exact(bound) * source.units(whole), None if ticks is None else math.ceil(bound * ticks)))
    if len(points) > 1 and points[1][0] <= max(points[0][0], Fraction(0)):
        return None
    law: Any = {"distribution": "uniform"} if uniform else {"std": float(std)}
    noise = Noise(limit=float(limit), seed=int(seed), every=source.clock.tick, **law)
    return _Jitter(points[0], points[1] if len(points) > 1 else None, noise)


@dataclass(frozen=True)
class _Parts:
    """What a schedule is put together from.

    Args:
        body: The curve: its phases, from where it begins.
        meets: How the warm-up and a curve that does not wait for its end meet.
        aim: What the warm-up aims at.
        first: Whether the first ``t`` has the base rate, which timm's constructors write, whatever the curve says.
        even: Whether the curve changes only where epochs begin, so that it needs no staircase.
    """

    body: Sequence[Schedule]
    meets: Literal["beneath", "interpolate"] = "beneath"
    aim: Level = 1.0
    first: bool = False
    even: bool = False

    def joined(self, clock: _Clock, ramp: _Ramp, jitter: _Jitter | None) -> Phases:
        """The schedule."""
        phases, even = tuple(self.body), self.even
        if ramp.length:
            line, even = ramp.line(clock, self.aim), False
            alone = len(phases) == 1 and isinstance(phases[0], (Constant, MultiStep))  # wherever it begins
            if ramp.prefix or (alone and self.meets == "beneath"):
                phases = (line, *phases)
            else:
                phases = (Warmup(ramp=line, of=simple(phases), meets=self.meets),)
        elif self.first:
            phases, even = (Warmup(ramp=Constant(until=clock.tick), of=simple(phases), meets="beneath"),), False
        if jitter is not None:
            phases = (Product((simple(phases), jitter.phases(clock))),)
        return simple(phases) if even or not clock.stairs else Staircase(simple(phases))


def _scaled(value: float) -> Level:
    """A value that timm writes to every group, times the group's ``lr_scale``; 0 is simply 0."""
    return {"scaled": float(value)} if value else 0.0


def _between(base: float, floor: float, left: float) -> Level:
    """``floor + (base - floor) * left``, where ``base`` is a factor of the group's base value."""
    level = {"base": base * left, "scaled": floor * (1.0 - left)}
    return level if level["base"] and level["scaled"] else level["base"] or _scaled(level["scaled"])


# ------------------------------------------------------------------ cosine, tanh, poly


@dataclass(frozen=True)
class _Curve:
    """One of the curves that can go in cycles.

    Args:
        kind: Which.
        t: Length of the first cycle in units.
        span: The same in ``t``, as the number that timm calculates with; ``None`` if unknown.
        floor: ``lr_min``.
        mul: How many times as long each cycle is as the one before it.
        decay: Factor of the base rate from each cycle to the next.
        limit: Number of cycles.
        time_power: Exponent of the time that has passed ("k-decay").
        power: Exponent of poly.
        lower: Where the tangent begins.
        upper: Where it ends.
    """

    kind: Literal["cosine", "tanh", "poly"]
    t: Fraction
    span: float | None
    floor: float
    mul: float
    decay: float
    limit: int
    time_power: float = 1.0
    power: float = 1.0
    lower: float = -7.0
    upper: float = 3.0

    @property
    def reaches(self) -> bool:
        """Whether a cycle ends at ``lr_min``."""
        return self.kind == "cosine" or (self.kind == "poly" and self.power > 0)

    def shape(self, start: Level = 1.0, until: int | str | None = None) -> Schedule:
        """One cycle."""
        end = _scaled(self.floor)
        if self.kind == "cosine":
            return Cosine(start=start, end=end, time_power=self.time_power, until=until)
        if self.kind == "tanh":
            return Tanh(lower=self.lower, upper=self.upper, start=start, end=end, until=until)
        if self.power == 0:
            return Constant(start, until=until)
        if self.power == self.time_power == 1:
            return Linear(start=start, end=end, until=until)
        return Polynomial(power=self.power, start=start, end=end, time_power=self.time_power, until=until)

    def bound(self, cycle: int) -> Fraction:
        """Where a cycle begins, in units from the beginning of the curve."""
        mul = exact(self.mul)
        return self.t * (cycle if mul == 1 else (mul**cycle - 1) / (mul - 1))

    def asked(self, t: float) -> tuple[int, float]:
        """What timm works out for ``t``: the cycle, and how much of the way to ``lr_min`` is left.

        Raises:
            ValueError: It works out a complex number, by a time that rounding has made negative.
        """
        span, mul, power = self.span, self.mul, self.time_power
        assert span is not None
        if mul == 1:
            cycle = int(t // span)
            now, whole = t - span * cycle, span
        else:
            cycle = math.floor(math.log(1 - t / span * (1 - mul), mul))
            now, whole = t - (1 - mul**cycle) / (1 - mul) * span, mul**cycle * span
        if cycle >= self.limit:
            return cycle, 0.0
        if self.kind == "tanh":
            passed = now / whole
            return cycle, 0.5 * (1.0 - math.tanh(self.lower * (1.0 - passed) + self.upper * passed))
        passed = now**power / whole**power
        left = passed if isinstance(passed, complex) else (1.0 - passed) ** self.power
        if isinstance(left, complex):
            raise ValueError
        return cycle, left if self.kind == "poly" else 0.5 * (1.0 + math.cos(math.pi * passed))

    def vanished(self, t: float | Fraction | None) -> bool:
        """Whether cycles that shrink are over before ``t``, if it is known."""
        if t is None or self.span is None or self.mul >= 1:
            return False
        return 1 - float(t) / self.span * (1 - self.mul) <= 0

    def odd(self, clock: _Clock, begin: Fraction) -> dict[int, Level | None]:
        """The cycles at whose beginning rounding gives timm another value than the base rate, and that value.

        It is ``None`` where timm fails there.
        """
        found: dict[int, Level | None] = {}
        if self.span is None or clock.ticks is None or (self.mul == 1 and float(self.span).is_integer()):
            return found
        for cycle in range(1, min(self.limit, _MOST) + 1):
            ticks = self.bound(cycle) * clock.ticks
            if not clock.after(begin + self.bound(cycle)) or ticks > 10**7:
                break
            if (ticks + begin * clock.ticks).denominator == 1:  # a t is there
                try:
                    taken_for, left = self.asked(int(ticks) if ticks.denominator == 1 else float(ticks))
                except ValueError:
                    found[cycle] = None
                    continue
                if taken_for < cycle or (taken_for == cycle < self.limit and abs(left - self.top) > 1e-11):
                    found[cycle] = _between(float(self.decay**taken_for), self.floor, left)
        return found

    @property
    def top(self) -> float:
        """How much of the way to ``lr_min`` is left at the beginning of a cycle: nearly all with tanh."""
        return 0.5 * (1.0 - math.tanh(self.lower)) if self.kind == "tanh" else 1.0

    def phases(self, clock: _Clock, begin: Fraction) -> list[Schedule]:
        """The curve from ``begin`` on, and what comes after it."""
        odd, floor = self.odd(clock, begin), Constant(_scaled(self.floor))
        if self.limit < 1:
            return [floor]
        if odd or (self.limit > 1 and (self.mul < 1 or self.decay == 0)):
            return self.one_by_one(clock, begin, odd)
        if self.limit > 1:
            grow = int(self.mul) if float(self.mul).is_integer() else float(self.mul)
            every = length(self.t, clock.unit)
            cycle = Cycle(self.shape(), every=every, grow=grow, decay=float(self.decay), times=self.limit)
            if self.reaches or self.limit > _MOST or not clock.after(begin + self.bound(self.limit)):
                return [cycle]
            return [replace(cycle, until=clock.text(begin + self.bound(self.limit))), floor]
        end = begin + self.t
        rest = [HOLD if self.reaches else floor] if clock.after(end) else []
        return [self.shape(until=None if clock.run == end else clock.text(end)), *rest]

    def one_by_one(self, clock: _Clock, begin: Fraction, odd: Mapping[int, Level | None]) -> list[Schedule]:
        """Every cycle as phases of their own, where no :class:`Cycle` says it."""
        phases: list[Schedule] = []
        for cycle in range(min(self.limit, _MOST) + 1):
            first, last = begin + self.bound(cycle), begin + self.bound(cycle + 1)
            if not clock.after(first):
                break
            instead = odd.get(cycle)
            if instead is not None:
                phases.append(Constant(instead, until=clock.text(first, 1)))
            if cycle == self.limit:
                phases.append(Constant(_scaled(self.floor)))
                break
            start = float(self.decay**cycle)
            shape = self.shape(start, until=clock.text(last))
            if instead is not None:
                shape = Over(self.shape(start), begin=clock.text(first), end=clock.text(last), until=clock.text(last))
            phases.append(shape)
        return phases


_MOST = 200  # cycles that are looked at one by one


def _curve(source: _Source, kind: Any) -> _Curve:
    span = source.positive("t_initial")
    return _Curve(
        kind,
        source.units(span),
        source.ticks(span),
        source.number("lr_min", low=0),
        mul=source.positive("cycle_mul"),
        decay=source.number("cycle_decay", low=0),
        limit=math.ceil(source.number("cycle_limit", low=0 if kind == "tanh" else None)),
        time_power=1.0 if kind == "tanh" else float(source.positive("k_decay")),
        power=float(source.number("power", low=0)) if kind == "poly" else 1.0,
        lower=float(source.number("lb")) if kind == "tanh" else -7.0,
        upper=float(source.number("ub")) if kind == "tanh" else 3.0,
    )


def _curve_parts(curve: _Curve, source: _Source, ramp: _Ramp) -> _Parts:
    clock = source.clock
    if curve.lower >= curve.upper:
        raise SolverError(source.path("lb"), "must be below ub", got=f"{curve.lower:g}", do="swap them")
    aims = curve.kind == "tanh" and ramp.length > 0 and not ramp.prefix
    meet = None if clock.ticks is None else ramp.length * clock.ticks
    last = None
    if clock.run is not None and clock.ticks is not None:
        last = math.ceil(clock.run * clock.ticks) - 1 - ramp.offset * clock.ticks
    warm = not ramp.prefix and last is not None and meet is not None and last < meet  # to the end of the run
    if (aims and curve.vanished(meet)) or (not warm and curve.vanished(last)):
        what, do = "shrinks the cycles to nothing, where timm fails", "shorten the run, or give at least 1"
        raise SolverError(source.path("cycle_mul"), what, got=repr(curve.mul), do=do)
    odd = curve.odd(clock, ramp.offset)
    if odd:
        what = f"timm's rounding gives the first {_each(clock)} of some cycles another value: they are written out"
        source.say("cycle_mul", what)
    if clock.run is not None and None in odd.values():
        what = "timm fails where a cycle begins, as rounding makes the time negative that has passed"
        do = "give other lengths, or a whole k_decay"
        raise SolverError(source.path("cycle_mul"), what, got=repr(curve.mul), do=do)
    parts = _Parts(curve.phases(clock, ramp.offset))
    if not ramp.length and (curve.limit < 1 or (curve.kind == "tanh" and 1 + math.tanh(curve.lower) > 1e-13)):
        what = f"the first {_each(clock)} has the base rate itself, as timm asks for the curve after it only"
        source.say("t_initial", what)
        return replace(parts, first=True)
    if not aims:
        return parts
    if meet is None or (meet.denominator == 1 and ramp.length < curve.t and clock.after(ramp.length)):
        return replace(parts, meets="interpolate")
    cycle, left = curve.asked(float(meet))  # where no step is, or the run may be over
    return replace(parts, aim=_between(float(curve.decay**cycle), curve.floor, left))


def _each(clock: _Clock) -> str:
    return "epoch" if clock.stairs else "update"


# ------------------------------------------------------------------ step, multistep


def _step_parts(source: _Source, ramp: _Ramp) -> _Parts:
    clock, number, gamma = source.clock, source.positive("decay_t"), float(source.number("decay_rate", low=0))
    every, ticks = source.units(number), source.ticks(number)
    even = every.denominator == 1
    if gamma == 1:
        return _Parts([Constant()], even=True)
    stair = clock.at(every, ticks)
    if ticks is not None and clock.ticks is not None and Fraction(ticks) > exact(ticks):
        # In floating point the divisor is a little more than it says, so that drops at a whole t come one t late.
        whole = 10**6 if clock.run is None else clock.run * clock.ticks
        if exact(ticks).numerator < whole or ramp.offset.denominator > 1:
            stair = length(Fraction(math.ceil(Fraction(ticks) * 10**13), 10**13), clock.one)
            source.say("decay_t", "timm's division rounds, so that a drop at a whole number comes one late")
    if gamma:
        return _Parts([Step(every=stair, gamma=gamma)], even=even)
    return _Parts([Constant(until=clock.text(ramp.offset + every)), Constant(0.0)], even=even)


def _multistep_parts(source: _Source, ramp: _Ramp) -> _Parts:
    """A drop at ``t = m - 1`` for every milestone ``m``, counted from where the curve begins."""
    clock, gamma = source.clock, float(source.number("decay_rate", low=0))
    milestones = _numbers(source.take("decay_t"), source.path("decay_t"))
    counts: dict[int | str, int] = {}
    for milestone in sorted(set(milestones)):
        units = source.units(milestone)
        point = clock.text(ramp.offset + units, -1)
        if units <= 0 or (clock.ticks is not None and units * clock.ticks <= 1):  # the first t has the base rate
            point = clock.text(ramp.offset) if ramp.length else clock.tick
        counts[point] = bisect_right(milestones, milestone)
    if not counts or gamma == 1:
        return _Parts([Constant()], even=True)
    even, points = all(source.units(milestone).denominator == 1 for milestone in milestones), list(counts)
    source.say(
        "decay_t", f"timm drops one {_each(clock)} before a milestone: the first time at {points[0]}, counted from 0"
    )
    if gamma and list(counts.values()) == list(range(1, len(counts) + 1)):
        return _Parts([MultiStep(at=tuple(points), gamma=gamma)], even=even)
    levels = [float(gamma**drops) for drops in (0, *counts.values())]
    return _Parts([*map(Constant, levels, points), Constant(levels[-1])], even=even)


# ------------------------------------------------------------------ warm-up, stable, decay


@dataclass(frozen=True)
class _Stable:
    """A stable phase and a decay, after a warm-up.

    Args:
        t: Length of both in units.
        decay: Length of the decay in units; ``None`` where it is no part of them.
        floor: ``lr_min``.
        shape: Of the decay.
        ticks: Length of the decay in ``t``, where that is needed.
        power: Exponent of the stable phase; 0 if it is constant.
        timescale: Of the stable phase, in units.
        time_power: Of a decay by a power.
        ratio: Of an exponential decay.
    """

    t: Fraction
    decay: Fraction | None
    floor: float
    shape: str
    ticks: int = 0
    power: float = 0.0
    timescale: Fraction = Fraction(1)
    time_power: float = 0.5
    ratio: float = 0.1

    def fall(self, start: Level, end: Level, until: int | str | None) -> Schedule:
        """The decay from one level to another."""
        if self.shape == "exp":
            return self.exponential(start, end, until)
        if self.shape == "cosine":
            return Cosine(start=start, end=end, until=until)
        time_power = {"linear": 1.0, "1-sqrt": 0.5}.get(self.shape, self.time_power)
        if time_power == 1:
            return Linear(start=start, end=end, until=until)
        return Polynomial(start=start, end=end, time_power=time_power, until=until)

    def exponential(self, start: Level, end: Level, until: int | str | None) -> Schedule:
        """``end + (start - end) * (ratio ** x - ratio) / (1 - ratio)``, as an exponential and a constant."""
        moving: dict[str, float] = {}
        still: dict[str, float] = {}
        for kind in ("base", "scaled"):
            first, last = _part(start, kind), _part(end, kind)
            if first != last:
                moving[kind] = (first - last) / (1.0 - self.ratio)
            if last != first * self.ratio:
                still[kind] = (last - first * self.ratio) / (1.0 - self.ratio)
        return Sum((Exponential(gamma=self.ratio, start=moving), Constant(still)), until=until)

    def phases(self, clock: _Clock, begin: Fraction) -> list[Schedule]:
        """What follows the warm-up: ``stable * decay + lr_min * (1 - decay)``."""
        end = begin + self.t
        turn = clock.text(end, -self.ticks) if self.decay is None else clock.text(end - self.decay)
        until = None if clock.run == end else clock.text(end)
        more, steady = clock.after(end) and until is not None, self.decay is None or self.decay < self.t
        floor = _scaled(self.floor)

        def decaying(start: Level, last: Level) -> list[Schedule]:
            still = [Constant(start, until=turn)] if steady else []
            held = Constant(last) if self.shape == "exp" else HOLD  # rounding leaves a little of the exponential
            return [*still, self.fall(start, last, until), *([held] if more else [])]

        if not self.power:
            return decaying(1.0, floor)
        slower = Inverse(every=length(self.timescale, clock.unit), power=self.power)
        main = Product((simple(decaying(1.0, 0.0)), slower))
        return [Sum((main, simple(decaying(0.0, floor))))] if self.floor else [main]


def _part(level: Level, kind: str) -> float:
    """What a level says of ``base`` or ``scaled``."""
    named = level if isinstance(level, dict) else {"base": level}
    return float(named.get(kind, 0.0))


def _stable_parts(stable: _Stable, source: _Source, ramp: _Ramp, bases: Sequence[float] | None) -> _Parts:
    """The phases, held at ``lr_min`` where a group may lie below it."""
    phases, floor = stable.phases(source.clock, ramp.offset), stable.floor
    least = float(1 + stable.t / stable.timescale) ** -stable.power
    if floor and bases is None and not stable.power:
        what = "timm holds groups whose own rate is lower at this one; give facts={'base_lr': [...]} if there are any"
        source.say("lr_min", what)
    elif floor and (bases is None or min(bases) * least < floor):
        first = not ramp.length and bases is not None and min(bases) < floor
        return _Parts([Clip(simple(phases), min=_scaled(floor))], first=first)
    return _Parts(phases)


def _fits(decay: float, total: float, path: str) -> None:
    if not 0 < decay <= total:
        what = "the decay must be longer than nothing and fit into the time after the warm-up"
        raise SolverError(path, what, got=f"{decay:g} of {total:g}", do="correct the lengths")


def _class_stable(source: _Source) -> _Stable:
    settings = source.settings
    t, decay = source.positive("t_initial"), source.number("decay_t")
    _fits(decay, t, source.path("decay_t"))
    stable_fn = settings.choice("stable_fn", ("constant", "rsqrt", "power"), "constant")
    shape = settings.choice("decay_fn", _SHAPES, "1-sqrt")
    stable = _Stable(
        exact(t),
        exact(decay),
        source.number("lr_min", low=0),
        shape,
        time_power=float(source.positive("decay_power")),
        ratio=float(source.positive("decay_ratio", below=1)),
    )
    power = {"constant": 0.0, "rsqrt": 0.5, "power": float(source.positive("stable_power"))}[stable_fn]
    return replace(stable, power=power, timescale=_timescale(source)) if power else stable


_SHAPES = ("linear", "1-sqrt", "cosine", "power", "exp")


def _timescale(source: _Source) -> Fraction:
    given = source.settings.number(source.name("stable_timescale"))
    given = source.number("warmup_t") if given is None else given
    if given <= 0:
        do = f"give {source.name('warmup_t')}, whose length it is by default, or {source.name('stable_timescale')}"
        raise SolverError(source.path("stable_timescale"), "must be > 0", got=repr(given), do=do)
    return source.units(given)


def _factory_stable(source: _Source, sched: str, prefix: bool, facts: Facts) -> _Stable:
    """``wsd`` and ``rsqrt``, whose decay is rounded to whole ``t``."""
    default = "linear" if sched == "rsqrt" else "1-sqrt"
    shape = source.take("decay_fn") or default
    if shape not in _SHAPES:
        raise SolverError(
            source.path("decay_fn"), "unknown value", got=repr(shape), do=suggestion(shape, _SHAPES, "values")
        )
    decay, path, per = source.number("decay_t"), source.path("decay_t"), source.ticks(1)
    t = source.number("t_initial") - (0 if prefix else source.number("warmup_t"))
    part = exact(decay) * exact(t) if 0 < decay < 1 else exact(decay)
    ticks = None if per is None else round(decay * (t * per) if 0 < decay < 1 else decay * per)
    if per is None and (part.denominator != 1):
        facts.need("iters_per_epoch", path, "the decay is rounded to updates, for which an epoch's length is needed")
    _fits(float(part) if ticks is None else ticks, t if per is None else t * per, path)
    units = None if ticks is not None and part * exact(per or 1) != ticks else part * source.scale
    stable = _Stable(source.units(t), units, source.number("lr_min", low=0), shape, ticks or 0)
    return replace(stable, power=0.5, timescale=_timescale(source)) if sched == "rsqrt" else stable


# ------------------------------------------------------------------ plateau


def _plateau(source: _Source, monitor: str, ramp: _Ramp, jitter: _Jitter | None) -> Phases:
    """The plateau of torch, which comes after the warm-up, and whose floor knows nothing of ``lr_scale``."""
    mode: Any = source.settings.choice(source.name("mode"), ("min", "max"), source.defaults["mode"])
    plateau = Plateau(
        monitor,
        mode=mode,
        factor=float(source.positive("decay_rate", below=1)),
        patience=math.floor(source.number("patience_t", low=0)),
        threshold=float(source.number("threshold", low=0)),
        cooldown=math.ceil(source.number("cooldown_t", low=0)),
        min=absolute(source.number("lr_min", low=0)),
    )
    source.say("mode", f"the plateau follows {monitor}: log it under this name once per epoch, or change monitor")
    clock = source.clock
    phases: tuple[Schedule, ...] = (plateau,)
    if ramp.length:
        line = Staircase(replace(ramp.line(clock), until=None), until=clock.text(ramp.length))
        passed = float(math.floor(ramp.length) / ramp.length)  # where the warm-up stops
        plateau = plateau if passed == 1 else replace(plateau, start=_between(1.0, ramp.start, passed))
        phases = (line, plateau)
    if jitter is None:
        return simple(phases)
    begin = max(jitter.begin[1] or 0, math.floor(ramp.length) + 1)  # none is drawn during the warm-up
    if jitter.end is not None and (jitter.end[1] or 0) <= begin:
        return simple(phases)
    return Product((simple(phases), replace(jitter, begin=(Fraction(begin), begin)).phases(clock)))


def _monitor(facts: Facts) -> str:
    """The one metric that the facts name, or the one that timm's script follows."""
    metrics = facts.get("metrics")
    return str(next(iter(metrics))) if isinstance(metrics, Mapping) and len(metrics) == 1 else "top1"


# ------------------------------------------------------------------ the classes


def _of_class(name: str, settings: Settings, facts: Facts) -> Phases:
    settings.ignore("initialize")
    by_epoch, run = settings.flag("t_in_epochs", True), _Run.of(facts)
    clock = _Clock("ep" if by_epoch else "st", by_epoch, run=run.epochs if by_epoch else run.steps)
    source = _Source(settings, clock, {}, CLASSES[name])
    ramp = _ramp(source, None if "warmup_prefix" in CLASSES[name] else True)
    jitter = _jitter(source)
    if name == "PlateauLRScheduler":
        return _plateau(source, _monitor(facts), ramp, jitter)
    if name == "WSDLRScheduler":
        parts = _stable_parts(_class_stable(source), source, ramp, _bases(facts))
    elif name in _KINDS:
        parts = _curve_parts(_curve(source, _KINDS[name]), source, ramp)
    else:
        settings.needed("decay_t")
        parts = (_step_parts if name == "StepLRScheduler" else _multistep_parts)(source, ramp)
    return parts.joined(clock, ramp, jitter)


_KINDS = {"CosineLRScheduler": "cosine", "TanhLRScheduler": "tanh", "PolyLRScheduler": "poly"}


def _bases(facts: Facts) -> list[float] | None:
    given = facts.get("base_lr")
    return None if given is None else [float(x) for x in (given if isinstance(given, (list, tuple)) else [given])]


# ------------------------------------------------------------------ the factory and the script


def _of_factory(form: str, settings: Settings, facts: Facts) -> Phases | None:
    script = form != "create_scheduler_v2"
    if form in ("create_scheduler", "scheduler_kwargs"):
        settings.needed("sched")
    sched = settings.choice("sched", SCHEDULERS, "cosine")
    source, run = _factory_source(form, sched, settings, facts)
    warm, prefix = source.number("warmup_t", low=0), settings.flag("warmup_prefix", False)
    ramp = _ramp(source, prefix or sched in ("wsd", "rsqrt"))
    epochs = source.number("t_initial")
    jitter = None if sched == "none" else _jitter(source, epochs)
    curve = _curve(source, sched) if sched in _KINDS.values() else None

    total = exact(epochs) + (exact(warm) if prefix else 0)
    if curve is not None:
        total = _trained(curve, source, total - exact(epochs))
    if curve is not None or sched in ("wsd", "rsqrt"):
        total += exact(settings.number("cooldown_epochs", 0))
    total = total if source.clock.stairs else Fraction(math.floor(total))
    if form == "train.py" and settings.number("stop_epoch"):
        total = min(total, exact(settings.number("stop_epoch")))
    source.say("t_initial", f"timm trains for {total} epochs: Trainer(max_epochs={total})")
    if run.epochs not in (None, total):
        settings.notes.say("facts", f"the run is {float(run.epochs or 0):g} epochs long, not {total}")
    if source.clock.run is None and source.clock.unit == "ep":
        source = replace(source, clock=replace(source.clock, run=total))

    phases: Phases | None
    if sched == "none":
        phases = _unscheduled(facts, settings.notes)
    elif sched == "plateau":
        metric = str(settings.take("eval_metric", "top1")) if script else _monitor(facts)
        phases = _plateau(source, metric, ramp, jitter)
    else:
        phases = _factory_parts(sched, source, ramp, curve, prefix, facts).joined(source.clock, ramp, jitter)
    settings.ignore(
        *(source.name(name) for name in source.defaults), *(ARGUMENTS.get(n, n) for n in FACTORY) if script else FACTORY
    )
    if script:
        _rest(settings)
    return phases


def _trained(curve: _Curve, source: _Source, warm: Fraction) -> Fraction:
    """The epochs of all cycles and of a warm-up before them, cut to whole ``t`` where the cycles differ in length."""
    cycles = max(curve.limit, 1)
    if curve.mul == 1 or cycles > _MOST:
        return curve.bound(1) * cycles / source.scale + warm
    ticks = source.clock.ticks or 1
    return Fraction(math.floor(curve.bound(cycles) * ticks), ticks * source.scale) + warm


def _factory_parts(
    sched: str, source: _Source, ramp: _Ramp, curve: _Curve | None, prefix: bool, facts: Facts
) -> _Parts:
    if curve is not None:
        return _curve_parts(curve, source, ramp)
    if sched == "constant":
        return _Parts([Constant()], even=True)
    if sched in ("step", "multistep"):
        return (_step_parts if sched == "step" else _multistep_parts)(source, ramp)
    bases = _bases(facts)
    if bases is None and "lr" in source.settings and source.settings.number("lr"):
        bases = [float(source.settings.number("lr"))]
    return _stable_parts(_factory_stable(source, sched, prefix, facts), source, ramp, bases)


def _factory_source(form: str, sched: str, settings: Settings, facts: Facts) -> tuple[_Source, _Run]:
    """The keywords as arguments of the class, and the run that the facts tell of."""
    script = form != "create_scheduler_v2"
    differ = SCRIPT if form == "train.py" else NAMESPACE if script else {}
    keywords = {**FACTORY, **differ}
    if keywords["decay_epochs"] is None:
        keywords["decay_epochs"] = 0.2 if sched in ("wsd", "rsqrt") else 90
    renamed = {**KEYWORDS, "decay_t": "decay_milestones" if sched == "multistep" else "decay_epochs"}
    names = {name: renamed.get(name, name) for name in (*CLASSES.get(SCHEDULERS[sched], {}), *renamed)}
    of_class = CLASSES.get(SCHEDULERS[sched], {})
    defaults = {name: keywords.get(keyword, of_class.get(name)) for name, keyword in names.items()}
    if script:
        names = {name: ARGUMENTS.get(keyword, keyword) for name, keyword in names.items()}
        metric = str(settings.take("eval_metric", "top1"))
        falling = metric == "loss" if form == "train.py" else "loss" in metric
        names, defaults = {**names, "mode": "plateau_mode"}, {**defaults, "mode": "min" if falling else "max"}

    run = _Run.of(facts, settings.number("grad_accum_steps") if form == "train.py" else None)
    on_updates = settings.flag("sched_on_updates", False) if script else not settings.flag("step_on_epochs", True)
    updates = None if script else settings.number("updates_per_epoch")
    clock, scale = _Clock("ep", True, run=run.epochs), 1
    if on_updates:
        if sched == "plateau":
            do = "step it by epochs"
            raise SolverError(settings.path("sched"), "a plateau cannot be stepped by updates", got="plateau", do=do)
        if updates is not None and (updates <= 0 or updates != int(updates)):
            do = "give the number of updates of an epoch, or leave it out"
            raise SolverError(
                settings.path("updates_per_epoch"), "must be a whole number > 0", got=repr(updates), do=do
            )
        clock = _Clock("ep", False, run.per_epoch or updates, run.epochs)
        if updates and run.per_epoch not in (None, updates):
            what = f"is not the length of the run's epochs, {run.per_epoch}: the lengths are written in steps"
            settings.notes.say(settings.path("updates_per_epoch"), what)
            clock, scale = _Clock("st", False, 1, run.steps), int(updates)
    return _Source(settings, clock, names, defaults, scale), run


def _unscheduled(facts: Facts, notes: Notes) -> Phases | None:
    """No schedule: timm does not touch the groups then, so that their ``lr_scale`` has no effect."""
    scales, bases = facts.get("lr_scale"), _bases(facts)
    if scales is None or bases is None or set(scales) == {1.0}:
        what = "is none: timm leaves lr_scale of the groups without effect then; here the rates of groups contain it"
        notes.say("sched", what)
        return None
    notes.say("sched", "is none: lr_scale of the groups has no effect, as in timm")
    return PerGroup(tuple(Constant(absolute(base)) for base in bases))


def _rest(settings: Settings) -> None:
    """Note what is not mapped: most arguments of the script have nothing to do with its schedules."""
    names = [*_SHARED, "sched_on_updates"]

    def why(key: str) -> str:
        close = get_close_matches(key, names, 1, cutoff=0.8)
        return f"is not part of the schedules{f'; did you mean {close[0]}?' if close else ''}"

    for key, nothing in (("lr", None), ("grad_accum_steps", 1)):  # which may have been read
        if settings.take(key) not in (None, nothing):
            settings.notes.unmapped(settings.path(key), why(key))
    settings.rest(why)
