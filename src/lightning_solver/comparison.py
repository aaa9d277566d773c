"""What differs between two specs: settings, groups, and the curves at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_solver.chart import chart
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.files import Stored
from lightning_solver.schedules.base import Floats
from lightning_solver.spec import SolverSpec, difference

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
    settings = difference(a.spec, b.spec)
    groups = _groups(a, b) if a.groups and b.groups else []
    parts = [f"a: {a.label}\nb: {b.label}"]
    parts += ["settings (a -> b)\n" + _listed(settings)] if settings else []
    parts += ["groups (a -> b)\n" + _listed(groups)] if groups else []
    curves = [_curves(option, a, b, run, base) for option in dict.fromkeys([*a.spec.schedules, *b.spec.schedules])]
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


def _curves(option: str, a: Stored, b: Stored, run: RunLength, given: float | None) -> tuple[bool, str]:
    """Whether the curves of an option differ, and a table and a drawing of them."""
    curves: list[Floats] = []
    for stored in (a, b):
        base, _ = base_of(stored.spec, option, given)
        try:
            curves.append(stored.spec.curve(option, [base], run=run)[:, 0])
        except SolverError as error:
            return False, f"{option}: no curve of {stored.label}: {error}"
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
    return True, "\n".join([f"{option}, over a run of {run.total_steps} steps", *table, "", drawing])
