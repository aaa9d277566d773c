"""Several optimisers from YAML and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_solver import SolverCLI, SolverSpec
from lightning_solver.callbacks.solver_clipping import SolverClipping
from lightning_solver.clipping import GlobalNorm, Value
from lightning_solver.command import main
from small import loader
from test_manual import PARTS, Gan, follows_its_plans

# What LightningCLI uses of jsonargparse, and it is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BLOCK = """
generator:
  optimizer: {name: AdamW, args: {lr: 0.01}}
  schedules: {lr: {class_path: Cosine, init_args: {end: 0.1}}}
discriminator:
  optimizer: {name: SGD, args: {lr: 0.02}}
  batches_per_step: 1
"""
QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "max_epochs": 2,
}  # fmt: skip


class Loaded(Gan):
    def train_dataloader(self) -> Any:
        return loader()


class WithArgument(Loaded):
    def __init__(self, solver: dict[str, SolverSpec]) -> None:
        super().__init__(solver)


class WithEither(Loaded):
    def __init__(self, solver: dict[str, SolverSpec] | SolverSpec | None = None) -> None:
        super().__init__(solver)


class WithoutArgument(Loaded):
    def __init__(self) -> None:
        super().__init__()


class ForOne(Loaded):
    def __init__(self, solver: SolverSpec | None = None) -> None:
        super().__init__(solver)


def configured(tmp_path: Path, where: str = "model.solver", block: Any = None, name: str = "config.yaml") -> str:
    config: dict[str, Any] = {"trainer": {**QUIET, "default_root_dir": str(tmp_path)}}
    section = config
    *path, last = where.split(".")
    for key in path:
        section = section.setdefault(key, {})
    section[last] = yaml.safe_load(BLOCK) if block is None else block
    (tmp_path / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return str(tmp_path / name)


def cli(module: Any, *args: str) -> Any:
    return SolverCLI(module, seed_everything_default=1, save_config_callback=None, args=list(args))


WAYS = {
    "argument": (WithArgument, "model.solver"),
    "either": (WithEither, "model.solver"),
    "top": (WithoutArgument, "solver"),
}


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
def test_the_block_from_yaml(module: Any, where: str, tmp_path: Path) -> None:
    run = cli(module, "fit", "--config", configured(tmp_path, where), f"--{where}.generator.lr=0.5")
    follows_its_plans(run.model)
    assert [*run.model.solver] == list(PARTS)
    assert run.model.used["generator"][0] == [0.5, 0.5]
    assert run.model.used["discriminator"][0] == [0.02] * len(run.model.used["discriminator"][0])
    assert type(run.trainer.optimizers[1]).__name__ == "SGD"


GRADIENTS = """
generator:
  optimizer: {name: AdamW, args: {lr: 0.01}}
  clip: {class_path: GlobalNorm, init_args: {max_norm: 0.01}}
  accumulate: 2
discriminator:
  optimizer: {name: SGD, args: {lr: 0.02}}
  clip:
    - {class_path: Value, init_args: {max_value: 0.1}}
    - {class_path: GlobalNorm, init_args: {max_norm: 0.02}}
  nonfinite: skip
"""


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
def test_gradients_of_each_from_yaml_and_the_command_line(module: Any, where: str, tmp_path: Path) -> None:
    config = configured(tmp_path, where, yaml.safe_load(GRADIENTS))
    given = ("clip={class_path: GlobalNorm, init_args: {max_norm: 0.5}}", "nonfinite=error", "accumulate=5")
    for args, clip, policy, steps in (((), 0.01, None, 10), (given, 0.5, "error", 4)):
        run = cli(module, "fit", "--config", config, *(f"--{where}.generator.{arg}" for arg in args))
        solver = run.model.solver
        assert solver["generator"].clip == GlobalNorm(clip)
        assert solver["discriminator"].clip == (Value(0.1), GlobalNorm(0.02))
        assert (solver["generator"].nonfinite, solver["discriminator"].nonfinite) == (policy, "skip")
        assert [part.scheduler.last_epoch for part in run.model.solver_parts.values()] == [steps, 20]
        work = next(one for one in run.trainer.callbacks if isinstance(one, SolverClipping)).at_work
        assert float(work["generator"].clipped[0].clipped_norm) <= clip  # type: ignore[arg-type]
        assert float(work["discriminator"].clipped[1].clipped_norm) == pytest.approx(0.02, rel=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
def test_resume_follows_the_yaml(module: Any, where: str, tmp_path: Path) -> None:
    run = cli(module, "fit", "--config", configured(tmp_path, where), "--trainer.max_epochs=1")
    run.trainer.save_checkpoint(tmp_path / "x.ckpt")
    args = ("--ckpt_path", str(tmp_path / "x.ckpt"), f"--{where}.generator.lr=0.5")
    again = cli(module, "fit", "--config", configured(tmp_path, where), *args)
    assert again.model.solver["generator"].lr == 0.5
    assert again.model.used["generator"] == again.model.solver_plans["generator"].curve("lr")[10:].tolist()


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
def test_plan_shows_all(module: Any, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(module, "plan", "--config", configured(tmp_path, where))
    out = capsys.readouterr().out
    assert "generator\n=========\nAdamW: " in out
    assert "discriminator\n=============\nSGD: " in out
    assert out.count("20 optimiser steps, 2 epochs of 10") == 2
    for name in PARTS:
        assert (tmp_path / f"plan_{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"picture: {(tmp_path / f'plan_{name}.png').resolve()}" in out


CHANGES = {
    "unknown key": ("optimizer: {name: SGD", "optimiser: {name: SGD", "{}.discriminator.optimiser: unknown key; got 'optimiser'; did you mean"),
    "in a schedule": ("end: 0.1", "ned: 0.1", "{}.generator.schedules.lr.init_args.ned: unknown key; got 'ned'; did you mean end"),
    "no such part": ("generator:", "genrator:", "solver.genrator: the module has no submodule of this name"),
    "found by the plan": ("end: 0.1", "end: 0.1, until: 5ep", "{}.generator.schedules.lr.until: reaches beyond the run"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("old", "new", "message"), CHANGES.values(), ids=CHANGES)
def test_mistakes_in_yaml(
    module: Any, where: str, old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = yaml.safe_load(BLOCK.replace(old, new, 1))
    with pytest.raises(SystemExit) as caught:
        cli(module, "fit", "--config", configured(tmp_path, where, block))
    assert caught.value.code == 2
    (line, *_) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: " + message.format(where))


OVERRIDES = {
    "wrong type": ("generator.lr=fast", "{}.generator.lr: must be a number or nothing; got 'fast' (str)"),
    "unknown key": ("generator.lrr=0.1", "{}.generator.lrr: unknown key; got 'lrr'; did you mean lr?"),
    "too deep": ("generator.optimizer.args.lr=1", "{0}.generator.optimizer.args.lr: lies too deep to be given for one of several optimisers on the command line; got 1; give {0}.generator.optimizer as a whole"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "where"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("override", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_mistakes_on_the_command_line(
    module: Any, where: str, override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli(module, "fit", "--config", configured(tmp_path, where), f"--{where}.{override}")
    assert f"error: {message.format(where)}" in capsys.readouterr().err


def test_a_mistake_in_what_only_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = yaml.safe_load(BLOCK)
    block["discriminator"]["only"] = ["critic.*"]
    with pytest.raises(SystemExit):
        cli(WithoutArgument, "fit", "--config", configured(tmp_path, "solver", block))
    assert "error: solver.discriminator.only: matches no parameter; got 'critic.*'" in capsys.readouterr().err


def test_an_empty_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(WithArgument, "fit", "--config", configured(tmp_path, "model.solver", {}))
    assert "error: model.solver: is an empty mapping; got {}; give optimizer" in capsys.readouterr().err


def test_a_whole_setting_from_the_command_line(tmp_path: Path) -> None:
    given = "--solver.generator.optimizer={name: SGD, args: {lr: 0.5}}"
    run = cli(WithoutArgument, "plan", "--config", configured(tmp_path, "solver"), given, "--output=null")
    assert run.model.solver["generator"].optimizer.args == {"lr": 0.5}


def test_an_argument_for_one_solver_takes_no_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(ForOne, "fit", "--config", configured(tmp_path))
    err = capsys.readouterr().err
    assert "error: model.solver: names several optimisers, but the module's argument takes one" in err
    assert "annotate it as solver: dict[str, SolverSpec]" in err


def test_a_later_file_replaces_the_whole_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As jsonargparse does with every mapping; what is missing then is an error."""
    second = configured(tmp_path, "solver", {"generator": {"lr": 0.25}}, name="second.yaml")
    with pytest.raises(SystemExit):
        cli(WithoutArgument, "fit", "--config", configured(tmp_path, "solver"), "--config", second)
    assert "error: discriminator.0.weight: is trainable, but no optimiser trains it" in capsys.readouterr().err


def test_the_command_shows_and_compares_blocks_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_file, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    one_file.write_text(BLOCK)
    other.write_text(BLOCK.replace("lr: 0.02", "lr: 0.04"))
    assert main(["plan", str(one_file), "--total-steps", "100"]) == 0
    assert "generator: lr" in capsys.readouterr().out
    assert main(["diff", str(one_file), str(one_file)]) == 0
    assert main(["diff", str(one_file), str(other)]) == 1
    out = capsys.readouterr().out
    assert "optimizer.args.lr: 0.02 -> 0.04" in out
    assert "generator" not in out.replace("b.yaml", "")
