"""Schedules of MosaicML's Composer: its scheduler classes, as arguments of its ``Trainer`` and in llm-foundry's YAML.

A scheduler of Composer is a factor of each group's own learning rate that looks at the clock of the training: batches,
epochs, samples. One batch is one optimiser step, whatever microbatches it is cut into. The trainer asks the scheduler
after a batch but before the clock moves on, so that the rates come one batch late. Below, ``W`` is the length of a
warm-up, ``T`` that of the schedule and ``ssr`` the ``scale_schedule_ratio``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from lightning_solver.durations import RunLength, exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import (
    FACTS,
    HOLD,
    Facts,
    Imported,
    Notes,
    Phases,
    Settings,
    imported_spec,
    length,
    refuse_other_peers,
    simple,
    single,
)
from lightning_solver.interop.reading import Call, Name, Unread, load, read_calls
from lightning_solver.schedules import (
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    Over,
    Polynomial,
    Product,
    Schedule,
    Shift,
    Staircase,
    Step,
    Sum,
)
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay


def from_composer(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedulers of a Composer recipe as a spec.

    Args:
        config: Arguments of Composer's ``Trainer``: ``schedulers`` (the text of one constructor call or of a list of
            them, or mappings), ``max_duration``, ``scale_schedule_ratio``, ``step_schedulers_every_batch``; a config of
            llm-foundry with ``scheduler`` and ``max_duration``; the Python text of a ``Trainer(...)`` or of schedulers;
            or the path of a ``.py``, ``.yaml`` or ``.json`` file with one of these.
        facts: What the config leaves open: ``iters_per_epoch``, the batches of an epoch, where Composer rounds a length
            to whole batches; ``samples_per_iter``, the samples of a batch, for times in samples; ``total_iters``, the
            batches of the run, where ``max_duration`` does not say.
        strict: Whether a key that is not mapped is an error.

    Returns:
        A spec with ``schedules.lr``, and notes.

    Raises:
        SolverError: What Composer refuses; times in tokens or seconds; schedulers that are functions of the user's own;
            something that only a missing fact can tell; a config of another system.

    Example:
        >>> config = {"schedulers": "LinearWithWarmupScheduler(t_warmup='4ba')", "max_duration": "10ba"}
        >>> imported = from_composer(config)
        >>> imported.spec.curve("lr", [1.0], total_steps=10)[[0, 1, 2, 5, 8], 0].tolist()
        [0.0, 0.0, 0.25, 1.0, 0.5]
    """
    notes = Notes()
    known = Facts(facts, notes)
    settings = Settings(_arguments(load(config)), "", notes)
    key = "schedulers" if "schedulers" in settings or "scheduler" not in settings else "scheduler"
    ratio = settings.number("scale_schedule_ratio", 1.0)
    if ratio <= 0:
        raise SolverError("scale_schedule_ratio", "must be > 0", got=repr(ratio), do="correct it")
    calls = _calls(settings.take(key), key)
    every_batch = settings.take("step_schedulers_every_batch")
    if every_batch is not None:
        every_batch = settings.flag("step_schedulers_every_batch", True)
    clock = _Clock.of(settings, ratio, known, notes)
    settings.rest(_why, _OTHERS)
    if not calls:
        if ratio != 1:
            do = "leave it out; the training itself is not scaled without schedulers"
            raise SolverError("scale_schedule_ratio", "has no effect without schedulers", got=repr(ratio), do=do)
        notes.say(key, "there is no scheduler: the learning rate stays as it is")
        return notes.imported(imported_spec({}), strict)
    clock.explain()
    if _of_torch(calls, key):
        return _from_torch(calls, clock, bool(every_batch), strict)
    several = len(calls) > 1
    if several:
        what = "they do not multiply, whatever the manual says"
        notes.say(key, f"the last of several schedulers decides, {calls[-1].name}: {what}")
    for i, call in enumerate(calls):
        schedule = _schedule(call, clock, f"{key}[{i}]" if several else key, notes)
    if every_batch is False:
        notes.say("step_schedulers_every_batch", "the rate changes from epoch to epoch")
    elif not isinstance(schedule, Constant):
        notes.say(key, "the rates come one batch late, as Composer's scheduler is asked before its clock moves on")
    phases = _looked_up(schedule, every_batch is not False)
    first = _first_rate(calls[-1], schedule, clock, key)
    if first is not None:
        what = "the first rate comes from max_duration before it is scaled, which makes a difference here"
        notes.say("scale_schedule_ratio", what)
        phases = (Constant(first, until="1ep" if every_batch is False else 1), Over(single(phases), begin=0))
    return notes.imported(imported_spec({"lr": phases}), strict)


def _looked_up(schedule: Phases, every_batch: bool) -> Phases:
    """The schedule as the trainer looks at it: after each batch, one too late, or at the end of each epoch."""
    if isinstance(schedule, Constant):
        return schedule
    return Shift(schedule, later=1) if every_batch else Staircase(schedule, every="1ep")


def _first_rate(call: Call, schedule: Phases, clock: _Clock, where: str) -> float | None:
    """The first factor where it is not that of the schedule: it is asked for before ``max_duration`` is scaled."""
    if clock.ratio == 1 or clock.length is None:
        return None
    before = dataclasses.replace(clock, run=clock.given, steps=1, notes=Notes())
    total = math.ceil(clock.length)
    run = RunLength(total_steps=total, steps_per_epoch=clock.batches or 1, samples_per_step=clock.samples or 1)
    window = run_window([1.0], run, where, beyond="allow")
    rates = [lay(phases, window).at(0)[0] for phases in (_schedule(call, before, where, before.notes), schedule)]
    return rates[0] if rates[0] != rates[1] else None


# ------------------------------------------------------------------ what is asked for


def _arguments(config: Any) -> Mapping[str, Any]:
    """The arguments of the trainer."""
    if isinstance(config, (str, Call, list, tuple)):
        calls = read_calls(config, "config")
        trainers = [call for call in calls if call.name == "Trainer"]
        return trainers[0].kwargs if trainers else {"schedulers": calls}
    if not isinstance(config, Mapping):
        do = "give a mapping, the text of a call, or the path of a file"
        raise SolverError("config", "is not a Composer recipe", got=repr(config)[:120], do=do)
    refuse_other_peers(config, "from_composer")
    bare = config.get("calls")  # of a Python file
    values = [*config.values(), *(bare if isinstance(bare, list) else [])]
    for value in values:
        if isinstance(value, Call) and value.name == "Trainer":
            return value.kwargs
    return config


def _calls(config: Any, where: str) -> list[Call]:
    """The schedulers' constructor calls."""
    if config is None:
        return []
    items = config if isinstance(config, (list, tuple)) else [config]
    for item in items:
        text = isinstance(item, str) and item.lstrip().startswith("lambda")
        if text or callable(item) or isinstance(item, (Unread, Name)):
            do = "write the schedule natively; schedules.Function takes a function of the step"
            raise SolverError(where, "a scheduler that is a function is not read", got=str(item)[:120], do=do)
    if isinstance(config, Mapping) and len(config) > 1 and all(isinstance(item, Mapping) for item in config.values()):
        items = [{name: arguments} for name, arguments in config.items()]
    return read_calls(list(items), where)


def _of_torch(calls: Sequence[Call], where: str) -> bool:
    """Whether these are schedulers of torch, which the trainer takes as well."""
    torch = [call.name for call in calls if call.name in _TORCH]
    if torch and len(torch) < len(calls):
        do = "give schedulers of one kind"
        raise SolverError(
            where, "mixes schedulers of torch and of Composer", got=", ".join(c.name for c in calls), do=do
        )
    return bool(torch)


Unit = Literal["ep", "ba", "sp", "dur"]
_TIME = re.compile(r"(?P<value>.+?)(?P<unit>iter|ep|ba|sp|tok|dur|sec)", re.IGNORECASE)


@dataclass(frozen=True)
class _Time:
    """A time as it is written: a share of the run for ``dur``, a whole number for the others."""

    value: int | float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}" if self.unit == "dur" else f"{self.value}{self.unit}"

    @classmethod
    def parse(cls, given: Any, where: str, *, whole: Unit | None = None) -> _Time:
        """Read ``10ep``, ``3e4ba``, ``4096sp`` or ``0.5dur``; a bare number where ``whole`` says what it counts."""
        forms = "write a text such as 10ep, 500ba, 4096sp or 0.5dur"
        if isinstance(given, Call):
            given = _text_of(given)
        if whole is not None and isinstance(given, int) and not isinstance(given, bool):
            given = f"{given}{whole}"
        found = _TIME.fullmatch(given.strip()) if isinstance(given, str) else None
        try:
            value = float(found["value"]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or math.isnan(value) or math.isinf(value):
            raise SolverError(where, "is not a time of Composer", got=repr(given), do=forms)
        unit = found["unit"].lower()
        if unit in ("tok", "sec", "iter"):
            what = {"tok": "tokens", "sec": "seconds", "iter": "iterations"}[unit]
            do = "convert it to batches: the length of a batch is not always the same"
            raise SolverError(where, f"is in {what}, which the steps of a run do not tell", got=repr(given), do=do)
        if value < 0 or (unit != "dur" and int(value) != value):
            what = "must not be negative" if value < 0 else f"must be a whole number of {unit}"
            raise SolverError(where, what, got=repr(given), do="correct it")
        return cls(value if unit == "dur" else int(value), unit)  # type: ignore[arg-type]


def _text_of(call: Call) -> Any:
    """``Time(5, "ep")``, ``Time.from_epoch(5)`` and ``Time.from_timestring("5ep")`` as text."""
    if call.name == "from_timestring" and len(call.args) == 1:
        return call.args[0]
    units = {"epoch": "ep", "batch": "ba", "sample": "sp", "token": "tok", "duration": "dur", "iteration": "iter"}
    if call.name == "Time":
        arguments = call.bound(("value", "unit"), "Time")
        unit = arguments.get("unit")
        unit = units.get(unit.text.rpartition(".")[2].lower()) if isinstance(unit, Name) else unit
        return f"{arguments.get('value')}{unit}"
    unit = units.get(call.name.removeprefix("from_"))
    return f"{call.args[0]}{unit}" if unit and call.args else call.name


@dataclass(frozen=True)
class _Span:
    """A time of the schedule, as Composer counts it and as a duration.

    Args:
        text: As a duration.
        unit: What Composer counts it in once it has converted it.
        count: How many of these, rounded down; ``None`` where the length of an epoch would be needed.
        steps: The same in steps, where it is known.
        epochs: The same in epochs, where it is known.
        whole: Whether it is the length of the run, so that a phase which ends there needs no end.
        share: The same as a share of the run, where that is all that is known.
    """

    text: int | str
    unit: Literal["ba", "sp"]
    count: int | None = None
    steps: Fraction | None = None
    epochs: Fraction | None = None
    whole: bool = False
    share: Fraction | None = None

    @property
    def empty(self) -> bool:
        """Whether it is nothing."""
        return self.count == 0 or self.epochs == 0

    def place(self, others: Sequence[_Span]) -> Fraction | None:
        """What it is compared with ``others`` by; ``None`` where that is not known."""
        for name in ("steps", "epochs", "count", "share"):
            same = name != "count" or len({span.unit for span in others}) == 1
            if same and all(getattr(span, name) is not None for span in others):
                return Fraction(getattr(self, name))
        return None

    def before(self, other: _Span) -> bool:
        """Whether it ends before another one; true where that is not known."""
        mine, its = (span.place([self, other]) for span in (self, other))
        return mine is None or its is None or mine < its


@dataclass(frozen=True)
class _Clock:
    """The clock of a training: how long it is, and what its units come to.

    Args:
        given: ``max_duration`` as it is written.
        run: The same times ``ssr``, rounded down.
        ratio: ``ssr``.
        batches: Batches of an epoch, where it is known.
        samples: Samples of a batch, where it is known.
        steps: Batches of the run, where a fact says it.
        facts: What the config leaves open.
        notes: Takes notes.
    """

    given: _Time | None
    run: _Time | None
    ratio: float
    batches: int | None
    samples: Fraction | None
    steps: int | None
    facts: Facts
    notes: Notes

    @classmethod
    def of(cls, settings: Settings, ratio: float, facts: Facts, notes: Notes) -> _Clock:
        """The clock of a trainer with these arguments."""
        given = run = None
        longest = settings.take("max_duration")
        if longest is not None:
            given = _Time.parse(longest, "max_duration", whole="ep")
            if given.unit == "dur" or given.value == 0:
                do = "give a length such as 10ep or 1000ba"
                raise SolverError("max_duration", "is no length of a run", got=repr(longest), do=do)
            run = _Time(int(given.value * ratio), given.unit)
            if run.value == 0:
                do = "give a higher scale_schedule_ratio, or a length in batches"
                raise SolverError("max_duration", f"is nothing once scaled by {ratio:g}", got=str(given), do=do)
        batches, samples, steps = (facts.get(name) for name in ("iters_per_epoch", "samples_per_iter", "total_iters"))
        return cls(
            given=given,
            run=run,
            ratio=float(ratio),
            batches=None if batches is None else int(batches),
            samples=None if samples is None else exact(samples),
            steps=None if steps is None else int(steps),
            facts=facts,
            notes=notes,
        )

    @property
    def length(self) -> Fraction | None:
        """Length of the run in batches by ``max_duration``, where it is known; the last one may be cut."""
        if self.run is None or self.run.unit == "ba":
            return None if self.run is None else Fraction(self.run.value)
        if self.run.unit == "ep":
            return None if self.batches is None else Fraction(self.run.value * self.batches)
        return None if self.samples is None else Fraction(self.run.value) / self.samples

    @property
    def agrees(self) -> bool:
        """Whether the run is as long as ``max_duration`` says, as far as is known."""
        return self.steps is None or self.length is None or math.ceil(self.length) == self.steps

    def explain(self) -> None:
        """Say how long the run has to be."""
        if self.run is None:
            what = "is not given: the schedule is made for the whole run, whatever its length"
        elif not self.agrees:
            what = f"is {self.run}, but the run has {self.steps} batches (facts.total_iters): ends are written out"
        elif self.run.unit == "ep":
            what = f"the schedule is made for {self.run}: Trainer(max_epochs={self.run.value})"
        elif self.length is not None:
            what = f"the schedule is made for {self.run}: Trainer(max_steps={math.ceil(self.length)})"
        else:
            what = f"the schedule is made for {self.run}: give the Trainer as many steps"
        self.notes.say("max_duration", what)

    def span(self, given: Any, where: str, *, scaled: bool = True) -> _Span:
        """A time of the schedule as Composer converts it; ``scaled`` by ``ssr`` or not."""
        time = _Time.parse(given, where)
        ratio = self.ratio if scaled else 1.0
        if time.unit == "dur":
            return self._share(float(time.value), where)
        if time.unit == "ep":
            epochs = exact(time.value) * exact(ratio)
            return self._whole_batches(epochs, lambda batches: int(time.value * batches * ratio), where)
        count = int(time.value * ratio)
        return self._batches(count) if time.unit == "ba" else self._samples(count)

    def _batches(self, count: int, text: int | str | None = None) -> _Span:
        epochs = None if self.batches is None else Fraction(count, self.batches)
        whole = self.agrees and count == self.length
        return _Span(count if text is None else text, "ba", count, Fraction(count), epochs, whole)

    def _samples(self, count: int, text: int | str | None = None) -> _Span:
        if self.samples is None:
            return _Span(f"{count}sp", "sp", count)
        steps = count / self.samples
        epochs = None if self.batches is None else steps / self.batches
        # The run goes on to the end of its last batch, the schedule does not.
        whole = self.agrees and self.run == _Time(count, "sp") and steps.denominator == 1
        return _Span(length(steps) if text is None else text, "sp", count, steps, epochs, whole)

    def _whole_batches(
        self, epochs: Fraction, count: Callable[[int], int], where: str, text: int | str | None = None
    ) -> _Span:
        """A number of epochs, of which Composer makes whole batches by ``count`` of the batches of an epoch."""
        text = length(epochs, "ep") if text is None else text
        if self.batches is not None:
            batches = count(self.batches)
            return self._batches(batches, text if batches == epochs * self.batches else batches)
        if epochs.denominator != 1:
            self.facts.need("iters_per_epoch", where, f"is {float(epochs):g} epochs, rounded down to whole batches")
        whole = self.agrees and self.run is not None and self.run.unit == "ep" and epochs == self.run.value
        return _Span(text, "ba", epochs=epochs, whole=whole)

    def _share(self, value: float, where: str) -> _Span:
        """A share of the run, which Composer rounds down to whole batches, or samples."""
        run, share = self.run, exact(value)
        percent = length(share * 100, "%") if share <= 1 and self.agrees else None
        if run is None:
            if percent is None:
                raise SolverError(where, "is more than the whole run", got=f"{value:g}dur", do="give max_duration")
            if share not in (0, 1):
                self.notes.say(where, "Composer rounds it down to whole batches or samples of max_duration")
            return _Span(percent, "ba", 0 if share == 0 else None, whole=share == 1, share=share)
        if run.unit == "ep":
            epochs = share * int(run.value)
            if self.batches is None and epochs.denominator == 1 and share.denominator & (share.denominator - 1):
                what = "Composer may round it down by one batch more; facts={'iters_per_epoch': ...} would tell"
                self.notes.say(where, what)
            return self._whole_batches(epochs, lambda batches: int(value * batches * run.value), where, percent)
        count = int(value * run.value)
        exactly = count == share * run.value
        if run.unit == "ba":
            return self._batches(count, percent if exactly else None)
        even = self.length is not None and self.length.denominator == 1
        return self._samples(count, percent if exactly and even else None)

    def covers(self, given: Any, span: _Span, where: str) -> None:
        """Refuse a schedule with a warm-up that ends before the run: before it is scaled, and after."""
        time = _Time.parse(given, where)
        for longest in (self.given, self.run):
            if longest is None:
                continue
            have: Fraction | int | float | None = span.count
            need = longest.value
            if time.unit == "dur":
                have, need = time.value, 1
            elif longest.unit == "ep" and span.unit == "ba":
                have = span.epochs
            elif longest.unit != span.unit:
                continue  # what cannot be compared is let through
            if have is not None and have < need:
                what = f"must be at least max_duration ({longest}), as Composer asks of a schedule with a warm-up"
                raise SolverError(
                    where, what, got=f"{given!r} (times {self.ratio:g})", do="lengthen it, or leave it out"
                )


# ------------------------------------------------------------------ the schedules

Part = tuple[Schedule, _Span]
"""A phase without its end, and the end."""


@dataclass(frozen=True)
class _Ask:
    """The arguments of a scheduler, and the clock that it looks at."""

    arguments: Settings
    clock: _Clock
    notes: Notes

    def span(self, key: str, default: str | None = None, *, scaled: bool = True, empty: bool = False) -> _Span:
        """A length of time; it must not be nothing unless it may be ``empty``."""
        span = self.clock.span(self._given(key, default), self.arguments.path(key), scaled=scaled)
        if span.empty and not empty:
            what = "comes to nothing, by which Composer divides"
            raise SolverError(self.arguments.path(key), what, got=repr(self._given(key, default)), do="lengthen it")
        return span

    def _given(self, key: str, default: str | None) -> Any:
        return self.arguments.needed(key) if default is None else self.arguments.take(key, default)

    def before(self, first: _Span, second: _Span) -> bool:
        """Whether a warm-up ends before another point."""
        unknown = first.place([first, second]) is None and not second.whole
        if unknown and self.clock.run is not None:
            self.clock.facts.need("iters_per_epoch", self.arguments.where, "has batches to be compared with epochs")
        return first.before(second)

    def moved(self, point: _Span, by: _Span, sign: int) -> _Span:
        """The point that lies ``by`` after another one, or before it, but not before the run."""
        if point.steps is not None and by.steps is not None:
            steps = max(point.steps + sign * by.steps, Fraction(0))
            return _Span(length(steps), point.unit, steps=steps)
        if point.epochs is not None and by.epochs is not None:
            epochs = max(point.epochs + sign * by.epochs, Fraction(0))
            return _Span(length(epochs, "ep"), point.unit, epochs=epochs)
        if point.count is not None and by.count is not None:
            count = max(point.count + sign * by.count, 0)
            return _Span(length(count, point.unit), point.unit, count)
        if point.share is None:
            self.clock.facts.need("iters_per_epoch", self.arguments.where, "adds up batches and epochs")
        tail = by.text if isinstance(by.text, str) else f"{by.text}st"
        return _Span(f"{point.text}{'-' if sign < 0 else '+'}{tail}", point.unit)

    def factor(self, key: str, default: float) -> float:
        """A factor of the learning rate."""
        return float(self.arguments.number(key, default, low=0))

    def gamma(self, default: float | None = 0.1) -> float:
        """The factor of a drop."""
        if default is None:
            self.arguments.needed("gamma")
        gamma = float(self.arguments.number("gamma", default))
        if gamma <= 0:
            raise SolverError(self.arguments.path("gamma"), "must be > 0", got=repr(gamma), do="correct it")
        return gamma

    def until_end(self, curve: Schedule) -> Phases:
        """A curve over ``t_max``, whose last value is held."""
        phases = _phases([(curve, self.span("t_max", "1dur"))], HOLD)
        return curve if isinstance(curve, Constant) else phases


def _phases(parts: Sequence[Part], after: Schedule) -> Phases:
    """Parts one after another, and what comes after them unless the run ends with one of them."""
    written: list[Schedule] = []
    for schedule, end in parts:
        if end.empty:
            continue
        if end.whole:
            return simple([*written, schedule])
        written.append(dataclasses.replace(schedule, until=end.text))  # type: ignore[call-arg]
    return simple([*written, after])


def _step(ask: _Ask) -> Phases:
    """``gamma ** floor(t / step_size)``."""
    return Step(every=ask.span("step_size").text, gamma=ask.gamma())


def _multi_step(ask: _Ask) -> Phases:
    """``gamma`` for every milestone that is reached, in any order, one given twice counting twice."""
    given = ask.arguments.needed("milestones")
    if not isinstance(given, (list, tuple)):
        raise SolverError(ask.arguments.path("milestones"), "must be a list", got=repr(given), do="write [6ep, 9ep]")
    paths = [f"{ask.arguments.path('milestones')}[{i}]" for i in range(len(given))]
    spans = [ask.clock.span(time, path) for time, path in zip(given, paths)]
    spans_given = list(spans)
    if len(spans) > 1 and spans[0].place(spans) is None:
        fact = (
            "samples_per_iter" if ask.clock.samples is None and "sp" in {s.unit for s in spans} else "iters_per_epoch"
        )
        fact = "total_iters" if ask.clock.run is None else fact
        ask.clock.facts.need(fact, ask.arguments.path("milestones"), "are to be sorted, by their length in batches")
        do = "give max_duration, or the milestones in one unit"
        raise SolverError(ask.arguments.path("milestones"), "cannot be compared", got=repr(given), do=do)
    spans.sort(key=lambda span: span.place(spans_given) or Fraction(0))
    layers: list[list[_Span]] = []  # each with every milestone once
    for span in spans:
        layer = next((layer for layer in layers if layer[-1].before(span)), None)
        layers.append([span]) if layer is None else layer.append(span)
    curves = [MultiStep(at=[span.text for span in layer], gamma=ask.gamma()) for layer in layers]
    return Product(curves) if len(curves) > 1 else curves[0] if curves else Constant()


def _constant(ask: _Ask) -> Phases:
    """``alpha`` until ``t_max``, then 1."""
    alpha, end = ask.factor("alpha", 1.0), ask.span("t_max", "1dur", empty=True)
    return Constant() if alpha == 1 else _phases([(Constant(alpha), end)], Constant())


def _linear(ask: _Ask) -> Phases:
    """``alpha_i + (alpha_f - alpha_i) * min(1, t / T)``."""
    return ask.until_end(Linear(start=ask.factor("alpha_i", 1.0), end=ask.factor("alpha_f", 0.0)))


def _exponential(ask: _Ask) -> Phases:
    """``gamma ** (t / decay_period)``, between the periods too."""
    return Exponential(gamma=ask.gamma(None), every=ask.span("decay_period", "1ep").text)


def _cosine(ask: _Ask) -> Phases:
    """``alpha_f + (1 - alpha_f) * (1 + cos(pi * min(1, t / T))) / 2``."""
    return ask.until_end(Cosine(end=ask.factor("alpha_f", 0.0)))


def _polynomial(ask: _Ask) -> Phases:
    """``alpha_f + (1 - alpha_f) * (1 - min(1, t / T)) ** power``."""
    ask.arguments.needed("power")
    return ask.until_end(_power(ask, None))


def _power(ask: _Ask, default: float | None) -> Schedule:
    power, end = float(ask.arguments.number("power", default, low=0)), ask.factor("alpha_f", 0.0)
    if power in (0, 1):
        return Linear(end=end) if power else Constant()
    return Polynomial(power=power, end=end)


def _warm_restarts(ask: _Ask) -> Phases:
    """Cosines from 1 to ``alpha_f``, each ``t_mult`` times as long as the one before it, rounded down."""
    first, times = ask.span("t_0"), ask.arguments.number("t_mult", 1.0, low=0)
    arc = Cosine(end=ask.factor("alpha_f", 0.0))
    if times >= 1 and int(times) == times:
        return Cycle(arc, every=first.text, grow=int(times))
    where, clock = ask.arguments.path("t_mult"), ask.clock
    if first.count is None:
        clock.facts.need("iters_per_epoch", where, "rounds the length of every cycle down to whole batches")
    assert first.count is not None
    per = Fraction(1) if first.unit == "ba" else clock.samples
    if per is None:
        per = exact(clock.facts.need("samples_per_iter", where, "rounds the length of every cycle down by itself"))
    run = clock.steps if clock.steps is not None or clock.length is None else math.ceil(clock.length)
    if run is None and times > 1:
        run = int(clock.facts.need("total_iters", where, "rounds the length of every cycle down by itself"))
    lengths, ends = [first.count], [first.count]
    while (run is None or ends[-1] < run * per) and lengths[-1]:
        lengths.append(int(times * lengths[-1]))
        ends.append(ends[-1] + lengths[-1])
    if lengths[-1] == 0:
        end = ends.pop() / per
        if run is not None and end <= run - 1:
            what = f"lets the cycles shrink to nothing at batch {float(end):g}, where Composer fails"
            raise SolverError(where, what, got=repr(times), do="give a factor >= 1, or a longer t_0")
        ask.notes.say(where, f"the cycles shrink to nothing at batch {float(end):g}, where Composer fails")
    if times > 1 and all(exact(times) ** k * first.count == count for k, count in enumerate(lengths)):
        return Cycle(arc, every=first.text, grow=float(times))
    ask.notes.say(where, "the length of every cycle is rounded down: they are written out one by one")
    arcs = [dataclasses.replace(arc, until=length(end / per)) for end in ends]
    if run is not None and ends[-1] == run * per:
        return simple([*arcs[:-1], arc])
    return (*arcs, HOLD)


def _ramp(ask: _Ask, top: float) -> tuple[list[Part], _Span]:
    """The warm-up from 0, and where it ends; with ``scale_warmup`` its slope is scaled, but not its end."""
    scale = ask.arguments.flag("scale_warmup", False)
    end = ask.span("t_warmup", scaled=False, empty=True)
    if end.empty:
        ask.notes.say(ask.arguments.path("t_warmup"), "is nothing: there is no warm-up")
        return [], end
    slope = ask.span("t_warmup") if scale else end
    ramp, where = Linear(start=0.0, end=top), ask.arguments.path("scale_warmup")
    if slope.before(end):
        ask.notes.say(where, "the slope of the warm-up is scaled, not its end: the rate is held in between")
        return [(ramp, dataclasses.replace(slope, whole=False)), (Constant(top), end)], end
    if end.before(slope) and slope.place([slope, end]) is not None:
        ask.notes.say(where, "the slope of the warm-up is scaled, not its end: the rate jumps there")
        return [(Over(ramp, end=slope.text), end)], end
    return [(ramp, end)], end


def _warmed_up(ask: _Ask, top: float, curve: Schedule) -> Phases:
    """A warm-up to ``top``, and a curve from there to ``t_max``."""
    ramp, warmup = _ramp(ask, top)
    end, where = ask.span("t_max", "1dur", empty=True), ask.arguments.path("t_max")
    if ask.clock.run is not None and warmup.unit != end.unit:
        got = f"t_warmup in {warmup.unit}, t_max in {end.unit}"
        do = "give both in one unit; dur counts what max_duration does, in batches where that is in epochs"
        raise SolverError(where, "must be in the unit of t_warmup", got=got, do=do)
    ask.clock.covers(ask.arguments.take("t_max", "1dur"), end, where)
    if isinstance(curve, Constant) or not ask.before(warmup, end):
        return _phases(ramp, Constant(top))
    return _phases([*ramp, (curve, end)], HOLD)


def _multi_step_with_warmup(ask: _Ask) -> Phases:
    """A warm-up, then the milestones, which count from the start of the run."""
    return _phases(_ramp(ask, 1.0)[0], single(_multi_step(ask)))


def _constant_with_warmup(ask: _Ask) -> Phases:
    """A warm-up to ``alpha``, which stays."""
    alpha = ask.factor("alpha", 1.0)
    return _warmed_up(ask, alpha, Constant(alpha))


def _linear_with_warmup(ask: _Ask) -> Phases:
    """A warm-up to ``alpha_i``, then a line to ``alpha_f``."""
    first, last = ask.factor("alpha_i", 1.0), ask.factor("alpha_f", 0.0)
    return _warmed_up(ask, first, Constant(first) if first == last else Linear(start=first, end=last))


def _cosine_with_warmup(ask: _Ask) -> Phases:
    """A warm-up, then half a cosine."""
    return _warmed_up(ask, 1.0, Cosine(end=ask.factor("alpha_f", 0.0)))


def _polynomial_with_warmup(ask: _Ask) -> Phases:
    """A warm-up, then a polynomial."""
    return _warmed_up(ask, 1.0, _power(ask, 2.0))


def _inverse_sqrt_with_warmup(ask: _Ask) -> Phases:
    """llm-foundry's: a warm-up, ``f + (1 - f) / sqrt(1 + (t - W) / t_scale)``, and a straight cool-down at the end."""
    arguments, clock = ask.arguments, ask.clock
    floor, last = ask.factor("alpha_f_decay", 0.0), ask.factor("alpha_f_cooldown", 0.0)
    if floor < last:
        got = f"{floor:g} and {last:g}"
        raise SolverError(arguments.path("alpha_f_decay"), "lies below alpha_f_cooldown", got=got, do="swap them")
    for key in ("t_warmup", "t_scale", "t_cooldown"):
        unit = _Time.parse(arguments.needed(key), arguments.path(key)).unit
        if unit == "dur" or (clock.given is not None and unit != clock.given.unit):
            do = "give it in ep, ba or sp, as max_duration is"
            raise SolverError(arguments.path(key), "must be in the unit of max_duration", got=unit, do=do)
    warmup, scale = ask.span("t_warmup", scaled=False, empty=True), ask.span("t_scale")
    end, cooldown = ask.span("t_max", "1dur", empty=True), ask.span("t_cooldown", empty=True)
    decay: Schedule = Inverse(every=scale.text, power=0.5, start=1.0 - floor)
    if floor:
        decay = Sum([Constant(floor), decay])
    ramp: list[Part] = [(Linear(start=0.0), warmup)]
    if clock.run is not None and end.unit != warmup.unit:
        do = f"give it in {clock.run.unit}, or as a share of the run"
        raise SolverError(arguments.path("t_max"), "must be in the unit of max_duration", got=end.unit, do=do)
    begin = end if cooldown.empty else ask.moved(end, cooldown, -1)
    if not ask.before(warmup, begin):
        fall = (Linear(end=last), ask.moved(warmup, cooldown, 1))
        return _phases(ramp, Constant()) if cooldown.empty else _phases([*ramp, fall], HOLD)
    if cooldown.empty:
        return _phases([*ramp, (decay, end)], HOLD)
    return _phases([*ramp, (decay, begin), (Linear(start="previous", end=last), end)], HOLD)


@dataclass(frozen=True)
class _Class:
    """A scheduler: the arguments that it takes, in order, and how it is made."""

    order: tuple[str, ...]
    make: Callable[[_Ask], Phases]


CLASSES = {
    "StepScheduler": _Class(("step_size", "gamma"), _step),
    "MultiStepScheduler": _Class(("milestones", "gamma"), _multi_step),
    "ConstantScheduler": _Class(("alpha", "t_max"), _constant),
    "LinearScheduler": _Class(("alpha_i", "alpha_f", "t_max"), _linear),
    "ExponentialScheduler": _Class(("gamma", "decay_period"), _exponential),
    "CosineAnnealingScheduler": _Class(("t_max", "alpha_f"), _cosine),
    "CosineAnnealingWarmRestartsScheduler": _Class(("t_0", "t_mult", "alpha_f"), _warm_restarts),
    "PolynomialScheduler": _Class(("power", "t_max", "alpha_f"), _polynomial),
    "MultiStepWithWarmupScheduler": _Class(
        ("t_warmup", "milestones", "gamma", "scale_warmup"), _multi_step_with_warmup
    ),
    "ConstantWithWarmupScheduler": _Class(("t_warmup", "alpha", "t_max", "scale_warmup"), _constant_with_warmup),
    "LinearWithWarmupScheduler": _Class(
        ("t_warmup", "alpha_i", "alpha_f", "t_max", "scale_warmup"), _linear_with_warmup
    ),
    "CosineAnnealingWithWarmupScheduler": _Class(("t_warmup", "t_max", "alpha_f", "scale_warmup"), _cosine_with_warmup),
    "PolynomialWithWarmupScheduler": _Class(
        ("t_warmup", "power", "t_max", "alpha_f", "scale_warmup"), _polynomial_with_warmup
    ),
    "InverseSquareRootWithWarmupScheduler": _Class(
        ("t_warmup", "t_scale", "t_cooldown", "t_max", "alpha_f_decay", "alpha_f_cooldown"), _inverse_sqrt_with_warmup
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


def _schedule(call: Call, clock: _Clock, where: str, notes: Notes) -> Phases:
    """One scheduler as a schedule of the clock's time."""
    found = CLASSES.get(_SHORT.get(call.name, call.name))
    if found is None:
        do = suggestion(call.name, [*CLASSES, *_SHORT], "schedulers")
        raise SolverError(where, "there is no such scheduler", got=repr(call.name), do=do)
    given = call.bound(found.order, where)
    for key in given:
        if key not in found.order:
            notes.unknown(f"{where}.{key}", key, call.name, found.order)
    return found.make(_Ask(Settings(given, where, notes), clock, notes))


# ------------------------------------------------------------------ schedulers of torch

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


def _from_torch(calls: Sequence[Call], clock: _Clock, every_batch: bool, strict: bool) -> Imported:
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
    read = from_torch({"schedulers": scaled}, facts=facts, strict=strict)
    for note in read.notes:
        where, _, what = note.partition(": ")
        notes.say(where, what)
    return notes.imported(read.spec, strict)


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


# ------------------------------------------------------------------ the other arguments


def _why(key: str) -> str | None:
    if key in ("optimizers", "optimizer"):
        return "is the optimiser's, not part of the schedules"
    if key == "device_train_microbatch_size":
        return "is not part of the schedules, which count whole batches"
    return "is not part of the schedules" if key in _OTHERS else None


_ARGUMENTS = """
    accumulate_train_batch_on_tokens algorithm_passes algorithms auto_log_hparams autoresume callbacks
    compile_config console_log_interval console_stream deepspeed_config deterministic_mode device
    device_eval_batch_size device_train_grad_accum device_train_microbatch_size dist_timeout ddp_sync_strategy
    eval_dataloader eval_first eval_interval eval_loader eval_subset_num_batches fsdp_config global_seed
    global_train_batch_size grad_accum load_exclude_algorithms load_ignore_keys load_object_store load_path
    load_progress_bar load_strict_model_weights load_weights_only log_to_console log_traces loggers max_seq_len
    model optimizer optimizers parallelism_config precision precision_config profiler progress_bar python_log_level
    run_name save_filename save_folder save_ignore_keys save_interval save_latest_filename save_metrics
    save_num_checkpoints_to_keep save_overwrite save_weights_only seed spin_dataloaders tokenizer train_dataloader
    train_dataloader_label train_loader train_subset_num_batches variables
"""
_OTHERS = _ARGUMENTS.split()
"""Arguments of the trainer, and keys of llm-foundry, that have nothing to do with schedules."""
