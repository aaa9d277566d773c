import re
import sys
from pathlib import Path

import pytest
from torch import nn

from lightning_solver import Rule, RunLength, SolverError, SolverSpec
from lightning_solver.drawing import _figure_class
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
