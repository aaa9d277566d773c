"""The picture of a plan: every scheduled option over the run, a line for each group; what was logged upon them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_solver.chart import chart
from lightning_solver.errors import SolverError
from lightning_solver.plain import FrozenDict
from lightning_solver.schedules.base import Floats, Integers
from lightning_solver.spec import whole_steps
from lightning_solver.table import scheduled_clips

if TYPE_CHECKING:
    from lightning_solver.happened import Happened, Series
    from lightning_solver.plan import Plan

_MOST_POINTS = 20_000
_MOST_LINES = 12
_AT_THE_FOOT: Mapping[str, Any] = FrozenDict(color="C3", linestyle="", marker="x", clip_on=False)
_HEIGHT = 2.6  # of a panel, in inches


def draw(plan: Plan, path: Path, happened: Happened | None = None) -> Path:
    """Draw a plan into a file; see :meth:`Plan.draw`.

    Args:
        plan: The plan.
        path: File to write; its ending says the format.
        happened: What really happened, to be drawn beside it.

    Raises:
        SolverError: matplotlib is not installed, the length of the run is not known, or the file cannot be written.
    """
    figure_class = _figure_class()
    total = whole_steps(plan.run)
    steps = np.unique(np.linspace(0, total - 1, min(total, _MOST_POINTS)).astype(np.int64))
    panels = _panels(plan, steps, happened)
    heights = [_HEIGHT * panel.share for panel in panels]
    figure = figure_class(figsize=(10, 1.2 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels):
        _draw_panel(axis, panel)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel("optimiser step")
    axes[-1].set_xlim(0, max(total - 1, 1))
    _mark_epochs(axes[0], plan)
    name = plan.recipe.cls.__name__
    title = f"{name}, {total:,} steps, {len(plan.groups)} group{'s' * (len(plan.groups) != 1)}"
    figure.suptitle(title if happened is None else f"{title}; logged in {happened.path.name}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        what = f"cannot write {path.suffix}: {error}"
        raise SolverError("plan.draw", what, got=str(path), do="end it in .png") from error
    return path


def chart_plan(plan: Plan, *, width: int = 72, height: int = 11) -> str:
    """Draw a plan as text; see :meth:`Plan.chart`.

    Args:
        plan: The plan.
        width: Columns of a drawing.
        height: Lines of a drawing.

    Raises:
        SolverError: The length of the run is not known.
    """
    names = [group.name for group in plan.groups]
    found = {option: dict(zip(names, plan.curve(option).T)) for option in plan.curves}
    for name, own in scheduled_clips(plan).items():
        found[f"limit: {name}"] = {label: plan.curve("clip")[:, i] for label, i in own}
    drawings = []
    for title, series in found.items():
        there = {label: values for label, values in series.items() if not np.isnan(values).any()}
        drawings.append(chart(there, title=title, width=width, height=height))
    return "\n\n".join(drawings)


@dataclass(frozen=True)
class _Line:
    """A line of a panel: its label, if it has one of its own, its points, and how it is drawn."""

    label: str
    steps: Any
    values: Any
    style: Mapping[str, Any]


@dataclass(frozen=True)
class _Panel:
    """A part of the picture that has a scale of its own."""

    name: str
    lines: tuple[_Line, ...]
    from_zero: bool = True
    share: float = 1.0


def _panels(plan: Plan, steps: Integers, happened: Happened | None) -> list[_Panel]:
    """What is scheduled, limits too; then what was logged of the gradients."""
    options = list(plan.curves)
    if happened is not None:
        options += [option for option in happened.options if option not in options and happened.differs(option)]
    panels = [_of_option(plan, option, steps, happened) for option in options or ["lr"]]
    limits = _limits(plan, steps)
    norms = [] if happened is None else _of_norms(plan, steps, happened)
    if norms and [*limits] == ["max_norm"] and _is_of_all(plan):
        limits = {}  # it is shown beside the norm of which it is the limit
    panels += [_Panel(f"limit: {name}", lines) for name, lines in limits.items()]
    return panels if happened is None else [*panels, *norms, *_of_shares(happened), *_of_groups(happened)]


def _limits(plan: Plan, steps: Integers) -> dict[str, tuple[_Line, ...]]:
    """The limits that move, by what they are called."""
    return {
        name: tuple(_Line(label, steps, plan.limits(steps)[:, i], _style(k, steps)) for k, (label, i) in enumerate(own))
        for name, own in scheduled_clips(plan).items()
    }


def _of_option(plan: Plan, option: str, steps: Integers, happened: Happened | None) -> _Panel:
    """Groups with the same values share a line; what was logged lies as a thin line upon a wide, pale one."""
    values = plan.curve_of(option).over(steps)
    alike: dict[bytes, list[int]] = {}
    for i in range(values.shape[1]):
        if np.isnan(values[:, i]).all():
            continue  # its optimiser has no such option
        alike.setdefault(values[:, i].tobytes(), []).append(i)
    beside = [one for one in (happened.beside if happened is not None else ()) if one.option == option]
    wrong = {one.group for one in beside if one.first is not None}
    first = sorted(alike.values(), key=lambda members: not wrong.intersection(members))[:_MOST_LINES]
    shown = [members for members in alike.values() if members in first]  # those that went otherwise among them
    planned, logged = [], []
    for k, members in enumerate(shown):
        label = _label([plan.groups[i].name for i in members])
        planned.append(_Line(label, steps, values[:, members[0]], _style(k, steps, beside=bool(beside))))
        own = [one for one in beside if one.group in members]
        own = [one for one in own if one.first is not None] or own[:1]  # equal ones would hide each other
        logged += [_Line("", one.logged.steps, one.logged.values, _logged(k, one.logged)) for one in own]
    for one in beside:
        if one.group is None:
            logged.append(_Line("", one.logged.steps, one.logged.values, _logged("black", one.logged)))
    if len(alike) > len(shown):
        planned.append(_Line(f"... and {len(alike) - len(shown)} more", [], [], {"linestyle": ""}))
    if beside:
        planned.append(_Line("planned", [], [], _style("grey", steps, beside=True)))
        planned.append(_Line("logged", [], [], {"color": "black", "linewidth": 1.0}))
    return _Panel(option, (*planned, *logged))


def _label(names: Sequence[str]) -> str:
    """The first of some names, as many as a legend has room for, and how many more there are."""
    most = next((n for n in range(min(len(names), 3), 1, -1) if len(", ".join(names[:n])) <= 40), 1)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_of_all(plan: Plan) -> bool:
    """Whether there is one limit, and it is one of the norm of all gradients."""
    return len(plan.clips) == 1 and plan.clips[0].everything and plan.clips[0].clip.by_joint_norm


def _of_norms(plan: Plan, steps: Integers, happened: Happened) -> list[_Panel]:
    """The norm of the gradients before and after clipping, and the limit."""
    logged = happened.gradients
    if not {"grad_norm", "grad_norm_clipped"} & {*logged}:
        return []
    lines = []
    if _is_of_all(plan) and plan.clips[0].clip.limit is not None:
        lines.append(_Line("limit, planned", steps, plan.limits(steps)[:, 0], _style("C3", steps, beside=True)))
    if "clip_limit" in logged and (not plan.clips or _is_of_all(plan)):
        found, style = logged["clip_limit"], {"color": "C3", "linewidth": 1.4, "linestyle": "--"}
        lines.append(_Line("limit", found.steps, _finite(found.values), style))
    names = [("grad_norm", "before clipping" if "grad_norm_clipped" in logged else "of all gradients", "C0")]
    for name, label, colour in [*names, ("grad_norm_clipped", "after clipping", "C2")]:
        if name in logged:
            found = logged[name]
            lines.append(_Line(label, found.steps, _finite(found.values), {"color": colour, "linewidth": 1.0}))
    if "grad_norm" in logged:
        wrong = logged["grad_norm"].steps[~np.isfinite(logged["grad_norm"].values)]
        if len(wrong):
            lines.append(_Line(f"not finite ({len(wrong):,})", wrong, np.zeros(len(wrong)), _AT_THE_FOOT))
    return [_Panel("gradient norm", tuple(lines), from_zero=False)]


def _of_shares(happened: Happened) -> list[_Panel]:
    """The share of the steps in which gradients were clipped."""
    lines: list[_Line] = []
    for key, found in happened.gradients.items():
        share, _, kind = key.partition("/")
        if share == "clip_share":
            style = {"color": _colour(len(lines) + 1), "linewidth": 1.0}
            lines.append(_Line(kind, found.steps, found.values, style))
    return [_Panel("clipped share", tuple(lines), share=0.5)] if lines else []


def _of_groups(happened: Happened) -> list[_Panel]:
    """The norm of the gradients of each group."""
    if not happened.by_group:
        return []
    lines = [
        _Line(name, series.steps, _finite(series.values), {"color": _colour(k), "linewidth": 1.0})
        for k, (name, series) in enumerate(happened.by_group.items())
    ]
    if len(lines) > _MOST_LINES:
        more = _Line(f"... and {len(lines) - _MOST_LINES} more", [], [], {"linestyle": ""})
        lines = [*lines[:_MOST_LINES], more]
    return [_Panel("gradient norm, by group", tuple(lines), from_zero=False)]


def _finite(values: Floats) -> Floats:
    """Values with a gap where they are not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def _colour(k: int | str) -> str:
    """The colour of a line by its number: twelve that can be told apart."""
    return k if isinstance(k, str) else (*(f"C{i}" for i in range(10)), "navy", "black")[k % 12]


def _style(k: int | str, steps: Integers, *, beside: bool = False) -> dict[str, Any]:
    """How a planned line is drawn: wide and pale where a logged one lies upon it."""
    style: dict[str, Any] = {"color": _colour(k)}
    style |= {"linewidth": 4.5, "alpha": 0.3} if beside else {"linewidth": 1.6}
    if len(steps) <= 60:
        style |= {"drawstyle": "steps-post", "marker": "" if beside else "."}
    return style


def _logged(k: int | str, series: Series) -> dict[str, Any]:
    """How a logged line is drawn: thin, with its points where they can be told apart."""
    points: dict[str, Any] = {"marker": ".", "markersize": 5} if len(series.steps) <= 100 else {}
    return {"color": _colour(k), "linewidth": 1.0, **points}


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        do = "pip install 'lightning-solver[plot]'"
        raise SolverError("plan.draw", "matplotlib is not installed", do=do) from error
    return Figure


def _draw_panel(axis: Any, panel: _Panel) -> None:
    """Lines, scales and a legend, which stands beside them so that it covers nothing."""
    drawn = []
    for line in panel.lines:
        at_the_foot = line.style is _AT_THE_FOOT
        where = {"transform": axis.get_xaxis_transform()} if at_the_foot else {}
        axis.plot(line.steps, line.values, label=line.label or "_", **line.style, **where)
        if not at_the_foot:
            drawn.append(np.asarray(line.values, dtype=float))
    axis.set_ylabel(panel.name)
    values = np.concatenate(drawn) if drawn else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        values = np.zeros(1)
    low, high = float(values.min()), float(values.max())
    if not panel.from_zero and low > 0 and high > 30 * low:
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter("")
    else:
        low = min(low, 0.0)
        margin = 0.04 * ((high - low) or 1.0)
        axis.set_ylim(low - margin, high + margin)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


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
