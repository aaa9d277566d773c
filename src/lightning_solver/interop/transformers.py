"""Schedules of Hugging Face transformers: ``TrainingArguments``, ``get_scheduler`` and the functions behind it.

Every schedule of transformers is a factor of each group's own learning rate that counts optimiser steps from 0. Below,
``W`` is the number of warm-up steps and ``T`` the number of training steps that a schedule is made for.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import Duration, exact
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
from lightning_solver.interop.reading import Call, Name, load, read_calls
from lightning_solver.schedules import (
    Constant,
    Cosine,
    Cycle,
    Inverse,
    Linear,
    Over,
    PerGroup,
    Plateau,
    Polynomial,
    Schedule,
    Shift,
)

Part = tuple[Schedule, Fraction | str | None]
"""A phase without its end, and the end: a step, a duration, or ``None`` for that of a run of unknown length."""


def from_transformers(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedule of a transformers recipe as a spec.

    Args:
        config: ``{"TrainingArguments": {...}}``; the fields of ``TrainingArguments`` themselves; ``{"get_scheduler":
            {...}}`` or the arguments of one of the functions behind it by its name; the Python text of such a call; or
            the path of a ``.py``, ``.yaml`` or ``.json`` file with one of these.
        facts: What the config leaves open: ``total_iters``, the optimiser steps of the run, where it is not
            ``max_steps``; ``iters_per_epoch``, the batches of an epoch, for ``num_train_epochs``;
            ``optimizer_default_lr``, the rate given to the optimiser itself, to which ``lr_end`` and ``min_lr`` are
            relative, where the config has no ``learning_rate``.
        strict: Whether a key that is not mapped is an error.

    Returns:
        A spec with ``schedules.lr``, and notes.

    Raises:
        SolverError: What transformers refuses; a schedule of its that follows a metric in both directions
            (``greedy``); something that only a missing fact can tell; a config of another system.

    Example:
        >>> config = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1, "max_steps": 1000}
        >>> imported = from_transformers(config)
        >>> imported.spec.curve("lr", [1.0], total_steps=1000)[[0, 50, 100, 550], 0].round(9).tolist()
        [0.0, 0.5, 1.0, 0.5]
    """
    notes = Notes()
    known = Facts(facts, notes)
    call = _call(load(config), notes)
    ask = _training_arguments(call, known, notes) if _is_arguments(call.name) else _function(call, known, notes)
    policy = POLICIES[ask.name]
    _check_arguments(ask, policy)
    phases = policy.make(ask)
    ask.run.explain(policy, notes)
    return notes.imported(imported_spec({"lr": phases}), strict)


# ------------------------------------------------------------------ what is asked for


@dataclass(frozen=True)
class _Run:
    """Where a schedule lies in its run, in optimiser steps.

    Args:
        warmup: ``W``.
        total: ``T``; ``None`` where it is the unknown length of the run, or where there is none.
        relative: Whether the run ends where the schedule does, so that its last phase needs no end.
        steps: Length of the run, where a fact says it.
        where: Path of the key that says ``T``.
    """

    warmup: Fraction = Fraction(0)
    total: Fraction | None = None
    relative: bool = False
    steps: int | None = None
    where: str = "num_training_steps"

    @property
    def decay(self) -> Fraction | None:
        """Length of what comes after the warm-up, at least one step as transformers has it."""
        return None if self.total is None else max(self.total - self.warmup, Fraction(1))

    @property
    def end(self) -> Fraction | None:
        """Where it ends: ``T``, but after a warm-up that takes all of it a step later."""
        return None if self.decay is None else self.warmup + self.decay

    def phases(self, parts: Sequence[Part], after: Schedule) -> Phases:
        """The parts one after another, and what transformers does after them where the run reaches that."""
        written: list[Schedule] = []
        begin: Fraction | str | None = Fraction(0)
        for schedule, end in parts:
            if end is not None and end == begin:
                continue
            if self.relative and end == self.total:
                return simple([*written, schedule])
            assert end is not None
            written.append(dataclasses.replace(schedule, until=end if isinstance(end, str) else length(end)))  # type: ignore[call-arg]
            begin = end
        return simple([*written, after])

    def warmed_up(self, parts: Sequence[Part], after: Schedule) -> Phases:
        """The same behind the straight warm-up from 0."""
        return self.phases([(Linear(start=0.0), self.warmup), *parts], after)

    def explain(self, policy: _Policy, notes: Notes) -> None:
        """Say how long the run has to be."""
        if "num_training_steps" not in policy.order or self.total is None:
            return
        if self.relative:
            notes.say(self.where, f"the schedule is made for {self.total} steps: Trainer(max_steps={self.total})")
        elif self.steps is not None:
            what = "what transformers does after it is written out" if self.steps > self.total else "it is cut short"
            notes.say(self.where, f"the schedule is made for {self.total} steps, the run has {self.steps}: {what}")


@dataclass(frozen=True)
class _Ask:
    """A schedule that is asked for.

    Args:
        name: Value of ``lr_scheduler_type``.
        arguments: The schedule's own arguments.
        given: The same as they are.
        run: Where it lies.
        default_lr: Gives the rate of the optimiser itself, for a key that needs it.
        need_steps: Raises the error that the length of the run has to be known, for a key that needs it.
        notes: Takes notes.
        monitor: Metric that a plateau follows.
    """

    name: str
    arguments: Settings
    given: Mapping[str, Any]
    run: _Run
    default_lr: Callable[[str], float]
    need_steps: Callable[[str], Any]
    notes: Notes
    monitor: str = "eval_loss"


def _call(config: Any, notes: Notes) -> Call:
    """The call that makes the schedule."""
    if isinstance(config, (str, Call)):
        calls = read_calls(config, "config")
    elif isinstance(config, Mapping):
        refuse_other_peers(config, "from_transformers")
        values = [value for value in config.values() if isinstance(value, Call)]
        calls = [*values, *(call for call in config.get("calls", ()) if isinstance(call, Call))]
        calls = [call for call in calls if _is_maker(call.name)]
        for key, value in config.items():
            if _is_maker(str(key)):
                calls.append(Call(str(key), (), _mapping(value, str(key))))
        if not calls:
            return Call("", (), {str(key): value for key, value in config.items()})
        for key, value in config.items():
            if not _is_maker(str(key)) and not isinstance(value, Call) and key != "calls":
                notes.unmapped(str(key), "is not part of the schedules")
    else:
        do = "give a mapping, the text of a call, or the path of a file"
        raise SolverError("config", "is not a transformers recipe", got=repr(config)[:120], do=do)
    known = [call for call in calls if _is_maker(call.name)]
    if len(known) != 1:
        names = [*_FUNCTIONS, "get_scheduler", "TrainingArguments"]
        do = "give one of them" if known else suggestion(calls[0].name if calls else "", names, "calls")
        got = ", ".join(call.name for call in known or calls) or "nothing"
        raise SolverError("config", "needs one call that makes a schedule", got=got, do=do)
    return known[0]


def _is_arguments(name: str) -> bool:
    return not name or name.endswith("TrainingArguments")


def _is_maker(name: str) -> bool:
    return name == "get_scheduler" or name in _FUNCTIONS or name.endswith("TrainingArguments")


def _function(call: Call, facts: Facts, notes: Notes) -> _Ask:
    """``get_scheduler``, or one of the functions behind it."""
    where = call.name
    if call.name == "get_scheduler":
        order: tuple[str, ...] = ("name", "optimizer", _W, _T, "scheduler_specific_kwargs")
        given = call.bound(order, where)
        _note_unknown(given, order, where, call.name, notes)
        settings = Settings(given, where, notes)
        name = _scheduler_name(settings, "name")
        own, own_where = _own_arguments(settings, "scheduler_specific_kwargs", name, notes)
    else:
        name, order = _FUNCTIONS[call.name], ("optimizer", *POLICIES[_FUNCTIONS[call.name]].order)
        given = call.bound(order, where)
        settings = Settings(given, where, notes)
        outside = ("optimizer", "num_warmup_steps", "num_training_steps")
        own, own_where = {key: value for key, value in given.items() if key not in outside}, where
    policy = POLICIES[name]
    if "num_warmup_steps" in policy.order:
        settings.needed("num_warmup_steps")
    if "num_training_steps" in policy.order and name != "warmup_stable_decay":
        settings.needed("num_training_steps")
    warmup = exact(settings.number("num_warmup_steps", 0, low=0))
    total = settings.number("num_training_steps")
    if total is not None and total <= 0:
        raise SolverError(settings.path("num_training_steps"), "must be > 0", got=repr(total), do="correct it")
    steps = facts.get("total_iters")
    whole = total is not None and exact(total).denominator == 1
    return _Ask(
        name=name,
        arguments=Settings(own, own_where, notes),
        given=own,
        run=_Run(
            warmup=warmup,
            total=None if total is None else exact(total),
            relative=whole and (steps is None or steps == total),
            steps=steps,
            where=settings.path("num_training_steps"),
        ),
        default_lr=lambda key: facts.need("optimizer_default_lr", key, "is relative to the optimiser's own rate"),
        need_steps=lambda key: facts.need("total_iters", key, "needs the length of the run"),
        notes=notes,
    )


def _training_arguments(call: Call, facts: Facts, notes: Notes) -> _Ask:
    """The schedule that a ``Trainer`` makes of its arguments."""
    settings = Settings(call.bound(("output_dir",), call.name or "TrainingArguments"), call.name, notes)
    name = _scheduler_name(settings, "lr_scheduler_type", "linear")
    own, own_where = _own_arguments(settings, "lr_scheduler_kwargs", name, notes)
    total, where = _total_steps(settings, facts, notes)
    steps = facts.get("total_iters")

    def need_steps(key: str) -> Any:
        return facts.need("total_iters", key, "needs the number of steps that num_train_epochs come to")

    def default_lr(key: str) -> float:
        rate = facts.get("optimizer_default_lr")
        if rate is None:
            rate = settings.number("learning_rate")
        if rate is None:
            notes.say(key, "is relative to learning_rate, which is not given: the default of 5e-5 is taken")
        return 5e-5 if rate is None else float(rate)

    run = _Run(
        warmup=_warmup_steps(settings, total, need_steps, notes),
        total=None if total is None else Fraction(total),
        relative=steps is None or steps == total,
        steps=steps,
        where=where,
    )
    monitor = "eval_loss"
    if name == "reduce_lr_on_plateau":
        monitor = _monitor(settings, own.get("mode", "min"), notes)
    settings.number("learning_rate")
    if "learning_rate" in settings:
        notes.unmapped(settings.path("learning_rate"), "is the optimiser's, not part of the schedules")
    if settings.number("gradient_accumulation_steps", 1, low=1) != 1:
        what = "the schedules count optimiser steps, not batches; the accumulation itself is not part of them"
        notes.unmapped(settings.path("gradient_accumulation_steps"), what)
    settings.rest(_why, [*_OTHERS, *_OPTIMISER])
    return _Ask(name, Settings(own, own_where, notes), own, run, default_lr, need_steps, notes, monitor)


def _scheduler_name(settings: Settings, key: str, default: str | None = None) -> str:
    value = settings.take(key, default)
    value = value.text.rpartition(".")[2].lower() if isinstance(value, Name) else getattr(value, "value", value)
    if value == "reduce_on_plateau" and isinstance(settings.take(key), Name):  # SchedulerType.REDUCE_ON_PLATEAU
        value = "reduce_lr_on_plateau"
    if value is None:
        raise SolverError(settings.path(key), "is missing", do=f"give one of {', '.join(POLICIES)}")
    if value not in POLICIES:
        do = suggestion(str(value), POLICIES, "schedules")
        raise SolverError(settings.path(key), "there is no such schedule", got=repr(value), do=do)
    return str(value)


def _own_arguments(settings: Settings, key: str, name: str, notes: Notes) -> tuple[dict[str, Any], str]:
    """The schedule's own arguments and their path; on the command line they may be JSON text."""
    given = settings.take(key) or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise SolverError(settings.path(key), f"is not JSON: {error}", got=repr(given), do="mend it") from error
    if name in ("constant", "constant_with_warmup") and given:
        notes.say(settings.path(key), f"has no effect with {name}, as in transformers")
        given = {}
    return _mapping(given, settings.path(key)), settings.path(key)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SolverError(where, "must be a mapping", got=repr(value)[:120], do="write key: value")
    return {str(key): inner for key, inner in value.items()}


def _total_steps(settings: Settings, facts: Facts, notes: Notes) -> tuple[int | None, str]:
    """The number of steps that the schedule is made for, where it is known, and the key that says so."""
    most, epochs = settings.number("max_steps", -1), settings.number("num_train_epochs", 3.0)
    where = settings.path("max_steps")
    if most == 0 or int(most) != most:
        raise SolverError(where, "must be a whole number of steps, or -1", got=repr(most), do="correct it")
    if most > 0:
        if "num_train_epochs" in settings:
            notes.say(settings.path("num_train_epochs"), "has no effect beside max_steps, as in transformers")
        return int(most), where
    where = settings.path("num_train_epochs")
    if epochs <= 0:
        raise SolverError(where, "must be > 0", got=repr(epochs), do="give the number of epochs, or max_steps")
    notes.say(where, f"the schedule is made for {epochs:g} epochs: Trainer(max_epochs={epochs:g})")
    batches = facts.get("iters_per_epoch")
    if batches is not None:
        accumulated = settings.number("gradient_accumulation_steps", facts.get("batches_per_step") or 1, low=1)
        return math.ceil(epochs * max(math.ceil(exact(batches) / exact(accumulated)), 1)), where
    steps = facts.get("total_iters")
    return None if steps is None else int(steps), where


def _warmup_steps(settings: Settings, total: int | None, need_steps: Callable[[str], Any], notes: Notes) -> Fraction:
    """``W``: a whole number, or a share of the steps that is rounded up."""
    given, key = settings.number("warmup_steps", 0, low=0), "warmup_steps"
    ratio = settings.number("warmup_ratio", 0, low=0)  # until release 5
    if ratio > 1:
        raise SolverError(settings.path("warmup_ratio"), "must lie between 0 and 1", got=repr(ratio), do="correct it")
    if ratio and given:
        notes.say(settings.path("warmup_ratio"), "has no effect beside warmup_steps, as in transformers")
    elif ratio:
        given, key = ratio, "warmup_ratio"
    if given >= 1 and key == "warmup_steps":
        if int(given) != given:
            notes.say(settings.path(key), f"transformers cuts {given} off to {int(given)}")
        return Fraction(int(given))
    if not given:
        return Fraction(0)
    steps = need_steps(settings.path(key)) if total is None else total
    warmup = math.ceil(steps * given)
    notes.say(settings.path(key), f"is a share of the {steps} steps, rounded up to {warmup}")
    return Fraction(warmup)


def _monitor(settings: Settings, mode: Any, notes: Notes) -> str:
    """The metric that a ``Trainer`` gives to a plateau; what it refuses and what it disregards."""
    key = "evaluation_strategy" if "evaluation_strategy" in settings else "eval_strategy"
    strategy = settings.take(key, "no")
    strategy = strategy.text.rpartition(".")[2].lower() if isinstance(strategy, Name) else strategy
    if str(getattr(strategy, "value", strategy)) in ("no", "False"):  # YAML reads no as False
        do = f"set {key} to epoch or steps"
        raise SolverError(settings.path(key), "reduce_lr_on_plateau needs evaluations", got=repr(strategy), do=do)
    notes.say(settings.path(key), "the metric is looked at once per validation: have as many of them in the Trainer")
    metric = settings.take("metric_for_best_model") or "loss"
    greater = settings.take("greater_is_better")
    better = "max" if (not str(metric).endswith("loss") if greater is None else greater) else "min"
    if mode != better:
        what = f"transformers asks lr_scheduler_kwargs alone, not greater_is_better: the mode of the plateau is {mode}"
        notes.say(settings.path("greater_is_better"), what)
    monitor = str(metric) if str(metric).startswith("eval_") else f"eval_{metric}"
    notes.say(settings.path("metric_for_best_model"), f"the plateau follows {monitor}: log it by that name")
    return monitor


def _check_arguments(ask: _Ask, policy: _Policy) -> None:
    arguments = ask.arguments
    own = [name for name in policy.order if name not in ("num_warmup_steps", "num_training_steps")]
    _note_unknown(ask.given, own, arguments.where, ask.name, ask.notes)
    if arguments.take("last_epoch", -1) not in (-1, None):
        do = "leave it out; a checkpoint holds where the schedule stands"
        raise SolverError(arguments.path("last_epoch"), "is not read", got=repr(arguments.take("last_epoch")), do=do)


def _note_unknown(given: Any, known: Sequence[str], where: str, owner: str, notes: Notes) -> None:
    for name in given:
        if name not in known:
            notes.unknown(f"{where}.{name}", name, owner, known)


# ------------------------------------------------------------------ the schedules


def _constant(ask: _Ask) -> Phases:
    """The group's own rate; a warm-up has no effect."""
    if ask.run.warmup:
        ask.notes.say("warmup", "has no effect with constant, as in transformers; constant_with_warmup has one")
    return Constant()


def _constant_with_warmup(ask: _Ask) -> Phases:
    """``t / W``, then 1."""
    return ask.run.warmed_up([], Constant())


def _linear(ask: _Ask) -> Phases:
    """``t / W``, then ``max(0, (T - t) / max(1, T - W))``."""
    run = ask.run
    if run.total is None or run.total - run.warmup >= 1:
        return run.warmed_up([(Linear(end=0.0), run.total)], HOLD)
    if run.total <= run.warmup:
        return run.warmed_up([], Constant(0.0))
    return run.warmed_up([(Linear(start=float(run.total - run.warmup), end=0.0), run.total)], HOLD)


def _cosine(ask: _Ask) -> Phases:
    """``(1 + cos(2 pi c x)) / 2`` with ``x = (t - W) / max(1, T - W)``, which goes up and down for ever."""
    return ask.run.warmed_up(*_wave(ask, 0.0))


def _cosine_with_min_lr(ask: _Ask) -> Phases:
    """The same between the full rate and a lowest one."""
    return ask.run.warmed_up(*_wave(ask, _lowest(ask)))


def _lowest(ask: _Ask) -> float:
    """The lowest rate as a factor: ``min_lr`` is relative to the optimiser's own rate, not to the group's."""
    arguments = ask.arguments
    rate, factor = arguments.number("min_lr", low=0), arguments.number("min_lr_rate", low=0)
    if (rate is None) == (factor is None):
        got = "neither" if rate is None else f"{rate!r} and {factor!r}"
        raise SolverError(arguments.path("min_lr"), "needs one of min_lr and min_lr_rate", got=got, do="give one")
    if factor is not None:
        return float(factor)
    return _relative_to_default(ask, "min_lr", rate)


def _relative_to_default(ask: _Ask, key: str, rate: float) -> float:
    default = ask.default_lr(ask.arguments.path(key))
    what = f"is {rate:g} for a group at the optimiser's own rate of {default:g}, and in proportion for the others"
    ask.notes.say(ask.arguments.path(key), what)
    return float(Fraction(repr(rate)) / Fraction(repr(default)))


def _wave(ask: _Ask, low: float) -> tuple[list[Part], Schedule]:
    """A cosine of ``num_cycles`` waves after the warm-up, and how it goes on."""
    run, cycles = ask.run, abs(exact(ask.arguments.number("num_cycles", 0.5)))
    if cycles == 0:
        return [], Constant()
    down, up = Cosine(end=low), Cosine(start=low, end=1.0)
    if run.decay is None:  # the run is of unknown length, and the schedule ends with it
        return [(down, None)] if cycles == Fraction(1, 2) else [(_waves(down, up, _share(ask, cycles)), None)], HOLD
    wave = run.decay / cycles
    if cycles > Fraction(1, 2):
        return [], _waves(down, up, length(wave))
    return [(down, run.warmup + wave / 2)], _waves(up, down, length(wave))


def _waves(first: Cosine, second: Cosine, every: int | str) -> Cycle:
    return Cycle([dataclasses.replace(first, until="50%"), second], every=every)


def _share(ask: _Ask, parts: Fraction) -> str:
    """The length of one of ``parts`` equal parts of what comes after the warm-up of a run of unknown length."""
    if parts < 1:
        ask.need_steps(ask.arguments.path("num_cycles"))
    terms: list[Any] = [(100 / parts, "%"), (-ask.run.warmup / parts, "st")]
    return str(Duration(tuple(term for term in terms if term[0])))


def _cosine_with_restarts(ask: _Ask) -> Phases:
    """``(1 + cos(pi (c x mod 1))) / 2``, and 0 from ``x = 1`` on."""
    run, cycles = ask.run, exact(ask.arguments.number("num_cycles", 1, low=0))
    if cycles == 0:
        return run.warmed_up([(Constant(), run.end)], Constant(0.0))
    if cycles == 1:
        return run.warmed_up([(Cosine(), run.end)], Constant(0.0))
    if run.decay is None:
        return run.warmed_up([(Cycle(Cosine(), every=_share(ask, cycles)), None)], HOLD)
    late = _late_restarts(run, cycles)
    if late is not None:
        ask.notes.say(ask.arguments.path("num_cycles"), "transformers restarts a step late here and there, by rounding")
        return run.warmed_up(late, Constant(0.0))
    return run.warmed_up([(Cycle(Cosine(), every=length(run.decay / cycles)), run.end)], Constant(0.0))


def _late_restarts(run: _Run, cycles: Fraction) -> list[Part] | None:
    """The cycles one by one where rounding delays a restart: the floating-point ``c * x`` falls short of it."""
    assert run.decay is not None
    restarts = [run.warmup + run.decay * k / cycles for k in range(1, math.ceil(cycles))]
    first = [math.ceil(point) for point in restarts]  # steps
    for k, step in enumerate(first):
        if float(cycles) * (float(step - run.warmup) / float(run.decay)) < k + 1:
            first[k] += 1
    if first == [math.ceil(point) for point in restarts]:
        return None
    begins, ends = [run.warmup, *restarts], [*restarts, run.warmup + run.decay * math.ceil(cycles) / cycles]
    arcs = [Over(Cosine(), begin=length(begin), end=length(end)) for begin, end in zip(begins, ends)]
    return list(zip(arcs, [*map(Fraction, first), run.end]))


def _polynomial(ask: _Ask) -> Phases:
    """``(1 - e) (1 - x) ** power + e`` with ``e = lr_end / lr``, of the optimiser's own rate."""
    run, arguments = ask.run, ask.arguments
    rate, power = arguments.number("lr_end", 1e-7, low=0), arguments.number("power", 1.0, low=0)
    end = _relative_to_default(ask, "lr_end", rate)
    if end >= 1:
        got = f"{rate:g}, with a rate of {ask.default_lr(arguments.path('lr_end')):g}"
        raise SolverError(arguments.path("lr_end"), "must be below the optimiser's own rate", got=got, do="lower it")
    if run.total is not None and run.total <= run.warmup:
        if run.total == run.warmup == int(run.total) and run.steps is not None and run.steps > run.total:
            do = "make the warm-up shorter, or train longer"
            what = "transformers divides by zero at the end of a warm-up that takes all the steps"
            raise SolverError(run.where, what, got=str(run.total), do=do)
        return run.warmed_up([], Constant(end))
    if power == 0:  # 1 at T itself too, as 0 ** 0 is
        last = run.total if run.relative or run.total is None else Fraction(math.floor(run.total) + 1)
        return run.warmed_up([(Constant(), last)], Constant(end))
    curve: Schedule = Linear(end=end) if power == 1 else Polynomial(power=float(power), end=end)
    return run.warmed_up([(curve, run.total)], HOLD)


def _inverse_sqrt(ask: _Ask) -> Phases:
    """``t / W``, then ``1 / sqrt(1 + (t - W) / timescale)``; the time scale is ``W``, or 10000 without a warm-up."""
    scale = ask.arguments.number("timescale")
    if scale is not None and scale <= 0:
        raise SolverError(ask.arguments.path("timescale"), "must be > 0", got=repr(scale), do="correct it")
    if scale is None:
        scale = ask.run.warmup or 10_000
    return ask.run.warmed_up([], Inverse(every=length(scale), power=0.5))


def _cosine_warmup_with_min_lr(ask: _Ask) -> Phases:
    """The cosine with a lowest rate, all of it one step ahead; its warm-up may begin at a rate of its own."""
    run, arguments = ask.run, ask.arguments
    if run.warmup.denominator != 1:
        what, do = "must be a whole number of steps for cosine_warmup_with_min_lr", "round it"
        raise SolverError("num_warmup_steps", what, got=str(float(run.warmup)), do=do)
    low, start = _lowest(ask), arguments.number("warmup_lr_rate", low=0)
    ask.notes.say(arguments.where, "cosine_warmup_with_min_lr is one step ahead of the other schedules")
    if start is None or run.warmup == 0:
        return Shift(run.warmed_up(*_wave(ask, low)), earlier=1)
    parts, after = _wave(ask, low)
    ends: list[Part] = [(part, "100%-1st" if end is None else Fraction(end) - 1) for part, end in parts]
    ahead = dataclasses.replace(run, relative=False)
    if run.relative and parts and parts[-1][1] == run.total:
        after = HOLD
    if run.warmup > 1:
        return ahead.phases([(Linear(start=float(start)), run.warmup - 1), *ends], after)
    # One step of warm-up: the cosine has begun, unseen, at that step.
    opening: Part = (Constant(float(start)), Fraction(1))
    if not ends:
        return ahead.phases([opening], Over(after, begin=0))
    arc = Over(
        ends[0][0], begin=0, end=ends[0][1] if isinstance(ends[0][1], str) else length(Fraction(ends[0][1] or 0))
    )
    return ahead.phases([opening, (arc, ends[0][1])], after)


def _warmup_stable_decay(ask: _Ask) -> Phases:
    """A warm-up from ``m``, the full rate, and a decay to ``m``, each by a shape of its own."""
    run, arguments = ask.run, ask.arguments
    arguments.needed("num_decay_steps")
    decay = exact(arguments.number("num_decay_steps", low=0))
    stable = arguments.number("num_stable_steps")
    low = float(arguments.number("min_lr_ratio", 0.0, low=0))
    shapes = ("linear", "cosine", "1-sqrt")
    rising = arguments.choice("warmup_type", shapes, "linear")
    falling = arguments.choice("decay_type", shapes, "cosine")
    cycles = abs(exact(arguments.number("num_cycles", 0.5)))
    warmup: Part = (_RISING[rising](low), run.warmup)

    def curve(begin: Fraction | None) -> Schedule:
        if falling != "cosine":
            return Linear(end=low) if falling == "linear" else Polynomial(end=low, time_power=0.5)
        return _part_of_wave(cycles, low, begin, decay)

    if stable is None and run.total is None:
        if not run.relative:
            what = "needs one of num_training_steps and num_stable_steps"
            raise SolverError(arguments.path("num_stable_steps"), what, got="neither", do="give one")
        begin = str(Duration(((Fraction(100), "%"), (-decay, "st")))) if decay else None
        return run.phases([warmup, (Constant(), begin), (curve(None), None)], Constant(low))
    if stable is not None and run.total is not None:
        what = "num_stable_steps decides, not num_training_steps, as in transformers"
        ask.notes.say(arguments.path("num_stable_steps"), what)
    if stable is None:
        assert run.total is not None
        stable = run.total - run.warmup - decay
    first = run.warmup + exact(stable)  # step of the decay
    end = first + decay
    if first >= run.warmup:
        return run.phases([warmup, (Constant(), first), (curve(first), end)], Constant(low))
    ask.notes.say(
        arguments.path("num_decay_steps"), "the warm-up covers the beginning of the decay, as in transformers"
    )
    if end <= run.warmup:
        return run.phases([warmup], Constant(low))
    if first >= 0:
        return run.phases([warmup, (Over(curve(first), begin=length(first), end=length(end)), end)], Constant(low))
    begun = Shift(Over(curve(Fraction(0)), begin=0, end=length(decay)), earlier=length(-first))
    return run.phases([warmup, (begun, end)], Constant(low))


_RISING: dict[str, Callable[[float], Schedule]] = {
    "linear": lambda low: Linear(start=low),
    "cosine": lambda low: Cosine(start=low, end=1.0),
    "1-sqrt": lambda low: Polynomial(power=0.5, start=low, end=1.0),
}


def _part_of_wave(cycles: Fraction, low: float, begin: Fraction | None, steps: Fraction) -> Schedule:
    """A cosine of ``cycles`` waves over ``steps`` steps; ``begin`` is ``None`` where it ends with the run."""
    if cycles == 0:
        return Constant()
    if cycles == Fraction(1, 2) or not steps:
        return Cosine(end=low)
    if cycles > Fraction(1, 2):
        return _waves(Cosine(end=low), Cosine(start=low, end=1.0), length(steps / cycles))
    half = steps / cycles / 2
    end = length(begin + half) if begin is not None else str(Duration(((Fraction(100), "%"), (half - steps, "st"))))
    return Over(Cosine(end=low), end=end)


def _plateau(ask: _Ask) -> Phases:
    """Torch's ``ReduceLROnPlateau``; a warm-up has no effect."""
    arguments = ask.arguments
    if ask.run.warmup:
        ask.notes.say("warmup", "has no effect with reduce_lr_on_plateau, as in transformers")
    factor = arguments.number("factor", 0.1)
    if not 0 < factor < 1:
        raise SolverError(arguments.path("factor"), "must lie between 0 and 1", got=repr(factor), do="correct it")
    lowest = ask.given.get("min_lr")
    make = functools.partial(
        Plateau,
        monitor=ask.monitor,
        mode=arguments.choice("mode", ("min", "max"), "min"),  # type: ignore[arg-type]
        factor=float(factor),
        patience=int(arguments.number("patience", 10, low=0)),
        threshold=float(arguments.number("threshold", 1e-4, low=0)),
        threshold_mode=arguments.choice("threshold_mode", ("rel", "abs"), "rel"),  # type: ignore[arg-type]
        cooldown=int(arguments.number("cooldown", 0, low=0)),
        eps=float(arguments.number("eps", 1e-8, low=0)),
    )
    if not isinstance(lowest, (list, tuple)):
        return make(min=absolute(arguments.number("min_lr", 0, low=0)))
    rates = Settings({str(i): rate for i, rate in enumerate(lowest)}, arguments.path("min_lr"), ask.notes)
    return PerGroup([make(min=absolute(rates.number(str(i), low=0))) for i in range(len(lowest))])


def _greedy(ask: _Ask) -> Phases:
    do = "use reduce_lr_on_plateau, or a schedule that is known beforehand"
    what = "raises the rate whenever a metric improves, and starts over; there is no such schedule here"
    raise SolverError(ask.arguments.where, what, got="'greedy'", do=do)


@dataclass(frozen=True)
class _Policy:
    """A schedule of transformers.

    Args:
        function: The function that makes it.
        order: The function's arguments after the optimiser, in order.
        make: Gives the native schedule.
    """

    function: str
    order: tuple[str, ...]
    make: Callable[[_Ask], Phases]


_W, _T, _LAST = "num_warmup_steps", "num_training_steps", "last_epoch"
_LOWEST = (_W, _T, "num_cycles", _LAST, "min_lr", "min_lr_rate")
_PLATEAU = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps", "verbose")
_GREEDY = (*_PLATEAU, "warmup", "max_lr", "smooth", "window_size", "reset_start")
_WSD = (_W, "num_decay_steps", _T, "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles", _LAST)

POLICIES = {
    "linear": _Policy("get_linear_schedule_with_warmup", (_W, _T, _LAST), _linear),
    "cosine": _Policy("get_cosine_schedule_with_warmup", (_W, _T, "num_cycles", _LAST), _cosine),
    "cosine_with_restarts": _Policy(
        "get_cosine_with_hard_restarts_schedule_with_warmup", (_W, _T, "num_cycles", _LAST), _cosine_with_restarts
    ),
    "polynomial": _Policy("get_polynomial_decay_schedule_with_warmup", (_W, _T, "lr_end", "power", _LAST), _polynomial),
    "constant": _Policy("get_constant_schedule", (_LAST,), _constant),
    "constant_with_warmup": _Policy("get_constant_schedule_with_warmup", (_W, _LAST), _constant_with_warmup),
    "inverse_sqrt": _Policy("get_inverse_sqrt_schedule", (_W, "timescale", _LAST), _inverse_sqrt),
    "reduce_lr_on_plateau": _Policy("get_reduce_on_plateau_schedule", _PLATEAU, _plateau),
    "cosine_with_min_lr": _Policy("get_cosine_with_min_lr_schedule_with_warmup", _LOWEST, _cosine_with_min_lr),
    "cosine_warmup_with_min_lr": _Policy(
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
        (*_LOWEST, "warmup_lr_rate"),
        _cosine_warmup_with_min_lr,
    ),
    "warmup_stable_decay": _Policy("get_wsd_schedule", _WSD, _warmup_stable_decay),
    "greedy": _Policy("get_greedy_schedule", _GREEDY, _greedy),
}
"""Value of ``lr_scheduler_type`` -> how it is made."""

_FUNCTIONS = {policy.function: name for name, policy in POLICIES.items()}


# ------------------------------------------------------------------ the other fields of TrainingArguments


def _why(key: str) -> str | None:
    if key in _OPTIMISER or key.startswith("adam_"):
        return "is the optimiser's, not part of the schedules"
    return "is not part of the schedules" if key in _OTHERS else None


_OPTIMISER = ("adafactor", "learning_rate", "max_grad_norm", "optim", "optim_args", "weight_decay")
_FIELDS = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed dataloader_drop_last
    dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval do_predict do_train
    enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_steps
    eval_strategy eval_use_gather_object evaluation_strategy fp16 fp16_backend fp16_full_eval fp16_opt_level fsdp
    fsdp_config full_determinism gradient_checkpointing gradient_checkpointing_kwargs greater_is_better
    group_by_length half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token ignore_data_skip include_for_metrics include_inputs_for_metrics include_num_input_tokens_seen
    include_tokens_per_second jit_mode_eval label_names label_smoothing_factor length_column_name
    liger_kernel_config load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_dir
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy metric_for_best_model
    neftune_noise_alpha no_cuda optim_target_modules output_dir overwrite_output_dir parallelism_config past_index
    per_device_eval_batch_size per_device_train_batch_size prediction_loss_only project push_to_hub ray_scope
    remove_unused_columns report_to restore_callback_states_from_checkpoint resume_from_checkpoint run_name
    save_on_each_node save_only_model save_safetensors save_steps save_strategy save_total_limit seed
    skip_memory_metrics split_batches tf32 torch_compile torch_compile_backend torch_compile_mode
    torch_empty_cache_steps torchdynamo tpu_metrics_debug tpu_num_cores trackio_bucket_id trackio_space_id
    trackio_static_space_id train_sampling_strategy use_cache use_cpu use_ipex use_legacy_prediction_loop
    use_liger_kernel use_mps_device
"""
_OTHERS = _FIELDS.split()
"""Fields of ``TrainingArguments``, of releases 4 and 5, that have nothing to do with schedules."""
