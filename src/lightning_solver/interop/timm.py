"""Schedules of timm: the keywords of ``create_scheduler_v2``, the arguments of its ``train.py``, and its classes.

timm's schedules are functions of ``t``, the number of epochs that are over, or of optimiser steps ("updates"). The
group holds the value of ``t`` from then on, so that a schedule by epochs is a staircase.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
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
    Function,
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

FACTORY: dict[str, Any] = {
    "sched": "cosine",
    "num_epochs": 300,
    "decay_epochs": None,
    "decay_milestones": (90, 180, 270),
    "cooldown_epochs": 0,
    "patience_epochs": 10,
    "decay_rate": 0.1,
    "min_lr": 0.0,
    "warmup_lr": 1e-5,
    "warmup_epochs": 0,
    "warmup_prefix": False,
    "noise": None,
    "noise_pct": 0.67,
    "noise_std": 1.0,
    "noise_seed": 42,
    "cycle_mul": 1.0,
    "cycle_decay": 0.1,
    "cycle_limit": 1,
    "k_decay": 1.0,
    "decay_fn": None,
    "stable_timescale": None,
    "plateau_mode": "max",
    "step_on_epochs": True,
    "updates_per_epoch": 0,
}
"""The keywords of ``create_scheduler_v2`` in order, with their defaults."""

ARGUMENTS: dict[str, str] = {
    "num_epochs": "epochs",
    "noise": "lr_noise",
    "noise_pct": "lr_noise_pct",
    "noise_std": "lr_noise_std",
    "noise_seed": "seed",
    "cycle_mul": "lr_cycle_mul",
    "cycle_decay": "lr_cycle_decay",
    "cycle_limit": "lr_cycle_limit",
    "k_decay": "lr_k_decay",
    "decay_fn": "lr_decay_fn",
    "stable_timescale": "lr_stable_timescale",
}
"""Keywords of the factory that have another name among the arguments of ``train.py``."""

TRAIN_DEFAULTS: dict[str, Any] = {"warmup_epochs": 5, "cycle_decay": 0.5}
"""Defaults of ``train.py`` that differ from the factory's."""

NAMESPACE_DEFAULTS: dict[str, Any] = {
    "num_epochs": 100,
    "decay_epochs": 30,
    "decay_milestones": (30, 60),
    "warmup_epochs": 5,
}
"""Defaults of ``create_scheduler(args)``, for what the arguments lack, that differ from the factory's."""

_WARMUP = ("warmup_t", "warmup_lr_init")
_NOISE = ("noise_range_t", "noise_pct", "noise_std", "noise_seed")
_CYCLES = ("lr_min", "cycle_mul", "cycle_decay", "cycle_limit", *_WARMUP, "warmup_prefix", "t_in_epochs")
_STAIRS = ("decay_t", "decay_rate", *_WARMUP, "warmup_prefix", "t_in_epochs", *_NOISE, "initialize")
CLASSES: dict[str, tuple[str, ...]] = {
    "CosineLRScheduler": ("t_initial", *_CYCLES, *_NOISE, "k_decay", "initialize"),
    "TanhLRScheduler": ("t_initial", "lb", "ub", *_CYCLES, *_NOISE, "initialize"),
    "PolyLRScheduler": ("t_initial", "power", *_CYCLES, *_NOISE, "k_decay", "initialize"),
    "StepLRScheduler": _STAIRS,
    "MultiStepLRScheduler": _STAIRS,
    "PlateauLRScheduler": (
        *("decay_rate", "patience_t", "threshold", "cooldown_t", *_WARMUP, "lr_min", "mode"),
        *("noise_range_t", "noise_type", "noise_pct", "noise_std", "noise_seed", "initialize"),
    ),
    "WSDLRScheduler": (
        *("t_initial", "decay_t", "lr_min", "stable_fn", "stable_timescale", "stable_power"),
        *("decay_fn", "decay_power", "decay_ratio", *_WARMUP, "t_in_epochs", *_NOISE, "initialize"),
    ),
}
"""The classes, with their arguments in order but for the optimiser."""

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep", "constant", "plateau", "wsd", "rsqrt", "none")
_FACTORIES = ("create_scheduler_v2", "create_scheduler", "scheduler_kwargs")

SCRIPT_ONLY = (*ARGUMENTS.values(), "sched_on_updates", "eval_metric", "stop_epoch", "lr", "lr_base", "opt", "model")
"""Arguments of ``train.py`` by which it is known that they are its own."""


def from_timm(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read a schedule of timm 1.0 as a spec.

    Args:
        config: One of: ``{"create_scheduler_v2": {...}}``, its keywords alone, or the text of the call;
            ``{"create_scheduler": {...}}``; the arguments of ``train.py`` by name, with dashes or underscores, or the
            ``args.yaml`` that it wrote; a class of ``timm.scheduler``, as ``{"type": "CosineLRScheduler", ...}`` or as
            the text of the call. A path of a ``.yaml``, ``.json`` or ``.py`` file with one of these.
        facts: What the config leaves open: ``epochs`` or ``total_iters`` where the run is not as long as the config
            says, ``iters_per_epoch`` where a length in updates is rounded, ``base_lr`` for a ``min_lr`` above it,
            ``lr_scale`` for ``sched="none"``.
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
    if name in CLASSES:
        phases = _from_class(name, settings, known, notes)
    else:
        phases = _from_factory(name, settings, known, notes)
    return notes.imported(imported_spec({} if phases is None else {"lr": phases}), strict)


# ------------------------------------------------------------------ what is given


def _read(config: Any, notes: Notes) -> tuple[str, Settings]:
    """Whose arguments they are ("train" for those of the script), and the arguments."""
    if not isinstance(config, Mapping):
        return _called(config, "config", notes)
    refuse_other_peers(config, "from_timm")
    for name in _FACTORIES:
        if name in config:
            for key in config:
                if key != name:
                    notes.unmapped(str(key), "is not part of the schedules")
            inner = config[name]
            if isinstance(inner, Mapping):
                return name, _arguments(name, inner, notes)
            return _called(inner, name, notes)
    if (
        any(key in config for key in ("type", "class_path", "_target_"))
        or (len(config) == 1
        and set(config) & set(CLASSES))
    ):
        return _called(config, "config", notes)
    calls = [value for value in (*config.values(), *config.get("calls", ())) if isinstance(value, Call)]
    calls = [call for call in calls if call.name in CLASSES or call.name in _FACTORIES]
    if calls:
        return _called(calls, "config", notes)
    return _flat(config, notes)


def _called(config: Any, where: str, notes: Notes) -> tuple[str, Settings]:
    calls = read_calls(config, where)
    if len(calls) != 1:
        do = "give one scheduler; timm has no way to join several"
        raise SolverError(where, "must be one scheduler", got=", ".join(call.name for call in calls) or "none", do=do)
    (call,) = calls
    if call.name in CLASSES:
        names = ("optimizer", *CLASSES[call.name])
    elif call.name == "create_scheduler_v2":
        names = ("optimizer", *FACTORY)
    elif call.name in _FACTORIES:
        do = "give {'create_scheduler': {...}} with the arguments themselves"
        raise SolverError(where, "takes its arguments from an object that is not here", got=call.name, do=do)
    else:
        do = suggestion(call.name, [*CLASSES, *_FACTORIES], "schedulers")
        raise SolverError(where, "is not a scheduler of timm", got=repr(call.name), do=do)
    return call.name, _arguments(call.name, call.bound(names, call.name), notes)


def _arguments(name: str, given: Mapping[str, Any], notes: Notes) -> Settings:
    """The arguments of a class or of the factory, which refuse those that they do not know."""
    data = {str(key): value for key, value in given.items() if key != "optimizer"}
    if isinstance(data.get("updates_per_epoch"), (Call, Name, Unread)):  # len(loader): a fact, if it matters
        del data["updates_per_epoch"]
    if name in ("create_scheduler", "scheduler_kwargs"):
        return Settings(_underscored(data, name), name, notes)
    known = CLASSES.get(name) or tuple(FACTORY)
    for key in data:
        if key not in known:
            do = suggestion(key, known, "arguments")
            raise SolverError(f"{name}.{key}", f"is not an argument of {name}", got=repr(data[key])[:80], do=do)
    return Settings(data, name, notes)


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
    """Keywords of the factory, or arguments of the script: by the names that only one of them has."""
    data = _underscored(config, "config")
    script = set(SCRIPT_ONLY)
    factory = set(FACTORY) - set(_script_names())
    ours, theirs = sorted(set(data) & factory), sorted(set(data) & script)
    if not set(data) & {*FACTORY, *_script_names(), "sched_on_updates"}:
        do = "give the arguments of train.py, {'create_scheduler_v2': {...}}, or a class with its arguments"
        got = ", ".join(map(str, config)) or "nothing"
        raise SolverError("config", "has nothing of timm's schedules", got=got[:120], do=do)
    if ours and theirs:
        do = "give the keywords of create_scheduler_v2 or the arguments of train.py"
        raise SolverError(
            ours[0], "is a keyword of create_scheduler_v2 among arguments of train.py", got=theirs[0], do=do
        )
    if theirs:
        return "train", Settings(data, "", notes)
    if not ours and "warmup_epochs" not in data:
        notes.say("config", "is read as keywords of create_scheduler_v2, which has no warm-up unless it is asked for")
    for key in data:
        if key not in FACTORY:
            do = suggestion(key, [*FACTORY, *script], "keywords")
            raise SolverError(key, "is not a keyword of create_scheduler_v2", got=repr(data[key])[:80], do=do)
    return "create_scheduler_v2", Settings(data, "", notes)


def _script_names() -> list[str]:
    """The names that the factory's keywords have among the arguments of the script."""
    own = ("step_on_epochs", "updates_per_epoch", "plateau_mode")
    return [ARGUMENTS.get(keyword, keyword) for keyword in FACTORY if keyword not in own]


@dataclass(frozen=True)
class _Keywords:
    """The keywords of the factory, read under the names that the form at hand gives them."""

    settings: Settings
    names: Mapping[str, str]
    defaults: Mapping[str, Any]

    def name(self, keyword: str) -> str:
        return self.names.get(keyword, keyword)

    def path(self, keyword: str) -> str:
        return self.settings.path(self.name(keyword))

    def number(self, keyword: str, *, low: float | None = None) -> Any:
        return self.settings.number(self.name(keyword), self.defaults[keyword], low=low)

    def take(self, keyword: str) -> Any:
        return self.settings.take(self.name(keyword), self.defaults[keyword])


def _numbers(value: Any, where: str, *, at_least: int = 0) -> list[float]:
    if not isinstance(value, (list, tuple)) or any(
        isinstance(x, bool) or not isinstance(x, (int, float)) for x in value
    ):
        raise SolverError(where, "must be a list of numbers", got=repr(value), do="write [30, 60]")
    if len(value) < at_least:
        raise SolverError(where, f"must have at least {at_least} numbers", got=repr(value), do="correct it")
    return list(value)


# ------------------------------------------------------------------ what is counted


@dataclass(frozen=True)
class _Clock:
    """What the numbers of a schedule count.

    Args:
        unit: ``ep`` or ``st``.
        stairs: Whether ``t`` counts epochs.
        per_epoch: Values of ``t`` in an epoch where the unit is ``ep`` and ``t`` counts updates; ``None`` if unknown.
        run: Length of the run in the unit, where it is known.
    """

    unit: Literal["ep", "st"]
    stairs: bool
    per_epoch: int | None = None
    run: Fraction | None = None

    @property
    def tick(self) -> int | str:
        """One ``t``."""
        return "1ep" if self.stairs else 1

    @property
    def ticks(self) -> int | None:
        """How many ``t`` make a unit."""
        return 1 if self.stairs or self.unit == "st" else self.per_epoch

    def text(self, units: Fraction, ticks: int = 0) -> int | str:
        """So many units and so many ``t``, as a duration."""
        if self.stairs or self.unit == "st":
            return length(units + ticks, self.unit)
        if not units or not ticks:
            return length(units, "ep") if units else ticks
        return f"{length(units, 'ep')}{ticks:+}st"

    def at(self, units: Fraction, ticks: int | None) -> int | str:
        """The point that lies at ``units``, where ``t`` reaches it at ``ticks``."""
        if ticks is None or self.ticks is None or units * self.ticks == ticks:
            return self.text(units)
        return length(ticks, "ep" if self.stairs else "st")

    def after(self, units: Fraction) -> bool:
        """Whether the run goes on after ``units``, as far as is known."""
        return self.run is None or self.run > units


@dataclass(frozen=True)
class _Run:
    """How long the run is that the facts tell of."""

    epochs: Fraction | None
    steps: Fraction | None
    per_epoch: int | None

    @classmethod
    def of(cls, facts: Facts, accumulated: Any = None) -> _Run:
        per_step = exact(facts.get("batches_per_step") or accumulated or 1)
        batches, epochs, steps = facts.get("iters_per_epoch"), facts.get("epochs"), facts.get("total_iters")
        whole = None if batches is None else math.ceil(exact(batches) / per_step)
        if batches is not None and steps is not None:
            exactly = exact(batches) / per_step
            if epochs is None or exact(steps) not in (epochs * exactly, epochs * (whole or 0)):
                epochs = exact(steps) / exactly
        if steps is None and epochs is not None and whole is not None:
            steps = exact(epochs) * whole
        return cls(None if epochs is None else exact(epochs), None if steps is None else exact(steps), whole)


# ------------------------------------------------------------------ parts of every schedule


@dataclass(frozen=True)
class _Ramp:
    """The warm-up: its length in units, the value it starts at, and whether the curve waits for its end."""

    length: Fraction
    start: float
    prefix: bool

    @property
    def offset(self) -> Fraction:
        """Where the curve begins."""
        return self.length if self.prefix else Fraction(0)

    def line(self, clock: _Clock, end: Level = 1.0) -> Linear:
        return Linear(start=_scaled(self.start), end=end, until=clock.text(self.length))


@dataclass(frozen=True)
class _Jitter:
    """The noise: from which ``t`` and up to which, as (units, ``t``); the ``t`` is ``None`` where it is not known."""

    begin: tuple[Fraction, int | None]
    end: tuple[Fraction, int | None] | None
    noise: Noise

    def phases(self, clock: _Clock) -> Phases:
        units, ticks = self.begin
        if (ticks is None and units <= 0) or (ticks is not None and ticks < 1):  # nothing is drawn before the first call
            first = clock.tick
        else:
            first = clock.at(units, ticks)
        phases: list[Schedule] = [Constant(until=first)]
        if self.end is None or not clock.after(self.end[0]):
            return (*phases, self.noise)
        return (*phases, replace(self.noise, until=clock.at(*self.end)), Constant())


def _scaled(value: float) -> Level:
    """A value that timm writes to every group, times the group's ``lr_scale``; 0 is simply 0."""
    return {"scaled": float(value)} if value else 0.0


def _between(base: float, floor: float, weight: float) -> Level:
    """``floor + (base - floor) * weight``, where ``base`` is a factor of the group's base value."""
    level = {"base": base * weight, "scaled": floor * (1.0 - weight)}
    level = {kind: value for kind, value in level.items() if value}
    return level.get("base", 0.0) if level.keys() <= {"base"} else level


def _read_ramp(settings: Settings, prefix: bool) -> _Ramp | None:
    """The warm-up of a class."""
    span = exact(settings.number("warmup_t", 0, low=0))
    start = settings.number("warmup_lr_init", 0.0, low=0)
    return _Ramp(span, start, prefix) if span else None


def _read_jitter(
    settings: Settings, names: Mapping[str, str], range_: Sequence[tuple[Fraction, int | None]], clock: _Clock
) -> _Jitter | None:
    """The noise: ``range_`` is where it begins, and perhaps where it ends."""
    limit = settings.number(names["pct"], 0.67)
    std = settings.number(names["std"], 1.0, low=0)
    seed = settings.number(names["seed"], 42, low=0)
    uniform = "type" in names and settings.take(names["type"], "normal") != "normal"
    if not range_ or (len(range_) > 1 and (range_[1][0] <= range_[0][0] or range_[1][0] <= 0)):
        return None
    if not 0 < limit <= 1:
        what = "must lie between 0 and 1" if limit > 1 else "must be > 0: timm would draw for ever"
        raise SolverError(settings.path(names["pct"]), what, got=repr(limit), do="give a limit of at most 1")
    if std == 0 and not uniform:
        settings.notes.say(settings.path(names["std"]), "is 0, so that there is no noise")
        return None
    if seed != int(seed):
        raise SolverError(settings.path(names["seed"]), "must be a whole number", got=repr(seed), do="correct it")
    noise = Noise(
        limit=float(limit),
        std=1.0 if uniform else float(std),
        distribution="uniform" if uniform else "normal",
        seed=int(seed),
        every=clock.tick,
    )
    return _Jitter(range_[0], range_[1] if len(range_) > 1 else None, noise)


def _class_jitter(settings: Settings, clock: _Clock) -> _Jitter | None:
    given = settings.take("noise_range_t")
    if isinstance(given, (list, tuple)):
        points = _numbers(given, settings.path("noise_range_t"), at_least=2)[:2]
    else:
        points = [] if given is None else [settings.number("noise_range_t")]
    names = {name: f"noise_{name}" for name in ("pct", "std", "seed")}
    if "noise_type" in CLASSES[settings.where]:
        names["type"] = "noise_type"
    return _read_jitter(settings, names, [(exact(x), math.ceil(x)) for x in points], clock)


@dataclass(frozen=True)
class _Parts:
    """What a schedule is put together from.

    Args:
        clock: What is counted.
        ramp: The warm-up.
        jitter: The noise.
        body: The curve itself: phases from where it begins, at ``ramp.offset``.
        meets: How the warm-up and the curve meet, where the curve does not wait.
        first: Whether the first ``t`` has the base rate, whatever the curve says: timm's constructors write that.
        even: Whether the curve changes only where epochs begin, so that it needs no staircase.
        aim: What the warm-up aims at, where it is not the base rate or ``meets`` says it.
    """

    clock: _Clock
    ramp: _Ramp | None
    jitter: _Jitter | None
    body: Sequence[Schedule]
    meets: Literal["beneath", "interpolate"] = "beneath"
    first: bool = False
    even: bool = False
    aim: Level = 1.0

    def phases(self) -> Phases:
        clock, ramp = self.clock, self.ramp
        phases = tuple(self.body)
        even = self.even and ramp is None
        if ramp is not None:
            line = ramp.line(clock, self.aim)
            anywhere = len(phases) == 1 and isinstance(phases[0], (Constant, MultiStep))  # begin where they may
            if ramp.prefix or anywhere:
                phases = (line, *phases)
            else:
                phases = (Warmup(ramp=line, of=simple(phases), meets=self.meets),)
        elif self.first:
            phases = (Warmup(ramp=Constant(until=clock.tick), of=simple(phases), meets="beneath"),)
            even = False
        if self.jitter is not None:
            phases = (Product((simple(phases), self.jitter.phases(clock))),)
        return simple(phases) if even or not clock.stairs else Staircase(simple(phases))


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
        time_power: The exponent of the time that has passed ("k-decay").
        power: Exponent of poly.
        lower: Where the tangent begins.
        upper: Where it ends.
    """

    kind: Literal["cosine", "tanh", "poly"]
    t: Fraction
    span: float | None
    floor: float
    mul: float = 1.0
    decay: float = 1.0
    limit: int = 1
    time_power: float = 1.0
    power: float = 0.5
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

    def weight(self, x: float) -> float:
        """How much of the base rate is left where ``x`` of a cycle has passed."""
        if self.kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * x**self.time_power))
        if self.kind == "tanh":
            return 0.5 * (1.0 - math.tanh(self.lower * (1.0 - x) + self.upper * x))
        left = 1.0 - x**self.time_power
        return left**self.power if left > 0 else float(self.power == 0)

    def bound(self, cycle: int) -> Fraction:
        """Where a cycle begins, in units, counted from the beginning of the curve."""
        mul = exact(self.mul)
        return self.t * (cycle if mul == 1 else (mul**cycle - 1) / (mul - 1))

    def place(self, t: float) -> tuple[int, float]:
        """The cycle that timm thinks ``t`` to be in, and how much of it has passed."""
        assert self.span is not None
        if self.mul == 1:
            cycle = int(t // self.span)
            return cycle, (t - self.span * cycle) / self.span
        cycle = math.floor(math.log(1 - t / self.span * (1 - self.mul), self.mul))
        begin = (1 - self.mul**cycle) / (1 - self.mul) * self.span
        return cycle, (t - begin) / (self.mul**cycle * self.span)

    def cycles(self) -> int:
        """``limit``, but no more than 1000 where they grow: the last ones are longer than any run."""
        return self.limit if self.mul == 1 else min(self.limit, 1000 if self.mul < 1.01 else 200)

    def late(self, clock: _Clock) -> dict[int, float]:
        """The cycles that timm begins one ``t`` late, for rounding, and how much of the one before is past there."""
        if self.span is None or clock.ticks is None or (self.mul == 1 and float(self.span).is_integer()):
            return {}
        found: dict[int, float] = {}
        for cycle in range(1, min(self.cycles(), 10_000) + 1):
            bound = self.bound(cycle)
            if not clock.after(bound) or bound * clock.ticks > 10**7:
                break
            ticks = bound * clock.ticks
            if ticks.denominator == 1:
                taken_for, passed = self.place(int(ticks))
                if taken_for == cycle - 1:
                    found[cycle] = passed
        return found

    def phases(self, clock: _Clock, begin: Fraction) -> list[Schedule]:
        """The curve from ``begin`` on, and what comes after it."""
        floor = _scaled(self.floor)
        if self.limit < 1:
            return [Constant(floor)]
        late = self.late(clock)
        if self.limit > 1 and (late or self.mul < 1 or self.decay == 0):
            return self.one_by_one(clock, begin, late)
        end = begin + self.bound(self.cycles())
        rest = [HOLD if self.reaches and not (self.limit == 1 and late) else Constant(floor)]
        if self.limit > 1:
            every = length(self.t, clock.unit)
            grow = int(self.mul) if float(self.mul).is_integer() else float(self.mul)
            cycle = Cycle(self.shape(), every=every, grow=grow, decay=float(self.decay), times=self.limit)
            return [cycle] if self.reaches or not clock.after(end) else [replace(cycle, until=clock.text(end)), *rest]
        if clock.run == end:
            return [self.shape()]
        if not clock.after(end):
            return [self.shape(until=clock.text(end))]
        if late:
            rest.insert(0, Constant(_between(1.0, self.floor, self.weight(late[1])), until=clock.text(end, 1)))
        return [self.shape(until=clock.text(end)), *rest]

    def one_by_one(self, clock: _Clock, begin: Fraction, late: Mapping[int, float]) -> list[Schedule]:
        """Every cycle as a phase, where no :class:`Cycle` says it."""
        phases: list[Schedule] = []
        for cycle in range(self.cycles()):
            first, last = begin + self.bound(cycle), begin + self.bound(cycle + 1)
            if not clock.after(first):
                return phases
            start = float(self.decay**cycle)
            shape = self.shape(start, until=clock.text(last))
            if cycle in late:
                left = _between(float(self.decay ** (cycle - 1)), self.floor, self.weight(late[cycle]))
                phases.append(Constant(left, until=clock.text(first, 1)))
                shape = Over(self.shape(start), begin=clock.text(first), end=clock.text(last), until=clock.text(last))
            phases.append(shape)
        if self.limit in late:
            left = _between(float(self.decay ** (self.limit - 1)), self.floor, self.weight(late[self.limit]))
            phases.append(Constant(left, until=clock.text(last, 1)))
        return [*phases, Constant(_scaled(self.floor))]


def _check_curve(curve: _Curve, settings: Settings, names: Mapping[str, str], clock: _Clock, begin: Fraction) -> None:
    """Refuse what timm refuses or stumbles over, and what there is no counterpart for."""
    checks = [
        ("t_initial", curve.t <= 0, curve.t, "must be > 0"),
        ("cycle_mul", curve.mul <= 0, curve.mul, "must be > 0"),
        ("cycle_decay", curve.limit > 1 and curve.decay < 0, curve.decay, "must not be negative"),
        ("k_decay", curve.time_power <= 0, curve.time_power, "must be > 0"),
        ("power", curve.kind == "poly" and curve.power < 0, curve.power, "must not be negative"),
        ("lb", curve.lower >= curve.upper, (curve.lower, curve.upper), "must be below ub"),
    ]
    for name, wrong, got, what in checks:
        if wrong:
            raise SolverError(settings.path(names.get(name, name)), what, got=str(got), do="correct it")
    if curve.mul < 1:
        last = begin + curve.t / (1 - exact(curve.mul))
        if clock.run is not None and last <= clock.run - Fraction(1, clock.ticks or 1):
            what = f"the cycles shrink to nothing at {float(last):g} {clock.unit}, where timm fails"
            do = "shorten the run, or give a factor of at least 1"
            raise SolverError(settings.path(names.get("cycle_mul", "cycle_mul")), what, got=str(curve.mul), do=do)


def _curve_parts(
    curve: _Curve,
    clock: _Clock,
    ramp: _Ramp | None,
    jitter: _Jitter | None,
    settings: Settings,
    names: Mapping[str, str],
) -> _Parts:
    """The parts of a schedule that is one of the curves."""
    begin = ramp.offset if ramp else Fraction(0)
    _check_curve(curve, settings, names, clock, begin)
    if curve.limit > 1 and curve.late(clock):
        what = "timm finds the cycle by a logarithm, whose rounding begins some cycles one late: they are written out"
        settings.notes.say(settings.path(names.get("cycle_mul", "cycle_mul")), what)
    parts = _Parts(clock, ramp, jitter, curve.phases(clock, begin))
    if curve.kind == "tanh" and ramp is not None and not ramp.prefix:
        parts = replace(parts, meets="interpolate")
        ticks = None if clock.ticks is None else ramp.length * clock.ticks
        if ticks is not None and ticks.denominator != 1 and curve.span is not None:
            cycle, passed = curve.place(float(ticks))
            left = curve.weight(passed) if cycle < curve.limit else 0.0
            aim = _between(float(curve.decay**cycle), curve.floor, left)
            parts = replace(parts, meets="beneath", aim=aim)
    if ramp is None and (curve.limit < 1 or (curve.kind == "tanh" and 1 + math.tanh(curve.lower) > 1e-13)):
        what = f"starts at the base rate itself: its curve is asked for the first time after the first {_what(clock)}"
        settings.notes.say(settings.where or "sched", what)
        parts = replace(parts, first=True)
    return parts


def _what(clock: _Clock) -> str:
    return "epoch" if clock.stairs else "update"


# ------------------------------------------------------------------ step, multistep


def _step_parts(
    every: Fraction, raw: float | None, gamma: float, clock: _Clock, ramp: _Ramp | None, jitter: _Jitter | None
) -> _Parts:
    """A drop each ``every`` units; ``raw`` is the same in ``t``, as the number that timm divides by."""
    parts = _Parts(clock, ramp, jitter, (), even=every.denominator == 1)
    if gamma == 1:
        return replace(parts, body=[Constant()], even=True)
    stair = length(every, clock.unit)
    if raw is not None and clock.ticks is not None:
        exactly, run = every * clock.ticks, None if clock.run is None else clock.run * clock.ticks
        rounded, most = exact(raw), 10**6 if run is None else run
        if Fraction(raw) > rounded and rounded.numerator < most:
            # In floating point the divisor is a little more than it says: the drops at whole t come one t late.
            stair = length(Fraction(math.ceil(Fraction(raw) * 10**13), 10**13), "ep" if clock.stairs else "st")
        elif rounded != exactly:
            stair = length(rounded, "ep" if clock.stairs else "st")
    begin = ramp.offset if ramp else Fraction(0)
    if gamma == 0:
        return replace(parts, body=[Constant(until=clock.text(begin + every)), Constant(0.0)])
    return replace(parts, body=[Step(every=stair, gamma=gamma)])


def _multistep_parts(
    milestones: Sequence[float], gamma: float, clock: _Clock, ramp: _Ramp | None, jitter: _Jitter | None, notes: Notes
) -> _Parts:
    """A drop one ``t`` before each of ``milestones`` (units), counted from where the curve begins."""
    begin = ramp.offset if ramp else Fraction(0)
    counts: dict[int | str, int] = {}
    for milestone in sorted(set(milestones)):
        units = exact(milestone)
        early = units <= 0 or (clock.ticks is not None and units * clock.ticks <= 1)
        if early and ramp is None:
            point = clock.tick
        else:
            point = clock.text(begin) if early else clock.text(begin + units, -1)
        counts[point] = bisect_right(milestones, milestone)
    points = list(counts)
    even = all(exact(milestone).denominator == 1 for milestone in milestones)
    parts = _Parts(clock, ramp, jitter, (), even=even)
    if not points or gamma == 1:
        return replace(parts, body=[Constant()], even=True)
    notes.say("milestones", f"timm drops one {_what(clock)} before a milestone, counted from 0: at {points[0]} first")
    if gamma > 0 and list(counts.values()) == list(range(1, len(counts) + 1)):
        return replace(parts, body=[MultiStep(at=tuple(points), gamma=gamma)])
    drops = [0, *counts.values()]
    levels = [Constant(float(gamma**drop), until=point) for drop, point in zip(drops, points)]
    return replace(parts, body=[*levels, Constant(float(gamma ** drops[-1]))])


# ------------------------------------------------------------------ warm-up, stable, decay


def exp_decay(n: int, length: int, ratio: float, rising: bool = False) -> float:
    """Timm's ``exp`` decay: ``(ratio ** x - ratio) / (1 - ratio)`` with ``x = n / length``; from 1 to 0, then 0.

    Args:
        n: How many have passed.
        length: Of how many.
        ratio: Between 0 and 1.
        rising: Whether to give what is missing to 1.

    Example:
        >>> [round(exp_decay(n, 2, 0.25), 4) for n in range(4)]
        [1.0, 0.3333, 0.0, 0.0]
    """
    left = (ratio ** min(n / length, 1.0) - ratio) / (1.0 - ratio)
    return 1.0 - left if rising else left


@dataclass(frozen=True)
class _Stable:
    """Warm-up, a stable phase and a decay.

    Args:
        t: Length of the stable phase and the decay in units.
        decay: Length of the decay, as (units, ``t``); the units are ``None`` where it is not a part of them.
        floor: ``lr_min``.
        timescale: Of the stable phase, in units.
        power: Of the stable phase; 0 if it is constant.
        shape: Of the decay.
        time_power: Of a decay by a power.
        ratio: Of an exponential decay.
    """

    t: Fraction
    decay: tuple[Fraction | None, int | None]
    floor: float
    timescale: Fraction
    power: float
    shape: str
    time_power: float = 0.5
    ratio: float = 0.1

    def fall(self, clock: _Clock, start: Level, end: Level, until: int | str | None) -> Schedule:
        """The decay from one level to another."""
        if self.shape == "exp":
            ticks = self.decay[1]
            assert ticks is not None
            args: dict[str, Any] = {"length": ticks, "ratio": float(self.ratio), **({"rising": True} if end else {})}
            level = end or start
            return Function(
                "lightning_solver.interop.timm.exp_decay", every=clock.tick, args=args, start=level, until=until
            )
        if self.shape == "cosine":
            return Cosine(start=start, end=end, until=until)
        time_power = {"linear": 1.0, "1-sqrt": 0.5}.get(self.shape, float(self.time_power))
        if time_power == 1:
            return Linear(start=start, end=end, until=until)
        return Polynomial(start=start, end=end, time_power=time_power, until=until)

    def phases(self, clock: _Clock, begin: Fraction) -> list[Schedule]:
        """What follows the warm-up."""
        end, (units, ticks) = begin + self.t, self.decay
        turn = clock.text(end - units) if units is not None else clock.text(end, -(ticks or 0))
        until = None if clock.run == end or self.shape == "exp" else clock.text(end)
        more = until is not None and clock.after(end)
        stable = [Constant(until=turn)] if units is None or end - units > begin else []
        floor = _scaled(self.floor)
        if not self.power and not (self.floor and self.shape == "exp"):
            return [*stable, self.fall(clock, 1.0, floor, until), *([HOLD] * more)]
        main: Phases = (*stable, self.fall(clock, 1.0, 0.0, until), *([Constant(0.0)] * more))
        if self.power:
            curve = Inverse(every=length(self.timescale, clock.unit), power=float(self.power))
            main = Product((curve, simple(main)))
        if not self.floor:
            return [main] if isinstance(main, Schedule) else list(main)
        still = [Constant(0.0, until=turn)] if stable else []
        below = (*still, self.fall(clock, 0.0, floor, until), *([HOLD] * more))
        return [Sum((main, simple(below)))]

    def below(self, bases: Sequence[float]) -> bool:
        """Whether the stable value of a group is ever below ``lr_min``."""
        least = (1 + self.t / self.timescale) ** -self.power if self.power else 1.0
        return any(base * least < self.floor for base in bases)


def _stable_parts(
    stable: _Stable,
    clock: _Clock,
    ramp: _Ramp | None,
    jitter: _Jitter | None,
    bases: Sequence[float] | None,
    notes: Notes,
) -> _Parts:
    ramp = None if ramp is None else replace(ramp, prefix=True)
    phases = stable.phases(clock, ramp.offset if ramp else Fraction(0))
    parts = _Parts(clock, ramp, jitter, phases)
    if not stable.floor:
        return parts
    if bases is None and not stable.power:
        what = "timm holds a group whose own rate is below the lowest rate there; give facts={'base_lr': ...} if one is"
        notes.say("min_lr", what)
        return parts
    if bases is not None and not stable.below(bases):
        return parts
    clipped = replace(parts, body=[Clip(simple(phases), min=_scaled(stable.floor))])
    first = ramp is None and bases is not None and any(base < stable.floor for base in bases)
    return replace(clipped, first=first)


def _check_stable(stable_t: float, decay_t: float, where: str) -> None:
    if stable_t <= 0 or not 0 < decay_t <= stable_t:
        what = "the decay must be longer than nothing and fit into the time after the warm-up"
        raise SolverError(where, what, got=f"{decay_t:g} of {stable_t:g}", do="correct the lengths")


# ------------------------------------------------------------------ plateau


def _plateau(plateau: Plateau, clock: _Clock, ramp: _Ramp | None, jitter: _Jitter | None, notes: Notes) -> Phases:
    notes.say("monitor", f"the plateau follows {plateau.monitor!r}: log it under that name, or change monitor")
    phases: tuple[Schedule, ...] = (plateau,)
    if ramp is not None:
        whole = ramp.length.denominator == 1
        line = Staircase(replace(ramp.line(clock), until=None), until=clock.text(ramp.length))
        phases = (line, plateau if whole else replace(plateau, start="previous"))
    if jitter is None:
        return simple(phases)
    warm = math.floor(ramp.length) if ramp else 0
    begin = max(jitter.begin[1] or 0, warm + 1)
    if jitter.end is not None and (jitter.end[1] or 0) <= begin:
        return simple(phases)
    return Product((simple(phases), replace(jitter, begin=(Fraction(begin), begin)).phases(clock)))


def _monitor(facts: Facts) -> str:
    """The one metric that the facts name, or the one that the script follows."""
    metrics = facts.get("metrics")
    return str(next(iter(metrics))) if isinstance(metrics, Mapping) and len(metrics) == 1 else "top1"


def _bases(facts: Facts) -> list[float] | None:
    given = facts.get("base_lr")
    if given is None:
        return None
    return [float(given)] if isinstance(given, (int, float)) else [float(value) for value in given]


# ------------------------------------------------------------------ the classes


def _from_class(name: str, settings: Settings, facts: Facts, notes: Notes) -> Phases:
    settings.ignore("initialize")
    by_epoch = name == "PlateauLRScheduler" or settings.flag("t_in_epochs", True)
    run = _Run.of(facts)
    clock = _Clock("ep" if by_epoch else "st", by_epoch, run=run.epochs if by_epoch else run.steps)
    always, by_default = (
        name in ("WSDLRScheduler", "PlateauLRScheduler"),
        name in ("StepLRScheduler", "MultiStepLRScheduler"),
    )
    ramp = _read_ramp(settings, always or settings.flag("warmup_prefix", by_default))
    jitter = _class_jitter(settings, clock)
    if name == "PlateauLRScheduler":
        return _plateau(_class_plateau(settings, facts), clock, ramp, jitter, notes)
    if name == "StepLRScheduler":
        settings.needed("decay_t")
        every = settings.number("decay_t")
        if every <= 0:
            raise SolverError(settings.path("decay_t"), "must be > 0", got=repr(every), do="correct it")
        return _step_parts(exact(every), every, settings.number("decay_rate", 1.0, low=0), clock, ramp, jitter).phases()
    if name == "MultiStepLRScheduler":
        milestones = _numbers(settings.needed("decay_t"), settings.path("decay_t"))
        gamma = settings.number("decay_rate", 1.0, low=0)
        return _multistep_parts(milestones, gamma, clock, ramp, jitter, notes).phases()
    settings.needed("t_initial")
    span = settings.number("t_initial")
    floor = settings.number("lr_min", 0.0, low=0)
    if name == "WSDLRScheduler":
        stable = _class_stable(settings, span, floor, ramp)
        return _stable_parts(stable, clock, ramp, jitter, _bases(facts), notes).phases()
    kind: Any = {"CosineLRScheduler": "cosine", "TanhLRScheduler": "tanh", "PolyLRScheduler": "poly"}[name]
    curve = _Curve(
        kind,
        exact(span),
        span,
        floor,
        mul=settings.number("cycle_mul", 1.0),
        decay=settings.number("cycle_decay", 1.0),
        limit=math.ceil(settings.number("cycle_limit", 1, low=0 if kind == "tanh" else None)),
        time_power=settings.number("k_decay", 1.0),
        power=settings.number("power", 0.5),
        lower=settings.number("lb", -7.0),
        upper=settings.number("ub", 3.0),
    )
    return _curve_parts(curve, clock, ramp, jitter, settings, {}).phases()


def _class_stable(settings: Settings, span: float, floor: float, ramp: _Ramp | None) -> _Stable:
    settings.needed("decay_t")
    decay = settings.number("decay_t")
    _check_stable(span, decay, settings.path("decay_t"))
    stable_fn = settings.choice("stable_fn", ("constant", "rsqrt", "power"), "constant")
    shape = settings.choice("decay_fn", ("linear", "1-sqrt", "cosine", "power", "exp"), "1-sqrt")
    powers = {name: settings.number(name, 0.5) for name in ("stable_power", "decay_power")}
    ratio = settings.number("decay_ratio", 0.1)
    timescale = settings.number("stable_timescale", float(ramp.length) if ramp else 0)
    for name, value, wrong in (
        *((name, value, value <= 0) for name, value in powers.items()),
        ("decay_ratio", ratio, not 0 < ratio < 1),
        ("stable_timescale", timescale, stable_fn != "constant" and timescale <= 0),
    ):
        if wrong:
            do = "give a number above 0, for decay_ratio below 1"
            raise SolverError(settings.path(name), "is out of range", got=repr(value), do=do)
    if shape == "exp" and decay != int(decay):
        raise SolverError(settings.path("decay_t"), "must be a whole number", got=repr(decay), do="round it")
    power = {"constant": 0.0, "rsqrt": 0.5, "power": powers["stable_power"]}[stable_fn]
    ends = (exact(decay), math.ceil(decay))
    return _Stable(exact(span), ends, floor, exact(timescale), power, shape, powers["decay_power"], ratio)


def _class_plateau(settings: Settings, facts: Facts) -> Plateau:
    return _made_plateau(
        settings,
        {"factor": "decay_rate", "patience": "patience_t", "min": "lr_min"},
        monitor=_monitor(facts),
        factor=settings.number("decay_rate", 0.1),
        patience=settings.number("patience_t", 10),
        mode=settings.choice("mode", ("min", "max"), "max"),
        floor=settings.number("lr_min", 0.0, low=0),
        threshold=settings.number("threshold", 1e-4, low=0),
        cooldown=settings.number("cooldown_t", 0, low=0),
    )


def _made_plateau(
    settings: Settings,
    names: Mapping[str, str],
    *,
    monitor: str,
    factor: float,
    patience: float,
    mode: Any,
    floor: float,
    threshold: float = 1e-4,
    cooldown: float = 0,
) -> Plateau:
    """The plateau; its floor is torch's, which knows nothing of ``lr_scale``."""
    if not 0 < factor < 1:
        raise SolverError(settings.path(names["factor"]), "must lie between 0 and 1", got=repr(factor), do="correct it")
    if patience < 0:
        raise SolverError(settings.path(names["patience"]), "must not be negative", got=repr(patience), do="correct it")
    return Plateau(
        monitor,
        mode=mode,
        factor=float(factor),
        patience=math.floor(patience),
        threshold=float(threshold),
        cooldown=math.ceil(cooldown),
        min=absolute(floor),
    )


# ------------------------------------------------------------------ the factory and the script


def _from_factory(form: str, settings: Settings, facts: Facts, notes: Notes) -> Phases | None:
    script = form != "create_scheduler_v2"
    defaults = {**FACTORY, **(TRAIN_DEFAULTS if form == "train" else NAMESPACE_DEFAULTS if script else {})}
    given = _Keywords(settings, ARGUMENTS if script else {}, defaults)
    if form in ("create_scheduler", "scheduler_kwargs"):
        settings.needed("sched")
    sched = settings.choice("sched", SCHEDULERS, "cosine")
    by_epoch = not settings.flag("sched_on_updates", False) if script else settings.flag("step_on_epochs", True)
    metric = settings.take("eval_metric", "top1") if script else _monitor(facts)
    if form == "train":
        mode: Any = "min" if metric == "loss" else "max"
    else:
        mode = ("min" if "loss" in str(metric) else "max") if script else settings.take("plateau_mode", "max")
    run, clock, scale = _factory_clock(form, sched, by_epoch, settings, facts)

    prefix = settings.flag("warmup_prefix", False)
    epochs, warm = given.number("num_epochs"), given.number("warmup_epochs", low=0)
    cooldown = given.number("cooldown_epochs")
    ramp = _Ramp(exact(warm) * scale, given.number("warmup_lr", low=0), prefix) if warm else None
    jitter = _factory_jitter(given, epochs, clock, scale)
    floor = given.number("min_lr", low=0)
    curve = _factory_curve(sched, given, epochs, floor, clock, scale)

    # how long timm trains
    total = exact(epochs) + (exact(warm) if prefix else 0)
    if curve is not None and curve.limit > 0 and curve.mul > 0:
        ticks = clock.ticks or 1
        grown = curve.bound(curve.cycles()) if curve.mul != 1 else curve.t * curve.limit
        whole = Fraction(math.floor(grown * ticks), ticks) if curve.mul != 1 else grown
        total = (whole + (ramp.offset if ramp else 0)) / scale + exact(cooldown)
        total = total if clock.stairs else Fraction(math.floor(total))
    elif sched in ("wsd", "rsqrt"):
        total += exact(cooldown)
    stop = settings.number("stop_epoch") if form == "train" else None
    stopped = total if not stop else min(total, exact(stop))
    notes.say(given.path("num_epochs"), f"timm trains for {stopped} epochs: Trainer(max_epochs={stopped})")
    if run.epochs is not None and run.epochs != stopped:
        notes.say(
            "facts.epochs", f"the run is {float(run.epochs):g} epochs long, not the {stopped} that timm makes of it"
        )
    if clock.run is None and (clock.unit == "ep"):
        clock = replace(clock, run=stopped)

    phases = _factory_phases(sched, given, clock, ramp, jitter, curve, facts, notes, (metric, mode), scale)
    unused = set(FACTORY) - {"sched", "updates_per_epoch", "step_on_epochs"}
    settings.ignore(*(given.name(keyword) for keyword in unused))
    _rest(settings)
    return phases


def _factory_clock(
    form: str, sched: str, by_epoch: bool, settings: Settings, facts: Facts
) -> tuple[_Run, _Clock, Fraction]:
    """The run that the facts tell of, what is counted, and how many of it an epoch of the config is."""
    accumulated = settings.number("grad_accum_steps", 1) if form == "train" else None
    run = _Run.of(facts, accumulated)
    updates = settings.number("updates_per_epoch", 0) if form == "create_scheduler_v2" else 0
    if by_epoch:
        return run, _Clock("ep", True, run=run.epochs), Fraction(1)
    if sched == "plateau":
        do = "step it by epochs"
        raise SolverError(settings.path("sched"), "a plateau cannot be stepped by updates", got="plateau", do=do)
    if "updates_per_epoch" in settings and updates <= 0:
        do = "give the number of updates of an epoch, or leave it out"
        raise SolverError(settings.path("updates_per_epoch"), "must be > 0", got=repr(updates), do=do)
    if updates and run.per_epoch not in (None, updates):
        what = f"is not the length of the run's epochs, {run.per_epoch}: the lengths are written in steps"
        settings.notes.say(settings.path("updates_per_epoch"), what)
        return run, _Clock("st", False, run=run.steps), exact(updates)
    per_epoch = run.per_epoch or (int(updates) if updates else None)
    return run, _Clock("ep", False, per_epoch, run.epochs), Fraction(1)


def _factory_jitter(given: _Keywords, epochs: float, clock: _Clock, scale: Fraction) -> _Jitter | None:
    noise = given.take("noise")
    if noise is None:
        shares: list[float] = []
    elif isinstance(noise, (list, tuple)):
        shares = _numbers(noise, given.path("noise"), at_least=1)[:2]
    else:
        shares = [given.number("noise")]
    per = clock.ticks if clock.unit == "ep" else int(scale)
    points = [
        (exact(share) * exact(epochs) * scale, None if per is None else math.ceil(share * (epochs * per)))
        for share in shares
    ]
    names = {name: given.name(f"noise_{name}") for name in ("pct", "std", "seed")}
    return _read_jitter(given.settings, names, points, clock)


def _factory_curve(
    sched: str, given: _Keywords, epochs: float, floor: float, clock: _Clock, scale: Fraction
) -> _Curve | None:
    if sched not in ("cosine", "tanh", "poly"):
        return None
    kind: Any = sched
    ticks = clock.ticks if clock.unit == "ep" else int(scale)
    if epochs <= 0:
        raise SolverError(given.path("num_epochs"), "must be > 0", got=repr(epochs), do="correct it")
    return _Curve(
        kind,
        exact(epochs) * scale,
        None if ticks is None else epochs * ticks,
        floor,
        mul=given.number("cycle_mul"),
        decay=given.number("cycle_decay"),
        limit=math.ceil(given.number("cycle_limit", low=0 if sched == "tanh" else None)),
        time_power=given.number("k_decay") if sched != "tanh" else 1.0,
        power=given.number("decay_rate") if sched == "poly" else 0.5,
    )


def _factory_phases(
    sched: str,
    given: _Keywords,
    clock: _Clock,
    ramp: _Ramp | None,
    jitter: _Jitter | None,
    curve: _Curve | None,
    facts: Facts,
    notes: Notes,
    metric: tuple[Any, Any],
    scale: Fraction,
) -> Phases | None:
    settings = given.settings
    if curve is not None:
        names = {"t_initial": "num_epochs", "power": "decay_rate"}
        named = {
            key: given.name(names.get(key, key))
            for key in ("t_initial", "cycle_mul", "cycle_decay", "k_decay", "power")
        }
        return _curve_parts(curve, clock, ramp, jitter, settings, named).phases()
    if sched == "none":
        return _unscheduled(facts, notes)
    if sched == "constant":
        return _step_parts(Fraction(1), None, 1.0, clock, ramp, jitter).phases()
    rate = given.number("decay_rate", low=0)
    if sched == "plateau":
        names = {"factor": "decay_rate", "patience": "patience_epochs"}
        plateau = _made_plateau(
            settings,
            names,
            monitor=str(metric[0]),
            factor=rate,
            patience=given.number("patience_epochs"),
            mode=settings.choice("plateau_mode", ("min", "max"), metric[1]),
            floor=given.number("min_lr", low=0),
        )
        return _plateau(plateau, clock, ramp, jitter, notes)
    if sched == "multistep":
        milestones = [
            x * (scale if scale != 1 else 1)
            for x in _numbers(given.take("decay_milestones"), given.path("decay_milestones"))
        ]
        return _multistep_parts([float(x) for x in milestones], rate, clock, ramp, jitter, notes).phases()
    decay = given.number("decay_epochs")
    decay = (0.2 if sched in ("wsd", "rsqrt") else 90) if decay is None else decay
    if sched == "step":
        if decay <= 0:
            raise SolverError(given.path("decay_epochs"), "must be > 0", got=repr(decay), do="correct it")
        ticks = clock.ticks if clock.unit == "ep" else int(scale)
        return _step_parts(
            exact(decay) * scale, None if ticks is None else decay * ticks, rate, clock, ramp, jitter
        ).phases()
    stable = _factory_stable(sched, given, decay, clock, ramp, scale, facts)
    bases = _bases(facts)
    if bases is None and isinstance(settings.take("lr"), float):
        bases = [settings.take("lr")]
    return _stable_parts(stable, clock, ramp, jitter, bases, notes).phases()


def _factory_stable(
    sched: str, given: _Keywords, decay: float, clock: _Clock, ramp: _Ramp | None, scale: Fraction, facts: Facts
) -> _Stable:
    """``wsd`` and ``rsqrt``, whose decay is rounded to whole ``t``."""
    path = given.path("decay_epochs")
    shapes = ("linear", "1-sqrt", "cosine", "power", "exp")
    shape = given.take("decay_fn") or ("linear" if sched == "rsqrt" else "1-sqrt")
    if shape not in shapes:
        raise SolverError(
            given.path("decay_fn"), "unknown value", got=repr(shape), do=suggestion(str(shape), shapes, "values")
        )
    warm = given.number("warmup_epochs")
    within = given.number("num_epochs") - (0 if given.settings.flag("warmup_prefix", False) else warm)
    ticks = clock.ticks if clock.unit == "ep" else int(scale)
    part = exact(decay) * exact(within) if 0 < decay < 1 else exact(decay)
    units: Fraction | None = part * scale
    if ticks is None and (part.denominator != 1 or shape == "exp"):
        facts.need("iters_per_epoch", path, "the decay is rounded to whole updates, so it needs the length of an epoch")
    rounded = None
    if ticks is not None:
        total = within * ticks
        rounded = round(decay * total if 0 < decay < 1 else decay * ticks)
        _check_stable(total, rounded, path)
        if part * ticks != rounded:
            units = None
    else:
        _check_stable(within, float(part), path)
    timescale = given.number("stable_timescale", low=0)
    timescale = warm if timescale is None else timescale
    if sched == "rsqrt" and timescale <= 0:
        what = "needs a warm-up, whose length is its time scale, or a time scale of its own"
        do = f"give {given.name('warmup_epochs')} or {given.name('stable_timescale')}"
        raise SolverError(given.path("stable_timescale"), what, got=repr(timescale), do=do)
    floor = given.number("min_lr", low=0)
    power = 0.5 if sched == "rsqrt" else 0.0
    return _Stable(exact(within) * scale, (units, rounded), floor, exact(timescale) * scale, power, shape)


def _unscheduled(facts: Facts, notes: Notes) -> Phases | None:
    """No schedule: timm does not touch the groups, so that their ``lr_scale`` has no effect."""
    scales, bases = facts.get("lr_scale"), _bases(facts)
    if scales is None:
        notes.say("sched", "none: timm leaves lr_scale of the groups without effect then; the rules of a spec have it")
        return None
    if bases is None:
        bases = [facts.need("base_lr", "sched", "none ignores lr_scale of the groups, so their own rates are needed")]
    if all(scale == 1 for scale in scales):
        return None
    notes.say("sched", "none: lr_scale of the groups has no effect, as in timm")
    return PerGroup(tuple(Constant(absolute(base)) for base in bases))


def _rest(settings: Settings) -> None:
    """Note what is not mapped: most arguments of the script have nothing to do with its schedules."""
    names = [*_script_names(), "sched_on_updates"]

    def why(key: str) -> str:
        close = get_close_matches(key, names, 1, cutoff=0.8)
        return f"is not part of the schedules{f'; did you mean {close[0]}?' if close else ''}"

    settings.rest(why)
