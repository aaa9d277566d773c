"""MMEngine (MMPretrain 1.x, MMDetection 3.x, MMSegmentation 1.x, ...): ``param_scheduler``.

A scheduler of MMEngine works on what the group holds at the moment, from its ``begin`` to the step before its ``end``,
and touches nothing outside. Here each is read as a move: the phases that it would be by itself, where they begin, and
from where on it no longer moves. Moves one after another are a list of phases; factors at the same time a product;
what has a floor, and others beside it, a chain.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, nearest, suggestion
from lightning_solver.interop.base import (
    HOLD,
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    absolute,
    batches_to_steps,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
    single,
)
from lightning_solver.interop.reading import Call, Name, load, read_python
from lightning_solver.schedules import (
    Chain,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    KeepZero,
    Linear,
    MultiStep,
    Over,
    PerGroup,
    Plateau,
    Polynomial,
    Product,
    Schedule,
    Shift,
    Staircase,
    Step,
    Warmup,
)
from lightning_solver.schedules.base import Level


def from_mmengine(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedules of an MMEngine config.

    Args:
        config: A whole config, or ``param_scheduler`` alone: one scheduler or a list of them; a mapping, the path of a
            .py (with its ``_base_``), .yaml or .json file, or Python text. Read are ``param_scheduler``, ``train_cfg``
            and ``accumulative_counts`` of ``optim_wrapper``.
        facts: What the config leaves open. ``epochs``, ``iters_per_epoch``, ``total_batches`` or ``total_iters`` are
            needed only where a scheduler cannot be written without them, and make the spec simpler elsewhere;
            ``train_loop`` (``by_epoch`` or ``by_iter``) where there is no ``train_cfg``; ``batches_per_step``. A run
            that they say is longer or shorter than the config's ``train_cfg`` is the one that is written.
        strict: Whether a key that is not mapped is an error, not a note.

    Returns:
        The spec and notes. A scheduler that ends with the run is written without an end of its own.

    Raises:
        SolverError: What MMEngine refuses, at the start or in the middle of the run; schedulers of several optimisers;
            schedulers that overlap where one of them sets the value and forgets the others; a config of another system;
            or a length that has to be known.

    Example:
        >>> text = "param_scheduler = dict(type='MultiStepLR', milestones=[100, 150])"
        >>> from_mmengine(text).spec.schedules
        {'lr': MultiStep(at=('100ep', '150ep'), gamma=0.1, start=1.0, until=None)}
    """
    notes = Notes()
    given = Facts(facts, notes)
    data = load(config)
    data = read_python(data) if isinstance(data, str) else data
    alone = isinstance(data, (list, tuple, Call)) or (isinstance(data, Mapping) and "type" in data)
    if not alone and isinstance(data, Mapping):
        _recognise(data)
        if "param_scheduler" not in data and "calls" in data:
            data, alone = data["calls"], True
    settings = Settings({"param_scheduler": data} if alone else data, "", notes)
    per_step = _per_step(settings, given)
    run = _run(settings, given, per_step, notes)
    readers = _readers(settings.take("param_scheduler"), run, given, notes)
    schedules: dict[str, Phases] = {}
    for option in dict.fromkeys(reader.option for reader in readers):
        schedules[option] = _schedule([reader for reader in readers if reader.option == option], per_step)
    settings.rest(_why, _KEYS)
    return notes.imported(imported_spec(schedules), strict)


_KEYS = {
    "auto_scale_lr": "scales the learning rate itself, where it is enabled, and is not part of the schedules",
    "custom_hooks": "hooks are not part of the schedules",
    "_base_": "is followed only where the config is given as the path of its file",
    **dict.fromkeys(("param_scheduler", "optim_wrapper", "train_cfg"), ""),
    **dict.fromkeys(
        (
            *("model", "data_preprocessor", "dataset_type", "data_root", "train_pipeline", "val_pipeline"),
            *("test_pipeline", "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator"),
            *("test_evaluator", "val_cfg", "test_cfg", "default_hooks", "default_scope", "env_cfg", "visualizer"),
            *("vis_backends", "log_processor", "log_level", "load_from", "resume", "work_dir", "launcher"),
            *("randomness", "custom_imports", "tta_model", "tta_pipeline", "backend_args", "optimizer"),
            *("experiment_name", "cfg", "max_epochs", "max_iters", "base_lr", "img_scale", "num_classes"),
        ),
        "is not part of the schedules",
    ),
}
"""Keys of whole configs, with what to say of those that are not read."""

_COUNT = ("epochs", "iters_per_epoch", "total_batches", "total_iters")


def _why(key: str) -> str | None:
    return _KEYS.get(key) or None


def _recognise(data: Mapping[str, Any]) -> None:
    """Refuse what is no config of this system."""
    if "param_scheduler" in data:
        return
    refuse_other_peers(data, "from_mmengine")
    if not any(key in data for key in ("optim_wrapper", "train_cfg", "calls")):
        close = nearest("param_scheduler", data, 1)
        do = f"rename {close[0]}" if close else "give param_scheduler"
        raise SolverError("param_scheduler", "is missing", got=f"keys {', '.join(map(str, data)) or '(none)'}", do=do)


# ------------------------------------------------------------------ the run


@dataclass(frozen=True)
class _Point:
    """A point of the run, or a length: epochs, iterations and shares of the run, added up."""

    epochs: Fraction = Fraction(0)
    batches: Fraction = Fraction(0)
    runs: Fraction = Fraction(0)

    def __add__(self, other: _Point) -> _Point:
        return _Point(self.epochs + other.epochs, self.batches + other.batches, self.runs + other.runs)

    def __sub__(self, other: _Point) -> _Point:
        return self + other * -1

    def __mul__(self, by: Fraction | int) -> _Point:
        return _Point(self.epochs * by, self.batches * by, self.runs * by)


_START, _END = _Point(), _Point(runs=Fraction(1))


@dataclass(frozen=True)
class _Run:
    """What is known of the run, and what MMEngine makes of it.

    Args:
        by_epochs: Whether its loop counts epochs.
        epochs: How many epochs it has.
        batches: How many iterations (batches) it has.
        per_epoch: Iterations of an epoch.
        ends: Where schedulers without an ``end`` end, by epochs (``ep``) and by iterations (``st``).
        last_is_short: Whether the last optimiser step has fewer batches than the others.
    """

    by_epochs: bool
    epochs: Fraction | None
    batches: Fraction | None
    per_epoch: Fraction | None
    ends: Mapping[str, _Point]
    last_is_short: bool

    def sign(self, point: _Point) -> int | None:
        """Whether a difference of points is > 0 (1), < 0 (-1) or 0; ``None`` where it cannot be said."""
        epochs, batches = point.epochs, point.batches
        if point.runs and self.epochs is not None:
            epochs += point.runs * self.epochs
        elif point.runs and self.batches is not None:
            batches += point.runs * self.batches
        elif point.runs:
            return _sign(point.runs)  # a run of unknown length is longer than anything
        if self.per_epoch is not None:
            return _sign(epochs * self.per_epoch + batches)
        if epochs * batches >= 0:
            return _sign(epochs + batches)
        least = epochs + batches  # an epoch has at least one iteration
        return _sign(epochs) if least == 0 or _sign(least) == _sign(epochs) else None

    def ticks(self, point: _Point, unit: str) -> Fraction | None:
        """A length in epochs or in iterations, where it is known."""
        point = self.told(point)
        if point.runs:
            return None
        if self.per_epoch is not None:
            batches = point.epochs * self.per_epoch + point.batches
            return batches if unit == "st" else batches / self.per_epoch
        if unit == "ep":
            return None if point.batches else point.epochs
        return None if point.epochs else point.batches

    def told(self, point: _Point) -> _Point:
        """A point with the shares of the run worked out, as far as it is known."""
        if point.runs and self.epochs is not None:
            return _Point(point.epochs + point.runs * self.epochs, point.batches)
        if point.runs and self.batches is not None:
            return _Point(point.epochs, point.batches + point.runs * self.batches)
        return point

    def relative(self, point: _Point) -> _Point:
        """A point that is the end of the run is called so."""
        return _END if point.runs == 0 and self.sign(_END - point) == 0 else point

    def text(self, point: _Point) -> int | str:
        """A point as a duration."""
        point = self.told(point) if self.last_is_short else point
        terms = [(min(point.runs, Fraction(1)) * 100, "%"), ((point.runs - 1) * 100 if point.runs > 1 else 0, "%")]
        terms += [(point.epochs, "ep"), (point.batches, "st")]
        terms = sorted((term for term in terms if term[0]), key=lambda term: term[0] < 0)
        if len(terms) == 1 and terms[0][0] > 0:
            return length(*terms[0])
        if not terms:
            return 0
        words = [f"{'-' if n < 0 else '+'}{_with_unit(abs(n), unit)}" for n, unit in terms]
        return "".join(words).removeprefix("+")


def _with_unit(number: Any, unit: str) -> str:
    text = str(length(number, unit))
    return text if text.endswith(unit) else text + unit


def _sign(number: Fraction) -> int:
    return (number > 0) - (number < 0)


def _per_step(settings: Settings, facts: Facts) -> Any:
    """How many batches make an optimiser step."""
    config, fact = settings.take("optim_wrapper"), facts.get("batches_per_step")
    if config is None:
        return fact or 1
    several = isinstance(config, Mapping) and "optimizer" not in config and "type" not in config
    inner = [value for value in config.values() if isinstance(value, Mapping)] if several else []
    if several and inner:
        counts = {int(value.get("accumulative_counts", 1)) for value in inner}
        what = "has several optimisers: the schedules are those of each of them"
        settings.notes.unmapped("optim_wrapper", what)
        if len(counts) > 1:
            do = "import them one by one"
            raise SolverError("optim_wrapper", "accumulates differently by optimiser", got=str(sorted(counts)), do=do)
        return fact or counts.pop()
    wrapper = Settings(config, "optim_wrapper", settings.notes)
    count = wrapper.number("accumulative_counts")
    if count is not None and (count != int(count) or count < 1):
        where = wrapper.path("accumulative_counts")
        raise SolverError(where, "must be a whole number >= 1", got=repr(count), do="correct it")
    if count is not None and fact not in (None, count):
        got = f"{count}, and facts.batches_per_step {fact}"
        do = "leave one of them out"
        raise SolverError(wrapper.path("accumulative_counts"), "contradicts the facts", got=got, do=do)
    wrapper.ignore("_delete_", *(("type",) if wrapper.take("type") == "OptimWrapper" else ()))
    wrapper.rest(lambda _: "the optimiser, its groups, clipping and precision are not part of the schedules")
    return (fact or 1) if count is None else int(count)


_LOOPS = ("EpochBasedTrainLoop", "IterBasedTrainLoop")


def _run(settings: Settings, facts: Facts, per_step: Any, notes: Notes) -> _Run:
    loop = Settings(settings.take("train_cfg") or {}, "train_cfg", notes)
    by_epochs = _by_epochs(loop, facts, notes)
    key = "max_epochs" if by_epochs else "max_iters"
    other = "max_iters" if by_epochs else "max_epochs"
    if other in loop:
        do = f"give {key}, or the other loop"
        raise SolverError(loop.path(other), f"is not for {_LOOPS[not by_epochs]}", got=repr(loop.take(other)), do=do)
    said = loop.number(key)
    if said is not None and (said != int(said) or said < 1):
        raise SolverError(loop.path(key), "must be a whole number >= 1", got=repr(said), do="correct it")
    loop.rest(
        lambda key: "validation is not part of the schedules" if "val" in key else None, ("type", "by_epoch", key)
    )

    epochs, per_epoch, batches, steps = (None if facts.get(n) is None else exact(facts.get(n)) for n in _COUNT)
    if batches is None and steps is not None:
        batches = steps * exact(per_step)
    if by_epochs:
        if epochs is None and batches is not None and per_epoch and (batches / per_epoch).denominator == 1:
            epochs = batches / per_epoch
        told = epochs
        epochs = exact(said) if epochs is None and said is not None else epochs
        if epochs is not None and per_epoch is not None:
            batches = epochs * per_epoch
        elif epochs is not None and batches is not None and exact(per_step) == 1:
            per_epoch = batches / epochs
    else:
        told = batches
        batches = exact(said) if batches is None and said is not None else batches
        epochs = batches / per_epoch if batches is not None and per_epoch else None
    unit = "ep" if by_epochs else "st"
    ends = {"ep": _END, "st": _END} if by_epochs else {"ep": _Point(epochs=Fraction(1)), "st": _END}
    if said is not None and told not in (None, said):
        ends[unit] = _point(exact(said), unit)
        ends["st"] = ends[unit]
        got = f"{told} {'epochs' if by_epochs else 'iterations'}"
        notes.say(loop.path(key), f"the facts say {got}: the schedules are those of {said}, and then stay as they are")
    elif said is not None:
        trainer = f"Trainer(max_epochs={said})" if by_epochs else f"Trainer(max_steps={said})"
        notes.say(loop.path(key), f"the schedules are made for a run of this length: {trainer}")
    short = batches is not None and batches % exact(per_step) != 0
    return _Run(by_epochs, epochs, batches, per_epoch, ends, short)


def _by_epochs(loop: Settings, facts: Facts, notes: Notes) -> bool:
    """Whether the loop counts epochs; by its type, its lengths, the facts, or else as most do."""
    kind = loop.take("type")
    name = kind.text if isinstance(kind, Name) else kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if kind is not None and "by_epoch" in loop:
        do = "take one of them out"
        raise SolverError(loop.path("by_epoch"), "cannot stand beside type", got=f"type {name}", do=do)
    fact = facts.get("train_loop")
    if fact not in (None, "by_epoch", "by_iter"):
        raise SolverError("facts.train_loop", "must be by_epoch or by_iter", got=repr(fact), do="correct it")
    if "by_epoch" in loop:
        return loop.flag("by_epoch", True)
    if name.endswith(_LOOPS):
        return name.endswith(_LOOPS[0])
    if kind is not None and fact is None:
        notes.say(loop.path("type"), f"{name} is not a loop of MMEngine: it is taken to count as its lengths say")
    return fact == "by_epoch" if fact else "max_iters" not in loop


def _point(number: Fraction, unit: str) -> _Point:
    return _Point(epochs=number) if unit == "ep" else _Point(batches=number)


# ------------------------------------------------------------------ one scheduler


def _start(level: Level) -> dict[str, Any]:
    return {} if level == 1.0 else {"start": level}


def _until(schedule: Schedule, until: int | str | None) -> Schedule:
    return dataclasses.replace(schedule, until=until)  # type: ignore[call-arg]


def _same(factor: float | None) -> float | None:
    return factor


def _nothing(_: float | None) -> float | None:
    return 0.0


def _unknown(_: float | None) -> float | None:
    return None


@dataclass(frozen=True)
class _Found:
    """The value that a scheduler finds as it begins.

    Args:
        factor: As a factor of the group's base value, where that is known.
        level: As a schedule names it.
    """

    factor: float | None
    level: Level

    @property
    def known(self) -> float:
        """The factor, for a scheduler that needs it."""
        assert self.factor is not None
        return self.factor

    @property
    def start(self) -> dict[str, Any]:
        """The ``start`` of a phase; nothing for the base value."""
        return _start(self.level)


@dataclass(frozen=True)
class _Move:
    """What one scheduler does.

    Args:
        phases: Its phases from ``begin`` on, made of the value that it finds. The last has no ``until`` if it
            needs nothing after it.
        begin: Where its phases begin.
        latest: The latest point where they may begin instead.
        last: The point from which on it no longer moves.
        after: The factor that it leaves, made of the factor that it finds.
        by_epoch: Whether it moves once per epoch.
        order: Its place among those that move after the same iteration.
        stairs: Whether its phases have to be looked up once per epoch.
        pure: Whether it multiplies by factors that do not depend on the value.
        sets: Whether it sets the value and forgets what was before.
        jumps: Whether it changes the value as it begins.
        returns: Whether what it leaves is not the value at the end of its phases.
        floor: The value that it decays to.
        needs_level: Whether ``phases`` needs the factor.
    """

    phases: Callable[[_Found], list[Schedule]]
    begin: _Point
    latest: _Point
    last: _Point
    after: Callable[[float | None], float | None]
    by_epoch: bool
    order: tuple[bool, int]
    stairs: bool
    pure: bool = True
    sets: bool = False
    jumps: bool = False
    returns: bool = False
    floor: Level = 0.0
    needs_level: bool = False


@dataclass(frozen=True)
class _Reader:
    """A scheduler of a config as it is read.

    Args:
        kind: Its class without what it moves: ``Linear`` of ``LinearLR``.
        option: What it moves.
        data: Its settings.
        run: The run.
        facts: What the config leaves open.
        by_epoch: Whether it moves once per epoch.
        one: What its lengths count: an epoch, an iteration, or some other number of them.
        begin: Where it begins.
        end: Where it ends.
        keep_zero: Whether groups whose value is 0 keep it.
        order: Its place among those that move after the same iteration.
        initial: What it takes for the base value of each group; empty for that value itself.
    """

    kind: str
    option: str
    data: Settings
    run: _Run
    facts: Facts
    by_epoch: bool
    one: _Point
    begin: _Point
    end: _Point
    keep_zero: bool
    order: tuple[bool, int]
    initial: tuple[float, ...] = ()

    @property
    def tick(self) -> _Point:
        """From one move to the next."""
        return _point(Fraction(1), "ep" if self.by_epoch else "st")

    @property
    def idle(self) -> bool:
        """Whether it moves with epochs in a loop that has only one: it begins, and that is all."""
        return self.by_epoch and not self.run.by_epochs

    @property
    def once(self) -> bool:
        """Whether it makes one move only."""
        return self.idle or self.run.sign(self.end - self.tick - self.begin) == 0

    @property
    def endless(self) -> bool:
        """Whether it lasts to the end of the run, or longer."""
        return self.run.sign(self.end - _END) in (0, 1)

    @property
    def visible(self) -> _Point:
        """Where it ends, or the run before that."""
        return _END if self.endless else self.end

    def compared(self, point: _Point, other: _Point, key: str) -> int:
        """Which of two points is later; an error where that cannot be known."""
        sign = self.run.sign(point - other)
        if sign is None:
            self.facts.need(
                "iters_per_epoch", self.data.path(key), "counts iterations beside epochs, whose length counts"
            )
            raise AssertionError("with the length of an epoch points can be compared")
        return sign

    def count(self, point: _Point) -> Fraction | None:
        """A length in moves, where it is known."""
        return self.run.ticks(point, "ep" if self.by_epoch else "st")

    def whole(self, value: Any, key: str) -> tuple[_Point, bool]:
        """A length, and whether it is a whole number of moves."""
        number = _number(value, self.data.path(key))
        point = self.one * number
        if number.denominator == 1:
            return point, True
        if not self.by_epoch and point.epochs:
            self.facts.need("iters_per_epoch", self.data.path(key), "is a part of an epoch, whose length counts")
        count = self.count(point)
        return point, count is not None and count.denominator == 1

    def eta_min(self, needed: bool = False) -> Level:
        """``eta_min``, the same for every group, or ``eta_min_ratio``, a share of its own value."""
        data = self.data
        value, ratio = data.number("eta_min", low=0), data.number("eta_min_ratio", low=0)
        if value is None and ratio is None and not needed:
            return 0.0
        if (value is None) == (ratio is None):
            do = "give one of them"
            raise self.error("eta_min", "one of eta_min and eta_min_ratio must be given", (value, ratio), do)
        return absolute(value) if value is not None else self.base(ratio)

    def base(self, factor: float) -> Level:
        """A factor of what the scheduler takes for the base value."""
        if not self.initial:
            return float(factor)
        if len(set(self.initial)) > 1:
            what = "works on the values that the OneCycleLR before it has put in place of each group's own"
            do = "take one of the two schedulers out"
            raise SolverError(self.data.where, what, got=str(list(self.initial)), do=do)
        return absolute(self.initial[0] * factor)

    def text(self, point: _Point) -> int | str:
        """A point as a duration."""
        return self.run.text(point)

    def move(
        self,
        phases: Callable[[_Found], list[Schedule]],
        last: _Point,
        after: Callable[[float | None], float | None] = _unknown,
        *,
        latest: _Point | None = None,
        stairs: bool = True,
        pure: bool = True,
        sets: bool = False,
        jumps: bool = False,
        returns: bool = False,
        floor: Level = 0.0,
        needs_level: bool = False,
    ) -> _Move:
        """What the scheduler does; see :class:`_Move`."""
        stairs = stairs and self.by_epoch and not self.idle
        latest = self.begin if latest is None else latest
        where = (self.begin, latest, last)
        return _Move(
            phases, *where, after, self.by_epoch, self.order, stairs, pure, sets, jumps, returns, floor, needs_level
        )

    def held(self, factor: float = 1.0) -> _Move:
        """A factor from the beginning on, and that is all that there is."""
        jumps = factor != 1

        def after(level: float | None) -> float | None:
            return None if level is None else level * factor

        return self.move(lambda _: [], self.begin, after, stairs=False, jumps=jumps, needs_level=jumps)

    def cut(self, shape: Schedule, stop: _Point) -> Schedule:
        """A shape that is done at ``stop``, cut off where the scheduler or the run ends before that."""
        bare = self.endless and self.run.sign(stop - _END) == 0
        schedule = shape if bare else Over(shape, end=self.text(stop))
        return schedule if self.endless else _until(schedule, self.text(self.end - self.tick))

    def until(self, last: _Point) -> int | str | None:
        """``until`` of a phase that ends at ``last``; none where it ends with the run."""
        return None if self.endless else self.text(last)

    def error(self, key: str, what: str, got: Any, do: str = "correct it") -> SolverError:
        """An error of one of the settings."""
        return SolverError(self.data.path(key), what, got=repr(got), do=do)


def _number(value: Any, where: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SolverError(where, "must be a number", got=repr(value), do="correct it")
    return exact(value)


def _share(reader: _Reader, key: str, default: float) -> float:
    value = reader.data.number(key, default)
    if not 0 <= value <= 1:
        raise reader.error(key, "must lie between 0 and 1", value)
    return float(value)


def _linear(reader: _Reader) -> _Move:
    first, last = (_share(reader, key, default) for key, default in (("start_factor", 1 / 3), ("end_factor", 1.0)))
    stop = reader.end - reader.tick
    if reader.once:
        if not reader.idle:
            what = "has one move only, and so stays at its start_factor, as in MMEngine"
            reader.data.notes.say(reader.data.where, what)
        return reader.held(first)
    if first == 0 and reader.run.sign(reader.begin + reader.tick - _END) in (None, -1):
        raise reader.error("start_factor", "MMEngine stops with a division by zero", first, "give a factor > 0")

    def phases(found: _Found) -> list[Schedule]:
        return [Linear(start=found.known * first, end=found.known * last, until=reader.text(stop))]

    def after(level: float | None) -> float | None:
        return None if level is None else level * last

    return reader.move(phases, stop, after, jumps=True, needs_level=True)


def _constant(reader: _Reader) -> _Move:
    factor = _share(reader, "factor", 1 / 3)
    stop = reader.end - reader.tick
    if reader.once or factor == 1:
        return reader.held(factor)
    if factor == 0 and reader.run.sign(stop - _END) in (None, -1):
        raise reader.error("factor", "MMEngine stops with a division by zero at the end", factor, "give a factor > 0")

    def phases(found: _Found) -> list[Schedule]:
        return [Constant(found.known * factor, until=reader.text(stop))]

    return reader.move(phases, stop, _same, jumps=True, returns=True, needs_level=True, stairs=False)


def _exponential(reader: _Reader) -> _Move:
    gamma = float(reader.data.number("gamma", low=0)) if reader.data.needed("gamma") is not None else 0.0
    every = _point(Fraction(1), "ep") if reader.by_epoch else reader.tick
    return _decay(reader, gamma, every, smooth=not reader.by_epoch)


def _step(reader: _Reader) -> _Move:
    size, _ = reader.whole(reader.data.needed("step_size"), "step_size")
    gamma = float(reader.data.number("gamma", 0.1, low=0))
    if reader.run.sign(size) != 1:
        raise reader.error("step_size", "must be > 0", reader.data.take("step_size"))
    count = reader.count(size)
    if count is not None and count.denominator != 1:  # only whole multiples are ever met
        size = reader.tick * count.numerator
    return _decay(reader, gamma, size)


def _decay(reader: _Reader, gamma: float, every: _Point, smooth: bool = False) -> _Move:
    """Drops at every so many moves; ``smooth`` where that is every single one."""
    last, run = reader.end - reader.tick, reader.run
    first = reader.begin + every
    if reader.idle or gamma == 1 or run.sign(first - last) == 1:
        return reader.held()

    def phases(found: _Found) -> list[Schedule]:
        until = reader.until(last)
        if gamma == 0:
            return [Constant(found.level, until=reader.text(first)), Constant(0.0)]
        if smooth:
            return [Exponential(gamma=gamma, every=reader.text(every), **found.start, until=until)]
        return [Step(every=reader.text(every), gamma=gamma, **found.start, until=until)]

    def after(level: float | None) -> float | None:
        drops = _ratio(reader, last - reader.begin, every)
        return None if level is None or drops is None else level * gamma ** math.floor(drops)

    return reader.move(phases, first if gamma == 0 else last, after, stairs=False)


def _ratio(reader: _Reader, point: _Point, unit: _Point) -> Fraction | None:
    for name in ("st", "ep"):
        parts = reader.run.ticks(point, name), reader.run.ticks(unit, name)
        if parts[0] is not None and parts[1] is not None:
            return parts[0] / parts[1]
    return None


def _multi_step(reader: _Reader) -> _Move:
    data, run = reader.data, reader.run
    points, gamma = data.needed("milestones"), float(data.number("gamma", 0.1, low=0))
    if not isinstance(points, (list, tuple)):
        raise reader.error("milestones", "must be a list of numbers", points)
    pairs = [(value, *reader.whole(value, f"milestones[{i}]")) for i, value in enumerate(points)]
    lost = [value for value, point, met in pairs if not met or run.sign(point) == -1]
    drops = Counter(point for value, point, met in pairs if value not in lost)
    late = [point for point in drops if run.sign(reader.begin + point - reader.end) in (0, 1)]
    lost += [value for value, point, met in pairs if point in late and value not in lost]
    if lost:
        data.notes.say(data.path("milestones"), f"the scheduler is never at {', '.join(map(str, lost))}: no drop there")
    reached = [(reader.begin + point, count) for point, count in drops.items() if point not in late]
    reached.sort(key=lambda pair: (pair[0].epochs, pair[0].batches))
    if reader.idle or all(point == reader.begin for point, _ in reached):
        return reader.held(math.prod(gamma**count for point, count in reached if point == reader.begin))
    if gamma == 1:
        return reader.held()
    at = [point for point, _ in reached]
    factors = [gamma**count for _, count in reached]
    even = gamma > 0 and len(set(factors)) == 1

    def phases(found: _Found) -> list[Schedule]:
        if even:
            return [MultiStep(at=tuple(map(reader.text, at)), gamma=factors[0], **found.start)]
        levels = list(itertools.accumulate([found.known, *factors], operator.mul))
        stairs = [Constant(value, until=reader.text(point)) for value, point in zip(levels, at)]
        return [*(stairs[1:] if at[0] == reader.begin else stairs), Constant(levels[-1])]

    def after(level: float | None) -> float | None:
        return None if level is None else level * math.prod(factors)

    jumps = at[0] == reader.begin
    return reader.move(phases, at[-1], after, latest=at[0], stairs=False, jumps=jumps, needs_level=not even)


def _cosine(reader: _Reader) -> _Move:
    given, eta = reader.data.number("T_max"), reader.eta_min()
    if reader.once:
        return reader.held()
    if given is not None and given < 0:
        raise reader.error("T_max", "must be > 0", given)
    half, whole = reader.whole(given, "T_max") if given else (reader.end - reader.begin, True)
    last = reader.end - reader.tick
    if reader.compared(reader.begin + half, reader.visible, "T_max") >= 0:

        def half_cosine(found: _Found) -> list[Schedule]:
            return [reader.cut(Cosine(**found.start, end=eta), reader.begin + half)]

        return reader.move(half_cosine, last, pure=eta == 0, floor=eta)

    # It goes on beyond T_max, and so rises again to the base value, falls, and so on.
    times = _ratio(reader, reader.visible - reader.begin, half)
    top = reader.base(1.0)
    reader.data.notes.say(reader.data.path("T_max"), "the scheduler goes on beyond it: it rises again, as in MMEngine")

    def swing(found: _Found) -> list[Schedule]:
        if not whole and found.level != top:
            raise reader.error("T_max", "must be a whole number of moves", given)
        first: Schedule = Cosine(**found.start, end=eta, until=reader.text(reader.begin + half))
        rise, fall = Cosine(start=eta, end=top), Cosine(**_start(top), end=eta)
        if times is not None and times <= 4:
            stops = [reader.begin + half * i for i in range(2, math.ceil(times) + 1)]
            shapes = [rise if i % 2 == 0 else fall for i in range(len(stops))]
            middle = [_until(shape, reader.text(stop)) for shape, stop in zip(shapes, stops[:-1])]
            return [first, *middle, reader.cut(shapes[-1], stops[-1])]
        until = reader.until(last)
        halves = (fall, rise) if found.level == top else (rise, fall)
        cycle = (_until(halves[0], reader.text(half)), halves[1])
        swings = Cycle(cycle, every=reader.text(half * 2), until=until)
        return [swings] if found.level == top else [first, swings]

    return reader.move(swing, last, pure=False, floor=eta)


def _poly(reader: _Reader) -> _Move:
    data = reader.data
    eta, power = absolute(data.number("eta_min", 0.0, low=0)), float(data.number("power", 1.0))
    last = reader.end - reader.tick
    if power < 0:
        raise reader.error("power", "MMEngine stops with a division by zero at the end", power, "give a power > 0")
    if reader.once or power == 0:
        return reader.held()

    def phases(found: _Found) -> list[Schedule]:
        if power == 1:
            return [Linear(**found.start, end=eta, until=reader.text(last))]
        return [Polynomial(power=power, **found.start, end=eta, until=reader.text(last))]

    return reader.move(phases, last, _unknown if eta else _nothing, pure=eta == 0, floor=eta)


def _restart(reader: _Reader) -> _Move:
    data, run = reader.data, reader.run
    periods, weights = data.needed("periods"), data.take("restart_weights", (1,))
    eta = reader.eta_min(needed=True)
    for key, values in (("periods", periods), ("restart_weights", weights)):
        if not isinstance(values, (list, tuple)) or not values:
            raise reader.error(key, "must be a list of numbers", values)
    if len(periods) != len(weights):
        got = f"{len(weights)} weights for {len(periods)} periods"
        raise SolverError(
            data.path("restart_weights"), "must have one weight for each period", got=got, do="correct it"
        )
    spans: list[tuple[_Point, float]] = []
    for i, (period, weight) in enumerate(zip(periods, weights)):
        span, whole = reader.whole(period, f"periods[{i}]")
        factor = float(_number(weight, data.path(f"restart_weights[{i}]")))
        if not whole or run.sign(span) != 1 or factor < 0:
            raise reader.error(
                f"periods[{i}]", "must be a whole number > 0, and its weight not negative", (period, weight)
            )
        spans.append((span, factor))
    tops = [reader.base(factor) for _, factor in spans]
    if run.sign(reader.begin - _END) in (0, 1):
        return reader.held()
    if reader.once:
        return reader.move(lambda _: [Constant(tops[0])], reader.begin, sets=True, jumps=True, pure=False)
    stop = reader.begin
    shapes: list[Schedule] = []
    for (span, _), top in zip(spans, tops):
        if reader.compared(stop, reader.visible, "periods") >= 0:
            break
        stop = stop + span
        shapes.append(Cosine(**_start(top), end=eta, until=run.text(stop)))
    over = reader.compared(stop, reader.visible, "periods") < 0  # what the last iteration had is held
    last = stop - reader.tick if over else reader.end - reader.tick
    until = run.text(last) if over or not reader.endless else None

    cycle = _as_cycle(reader, spans[: len(shapes)], shapes, eta)
    final = _until(shapes[-1], None)
    if until is not None and run.sign(last - stop + spans[len(shapes) - 1][0]) == 0:  # held as it restarts
        phases = [*shapes[:-1], Constant(tops[len(shapes) - 1])]
    elif cycle is not None:
        phases = [_until(cycle, until)]
    elif over:
        phases = [*shapes[:-1], Over(final, end=run.text(stop), until=until)]
    else:
        phases = [*shapes[:-1], reader.cut(final, stop)]
    return reader.move(lambda _: phases, last, sets=True, jumps=True, pure=False)


def _as_cycle(
    reader: _Reader, spans: Sequence[tuple[_Point, float]], shapes: Sequence[Schedule], eta: Level
) -> Schedule | None:
    """The periods as a cycle, where there are several and they are regular."""
    ratios = [_ratio(reader, later[0], span[0]) for span, later in itertools.pairwise(spans)]
    grow = ratios[0] if ratios else None
    if grow is None or grow < 1 or grow.denominator != 1 or set(ratios) != {grow}:
        return None
    weights = [weight for _, weight in spans]
    decay = weights[1] / weights[0] if weights[0] else 0.0
    if not all(math.isclose(weight, weights[0] * decay**i, rel_tol=1e-13) for i, weight in enumerate(weights)):
        return None
    fixed = isinstance(eta, dict) or eta == 0
    if decay <= 0 or (decay != 1 and (not fixed or reader.initial)):
        return None
    of = _until(shapes[0], None)
    return Cycle(of, every=reader.text(spans[0][0]), grow=int(grow), decay=decay)


def _one_cycle(reader: _Reader) -> _Move:
    cycle = _OneCycle.read(reader)
    run, begin, tick = reader.run, reader.begin, reader.tick
    if run.sign(begin - _END) in (0, 1):
        return reader.held()
    if not any(cycle.highest):
        reader.data.notes.say(reader.data.where, "eta_max is 0, which is its default: the learning rate is 0")
    stop, size = begin + cycle.size, cycle.long
    done = not reader.idle and reader.compared(stop, reader.visible, "total_steps") < 0
    beyond = done and run.ticks(reader.visible, "st" if run.ticks(stop, "ep") is None else "ep") is not None
    if beyond and run.sign(reader.visible - stop - tick) == 1:
        what = "the scheduler goes on beyond it, and MMEngine stops with an error"
        raise reader.error("total_steps", what, reader.data.take("total_steps"), "give an end, or more steps")
    last = (stop if reader.compared(stop, reader.end, "total_steps") < 0 else reader.end) - tick
    groups = range(len(cycle.highest))
    if reader.once or size == 1:
        last = begin
        every: list[list[Schedule]] = [[Constant(absolute(cycle.value(0, group)))] for group in groups]
    else:
        every = [cycle.phases(group, last) for group in groups]
    for group, own in enumerate(every) if beyond else ():
        value = cycle.value(float(size), group)
        if value < 0:
            raise reader.error("total_steps", "the step after it makes the learning rate negative", value)
        own[-1] = _until(own[-1], run.text(last if own[-1].until else stop))
        own += [Constant("previous", until=run.text(stop))] if size > 1 else []
        own.append(Constant(absolute(value)))
    phases = every[0]
    if any(own != phases for own in every):
        parts = [simple([*own[:-1], _until(own[-1], None)]) for own in every]
        phases = [PerGroup(tuple(parts), until=every[0][-1].until)]
    return reader.move(lambda _: phases, stop if beyond else last, sets=True, jumps=True, pure=False)


@dataclass(frozen=True)
class _OneCycle:
    """The settings of a ``OneCycleLR``; ``knots`` are its start, its highest and its lowest value."""

    reader: _Reader
    highest: tuple[float, ...]
    divide: float
    divide_last: float
    share: Fraction
    cosine: bool
    three: bool
    size: _Point

    @classmethod
    def read(cls, reader: _Reader) -> _OneCycle:
        data = reader.data
        highest = data.take("eta_max", 0.0)
        many = list(highest) if isinstance(highest, (list, tuple)) else [highest]
        groups = reader.facts.get("base_lr")
        if isinstance(highest, (list, tuple)) and isinstance(groups, (list, tuple)) and len(groups) != len(many):
            raise reader.error("eta_max", f"has not one value for each of {len(groups)} groups", highest)
        values = tuple(float(_number(value, data.path("eta_max"))) for value in many)
        if not values or min(values) < 0:
            raise reader.error("eta_max", "must be a number >= 0, or a list of one for each group", highest)
        divide, divide_last = (float(data.number(k, v)) for k, v in (("div_factor", 25.0), ("final_div_factor", 1e4)))
        for key, value in (("div_factor", divide), ("final_div_factor", divide_last)):
            if value <= 0:
                raise reader.error(key, "must be > 0", value)
        share = data.take("pct_start", 0.3)
        if not isinstance(share, float) or not 0 <= share <= 1:
            raise reader.error("pct_start", "must be a float from 0.0 to 1.0", share)
        cosine = data.choice("anneal_strategy", ("cos", "linear"), "cos") == "cos"
        three = data.flag("three_phase", False)
        steps = data.take("total_steps")
        if steps is None:
            size = reader.end - reader.begin
        elif isinstance(steps, bool) or not isinstance(steps, int) or steps <= 0:
            raise reader.error("total_steps", "must be a whole number > 0", steps)
        else:
            size = reader.one * steps
        cycle = cls(reader, values, divide, divide_last, exact(share), cosine, three, size)
        begins = reader.begin == _START if reader.idle else reader.run.sign(reader.begin - _END) == -1
        if cycle.share * cycle.long == 1 and begins:
            raise reader.error("pct_start", "leaves the rise no step, and MMEngine stops with an error", share)
        return cycle

    @property
    def long(self) -> Fraction:
        """The number of steps; a large one where it is not known."""
        return self.reader.count(self.size) or Fraction(10**9)

    def knots(self, group: int) -> tuple[float, float, float]:
        high = self.highest[group]
        return (high / self.divide, high, high / self.divide / self.divide_last)

    def ends(self) -> list[tuple[Fraction, int, int]]:
        """Where each stretch ends: at this share of all steps less so many, and the index of its value."""
        rise = [(self.share, 1, 1), (2 * self.share, 2, 0)] if self.three else [(self.share, 1, 1)]
        return [*rise, (Fraction(1), 1, 2)]

    def value(self, n: float, group: int) -> float:
        """The value of a group at step ``n``, from 0 to the number of steps."""
        begin, at, size, knots = 0.0, 0, float(self.long), self.knots(group)
        ends = [(float(share) * size - less, to) for share, less, to in self.ends()]
        for stop, to in ends:
            if n <= stop or stop == ends[-1][0]:
                part = (n - begin) / (stop - begin)
                a, b = knots[at], knots[to]
                return b + (a - b) / 2 * (math.cos(math.pi * part) + 1) if self.cosine else a + (b - a) * part
            begin, at = stop, to
        raise AssertionError("the last stretch takes all")

    def phases(self, group: int, last: _Point) -> list[Schedule]:
        """The phases of one group; the last ends at ``last``."""
        reader, knots, size = self.reader, self.knots(group), self.long
        text, ends = reader.run.text, self.ends()
        if not any(knots):
            return [Constant(0.0, until=reader.until(last))]
        at, earlier = 0, _START
        while ends[0][0] * size - ends[0][1] < 0:  # a stretch that is over before the first step
            earlier = reader.tick * ends[0][1] - self.size * ends[0][0]
            at = ends[0][2]
            ends = ends[1:]
        phases: list[Schedule] = []
        for share, less, to in ends:
            point = reader.begin + self.size * share - reader.tick * less + earlier
            levels = {"start": absolute(knots[at]), "end": absolute(knots[to])}
            shape: Schedule = Cosine(**levels) if self.cosine else Linear(**levels)  # type: ignore[arg-type]
            at = to
            final = reader.run.sign(point - earlier - last) in (0, 1)
            whole = earlier != _START and reader.endless and reader.run.sign(point - _END) == 0
            if not final:
                phases.append(_until(shape, text(point)))
            elif whole:  # the shift makes it end with the last step
                phases.append(shape)
            elif earlier != _START or reader.run.sign(point - last) == 1:
                phases.append(Over(shape, end=text(point)))
            else:
                phases.append(shape)
            if final:
                break
        until = text(last)
        if earlier == _START:
            return [*phases[:-1], _until(phases[-1], until)]
        return [Shift(simple(phases), earlier=text(earlier), until=reader.until(last))]


# ------------------------------------------------------------------ ReduceOnPlateau


def _plateau(reader: _Reader) -> Schedule:
    data = reader.data
    if not reader.by_epoch:
        raise reader.error("by_epoch", "ReduceOnPlateau moves with epochs only", False, "leave it out")
    lowest = data.take("min_value", 0.0)
    groups = reader.facts.get("base_lr")
    if isinstance(lowest, (list, tuple)) and isinstance(groups, (list, tuple)) and len(groups) != len(lowest):
        raise reader.error("min_value", f"has not one value for each of {len(groups)} groups", lowest)
    many = list(lowest) if isinstance(lowest, (list, tuple)) else [lowest]
    numbers = [float(_number(value, data.path("min_value"))) for value in many]
    factor = float(data.number("factor", 0.1))
    if not 0 < factor < 1:
        raise reader.error("factor", "must be > 0 and < 1", factor)
    each = [
        Plateau(
            monitor=str(data.take("monitor", "loss")),
            mode="min" if data.choice("rule", ("less", "greater"), "less") == "less" else "max",
            factor=factor,
            patience=_natural(reader, "patience", 10),
            threshold=float(data.number("threshold", 1e-4, low=0)),
            threshold_mode="rel" if data.choice("threshold_rule", ("rel", "abs"), "rel") == "rel" else "abs",
            cooldown=_natural(reader, "cooldown", 0),
            min=absolute(max(number, 0.0)),
            eps=float(data.number("eps", 1e-8, low=0)),
        )
        for number in numbers
    ]
    plateau: Schedule = each[0] if len(set(each)) == 1 else PerGroup(tuple(each))
    if reader.idle:
        return plateau if reader.begin == _START else Constant()
    if reader.run.sign(reader.end - reader.tick) == 0:
        return Constant()  # it ends before the first validation
    # A validation after n epochs counts where begin <= n < end; a tracker counts those after its begin.
    begin = None if reader.begin == _START else reader.text(reader.begin - _point(Fraction(1), "st"))
    end = None if reader.endless else reader.text(reader.end - reader.tick)
    return plateau if begin is None and end is None else Over(plateau, begin=begin, end=end)


def _natural(reader: _Reader, key: str, default: int) -> int:
    value = reader.data.number(key, default, low=0)
    if value != int(value):
        raise reader.error(key, "must be a whole number", value)
    return int(value)


# ------------------------------------------------------------------ classes and their settings

_FLOOR = ("eta_min", "eta_min_ratio")
_CYCLE = ("eta_max", "total_steps", "pct_start", "anneal_strategy", "div_factor", "final_div_factor", "three_phase")
_DROP = ("monitor", "rule", "factor", "patience", "threshold", "threshold_rule", "cooldown", "min_value", "eps")
_KINDS: dict[str, tuple[Callable[[_Reader], _Move] | None, tuple[str, ...]]] = {
    "Constant": (_constant, ("factor",)),
    "CosineAnnealing": (_cosine, ("T_max", *_FLOOR)),
    "CosineRestart": (_restart, ("periods", "restart_weights", *_FLOOR)),
    "Exponential": (_exponential, ("gamma",)),
    "Linear": (_linear, ("start_factor", "end_factor")),
    "MultiStep": (_multi_step, ("milestones", "gamma")),
    "OneCycle": (_one_cycle, _CYCLE),
    "Poly": (_poly, ("power", "eta_min")),
    "ReduceOnPlateau": (None, _DROP),
    "Step": (_step, ("step_size", "gamma")),
}
_SUFFIXES: dict[str, str | None] = {"LR": "lr", "Momentum": "momentum", "ParamScheduler": None}
_CLASSES: dict[str, tuple[str, str | None]] = {
    f"{kind}{suffix}": (kind, option)
    for kind in _KINDS
    for suffix, option in _SUFFIXES.items()
    if (kind, suffix) != ("OneCycle", "Momentum")
}
_CLASSES["CosineAnnealingWeightDecay"] = ("CosineAnnealing", "weight_decay")
"""Classes of MMEngine and MMPretrain: their kind, and what they move (``None``: ``param_name`` says it)."""
_COMMON = (
    "type",
    "begin",
    "end",
    "by_epoch",
    "last_step",
    "verbose",
    "convert_to_iter_based",
    "epoch_length",
    "_scope_",
)


def _readers(config: Any, run: _Run, facts: Facts, notes: Notes) -> list[_Reader]:
    """The schedulers of ``param_scheduler``, in order."""
    where = "param_scheduler"
    if isinstance(config, Mapping) and "type" not in config:
        do = "import the schedulers of each optimiser by themselves"
        names = ", ".join(map(str, config)) or "(none)"
        raise SolverError(where, "has schedulers for several optimisers, and a spec is of one", got=names, do=do)
    if isinstance(config, (Mapping, Call)):
        return [_reader(config, where, 0, run, facts, notes)]
    if config is not None and not isinstance(config, (list, tuple)):
        do = "give a mapping, or a list of them"
        raise SolverError(where, "is not a scheduler", got=repr(config)[:120], do=do)
    readers = [_reader(item, f"{where}[{i}]", i, run, facts, notes) for i, item in enumerate(config or ())]
    cycles: dict[str, _OneCycle] = {}
    for i, reader in enumerate(readers):
        earlier = cycles.get(reader.option)
        if earlier is not None:
            initial = tuple(earlier.knots(group)[0] for group in range(len(earlier.highest)))
            readers[i] = dataclasses.replace(reader, initial=initial)
        if reader.kind == "OneCycle":
            cycle = _OneCycle.read(reader)
            values = [(c.highest, c.divide, c.divide_last) for c in (earlier or cycle, cycle)]
            if values[0] != values[1]:
                what = "differs from the OneCycleLR before it, and MMEngine takes the values of the last for both"
                raise SolverError(reader.data.where, what, got=str(values), do="give both the same values")
            cycles[reader.option] = cycle
    return readers


def _reader(config: Any, where: str, index: int, run: _Run, facts: Facts, notes: Notes) -> _Reader:
    if isinstance(config, Call):
        if any(not isinstance(value, Name) for value in config.args):
            raise SolverError(where, "has arguments without a name", got=str(config.args), do="name them")
        config = {"type": config.name, **{key: value for key, value in config.kwargs.items() if key != "optimizer"}}
    data = Settings(config, where, notes)
    name = data.needed("type")
    name = (
        name.text
        if isinstance(name, Name)
        else name
        if isinstance(name, str)
        else getattr(name, "__name__", repr(name))
    )
    name = name.rpartition(".")[2]
    if name not in _CLASSES:
        do = suggestion(name, _CLASSES, "classes")
        raise SolverError(data.path("type"), "is not a scheduler of MMEngine", got=repr(name), do=do)
    kind, option = _CLASSES[name]
    known = (*_COMMON, *_KINDS[kind][1], *(("param_name",) if option is None else ()))
    for key in map(str, config):
        if key not in known:
            data.ignore(key)
            data.notes.unknown(data.path(key), key, name, known)
    if option is None:
        option = data.needed("param_name")
        if not isinstance(option, str) or not option.isidentifier() or option == "betas":
            do = "give lr, momentum or weight_decay"
            raise SolverError(data.path("param_name"), "is not an option with one number", got=repr(option), do=do)
    if kind == "OneCycle" and option != "lr":
        raise SolverError(data.path("param_name"), "OneCycle moves the lr only", got=repr(option), do="give lr")
    if data.number("last_step", -1) != -1:
        do = "leave it out; a checkpoint of the trainer resumes"
        raise SolverError(data.path("last_step"), "resumes a run of MMEngine", got=repr(data.take("last_step")), do=do)
    data.ignore("verbose", "_scope_", "type")
    by_epoch, one, begin, end = _window(data, kind, run, facts)
    if run.sign(end - begin) in (0, -1):
        got = f"begin {run.text(begin)}, end {run.text(end)}"
        raise SolverError(data.path("end"), "must be larger than begin", got=got, do="correct one of them")
    reader = _Reader(
        kind, option, data, run, facts, by_epoch, one, begin, end, name.endswith("WeightDecay"), (by_epoch, index)
    )
    if reader.idle and kind != "ReduceOnPlateau":
        notes.say(
            where, "moves with epochs, of which an IterBasedTrainLoop has one: it begins, and then stays as it is"
        )
    return reader


def _window(data: Settings, kind: str, run: _Run, facts: Facts) -> tuple[bool, _Point, _Point, _Point]:
    """Whether a scheduler moves with epochs, what its lengths count, where it begins and where it ends."""
    by_epoch, convert = data.flag("by_epoch", True), data.flag("convert_to_iter_based", False)
    own = data.number("epoch_length")
    unit = "ep" if by_epoch else "st"
    one = _point(Fraction(1), unit)
    default = run.ends[unit]
    if convert and (not by_epoch or kind == "ReduceOnPlateau"):
        what = "only a scheduler by epoch can be converted" if not by_epoch else "ReduceOnPlateau cannot be converted"
        raise SolverError(data.path("convert_to_iter_based"), what, got="True", do="leave it out")
    if convert and own is not None and exact(own) != run.per_epoch:
        if own <= 0 or own != int(own):
            raise SolverError(data.path("epoch_length"), "must be a whole number > 0", got=repr(own), do="correct it")
        one = _point(exact(own), "st")
        if "end" not in data:
            epochs = run.told(default)
            if epochs.runs:
                facts.need("epochs", data.path("end"), "is the number of epochs")
            default = one * epochs.epochs
    ends = [_begin_or_end(data, key, convert, one, run, facts) for key in ("begin", "end")]
    begin, end = _START if ends[0] is None else ends[0], default if ends[1] is None else ends[1]
    return by_epoch and not convert, one, begin, run.relative(end)


def _begin_or_end(data: Settings, key: str, convert: bool, one: _Point, run: _Run, facts: Facts) -> _Point | None:
    if key not in data:
        return None
    if data.take(key) is None:
        raise SolverError(data.path(key), "must be a number", got="None", do="leave it out")
    number = _number(data.number(key, low=0), data.path(key))
    if number.denominator != 1 and convert:  # rounded down to a whole iteration
        if one.epochs:
            facts.need("iters_per_epoch", data.path(key), "is a part of an epoch, whose length counts")
        return _point(Fraction(math.floor(run.ticks(one * number, "st") or 0)), "st")
    if number.denominator != 1:
        raise SolverError(data.path(key), "must be a whole number", got=repr(data.take(key)), do="correct it")
    return one * number


# ------------------------------------------------------------------ schedulers together


def _schedule(readers: Sequence[_Reader], per_step: Any) -> Phases:
    """The schedule of one option."""
    run, notes = readers[0].run, readers[0].data.notes
    plateaus = [reader for reader in readers if reader.kind == "ReduceOnPlateau"]
    others = [reader for reader in readers if reader.kind != "ReduceOnPlateau"]
    moves = [_moved(reader) for reader in others]
    tracks = _together(moves, run, others, alone=not plateaus) if others else []
    keep = [reader for reader in others if reader.keep_zero and reader.eta_min() != 0]
    if keep and any(not move.pure and not r.keep_zero for r, move in zip(others, moves)):
        what = "keeps groups at 0 that another scheduler moves away from it"
        raise SolverError(keep[0].data.where, what, do="take one of them out")
    if keep and not all(isinstance(r.eta_min(), float) for r in keep):
        tracks = [KeepZero(track) for track in tracks]
    tracks = [_in_steps(track, run, per_step, notes) for track in tracks]
    if not plateaus:
        return tracks[0]
    lowering = [_plateau(reader) for reader in plateaus]
    _check_plateaus(plateaus, moves, run)
    if not tracks and len(lowering) == 1:
        return lowering[0]
    return Product((*lowering, *tracks))


def _moved(reader: _Reader) -> _Move:
    read, run = _KINDS[reader.kind][0], reader.run
    assert read is not None
    if reader.idle and reader.begin != _START:
        return reader.held()
    move = read(reader)
    return reader.held() if run.sign(reader.begin - _END) in (0, 1) else move


def _in_steps(phases: Phases, run: _Run, per_step: Any, notes: Notes) -> Phases:
    """A schedule of iterations as one of optimiser steps."""
    if run.last_is_short and run.batches is not None:  # the last step is made by the value of the last batch
        last = int(run.batches)
        phases = (Over(single(phases), end=last, until=last - 1), HOLD)
    return batches_to_steps({"": phases}, per_step, notes, "optim_wrapper.accumulative_counts")[""]


def _check_plateaus(plateaus: Sequence[_Reader], moves: Sequence[_Move], run: _Run) -> None:
    """Refuse what a drop would not commute with."""
    where = plateaus[0].data.where
    if any(not move.pure for move in moves):
        what = "stands beside a scheduler with a floor, or one that sets the value, and is no factor of it"
        raise SolverError(where, what, do="give eta_min: 0, or take one of them out")
    for reader in plateaus:
        lowest = reader.data.take("min_value", 0.0)
        first = reader.begin + reader.tick * (int(reader.data.number("patience", 10)) + 1)
        busy = len(plateaus) > 1 or any(
            move.after(1.0) != 1 or run.sign(move.last - first) in (1, None) for move in moves
        )
        if busy and any(lowest if isinstance(lowest, (list, tuple)) else [lowest]):
            what = "limits a value that another scheduler moves at the same time"
            do = "let the other end before the first drop, or give min_value: 0"
            raise SolverError(reader.data.path("min_value"), what, got=repr(lowest), do=do)
        if busy:
            reader.data.notes.say(reader.data.path("eps"), "is measured without the other schedulers")


def _together(moves: Sequence[_Move], run: _Run, readers: Sequence[_Reader], alone: bool) -> list[Phases]:
    """The schedulers of one option: one schedule, or, not ``alone``, factors."""

    def order(one: _Move, other: _Move) -> int:
        return run.sign(one.latest - other.latest) or 0

    ordered = sorted(moves, key=functools.cmp_to_key(order))
    bare = alone and all(move.by_epoch for move in moves) and any(move.stairs for move in moves)
    tracks = _tracks(ordered, run, bare)
    if tracks is None:
        return [_chain(moves, run, readers)]
    if not alone:
        return [simple(track) for track in tracks]
    if len(tracks) == 1 and any(
        run.sign(later.latest - move.last) is None for move, later in itertools.pairwise(ordered)
    ):
        what = "the epochs are taken to be long enough that no scheduler begins before the one before it is done"
        readers[0].data.notes.say("param_scheduler", what)
    schedule = simple(tracks[0]) if len(tracks) == 1 else _product(tracks)
    return [Staircase(schedule) if bare else schedule]


def _tracks(moves: Sequence[_Move], run: _Run, bare: bool) -> list[list[Schedule]] | None:
    """The schedulers as lists of phases that are multiplied; ``None`` where that does not do."""
    tracks: list[list[_Move]] = []
    for move in moves:
        for track in tracks:
            if _sequence([*track, move], run, bare) is not None:
                track.append(move)
                break
        else:
            tracks.append([move])
    first = tracks[0]
    if len(tracks) > 1:
        if any(not move.pure for track in tracks[1:] for move in track):
            return None
        floors = [move for move in first if not move.pure]
        later = [move for track in tracks[1:] for move in track]
        if floors and not all(_follows(move, first[-1], move.begin, run) for move in later):
            return None
    lists = [_sequence(track, run, bare) for track in tracks]
    assert all(phases is not None for phases in lists)
    return [phases for phases in lists if phases is not None]


def _follows(move: _Move, before: _Move, begin: _Point, run: _Run) -> bool:
    """Whether a scheduler that begins at ``begin`` surely does so once another one is done."""
    sign = run.sign(begin - before.last)
    quiet = not move.jumps and move.latest == move.begin  # changes nothing with its first step
    return sign == 1 or (sign == 0 and ((before.pure and move.pure) or quiet or move.order > before.order))


def _product(tracks: Sequence[list[Schedule]]) -> Schedule:
    """Lists of phases multiplied; as a warm-up, where one is a ramp up to 1."""
    if len(tracks) == 2:
        for ramp, other in (tracks, tracks[::-1]):
            if len(ramp) == 2 and ramp[1] == Constant() and _rises(ramp[0]):
                return Warmup(ramp=ramp[0], of=simple(other), meets="multiply")
    return Product(tuple(simple(track) for track in tracks))


def _rises(phase: Schedule) -> bool:
    inner = phase.of if isinstance(phase, Staircase) else phase
    return isinstance(inner, Constant) or (isinstance(inner, Linear) and inner.end == 1)


def _sequence(moves: Sequence[_Move], run: _Run, bare: bool) -> list[Schedule] | None:
    """Schedulers one after another as a list of phases; ``None`` where they overlap."""
    out: list[Schedule] = []
    at, opened, held = _START, _START, True
    factor: float | None = 1.0
    before: _Move | None = None
    for move in moves:
        sign = run.sign(move.latest - at)
        flexible = move.latest != move.begin
        waits = bool(out) and out[-1].until is None  # the phase before lasts until something else begins
        # Iterations are taken to be over before an epoch begins: where they are not, laying the phases fails.
        if sign == -1 or (sign is None and (flexible or waits or (move.latest - at).epochs < 0)):
            return None
        if sign == 0 and before is not None and not _follows(move, before, move.latest, run):
            return None
        start: Level = "previous"
        if waits and sign == 0 and isinstance(out[-1], Constant):  # a value that would last no step
            start = out[-1].value
            out.pop()
            factor, held = start if isinstance(start, float) else None, False
        elif waits and not (isinstance(out[-1], (Constant, MultiStep)) and run.sign(at - opened) != 0):
            return None
        elif factor == 1.0 or not (held and out):
            if factor is None:
                return None
            start = factor
        if move.needs_level and factor is None:
            return None
        phases = move.phases(_Found(factor, start))
        if phases:
            opened = move.latest if waits else at if flexible else move.begin
            if out and out[-1].until is None:
                out[-1] = _until(out[-1], run.text(move.latest))
            elif sign != 0 and not flexible:
                out.append(Constant(start, until=run.text(move.begin)))
            if move.stairs and not bare:
                of = [*phases[:-1], _until(phases[-1], None)]
                phases = [Staircase(simple(of), until=phases[-1].until)]
            out += phases
        elif move.jumps and out:
            if out[-1].until is None:
                out[-1] = _until(out[-1], run.text(move.begin))
            elif sign != 0:
                out.append(Constant(start, until=run.text(move.begin)))
        elif move.jumps and move.begin != _START:
            out.append(Constant(start, until=run.text(move.begin)))
        held = not move.returns if phases else held and not move.jumps
        at = move.last if phases or move.jumps else at
        factor, before = move.after(factor), move
    if not out:
        return None if factor is None else [Constant(factor)]
    if out[-1].until is not None and run.sign(at - _END) not in (0, 1):
        assert held or factor is not None
        out.append(Constant(factor) if factor is not None and (factor == 1 or not held) else HOLD)
    return out


def _chain(moves: Sequence[_Move], run: _Run, readers: Sequence[_Reader]) -> Schedule:
    """Schedulers that each work on what the others leave, where one of them has a floor."""
    for move, reader in zip(moves, readers):
        if move.sets:
            what = "sets the value whatever the others made of it, at the same time"
            do = "let one begin where the other ends"
            raise SolverError(reader.data.where, what, got=reader.kind, do=do)
    what = "a floor beside other schedulers: groups whose own value is 0, or that of eta_min, may differ from MMEngine"
    readers[0].data.notes.say("param_scheduler", what)
    ordered = sorted(moves, key=lambda move: move.order)
    links = [_sequence([move], run, bare=False) for move in ordered]
    of = [simple(link) for link in links if link is not None]
    return Chain(tuple(of), floors=tuple(move.floor for move in ordered))
