"""A factor that drops where a metric no longer improves; the one part of a schedule that has a state."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from lightning_solver.errors import SolverError
from lightning_solver.schedules.base import Curve, Floats, Integers, Level, Schedule, Window, integers


@dataclass(frozen=True)
class Plateau(Schedule):
    """Drops by a factor when a metric has not improved for a while.

    By itself it holds ``start`` and lowers it; as a factor of a :class:`Product` it lowers any schedule, warm-up
    included. It looks at the metric once per validation that logged it.

    Args:
        monitor: Name of the metric, as it is logged.
        mode: ``min`` if less is better, ``max`` if more is.
        factor: Factor of a drop, between 0 and 1.
        patience: How many validations in a row may pass without an improvement; the next one drops.
        threshold: What counts as an improvement: more than this share of the best value, or than this difference.
        threshold_mode: ``rel`` for a share, ``abs`` for a difference.
        cooldown: For how many validations after a drop none is counted as bad.
        min: The lowest value; as a factor of a product, the lowest factor.
        eps: A drop that would change the value (or the factor) by no more than this is left out.
        start: Value before the first drop.
        until: Where the phase ends.

    Example:
        >>> from lightning_solver import SolverSpec
        >>> spec = SolverSpec(schedules={"lr": Plateau("val_loss", factor=0.5, patience=1)})
        >>> losses = [1.0, 0.9, 0.9, 0.9, 0.9]
        >>> spec.curve("lr", [0.1], total_steps=5, steps_per_epoch=1, metrics=losses)[:, 0].tolist()
        [0.1, 0.1, 0.1, 0.1, 0.05]
    """

    monitor: str
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min: Level = 0.0
    eps: float = 1e-8
    start: Level = 1.0
    until: int | str | None = None

    def check(self) -> None:
        super().check()
        if not 0 < self.factor < 1:
            raise self._error("factor", "must lie between 0 and 1", got=self.factor, do="correct it")
        for name in ("patience", "cooldown", "threshold", "eps"):
            if getattr(self, name) < 0:
                raise self._error(name, "must not be negative", got=getattr(self, name), do="correct it")

    def lay(self, window: Window) -> Curve:
        if window.feed is None:
            do = "put it beside: Product([Staircase(...), Plateau(...)])"
            what = "a schedule that follows a metric cannot stand inside one that changes positions"
            raise SolverError(window.where, what, got="Plateau", do=do)
        tracker = window.feed.tracker(self, window)
        start, low = window.levels(self.start, "start"), window.levels(self.min, "min")
        if min(start, default=0.0) < 0:
            raise SolverError(f"{window.where}.start", "is negative", got=f"{min(start):g}", do="give a value >= 0")
        return _Dropping(tracker, start, low, window.denominator)

    def better(self, value: float, best: float) -> bool:
        """Whether a value of the metric is an improvement."""
        sign = 1.0 if self.mode == "max" else -1.0
        if math.isinf(best):
            return sign * value > sign * best
        if self.threshold_mode == "abs":
            return sign * value > sign * best + self.threshold
        return sign * value > sign * best * (1.0 + sign * self.threshold)


@dataclass
class Tracker:
    """The state of one :class:`Plateau`.

    Args:
        plateau: What to do.
        begin: Step at which its phase begins; validations up to it do not count.
        best: Best value of the metric so far.
        bad: Validations in a row without improvement.
        cooldown: Validations for which none is counted as bad yet.
        drops: For every drop, the number of steps taken before it.
    """

    plateau: Plateau
    begin: Fraction
    best: float = math.nan
    bad: int = 0
    cooldown: int = 0
    drops: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if math.isnan(self.best):
            self.best = -math.inf if self.plateau.mode == "max" else math.inf

    def feed(self, step: int, value: float) -> bool:
        """Take the metric of a validation after ``step`` steps; whether there is a drop."""
        if step <= self.begin:
            return False
        if self.plateau.better(value, self.best):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.bad = 0
        if self.bad <= self.plateau.patience:
            return False
        self.drops.append(step)
        self.cooldown, self.bad = self.plateau.cooldown, 0
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "bad": self.bad, "cooldown": self.cooldown, "drops": list(self.drops)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        self.best, self.bad, self.cooldown = float(state["best"]), int(state["bad"]), int(state["cooldown"])
        self.drops[:] = [int(step) for step in state["drops"]]


class Feed:
    """The trackers of a curve, by the path of their schedule."""

    def __init__(self) -> None:
        self.trackers: dict[str, Tracker] = {}

    def tracker(self, plateau: Plateau, window: Window) -> Tracker:
        """The tracker of a schedule; one that is laid twice, or for several groups, has one."""
        known = self.trackers.get(window.where)
        if known is None or known.plateau != plateau:
            known = self.trackers[window.where] = Tracker(plateau, window.begin)
        return known

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: path -> state of its tracker."""
        return {where: tracker.state() for where, tracker in self.trackers.items()}

    def load(self, states: Mapping[str, Any]) -> dict[str, str]:
        """Take over what a checkpoint kept; path -> what could not be taken over."""
        lost = {}
        only = len(states) == len(self.trackers) == 1  # the one schedule may have moved
        for where, tracker in self.trackers.items():
            found = next(iter(states.values())) if only else states.get(where)
            if found is None:
                lost[where] = f"no state of a schedule that follows {tracker.plateau.monitor}: it starts afresh"
            else:
                tracker.load(found)
        if not only:
            lost.update({where: "its state is dropped" for where in states if where not in self.trackers})
        return lost

    @property
    def monitors(self) -> set[str]:
        """Names of the metrics that are followed."""
        return {tracker.plateau.monitor for tracker in self.trackers.values()}

    def take(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Take the metrics of a validation after ``step`` steps; the paths of the schedules that drop."""
        return [
            where
            for where, tracker in self.trackers.items()
            if tracker.plateau.monitor in metrics and tracker.feed(step, metrics[tracker.plateau.monitor])
        ]


@dataclass(frozen=True)
class _Dropping(Curve):
    tracker: Tracker
    start: tuple[float, ...]
    low: tuple[float, ...]
    denominator: int
    known: list[tuple[float, ...]] = field(default_factory=list)

    def at(self, position: int) -> list[float]:
        return list(self._after(bisect_right(self.tracker.drops, position // self.denominator)))

    def over(self, positions: Integers) -> Floats:
        which = np.searchsorted(integers(self.tracker.drops), positions // self.denominator, side="right")
        values = np.array([self._after(count) for count in range(len(self.tracker.drops) + 1)], dtype=np.float64)
        return np.asarray(values.reshape(-1, len(self.start))[which], dtype=np.float64)

    def _after(self, drops: int) -> tuple[float, ...]:
        """The values after a number of drops."""
        if not self.known:
            self.known.append(self.start)
        while len(self.known) <= drops:
            lowered = [max(value * self.tracker.plateau.factor, low) for value, low in zip(self.known[-1], self.low)]
            pairs = zip(self.known[-1], lowered)
            self.known.append(tuple(new if old - new > self.tracker.plateau.eps else old for old, new in pairs))
        return self.known[drops]
