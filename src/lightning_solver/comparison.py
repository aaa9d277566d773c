"""What differs between two specs: settings, groups, and the curves at a glance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from lightning_solver.chart import chart
from lightning_solver.clipping.clip import Clip, numbered_clips
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.files import Stored
from lightning_solver.schedules.base import Floats
from lightning_solver.spec import SolverSpec, difference, whole_steps

_NOTHING = "(not set)"
_POINTS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_BOOKKEEPING = ("params", "param_names", "name", "initial_lr")


def compare(a: Stored, b: Stored, run: RunLength, base: float | None = None) -> tuple[bool, str]:
    """Whether two specs differ, and how.

    Args:
        a: The one.
        b: The other.
        run: The run over which curves are compared.
        base: Base value of the group whose curves are compared, where a spec has none; 1 by default.

    Returns:
        Whether a setting, a group or a curve differs; and what to print.
    """
    settings = _settings(a.spec, b.spec)
    groups = _groups(a, b) if a.groups and b.groups else []
    parts = [f"a: {a.label}\nb: {b.label}"]
    parts += ["settings (a -> b)\n" + _listed(settings)] if settings else []
    parts += ["groups (a -> b)\n" + _listed(groups)] if groups else []
    curves = [_curves(option, a, b, run, base) for option in dict.fromkeys([*a.spec.schedules, *b.spec.schedules])]
    curves += _limits(a, b, run)
    parts += [text for _, text in curves if text]
    differ = bool(settings or groups or any(found for found, _ in curves))
    return differ, "\n\n".join(parts if differ else ["no difference"])


def compare_parts(
    a: Mapping[str, Stored], b: Mapping[str, Stored], run: RunLength, base: float | None = None
) -> tuple[bool, str]:
    """Whether two files differ that may hold several optimisers each, and how.

    Args:
        a: The one: what it says of each optimiser, by name.
        b: The other.
        run: The run over which curves are compared, in the steps of each optimiser.
        base: As for :func:`compare`.

    Returns:
        Whether something differs; and what to print.
    """
    names = list(dict.fromkeys([*a, *b]))
    if len(names) == 1:
        return compare(a[names[0]], b[names[0]], run, base)
    differ, parts = False, []
    for name in names:
        if name not in a or name not in b:
            parts.append(f"{name}: only in {'a' if name in a else 'b'}")
            differ = True
            continue
        found, text = compare(a[name], b[name], run, base)
        differ = differ or found
        if found:
            parts.append(f"{name}\n{text}")
    return differ, "\n\n".join(parts if differ else ["no difference"])


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _settings(a: SolverSpec, b: SolverSpec) -> list[str]:
    """What differs between two specs: of clipping and accumulation what they amount to, else setting by setting."""
    plain = {"clip": None, "nonfinite": None, "accumulate": None}
    lines = difference(a.replace(**plain), b.replace(**plain))
    ours, theirs = clips_of(a), clips_of(b)
    if [type(clip) for clip in ours] == [type(clip) for clip in theirs]:
        lines += difference(_only(clip=ours), _only(clip=theirs))
    elif ours != theirs:
        told = [", then ".join(clip.describe() for clip in clips) or _NOTHING for clips in (ours, theirs)]
        lines.append(f"clip: {told[0]} -> {told[1]}")
    found = (a.policy(), b.policy())
    policies = [_NOTHING if one is None else f"{one.policy}, {one.in_a_row} in a row" for one in found]
    lines += [f"nonfinite: {policies[0]} -> {policies[1]}"] if policies[0] != policies[1] else []
    one, other = a.accumulation(), b.accumulation()
    told = [_NOTHING if found is None else found.describe() for found in (one, other)]
    if told[0] != told[1]:
        lines.append(f"accumulate: {told[0]} -> {told[1]}")
    kept = [found is not None and found.keep_gradients for found in (one, other)]
    lines += [f"accumulate.keep_gradients: {kept[0]} -> {kept[1]}"] if kept[0] != kept[1] else []
    return lines


def clips_of(spec: SolverSpec) -> tuple[Clip, ...]:
    """The clippings of a spec, in the order in which they act.

    Args:
        spec: The spec.
    """
    return tuple(clip for clip, _ in numbered_clips(spec.clip))


def _only(clip: tuple[Clip, ...]) -> SolverSpec:
    return SolverSpec(clip=clip[0] if len(clip) == 1 else clip or None)


def _groups(a: Stored, b: Stored) -> list[str]:
    lines = []
    ours, theirs = ({str(group.get("name", i)): group for i, group in enumerate(s.groups)} for s in (a, b))
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            lines.append(f"{name}: only in {'a' if name in ours else 'b'}")
            continue
        one, other = ours[name], theirs[name]
        if one.get("param_names") != other.get("param_names"):
            lines.append(f"{name}: {len(one['params'])} -> {len(other['params'])} parameters, or others")
        keys = [key for key in dict.fromkeys([*one, *other]) if key not in _BOOKKEEPING]
        lines += [
            f"{name}.{key}: {one.get(key)} -> {other.get(key)}"
            for key in keys
            if not np.array_equal(one.get(key), other.get(key))  # type: ignore[arg-type]
        ]
    return lines


def base_of(spec: SolverSpec, option: str, given: float | None = None) -> tuple[float, bool]:
    """The base value with which a curve is drawn without a model, and whether anybody has said it.

    Args:
        spec: The spec, whose own value comes first.
        option: The option.
        given: What is taken where the spec says nothing; 1 where this says nothing either.
    """
    own = spec.own_value(option)
    if isinstance(own, (int, float)) and not isinstance(own, bool):
        return float(own), True
    return (1.0, False) if given is None else (given, True)


def _limits(a: Stored, b: Stored, run: RunLength) -> list[tuple[bool, str]]:
    """The limits of clippings that move, of the same kind in both specs."""
    found = []
    ours, theirs = clips_of(a.spec), clips_of(b.spec)
    for i, (one, other) in enumerate(zip(ours, theirs)):
        if type(one) is type(other) and (one.schedule is not None or other.schedule is not None):
            name = f"clip{f'[{i}]' if max(len(ours), len(theirs)) > 1 else ''} ({one.limited_by})"
            found.append(_moves(name, a, b, run, partial(_limit, i, run)))
    return found


def _limit(i: int, run: RunLength, stored: Stored) -> Floats:
    """The limit of a clipping at each step; ``nan`` for a kind that finds its own."""
    clip = clips_of(stored.spec)[i]
    return clip.limits_at(np.arange(whole_steps(run)), clip.curve(run))


def _curves(option: str, a: Stored, b: Stored, run: RunLength, given: float | None) -> tuple[bool, str]:
    """Whether the curves of an option differ, and a table and a drawing of them."""

    def values(stored: Stored) -> Floats:
        base, _ = base_of(stored.spec, option, given)
        return stored.spec.curve(option, [base], run=run)[:, 0]

    return _moves(option, a, b, run, values)


def _moves(name: str, a: Stored, b: Stored, run: RunLength, values: Callable[[Stored], Floats]) -> tuple[bool, str]:
    """Whether something moves otherwise in two specs, and a table and a drawing of both."""
    curves: list[Floats] = []
    for stored in (a, b):
        try:
            curves.append(values(stored))
        except SolverError as error:
            return False, f"{name}: no curve of {stored.label}: {error}"
    one, other = curves
    if np.array_equal(one, other):
        return False, ""
    last = len(one) - 1
    steps = sorted({round(point * last) for point in _POINTS})
    rows = [
        ["step", *map(str, steps)],
        ["a", *(f"{one[s]:.4g}" for s in steps)],
        ["b", *(f"{other[s]:.4g}" for s in steps)],
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    table = ["  ".join(f"{word:>{width}}" for word, width in zip(row, widths)) for row in rows]
    drawing = chart({"a": one, "b": other})
    return True, "\n".join([f"{name}, over a run of {run.total_steps} steps", *table, "", drawing])
