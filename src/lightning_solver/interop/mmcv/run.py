"""What an MMCV config and the facts say of the run: its runner, its length, the batches of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import HOLD, Facts, Notes, Phases, Settings, single
from lightning_solver.schedules import Over, Staircase


@dataclass(frozen=True)
class Run:
    """What is known of the run: epochs, batches (MMCV's iterations), and whether its runner counts epochs."""

    by_epochs: bool
    epochs: int | None
    batches: int | None
    last_is_short: bool
    optimizer: str | None

    def total(self, unit: str) -> int | None:
        """Its length in epochs or in batches, where it is known."""
        return self.epochs if unit == "ep" else self.batches

    def whole_share(self, share: Fraction, unit: str) -> bool:
        """Whether a share of the run is surely a whole number of iterations, or of epochs."""
        known = self.total(unit)
        if known is None and unit == "st":
            known = self.epochs  # a whole number of epochs is one of iterations
        return share in (0, 1) or (known is not None and (share * known).denominator == 1)


def read_run(settings: Settings, facts: Facts, per_step: Any, notes: Notes) -> Run:
    """What the runner's settings and the facts say of the run."""
    runner = Settings(settings.take("runner") or {}, "runner", notes)
    lengths = {"ep": (settings, "total_epochs"), "st": (settings, "total_iters")}
    lengths |= {unit: (runner, key) for unit, key in (("ep", "max_epochs"), ("st", "max_iters")) if key in runner}
    said = {unit: _whole(place, key) for unit, (place, key) in lengths.items()}
    given = [key for key in ("max_epochs", "max_iters") if runner.take(key) is not None]
    if len(given) == 2:
        raise SolverError("runner.max_iters", "is given beside max_epochs", got=str(said["st"]), do="give one of them")
    default = "IterBasedRunner" if said["st"] is not None and said["ep"] is None else "EpochBasedRunner"
    name = str(runner.take("type", default))
    name = str(facts.get("runner") or name)
    by_epochs = "Iter" not in name
    if by_epochs and "Epoch" not in name and name != "Runner":
        do = suggestion(name, ("EpochBasedRunner", "IterBasedRunner"))
        raise SolverError("runner.type", "is not known", got=name, do=do)
    if given == ["max_iters" if by_epochs else "max_epochs"]:
        do = f"give {'max_epochs' if by_epochs else 'max_iters'}"
        raise SolverError(f"runner.{given[0]}", f"is not what {name} counts", got=repr(runner.take(given[0])), do=do)
    runner.rest()

    per_epoch, steps, batches = (facts.get(key) for key in ("iters_per_epoch", "total_iters", "total_batches"))
    epochs, counted = None, said["st"]
    if by_epochs:
        epochs, known = facts.get("epochs"), batches
        if known is None and steps is not None:
            known = steps * per_step
        if epochs is None and known is not None and per_epoch and exact(known) % exact(per_epoch) == 0:
            epochs = exact(known) / exact(per_epoch)
        epochs = _agreed(said["ep"], epochs, lengths["ep"], "epochs", f"max_epochs={said['ep']}", notes)
        counted = None if epochs is None or per_epoch is None else int(epochs * per_epoch)
    if batches is None and steps is not None:
        fits = counted is not None and math.ceil(counted / exact(per_step)) == steps
        batches = counted if fits else steps * per_step
    if by_epochs:
        batches = counted if batches is None else batches
    else:
        trainer = f"max_steps={math.ceil((said['st'] or 0) / exact(per_step))}"
        batches = _agreed(said["st"], batches, lengths["st"], "iterations", trainer, notes)
    total = None if batches is None else int(batches)
    optimizer = settings.take("optimizer")
    optimizer_class = facts.get("optimizer") or (optimizer.get("type") if isinstance(optimizer, Mapping) else None)
    short = (total or 0) % exact(per_step) != 0
    return Run(by_epochs, None if epochs is None else int(epochs), total, short, optimizer_class)


def _whole(settings: Settings, key: str) -> int | None:
    value = settings.number(key)
    if value is not None and (value != int(value) or value < 1):
        raise SolverError(settings.path(key), "must be a whole number >= 1", got=repr(value), do="correct it")
    return None if value is None else int(value)


def _agreed(said: int | None, fact: Any, place: tuple[Settings, str], what: str, trainer: str, notes: Notes) -> Any:
    """The length that the facts give, or else the config."""
    path = place[0].path(place[1])
    if said is not None and fact in (None, said):
        notes.say(path, f"the schedules last as long as the run, which has {said} {what}: Trainer({trainer})")
    elif said is not None:
        notes.say(path, f"the facts say {fact} {what}, and the schedules last as long as the run, as in MMCV")
    return said if fact is None else fact


def to_last_step(phases: Phases, run: Run, per_step: int) -> Phases:
    """For a run whose last optimiser step has fewer batches: it is made by the value of the last batch."""
    assert run.batches is not None
    if run.batches == 1:
        return Staircase(Over(single(phases), end=1), every=per_step)
    return (Over(single(phases), end=run.batches, until=run.batches - 1), HOLD)
