"""What an MMEngine config and the facts say of the run: its loop, its length, the batches of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings, length
from lightning_solver.interop.mmengine.optimizer import several
from lightning_solver.interop.mmengine.point import END, Point, point_of
from lightning_solver.interop.openmmlab.optimizer import side_by_side
from lightning_solver.interop.reading import Name


@dataclass(frozen=True)
class Run:
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
    ends: Mapping[str, Point]
    last_is_short: bool

    def sign(self, point: Point) -> int | None:
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

    def ticks(self, point: Point, unit: str) -> Fraction | None:
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

    def told(self, point: Point) -> Point:
        """A point with the shares of the run worked out, as far as it is known."""
        if point.runs and self.epochs is not None:
            return Point(point.epochs + point.runs * self.epochs, point.batches)
        if point.runs and self.batches is not None:
            return Point(point.epochs, point.batches + point.runs * self.batches)
        return point

    def relative(self, point: Point) -> Point:
        """A point that is the end of the run is called so."""
        return END if point.runs == 0 and self.sign(END - point) == 0 else point

    def text(self, point: Point) -> int | str:
        """A point as a duration."""
        point = self.told(point) if self.last_is_short else point
        if self.last_is_short and self.batches == self.per_epoch and self.per_epoch is not None:
            # The one epoch of the run is no whole number of full steps, by which its length would be taken.
            point = Point(batches=point.epochs * self.per_epoch + point.batches)
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


_COUNT = ("epochs", "iters_per_epoch", "total_batches", "total_iters")


def read_per_step(settings: Settings, facts: Facts) -> Any:
    """How many batches make an optimiser step."""
    config, fact = settings.take("optim_wrapper"), facts.get("batches_per_step")
    if config is None:
        return fact or 1
    if several(config):
        inner = {str(key): value for key, value in config.items() if isinstance(value, Mapping)}
        counts = {int(value.get("accumulative_counts", 1)) for value in inner.values()}
        what = (
            "has several optimisers, which is for manual optimisation: the schedules are those of each of them; import"
        )
        settings.notes.unmapped(
            "optim_wrapper",
            f"{what} {', '.join(inner)} one by one for the optimiser and its groups, each as the optim_wrapper of a "
            f"config of its own; {side_by_side(inner)}",
        )
        if len(counts) > 1:
            do = "import them one by one"
            raise SolverError("optim_wrapper", "accumulates differently by optimiser", got=str(sorted(counts)), do=do)
        (count,) = counts
        if any("accumulative_counts" in value for value in inner.values()) and fact not in (None, count):
            got = f"{count}, and facts.batches_per_step {fact}"
            raise SolverError("optim_wrapper", "contradicts the facts", got=got, do="leave one of them out")
        return fact or count
    wrapper = Settings(config, "optim_wrapper", settings.notes)
    count = wrapper.number("accumulative_counts")
    if count is not None and (count != int(count) or count < 1):
        where = wrapper.path("accumulative_counts")
        raise SolverError(where, "must be a whole number >= 1", got=repr(count), do="correct it")
    if count is not None and fact not in (None, count):
        got = f"{count}, and facts.batches_per_step {fact}"
        do = "leave one of them out"
        raise SolverError(wrapper.path("accumulative_counts"), "contradicts the facts", got=got, do=do)
    return (fact or 1) if count is None else int(count)


def accumulated(settings: Settings) -> str | None:
    """The path of the number of batches that make a step, where a config gives it.

    Args:
        settings: The whole config.
    """
    config = settings.take("optim_wrapper")
    if not isinstance(config, Mapping):
        return None
    if several(config):
        inner = [str(key) for key, value in config.items() if isinstance(value, Mapping)]
        given = [key for key in inner if "accumulative_counts" in config[key]]
        return f"optim_wrapper.{given[0]}.accumulative_counts" if given else None
    return "optim_wrapper.accumulative_counts" if config.get("accumulative_counts") is not None else None


_LOOPS = ("EpochBasedTrainLoop", "IterBasedTrainLoop")


def read_run(settings: Settings, facts: Facts, per_step: Any, notes: Notes) -> Run:
    """What a config and the facts say of the run."""
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
    ends = {"ep": END, "st": END} if by_epochs else {"ep": Point(epochs=Fraction(1)), "st": END}
    if said is not None and told not in (None, said):
        ends[unit] = point_of(exact(said), unit)
        ends["st"] = ends[unit]
        got = f"{told} {'epochs' if by_epochs else 'iterations'}"
        notes.say(loop.path(key), f"the facts say {got}: the schedules are those of {said}, and then stay as they are")
    elif said is not None:
        trainer = (
            f"Trainer(max_epochs={said})" if by_epochs else f"Trainer(max_steps={math.ceil(said / exact(per_step))})"
        )
        notes.say(loop.path(key), f"the schedules are made for a run of this length: {trainer}")
    short = batches is not None and batches % exact(per_step) != 0
    return Run(by_epochs, epochs, batches, per_epoch, ends, short)


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
