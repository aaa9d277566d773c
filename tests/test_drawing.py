import re
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from lightning_solver import Rule, RunLength, SolverError, SolverSpec
from lightning_solver.clipping import AGC, GlobalNorm, GroupNorm, ParameterNorm, Value
from lightning_solver.drawing import _figure_class, draw
from lightning_solver.happened import Beside, Happened, Series
from lightning_solver.schedules import Constant, Cosine, Linear, Staircase

ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}
WARMUP = [Linear(start=0.0, until="10%"), Cosine()]


def plan(*, module=None, total_steps=100, run=None, **more):
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)) if module is None else module
    spec = SolverSpec(optimizer=ADAMW, **more)
    return spec.plan(module, run=run) if run is not None else spec.plan(module, total_steps=total_steps)


def size(path):
    """Width and height of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept for a look at them."""
    figures = []
    figure = _figure_class()

    class Kept(figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr("lightning_solver.drawing._figure_class", lambda: Kept)
    return figures


def test_a_picture_file_is_written(tmp_path):
    path = plan(schedules={"lr": WARMUP}).draw(tmp_path / "plan.png")
    assert path == tmp_path / "plan.png"
    width, height = size(path)
    assert width > height > 100


def test_the_path_may_be_a_text_in_a_folder_that_is_not_there_yet(tmp_path):
    path = plan(schedules={"lr": WARMUP}).draw(str(tmp_path / "new" / "plan.png"))
    assert isinstance(path, Path)
    assert path.is_file()


def test_every_schedule_has_its_own_axes(tmp_path, drawn):
    made = plan(schedules={"lr": WARMUP, "weight_decay": Cosine(), "momentum": Constant(0.5)})
    made.draw(tmp_path / "plan.png")
    (figure,) = drawn
    assert [axis.get_ylabel() for axis in figure.axes] == ["lr", "weight_decay", "momentum"]
    assert figure.get_suptitle() == "AdamW, 100 steps, 2 groups"


def test_lines_hold_the_values_of_the_plan(tmp_path, drawn):
    made = plan(schedules={"lr": WARMUP}, rules=[Rule(match="2.*", lr_scale=0.5)], default_rules=False)
    made.draw(tmp_path / "plan.png")
    lines = drawn[0].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["default", "2"]
    for i, line in enumerate(lines):
        assert line.get_ydata().tolist() == made.curve("lr")[:, i].tolist()
        assert line.get_xdata().tolist() == list(range(100))


def test_groups_with_the_same_values_share_a_line(tmp_path, drawn):
    plan(schedules={"lr": WARMUP}).draw(tmp_path / "plan.png")
    assert [line.get_label() for line in drawn[0].axes[0].get_lines()] == ["default, no_decay"]


def test_without_a_schedule_the_learning_rate_is_drawn(tmp_path, drawn):
    plan().draw(tmp_path / "plan.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["lr"]


def test_very_many_groups_are_cut_and_counted(tmp_path, drawn):
    module = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(20)))
    rules = [Rule(match=f"{i}.*", lr_scale=1 / (i + 1)) for i in range(20)]
    plan(module=module, rules=rules, schedules={"lr": WARMUP}).draw(tmp_path / "plan.png")
    labels = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert len(labels) == 13
    assert labels[-1] == "... and 8 more"


def test_a_long_run_is_drawn_at_some_of_its_steps(tmp_path, drawn):
    plan(total_steps=1_000_000, schedules={"lr": WARMUP}).draw(tmp_path / "plan.png")
    (line,) = drawn[0].axes[0].get_lines()
    steps = line.get_xdata()
    assert steps[0] == 0
    assert steps[-1] == 999_999
    assert 1_000 < len(steps) <= 20_000


@pytest.mark.parametrize("total", [1, 2, 3, 59, 61])
def test_short_runs(tmp_path, total):
    assert size(plan(total_steps=total, schedules={"lr": Linear(end=0.0)}).draw(tmp_path / "plan.png"))


@pytest.mark.parametrize(
    ("run", "last"),
    [
        (RunLength(total_steps=40, steps_per_epoch=10), 3.9),
        (RunLength(total_steps=40, steps_per_epoch=6.25), 39 / 6.25),
        (RunLength(total_steps=40, epoch_ends=[5, 20, 40]), 2 + 19 / 20),
        (RunLength(total_steps=7, epoch_ends=[5, 20, 40]), 1 + 1 / 15),
        (RunLength(total_steps=60, epoch_ends=[5, 20, 40]), 3.95),
    ],
    ids=["even", "fractional", "uneven", "cut short", "longer"],
)
def test_epochs_are_marked_where_they_are_known(tmp_path, drawn, run, last):
    plan(run=run, schedules={"lr": Staircase(Linear(end=0.0))}).draw(tmp_path / "plan.png")
    (top,) = drawn[0].axes[0].child_axes
    assert top.get_xlabel() == "epoch"
    assert top.get_xlim() == pytest.approx((0.0, last))


def test_no_epochs_no_marks(tmp_path, drawn):
    plan(schedules={"lr": WARMUP}).draw(tmp_path / "plan.png")
    assert drawn[0].axes[0].child_axes == []


def test_values_of_nothing_can_be_drawn(tmp_path):
    assert size(plan(schedules={"lr": Constant(0.0)}).draw(tmp_path / "plan.png"))


def test_matplotlib_that_is_not_installed(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    made = plan(schedules={"lr": WARMUP})
    message = "plan.draw: matplotlib is not installed; pip install 'lightning-solver[plot]'"
    with pytest.raises(SolverError, match=re.escape(message)):
        made.draw(tmp_path / "plan.png")
    assert not (tmp_path / "plan.png").exists()


def test_a_run_of_unknown_length_cannot_be_drawn(tmp_path):
    made = plan(run=RunLength())
    with pytest.raises(SolverError, match="total_steps: needs the length of the run"):
        made.draw(tmp_path / "plan.png")


def test_an_ending_that_is_no_picture(tmp_path):
    with pytest.raises(SolverError, match=r"plan\.draw"):
        plan().draw(tmp_path / "plan.xyz")


# ------------------------------------------------------------------ limits


def test_limits_that_move_have_axes_of_their_own(tmp_path, drawn):
    moves = Linear(end=0.1)
    clips = [GlobalNorm(max_norm=2.0, schedule=moves), Value(max_value=1.0), GlobalNorm(max_norm=1.0, schedule=moves)]
    made = plan(schedules={"lr": WARMUP}, clip=clips)
    made.draw(tmp_path / "plan.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["lr", "limit: max_norm"]
    lines = drawn[0].axes[1].get_lines()
    assert [line.get_label() for line in lines] == ["clip[0] (GlobalNorm)", "clip[2] (GlobalNorm)"]
    for line, i in zip(lines, (0, 2)):
        assert line.get_ydata().tolist() == made.curve("clip")[:, i].tolist()


def test_limits_of_several_kinds_do_not_share_a_scale(tmp_path, drawn):
    moves = Linear(end=0.1)
    plan(clip=[GlobalNorm(max_norm=2.0, schedule=moves), Value(max_value=1.0, schedule=moves)]).draw(tmp_path / "p.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["lr", "limit: max_norm", "limit: max_value"]


def test_limits_that_stay_are_not_drawn(tmp_path, drawn):
    plan(schedules={"lr": WARMUP}, clip=GlobalNorm(max_norm=1.0)).draw(tmp_path / "plan.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["lr"]


def test_limits_are_charted_as_text():
    text = plan(schedules={"lr": WARMUP}, clip=GlobalNorm(max_norm=2.0, schedule=Linear(end=0.1))).chart(height=5)
    first, second = text.split("\n\n")
    assert first.startswith("lr\n")
    assert second.startswith("limit: max_norm\n     2 |*")


def test_a_plan_without_schedules_has_no_chart():
    assert plan(clip=GlobalNorm(max_norm=2.0)).chart() == ""


# ------------------------------------------------------------------ what was logged


def series(steps, values):
    return Series(np.asarray(steps), np.asarray(values, dtype=float))


def logged(made, *, option="lr", every=5, factor=1.0, gradients=(), by_group=()):
    """What would have been logged, with the last group otherwise than planned."""
    steps = np.arange(0, int(made.run.total_steps), every)
    values = made.curve_of(option).over(steps)
    beside = []
    for i, group in enumerate(made.groups):
        went = values[:, i] * (factor if i == len(made.groups) - 1 else 1.0)
        beside.append(Beside(option, group.name, i, series(steps, went), values[:, i]))
    return Happened(made, Path("metrics.csv"), tuple(beside), dict(gradients), dict(by_group))


def test_what_was_logged_lies_upon_what_was_planned(tmp_path, drawn):
    made = plan(schedules={"lr": WARMUP}, rules=[Rule(match="2.*", lr_scale=0.5)], default_rules=False)
    draw(made, tmp_path / "plan.png", logged(made, factor=0.5))
    (figure,) = drawn
    assert figure.get_suptitle() == "AdamW, 100 steps, 2 groups; logged in metrics.csv"
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines[:4]] == ["default", "2", "planned", "logged"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "default",
        "2",
        "planned",
        "logged",
    ]
    default, other = lines[4:]
    assert default.get_ydata().tolist() == made.curve("lr")[::5, 0].tolist()
    assert other.get_ydata().tolist() == (0.5 * made.curve("lr")[::5, 1]).tolist()
    assert [line.get_color() for line in (default, other)] == [line.get_color() for line in lines[:2]]
    assert all(line.get_linewidth() > 3 * other.get_linewidth() for line in lines[:2])


def test_legends_stand_beside_the_curves(tmp_path, drawn):
    made = plan(schedules={"lr": WARMUP})
    draw(made, tmp_path / "plan.png", logged(made))
    for axis in drawn[0].axes:
        assert axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1


def test_of_very_many_groups_those_that_went_otherwise_are_shown(tmp_path, drawn):
    module = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(20)))
    made = plan(module=module, rules=[Rule(match=f"{i}.*", lr_scale=1 / (i + 1)) for i in range(20)])
    draw(made, tmp_path / "plan.png", logged(made, factor=0.5))
    labels = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert labels[10:15] == ["10", "19", "... and 8 more", "planned", "logged"]


def test_an_option_that_nothing_moves_is_drawn_where_it_went_otherwise(tmp_path, drawn):
    made = plan(schedules={"lr": WARMUP})
    draw(made, tmp_path / "plan.png", logged(made, option="momentum"))
    draw(made, tmp_path / "plan.png", logged(made, option="momentum", factor=0.5))
    assert [[axis.get_ylabel() for axis in figure.axes] for figure in drawn] == [["lr"], ["lr", "momentum"]]


def test_gradients_have_a_panel_with_the_limit(tmp_path, drawn):
    made = plan(clip=GlobalNorm(max_norm=1.0, schedule=Linear(end=0.5)))
    steps = np.arange(0, 100, 10)
    norms = np.array([3.0, 2.0, np.nan, np.inf, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    limits = made.limits(steps)[:, 0]
    gradients = {
        "grad_norm": series(steps, norms),
        "grad_norm_clipped": series(steps, np.minimum(norms, limits)),
        "clip_limit": series(steps, limits),
        "clip_share": series(steps, np.linspace(1, 0, 10)),
    }
    groups = {"default": series(steps, norms / 2), "no_decay": series(steps, norms / 3)}
    draw(made, tmp_path / "plan.png", logged(made, gradients=gradients.items(), by_group=groups.items()))
    (figure,) = drawn
    names = ["lr", "gradient norm", "clipped share", "gradient norm, by group"]
    assert [axis.get_ylabel() for axis in figure.axes] == names
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert [*lines] == ["limit, planned", "limit", "before clipping", "after clipping", "not finite (2)"]
    assert lines["limit, planned"].get_ydata().tolist() == made.curve("clip")[:, 0].tolist()
    assert lines["not finite (2)"].get_xdata().tolist() == [20, 30]
    assert np.isnan(lines["before clipping"].get_ydata()).tolist() == [False, False, True, True] + [False] * 6
    assert [line.get_label() for line in figure.axes[3].get_lines()] == ["default", "no_decay"]
    assert figure.axes[1].get_yscale() == "linear"


@pytest.mark.parametrize("clip", [ParameterNorm(max_norm=1.0), GroupNorm(max_norm=1.0), Value(max_value=0.1), AGC()])
def test_a_limit_of_something_else_is_not_drawn_beside_the_norm_of_all_gradients(tmp_path, drawn, clip):
    made, steps = plan(clip=clip), np.arange(10)
    gradients = {"grad_norm": series(steps, np.full(10, 8.0)), "clip_limit": series(steps, np.full(10, clip.limit))}
    draw(made, tmp_path / "plan.png", logged(made, gradients=gradients.items()))
    assert [line.get_label() for line in drawn[0].axes[1].get_lines()] == ["of all gradients"]


def test_norms_of_several_orders_of_magnitude_have_a_scale_for_them(tmp_path, drawn):
    made = plan()
    draw(
        made, tmp_path / "p.png", logged(made, gradients={"grad_norm": series([0, 50, 99], [0.01, 1.0, 100.0])}.items())
    )
    assert drawn[0].axes[1].get_yscale() == "log"
    assert [line.get_label() for line in drawn[0].axes[1].get_lines()] == ["of all gradients"]


def test_norms_that_are_all_nothing_can_be_drawn(tmp_path):
    made = plan()
    gradients = {"grad_norm": series([0, 50], [np.nan, np.nan]), "clip_share": series([0, 50], [np.nan, np.nan])}
    assert size(draw(made, tmp_path / "plan.png", logged(made, gradients=gradients.items())))
