"""The plan as text: what a reviewer reads before training starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_solver.groups import Group
from lightning_solver.plain import thaw
from lightning_solver.roles import in_order
from lightning_solver.rules.cascade import Member
from lightning_solver.rules.depth import Depths
from lightning_solver.schedules.base import Curve

if TYPE_CHECKING:
    from lightning_solver.plan import Plan

_ALWAYS_SHOWN = ("lr", "weight_decay", "momentum", "betas")
_UNKNOWN = (0, 1, 10, 100, 1000, 10_000, 100_000)  # the steps that are shown of a run of unknown length
_ALWAYS_AT_WORK = frozenset({"step", "schedule", "metrics"})
_SWITCHES = frozenset({"fused", "foreach", "capturable", "differentiable"})  # told in the headline


@dataclass(frozen=True)
class _Row:
    """A line of the table: a group, or groups that differ only by layer-wise decay."""

    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """The group's name; of several, with the depth left out."""
        if len(self.groups) == 1:
            return self.groups[0].name
        return re.sub(r"depth_[0-9]+", "depth_*", self.groups[0].name)

    @property
    def highest(self) -> Group:
        """The group with the greatest learning rate."""
        return max(self.groups, key=lambda group: float(group.options.get("lr", 0.0)))

    def show(self, option: str) -> str:
        """The value of an option, or where its values go from and to."""
        if option not in self.groups[0].options:
            return "-"
        values = [group.options[option] for group in self.groups]
        if all(value == values[0] for value in values):
            return _show(values[0])
        return f"{min(values):.3g} .. {max(values):.3g}"


def render(plan: Plan, *, parameters: bool = False) -> str:
    """The plan as text; see :meth:`Plan.table`."""
    rows = _rows(plan)
    parts = ["\n".join([_headline(plan), *plan.routes]), _groups(plan, rows)]
    if plan.depths is not None:
        parts.append(_depths(plan, plan.depths))
    if parameters:
        parts.append(_parameters(plan))
    if plan.left_out:
        parts.append(_left_out(plan, everything=parameters))
    if plan.curves:
        parts.append(_schedules(plan, rows))
    if plan.clips or plan.spec.nonfinite is not None or _varied(plan):
        parts.append(_gradients(plan))
    if any(planned.curve is not None for planned in plan.clips):
        parts.append(_limits(plan))
    if plan.averages:
        parts.append(_averages(plan))
    if roles_at_work(plan) - _ALWAYS_AT_WORK:
        parts.append(f"in a step: {' -> '.join(_in_a_step(plan))}")
    if plan.monitors:
        parts.append(f"follows {', '.join(sorted(plan.monitors))}: the values above hold as long as nothing drops")
    if plan.notes:
        parts.append("notes\n" + "\n".join(f"  - {note}" for note in plan.notes))
    return "\n\n".join(parts)


def _rows(plan: Plan) -> list[_Row]:
    """The groups, with those that differ only by layer-wise decay in one row."""
    if plan.spec.layer_decay is None:
        return [_Row((group,)) for group in plan.groups]
    alike: dict[Any, list[Group]] = {}
    for group in plan.groups:
        rest = tuple((option, value) for option, value in group.options.items() if option != "lr")
        name = re.sub(r"(^|\.)depth_[0-9]+(_[0-9]+)?(?=\.|$)", "", group.name)
        alike.setdefault((id(group.member), rest, name, group.schedules, group.frozen), []).append(group)
    return [_Row(tuple(groups)) for groups in alike.values()]


def _headline(plan: Plan) -> str:
    numel = sum(group.numel for group in plan.groups)
    tensors = sum(len(group.names) for group in plan.groups)
    what = f"{numel:,} trainable numbers in {_count(tensors, 'tensor')}, {_count(len(plan.groups), 'group')}"
    used = list(plan.implementations)
    if len(used) == 1:
        (member,) = used
        lines = [f"{member.recipe.cls.__name__}: {what}", f"run: {_run(plan)}"]
        return "\n".join([*lines, f"arguments: {_args(member)}", f"implementation: {plan.implementations[member]}"])
    lines = [f"{len(used)} optimisers as one: {what}", f"run: {_run(plan)}"]
    for member in used:
        groups = [group for group in plan.groups if group.member is member]
        count = _count(sum(len(group.names) for group in groups), "tensor")
        numbers = f"{sum(group.numel for group in groups):,} numbers"
        lines.append(f"{member.recipe.cls.__name__} ({member.where}): {count}, {numbers}; {_args(member)}")
        lines.append(f"  implementation: {plan.implementations[member]}")
    return "\n".join(lines)


def _varied(plan: Plan) -> bool:
    """Whether there is more to say about accumulation than the number of batches that the run is told by."""
    how = plan.spec.accumulation()
    return how is not None and (how.constant is None or how.weigh_by is not None or how.keep_gradients)


def _gradients(plan: Plan) -> str:
    """What becomes of gradients before the step: accumulation, what is not finite, clipping."""
    rows = []
    how, policy = plan.spec.accumulation(), plan.spec.policy()
    if how is not None and _varied(plan):
        rows.append(("accumulate", how.describe() + ", gradients in checkpoints" * how.keep_gradients))
    if policy is not None:
        done = {"error": "ends the run", "skip": "leaves the step out", "zero": "puts 0 in the place of such numbers"}
        end = f"; {policy.in_a_row} in a row end the run" if policy.policy != "error" else ""
        rows.append(("not finite", done[policy.policy] + end))
    for label, planned in zip(_numbered(plan), plan.clips):
        trained = sum(len(group.names) for group in plan.groups)
        of = f"all {trained:,}" if planned.everything else f"{len(planned.names):,} of {trained:,}"
        rows.append((label, f"{planned.clip.describe()}; {of} tensor{'s' * (trained != 1)}"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(["gradients", *(f"  {label:<{width}}  {text}" for label, text in rows)])


def _numbered(plan: Plan) -> list[str]:
    return ["clip"] if len(plan.clips) == 1 else [f"clip[{i}]" for i in range(len(plan.clips))]


def scheduled_clips(plan: Plan) -> dict[str, list[tuple[str, int]]]:
    """The limits that move: what they are called (``max_norm``) -> a label for each and the number of its clipping.

    Args:
        plan: The plan.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for i, (label, planned) in enumerate(zip(_numbered(plan), plan.clips)):
        if planned.curve is not None:
            found.setdefault(planned.clip.limited_by, []).append((f"{label} ({type(planned.clip).__name__})", i))
    return found


def _limits(plan: Plan) -> str:
    """The limits that move, at telling steps."""
    tables = []
    for name, own in scheduled_clips(plan).items():
        curves = [plan.clips[i].curve for _, i in own]
        tables.append(
            _at_steps(plan, f"limit ({name})", [(label, curve, 0) for (label, _), curve in zip(own, curves) if curve])
        )
    return "\n\n".join(tables)


def roles_at_work(plan: Plan) -> frozenset[str]:
    """What there is to do in a run by a plan: the names of roles, as :data:`~lightning_solver.roles.ROLES` has them.

    Args:
        plan: The plan.
    """
    accumulates = plan.spec.accumulate is not None or plan.run.batches_per_step not in (None, 1)
    found = {
        "step": True,
        "schedule": bool(plan.curves),
        "metrics": bool(plan.monitors),
        "accumulate": accumulates,
        "freeze": any(group.frozen for group in plan.groups),
        "clip": bool(plan.clips) or plan.spec.nonfinite is not None,
        "average": bool(plan.averages),
    }
    return frozenset(role for role, works in found.items() if works)


def _in_a_step(plan: Plan) -> list[str]:
    """What acts in a step, in order."""
    kinds = [type(planned.clip).__name__ for planned in plan.clips]
    looks = [] if plan.spec.nonfinite is None else ["look whether gradients are finite"]
    frozen = sorted({str(group.frozen) for group in plan.groups if group.frozen})
    words = {
        "accumulate": ["gather the gradients of the batches"],
        "freeze": [f"drop gradients of what is frozen ({_some(frozen, 2)})"],
        "clip": looks + ([f"clip by {', then '.join(kinds)}"] if kinds else []),
        "step": [f"step {' and '.join(member.recipe.cls.__name__ for member in plan.implementations)}"],
        "schedule": [f"move {', '.join(plan.curves)}"],
        "average": [f"average ({', '.join(plan.averages)})"],
    }
    works = roles_at_work(plan)
    return [text for role in in_order() if role in works for text in words.get(role, [])]


def _averages(plan: Plan) -> str:
    """A line for each average: what, when, of what, and what it is for."""
    lines = ["averages of the weights"]
    width = max(map(len, plan.averages))
    for name, planned in plan.averages.items():
        given = {k: v for k, v in thaw(planned.average).get("init_args", {}).items() if k not in ("start", "evaluated")}
        kind = " ".join([type(planned.average).__name__, ", ".join(f"{key} {_told(v)}" for key, v in given.items())])
        when = f"from step {planned.start}"
        if planned.updates is not None:
            when += f", {_count(planned.updates, 'update')}"
        what = f"{_count(len(planned.names), 'tensor')}, {_bytes(planned.memory)}"
        use = "; evaluated, saved as state_dict" if planned.evaluated else ""
        lines.append(f"  {name:<{width}}  {kind.strip()}; {when}; {what}{use}")
    return "\n".join(lines)


def _told(value: Any) -> str:
    """A setting in a few words; of a class its name and what it was given."""
    if not isinstance(value, dict):
        return _show(value)
    inner = ", ".join(f"{key} {_told(v)}" for key, v in value.get("init_args", value).items() if key != "class_path")
    return " ".join(filter(None, [value.get("class_path", ""), f"({inner})" if inner else ""]))


def _bytes(number: int) -> str:
    """A number of bytes, in units of 1,000.

    Example:
        >>> _bytes(1_234_567)
        '1.23 MB'
    """
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number = number / 1000  # type: ignore[assignment]
    return f"{number:.3g} GB"


def _args(member: Member) -> str:
    return ", ".join(f"{key} {_show(value)}" for key, value in member.recipe.args.items()) or "all at their defaults"


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
        if run.batches_per_epoch is not None:
            left = run.batches_per_epoch % Fraction(run.batches_per_step or 1)
            text += f", the last of an epoch is of {float(left):g}"
    return text


def _groups(plan: Plan, rows: Sequence[_Row]) -> str:
    options = _shown_options(plan)
    several, freezes = len(plan.implementations) > 1, any(group.frozen for group in plan.groups)
    head = ["group", *["optimizer"] * several, *["depth"] * (plan.depths is not None), "tensors", "numbers"]
    first = len(head) - 2
    table = [[*head, *options, *["frozen"] * freezes, "set by"]]
    for row in rows:
        names = [name for group in row.groups for name in group.names]
        cells = [row.name]
        cells += [row.groups[0].member.recipe.cls.__name__] * several
        cells += [_stretch([plan.depths.of[name] for name in names])] if plan.depths is not None else []
        cells += [f"{len(names):,}", f"{sum(group.numel for group in row.groups):,}"]
        cells += [row.show(option) for option in options]
        cells += [str(row.groups[0].frozen or "")] * freezes
        table.append([*cells, _set_by(plan, row)])
    return _aligned(table, right=range(first, first + 2 + len(options)))


def _stretch(depths: Sequence[int]) -> str:
    low, high = min(depths), max(depths)
    return f"{low}" if low == high else f"{low}-{high}"


def _shown_options(plan: Plan) -> list[str]:
    """The usual ones, and those in which the groups of an optimiser differ."""
    shown: dict[str, None] = {}
    for member in plan.implementations:
        groups = [group for group in plan.groups if group.member is member]
        first = groups[0].options
        for option in first:
            differs = any(group.options[option] != first[option] for group in groups)
            if option in _ALWAYS_SHOWN or (differs and option not in _SWITCHES):
                shown[option] = None
    return list(shown)


def _set_by(plan: Plan, row: _Row) -> str:
    reasons: dict[str, list[str]] = {}
    for group in row.groups:
        for name in group.names:
            for option, reason in plan.reasons[name].items():
                if reason.startswith(("rules", "default_rules", "layer_decay")) and not reason.endswith(".args"):
                    reason = re.sub(r"layer_decay \(depth_[0-9]+\)", "layer_decay", reason)
                    if option not in reasons.setdefault(reason, []):
                        reasons[reason].append(option)
    text = "; ".join(f"{', '.join(options)}: {reason}" for reason, options in reasons.items())
    return text or "optimizer.args and defaults"


def _depths(plan: Plan, depths: Depths) -> str:
    """What lies at each depth, its scale, the rates that come of it, and until when it is frozen."""
    decay = plan.spec.decay()
    names: dict[int, list[str]] = {}
    for name in [*plan.parameters, *(name for name in plan.left_out if name in depths.of)]:
        names.setdefault(depths.of[name], []).append(name)
    rates: dict[int, set[float]] = {}
    frozen: dict[int, dict[str, None]] = {}
    for group in plan.groups:
        for name in group.names:
            rates.setdefault(depths.of[name], set()).add(float(group.options.get("lr", np.nan)))
            frozen.setdefault(depths.of[name], {})[str(group.frozen or "")] = None
    freezes = any(group.frozen for group in plan.groups)
    head = ["depth", *["lr scale"] * (decay is not None), "lr", "tensors", *["frozen"] * freezes, "holds"]
    wrapper = _wrapper(list(depths.of))
    table = [head]
    for depth in sorted(names):
        scale = [f"{decay.factor(depth, depths.top):.3g}"] if decay is not None else []
        still = [" or ".join(text or "never" for text in frozen.get(depth, {"left out": None}))] if freezes else []
        holds = list(dict.fromkeys(_beginning(name, wrapper) for name in names[depth]))
        lrs = sorted(rates.get(depth, ()))
        lr = "" if not lrs else f"{lrs[0]:.3g}" if len(lrs) == 1 else f"{lrs[0]:.3g} .. {lrs[-1]:.3g}"
        table.append([str(depth), *scale, lr, f"{len(names[depth]):,}", *still, _some(holds, 6)])
    if len(table) > 40:
        dots = ["..."] + [""] * (len(head) - 1)
        table = [*table[:20], dots, *table[-19:]]
    title = f"layer decay {_show(decay.rate)}" if decay is not None else "depths"
    if decay is not None and decay.min_scale:
        title += f", at least {_show(decay.min_scale)}"
    return f"{title}; depth by {depths.source}\n" + _aligned(table, right=range(3 + (decay is not None)))


def _wrapper(names: Sequence[str]) -> str:
    """What every name begins with, up to a dot: ``model.`` of a module that holds one model."""
    shared = names[0].split(".")[:-1] if names else []
    for name in names:
        parts = name.split(".")[:-1]
        shared = [a for i, a in enumerate(shared[: len(parts)]) if shared[: i + 1] == parts[: i + 1]]
    shared = shared[: next((i for i, part in enumerate(shared) if part.isdigit()), len(shared))]
    return "".join(f"{part}." for part in shared)


def _beginning(name: str, wrapper: str) -> str:
    """The part of the model that a parameter belongs to: its numbered block, or what stands first in its name."""
    parts = name.removeprefix(wrapper).split(".")
    at = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
    return f"{wrapper}{'.'.join(parts[: at + 1])}.*" if at is not None else f"{wrapper}{parts[0]}"


def _parameters(plan: Plan) -> str:
    options = _shown_options(plan)
    head = ["parameter", "shape", "group", *options, "why"]
    rows = []
    for group in plan.groups:
        for name, tensor in zip(group.names, group.tensors):
            reasons = plan.reasons[name]
            told = [option for option in options if option in reasons]
            told += [
                option for option in reasons if option in ("optimizer", "frozen") or option.startswith("schedules.")
            ]
            why = "; ".join(f"{option}: {reasons[option]}" for option in told)
            shape = "x".join(map(str, tensor.shape)) or "()"
            values = [_show(group.options[o]) if o in group.options else "-" for o in options]
            rows.append((name, [name, shape, group.name, *values, why]))
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


def _schedules(plan: Plan, rows: Sequence[_Row]) -> str:
    order = {id(group): i for i, group in enumerate(plan.groups)}
    tables = []
    for option, curve in plan.curves.items():
        names = [row.name if len(row.groups) == 1 else f"{row.name} (the highest)" for row in rows]
        columns = [(name, curve, order[id(row.highest)]) for name, row in zip(names, rows)]
        tables.append(_at_steps(plan, option, columns))
    return "\n\n".join(tables)


def _at_steps(plan: Plan, what: str, columns: Sequence[tuple[str, Curve, int]]) -> str:
    """Values at telling steps, a line for each label, curve and column of it."""
    known = plan.run.total_steps is not None
    total = int(plan.run.total_steps or 0)
    curves = {id(curve): curve for _, curve, _ in columns}.values()
    telling = {step for curve in curves for step in _telling_steps(curve, total)} if known else _UNKNOWN
    steps = sorted(telling)
    table = [[f"{what} at step", *(f"{step:,}" for step in steps)]]
    values = {id(curve): curve.over(np.array(steps)) for curve in curves}
    for label, curve, i in columns:
        column = values[id(curve)][:, i]
        if not np.isnan(column).all():
            table.append([label, *(f"{value:.3g}" for value in column)])
    return _aligned(table, right=range(1, len(steps) + 1))


def _telling_steps(curve: Curve, total: int) -> list[int]:
    """First, last, the turns in between, and quarters of the run."""
    table = curve.over(np.arange(min(total, 200_000)))
    first = table[:, next(i for i in range(table.shape[1]) if not np.isnan(table[0, i]))]
    slope = np.diff(first, prepend=first[0])
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
