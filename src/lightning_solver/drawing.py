"""The picture of a plan: every scheduled option over the run, a line for each group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_solver.errors import SolverError
from lightning_solver.spec import whole_steps

if TYPE_CHECKING:
    from lightning_solver.plan import Plan

_MOST_POINTS = 20_000
_MOST_LINES = 12


def draw(plan: Plan, path: Path) -> Path:
    """Draw the plan into a file; see :meth:`Plan.draw`."""
    figure_class = _figure_class()
    total = whole_steps(plan.run)
    steps = np.unique(np.linspace(0, total - 1, min(total, _MOST_POINTS)).astype(np.int64))
    options = list(plan.curves) or ["lr"]
    figure = figure_class(figsize=(9, 1.2 + 2.6 * len(options)), layout="constrained")
    axes = figure.subplots(len(options), 1, sharex=True, squeeze=False)[:, 0]
    for axis, option in zip(axes, options):
        _draw_option(axis, plan, option, steps)
    axes[-1].set_xlabel("optimiser step")
    axes[-1].set_xlim(0, max(total - 1, 1))
    _mark_epochs(axes[0], plan)
    name = plan.recipe.cls.__name__
    figure.suptitle(f"{name}, {total:,} steps, {len(plan.groups)} group{'s' * (len(plan.groups) != 1)}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        what = f"cannot write {path.suffix}: {error}"
        raise SolverError("plan.draw", what, got=str(path), do="end it in .png") from error
    return path


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        do = "pip install 'lightning-solver[plot]'"
        raise SolverError("plan.draw", "matplotlib is not installed", do=do) from error
    return Figure


def _draw_option(axis: Any, plan: Plan, option: str, steps: np.ndarray[Any, Any]) -> None:
    """Groups with the same values share a line, thicker ones below, so that none is hidden."""
    values = plan.curve_of(option).over(steps)
    lines: dict[bytes, list[int]] = {}
    for i in range(values.shape[1]):
        if np.isnan(values[:, i]).all():
            continue  # its optimiser has no such option
        lines.setdefault(values[:, i].tobytes(), []).append(i)
    shown = list(lines.values())[:_MOST_LINES]
    stairs = len(steps) <= 60
    for members in shown:
        label = ", ".join(plan.groups[i].name for i in members[:3])
        if len(members) > 3:
            label += f" and {len(members) - 3} more"
        style = {"drawstyle": "steps-post", "marker": "."} if stairs else {}
        axis.plot(steps, values[:, members[0]], label=label, linewidth=1.6, **style)
    if len(lines) > len(shown):
        axis.plot([], [], " ", label=f"... and {len(lines) - len(shown)} more")
    axis.set_ylabel(option)
    low, high = min(float(np.nanmin(values)), 0.0), float(np.nanmax(values))
    margin = 0.04 * ((high - low) or 1.0)
    axis.set_ylim(low - margin, high + margin)
    axis.grid(alpha=0.3)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=8, frameon=False, loc="best")
    axis.spines[["top", "right"]].set_visible(False)


def _mark_epochs(axis: Any, plan: Plan) -> None:
    """A second scale at the top that counts epochs, where they are known."""
    run = plan.run
    if run.epoch_ends is not None:
        ends = np.array([0.0, *(float(end) for end in run.epoch_ends)])
        numbers = np.arange(len(ends), dtype=float)
    elif run.steps_per_epoch is not None:
        ends, numbers = np.array([0.0, float(run.steps_per_epoch)]), np.array([0.0, 1.0])
    else:
        return

    def line(x: Any, xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any]) -> Any:
        x = np.asarray(x, dtype=float)
        inside = np.interp(x, xs, ys)
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        first = (ys[1] - ys[0]) / (xs[1] - xs[0])
        beyond = np.where(x > xs[-1], ys[-1] + (x - xs[-1]) * slope, inside)
        return np.where(x < xs[0], ys[0] + (x - xs[0]) * first, beyond)

    top = axis.secondary_xaxis("top", functions=(lambda x: line(x, ends, numbers), lambda e: line(e, numbers, ends)))
    top.set_xlabel("epoch")
    top.xaxis.get_major_locator().set_params(integer=True)
