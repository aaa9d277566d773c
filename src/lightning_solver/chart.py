"""Curves as text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lightning_solver.schedules.base import Floats

_MARKS = "*o+x#@%&"


def chart(series: Mapping[str, Floats], *, title: str = "", width: int = 72, height: int = 11) -> str:
    """Curves over the steps of a run as lines of text.

    Args:
        series: Label -> the values of every step. All have the same length; equal ones share a mark.
        title: What is drawn.
        width: Columns of the drawing, without its scale; each shows the mean of its steps.
        height: Lines of the drawing.

    Example:
        >>> print(chart({"all": np.linspace(1.0, 0.0, 5)}, title="lr", width=5, height=3))
        lr
             1 |**
           0.5 |  *
             0 |   **
               +-----
                0   4
    """
    alike: dict[bytes, list[str]] = {}
    for label, values in series.items():
        alike.setdefault(values.tobytes(), []).append(label)
    shown = {", ".join(labels): series[labels[0]] for labels in list(alike.values())[: len(_MARKS)]}
    low = min(0.0, *(float(values.min()) for values in shown.values()))
    high = max(float(values.max()) for values in shown.values())
    high = high if high > low else low + 1.0
    steps = max(len(values) for values in shown.values())
    width = min(width, steps)
    grid = [[" "] * width for _ in range(height)]
    for mark, values in reversed(list(zip(_MARKS, shown.values()))):  # the first lies on top
        for column, part in enumerate(np.array_split(values, width)):
            row = round((high - float(part.mean())) / (high - low) * (height - 1))
            grid[row][column] = mark
    scale = [f"{high - (high - low) * row / (height - 1):.4g}" for row in range(height)]
    wide = max(6, *map(len, scale)) + 1
    labelled = {0, height // 2, height - 1}
    lines = [
        f"{scale[row] if row in labelled else '':>{wide - 1}} |{''.join(marks).rstrip()}"
        for row, marks in enumerate(grid)
    ]
    last = str(steps - 1)
    foot = [f"{'':{wide}}+{'-' * width}", f"{'':{wide}} 0{last:>{max(width - 1, len(last) + 1)}}"]
    legend = [f"{'':{wide}} {mark} {label}" for mark, label in zip(_MARKS, shown)] if len(shown) > 1 else []
    left = len(alike) - len(shown)
    more = [f"{'':{wide}}   and {left} more"] if left else []
    return "\n".join([*([title] if title else []), *lines, *foot, *legend, *more])
