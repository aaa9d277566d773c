"""Accumulation in YAML and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_module import WithArgument
from lightning_solver import SolverCLI
from lightning_solver.accumulation import Accumulation
from lightning_solver.callbacks import GradientAccumulation

pytestmark = [
    # Lightning's own use of jsonargparse, and its advice
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_epochs": 2,
}
SOLVER: dict[str, Any] = {"optimizer": {"name": "SGD", "args": {"lr": 0.1}}}


def cli(folder: Path, accumulate: Any, *args: str, **more: Any) -> Any:
    solver = SOLVER if accumulate is None else {**SOLVER, "accumulate": accumulate}
    config = {"trainer": {**QUIET, "default_root_dir": str(folder), **more}, "model": {"solver": solver}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    given = ["fit", f"--config={path}", *args]
    return SolverCLI(WithArgument, seed_everything_default=1, save_config_callback=None, args=given)


BLOCKS: dict[str, tuple[Any, Accumulation, int]] = {
    "a number": (4, Accumulation(4), 6),
    "numbers as points": ({0: 1, 3: 4}, Accumulation({0: 1, 3: 4}), 8),
    "texts as points": ({"0": 1, "1ep": 4}, Accumulation({"0": 1, "1ep": 4}), 13),
    "block": ({"batches": {0: 5}, "keep_gradients": True}, Accumulation({0: 5}, keep_gradients=True), 4),
    "samples": ({"samples": 8}, Accumulation(samples=8), 10),
}


@pytest.mark.parametrize(("block", "expected", "steps"), BLOCKS.values(), ids=BLOCKS)
def test_yaml_says_it(block: Any, expected: Accumulation, steps: int, tmp_path: Path) -> None:
    run = cli(tmp_path, block)
    how = run.model.solver.accumulation()
    assert how.windows(4) == expected.windows(4)
    assert how.keep_gradients == expected.keep_gradients
    assert run.trainer.global_step == run.model.solver_plan.run.total_steps == steps


ARGUMENTS: dict[str, tuple[str, int]] = {
    "a number": ("--model.solver.accumulate=4", 6),
    "a mapping": ("--model.solver.accumulate={0: 1, 1ep: 4}", 13),
    "json": ('--model.solver.accumulate={"0": 1, "3": 4}', 8),
    "block": ("--model.solver.accumulate={batches: 5}", 4),
    "samples": ("--model.solver.accumulate={samples: 8}", 10),
}


@pytest.mark.parametrize("before", [None, 2, {0: 2, 1: 3}], ids=str)
@pytest.mark.parametrize(("argument", "steps"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_the_command_line_says_it(argument: str, steps: int, before: Any, tmp_path: Path) -> None:
    run = cli(tmp_path, before, argument)
    assert run.trainer.global_step == steps


def test_what_makes_no_sense_is_refused_with_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(tmp_path, {0: 1, "10%": 4})
    assert "is not a point in epochs or in optimiser steps; got 10%" in capsys.readouterr().err


def test_the_callback_in_yaml(tmp_path: Path) -> None:
    path = f"{GradientAccumulation.__module__}.GradientAccumulation"
    callback = {"class_path": path, "init_args": {"batches": {0: 1, "1ep": 4}}}
    run = cli(tmp_path, None, callbacks=[callback])
    assert run.trainer.global_step == 13
