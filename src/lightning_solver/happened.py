"""What really happened in a run, as a CSVLogger has written it, beside what its plan says."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_solver.clipping.kinds import ZClip
from lightning_solver.errors import SolverError
from lightning_solver.monitoring.series import safe, unique
from lightning_solver.plain import FrozenDict
from lightning_solver.schedules.base import Floats, Integers
from lightning_solver.several import ALONE

if TYPE_CHECKING:
    from lightning_solver.plan import Plan

LIMIT = "clip_limit"
"""The column of the limit of clipping."""

SHARE = "clip_share"
"""The column of the share of what clipping looks at that it cut."""

GRADIENTS = ("grad_norm", "grad_norm_clipped", LIMIT, SHARE)
"""What is logged of gradients: their norm before and after clipping, the limit, the share that was clipped."""

_OPTIONS = ("lr", "weight_decay", "momentum", "beta2")
_NEAR = 1e-6  # what a logger may lose in single precision
_MOST = 12


@dataclass(frozen=True)
class Series:
    """What was logged under a name.

    Args:
        steps: The numbers of the optimiser steps (0-based), in order; each is there once.
        values: The value at each of them.
    """

    steps: Integers
    values: Floats


@dataclass(frozen=True)
class Log:
    """A file of a CSVLogger.

    Args:
        path: The file.
        cells: Name of a column -> line of the file, step and text of every cell that is not empty.
    """

    path: Path
    cells: Mapping[str, tuple[tuple[int, int, str], ...]]

    def series(self, name: str) -> Series:
        """A column; of a step that was logged twice, as after a resume, the later value.

        Args:
            name: The column.

        Raises:
            SolverError: A cell that is no number.
        """
        found: dict[int, float] = {}
        for line, step, text in self.cells[name]:
            found[step] = _number(text, self.path, line, name)
        steps = sorted(found)
        return Series(np.array(steps, dtype=np.int64), np.array([found[step] for step in steps]))


def read_log(path: str | Path) -> Log:
    """Read what a CSVLogger has written.

    Args:
        path: The file ``metrics.csv``.

    Raises:
        SolverError: It cannot be read, is no such file, or has no column ``step``.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no CSV"
        do = "give the metrics.csv that a CSVLogger has written"
        raise SolverError(str(path), f"cannot be read: {why}", do=do) from error
    head = rows[0] if rows else []
    if "step" not in head:
        do = "give the metrics.csv that a CSVLogger has written"
        raise SolverError(str(path), "has no column step", got=_some(head) or "an empty file", do=do)
    at = head.index("step")
    cells: dict[str, list[tuple[int, int, str]]] = {name: [] for name in head if name != "step"}
    for line, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head):
            got, do = f"{len(row)} cells, the head has {len(head)}", "mend the line, or let it be written anew"
            raise SolverError(f"{path}:{line}", "is not as long as the head of the file", got=got, do=do)
        step = _number(row[at], path, line, "step")
        if not step.is_integer() or step < 0:
            raise SolverError(f"{path}:{line}", "step is no number of a step", got=repr(row[at]), do="mend the line")
        for name, text in zip(head, row):
            if name != "step" and text != "":
                cells[name].append((line, int(step), text))
    return Log(path, FrozenDict({name: tuple(found) for name, found in cells.items() if found}))


@dataclass(frozen=True)
class Beside:
    """A logged series of an option beside what was planned.

    Args:
        option: The option, such as ``lr``.
        label: Of what: the name of a group, or ``the least of all groups``.
        group: The number of the group; ``None`` of what is about all.
        logged: What was logged.
        planned: What the plan says of the same steps.
    """

    option: str
    label: str
    group: int | None
    logged: Series
    planned: Floats

    @property
    def off(self) -> Floats:
        """By how much the two differ at each step, as a part of the greatest planned value."""
        off = np.abs(self.logged.values - self.planned) / (float(np.abs(self.planned).max()) or 1.0)
        return np.where(np.isnan(off), np.inf, off)

    @property
    def first(self) -> int | None:
        """The place in the series where they begin to differ by more than rounding; ``None`` if they do not."""
        wrong = np.flatnonzero((self.off > 1e-12) & ~np.isclose(self.logged.values, self.planned, rtol=_NEAR, atol=0.0))
        return int(wrong[0]) if len(wrong) else None

    def tell(self) -> str:
        """How the two compare, in a few words."""
        first, worst = self.first, int(self.off.argmax())
        if first is None:
            most = float(self.off[worst])
            return "exactly as planned" if most == 0 else f"as planned, to 1e{math.ceil(math.log10(most)):+03d}"
        if first == worst:
            return f"differs from step {self._at(first)}"
        return f"differs from step {self._at(first)}; most at step {self._at(worst)}"

    def _at(self, place: int) -> str:
        planned, logged = f"{self.planned[place]:.6g}", f"{self.logged.values[place]:.6g}"
        if planned == logged:
            planned, logged = repr(float(self.planned[place])), repr(float(self.logged.values[place]))
        return f"{self.logged.steps[place]:,}: {planned} planned, {logged} logged"


@dataclass(frozen=True)
class Happened:
    """What really happened in a run, beside its plan.

    Args:
        plan: The plan.
        path: The file that says what happened.
        beside: What was logged of options, in the order of the plan.
        gradients: What was logged of gradients: one of :data:`GRADIENTS` -> the series; of several clippings
            ``clip_limit/AGC``.
        by_group: Name of a group -> the norm of its gradients, where that was logged.
        skipped: Steps that were begun and not made; options are then those of real steps.
    """

    plan: Plan
    path: Path
    beside: tuple[Beside, ...]
    gradients: Mapping[str, Series]
    by_group: Mapping[str, Series]
    skipped: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the optimiser of which something was logged."""
        return tuple(dict.fromkeys(one.option for one in self.beside if one.option != LIMIT))

    def differs(self, option: str) -> bool:
        """Whether an option was logged with other values than planned.

        Args:
            option: It.
        """
        return any(one.first is not None for one in self.beside if one.option == option)

    def describe(self) -> str:
        """The two compared, as text: for each group the first and the greatest difference."""
        lines = [f"what happened, by {self.path.name}"]
        if self.skipped:
            steps = f"{self.skipped:,} step{'s were' if self.skipped > 1 else ' was'}"
            lines.append(f"  {steps} begun and not made; the others are held against the plan, by their own count")
        for option in dict.fromkeys([*self.plan.curves, *(one.option for one in self.beside)]):
            lines += [f"  {line}" for line in self._about(option)]
        if self.plan.monitors and any(self.differs(option) for option in self.plan.curves):
            followed = ", ".join(sorted(self.plan.monitors))
            lines.append(f"  the plan shows schedules that follow {followed} as they are as long as nothing drops")
        return "\n".join([*lines, *(f"  {line}" for line in self._about_gradients())])

    def _about(self, option: str) -> Iterator[str]:
        own = [one for one in self.beside if one.option == option]
        if not own:
            yield f"{option} was not logged"
            return
        wrong = [one for one in own if one.first is not None]
        right = [one for one in own if one.first is None]
        yield from (f"{option} of {one.label} {one.tell()}" for one in wrong[:_MOST])
        if len(wrong) > _MOST:
            yield f"{option} differs of {len(wrong) - _MOST} more: {_some([one.label for one in wrong[_MOST:]])}"
        if right:
            worst = max(right, key=lambda one: float(one.off.max()))
            steps = np.unique(np.concatenate([one.logged.steps for one in right]))
            at = f"{len(steps):,} step{'s' * (len(steps) != 1)} from {steps[0]:,} to {steps[-1]:,}"
            whose = f"all {len(right)} groups" if len(right) == len(self.plan.groups) > 3 else None
            yield f"{option} of {whose or _some([one.label for one in right])}: {worst.tell()} ({at})"
        if all(one.group is not None for one in own):
            seen = {one.group for one in own}
            values = self.plan.curve_of(option).over(np.array([0]))[0]
            missing = [g.name for i, g in enumerate(self.plan.groups) if i not in seen and not math.isnan(values[i])]
            if missing:
                yield f"{option} of {_some(missing)} was not logged"

    def _about_gradients(self) -> Iterator[str]:
        for name, what in (("grad_norm", "before"), ("grad_norm_clipped", "after")):
            if name in self.gradients:
                values = self.gradients[name].values
                finite = values[np.isfinite(values)]
                text = f"norm of the gradients {what} clipping: "
                if len(finite):
                    text += f"{finite.min():.3g} to {finite.max():.3g}, median {np.median(finite):.3g}"
                if len(finite) < len(values):
                    text += f"{', ' if len(finite) else ''}not finite at {len(values) - len(finite):,} logged steps"
                yield text
        for key, found in self.gradients.items():
            share, _, kind = key.partition("/")
            if share == SHARE and not np.isnan(found.values).all():
                yield f"clipped{f' by {kind}' if kind else ''}: {100 * float(np.nanmean(found.values)):.3g}% on average"


def happened(log: Log, plan: Plan, *, name: str = ALONE, automatic: bool = True) -> Happened:
    """Find in a log what belongs to a plan.

    Args:
        log: The log.
        plan: The plan of the run, by the same configuration.
        name: The name of the plan's optimiser, where there are several.
        automatic: Whether the run was under automatic optimisation. Otherwise the log counts batches, and the steps of
            an optimiser are taken from its column ``steps``, or follow from its ``batches_per_step``.

    Raises:
        SolverError: Nothing in it belongs to the plan, or it goes beyond it.
    """
    tail = "" if name == ALONE else f"/{name}"
    skipped = _skipped(log, tail)
    counted = _counted(log, tail, plan) if skipped or not automatic else None

    def series(column: str) -> Series:
        found = log.series(column)
        return found if counted is None else _in_own_steps(found, counted)

    beside = [
        _beside(plan, option, label, group, series(column))
        for option in _known_options(plan)
        for column, label, group in _columns(log, plan, option, tail)
    ]
    # What led to no step is drawn where it was: steps that were not made have none of their own.
    measured = log.series if automatic else series
    gradients = {key: measured(key + tail) for key in GRADIENTS if key + tail in log.cells}
    kinds = unique(type(planned.clip).__name__ for planned in plan.clips)
    for key in (LIMIT, SHARE):  # which have the names of the clippings where there are several
        names = [(f"{key}/{kind}", f"{key}{tail}/{kind}") for kind in kinds if len(kinds) > 1]
        gradients |= {full: measured(column) for full, column in names if column in log.cells}
    columns = {group.name: f"grad_norm{tail}/{own}" for group, own in zip(plan.groups, _written(plan))}
    by_group = {name: measured(column) for name, column in columns.items() if column in log.cells}
    for i, (kind, planned) in enumerate(zip(kinds, plan.clips)):
        column = f"{LIMIT}{tail}" if len(kinds) == 1 else f"{LIMIT}{tail}/{kind}"
        limit = series(column) if column in log.cells else None
        if limit is not None and planned.clip.limit is not None and not isinstance(planned.clip, ZClip):
            beside.append(Beside(LIMIT, kind, None, limit, plan.limits(limit.steps)[:, i]))
    if not beside and not gradients:
        expected = f"lr{tail}" if len(plan.groups) == 1 else f"lr{tail}/{_written(plan)[0]}"
        what = "has no column that belongs to the plan" + ("" if name == ALONE else f" of {name}")
        do = f"log with SolverMonitor, which writes {expected}; or give the log of a run by this configuration"
        raise SolverError(str(log.path), what, got=_some([*log.cells]) or "no values", do=do)
    for one in [*(one.logged for one in beside), *gradients.values()]:
        _refuse_beyond(log, plan, one)
    return Happened(plan, log.path, tuple(beside), FrozenDict(gradients), FrozenDict(by_group), skipped)


def _beside(plan: Plan, option: str, label: str, group: int | None, logged: Series) -> Beside:
    values = plan.curve_of(option).over(logged.steps)
    if group is not None:
        return Beside(option, label, group, logged, values[:, group])
    planned = np.nanmin(values, axis=1) if label == _LEAST else np.nanmax(values, axis=1)
    return Beside(option, label, None, logged, planned)


_LEAST, _GREATEST = "the least of all groups", "the greatest of all groups"


def _known_options(plan: Plan) -> list[str]:
    """The options of the plan's optimisers that are numbers, the scheduled ones first."""
    numbers = [
        option
        for group in plan.groups
        for option, value in group.options.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    found = []
    for option in dict.fromkeys([*plan.curves, *_OPTIONS, *numbers]):
        try:
            plan.curve_of(option)
        except SolverError:  # which no optimiser of the plan has
            continue
        found.append(option)
    return found


def _columns(log: Log, plan: Plan, option: str, tail: str) -> Iterator[tuple[str, str, int | None]]:
    """The columns about an option, each with a label and the number of the group that it is about."""
    names = [group.name for group in plan.groups]
    if len(names) == 1:
        tries = [(0, f"{option}{tail}")]
    else:
        tries = [(i, f"{option}{tail}/{own}") for i, own in enumerate(_written(plan))]
        if f"{option}{tail}/min" in log.cells:  # a summary, with the group that has the most weights
            sizes = [group.numel for group in plan.groups]
            tries.append((sizes.index(max(sizes)), f"{option}{tail}"))
    suffix = "" if option == "lr" else f"-{option}"  # as Lightning's LearningRateMonitor names them
    heads = [f"lr{tail}", *(f"lr-{member.recipe.cls.__name__}" for member in plan.members if not tail)]
    tries += [(i, f"{head}/{own}{suffix}") for head in heads for i, own in enumerate(names)]
    tries += [(0, f"{head}{suffix}") for head in heads if len(names) == 1]
    seen = set()
    for i, column in tries:
        if column in log.cells and i not in seen:
            seen.add(i)
            yield column, names[i], i
    for end, label in (("min", _LEAST), ("max", _GREATEST)):
        column = f"{option}{tail}/{end}"
        if column in log.cells and end not in names:
            yield column, label, None


def _written(plan: Plan) -> list[str]:
    """The names of the groups as SolverMonitor writes them."""
    return unique(safe(group.name) for group in plan.groups)


def _counted(log: Log, tail: str, plan: Plan) -> dict[int, int]:
    """Batch of the log (0-based) -> the step (0-based) that was made last then."""
    if f"steps{tail}" in log.cells:
        found = log.series(f"steps{tail}")
        known = {int(batch): int(made) - 1 for batch, made in zip(found.steps, found.values)}
        before = 0
        for batch, skipped in _skips(log, tail):
            if skipped != before:  # nobody knows whether it was the very step of this line
                known.pop(batch, None)
            before = skipped
        return known
    each = plan.run.batches_per_step or 1
    batches = {step for cells in log.cells.values() for _, step, _ in cells}
    return {batch: math.ceil((batch + 1) / each) - 1 for batch in batches}


def _skips(log: Log, tail: str) -> list[tuple[int, int]]:
    """Line of the log -> how many steps were begun and not made by then, where that and the real steps were logged."""
    if f"skipped_steps{tail}" not in log.cells or f"steps{tail}" not in log.cells:
        return []
    found = log.series(f"skipped_steps{tail}")
    return [(int(at), int(count)) for at, count in zip(found.steps, found.values)]


def _skipped(log: Log, tail: str) -> int:
    """How many steps were begun and not made."""
    return max((count for _, count in _skips(log, tail)), default=0)


def _in_own_steps(found: Series, counted: Mapping[int, int]) -> Series:
    """A series in the steps of its own optimiser, where these are known; of several values of a step the last."""
    own = {counted[int(at)]: float(v) for at, v in zip(found.steps, found.values) if counted.get(int(at), -1) >= 0}
    return Series(np.array([*own], dtype=np.int64), np.array([*own.values()]))


def _refuse_beyond(log: Log, plan: Plan, series: Series) -> None:
    total = plan.run.total_steps
    if total is not None and len(series.steps) and series.steps[-1] >= total:
        what = f"goes beyond the plan, whose last step is {int(total) - 1:,}"
        do = "plan by the configuration of that run: its max_epochs or max_steps, its batches, its accumulation"
        raise SolverError(str(log.path), what, got=f"step {series.steps[-1]:,}", do=do)


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        do = "mend the line, or let it be written anew"
        raise SolverError(f"{path}:{line}", f"{column} is no number", got=repr(text), do=do) from None


def _some(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
