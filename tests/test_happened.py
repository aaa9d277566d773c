"""happened: a CSVLogger's file read, and held against the plan of the run."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_solver import Rule, RunLength, SolverError, SolverSpec
from lightning_solver.clipping import AGC, GlobalNorm, ZClip
from lightning_solver.happened import happened, read_log
from lightning_solver.schedules import Cosine, Linear, Plateau
from small import Net, loader, spec, trainer

SGD = {"name": "SGD", "args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}}


def plan(*, total_steps: int = 100, run: RunLength | None = None, groups: int = 3, **more: Any) -> Any:
    """A plan with so many groups, of different learning rates and sizes."""
    module = nn.ModuleList(nn.Linear(2, i + 1, bias=False) for i in range(groups))
    rules = [Rule(match=f"{i}.*", lr_scale=0.5**i, name=f"part_{i}") for i in range(1, groups)]
    given = {"optimizer": SGD, "rules": rules, "schedules": {"lr": Cosine()}, **more}
    run = RunLength(total_steps=total_steps) if run is None else run
    return SolverSpec(**given).plan(module, run=run)


def write(path: Path, columns: dict[str, dict[int, Any]]) -> Path:
    """A metrics.csv with a line for each step of each column, as a CSVLogger writes that is called for each."""
    rows = [{"step": step, name: value} for name, cells in columns.items() for step, value in cells.items()]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "epoch", "step"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def by_plan(made: Any, option: str = "lr", steps: Any = range(0, 100, 10), head: str = "lr") -> dict[str, Any]:
    """Columns as SolverMonitor would have written them by a plan."""
    values = made.curve_of(option).over(np.array(steps))
    names = [group.name for group in made.groups]
    alone = len(names) == 1
    return {
        head if alone else f"{head}/{name}": dict(zip(steps, values[:, i].tolist())) for i, name in enumerate(names)
    }


def told(made: Any, path: Path, **more: Any) -> list[str]:
    """The lines that compare the two, without the first."""
    head, *rest = happened(read_log(path), made, **more).describe().splitlines()
    assert head == f"what happened, by {path.name}"
    return [line.removeprefix("  ") for line in rest]


# ------------------------------------------------------------------ reading


def test_empty_cells_and_steps_that_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("lr,loss,step\n0.1,,0\n,2.5,0\n0.3,,7\n0.2,,3\n\n0.4,,7\n")
    log = read_log(path)
    assert log.series("lr").steps.tolist() == [0, 3, 7]
    assert log.series("lr").values.tolist() == [0.1, 0.2, 0.4]
    assert log.series("loss").values.tolist() == [2.5]


def test_what_is_never_asked_for_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("name,lr,step\nfirst,0.1,0\n")
    log = read_log(path)
    assert log.series("lr").values.tolist() == [0.1]
    with pytest.raises(SolverError, match=r"metrics.csv:2: name is no number; got 'first'; mend the line"):
        log.series("name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"metrics.csv: has no column step; got an empty file; give the metrics.csv that a CSVLogger has written"),
        ("lr,epoch\n0.1,0\n", r"metrics.csv: has no column step; got lr, epoch; give"),
        ("lr,step\n0.1,0,5\n", r"metrics.csv:2: is not as long as the head of the file; got 3 cells, the head has 2"),
        ("lr,step\n0.1,0.5\n", r"metrics.csv:2: step is no number of a step; got '0.5'"),
        ("lr,step\n0.1,-1\n", r"metrics.csv:2: step is no number of a step; got '-1'"),
        ("lr,step\n0.1,first\n", r"metrics.csv:2: step is no number; got 'first'"),
        ('lr,step\n"0.1,0\n', r"metrics.csv: cannot be read: it is no CSV; give"),
    ],
    ids=["empty", "no step", "ragged", "half a step", "negative", "text", "open quote"],
)
def test_files_that_are_no_log(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(SolverError, match=message):
        read_log(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SolverError, match=r"nothing.csv: cannot be read: No such file or directory; give"):
        read_log(tmp_path / "nothing.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(SolverError, match=r"picture.csv: cannot be read: it is no CSV"):
        read_log(tmp_path / "picture.csv")


# ------------------------------------------------------------------ comparing


def test_what_went_as_planned(tmp_path: Path) -> None:
    made = plan()
    path = write(tmp_path / "metrics.csv", by_plan(made) | by_plan(made, "momentum", head="momentum"))
    assert told(made, path) == [
        "lr of default, part_1, part_2: exactly as planned (10 steps from 0 to 90)",
        "momentum of default, part_1, part_2: exactly as planned (10 steps from 0 to 90)",
    ]


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (1 + 3e-13, "as planned, to 1e-12"),
        (1 + 3e-8, "as planned, to 1e-07"),
        (float(np.float32(1.0)), "exactly as planned"),
    ],
)
def test_rounding_is_no_difference(tmp_path: Path, factor: float, text: str) -> None:
    made = plan(groups=1)
    cells = {step: value * factor for step, value in by_plan(made)["lr"].items()}
    path = write(tmp_path / "metrics.csv", {"lr": cells})
    assert told(made, path) == [f"lr of default: {text} (10 steps from 0 to 90)"]


def test_values_of_single_precision_are_as_planned(tmp_path: Path) -> None:
    made = plan(groups=1)
    cells = {step: float(np.float32(value)) for step, value in by_plan(made)["lr"].items()}
    (line,) = told(made, write(tmp_path / "metrics.csv", {"lr": cells}))
    assert line.startswith("lr of default: as planned, to 1e-0")


def test_a_small_value_at_the_end_of_a_run_counts_as_much_as_a_large_one(tmp_path: Path) -> None:
    """A part of the value itself, not of the greatest one."""
    made = plan(groups=1, schedules={"lr": Linear(end=1e-5)}, total_steps=100_000)
    last = made.curve("lr")[-1, 0]
    (line,) = told(made, write(tmp_path / "m.csv", {"lr": {0: 0.1, 99_999: last * 1.01}}))
    assert line.startswith("lr of default differs from step 99,999: ")


def test_where_and_by_how_much_it_differs(tmp_path: Path) -> None:
    made = plan(schedules={})
    columns = by_plan(made)
    columns["lr/part_1"] |= {60: 0.04, 80: 0.01, 90: 0.049}
    assert told(made, write(tmp_path / "metrics.csv", columns)) == [
        "lr of part_1 differs from step 60: 0.05 planned, 0.04 logged; most at step 80: 0.05 planned, 0.01 logged",
        "lr of default, part_2: exactly as planned (10 steps from 0 to 90)",
    ]


def test_a_difference_that_six_digits_do_not_show(tmp_path: Path) -> None:
    made = plan(groups=1, schedules={})
    assert told(made, write(tmp_path / "m.csv", {"lr": {5: 0.1000002}})) == [
        "lr of default differs from step 5: 0.1 planned, 0.1000002 logged"
    ]


def test_what_is_no_number_differs(tmp_path: Path) -> None:
    made = plan(groups=1, schedules={})
    assert told(made, write(tmp_path / "m.csv", {"lr": {4: 0.1, 5: math.nan}})) == [
        "lr of default differs from step 5: 0.1 planned, nan logged"
    ]


def test_many_that_differ_are_cut_and_the_others_counted(tmp_path: Path) -> None:
    made = plan(groups=20)
    columns = by_plan(made)
    for i in range(1, 16):
        columns[f"lr/part_{i}"][50] = 7.0
    lines = told(made, write(tmp_path / "metrics.csv", columns))
    assert len(lines) == 14
    assert lines[12] == "lr differs of 3 more: part_13, part_14, part_15"
    assert lines[13].startswith("lr of default, part_16, part_17, part_18, part_19: exactly as planned")
    lines = told(made, write(tmp_path / "metrics.csv", by_plan(made)))
    assert lines == ["lr of all 20 groups: exactly as planned (10 steps from 0 to 90)"]


def test_what_was_not_logged_is_said(tmp_path: Path) -> None:
    made = plan(schedules={"lr": Cosine(), "weight_decay": Cosine()})
    columns = by_plan(made)
    del columns["lr/part_2"]
    assert told(made, write(tmp_path / "metrics.csv", columns)) == [
        "lr of default, part_1: exactly as planned (10 steps from 0 to 90)",
        "lr of part_2 was not logged",
        "weight_decay was not logged",
    ]


def test_a_summary_of_many_groups(tmp_path: Path) -> None:
    made = plan(groups=12)
    values = made.curve("lr")[::10]
    steps = range(0, 100, 10)
    columns = {
        "lr": dict(zip(steps, values[:, 11])),  # of the group with the most weights
        "lr/min": dict(zip(steps, values.min(axis=1))),
        "lr/max": dict(zip(steps, values.max(axis=1) * 2)),
    }
    lines = told(made, write(tmp_path / "metrics.csv", columns))
    assert lines[0].startswith("lr of the greatest of all groups differs from step 0: 0.1 planned, 0.2 logged")
    assert lines[1:] == ["lr of part_11, the least of all groups: exactly as planned (10 steps from 0 to 90)"]


def test_a_schedule_that_follows_a_metric_may_go_otherwise(tmp_path: Path) -> None:
    made = plan(groups=1, schedules={"lr": Plateau(monitor="val_loss", factor=0.5, patience=1)}, total_steps=100)
    lines = told(made, write(tmp_path / "metrics.csv", {"lr": {0: 0.1, 50: 0.05}}))
    assert lines[0] == "lr of default differs from step 50: 0.1 planned, 0.05 logged"
    assert lines[1] == "the plan shows schedules that follow val_loss as they are as long as nothing drops"
    assert len(told(made, write(tmp_path / "metrics.csv", {"lr": {0: 0.1, 50: 0.1}}))) == 1


# ------------------------------------------------------------------ gradients


def test_what_was_logged_of_gradients(tmp_path: Path) -> None:
    made = plan(groups=1, clip=GlobalNorm(max_norm=1.0, schedule=Linear(end=0.5)))
    steps = range(0, 100, 25)
    columns = {
        "grad_norm": dict(zip(steps, [3.0, math.nan, 2.0, 1.0])),
        "grad_norm_clipped": dict(zip(steps, [1.0, math.inf, 0.7, 0.6])),
        "clip_limit": dict(zip(steps, made.curve("clip")[::25, 0])),
        "clip_share": dict(zip(steps, [1.0, 0.5, 0.5, 0.0])),
    }
    found = happened(read_log(write(tmp_path / "metrics.csv", columns)), made)
    assert set(found.gradients) == set(columns)
    assert found.options == ()
    assert found.describe().splitlines()[1:] == [
        "  lr was not logged",
        "  clip_limit of GlobalNorm: exactly as planned (4 steps from 0 to 75)",
        "  norm of the gradients before clipping: 1 to 3, median 2, not finite at 1 logged steps",
        "  norm of the gradients after clipping: 0.6 to 1, median 0.7, not finite at 1 logged steps",
        "  clipped: 50% on average",
    ]


def test_limits_of_several_clippings(tmp_path: Path) -> None:
    made = plan(groups=1, clip=[GlobalNorm(max_norm=1.0), AGC(factor=0.02)])
    columns = {
        "clip_limit/GlobalNorm": {0: 1.0, 5: 1.0},
        "clip_limit/AGC": {0: 0.02, 5: 0.2},
        "clip_share/AGC": {0: 0.25, 5: 0.75},
    }
    assert told(made, write(tmp_path / "metrics.csv", columns)) == [
        "lr was not logged",
        "clip_limit of AGC differs from step 5: 0.02 planned, 0.2 logged",
        "clip_limit of GlobalNorm: exactly as planned (2 steps from 0 to 5)",
        "clipped by AGC: 50% on average",
    ]


def test_a_limit_that_a_clipping_finds_itself_is_not_held_against_the_plan(tmp_path: Path) -> None:
    made = plan(groups=1, clip=ZClip(max_norm=1.0))
    found = happened(read_log(write(tmp_path / "m.csv", {"clip_limit": {0: 0.3}})), made)
    assert found.beside == ()
    assert found.gradients["clip_limit"].values.tolist() == [0.3]


def test_norms_by_group(tmp_path: Path) -> None:
    made = plan()
    columns = {**by_plan(made), "grad_norm": {0: 5.0}, "grad_norm/part_1": {0: 3.0}, "grad_norm/other": {0: 3.0}}
    found = happened(read_log(write(tmp_path / "m.csv", columns)), made)
    assert [*found.by_group] == ["part_1"]
    assert [*found.gradients] == ["grad_norm"]


# ------------------------------------------------------------------ mistakes


def test_nothing_that_belongs_to_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.csv", {"train_loss": {0: 1.0}, "lr/elsewhere": {0: 0.1}})
    message = (
        r"has no column that belongs to the plan; got train_loss, lr/elsewhere; "
        r"log with SolverMonitor, which writes lr/default; or give the log of a run by this configuration"
    )
    with pytest.raises(SolverError, match=message):
        happened(read_log(path), plan())
    with pytest.raises(SolverError, match=r"got no values; log with SolverMonitor, which writes lr; or"):
        happened(read_log(write(path, {})), plan(groups=1))
    with pytest.raises(SolverError, match=r"belongs to the plan of generator; .* which writes lr/generator/default;"):
        happened(read_log(write(path, {"lr": {0: 0.1}})), plan(), name="generator")


def test_a_log_that_goes_beyond_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.csv", {"lr": {0: 0.1, 100: 0.1}, "train_loss": {500: 0.1}})
    message = r"goes beyond the plan, whose last step is 99; got step 100; plan by the configuration of that run"
    with pytest.raises(SolverError, match=message):
        happened(read_log(path), plan(groups=1))
    path = write(path, {"lr": {0: 0.1, 99: 0.0}, "train_loss": {500: 0.1}})
    happened(read_log(path), plan(groups=1))  # what does not belong to the plan may be anywhere


def test_a_plan_of_unknown_length_is_compared_at_any_step(tmp_path: Path) -> None:
    made = plan(groups=1, schedules={}, run=RunLength())
    assert told(made, write(tmp_path / "m.csv", {"lr": {0: 0.1, 10**6: 0.1}})) == [
        "lr of default: exactly as planned (2 steps from 0 to 1,000,000)"
    ]


# ------------------------------------------------------------------ several optimisers


def test_the_log_of_several_optimisers_counts_batches(tmp_path: Path) -> None:
    """Each steps at every second batch; the log says how many steps were made."""
    made = plan(groups=1, run=RunLength(total_steps=50, batches_per_step=2))
    curve = made.curve("lr")[:, 0]
    columns = {
        "lr/generator": {batch: curve[batch // 2] for batch in range(1, 100, 10)},
        "steps/generator": {batch: batch // 2 + 1 for batch in range(1, 100, 10)},
        "lr": {0: 77.0},
    }
    lines = told(made, write(tmp_path / "m.csv", columns), name="generator", automatic=False)
    assert lines == ["lr of default: exactly as planned (10 steps from 0 to 45)"]
    del columns["steps/generator"]
    assert told(made, write(tmp_path / "m.csv", columns), name="generator", automatic=False) == lines


# ------------------------------------------------------------------ real runs


@pytest.mark.parametrize("accumulate", [1, {0: 1, "1ep": 3}], ids=["plain", "accumulated"])
def test_the_log_of_lightnings_monitor(tmp_path: Path, accumulate: Any) -> None:
    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(logging_interval="step", log_momentum=True, log_weight_decay=True)
    fit = trainer(max_epochs=3, logger=logger, callbacks=[monitor], log_every_n_steps=1)
    net = Net(spec(accumulate=accumulate))
    fit.fit(net, loader())
    made = net.solver_plan
    assert made is not None
    found = happened(read_log(Path(logger.log_dir) / "metrics.csv"), made)
    assert set(found.options) == {"lr", "weight_decay", "momentum"}
    assert len(found.beside) == 3 * len(made.groups)
    for one in found.beside:
        assert one.logged.steps.tolist() == list(range(fit.global_step))
        assert (one.off == 0).all()


def test_the_log_of_a_run_that_went_otherwise(tmp_path: Path) -> None:
    class Meddles(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step >= 12:
                self.optimizers().param_groups[1]["lr"] = 1.0  # type: ignore[union-attr]

    logger = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(logging_interval="step")
    fit = trainer(max_epochs=2, logger=logger, callbacks=[monitor], log_every_n_steps=1)
    net = Meddles(spec(schedules={}))
    fit.fit(net, loader())
    made = net.solver_plan
    assert made is not None
    lines = told(made, Path(logger.log_dir) / "metrics.csv")
    # the monitor looks before the module acts, so that it sees it one step later
    assert lines[0] == f"lr of {made.groups[1].name} differs from step 13: 0.001 planned, 1 logged"
