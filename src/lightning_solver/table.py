"""The plan as text: what a reviewer reads before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_solver.schedules.base import Curve

if TYPE_CHECKING:
    from lightning_solver.groups import Group
    from lightning_solver.plan import Plan

_ALWAYS_SHOWN = ("lr", "weight_decay", "momentum", "betas")


def render(plan: Plan, *, parameters: bool = False) -> str:
    """The plan as text; see :meth:`Plan.table`."""
    parts = [_headline(plan), _groups(plan)]
    if parameters:
        parts.append(_parameters(plan))
    if plan.left_out:
        parts.append(_left_out(plan, everything=parameters))
    if plan.curves:
        parts.append(_schedules(plan))
    if plan.monitors:
        parts.append(f"follows {', '.join(sorted(plan.monitors))}: the values above hold as long as nothing drops")
    if plan.notes:
        parts.append("notes\n" + "\n".join(f"  - {note}" for note in plan.notes))
    return "\n\n".join(parts)


def _headline(plan: Plan) -> str:
    numel = sum(group.numel for group in plan.groups)
    tensors = sum(len(group.names) for group in plan.groups)
    name = plan.recipe.cls.__name__
    what = f"{name}: {numel:,} trainable numbers in {_count(tensors, 'tensor')}, {_count(len(plan.groups), 'group')}"
    args = ", ".join(f"{key} {_show(value)}" for key, value in plan.recipe.args.items())
    lines = [what, f"run: {_run(plan)}", f"arguments: {args or 'all at their defaults'}"]
    return "\n".join(lines)


def _run(plan: Plan) -> str:
    run = plan.run
    if run.total_steps is None:
        return f"of unknown length ({run.unknown or 'no total_steps'}); nothing in the spec needs it"
    text = _count(int(run.total_steps), "optimiser step")
    if run.epoch_ends is not None:
        text += (
            f" in {len(run.epoch_ends)} epochs, which end at steps {_some([f'{float(e):g}' for e in run.epoch_ends])}"
        )
    elif run.steps_per_epoch is not None:
        epochs = run.total_steps / run.steps_per_epoch
        text += f", {float(epochs):g} epoch{'s' * (epochs != 1)} of {float(run.steps_per_epoch):g}"
    if run.batches_per_step not in (None, 1):
        text += f"; {float(run.batches_per_step or 0):g} batches make a step"
    return text


def _groups(plan: Plan) -> str:
    options = _shown_options(plan)
    head = ["group", "tensors", "numbers", *options, "set by"]
    rows = [
        [
            group.name,
            f"{len(group.names):,}",
            f"{group.numel:,}",
            *(_show(group.options[option]) for option in options),
            _set_by(plan, group),
        ]
        for group in plan.groups
    ]
    return _aligned([head, *rows], right=range(1, 3 + len(options)))


def _shown_options(plan: Plan) -> list[str]:
    """The usual ones, and those in which groups differ."""
    first = plan.groups[0].options
    return [
        option
        for option in first
        if option in _ALWAYS_SHOWN or any(group.options[option] != first[option] for group in plan.groups)
    ]


def _set_by(plan: Plan, group: Group) -> str:
    reasons: dict[str, list[str]] = {}
    for name in group.names:
        for option, reason in plan.reasons[name].items():
            if reason.startswith(("rules", "default_rules")) and option not in reasons.setdefault(reason, []):
                reasons[reason].append(option)
    text = "; ".join(f"{', '.join(options)}: {reason}" for reason, options in reasons.items())
    return text or "optimizer.args and defaults"


def _parameters(plan: Plan) -> str:
    options = _shown_options(plan)
    head = ["parameter", "shape", "group", *options, "why"]
    rows = []
    for group in plan.groups:
        for name, tensor in zip(group.names, group.tensors):
            reasons = plan.reasons[name]
            told = [*options, *(option for option in reasons if option.startswith("schedules."))]
            why = "; ".join(f"{option}: {reasons[option]}" for option in told)
            shape = "x".join(map(str, tensor.shape)) or "()"
            rows.append((name, [name, shape, group.name, *(_show(group.options[o]) for o in options), why]))
    order = {name: i for i, name in enumerate(plan.parameters)}
    return _aligned(
        [head, *(row for _, row in sorted(rows, key=lambda row: order[row[0]]))], right=range(3, 3 + len(options))
    )


def _left_out(plan: Plan, *, everything: bool) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in plan.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"left out of the optimiser ({len(plan.left_out)})"]
    for reason, names in by_reason.items():
        lines.append(f"  {reason}: {', '.join(names) if everything else _some(names)}")
    return "\n".join(lines)


def _schedules(plan: Plan) -> str:
    known = plan.run.total_steps is not None
    total = int(plan.run.total_steps or 0)
    lines = []
    for option, curve in plan.curves.items():
        steps = _telling_steps(curve, total) if known else [0, 1, 10, 100, 1000, 10_000, 100_000]
        head = [f"{option} at step", *(f"{step:,}" for step in steps)]
        values = curve.over(np.array(steps))
        rows = [[group.name, *(f"{value:.3g}" for value in values[:, i])] for i, group in enumerate(plan.groups)]
        lines.append(_aligned([head, *rows], right=range(1, len(steps) + 1)))
    return "\n\n".join(lines)


def _telling_steps(curve: Curve, total: int) -> list[int]:
    """First, last, the turns in between, and quarters of the run."""
    table = curve.over(np.arange(min(total, 200_000)))[:, :1]
    slope = np.diff(table[:, 0], prepend=table[0, 0])
    turns = np.flatnonzero(np.diff(np.sign(slope)) != 0)
    steps = {0, total - 1, *(total * k // 4 for k in (1, 2, 3))}
    if len(turns) <= 5:
        steps |= {int(turn) for turn in turns}
    return sorted(step for step in steps if 0 <= step < total)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"({', '.join(_show(inner) for inner in value)})"
    return str(value)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] | range) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for i, row in enumerate(rows):
        cells = [
            cell.rjust(width) if c in right else cell.ljust(width) for c, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
        if i == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)
