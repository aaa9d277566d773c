"""Clipping from YAML and on the command line, by the short names of its kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import nn

from clipping_callback_cases import Net, Solved, by_hand, close, data, far, the_work
from lightning_solver import SolverCLI, SolverSpec
from lightning_solver.clipping import AutoClip, GlobalNorm, NonFinite, Value
from lightning_solver.schedules import Linear
from test_manual_cli import QUIET

# What LightningCLI uses of jsonargparse, and it is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLIS = pytest.mark.parametrize("cli", [LightningCLI, SolverCLI])
NORM = {"class_path": "GlobalNorm", "init_args": {"max_norm": 0.05}}


class Loaded(Net):
    """Has no mixin."""

    def __init__(self) -> None:
        super().__init__()

    def train_dataloader(self) -> Any:
        return data()


class LoadedSolved(Solved):
    def __init__(self, solver: SolverSpec) -> None:
        super().__init__(solver)

    def train_dataloader(self) -> Any:
        return data()


@pytest.fixture
def fit(tmp_path: Path) -> Any:
    """Runs ``fit`` with a configuration and arguments."""

    def run(cli: Any, module: Any, config: dict[str, Any], *args: str) -> Any:
        trainer = {**QUIET, "max_epochs": 1, "default_root_dir": str(tmp_path), **config.get("trainer", {})}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": trainer}))
        given = ["fit", "--config", str(tmp_path / "config.yaml"), *args]
        return cli(module, seed_everything_default=1, save_config_callback=None, args=given)

    return run


def by_callback(**init_args: Any) -> dict[str, Any]:
    named = {"class_path": "lightning_solver.callbacks.GradientClipping", "init_args": init_args}
    return {"trainer": {"callbacks": [named]}}


def by_solver(**block: Any) -> dict[str, Any]:
    sgd = {"name": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}
    return {"model": {"solver": {"optimizer": sgd, **block}}}


def clipped(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


@CLIS
def test_the_callback_from_yaml(cli: Any, fit: Any) -> None:
    run = fit(cli, Loaded, by_callback(clip=NORM))
    close(run.model, by_hand(clipped))
    far(run.model, by_hand(lambda model: None))


@CLIS
def test_several_selectors_schedules_and_policies_from_yaml(cli: Any, fit: Any) -> None:
    selected = {**NORM, "init_args": {"max_norm": 0.05, "of": {"match": "layers.0.*"}, "unless": [{"kind": "bias"}]}}
    moving = {
        "class_path": "Value",
        "init_args": {"max_value": 1.0, "schedule": {"class_path": "Linear", "init_args": {"end": 0.5}}},
    }
    run = fit(cli, Loaded, by_callback(clip=[selected, moving], nonfinite={"policy": "zero", "in_a_row": 3}))
    work = the_work(run.trainer)
    assert work.planned[0].names == ("layers.0.weight",)
    assert work.planned[1].clip == Value(1.0, schedule=Linear(end=0.5))
    assert work.nonfinite == NonFinite("zero", 3)


@CLIS
def test_the_callback_on_the_command_line(cli: Any, fit: Any) -> None:
    args = ("GradientClipping", "clip=GlobalNorm", "clip.max_norm=0.05", "nonfinite=skip")
    flags = ("--trainer.callbacks+=", "--trainer.callbacks.", "--trainer.callbacks.", "--trainer.callbacks.")
    run = fit(cli, Loaded, {}, *(flag + arg for flag, arg in zip(flags, args)))
    assert the_work(run.trainer).nonfinite == NonFinite("skip")
    close(run.model, by_hand(clipped))


BLOCKS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "one": ({"clip": NORM, "nonfinite": "skip"}, GlobalNorm(0.05), "skip"),
    "several": (
        {"clip": [NORM, {"class_path": "Value", "init_args": {"max_value": 1.0}}]},
        (GlobalNorm(0.05), Value(1.0)),
        None,
    ),
    "learnt": ({"clip": {"class_path": "AutoClip"}, "nonfinite": {"in_a_row": 4}}, AutoClip(), NonFinite(in_a_row=4)),
    "by its path": ({"clip": {**NORM, "class_path": "lightning_solver.clipping.GlobalNorm"}}, GlobalNorm(0.05), None),
}  # fmt: skip


@CLIS
@pytest.mark.parametrize(("block", "clip", "nonfinite"), BLOCKS.values(), ids=BLOCKS)
def test_the_block_from_yaml(cli: Any, block: Any, clip: Any, nonfinite: Any, fit: Any) -> None:
    run = fit(cli, LoadedSolved, by_solver(**block))
    assert (run.model.solver.clip, run.model.solver.nonfinite) == (clip, nonfinite)
    kinds = clip if isinstance(clip, tuple) else (clip,)
    assert [one.clip for one in the_work(run.trainer).planned] == [*kinds]


@CLIS
def test_the_block_on_the_command_line(cli: Any, fit: Any) -> None:
    args = (
        "--model.solver.clip",
        "GlobalNorm",
        "--model.solver.clip.max_norm",
        "0.05",
        "--model.solver.nonfinite=skip",
    )
    run = fit(cli, LoadedSolved, by_solver(), *args)
    assert (run.model.solver.clip, run.model.solver.nonfinite) == (GlobalNorm(0.05), "skip")
    close(run.model, by_hand(clipped))
    run = fit(cli, LoadedSolved, by_solver(clip=NORM), "--model.solver.clip.max_norm=0.5")
    assert run.model.solver.clip == GlobalNorm(0.5)


@CLIS
def test_the_greatest_value_as_a_norm(cli: Any, fit: Any) -> None:
    run = fit(cli, LoadedSolved, by_solver(clip=NORM), "--model.solver.clip.norm_type=inf")
    assert run.model.solver.clip == GlobalNorm(0.05, "inf")
    (found,) = the_work(run.trainer).clipped
    assert float(found.clipped_norm) == pytest.approx(0.05, rel=1e-4)  # type: ignore[arg-type]


def test_a_top_level_block(fit: Any) -> None:
    class Alone(Solved):
        def __init__(self) -> None:
            super().__init__(None)

        def train_dataloader(self) -> Any:
            return data()

    config = {"solver": by_solver(clip=NORM)["model"]["solver"]}
    close(fit(SolverCLI, Alone, config).model, by_hand(clipped))
    run = fit(SolverCLI, Alone, config, "--solver.clip.max_norm=0.5", "--solver.nonfinite=error")
    assert (run.model.solver.clip, run.model.solver.nonfinite) == (GlobalNorm(0.5), "error")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "kind": (
        {"clip": {"class_path": "GlobalNrm", "init_args": {"max_norm": 1.0}}},
        "model.solver.clip.class_path: there is no Clip of this name; got 'GlobalNrm'; did you mean GlobalNorm",
    ),
    "key": (
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_nrm": 1.0}}},
        "model.solver.clip.init_args.max_nrm: unknown key; got 'max_nrm'; did you mean max_norm",
    ),
    "limit": (
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_norm": 0.0}}},
        "model.solver.clip.init_args.max_norm: must be above 0; got 0.0; correct it, or leave the clipping out",
    ),
    "policy": (
        {"nonfinite": "warn"},
        "model.solver.nonfinite: unknown value; got 'warn'; known values: error, skip, zero",
    ),
    "row": ({"nonfinite": {"in_a_row": 0}}, "model.solver.nonfinite.in_a_row: must be at least 1; got 0"),
}


@pytest.mark.parametrize(("block", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_one_line(
    block: dict[str, Any], message: str, fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        fit(SolverCLI, LoadedSolved, by_solver(**block))
    (line, *_) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {message}")
