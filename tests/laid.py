"""Schedules laid over small runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from lightning_solver import RunLength, SolverSpec
from lightning_solver.schedules import Curve, Window
from lightning_solver.schedules.base import run_window
from lightning_solver.schedules.join import lay
from lightning_solver.schedules.plateau import Feed

UNEVEN = [3, 8, 10, 16]


def table(
    schedule: Any,
    groups: Sequence[Any],
    total: int = 10,
    *,
    beyond: str = "error",
    optimizer: Any = None,
    metrics: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    **run: Any,
) -> Any:
    """The values of a run; shape (steps, groups)."""
    spec = SolverSpec(schedules={"lr": schedule}, beyond_run=beyond, optimizer=optimizer)  # type: ignore[arg-type]
    return spec.curve("lr", groups, run=RunLength(total_steps=total, **run), metrics=metrics)


def over(schedule: Any, total: int = 10, base: float = 1.0, **kwargs: Any) -> list[float]:
    """The values of a run of one group."""
    values: list[float] = table(schedule, [base], total, **kwargs)[:, 0].tolist()
    return values


def laid(schedule: Any, total: int | None = 10, *, beyond: str = "error", **run: Any) -> tuple[Curve, Window]:
    """The curve of one group whose base value is 1, and the window that it was laid over."""
    window = run_window([1.0], RunLength(total_steps=total, **run), "schedules.lr", beyond=beyond, feed=Feed())  # type: ignore[arg-type]
    return lay(tuple(schedule) if isinstance(schedule, list) else schedule, window), window


def notes(schedule: Any, total: int = 10, **kwargs: Any) -> list[str]:
    """What is noted of a schedule."""
    return laid(schedule, total, **kwargs)[1].notes


def after(schedule: Any, total: int = 10, **kwargs: Any) -> tuple[list[float], list[list[float]]]:
    """The value at the end of the run, and the values from there on."""
    curve, _ = laid(schedule, total, **kwargs)
    return curve.at(total), [curve.at(i) for i in range(total, 3 * total + 1)]


def close(values: Any, rel: float = 2e-15) -> Any:
    """``values`` up to the last bits."""
    return pytest.approx(np.asarray(values) if isinstance(values, np.ndarray) else values, rel=rel, abs=1e-16)
