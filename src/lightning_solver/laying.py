"""Schedules laid over all groups of a plan: one curve for each option that moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.groups import Group
from lightning_solver.optimizers.recipe import Slot
from lightning_solver.plain import thaw
from lightning_solver.schedules.base import Curve, Window, run_window
from lightning_solver.schedules.chain import Chain
from lightning_solver.schedules.combine import Sum, lay_by_group
from lightning_solver.schedules.curves import Fixed, Split
from lightning_solver.schedules.functions import Function
from lightning_solver.schedules.join import contains
from lightning_solver.schedules.plateau import Feed
from lightning_solver.spec import SolverSpec, refuse_negative


def scheduled_options(spec: SolverSpec, groups: Sequence[Group]) -> list[str]:
    """The options that the spec or a rule moves."""
    return list(dict.fromkeys([*spec.schedules, *(option for group in groups for option in group.schedules)]))


def slots_of(option: str, groups: Sequence[Group], where: str) -> tuple[Slot | None, ...]:
    """Where each group keeps an option; ``None`` where its optimiser has none.

    Raises:
        SolverError: No optimiser has it, or one whose own rule schedules it has not.
    """
    found: dict[int, Slot | SolverError] = {}
    for group in groups:
        if id(group.member) not in found:
            try:
                found[id(group.member)] = group.member.recipe.slot(option, where)
            except SolverError as error:
                found[id(group.member)] = error
    errors = [error for error in found.values() if isinstance(error, SolverError)]
    if errors and len(errors) == len(found):
        raise errors[0]
    for group in groups:
        if isinstance(found[id(group.member)], SolverError) and option in group.schedules:
            group.member.recipe.slot(option, group.schedules[option][1])  # which raises, with the path of the rule
    slots = [found[id(group.member)] for group in groups]
    return tuple(None if isinstance(slot, SolverError) else slot for slot in slots)


def held(option: str, groups: Sequence[Group]) -> Fixed:
    """An option that nothing moves: each group's base value, ``nan`` where its optimiser has no such option."""
    slots = slots_of(option, groups, option)
    return Fixed(tuple(np.nan if slot is None else slot.read(g.options) for slot, g in zip(slots, groups)))


def lay_curve(spec: SolverSpec, run: RunLength, option: str, groups: Sequence[Group], feed: Feed) -> Curve:
    """The curve of a scheduled option over all groups; ``nan`` where a group's optimiser has no such option."""
    members, curves = [], []
    for indices, window in _windows(spec, run, option, groups, feed):
        members.append(indices)
        curves.append(_lay(spec, option, [groups[i] for i in indices], window))
    return _together(members, curves, len(groups))


def lay_checked(
    spec: SolverSpec, run: RunLength, option: str, groups: Sequence[Group], feed: Feed, notes: list[str]
) -> Curve:
    """Like :func:`lay_curve`, with what is odd noted.

    Raises:
        SolverError: A curve that fails, goes below 0, or makes a momentum 1.
    """
    members, curves = [], []
    for indices, window in _windows(spec, run, option, groups, feed):
        inner = [groups[i] for i in indices]
        members.append(indices)
        curves.append(_lay(spec, option, inner, window))
        notes.extend(window.notes)
        _check(spec, run, option, inner, window, curves[-1], notes)
    lacking = dict.fromkeys(
        group.member.recipe.cls.__name__
        for i, group in enumerate(groups)
        if not any(i in indices for indices in members)
    )
    notes.extend(f"schedules.{option}: {name} has no such option, so that its groups keep theirs" for name in lacking)
    return _together(members, curves, len(groups))


def _windows(
    spec: SolverSpec, run: RunLength, option: str, groups: Sequence[Group], feed: Feed
) -> list[tuple[list[int], Window]]:
    """For each optimiser that has the option, its groups and the window that their curves fill."""
    where = f"schedules.{option}"
    slots = slots_of(option, groups, where)
    by_member: dict[int, list[int]] = {}
    for i, (group, slot) in enumerate(zip(groups, slots)):
        if slot is not None:
            by_member.setdefault(id(group.member), []).append(i)
    found = []
    for indices in by_member.values():
        slot = slots[indices[0]]
        assert slot is not None
        bases = [slot.read(groups[i].options) for i in indices]
        scales = [groups[i].scales.get(option, 1.0) for i in indices]
        own = slot.read(groups[indices[0]].member.recipe.defaults)
        window = run_window(bases, run, where, own=own, beyond=spec.beyond_run, scales=scales, feed=feed)
        found.append((indices, window))
    return found


def _lay(spec: SolverSpec, option: str, groups: Sequence[Group], window: Window) -> Curve:
    where = f"schedules.{option}"
    chosen = [group.schedules.get(option, (spec.schedules.get(option), where)) for group in groups]
    return lay_by_group([phases for phases, _ in chosen], window, [path for _, path in chosen])


def _together(members: Sequence[Sequence[int]], curves: Sequence[Curve], total: int) -> Curve:
    known = {i for indices in members for i in indices}
    rest = tuple(i for i in range(total) if i not in known)
    if len(curves) == 1 and not rest:
        return curves[0]
    indices, parts = [tuple(inner) for inner in members], list(curves)
    if rest:
        indices.append(rest)
        parts.append(Fixed((np.nan,) * len(rest)))
    return Split(tuple(indices), tuple(parts))


def _check(
    spec: SolverSpec,
    run: RunLength,
    option: str,
    groups: Sequence[Group],
    window: Window,
    curve: Curve,
    notes: list[str],
) -> None:
    where, slot = f"schedules.{option}", groups[0].member.recipe.slot(option, f"schedules.{option}")
    last = last_step(run)
    decays = slot.key in ("betas", "momentum")
    written = (spec.schedules.get(option), *(group.schedules.get(option, (None,))[0] for group in groups))
    anything = contains(written, (Function, Sum, Chain))  # which may fail, or go below 0, at any step
    seen = curve.over(np.arange(last + 1) if decays or anything else np.array([0, last // 2, last]))
    refuse_negative(seen, where)
    if decays and seen.max() >= 1:
        what, got = "reaches 1, with which nothing is ever forgotten", f"{seen.max():g}"
        if slot.key == "betas":
            do = "its values are factors of the base value: keep them below 1 / base"
            raise SolverError(where, what, got=got, do=do)
        notes.append(f"{where}: {what} ({got})")
    given = [group.name for group, base, column in zip(groups, window.bases, seen.T) if base == 0 and column.any()]
    notes.extend(f"{where}: is not 0 in group {name}, whose base value is 0" for name in given)


def last_step(run: RunLength) -> int:
    """The number of the last step; of the first, where the length is not known."""
    return 0 if run.total_steps is None else int(run.total_steps) - 1


def note_still(lr: Curve | None, groups: Sequence[Group], run: RunLength, notes: list[str]) -> None:
    """Note groups that are never trained, and a first step in which nothing is learnt."""
    if lr is not None and not any(lr.at(0)):
        notes.append("schedules.lr: the learning rate of the first step is 0, so that nothing is learnt in it")
    last = last_step(run)
    seen = np.zeros((1, len(groups))) if lr is None else lr.over(np.array([0, last // 2, last]))
    for group, column in zip(groups, seen.T):
        if group.options.get("lr") == 0 and not column.any():
            notes.append(f"group {group.name}: its learning rate is 0, so that it is never trained")


def tells_scales_apart(spec: SolverSpec) -> bool:
    """Whether a schedule names a value that is ``scaled``."""
    written = [thaw(spec.schedules), *(thaw(rule.schedules) for rule in spec.rules)]
    return any("'scaled'" in repr(schedules) for schedules in written)
