"""What every importer shares: what it returns, the notes that it takes, and how settings are read strictly."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from lightning_solver.durations import Duration, exact
from lightning_solver.errors import SolverError, nearest, suggestion
from lightning_solver.interop.reading import Call, Unread
from lightning_solver.schedules import Constant, Join, MultiStep, Schedule
from lightning_solver.schedules.base import Level
from lightning_solver.spec import SolverSpec

T = TypeVar("T")
Phases = Schedule | Sequence[Schedule]

FACTS = {
    "iters_per_epoch": "batches of an epoch",
    "epochs": "epochs of the run",
    "total_iters": "optimiser steps of the run",
    "total_batches": "batches of the run",
    "batches_per_step": "batches that make one optimiser step",
    "samples_per_iter": "samples of a batch, over all devices",
    "optimizer": "class of the optimiser",
    "optimizer_default_lr": "learning rate given to the optimiser itself",
    "base_lr": "learning rate of every group",
    "base_momentum": "momentum of every group",
    "base_weight_decay": "weight decay of every group",
    "lr_scale": "lr_scale of every group",
    "metrics": "values of a metric",
    "runner": "class of the runner (mmcv)",
    "train_loop": "by_epoch or by_iter (mmengine)",
    "step_on": "step or epoch: when scheduler.step() is called (torch)",
    "where": "what the share of training means (fvcore)",
    "first_update": "steps at the start after which an average is not updated (torch)",
    "no_weight_decay": "names that the model's no_weight_decay() lists (timm)",
    "functions": "text of a Python function in the config -> the function, or its dotted path",
}
"""What a config leaves to its surroundings, by name."""


_LENGTHS = {"iters_per_epoch", "epochs", "total_iters", "total_batches", "batches_per_step", "samples_per_iter"}


@dataclass(frozen=True)
class Imported:
    """A config read as a spec.

    Args:
        spec: The spec. It allows what the peer allows: phases beyond the run, rules that select nothing.
        notes: What a reader should know: keys that are not mapped, what the peer does oddly, what was converted.
        unmapped: Paths of the keys that are not mapped; each has its note.
    """

    spec: SolverSpec
    notes: tuple[str, ...] = ()
    unmapped: tuple[str, ...] = ()


class Notes:
    """Collects what there is to say about an import."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        self._unmapped: dict[str, None] = {}

    def say(self, where: str, what: str) -> None:
        """Note something that a reader should know."""
        self._notes[f"{where}: {what}"] = None

    def unmapped(self, where: str, what: str = "is not mapped") -> None:
        """Note a key that has no counterpart here."""
        self._unmapped[where] = None
        self.say(where, what)

    def unknown(self, where: str, key: str, owner: str, known: Iterable[str]) -> None:
        """Note an argument that the peer itself does not know and would refuse."""
        self.unmapped(where, f"is not mapped: {owner} has no such argument; {suggestion(key, known, 'arguments')}")

    def imported(self, spec: SolverSpec, strict: bool) -> Imported:
        """The result, or an error where ``strict`` is asked for and a key is not mapped."""
        unmapped = tuple(self._unmapped)
        if strict and unmapped:
            do = "take it out of the config, or import with strict=False and read the notes"
            got = f"{len(unmapped)} such keys: {', '.join(unmapped)}"
            raise SolverError(unmapped[0], "is not mapped", got=got, do=do)
        return Imported(spec, tuple(self._notes), unmapped)


class Facts:
    """What a config leaves to its surroundings.

    Args:
        given: Name -> value; see :data:`FACTS`.
        notes: Takes a note of names that are not known.
    """

    def __init__(self, given: Mapping[str, Any] | None, notes: Notes) -> None:
        self._given = dict(given or {})
        for name in _LENGTHS & self._given.keys():
            value = self._given[name]
            number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise SolverError(f"facts.{name}", "must be a number > 0", got=repr(value), do=f"give {FACTS[name]}")
        for name in self._given:
            if name not in FACTS:
                close = nearest(str(name), FACTS)
                notes.say(f"facts.{name}", f"is not used{f'; did you mean {close[0]}?' if close else ''}")

    def get(self, name: str) -> Any:
        """A fact, or ``None`` where it is not given."""
        assert name in FACTS
        return self._given.get(name)

    def need(self, name: str, where: str, why: str) -> Any:
        """A fact without which the config has no meaning.

        Raises:
            SolverError: It is not given.
        """
        value = self.get(name)
        if value is None:
            do = f"give facts={{{name!r}: ...}} ({FACTS[name]})"
            raise SolverError(where, f"{why}, which the config does not say", do=do)
        return value


class Settings:
    """A mapping of a foreign config that is read key by key; what is left over is noted.

    Args:
        data: The mapping.
        where: Its path, for messages.
        notes: Takes what is left over.
    """

    def __init__(self, data: Any, where: str, notes: Notes) -> None:
        if not isinstance(data, Mapping):
            raise SolverError(where, "must be a mapping", got=repr(data)[:120], do="write key: value")
        self._data = {str(key): value for key, value in data.items()}
        self._read: set[str] = set()
        self.where, self.notes = where, notes

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def path(self, key: str) -> str:
        """Path of a key, for messages."""
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, as it is."""
        self._read.add(key)
        value = self._data.get(key, default)
        if isinstance(value, Unread):
            do = "hand over the value itself; Python text is read for literals and calls only"
            raise SolverError(self.path(key), "is not a literal", got=value.text, do=do)
        return value

    def number(self, key: str, default: float | None = None, *, low: float | None = None) -> Any:
        """A number, at least ``low``; ``None`` where the key is missing or says so and there is no default."""
        value = self.take(key, default)
        if value is None:
            return default
        if isinstance(value, str):  # YAML reads 1e-3 as a text
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SolverError(self.path(key), "must be a number", got=repr(value), do="correct it")
        if low is not None and value < low:
            raise SolverError(self.path(key), f"must be at least {low:g}", got=repr(value), do="correct it")
        return value

    def needed(self, key: str) -> Any:
        """The value of a key that the peer asks for."""
        if self._data.get(key) is None:
            close = nearest(key, self._data)
            do = f"rename {close[0]}" if close and close[0] not in self._read else f"add {key}"
            raise SolverError(self.path(key), "is missing", got=f"keys {', '.join(self._data)}", do=do)
        return self.take(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise SolverError(self.path(key), "must be true or false", got=repr(value), do="correct it")
        return value

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """One of some words."""
        value, known = self.take(key, default), list(choices)
        if value not in known:
            do = suggestion(str(value), known, "values")
            raise SolverError(self.path(key), "unknown value", got=repr(value), do=do)
        return str(value)

    def ignore(self, *keys: str) -> None:
        """Mark keys that change nothing as read."""
        self._read.update(keys)

    def rest(self, why: Callable[[str], str | None] | None = None, known: Iterable[str] = ()) -> None:
        """Note every key that nobody read.

        Args:
            why: What to say about a key; by default that it is not mapped, with the nearest of ``known``.
            known: Keys that the peer knows.
        """
        names = [*known, *self._read]
        for key in self._data:
            if key not in self._read:
                close = nearest(key, names, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.notes.unmapped(self.path(key), (why(key) if why is not None else None) or f"is not mapped{hint}")


# ------------------------------------------------------------------ durations and levels as texts


def length(value: Any, unit: str = "st") -> int | str:
    """A number of something as a duration: ``length(5, "ep")`` is ``5ep``, ``length(100)`` is ``100``.

    Example:
        >>> length(5, "ep"), length(100), length(2.5), length(Fraction(25, 3))
        ('5ep', 100, '2.5st', '25/3st')
    """
    number = exact(value)
    if unit == "st" and number.denominator == 1:
        return int(number)
    return str(Duration(((number, unit),)))  # type: ignore[arg-type]


def absolute(value: float) -> Level:
    """A value that is the same for every group; 0 is simply 0."""
    return {"absolute": float(value)} if value else 0.0


def simple(phases: Sequence[Schedule]) -> Phases:
    """A list of phases, or the schedule itself where there is one."""
    return phases[0] if len(phases) == 1 else tuple(phases)


def single(phases: Phases) -> Schedule:
    """One schedule, a :class:`Join` where there are several phases."""
    if isinstance(phases, Schedule):
        return phases
    return phases[0] if len(phases) == 1 else Join(tuple(phases))


HOLD = Constant("previous")
"""The last phase where a peer keeps what was reached."""


def drops(points: Sequence[int | float], gamma: float, unit: str) -> Phases:
    """A drop by ``gamma`` at each of some points in order; a point may come twice, or be 0.

    Example:
        >>> drops([5, 8], 0.5, "ep")
        MultiStep(at=('5ep', '8ep'), gamma=0.5, start=1.0, until=None)
        >>> drops([5, 5], 0.5, "st")
        (Constant(value=1.0, until=5), Constant(value=0.25, until=None))
    """
    if not points:
        return Constant()
    later = sorted({point for point in points if point > 0})[: None if gamma > 0 else 1]
    if gamma > 0 and len(later) == len(points):
        return MultiStep([length(point, unit) for point in later], gamma=gamma)
    values = [gamma ** sum(point < end for point in points) for end in [*later, math.inf]]
    ends = [*(length(point, unit) for point in later), None]
    return simple([Constant(value, until=end) for value, end in zip(values, ends)])


def imported_spec(schedules: Mapping[str, Phases], **settings: Any) -> SolverSpec:
    """A spec that allows what peers allow."""
    return SolverSpec(schedules=dict(schedules), default_rules=False, beyond_run="allow", **settings)


def refuse_other_peers(config: Mapping[str, Any], own: str, where: str = "config") -> None:
    """Refuse a config that has the marks of another peer.

    Args:
        config: The config.
        own: The importer, such as ``from_mmcv``.
        where: Its path.

    Raises:
        SolverError: A key that another peer's configs have, and none of this one's.
    """
    if any(mark in config for mark in _MARKS.get(own, ())):
        return
    if "SOLVER" in config and own not in ("from_detectron2", "from_pet"):
        do = "use interop.from_detectron2, or interop.from_pet"
        raise SolverError(where, f"is not for {own}: SOLVER is a key of other systems", got="SOLVER", do=do)
    for importer, marks in _MARKS.items():
        found = [mark for mark in marks if mark in config and not isinstance(config[mark], Call)]
        if found and importer != own:
            do = f"use interop.{importer}"
            raise SolverError(where, f"is not for {own}: {found[0]} is a key of another system", got=found[0], do=do)


_MARKS: dict[str, tuple[str, ...]] = {
    "from_mmcv": ("lr_config", "momentum_config", "optimizer_config"),
    "from_mmengine": ("param_scheduler", "optim_wrapper", "train_cfg"),
    "from_detectron2": ("lr_multiplier",),
    "from_timm": ("create_scheduler_v2", "sched", "sched_on_updates"),
    "from_transformers": ("TrainingArguments", "get_scheduler", "lr_scheduler_type", "lr_scheduler_kwargs"),
    "from_composer": ("max_duration", "scale_schedule_ratio"),
}
"""Keys by which a config is recognised; ``SOLVER`` is in both Pet's and detectron2's."""


def batches_to_steps(schedules: dict[str, Phases], per_step: Any, notes: Notes, where: str) -> dict[str, Phases]:
    """Schedules of a peer that moves them with every batch, where several batches make one optimiser step.

    Step ``i`` is made after batch ``(i + 1) * per_step - 1``, by the value of that batch.
    """
    from lightning_solver.schedules import Scale, Shift

    by = exact(per_step or 1)
    if by == 1:
        return schedules
    notes.say(where, f"the schedules count batches, of which {by} make one optimiser step: they are read accordingly")
    scaled: dict[str, Phases] = {}
    for option, phases in schedules.items():
        shifted = Shift(phases, earlier=length(by - 1))
        scaled[option] = Scale(shifted, by=int(by) if by.denominator == 1 else str(by))
    return scaled
