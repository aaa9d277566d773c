"""Schedulers of torch (``torch.optim.lr_scheduler`` and ``swa_utils.SWALR``, 2.13) as specs. torch is not imported.

A scheduler of torch either writes a rate by a formula, whatever it finds (``LambdaLR``, ``OneCycleLR``, ``CyclicLR``,
``CosineAnnealingWarmRestarts``), or moves the rate that it finds on by one call of ``step()`` (all others). What
several do together follows from the order of their calls. So their counters are run through, call by call at the calls
that switch from one scheduler to another, and each stretch between two such calls becomes a phase.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    single,
)
from lightning_solver.interop.reading import Call, Name, Unread, load, read_calls, read_python
from lightning_solver.plain import import_dotted
from lightning_solver.schedules import (
    Chain,
    Constant,
    Cosine,
    Cycle,
    Exponential,
    Function,
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
    Sum,
)
from lightning_solver.schedules.base import Level

Number = int | Fraction


def from_torch(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read schedulers of torch as a spec.

    Args:
        config: The text of one or more constructor calls (``StepLR(optimizer, 30)``, also with assignments); a mapping
            with ``class_path`` and ``init_args``, or of a class name to its arguments; such a mapping as Lightning
            wraps it (``scheduler``, ``interval``, ``frequency``, ``monitor``); a scheduler of torch itself, not yet
            stepped; a list of these, all stepped together; a mapping with ``schedulers`` and, beside it, ``step_on``,
            ``step_call`` (such as ``scheduler.step(epoch + i / iters)``) or ``swa_start``; a whole configuration of
            LightningCLI; the path of a file that holds one of these.
        facts: ``step_on`` (``step`` or ``epoch``), unless the config says when ``step()`` is called or it is
            ``OneCycleLR`` or ``CyclicLR``; ``total_iters`` or ``epochs`` where the run is longer or shorter than the
            schedulers are made for; ``functions`` for lambdas that stand in a text; ``optimizer``; ``base_lr``.
        strict: Whether a key that is not mapped is an error.

    Raises:
        SolverError: What torch refuses, what cannot be known, and the few combinations that no schedule expresses.

    Example:
        >>> imported = from_torch("MultiStepLR(optimizer, milestones=[30, 80])", facts={"step_on": "epoch"})
        >>> imported.spec.to_dict()["schedules"]
        {'lr': {'class_path': 'MultiStep', 'init_args': {'at': ['30ep', '80ep']}}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    given = _Given(known, notes)
    given.read(load(config), "config")
    if not given.entries:
        do = "give the text of a constructor call, such as StepLR(optimizer, 30)"
        raise SolverError("config", "has no scheduler of torch", got=repr(config)[:120], do=do)
    first, sizes = _one_group(given, 0)
    groups = [first]
    if sizes:
        count = next(iter(sizes.values()))
        _check_sizes(sizes, count, known)
        groups += [_one_group(given, i)[0] for i in range(1, count)]
    schedules: dict[str, Phases] = {}
    for option in first:
        each = [group[option] for group in groups]
        same = all(phases == each[0] for phases in each)
        schedules[option] = each[0] if same else PerGroup(each)
    return notes.imported(imported_spec(schedules), strict)


def _check_sizes(sizes: Mapping[str, int], count: int, facts: Facts) -> None:
    base = facts.get("base_lr")
    expected = len(base) if isinstance(base, (list, tuple)) else count
    for where, size in sizes.items():
        if size != expected:
            got = f"{size} for {expected} groups"
            raise SolverError(where, "does not fit the number of groups", got=got, do="give one for each group")


# ------------------------------------------------------------------ reading: who is stepped, and when


@dataclass(frozen=True)
class _Entry:
    """One scheduler that the training loop steps by itself."""

    call: Call
    where: str
    interval: str | None = None
    frequency: int = 1
    monitor: str | None = None


_LIGHTNING = ("interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")
_HOLDERS = ("schedulers", "scheduler", "lr_scheduler", "lr_schedulers", "lr_scheduler_config", "swa_scheduler")
_LENGTHS = {"epochs": ("epochs", "max_epochs", "num_epochs"), "total_iters": ("max_steps", "total_iters", "max_iters")}


class _Given:
    """What a config says."""

    def __init__(self, facts: Facts, notes: Notes) -> None:
        self.facts, self.notes = facts, notes
        self.entries: list[_Entry] = []
        self.step_on: str | None = None
        self.step_call: tuple[str, int] | None = None
        self.swa_start: int | None = None
        self.lengths: dict[str, Any] = {}
        self._instances: dict[int, Call] = {}

    def read(self, config: Any, where: str) -> None:
        """Take in a config, or a part of one."""
        if isinstance(config, Mapping) and not _is_call(config):
            self._mapping(config, where)
        elif isinstance(config, str) and "(" in config:
            self._mapping(read_python(config, where), where, text=True)
        elif isinstance(config, (list, tuple)):
            for i, item in enumerate(config):
                self.read(item, f"{where}[{i}]")
        else:
            self._add(self._call(config, where), where)
        nested = {id(inner) for entry in self.entries for inner in _inside(entry.call)}
        self.entries = [entry for entry in self.entries if id(entry.call) not in nested]

    def _call(self, config: Any, where: str) -> Call:
        if _is_instance(config):
            return _instance(config, where, self._instances)
        return read_calls(config, where)[0]

    def _add(self, call: Call, where: str, **wrapped: Any) -> None:
        if all(call is not entry.call for entry in self.entries):
            self.entries.append(_Entry(call, where, **wrapped))

    def _mapping(self, config: Mapping[str, Any], where: str, text: bool = False) -> None:
        refuse_other_peers(config, "from_torch", where)
        if "scheduler" in config and any(key in config for key in _LIGHTNING):
            self._wrapped(config, where)
            return
        if config and all(key in _KINDS or key in _COMPOSITES for key in config):
            for key, arguments in config.items():
                path = where if len(config) == 1 else f"{where}.{key}"
                self._add(Call(key, (), arguments if isinstance(arguments, Mapping) else {}), path)
            return
        settings = Settings(config, "" if where == "config" else where, self.notes)
        for key, value in config.items():
            if key == "calls" and isinstance(value, list):
                settings.ignore(key)
                for i, call in enumerate(value):
                    self._statement(call, where if len(value) == 1 else f"{where}[{i}]")
            elif isinstance(value, Call):
                settings.ignore(key)
                self._statement(value, settings.path(key) if not text else str(key))
            elif key in _HOLDERS and value is not None:
                settings.ignore(key)
                lightning = key.startswith("lr_scheduler") and isinstance(value, Mapping)
                if lightning and ("scheduler" in value or _is_call(value)):
                    self._wrapped(value if "scheduler" in value else {"scheduler": value}, settings.path(key))
                else:
                    self.read(value, settings.path(key))
        self._surroundings(settings)

    def _wrapped(self, config: Mapping[str, Any], where: str) -> None:
        """A scheduler as Lightning takes it, once per epoch unless it says otherwise."""
        settings = Settings(config, where, self.notes)
        interval = settings.choice("interval", ("step", "epoch"), "epoch")
        frequency = settings.number("frequency", 1, low=1)
        monitor = settings.take("monitor")
        settings.ignore("scheduler", "name", "strict", "reduce_on_plateau")
        settings.rest()
        before = len(self.entries)
        self.read(settings.needed("scheduler"), where)
        self.entries[before:] = [
            dataclasses.replace(
                entry, interval=interval, frequency=_whole(frequency, f"{where}.frequency"), monitor=monitor
            )
            for entry in self.entries[before:]
        ]

    def _statement(self, call: Any, where: str) -> None:
        """A call that stands in a text: a scheduler, or something else that the script makes."""
        if not isinstance(call, Call):
            self.read(call, where)
        elif call.name in _KINDS or call.name in _COMPOSITES:
            self._add(call, where)
        elif call.name != "step" and _takes_optimizer(call):
            self._add(call, where)  # a scheduler that is not known: an error where it is built
        else:
            self.notes.unmapped(f"{where}: {call.name}", "is not part of the schedules")

    def _surroundings(self, settings: Settings) -> None:
        if "step_on" in settings:
            self.step_on = settings.choice("step_on", ("step", "epoch"))
        if "step_call" in settings:
            self.step_call = _step_argument(settings.take("step_call"), settings.path("step_call"))
        if "swa_start" in settings:
            self.swa_start = _whole(settings.number("swa_start"), settings.path("swa_start"))
        trainer = settings.take("trainer")
        if isinstance(trainer, Mapping):
            inner = Settings(trainer, settings.path("trainer"), self.notes)
            self._lengths(inner)
            inner.rest(lambda _: "is not part of the schedules")
        self._lengths(settings)
        settings.rest(lambda key: "is not part of the schedules" if key not in _LIKELY else None, _LIKELY)

    def _lengths(self, settings: Settings) -> None:
        for fact, keys in _LENGTHS.items():
            for key in keys:
                value = settings.take(key) if key in settings else None
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
                    self.lengths.setdefault(fact, value)

    def length_of_run(self) -> tuple[Fraction | None, Fraction | None]:
        """Optimiser steps and epochs of the run, where they are known."""

        def fact(name: str) -> Fraction | None:
            value = self.facts.get(name)
            return None if value is None else exact(value)

        per_step = fact("batches_per_step") or Fraction(1)
        batches, epoch = fact("total_batches"), fact("iters_per_epoch")
        steps = fact("total_iters") or (batches / per_step if batches else None)
        epochs = fact("epochs")
        if steps is None and epochs is None:
            steps, epochs = (exact(self.lengths[k]) if k in self.lengths else None for k in ("total_iters", "epochs"))
        if epoch is not None:
            steps = steps or (None if epochs is None else epochs * epoch / per_step)
            epochs = epochs or (None if steps is None else steps * per_step / epoch)
        return steps, epochs


_LIKELY = ("step_on", "step_call", "swa_start", *_HOLDERS)


def _is_call(config: Any) -> bool:
    return isinstance(config, Mapping) and any(
        key in config and "scheduler" not in config for key in ("class_path", "type", "_target_", "name")
    )


def _takes_optimizer(call: Call) -> bool:
    first = call.kwargs.get("optimizer", call.args[0] if call.args else None)
    return isinstance(first, Name) and first.text.rpartition(".")[2].startswith("opt")


def _inside(call: Call) -> Iterator[Call]:
    for value in (*call.args, *call.kwargs.values()):
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(inner, Call):
                yield inner
                yield from _inside(inner)


def _step_argument(text: Any, where: str) -> tuple[str, int] | None:
    """What ``scheduler.step(...)`` is given: ``("epoch", 1)`` for epoch + 1, ``("fraction", 0)`` for epoch + i / n."""
    do = "write scheduler.step(), scheduler.step(epoch) or scheduler.step(epoch + i / iters)"
    try:
        node = ast.parse(str(text), mode="eval").body
    except SyntaxError:
        raise SolverError(where, "is not a call", got=repr(text), do=do) from None
    if isinstance(node, ast.Call):
        if not node.args:
            return None
        node = node.args[0]
    if isinstance(node, ast.Name):
        return ("epoch", 0)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.left, ast.Name):
        share = node.right
        if isinstance(share, ast.Constant) and share.value == 1:
            return ("epoch", 1)
        if isinstance(share, ast.BinOp) and isinstance(share.op, ast.Div):
            if isinstance(share.left, ast.Name):
                return ("fraction", 0)
            plus = share.left
            if isinstance(plus, ast.BinOp) and isinstance(plus.op, ast.Add) and ast.unparse(plus.right) == "1":
                return ("fraction", 1)
    raise SolverError(where, "is not a call that is understood", got=repr(text), do=do)


def _whole(value: Any, where: str, low: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise SolverError(where, "must be a whole number", got=repr(value), do="correct it")
    if low is not None and value < low:
        raise SolverError(where, f"must be at least {low}", got=repr(value), do="correct it")
    return int(value)


# ------------------------------------------------------------------ schedulers of torch themselves, read as data


def _is_instance(config: Any) -> bool:
    return hasattr(config, "optimizer") and hasattr(config, "step") and not isinstance(config, (Mapping, str, type))


def _instance(scheduler: Any, where: str, known: dict[int, Call], nested: bool = False) -> Call:
    """A scheduler that has not been stepped, as the call that made it."""
    if id(scheduler) in known:
        return known[id(scheduler)]
    name, data = type(scheduler).__name__, vars(scheduler)
    if data.get("last_epoch", 0) > 0 and not (nested and name == "SequentialLR"):  # which has moved on when it is made
        do = "hand it over as it was made, before the first step()"
        raise SolverError(where, "has been stepped", got=f"{name}, last_epoch={data['last_epoch']}", do=do)
    if name not in _ATTRIBUTES:
        raise SolverError(where, "is not a scheduler that is known", got=name, do=suggestion(name, _ATTRIBUTES))
    groups = scheduler.optimizer.param_groups
    arguments = (
        _ATTRIBUTES[name](data, groups)
        if callable(_ATTRIBUTES[name])
        else {key: data[attribute] for key, attribute in _ATTRIBUTES[name].items()}
    )
    if "schedulers" in arguments:
        inner = arguments["schedulers"]
        arguments["schedulers"] = [_instance(s, f"{where}.schedulers[{i}]", known, True) for i, s in enumerate(inner)]
    known[id(scheduler)] = Call(name, (), arguments)
    return known[id(scheduler)]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _one_cycle_data(data: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    end = data["_schedule_phases"][0]["end_step"]
    arguments = {
        "max_lr": [group["max_lr"] for group in groups],
        "total_steps": data["total_steps"],
        "pct_start": float((exact(end) + 1) / data["total_steps"]),
        "anneal_strategy": data["_anneal_func_type"],
        "div_factor": groups[0]["max_lr"] / groups[0]["initial_lr"],
        "final_div_factor": groups[0]["initial_lr"] / groups[0]["min_lr"],
        "three_phase": len(data["_schedule_phases"]) == 3,
        "cycle_momentum": data["cycle_momentum"],
    }
    if data["cycle_momentum"]:
        for key in ("base_momentum", "max_momentum"):
            arguments[key] = [group[key] for group in groups]
    return arguments


def _cyclic_data(data: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    up = data["total_size"] * data["step_ratio"]
    arguments = {
        "base_lr": data["base_lrs"],
        "max_lr": data["max_lrs"],
        "step_size_up": round(up, 9),
        "step_size_down": round(data["total_size"] - up, 9),
        "scale_fn": data["_scale_fn_custom"],
        **{key: data[key] for key in ("mode", "gamma", "scale_mode", "cycle_momentum")},
    }
    if data["cycle_momentum"]:
        arguments.update(base_momentum=data["base_momentums"], max_momentum=data["max_momentums"])
    return arguments


_ATTRIBUTES: dict[str, Any] = {
    "StepLR": _same("step_size", "gamma"),
    "MultiStepLR": lambda data, groups: {"milestones": sorted(data["milestones"].elements()), "gamma": data["gamma"]},
    "ConstantLR": _same("factor", "total_iters"),
    "LinearLR": _same("start_factor", "end_factor", "total_iters"),
    "ExponentialLR": _same("gamma"),
    "PolynomialLR": _same("total_iters", "power"),
    "CosineAnnealingLR": _same("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": _same("T_0", "T_mult", "eta_min"),
    "LambdaLR": {"lr_lambda": "lr_lambdas"},
    "MultiplicativeLR": {"lr_lambda": "lr_lambdas"},
    "OneCycleLR": _one_cycle_data,
    "CyclicLR": _cyclic_data,
    "SWALR": lambda data, groups: {
        "swa_lr": [group["swa_lr"] for group in groups],
        "anneal_epochs": data["anneal_epochs"],
        "anneal_strategy": data["_anneal_strategy"],
    },
    "ReduceLROnPlateau": {
        **_same("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps"),
        "min_lr": "min_lrs",
    },
    "SequentialLR": {"schedulers": "_schedulers", "milestones": "_milestones"},
    "ChainedScheduler": {"schedulers": "_schedulers"},
}


# ------------------------------------------------------------------ rates, calls of step(), phases


@dataclass(frozen=True)
class _Rate:
    """A rate as far as it is known: a factor of the group's own, plus a value that is the same for every group."""

    own: float = 0.0
    fixed: float = 0.0

    def times(self, factor: float) -> _Rate:
        """The rate multiplied."""
        return _Rate(_short(self.own * factor), _short(self.fixed * factor))

    def toward(self, end: float, left: float) -> _Rate:
        """``end`` plus the share ``left`` of the distance to it."""
        return _Rate(_short(self.own * left), _short(self.fixed * left + end * (1.0 - left)))

    def level(self) -> Level:
        """The rate as schedules write it."""
        if self.fixed == 0:
            return self.own
        return {"absolute": self.fixed} if self.own == 0 else {"base": self.own, "absolute": self.fixed}


OWN = _Rate(own=1.0)


def _short(number: float) -> float:
    """A float without the noise that a few operations leave in its last bits."""
    plain = float(f"{number:.13g}")
    return plain if math.isclose(plain, number, rel_tol=1e-15) else number


@dataclass(frozen=True)
class _Ticks:
    """The calls of ``step()``, by which torch counts: one every ``every`` steps or epochs.

    Args:
        every: Steps or epochs between two calls.
        unit: ``st`` or ``ep``.
        total: How many fit into the run; ``None`` where its length is not known.
        told: Whether the calls are told the epoch, by which torch takes the closed form.
        smooth: Whether they are told fractions of it.
    """

    every: int
    unit: str
    total: Fraction | None
    told: bool = False
    smooth: bool = False

    def text(self, count: Number) -> int | str:
        """So many calls as a duration."""
        return length(Fraction(count) * self.every, self.unit)

    @property
    def stairs(self) -> bool:
        """Whether the rate is held for more than one step."""
        return not self.smooth and (self.unit == "ep" or self.every > 1)


@dataclass(frozen=True)
class _Phase:
    """A schedule up to a call of ``step()``.

    Args:
        schedule: The schedule; its ``until`` is written later.
        end: The call with which it ends; ``None`` if it goes on for ever.
        shaped: Whether its form depends on where it ends.
        form: The end by which its form goes, where it is cut off before.
        jumps: Whether it may jump at the last call before the next one takes over.
        stairs: Whether it changes at calls only, by itself.
        text: How the end is written, where not as a number of steps or epochs.
    """

    schedule: Schedule
    end: Fraction | None = None
    shaped: bool = False
    form: Fraction | None = None
    jumps: bool = False
    stairs: bool = False
    text: str | None = None


@dataclass(frozen=True)
class _At:
    """Where a course is to begin: with which call, at which rate, what torch takes for the base, and with which call it
    is cut off.
    """

    ticks: _Ticks
    begin: Fraction
    rate: _Rate = OWN
    base: _Rate = OWN
    stop: Fraction | None = None

    @property
    def end(self) -> Fraction | None:
        """The last call that matters, where it is known."""
        return min((end for end in (self.ticks.total, self.stop) if end is not None), default=None)


def _constant(rate: _Rate, end: Fraction | None = None) -> _Phase:
    return _Phase(Constant(rate.level()), end, stairs=True)


def _cut(phases: Sequence[_Phase], end: Fraction | None, ticks: _Ticks) -> list[_Phase]:
    """The phases up to ``end``; one that would go on keeps its form."""
    if end is None:
        return list(phases)
    kept = []
    for phase in phases:
        if phase.end is not None and phase.end < end:
            kept.append(phase)
            continue
        form = (phase.form or phase.end) if phase.shaped or phase.jumps else None
        kept.append(phase if phase.end == end else dataclasses.replace(phase, end=end, form=form))
        break
    return kept


def _until(schedule: Schedule, until: int | str | None) -> Schedule:
    return dataclasses.replace(schedule, until=until)  # type: ignore[call-arg]


def _written(phases: Sequence[_Phase], begin: Number, ticks: _Ticks) -> list[Schedule]:
    """The phases with their ends, without those that the run does not reach."""
    written: list[Schedule] = []
    reached = Fraction(begin)
    for phase in phases:
        if ticks.total is not None and reached >= ticks.total and written:
            break
        if phase.end is not None and phase.end <= reached:
            continue
        schedule, text = phase.schedule, phase.text
        if phase.form is not None:
            schedule, text = Over(schedule, end=text or ticks.text(phase.form)), None
        until: int | str | None = None
        shaped = phase.shaped and phase.form is None
        beyond = ticks.total is not None and phase.end is not None and phase.end >= ticks.total
        if phase.end is not None and phase.end != ticks.total and (shaped or not beyond):
            until = text or ticks.text(phase.end)
        written.append(_until(schedule, until))
        if phase.end is not None:
            reached = phase.end
    return written


# ------------------------------------------------------------------ the classes


@dataclass(frozen=True)
class _Leaf:
    """What one scheduler does, for one group. Its calls are counted from 0, the one its constructor makes.

    Args:
        name: Its class.
        where: Its path.
        phases: Its course from a call on.
        factor: A recursive scheduler's rate after ``k`` calls, as a factor; the course above is relative to it.
        opened: The rate after call 0, by how it is made (``made`` by the constructor, ``initial`` by SequentialLR,
            ``reset`` at a milestone, ``stepped``), from the rate that it finds and the base.
        floor: The rate that it decays to.
        closed_from: The call from which on it writes its rate whatever it finds.
        first: The rate that it then writes at call 0, where it is known.
        from_base: Whether that is the base.
        initial: The rate that it makes the base of itself and of those made later.
        claims: Whether it does so only where there is no base yet.
        momentum: The course of the momentum from a call on.
        first_momentum: The momentum at call 0.
        turns: The call at which it leaves its floor again.
        dead: Whether it multiplies by 0 more than once.
        horizon: The call at which the run is expected to end.
        limit: The call after which torch raises.
        counts: Whether it counts its calls, and not the number of the epoch.
        multiplier: The function of a MultiplicativeLR.
        moves: Its factors from one call to the next, for :func:`_moves`.
    """

    name: str
    where: str
    phases: Callable[[_At], list[_Phase]]
    factor: Callable[[int], float] | None = None
    opened: Callable[[str, _Rate, _Rate], _Rate] = field(default=lambda entry, rate, base: _found(entry, rate, base))
    floor: float = 0.0
    closed_from: int | None = None
    first: _Rate | None = None
    from_base: bool = False
    initial: _Rate | None = None
    claims: bool = False
    momentum: Callable[[_Ticks, Fraction], list[_Phase]] | None = None
    first_momentum: float = 0.0
    turns: Fraction | None = None
    dead: bool = False
    horizon: Fraction | None = None
    horizon_name: str = ""
    limit: int | None = None
    counts: bool = False
    multiplier: Any = None
    moves: Callable[[_Ticks], list[_Phase]] | None = None


def _found(entry: str, rate: _Rate, base: _Rate) -> _Rate:
    return base if entry == "reset" else rate


class _Args:
    """The arguments of a constructor, for one group."""

    def __init__(
        self, call: Call, where: str, group: int, given: _Given, sizes: dict[str, int], shared: dict[str, Any]
    ) -> None:
        names = _SIGNATURES[call.name].split()
        bound = call.bound(names, where)
        for key in [key for key in bound if key not in names and key not in ("verbose", "monitor")]:
            given.notes.unknown(f"{where}.{key}", key, call.name, names)
            del bound[key]
        bound = {key: Unread(v.text) if isinstance(v, Name) and key != "optimizer" else v for key, v in bound.items()}
        self.optimizer = bound.pop("optimizer", None)
        if "verbose" in bound:
            given.notes.say(f"{where}.verbose", "is not read: torch has dropped it")
            del bound["verbose"]
        self.name, self.where, self.group = call.name, where, group
        self.given, self.sizes, self.shared = given, sizes, shared
        self._raw = bound
        self.settings = Settings(bound, where, given.notes)
        if self.settings.number("last_epoch", -1) != -1:
            do = "import the schedule from its start, and resume by this package's own checkpoints"
            raise SolverError(f"{where}.last_epoch", "must be -1", got=repr(bound["last_epoch"]), do=do)

    def path(self, key: str) -> str:
        return self.settings.path(key)

    def share(self, key: str, value: Any) -> None:
        """Refuse values that torch keeps in the groups themselves, where two schedulers overwrite each other's."""
        if self.shared.setdefault(key, value) != value:
            what = f"{self.name} overwrites in the groups what another one has put there: that is not written as a schedule"
            raise SolverError(self.where, what, got=f"{self.shared[key]} and {value}", do="give both the same values")

    def take(self, key: str, default: Any = None) -> Any:
        return self.settings.take(key, default)

    def needed(self, key: str) -> Any:
        return self.settings.needed(key)

    def number(self, key: str, default: float | None = None, low: float | None = None) -> float:
        if default is None:
            self.needed(key)
        return float(self.settings.number(key, default, low=low))

    def whole(self, key: str, default: int | None = None, low: int = 0) -> int:
        if default is None:
            self.needed(key)
        return _whole(self.settings.number(key, default), self.path(key), low)

    def integer(self, key: str, default: int | None = None, low: int = 0) -> int:
        """A whole number that torch wants as an ``int``."""
        value = self.needed(key) if default is None else self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise SolverError(self.path(key), f"must be a whole number >= {low}", got=repr(value), do="correct it")
        return value

    def each(self, key: str, default: Any = None) -> Any:
        """A value that may be a list with one for every group: that of this group."""
        value = self.needed(key) if default is None else self.take(key, default)
        if not isinstance(value, (list, tuple)):
            return value
        self.sizes[self.path(key)] = len(value)
        if self.group >= len(value):
            return value[-1] if value else self._empty(key)
        return value[self.group]

    def _empty(self, key: str) -> Any:
        raise SolverError(self.path(key), "is empty", got="[]", do="give one for each group")

    def rate(self, key: str, default: float | None = None) -> float:
        """A number, perhaps one for every group."""
        value = self.each(key, default)
        return float(Settings({key: value}, self.where, self.given.notes).number(key, low=0))

    def function(self, key: str) -> Any:
        """A function or its dotted path, perhaps one for every group; text of a function is looked up in the facts."""
        value = self._raw.get(key)
        if isinstance(value, (list, tuple)):
            self.sizes[self.path(key)] = len(value)
            value = value[min(self.group, len(value) - 1)] if value else self._empty(key)
        self.settings.ignore(key)
        if callable(value):
            return value
        if isinstance(value, Unread | Name):
            value = value.text
        elif isinstance(value, str) and all(part.isidentifier() for part in value.split(".")) and "." in value:
            return value
        if value is None:
            return self.needed(key)
        functions = self.given.facts.get("functions") or {}
        for text, function in functions.items():
            if _normal(text) == _normal(str(value)):
                return function
        do = "hand over the function itself or its dotted path, or give facts={'functions': {TEXT: function}}"
        what = "is the text of a function, which is never evaluated"
        raise SolverError(self.path(key), what, got=repr(value), do=do)


def _normal(text: str) -> str:
    try:
        return ast.unparse(ast.parse(text.strip(), mode="eval"))
    except SyntaxError:
        return text


def _callable(function: Any, where: str) -> Callable[..., Any]:
    found = import_dotted(function, where) if isinstance(function, str) else function
    if not callable(found):
        raise SolverError(where, "is not a function", got=repr(function), do="name a function of one number")
    called: Callable[..., Any] = found
    return called


def _step(args: _Args) -> _Leaf:
    size, gamma = args.whole("step_size", low=1), args.number("gamma", 0.1, low=0)

    def phases(at: _At) -> list[_Phase]:
        if gamma in (0, 1):
            return (
                [_constant(at.rate, at.begin + size), _constant(at.rate.times(gamma))]
                if gamma == 0
                else [_constant(at.rate)]
            )
        return [_Phase(Step(every=at.ticks.text(size), gamma=gamma, start=at.rate.level()), stairs=True)]

    def moves(ticks: _Ticks) -> list[_Phase]:
        drop = Cycle((Constant(gamma, until=ticks.text(1)), Constant()), every=ticks.text(size))
        return [_constant(OWN, Fraction(size)), _Phase(drop, stairs=True)]

    return _Leaf(args.name, args.where, phases, factor=lambda k: gamma ** (k // size), moves=moves, dead=gamma == 0)


def _multi_step(args: _Args) -> _Leaf:
    given, gamma = args.needed("milestones"), args.number("gamma", 0.1, low=0)
    if not isinstance(given, (list, tuple)):
        raise SolverError(args.path("milestones"), "must be a list", got=repr(given), do="write [30, 80]")
    points = sorted(_whole(point, f"{args.path('milestones')}[{i}]") for i, point in enumerate(given))
    later = [point for point in points if point > 0]
    now, at_milestone = points.count(0), len(points) - len(later)  # torch counts negative ones too, at a milestone

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        return _found(entry, rate, base).times(gamma ** (at_milestone if entry == "reset" else now))

    def phases(at: _At) -> list[_Phase]:
        if at.ticks.told and now != at_milestone:
            raise SolverError(args.path("milestones"), "must not be negative here", got=repr(given), do="correct them")
        if not later or gamma == 1:
            return [_constant(at.rate)]
        if gamma == 0:
            return [_constant(at.rate, at.begin + later[0]), _constant(_Rate())]
        counts = Counter(later)
        if len(set(counts.values())) == 1:
            parts = [(list(counts), _short(gamma ** counts[later[0]]))]
        else:
            parts = [([p for p in counts if counts[p] > i], gamma) for i in range(max(counts.values()))]
        levels = [at.rate.level(), *[1.0] * (len(parts) - 1)]
        drops = [
            MultiStep(at=[at.ticks.text(at.begin + p) for p in where], gamma=factor, start=level)
            for (where, factor), level in zip(parts, levels)
        ]
        return [_Phase(drops[0] if len(drops) == 1 else Product(drops), stairs=True)]

    def moves(ticks: _Ticks) -> list[_Phase]:
        return _blips({point: gamma ** points.count(point) for point in points if point >= 0})

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: gamma ** bisect_right(later, k),
        dead=gamma == 0,
        opened=opened,
        moves=moves,
    )


def _blips(factors: Mapping[int, float]) -> list[_Phase]:
    """A factor at single calls, 1 at all others."""
    phases: list[_Phase] = []
    for point, factor in sorted(factors.items()):
        before = [_constant(OWN, Fraction(point))] if point else []
        phases += [*before, _constant(OWN.times(factor), Fraction(point + 1))]
    return [*phases, _constant(OWN)]


def _constant_lr(args: _Args) -> _Leaf:
    factor, total = args.number("factor", 1 / 3, low=0), args.number("total_iters", 5, low=0)
    if not 0 < factor <= 1:
        what = "must lie between 0 and 1" if factor else "is 0, by which torch divides at the end"
        raise SolverError(args.path("factor"), what, got=repr(factor), do="correct it")
    ends = total == int(total) and total > 0

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        return base.times(factor if total > 0 else 1.0) if entry == "reset" else rate.times(factor)

    def phases(at: _At) -> list[_Phase]:
        if at.ticks.told:
            full = at.rate if ends else at.rate.times(1.0 / factor)
            return [_constant(full.times(factor), at.begin + _told(args, exact(total))), _constant(full)]
        if not ends:
            what = "torch compares it with whole numbers > 0: the factor is never taken back"
            args.given.notes.say(args.path("total_iters"), what)
            return [_constant(at.rate)]
        return [_constant(at.rate.times(factor), at.begin + int(total)), _constant(at.rate)]

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=(lambda k: factor if k < total else 1.0) if ends else (lambda k: 1.0),
        opened=opened,
        moves=lambda ticks: [
            _constant(OWN.times(factor), Fraction(1)),
            *_blips({int(total): 1 / factor} if ends else {}),
        ],
    )


def _linear(args: _Args) -> _Leaf:
    start, end = args.number("start_factor", 1 / 3), args.number("end_factor", 1.0)
    total = exact(args.number("total_iters", 5, low=0))
    for name, value, low in (("start_factor", start, "above 0"), ("end_factor", end, "from 0")):
        if not 0 <= value <= 1 or (value == 0 and name == "start_factor"):
            raise SolverError(args.path(name), f"must lie {low} to 1", got=repr(value), do="correct it")
    whole = int(total)  # the last call that moves the rate
    reached = start if whole == 0 else _short(start + (end - start) * float(whole / total))

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        if entry == "reset":
            _told(args, total)
        return _found(entry, rate, base).times(start)

    def phases(at: _At) -> list[_Phase]:
        last = _told(args, total) if at.ticks.told else Fraction(whole)
        line = Linear(at.rate.times(start).level(), at.rate.times(end if at.ticks.told else reached).level())
        if line.start == line.end or last == 0:
            return [_Phase(Constant(line.start), stairs=True)]
        return [_Phase(line, at.begin + last, shaped=True), _Phase(Constant(line.end), stairs=True)]

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: start if whole == 0 else start + (end - start) * min(k, whole) / float(total),
        opened=opened,
        horizon=total if end < start else None,
        horizon_name="total_iters",
    )


def _exponential(args: _Args) -> _Leaf:
    gamma = args.number("gamma", low=0)

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        return rate.times(gamma) if entry == "stepped" else _found(entry, rate, base)

    def phases(at: _At) -> list[_Phase]:
        if gamma == 1:
            return [_constant(at.rate)]
        if gamma == 0 and at.ticks.smooth:
            raise SolverError(args.path("gamma"), "is 0: that is not written as a schedule", got="0", do="correct it")
        if gamma == 0:
            return [_constant(at.rate, at.begin + 1), _constant(_Rate())]
        kind = Step if at.ticks.stairs else Exponential
        return [_Phase(kind(every=at.ticks.text(1), gamma=gamma, start=at.rate.level()), stairs=True)]

    def moves(ticks: _Ticks) -> list[_Phase]:
        return [_constant(OWN, Fraction(1)), _constant(OWN.times(gamma))]

    return _Leaf(args.name, args.where, phases, factor=lambda k: gamma**k, opened=opened, moves=moves, dead=gamma == 0)


def _told(args: _Args, total: Fraction) -> Fraction:
    """The end of a closed form."""
    if total == 0:
        raise SolverError(args.path("total_iters"), "is 0, by which torch divides here", got="0", do="correct it")
    return total


def _polynomial(args: _Args) -> _Leaf:
    total, power = exact(args.number("total_iters", 5, low=0)), args.number("power", 1.0)
    if power < 0:
        raise SolverError(args.path("power"), "must not be negative", got=repr(power), do="correct it")
    whole = int(total)

    def factor(k: int) -> float:
        return float(1 - min(k, whole) / total) ** power if whole else 1.0

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        if entry in ("reset", "stepped"):
            _told(args, total)
        if entry == "stepped":
            return rate.times(float(total / (total + 1)) ** power)
        return _found(entry, rate, base)

    def phases(at: _At) -> list[_Phase]:
        last = _told(args, total) if at.ticks.told else Fraction(whole)
        if not last or power == 0:
            return [_constant(at.rate)]
        curve = _Phase(Polynomial(power, start=at.rate.level()), at.begin + total, shaped=True)
        left = _Rate() if last == total else at.rate.times(factor(whole))
        return [*_cut([curve], at.begin + last, at.ticks), _constant(left)]

    return _Leaf(
        args.name, args.where, phases, factor=factor, opened=opened, horizon=total or None, horizon_name="total_iters"
    )


def _cosine(args: _Args) -> _Leaf:
    t_max, eta = exact(args.number("T_max")), args.number("eta_min", 0.0, low=0)
    if t_max <= 0:
        raise SolverError(args.path("T_max"), "must be > 0", got=repr(args.take("T_max")), do="correct it")
    floor = _Rate(fixed=eta)
    _note_floor(args, "eta_min", eta)

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        if entry != "stepped":
            return _found(entry, rate, base)
        if t_max == 1:
            return _Rate(rate.own + base.own, rate.fixed + base.fixed - eta)
        return rate.toward(eta, 2.0 / (1.0 + math.cos(math.pi / float(t_max))))

    def phases(at: _At) -> list[_Phase]:
        top = at.base if t_max.denominator == 1 else at.rate  # torch goes by the base where it hits the floor
        down, up = Cosine(at.rate.level(), floor.level()), Cosine(floor.level(), top.level())
        falling, rising = at.begin + t_max, at.begin + 2 * t_max
        if at.end is not None and at.end > falling:
            what = (
                f"is over before the run: from there torch lets the rate rise again, every {at.ticks.text(2 * t_max)}"
            )
            args.given.notes.say(args.path("T_max"), what)
        if at.end is not None and at.end <= rising:
            return [_Phase(down, falling, shaped=True), _Phase(up, rising, shaped=True), _constant(top)]
        every = at.ticks.text(2 * t_max)
        if at.rate == top:
            return [_Phase(Cycle((dataclasses.replace(down, until="50%"), up), every=every))]
        again = Cycle((dataclasses.replace(up, until="50%"), Cosine(top.level(), floor.level())), every=every)
        return [_Phase(down, falling, shaped=True), _Phase(again)]

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: (1.0 + math.cos(math.pi * k / float(t_max))) / 2.0,
        opened=opened,
        floor=eta,
        turns=t_max,
        horizon=t_max,
        horizon_name="T_max",
    )


def _note_floor(args: _Args, key: str, floor: float) -> None:
    rates = args.given.facts.get("base_lr")
    for rate in rates if isinstance(rates, (list, tuple)) else [] if rates is None else [rates]:
        if rate < floor:
            args.given.notes.say(args.path(key), f"is above the rate {rate:g} of a group, which therefore rises")


def _restarts(args: _Args) -> _Leaf:
    first, grow = args.integer("T_0", low=1), args.integer("T_mult", 1, low=1)
    eta = args.take("eta_min", 0.0)
    if isinstance(eta, bool) or not isinstance(eta, (int, float)):
        raise SolverError(args.path("eta_min"), "must be a number", got=repr(eta), do="correct it")
    eta = args.number("eta_min", 0.0, low=0)
    _note_floor(args, "eta_min", eta)

    def phases(at: _At) -> list[_Phase]:
        cosine = Cosine(at.base.level(), absolute(eta))
        if at.ticks.total == at.begin + first:
            return [_Phase(cosine, at.begin + first, shaped=True), _constant(at.base)]
        start, size = Fraction(0), first
        while at.stop is not None and at.begin + start < at.stop - 1:
            start, size = start + size, size * grow
        jumps = at.stop is not None and at.begin + start == at.stop - 1
        return [_Phase(Cycle(cosine, every=at.ticks.text(first), grow=grow), jumps=jumps)]

    return _Leaf(args.name, args.where, phases, closed_from=0, from_base=True)


def _lambda(args: _Args) -> _Leaf:
    function = args.function("lr_lambda")

    def phases(at: _At) -> list[_Phase]:
        if at.ticks.smooth:
            what = "is called with fractions of an epoch, and schedules call functions with whole numbers"
            raise SolverError(args.where, what, got=args.name, do="step it once per step or epoch")
        return [_Phase(Function(function, every=at.ticks.text(1), start=at.base.level()), jumps=True, stairs=True)]

    return _Leaf(args.name, args.where, phases, closed_from=0)


def _multiplicative(args: _Args) -> _Leaf:
    function = args.function("lr_lambda")

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        if entry in ("made", "initial"):
            return rate
        return rate.times(float(_callable(function, args.path("lr_lambda"))(0)))

    def phases(at: _At) -> list[_Phase]:
        product = Function(function, every=at.ticks.text(1), cumulative=True, start=at.rate.level())
        return [_Phase(product, jumps=True, stairs=True)]

    def moves(ticks: _Ticks) -> list[_Phase]:
        return [
            _constant(OWN, Fraction(1)),
            _Phase(Over(Function(function, every=ticks.text(1)), begin=0), stairs=True),
        ]

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=lambda k: 1.0 if k == 0 else math.nan,
        opened=opened,
        multiplier=function,
        moves=moves,
    )


def _one_cycle(args: _Args) -> _Leaf:
    total = _cycle_steps(args)
    share = args.take("pct_start", 0.3)
    if not isinstance(share, float) or not 0 <= share <= 1:
        what = "must be a float between 0 and 1 (torch takes no int)"
        raise SolverError(args.path("pct_start"), what, got=repr(share), do="write 0.3")
    shape = _SHAPES[args.settings.choice("anneal_strategy", _SHAPES, "cos")]
    three = bool(args.take("three_phase", False))
    top, div, last_div = args.rate("max_lr"), args.number("div_factor", 25.0), args.number("final_div_factor", 1e4)
    for key, value in (("div_factor", div), ("final_div_factor", last_div)):
        if value <= 0:
            raise SolverError(args.path(key), "must be > 0", got=repr(value), do="correct it")
    low = _short(top / div)
    least = _short(low / last_div)
    peak = exact(share) * total - 1
    if peak == 0:
        what = "makes the first phase 0 steps long, by which torch divides"
        raise SolverError(args.path("pct_start"), what, got=f"{share} of {total}", do="correct it")
    ends = [peak, 2 * peak, Fraction(total - 1)] if three else [peak, Fraction(total - 1)]
    rates = [low, top, low, least] if three else [low, top, least]
    texts = [f"{_percent(share)}-1", f"{_percent(2 * exact(share))}-2"] if three else [f"{_percent(share)}-1"]
    curve = _Anneal(shape, ends, [*texts, "100%-1"], total)
    cycles, rest, crest = _momenta(args, 0.85, 0.95)

    after = curve.value(rates, total)
    args.share("rates", (low, top, least))
    if cycles:
        args.share("momentum", (rest, crest))

    def phases(at: _At) -> list[_Phase]:
        if after < 0 and at.end is not None and at.end > at.begin + total:
            what = "is below the run, whose last rate torch makes negative"
            raise SolverError(args.path("total_steps"), what, got=str(total), do="give it the length of the run")
        return curve.phases(rates, at.ticks, at.begin)

    def momentum(ticks: _Ticks, begin: Fraction) -> list[_Phase]:
        return curve.phases([crest, rest, crest, crest] if three else [crest, rest, crest], ticks, begin)

    return _Leaf(
        args.name,
        args.where,
        phases,
        closed_from=0,
        first=_Rate(fixed=curve.value(rates, 0)),
        initial=_Rate(fixed=low),
        momentum=momentum if cycles else None,
        first_momentum=curve.value([crest, rest, crest, crest] if three else [crest, rest, crest], 0),
        horizon=Fraction(total),
        horizon_name="total_steps",
        limit=total - (1 if math.isnan(after) else 0),
    )


def _cycle_steps(args: _Args) -> int:
    if args.take("total_steps") is not None:
        args.settings.ignore("epochs", "steps_per_epoch")
        return args.integer("total_steps", low=1)
    if args.take("epochs") is None or args.take("steps_per_epoch") is None:
        do = "give total_steps, or epochs and steps_per_epoch"
        raise SolverError(args.path("total_steps"), "is missing", got=f"keys {', '.join(args._raw)}", do=do)
    return args.integer("epochs", low=1) * args.integer("steps_per_epoch", low=1)


def _percent(share: float | Fraction) -> str:
    return str(Duration(((exact(share) * 100, "%"),)))


_SHAPES: dict[str, type[Cosine] | type[Linear]] = {"cos": Cosine, "linear": Linear}


@dataclass(frozen=True)
class _Anneal:
    """The phases of a OneCycleLR: from one value to the next, each by the same shape.

    A step belongs to the first phase whose end is not before it, and to the last phase otherwise; a phase begins where
    the one before it ends, which may be before the first step.
    """

    shape: type[Cosine] | type[Linear]
    ends: Sequence[Fraction]
    texts: Sequence[str]
    total: int

    def value(self, values: Sequence[float], k: int) -> float:
        """The value after ``k`` calls, also past the end; nan where torch divides by 0."""
        i = next((i for i, end in enumerate(self.ends) if k <= end), len(self.ends) - 1)
        begin = self.ends[i - 1] if i else Fraction(0)
        if self.ends[i] == begin:
            return math.nan
        x = float((k - begin) / (self.ends[i] - begin))
        a, b = values[i], values[i + 1]
        return _short((b - a) * x + a if self.shape is Linear else b + (a - b) / 2.0 * (math.cos(math.pi * x) + 1.0))

    def phases(self, values: Sequence[float], ticks: _Ticks, begin: Fraction) -> list[_Phase]:
        """The phases for the values between which they lead, from a call of ``step()`` on."""
        over, written = begin + self.total, list[_Phase]()
        relative = begin == 0 and ticks.every == 1 and ticks.total == self.total
        for i, end in enumerate(self.ends):
            start = self.ends[i - 1] if i else Fraction(0)
            a, b = absolute(values[i]), absolute(values[i + 1])
            if end < 0:
                continue
            if start < 0:  # the phase begins before the first step
                line, last = self.shape(a, b), begin + end - start
                whole = (dataclasses.replace(line, until=ticks.text(last)), Constant(b))
                written.append(_Phase(Shift(line if last == ticks.total else whole, earlier=ticks.text(-start)), over))
                break
            final = end >= self.total - 1
            if a == b:
                written.append(_Phase(Constant(a), over if final else begin + end, stairs=True))
            else:
                text = f"{self.texts[i]}{ticks.unit}" if relative and end <= self.total else None
                written.append(_Phase(self.shape(a, b), begin + end, shaped=True, text=text))
            if final:
                break
        if written[-1].end == begin + self.total - 1:
            written.append(_Phase(HOLD, over, stairs=True))
        after = self.value(values, self.total)
        return [*_cut(written, over, ticks), _constant(_Rate(fixed=after if after > 0 else 0.0))]


def _momenta(args: _Args, base: float, top: float) -> tuple[bool, float, float]:
    """Whether the momentum is cycled, and between which values."""
    cycles = bool(args.take("cycle_momentum", True))
    rest, crest = args.rate("base_momentum", base), args.rate("max_momentum", top)
    optimizer = args.given.facts.get("optimizer")
    if cycles and optimizer in _WITHOUT_MOMENTUM:
        do = "set cycle_momentum=False"
        raise SolverError(args.path("cycle_momentum"), "the optimiser has no momentum", got=str(optimizer), do=do)
    return cycles, rest, crest


_WITHOUT_MOMENTUM = ("Adadelta", "Adafactor", "Adagrad", "ASGD", "LBFGS", "Rprop")


def _cyclic(args: _Args) -> _Leaf:
    low, top = args.rate("base_lr"), args.rate("max_lr")
    up = exact(args.number("step_size_up", 2000, low=0))
    down = up if args.take("step_size_down") is None else exact(args.number("step_size_down", low=0))
    if up == 0:
        raise SolverError(args.path("step_size_up"), "is 0, by which torch divides", got="0", do="correct it")
    wave = _Wave(up, down, *_scaling(args))
    cycles, rest, crest = _momenta(args, 0.8, 0.9)
    if cycles and "momentum" in args.shared:
        args.share("momentum", (rest, crest))

    def phases(at: _At) -> list[_Phase]:
        return [wave.phase(low, top, at.ticks)]

    def momentum(ticks: _Ticks, begin: Fraction) -> list[_Phase]:
        return [wave.phase(crest, rest, ticks)]

    return _Leaf(
        args.name,
        args.where,
        phases,
        closed_from=0,
        first=_Rate(fixed=low),
        initial=_Rate(fixed=low),
        claims=True,
        momentum=momentum if cycles else None,
        first_momentum=crest,
    )


def _scaling(args: _Args) -> tuple[str, float, Any]:
    """How the height of a CyclicLR changes: what is counted, a constant factor, or a function."""
    modes = ("triangular", "triangular2", "exp_range")
    gamma = args.number("gamma", 1.0, low=0)
    if args._raw.get("scale_fn") is not None:
        scale = args.settings.choice("scale_mode", ("cycle", "iterations"), "cycle")
        args.settings.ignore("mode")
        return scale, 1.0, args.function("scale_fn")
    args.settings.ignore("scale_fn", "scale_mode")
    mode = args.settings.choice("mode", modes, "triangular")
    return {"triangular": ("cycle", 1.0), "triangular2": ("cycle", 0.5), "exp_range": ("iterations", gamma)}[mode] + (
        None,
    )


@dataclass(frozen=True)
class _Wave:
    """Up and down again, by a height that changes with every cycle or call."""

    up: Fraction
    down: Fraction
    counted: str
    gamma: float
    function: Any

    def phase(self, rest: float, crest: float, ticks: _Ticks) -> _Phase:
        """From ``rest`` to ``crest`` and back."""
        every = ticks.text(self.up + self.down)
        if (self.gamma == 1 and self.function is None) or rest == crest:
            return (
                _Phase(self._cycle(rest, crest, ticks), jumps=not self.down)
                if rest != crest
                else _constant(_Rate(fixed=rest))
            )
        per = every if self.counted == "cycle" else ticks.text(1)
        scale: Schedule
        if self.function is not None:
            scale = Function(self.function, every=per)
            if self.counted == "cycle":  # which torch counts from 1
                beyond = f"100%+{per}st" if isinstance(per, int) else f"100%+{per}"
                scale = Shift(Over(scale, end=beyond), earlier=per)
        elif self.counted == "cycle" or ticks.stairs:
            scale = Step(every=per, gamma=self.gamma)
        else:
            scale = Exponential(every=per, gamma=self.gamma)
        height = Product((self._cycle(0.0, _short(crest - rest), ticks), scale))
        jumps = not self.down or self.function is not None
        return _Phase(Sum((Constant(absolute(rest)), height)) if rest else height, jumps=jumps)

    def _cycle(self, rest: float, crest: float, ticks: _Ticks) -> Cycle:
        up, down = Linear(absolute(rest), absolute(crest)), Linear(absolute(crest), absolute(rest))
        if self.down == 0:
            return Cycle(up, every=ticks.text(self.up))
        return Cycle((dataclasses.replace(up, until=ticks.text(self.up)), down), every=ticks.text(self.up + self.down))


def _swa(args: _Args) -> _Leaf:
    target, count = args.rate("swa_lr"), args.integer("anneal_epochs", 10)
    shape = _SHAPES[args.settings.choice("anneal_strategy", _SHAPES, "cos")]
    end = _Rate(fixed=target)
    args.share("swa_lr", target)

    def left(k: int) -> float:
        x = min(k / max(count, 1), 1.0)
        return 1.0 - (x if shape is Linear else (1.0 - math.cos(math.pi * x)) / 2.0)

    def opened(entry: str, rate: _Rate, base: _Rate) -> _Rate:
        return rate.toward(target, left(1)) if entry == "stepped" else rate

    def phases(at: _At) -> list[_Phase]:
        return [_Phase(shape(at.rate.level(), end.level()), at.begin + count, shaped=True), _constant(end)]

    return _Leaf(
        args.name,
        args.where,
        phases,
        factor=left,
        opened=opened,
        floor=target,
        closed_from=count,
        first=end,
        counts=True,
    )


_KINDS: dict[str, Callable[[_Args], _Leaf] | None] = {
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "ConstantLR": _constant_lr,
    "LinearLR": _linear,
    "ExponentialLR": _exponential,
    "PolynomialLR": _polynomial,
    "CosineAnnealingLR": _cosine,
    "CosineAnnealingWarmRestarts": _restarts,
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
    "OneCycleLR": _one_cycle,
    "CyclicLR": _cyclic,
    "SWALR": _swa,
    "ReduceLROnPlateau": None,
}
_COMPOSITES = ("SequentialLR", "ChainedScheduler")
_SIGNATURES = {
    "StepLR": "optimizer step_size gamma last_epoch",
    "MultiStepLR": "optimizer milestones gamma last_epoch",
    "ConstantLR": "optimizer factor total_iters last_epoch",
    "LinearLR": "optimizer start_factor end_factor total_iters last_epoch",
    "ExponentialLR": "optimizer gamma last_epoch",
    "PolynomialLR": "optimizer total_iters power last_epoch",
    "CosineAnnealingLR": "optimizer T_max eta_min last_epoch",
    "CosineAnnealingWarmRestarts": "optimizer T_0 T_mult eta_min last_epoch",
    "LambdaLR": "optimizer lr_lambda last_epoch",
    "MultiplicativeLR": "optimizer lr_lambda last_epoch",
    "OneCycleLR": "optimizer max_lr total_steps epochs steps_per_epoch pct_start anneal_strategy cycle_momentum "
    "base_momentum max_momentum div_factor final_div_factor three_phase last_epoch",
    "CyclicLR": "optimizer base_lr max_lr step_size_up step_size_down mode gamma scale_fn scale_mode cycle_momentum "
    "base_momentum max_momentum last_epoch",
    "SWALR": "optimizer swa_lr anneal_epochs anneal_strategy last_epoch",
    "ReduceLROnPlateau": "optimizer mode factor patience threshold threshold_mode cooldown min_lr eps",
    "SequentialLR": "optimizer schedulers milestones last_epoch",
    "ChainedScheduler": "schedulers optimizer",
}


def _plateau(args: _Args, monitor: str) -> Plateau:
    settings = args.settings
    factor, least = args.number("factor", 0.1), args.rate("min_lr", 0)
    if not 0 < factor < 1:
        raise SolverError(args.path("factor"), "must lie between 0 and 1", got=repr(factor), do="correct it")
    mode = settings.choice("mode", ("min", "max"), "min")
    kind = settings.choice("threshold_mode", ("rel", "abs"), "rel")
    threshold = args.number("threshold", 1e-4, low=0)
    if threshold >= 1 and (mode, kind) == ("min", "rel"):
        what = "must be below 1: nothing would ever count as an improvement"
        raise SolverError(args.path("threshold"), what, got=repr(threshold), do="correct it")
    return Plateau(
        monitor,
        mode=mode,  # type: ignore[arg-type]
        factor=factor,
        patience=args.whole("patience", 10),
        threshold=threshold,
        threshold_mode=kind,  # type: ignore[arg-type]
        cooldown=args.whole("cooldown", 0),
        min=absolute(least),
        eps=args.number("eps", 1e-8, low=0),
    )


# ------------------------------------------------------------------ counters: who steps when


@dataclass
class _State:
    """What schedulers change while they are made and stepped, for one group."""

    rate: _Rate | None = OWN
    initial: _Rate | None = None
    momentum: float | None = None
    made: bool = False
    calls: list[tuple[_Single, str]] = field(default_factory=list)


class _Single:
    """A scheduler with its counters."""

    def __init__(self, leaf: _Leaf) -> None:
        self.leaf, self.epoch, self.count, self.base = leaf, -1, 0, OWN

    @property
    def k(self) -> int:
        """By how many calls it has moved on."""
        return self.count - 1 if self.leaf.counts else self.epoch

    @property
    def closed(self) -> bool:
        """Whether it writes its rate whatever it finds."""
        return self.leaf.closed_from is not None and self.k >= self.leaf.closed_from

    def make(self, state: _State) -> None:
        """Its constructor."""
        leaf = self.leaf
        if leaf.initial is not None and not leaf.claims:
            state.initial = leaf.initial
        if state.initial is None:
            state.initial = leaf.initial or state.rate
        self.base = state.initial or OWN
        self._moved(state, "made")

    def open(self, state: _State) -> None:
        """The step that its constructor makes."""
        self.count = 0
        self._moved(state, "initial")

    def step(self, state: _State) -> None:
        """``step()``."""
        self._moved(state, "stepped")

    def reset(self, state: _State) -> None:
        """What ``SequentialLR`` calls at a milestone."""
        self.epoch = 0
        self._note(state, "reset")

    def undo(self) -> None:
        """What ``SequentialLR`` does to the schedulers that it is given."""
        self.epoch -= 1

    def skip(self, calls: int) -> None:
        """So many calls of ``step()`` at once."""
        self.epoch += calls
        self.count += calls

    def event(self) -> int | None:
        """Calls of ``step()`` until something switches."""
        closes = self.leaf.closed_from
        return closes - self.k if closes is not None and self.k < closes else None

    def active(self) -> list[_Single]:
        """Who is stepped."""
        return [self]

    def _moved(self, state: _State, entry: str) -> None:
        self.epoch = max(self.epoch + 1, 0) if self.leaf.from_base else self.epoch + 1
        self.count += 1
        self._note(state, entry)

    def _note(self, state: _State, entry: str) -> None:
        state.calls.append((self, entry))
        if state.made:
            return
        if self.leaf.momentum is not None:
            state.momentum = self.leaf.first_momentum
        if self.closed:
            by_base = self.leaf.from_base or (self.leaf.claims and entry == "made")
            state.rate = self.base if by_base else self.leaf.first
        elif state.rate is not None:
            state.rate = self.leaf.opened(entry, state.rate, self.base)


@dataclass
class _Together:
    """Schedulers that are all stepped, in order: ``ChainedScheduler``, or several in a training loop."""

    of: Sequence[_Node]
    where: str = "config"

    def make(self, state: _State) -> None:
        for node in self.of:
            node.make(state)

    def open(self, state: _State) -> None:
        self.step(state)

    def step(self, state: _State) -> None:
        for node in self.of:
            node.step(state)

    def reset(self, state: _State) -> None:
        raise _no_start(self.where, "ChainedScheduler")

    def undo(self) -> None:
        for node in self.of:
            node.undo()

    def skip(self, calls: int) -> None:
        for node in self.of:
            node.skip(calls)

    def event(self) -> int | None:
        return min((event for node in self.of if (event := node.event()) is not None), default=None)

    def active(self) -> list[_Single]:
        return [one for node in self.of for one in node.active()]


@dataclass
class _OneByOne:
    """Schedulers one after another: ``SequentialLR``."""

    of: Sequence[_Node]
    milestones: Sequence[int]
    where: str
    epoch: int = 0

    @property
    def _index(self) -> int:
        return bisect_right(self.milestones, self.epoch)

    def make(self, state: _State) -> None:
        for node in self.of:
            node.make(state)
        state.rate = state.initial
        self.undo()
        self.of[self._index].open(state)

    def open(self, state: _State) -> None:
        self.step(state)  # torch counts this one: a SequentialLR that is the first of another runs one call early

    def step(self, state: _State) -> None:
        self.epoch += 1
        node = self.of[self._index]
        if self._index and self.milestones[self._index - 1] == self.epoch:
            node.reset(state)
        else:
            node.step(state)

    def reset(self, state: _State) -> None:
        raise _no_start(self.where, "SequentialLR")

    def undo(self) -> None:
        for node in self.of:
            node.undo()

    def skip(self, calls: int) -> None:
        self.epoch += calls
        self.of[self._index].skip(calls)

    def event(self) -> int | None:
        events = [point - self.epoch for point in self.milestones if point > self.epoch][:1]
        inner = self.of[self._index].event()
        return min([*events, *([] if inner is None else [inner])], default=None)

    def active(self) -> list[_Single]:
        return self.of[self._index].active()


@dataclass
class _Switch:
    """``swa_scheduler.step() if epoch > swa_start else scheduler.step()``, with the schedulers in order."""

    of: Sequence[tuple[_Node, bool]]
    start: int
    epoch: int = 0

    @property
    def _now(self) -> list[_Node]:
        return [node for node, swa in self.of if swa == (self.epoch > self.start + 1)]

    def make(self, state: _State) -> None:
        for node, _ in self.of:
            node.make(state)

    def step(self, state: _State) -> None:
        self.epoch += 1
        for node in self._now:
            node.step(state)

    def skip(self, calls: int) -> None:
        self.epoch += calls
        for node in self._now:
            node.skip(calls)

    def event(self) -> int | None:
        events = [event for node in self._now if (event := node.event()) is not None]
        if self.epoch <= self.start + 1:
            events.append(self.start + 2 - self.epoch)
        return min(events, default=None)

    def active(self) -> list[_Single]:
        return [one for node in self._now for one in node.active()]


_Node = _Single | _Together | _OneByOne


def _no_start(where: str, name: str) -> SolverError:
    what = f"torch raises NotImplementedError when a {name} takes over inside a SequentialLR"
    return SolverError(where, what, got=name, do="put its schedulers into the SequentialLR themselves")


@dataclass
class _Stretch:
    """The calls of ``step()`` from ``begin`` on during which the same schedulers are stepped.

    Args:
        begin: The first call.
        end: The call that belongs to the next stretch; ``None`` if there is none.
        who: The schedulers in order, each with its own count at ``begin``.
        calls: How each of them made the first call.
        closed: Whether the first of ``who`` writes its rate whatever it finds.
        rate: The rate after the first call, where it is known.
    """

    begin: Fraction
    end: Fraction | None
    who: list[tuple[_Single, int]]
    calls: dict[int, str]
    closed: bool
    rate: _Rate | None


def _stretches(node: _Together | _Switch, ticks: _Ticks) -> tuple[list[_Stretch], float | None]:
    """Who is stepped when; and the momentum that the constructors leave."""
    state = _State()
    node.make(state)
    state.made = True
    found: list[_Stretch] = []
    begin, rate = 0, state.rate
    while True:
        count = node.event()
        who = node.active()
        calls = {id(one): entry for one, entry in state.calls}
        end = None if count is None else Fraction(begin + count)
        counts = [(one, one.k) for one in who]
        closed = [i for i, one in enumerate(who) if one.closed]
        found.append(_Stretch(Fraction(begin), end, counts, calls, bool(closed), rate))
        if count is None or (ticks.total is not None and begin + count >= ticks.total):
            return found, state.momentum
        node.skip(count - 1)
        state.calls.clear()
        node.step(state)
        begin, rate = begin + count, None


def _merged(stretches: Sequence[_Stretch]) -> list[_Stretch]:
    """The stretches without schedulers whose rate another one overwrites, and without switches among those."""
    merged: list[_Stretch] = []
    for stretch in stretches:
        last = max((i for i, (one, k) in enumerate(stretch.who) if _writes(one, k)), default=0)
        who = stretch.who[last:]
        goes_on = (
            merged
            and [one for one, _ in merged[-1].who] == [one for one, _ in who]
            and all(stretch.calls.get(id(one)) != "reset" for one, _ in who)
            and merged[-1].closed == stretch.closed
        )
        if goes_on:
            merged[-1].end = stretch.end
        else:
            merged.append(dataclasses.replace(stretch, who=who))
    return merged


def _writes(one: _Single, k: int) -> bool:
    return one.leaf.closed_from is not None and k >= one.leaf.closed_from


# ------------------------------------------------------------------ phases


def _course(node: _Together | _Switch, ticks: _Ticks) -> tuple[list[_Phase], list[_Phase]]:
    """The phases of the rate and of the momentum; none where the momentum is left alone."""
    stretches, momentum = _stretches(node, ticks)
    _check_limits(stretches, ticks)
    phases: list[_Phase] = []
    before: _Stretch | None = None
    for stretch in _merged(stretches):
        begin, more = _phases(stretch, before, phases, ticks)
        phases = (
            [*_cut(phases, begin, ticks), *_cut(more, stretch.end, ticks)] if begin else _cut(more, stretch.end, ticks)
        )
        before = stretch
    return phases, _momentum(stretches, momentum, ticks)


def _check_limits(stretches: Sequence[_Stretch], ticks: _Ticks) -> None:
    for stretch in stretches:
        end = min((end for end in (stretch.end, ticks.total) if end is not None), default=None)
        for one, k in stretch.who if end is not None else ():
            limit = one.leaf.limit
            assert end is not None
            if limit is not None and k + math.ceil(end - stretch.begin) - 1 > limit:
                got = f"{k + math.ceil(end - stretch.begin)} steps"
                do = "give it the length of the run, or train no longer"
                what = "torch raises when it is stepped past its end"
                raise SolverError(f"{one.leaf.where}.total_steps", what, got=got, do=do)


def _momentum(stretches: Sequence[_Stretch], first: float | None, ticks: _Ticks) -> list[_Phase]:
    phases: list[_Phase] = []
    before: _Single | None = None
    since = Fraction(0)
    for stretch in stretches:
        writers = [(one, k) for one, k in stretch.who if one.leaf.momentum is not None]
        writer, k = writers[-1] if writers else (None, 0)
        if phases and writer is before:
            continue
        begin = stretch.begin
        if writer is not None:
            assert writer.leaf.momentum is not None
            more = writer.leaf.momentum(ticks, begin - k)
            if begin == 0 and first is not None and first != writer.leaf.first_momentum:
                more = [_constant(_Rate(fixed=first), Fraction(1)), _over(more, begin, ticks)]  # another was made later
            phases = [*_cut(phases, begin, ticks), *more]
        elif first is not None:
            held = _Phase(Constant(_left(phases, begin - 1)), stairs=True)
            if before is None or begin - 1 == since:
                held = _constant(_Rate(fixed=first if before is None else before.leaf.first_momentum))
            phases = [*(_cut(_cut(phases, begin, ticks), begin - 1, ticks) if begin else ()), held]
        before, since = writer, begin
    return phases


def _phases(
    stretch: _Stretch, before: _Stretch | None, earlier: Sequence[_Phase], ticks: _Ticks
) -> tuple[Fraction, list[_Phase]]:
    """The phases of a stretch, and the call with which they begin (one early where they go on from the rate found)."""
    who, begin, stop = stretch.who, stretch.begin, stretch.end
    lead, k = who[0]
    if odd := [one for one, count in who if count < 0]:
        raise _inexpressible(odd[0].leaf, "nested so deeply")
    if stretch.closed:
        return begin, _written_anew(stretch, ticks)
    if stretch.rate is None:
        resets = [i for i, (one, _) in enumerate(who) if stretch.calls.get(id(one)) == "reset"]
        fresh = [i for i in resets if not who[i][0].leaf.counts and who[i][0].leaf.multiplier is None]
        if not fresh:
            return _going_on(stretch, before, earlier, ticks)
        one = who[fresh[-1]][0]
        rate = one.leaf.opened("reset", one.base, one.base)
        for other, count in who[fresh[-1] + 1 :]:
            leaf = other.leaf
            if leaf.factor is None or leaf.floor or leaf.multiplier is not None or leaf.dead:
                raise _inexpressible(leaf, "after a switch")
            left = leaf.factor(count - 1)
            rate = rate.times(leaf.factor(count) / left if left else 1.0)
        stretch.rate = rate
    if len(who) > 1:
        return begin, _all_together(stretch, ticks)
    if k:
        raise _inexpressible(lead.leaf, "begun in the middle")
    assert lead.leaf.factor is not None
    rate = stretch.rate.times(1.0 / lead.leaf.factor(0))
    return begin, lead.leaf.phases(_At(ticks, begin, rate, lead.base, stop))


def _written_anew(stretch: _Stretch, ticks: _Ticks) -> list[_Phase]:
    """The phases of a scheduler that writes its rate whatever it finds, and of those that are stepped after it."""
    begin, ((lead, k), *later) = stretch.begin, stretch.who
    phases = lead.leaf.phases(_At(ticks, begin - k, OWN, lead.base, stretch.end))
    if lead.leaf.counts:  # SWALR that has arrived
        phases = phases[-1:]
    elif k:
        if begin < k:
            raise _inexpressible(lead.leaf, "begun in the middle")
        phases = [_over(_inner(phases, stretch, ticks), begin - k, ticks)]
    first = lead.base if lead.leaf.from_base else lead.leaf.first
    for one, _ in later:
        first = None if first is None else one.leaf.opened("made", first, one.base)
    if begin == 0 and stretch.rate not in (None, first):  # another constructor had the last word
        if later or stretch.rate is None:
            raise _inexpressible(lead.leaf, "made before one that sets the rate")
        rest = phases if lead.leaf.counts else [_over(_inner(phases, stretch, ticks), begin, ticks)]
        phases = [_constant(stretch.rate, Fraction(1)), *rest]
        if stretch.end == 2:  # what goes on from here takes the value after the jump
            phases = [_Phase(single(_written(phases, 0, ticks)), jumps=True, stairs=all(p.stairs for p in phases))]
    return [_times(phases, later, stretch, ticks)] if later else phases


def _going_on(
    stretch: _Stretch, before: _Stretch | None, earlier: Sequence[_Phase], ticks: _Ticks
) -> tuple[Fraction, list[_Phase]]:
    """A scheduler that takes over from the rate that it finds: SWALR, and MultiplicativeLR at a milestone."""
    (one, k), *others = stretch.who
    leaf, begin = one.leaf, stretch.begin
    reset = stretch.calls.get(id(one)) == "reset"
    if others or before is None or k != (0 if reset else 1):
        raise _inexpressible(leaf, "together with others")
    lone = begin - 1 == before.begin
    if lone and before.rate is None:
        raise _inexpressible(leaf, f"right after {before.who[0][0].leaf.name}")
    found: Level = before.rate.level() if lone and before.rate is not None else _left(earlier, begin - 1)
    held = [_Phase(Constant(found), begin, stairs=True)]
    phases = leaf.phases(_At(ticks, begin if reset else begin - 1, OWN, one.base, stretch.end))
    if leaf.multiplier is None:
        first = dataclasses.replace(phases[0].schedule, start="previous" if reset else found)  # type: ignore[call-arg]
        phases[0] = dataclasses.replace(phases[0], schedule=first)
        return begin - 1, [*(held if reset else ()), *phases]
    if not reset:
        raise _inexpressible(leaf, "taking over")
    start = leaf.opened("reset", OWN, OWN).own
    factor = dataclasses.replace(phases[0].schedule, start=start)  # type: ignore[call-arg]
    return begin - 1, [*held, _Phase(Product((HOLD, factor)), stairs=True)]


def _left(phases: Sequence[_Phase], begin: Fraction) -> Level:
    """The value that phases have at a call: what they left, or what the one has that just then begins."""
    for phase, following in zip(phases, phases[1:]):
        if phase.end == begin and isinstance(following.schedule, Constant):
            return following.schedule.value
    return "previous"


def _over(phases: Sequence[_Phase], begin: Fraction, ticks: _Ticks) -> _Phase:
    """Phases that began earlier than the stretch that they are used in."""
    of = simple(_written(phases, begin, ticks))
    jumps, stairs = any(phase.jumps for phase in phases), all(phase.stairs for phase in phases)
    return _Phase(Over(of, begin=ticks.text(begin)), jumps=jumps, stairs=stairs)


def _times(first: list[_Phase], later: Sequence[tuple[_Single, int]], stretch: _Stretch, ticks: _Ticks) -> _Phase:
    """A rate that is written anew at every call, times what the schedulers after it do in one call."""
    factors: list[Phases] = [simple(_written(_inner(first, stretch, ticks), stretch.begin, ticks))]
    for one, _ in later:
        odd = stretch.calls.get(id(one)) not in ("made", "initial")
        if one.leaf.moves is None or stretch.begin or odd:
            what = f"after {stretch.who[0][0].leaf.name}, which writes the rate anew at every call of step()"
            raise _inexpressible(one.leaf, what)
        factors.append(simple(_written(_inner(one.leaf.moves(ticks), stretch, ticks), 0, ticks)))
    return _Phase(Product(factors), jumps=True, stairs=all(phase.stairs for phase in first))


def _all_together(stretch: _Stretch, ticks: _Ticks) -> list[_Phase]:
    """Several recursive schedulers: a product of their factors, or a chain where one has a floor above 0."""
    begin, found = stretch.begin, stretch.rate
    assert found is not None
    who, factors = [], []
    for one, k in stretch.who:
        leaf = one.leaf
        if leaf.factor is None or (leaf.multiplier is not None and k) or (leaf.dead and begin):
            raise _inexpressible(leaf, "together with others that switch")
        factor = leaf.factor(k)
        if factor == 0 and leaf.turns is not None:
            raise _inexpressible(leaf, "together with others that switch")
        if factor or len(stretch.who) == 1:  # LinearLR and PolynomialLR at 0 move nothing any more
            who.append((one, k))
            factors.append(factor)
    if not who or found == _Rate():
        for one, _ in stretch.who:
            if one.leaf.floor or one.leaf.turns is not None:
                raise _inexpressible(one.leaf, "from a rate of 0, together with others")
        return [_constant(found)]
    stretch = dataclasses.replace(stretch, who=who)
    rate = found.times(1.0 / math.prod(factors))
    if _needs_chain(stretch, rate, ticks):
        if begin or any(k for _, k in who) or rate != OWN:
            floored = next((one for one, _ in who if one.leaf.floor), who[0][0])
            raise _inexpressible(floored.leaf, "together with others that switch")
        if dead := [one for one, _ in who if one.leaf.dead]:
            raise _inexpressible(dead[0].leaf, "with gamma 0, beside one that rises again")
        links: list[Phases] = []
        jumps = False
        for one, _ in who:
            phases = one.leaf.phases(_At(ticks, begin, OWN, OWN, stretch.end))
            jumps = jumps or _jumps(phases, stretch)
            link = simple(_written(_inner(phases, stretch, ticks), begin, ticks))
            stairs = all(phase.stairs for phase in phases) or not ticks.stairs
            links.append(link if stairs else Staircase(link, every=ticks.text(1)))
        floors = [absolute(one.leaf.floor) for one, _ in who]
        return [_Phase(Chain(links, floors=floors if any(floors) else ()), jumps=jumps, stairs=True)]
    parts: list[Phases] = []
    stairs, jumps = True, False
    for i, (one, k) in enumerate(who):
        own = rate if i == 0 else OWN
        if begin < k:
            raise _inexpressible(one.leaf, "begun in the middle")
        phases = one.leaf.phases(_At(ticks, begin - k, own, own, stretch.end))
        if len(who) == 1 and k == 0:
            return phases
        stairs = stairs and all(phase.stairs for phase in phases)
        jumps = jumps or _jumps(phases, stretch)
        phases = _inner(phases, stretch, ticks)
        parts.append(_over(phases, begin - k, ticks).schedule if k else simple(_written(phases, begin, ticks)))
    whole = Product(parts) if len(parts) > 1 else single(parts[0])
    return [_Phase(whole, jumps=jumps, stairs=stairs)]


def _inner(phases: Sequence[_Phase], stretch: _Stretch, ticks: _Ticks) -> list[_Phase]:
    """Phases that stand inside one that ends with a stretch: none is left that takes its form from its end."""
    inner = _cut(phases, stretch.end, ticks)
    if inner[-1].form is not None or not inner[-1].shaped:
        inner[-1] = dataclasses.replace(inner[-1], end=None)
    return inner


def _jumps(phases: Sequence[_Phase], stretch: _Stretch) -> bool:
    last = None if stretch.end is None else stretch.end - 1
    return last is not None and any(phase.jumps or phase.end == last for phase in phases)


def _needs_chain(stretch: _Stretch, rate: _Rate, ticks: _Ticks) -> bool:
    """Whether a schedule decays to more than 0, or leaves its 0 again so that what the others did is forgotten."""
    for one, k in stretch.who:
        leaf = one.leaf
        if leaf.floor:
            return True
        if leaf.turns is None or leaf.turns.denominator != 1:
            continue
        turn = stretch.begin + leaf.turns - k
        ends = [end for end in (ticks.total, stretch.end) if end is not None]
        others = [(other, count) for other, count in stretch.who if other is not one]
        if ends and min(ends) <= turn + 1:
            continue
        if rate != OWN:
            return True
        for other, count in others:
            factor = other.leaf.factor
            assert factor is not None
            if factor(count + int(turn - stretch.begin)) != 1 or not _settled(other.leaf, count + int(turn)):
                return True
    return False


def _settled(leaf: _Leaf, k: int) -> bool:
    """Whether a scheduler no longer moves the rate."""
    return leaf.name in ("LinearLR", "ConstantLR") and leaf.factor is not None and leaf.factor(k) == leaf.factor(10**9)


def _inexpressible(leaf: _Leaf, how: str) -> SolverError:
    what = f"{leaf.name} {how}: what torch does there is not written as a schedule"
    return SolverError(leaf.where, what, got=leaf.name, do="leave it out, or write the schedule as it is meant")


# ------------------------------------------------------------------ the whole, for one group


def _one_group(given: _Given, group: int) -> tuple[dict[str, Phases], dict[str, int]]:
    """The schedules of one group, and the lengths of the lists that have one entry for each group, by their paths."""
    sizes: dict[str, int] = {}
    optimizers: dict[str, str] = {}
    shared: dict[str, Any] = {}

    def leaf(call: Call, where: str) -> _Args:
        args = _Args(call, where, group, given, sizes, shared)
        if isinstance(args.optimizer, Name):
            optimizers[args.optimizer.text] = where
        elif isinstance(args.optimizer, (int, float, list)):
            raise SolverError(where, "has no optimizer", got=repr(args.optimizer), do="write it as torch has it")
        return args

    def node(call: Call, where: str) -> _Node:
        if call.name in _COMPOSITES:
            return _composite(call, where, leaf(call, where), node, given)
        if call.name not in _KINDS:
            do = suggestion(call.name, [*_KINDS, *_COMPOSITES], "schedulers")
            raise SolverError(where, "is not a scheduler of torch", got=call.name, do=do)
        args = leaf(call, where)
        kind = _KINDS[call.name]
        assert kind is not None
        made = _Single(kind(args))
        args.settings.rest()
        return made

    plateaus = [
        _plateau_of(entry, leaf(entry.call, entry.where), given)
        for entry in given.entries
        if entry.call.name == "ReduceLROnPlateau"
    ]
    entries = [entry for entry in given.entries if entry.call.name != "ReduceLROnPlateau"]
    by_ticks: dict[tuple[str, int], list[tuple[_Entry, _Node]]] = {}
    for entry in entries:
        made = node(entry.call, entry.where)
        by_ticks.setdefault(_ticks_of(entry, given), []).append((entry, made))
    if len(optimizers) > 1:
        got = " and ".join(optimizers)
        raise SolverError("config", "has schedulers of several optimisers", got=got, do="import those of one at a time")
    return _joined(by_ticks, plateaus, given), sizes


def _composite(call: Call, where: str, args: _Args, node: Callable[[Call, str], _Node], given: _Given) -> _Node:
    schedulers = args.needed("schedulers")
    path = args.path("schedulers")
    if isinstance(schedulers, (str, Mapping)):
        schedulers = [schedulers]
    if not isinstance(schedulers, (list, tuple)) or not schedulers:
        raise SolverError(path, "must be a list of schedulers", got=repr(schedulers)[:80], do="give at least one")
    nodes = []
    for i, item in enumerate(schedulers):
        inner = item if isinstance(item, Call) else given._call(item, f"{path}[{i}]")
        if inner.name == "ReduceLROnPlateau":
            do = "step it beside the others"
            raise SolverError(f"{path}[{i}]", f"torch's {call.name} takes no ReduceLROnPlateau", got=inner.name, do=do)
        nodes.append(node(inner, f"{path}[{i}]"))
    if call.name == "ChainedScheduler":
        args.settings.rest()
        return _Together(nodes, where)
    path = args.path("milestones")
    milestones = args.needed("milestones")
    if not isinstance(milestones, (list, tuple)) or len(milestones) != len(nodes) - 1:
        got = f"{milestones!r} for {len(nodes)} schedulers"
        raise SolverError(path, "must have one entry less than there are schedulers", got=got, do="correct it")
    points = [_whole(point, f"{path}[{i}]") for i, point in enumerate(milestones)]
    if points != sorted(points):
        raise SolverError(path, "must grow", got=repr(milestones), do="sort them")
    args.settings.rest()
    return _OneByOne(nodes, points, where)


def _plateau_of(entry: _Entry, args: _Args, given: _Given) -> Plateau:
    if entry.frequency != 1:
        do = "follow the metric every time that it is logged"
        raise SolverError(f"{entry.where}.frequency", "has no counterpart here", got=str(entry.frequency), do=do)
    monitor = entry.monitor or args._raw.get("monitor")
    args.settings.ignore("monitor")
    if monitor is None:
        metrics = given.facts.get("metrics")
        named = list(metrics) if isinstance(metrics, Mapping) else []
        monitor = named[0] if len(named) == 1 else "val_loss"
        given.notes.say(entry.where, f"the metric is taken to be logged as {monitor}: torch knows no names")
    plateau = _plateau(args, str(monitor))
    args.settings.rest()
    return plateau


def _ticks_of(entry: _Entry, given: _Given) -> tuple[str, int]:
    """When ``step()`` is called: the unit, and how many of it lie between two calls."""
    if entry.interval is not None:
        return ("ep" if entry.interval == "epoch" else "st"), entry.frequency
    said = given.step_on or given.facts.get("step_on")
    if said is None and given.step_call is not None and given.step_call[0] == "fraction":
        said = "step"
    names = {entry.call.name, *(call.name for call in _inside(entry.call))}
    if said is None and names & {"OneCycleLR", "CyclicLR"}:
        said = "step"
    if said is None and given.swa_start is not None:
        given.notes.say("swa_start", "the schedulers are taken to be stepped once per epoch")
        said = "epoch"
    if said is None:
        given.facts.need("step_on", entry.where, "depends on whether step() is called per step or per epoch")
    if said not in ("step", "epoch"):
        raise SolverError("facts.step_on", "unknown value", got=repr(said), do="give step or epoch")
    return ("ep" if said == "epoch" else "st"), 1


def _joined(
    by_ticks: Mapping[tuple[str, int], list[tuple[_Entry, _Node]]], plateaus: Sequence[Plateau], given: _Given
) -> dict[str, Phases]:
    """The schedules of schedulers that are stepped together, also at different intervals and by a metric."""
    steps, epochs = given.length_of_run()
    rates: list[Phases] = []
    schedules: dict[str, Phases] = {}
    for (unit, every), members in by_ticks.items():
        total = steps if unit == "st" else epochs
        ticks = _Ticks(every, unit, None if total is None else total / every)
        node = _loop(members, given)
        if given.step_call is not None:
            rate, momentum = _called_with(given.step_call, members, ticks, given)
        else:
            ticks = _with_horizon(node, ticks, given)
            rate, momentum = (_native(phases, ticks) for phases in _course(_loop(members, given), ticks))
        if len(by_ticks) > 1 or plateaus:
            _check_factor(_loop(members, given), ticks, plateaus)
        rates.append(rate)
        if momentum:
            schedules["momentum"] = momentum
    parts = [*plateaus, *rates]
    return {"lr": parts[0] if len(parts) == 1 else Product(parts), **schedules}


def _loop(members: Sequence[tuple[_Entry, _Node]], given: _Given) -> _Together | _Switch:
    """What a training loop steps, with fresh counters."""
    nodes = [(_fresh(node), entry.call.name == "SWALR") for entry, node in members]
    if given.swa_start is None:
        return _Together([node for node, _ in nodes])
    if not any(swa for _, swa in nodes):
        raise SolverError("swa_start", "needs a SWALR", got=str(given.swa_start), do="add it, or leave swa_start out")
    return _Switch(nodes, given.swa_start)


def _fresh(node: _Node) -> _Node:
    if isinstance(node, _Single):
        return _Single(node.leaf)
    if isinstance(node, _Together):
        return _Together([_fresh(inner) for inner in node.of], node.where)
    return _OneByOne([_fresh(inner) for inner in node.of], node.milestones, node.where)


def _native(phases: Sequence[_Phase], ticks: _Ticks) -> Phases:
    written = _written(phases, 0, ticks)
    if ticks.stairs and not all(phase.stairs for phase in phases[: len(written)]):
        return Staircase(simple(written), every=ticks.text(1))
    return simple(written) if written else ()


def _with_horizon(node: _Together | _Switch, ticks: _Ticks, given: _Given) -> _Ticks:
    """Where nothing says how long the run is, it is as long as its last schedulers are made for."""
    last = _stretches(node, ticks)[0][-1]
    ends = [(last.begin - k + one.leaf.horizon, one.leaf) for one, k in last.who if one.leaf.horizon is not None]
    if not ends:
        return ticks
    end, leaf = max(ends, key=lambda pair: pair[0])
    if ticks.total is None:
        ticks = dataclasses.replace(ticks, total=end)
    if ticks.total == end:
        steps = end * ticks.every
        name = "max_epochs" if ticks.unit == "ep" else "max_steps"
        unit = "epochs" if ticks.unit == "ep" else "steps"
        what = f"is made for {float(steps):g} {unit}: Trainer({name}={float(steps):g})"
        given.notes.say(f"{leaf.where}.{leaf.horizon_name}", what)
    return ticks


def _check_factor(node: _Together | _Switch, ticks: _Ticks, plateaus: Sequence[Plateau]) -> None:
    """Refuse what does not act as a factor onto other schedules."""
    stretches = _merged(_stretches(node, ticks)[0])
    for stretch in stretches:
        for one, k in stretch.who:
            leaf = one.leaf
            if stretch.closed or leaf.floor or (stretch.begin and stretch.calls.get(id(one)) == "reset"):
                raise _inexpressible(leaf, "beside schedulers that are stepped at other times or by a metric")
            turn = None if leaf.turns is None or leaf.turns.denominator != 1 else stretch.begin + leaf.turns - k
            if turn is not None and ticks.total is not None and ticks.total > turn + 1:
                raise _inexpressible(leaf, "past its T_max, beside schedulers that are stepped at other times")
            held = leaf.factor is not None and _settled(leaf, 10**9) and leaf.factor(10**9) == 1
            if any(plateau.min for plateau in plateaus) and not held:
                do = "set min_lr=0"
                what = f"min_lr beside {leaf.name}: torch compares it with the rate that both have made"
                raise SolverError(leaf.where, what, got=leaf.name, do=do)


def _called_with(
    argument: tuple[str, int], members: Sequence[tuple[_Entry, _Node]], ticks: _Ticks, given: _Given
) -> tuple[Phases, Phases]:
    """A scheduler that is told the epoch: ``scheduler.step(epoch + i / iters)``, ``scheduler.step(epoch)``."""
    kind, plus = argument
    entry, node = members[0]
    if len(members) > 1 or not isinstance(node, _Single) or node.leaf.counts or node.leaf.multiplier is not None:
        do = "step them by scheduler.step()"
        raise SolverError("step_call", "only a single scheduler with a closed form is read", got=entry.call.name, do=do)
    epochs = given.length_of_run()[1]
    by_step = ticks.unit == "st"
    if kind == "fraction" and not by_step:
        do = "call it after every step, or write scheduler.step()"
        raise SolverError("step_call", "gives a share of an epoch once per epoch", got=str(argument), do=do)
    if kind == "epoch" and plus and by_step:
        do = "call it once per epoch"
        raise SolverError("step_call", "gives epoch + 1 after every step", got="step_on: step", do=do)
    inner = _Ticks(1, "ep", epochs, told=True, smooth=kind == "fraction")
    inner = _with_horizon(_loop(members, given), inner, given)
    courses = _course(_loop(members, given), inner)
    if plus:
        rate, momentum = (_native(phases, inner) for phases in courses)
        return rate, momentum
    later = 1 if by_step else "1ep"
    given.notes.say(
        "step_call", f"tells the epoch that is over: the first two {'steps' if by_step else 'epochs'} are alike"
    )
    rate, momentum = (Shift(_native(phases, inner), later=later) if phases else () for phases in courses)
    return rate, momentum
