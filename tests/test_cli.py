from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI

from cli_module import Plain, WithArgument, WithoutArgument
from lightning_solver import LayerDecay, SolverCLI, SolverError
from lightning_solver.schedules import Constant, Linear
from small import spec

pytestmark = [
    # Lightning's own use of jsonargparse, and its advice
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

BLOCK = """
optimizer: {name: AdamW, args: {lr: 1.0e-2, weight_decay: 0.05, betas: [0.9, 0.95]}}
rules:
  - {kind: [norm, bias], weight_decay: 0.0}
  - {match: "backbone.*", lr_scale: 0.1}
schedules:
  lr:
    - {class_path: Linear, init_args: {start: 0.1, until: 1ep}}
    - {class_path: Cosine, init_args: {end: 0.01}}
"""
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 2,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run leaves in the folder where it is made does not stay."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a configuration with the block somewhere in it; return its path."""

    def write(where: str = "model.solver", block: Any = None, name: str = "config.yaml", **more: Any) -> str:
        config: dict[str, Any] = {"trainer": {**QUIET, "default_root_dir": str(tmp_path)}, **more}
        section = config
        *path, last = where.split(".")
        for key in path:
            section = section.setdefault(key, {})
        section[last] = yaml.safe_load(BLOCK) if block is None else block
        (tmp_path / name).write_text(yaml.safe_dump(config))
        return str(tmp_path / name)

    return write


def cli(*args: str, module: Any = WithArgument, cls: Any = SolverCLI, **kwargs: Any) -> Any:
    return cls(module, seed_everything_default=1, save_config_callback=None, args=list(args), **kwargs)


def planned(run: Any) -> list[list[float]]:
    curve: list[list[float]] = run.model.solver_plan.curve("lr").tolist()
    return curve


# ------------------------------------------------------------------ the ways of giving the block


@pytest.mark.parametrize("cls", [SolverCLI, LightningCLI])
def test_the_block_as_the_modules_argument(write: Any, cls: Any) -> None:
    run = cli("fit", "--config", write(), cls=cls)
    assert run.model.used == planned(run)
    assert run.model.solver_plan.parameters["backbone.0.weight"]["lr"] == pytest.approx(0.001)


def test_the_block_as_a_top_level_key(write: Any) -> None:
    block = {**yaml.safe_load(BLOCK), "rules": []}
    run = cli("fit", "--config", write("solver", block), module=WithoutArgument)
    assert run.trainer.global_step == run.model.solver_plan.run.total_steps == 20
    assert run.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 20


def test_the_block_of_a_module_that_is_named_in_the_yaml(write: Any) -> None:
    path = write("model.init_args.solver", model={"class_path": "cli_module.WithArgument"})
    run = cli("fit", "--config", path, module=None)
    assert run.model.used == planned(run)


def test_validate_test_and_predict(write: Any) -> None:
    for subcommand in ("validate", "test", "predict"):
        cli(subcommand, "--config", write())


def test_overrides_from_the_command_line(write: Any) -> None:
    run = cli("fit", "--config", write(), "--model.solver.lr=0.5", "--model.solver.optimizer.args.weight_decay=0.2")
    assert run.model.solver_plan.parameters["head.weight"]["lr"] == 0.5
    assert run.model.solver_plan.parameters["head.weight"]["weight_decay"] == 0.2
    assert "in place of optimizer.args.lr 0.01" in run.model.solver_plan.reasons["head.weight"]["lr"]


def test_overrides_of_the_top_level_key(write: Any) -> None:
    block = {**yaml.safe_load(BLOCK), "rules": []}
    run = cli("fit", "--config", write("solver", block), "--solver.lr=0.5", module=WithoutArgument)
    assert run.model.solver.lr == 0.5


def test_without_run_the_module_has_its_solver(write: Any) -> None:
    run = cli("--config", write("solver", {**yaml.safe_load(BLOCK), "rules": []}), module=WithoutArgument, run=False)
    assert run.model.solver.optimizer.name == "AdamW"


def test_a_module_without_the_mixin(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--config", write("solver"), module=Plain)
    assert (
        "error: solver: Plain has no SolverMixin to follow it; derive it: class Plain(SolverMixin"
        in capsys.readouterr().err
    )


def test_the_block_given_twice(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--config", write(solver=yaml.safe_load(BLOCK)))
    assert "solver: is given twice, here and as the model's argument" in capsys.readouterr().err


def test_auto_configure_optimizers_is_refused() -> None:
    with pytest.raises(SolverError, match="does not take auto_configure_optimizers"):
        cli("fit", auto_configure_optimizers=True)


# ------------------------------------------------------------------ plan


def test_plan_prints_and_draws_what_fit_does(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "here" / "plan.png"
    path = write()
    run = cli("plan", "--config", path, "--output", str(picture), "--parameters=true")
    out = capsys.readouterr().out
    fitted = cli("fit", "--config", path)
    assert run.trainer.global_step == 0
    assert run.model.used == []
    assert run.model.solver_plan.curve("lr").tolist() == fitted.model.used
    assert "20 optimiser steps, 2 epochs of 10" in out
    assert "rules[1] (match backbone.*)" in out
    assert "backbone.0.weight" in out
    assert f"picture: {picture.resolve()}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plan_leaves_nothing_behind(write: Any, tmp_path: Path) -> None:
    path = write()
    cli("plan", "--config", path, "--output=null")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml"]


def test_plan_with_a_trainer_of_ones_own(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Own(Trainer):
        pass

    cli("plan", "--config", write(), "--output=null", trainer_class=Own)
    assert "20 optimiser steps" in capsys.readouterr().out


def test_plan_of_a_run_of_unknown_length(write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    phases = [Linear(start=0.1, until=5), Constant()]
    block = spec(schedules={"lr": phases}).to_dict()
    cli("plan", "--config", write(block=block), "--trainer.max_epochs=-1", f"--output={tmp_path / 'x.png'}")
    out = capsys.readouterr().out
    assert "of unknown length (neither max_epochs nor max_steps ends the run" in out
    assert "no picture" in out


def test_the_command_plans_a_yaml_that_names_a_module(write: Any, tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = write("solver", {**yaml.safe_load(BLOCK), "rules": []}, model={"class_path": "cli_module.WithoutArgument"})
    done = subprocess.run(
        [sys.executable, "-m", "lightning_solver.command", "plan", path, f"--output={tmp_path / 'p.png'}", "--solver.lr=0.3"],
        cwd=here, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lr 0.3" in done.stdout
    assert (tmp_path / "p.png").exists()


# ------------------------------------------------------------------ plan: accumulation, order, what happened


def block_with(**more: Any) -> dict[str, Any]:
    return {**yaml.safe_load(BLOCK), **more}


ACCUMULATION = {
    "class_path": "lightning_solver.callbacks.GradientAccumulation",
    "init_args": {"batches": {0: 1, "1ep": 3}},
}
OF_LIGHTNING = {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 1, 1: 3}}}  # fmt: skip


@pytest.mark.parametrize(
    ("block", "settings", "steps"),
    [
        ({"accumulate": 4}, {}, 6),
        ({"accumulate": {0: 1, "1ep": 3}}, {}, 14),
        ({"accumulate": {"samples": 8}}, {}, 10),
        ({}, {"callbacks": [ACCUMULATION]}, 14),
        ({}, {"callbacks": [OF_LIGHTNING]}, 14),
        ({}, {"accumulate_grad_batches": 3}, 8),
    ],
    ids=["number", "by epoch", "samples", "callback", "of Lightning", "of the Trainer"],
)
def test_the_length_of_the_run_follows_accumulation(
    write: Any, capsys: pytest.CaptureFixture[str], block: Any, settings: Any, steps: int
) -> None:
    path = write(block=block_with(**block), trainer={**QUIET, **settings})
    run = cli("plan", "--config", path, "--output=null")
    assert f"run: {steps} optimiser steps" in capsys.readouterr().out
    fitted = cli("fit", "--config", path)
    assert fitted.trainer.global_step == steps == run.model.solver_plan.run.total_steps
    assert run.model.solver_plan.curve("lr").tolist() == fitted.model.used


class OwnCallback(Callback):
    """Somebody's own."""

    def on_before_optimizer_step(self, *args: Any) -> None:
        pass


def order_in(out: str) -> list[str]:
    """Names of the callbacks as the plan tells them."""
    lines = out.partition("callbacks, in the order in which they act\n")[2].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ")]


def test_plan_tells_in_which_order_callbacks_act(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [
        {"class_path": "lightning_solver.callbacks.EMA", "init_args": {"decay": 0.9}},
        {"class_path": f"{__name__}.OwnCallback"},
        ACCUMULATION,
    ]
    clip = {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0}}
    path = write(block=block_with(clip=clip), trainer={**QUIET, "callbacks": callbacks})
    run = cli("plan", "--config", path, "--output=null")
    out = capsys.readouterr().out
    names = order_in(out)
    assert names == [type(one).__name__ for one in run.trainer.callbacks if "Stop" not in type(one).__name__]
    place = names.index
    assert place("PlanGuard") < place("GradientAccumulation") < place("SolverClipping") < place("EMA")
    assert place("OwnCallback") == 1
    text = [" ".join(line.split()) for line in out.splitlines()]
    assert "OwnCallback your own, in on_before_optimizer_step" in text
    assert "SolverClipping clips gradients by GlobalNorm (max_norm 1)" in text
    assert any(line.endswith("what a window holds: 1 batch a step, 3 from 1ep on") for line in text)
    for idle in ("FollowMetrics", "Freezing", "SolverAccumulation", "SolverAverages", "OptimizerMode"):
        assert f"{idle} has nothing to do in this run" in text


def test_plan_tells_of_the_mixins_callbacks_that_have_something_to_do(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plateau = {"class_path": "Plateau", "init_args": {"monitor": "val_loss", "factor": 0.5, "patience": 1}}
    rules = [{"match": "backbone.*", "frozen_until": 3}]
    averages = {"ema": {"class_path": "EMA", "init_args": {"decay": 0.9}}}
    block = block_with(schedules={"lr": plateau}, rules=rules, averages=averages, accumulate=2, nonfinite="skip")
    cli("plan", "--config", write(block=block), "--output=null")
    idle = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "nothing to do" in line]
    assert idle == ["OptimizerMode"]


def fitted_log(write: Any, tmp_path: Path, monitor: str = "LearningRateMonitor") -> tuple[str, Path]:
    """A configuration, and the log of a run by it."""
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "log"}}
    settings = {**QUIET, "logger": logger, "callbacks": [{"class_path": monitor}], "log_every_n_steps": 3}
    path = write(trainer={**settings, "default_root_dir": str(tmp_path)})
    cli("fit", "--config", path)
    return path, tmp_path / "log" / "version_0" / "metrics.csv"


@pytest.mark.parametrize("monitor", ["LearningRateMonitor", "lightning_solver.callbacks.SolverMonitor"])
def test_plan_beside_what_happened(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monitor: str
) -> None:
    path, log = fitted_log(write, tmp_path, monitor)
    capsys.readouterr()
    cli("plan", "--config", path, "--output=plan.png", f"--with_log={log}")
    out = capsys.readouterr().out
    assert "what happened, by metrics.csv\n  lr of all 4 groups: exactly as planned (" in out
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    cli("plan", "--config", path, "--output=null", f"--with_log={log}", "--model.solver.lr=0.5")
    assert "lr of default differs from step " in capsys.readouterr().out


def test_a_log_that_does_not_belong_to_the_plan(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, log = fitted_log(write, tmp_path)
    for given, message in (
        (["--with_log=nothing.csv"], "error: --with-log nothing.csv: cannot be read: No such file or directory; give"),
        ([f"--with_log={log}", "--trainer.max_epochs=1"], f"error: --with-log {log}: goes beyond the plan, whose last"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli("plan", "--config", path, "--output=null", *given)
        assert caught.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(message)


def test_the_command_takes_a_log(write: Any, tmp_path: Path) -> None:
    path, log = fitted_log(write, tmp_path)
    config = yaml.safe_load(Path(path).read_text())
    config["model"] = {"class_path": "cli_module.WithArgument", "init_args": config["model"]}
    Path(path).write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "lightning_solver.command", "plan", path, "--output=null", "--with-log", str(log)],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lr of all 4 groups: exactly as planned (" in done.stdout


# ------------------------------------------------------------------ mistakes


MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "unknown key": (("optimizer:", "optimiser:"), "model.solver.optimiser: unknown key; got 'optimiser'; did you mean optimizer?"),
    "unknown key of a rule": (("kind: [norm", "kin: [norm"), "model.solver.rules[0].kin: unknown key; got 'kin'; did you mean kind?"),
    "unknown kind": (("kind: [norm", "kind: [nrom"), "model.solver.rules[0].kind[0]: unknown value; got 'nrom'; did you mean norm"),
    "unknown key of a schedule": (("start: 0.1", "strat: 0.1"), "model.solver.schedules.lr[0].init_args.strat: unknown key; got 'strat'; did you mean start?"),
    "unknown schedule": (("class_path: Cosine", "class_path: Cosin"), "model.solver.schedules.lr[1].class_path: there is no Schedule of this name; got 'Cosin'; did you mean Cosine"),
    "malformed duration": (("until: 1ep", "until: 1epochs"), "model.solver.schedules.lr[0].init_args.until: is not a duration; got '1epochs'; write 500 or 500st"),
    "a float for a duration": (("until: 1ep", "until: 1.5"), "model.solver.schedules.lr[0].init_args.until: must be a duration such as 500, 5ep or 10%, or nothing; got 1.5 (float)"),
    "wrong type": (("start: 0.1", "start: fast"), "model.solver.schedules.lr[0].init_args.start: is not a value; got 'fast'; give a factor"),
    "negative level": (("end: 0.01", "end: -0.01"), "model.solver.schedules.lr[1].init_args.end: must not be negative; got -0.01"),
    "unknown level": (("end: 0.01", "end: {absolut: 1.0}"), "model.solver.schedules.lr[1].init_args.end: is not a value"),
    "no such optimiser": (("name: AdamW", "name: AdmaW"), "model.solver.optimizer.name: torch.optim has no optimiser of this name; got 'AdmaW'; did you mean Adam"),
    "no such argument": (("betas:", "beta:"), "model.solver.optimizer.args.beta: AdamW has no argument beta; got 'beta'; did you mean betas?"),
    "badly typed argument": (("[0.9, 0.95]", "0.9"), "model.solver.optimizer.args.betas: must be a list of 2"),
    "negative rate": (("lr: 1.0e-2", "lr: -1.0e-2"), "model.solver.optimizer.args.lr: must not be negative; got -0.01; give a value >= 0"),
    "rate that is no number": (("lr: 1.0e-2", "lr: .nan"), "model.solver.optimizer.args.lr: must be a finite number; got nan"),
    "rule that selects nothing": (("backbone.*", "backbon.*"), "model.solver.rules[1].match: matches no parameter; got 'backbon.*'; nearest names: backbone"),
    "beyond the run": (("until: 1ep", "until: 3ep"), "model.solver.schedules.lr[0].until: reaches beyond the run, which ends at step 20; got '3ep', which is step 30; shorten"),
    "undefined": (("end: 0.01", "end: 0.01, until: 90%"), "model.solver.schedules.lr[1].until: leaves the run undefined from there to step 20; got '90%', which is step 18"),
    "no such option": (("schedules:", "schedules:\n  nesterow: {class_path: Cosine}"), "model.solver.schedules.nesterow: AdamW has no option nesterow"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_the_block(
    write: Any, change: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in BLOCK
    path = write(block=yaml.safe_load(BLOCK.replace(*change)))
    with pytest.raises(SystemExit) as caught:
        cli("fit", "--config", path)
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert caught.value.code == 2
    assert len(err) == 1
    assert err[0].startswith(f"error: {message}")


@pytest.mark.parametrize("block", ["adam", [1, 2], 3], ids=repr)
def test_a_block_that_is_no_mapping(write: Any, block: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--config", write(block=block))
    assert "error: model.solver: must be a mapping; got" in capsys.readouterr().err


def test_a_file_that_is_no_yaml(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    Path(path).write_text("model: {solver: [")
    with pytest.raises(SystemExit) as caught:
        cli("fit", "--config", path)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_no_solver_at_all(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}")
    assert "error: solver: is not given, so that nothing says how to train; give solver:" in capsys.readouterr().err


def test_a_misspelt_top_level_key(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--config", write("solvers"))
    assert "solvers" in (err := capsys.readouterr().err)
    assert "did you mean solver?" in err


def test_mistakes_elsewhere_in_the_yaml(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    text = Path(path).read_text().replace("max_epochs:", "max_epoch:")
    Path(path).write_text(text)
    with pytest.raises(SystemExit):
        cli("fit", "--config", path)
    assert "error: trainer.max_epoch: unknown key; did you mean trainer.max_epochs" in capsys.readouterr().err


def test_mistakes_on_the_command_line(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("fit", "--config", write(), "--model.solver.lr=fast")
    assert "error: model.solver.lr: must be a number or nothing; got 'fast' (str)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli("fit", "--config", write(), "--model.solver.lr=-1")
    assert "error: model.solver.lr: must not be negative; got -1.0" in capsys.readouterr().err


OVERRIDES: dict[str, tuple[list[str], str]] = {
    "part of a number": (["layer_decay.min_scale=0.5"], "layer_decay: LayerDecay needs rate, as this mapping takes the place of 0.75; got {'min_scale': 0.5}; add it"),
    "wrong part of a number": (["layer_decay.min_scle=0.5"], "layer_decay.min_scle: unknown key; got 'min_scle'; did you mean min_scale?"),
    "key of an appended rule": (["rules+={match: '*.bias', lr_scal: 0.1}"], "rules+.lr_scal: unknown key; got 'lr_scal'; did you mean lr_scale"),
    "key of appended rules": (["rules+=[{match: '*.bias', lr_scale: 2.0}, {match: '*.bias', lr_scal: 0.1}]"], "rules+[1].lr_scal: unknown key; got 'lr_scal'; did you mean lr_scale"),
    "value of an appended rule": (["rules+={match: '*.bias', weight_decay: much}"], "rules+.weight_decay: must be a number or nothing; got 'much'"),
    "key of rules in place of others": (["rules=[{match: '*.bias', lr_scal: 0.1}]"], "rules[0].lr_scal: unknown key; got 'lr_scal'; did you mean lr_scale"),
    "one of two": (["lr=0.5", "layer_decay.min_scale=0.5"], "layer_decay: LayerDecay needs rate, as this mapping takes the place of 0.75"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "where"), [(WithArgument, "model.solver"), (WithoutArgument, "solver")])
@pytest.mark.parametrize("apart", [False, True], ids=["with =", "apart"])
@pytest.mark.parametrize(("given", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_mistakes_in_parts_of_the_block_on_the_command_line(
    write: Any, module: Any, where: str, apart: bool, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(where, {**yaml.safe_load(BLOCK), "rules": [], "layer_decay": 0.75})
    args = [f"--{where}.{one}" for one in given]
    with pytest.raises(SystemExit) as caught:
        cli(
            "fit",
            "--config",
            path,
            *(part for arg in args for part in arg.split("=", 1 if apart else 0)),
            module=module,
        )
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {where}.{message}")


def test_parts_of_a_mapping_are_not_blamed_for_a_mistake_elsewhere(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    block = {**yaml.safe_load(BLOCK), "layer_decay": {"rate": 0.75}}
    with pytest.raises(SystemExit):
        cli("fit", "--config", write(block=block), "--model.solver.layer_decay.min_scale=0.5", "--model.solver.lr=fast")
    assert "error: model.solver.lr: must be a number or nothing; got 'fast'" in capsys.readouterr().err


def test_the_rate_and_more_take_the_place_of_a_number(write: Any) -> None:
    path = write("solver", {**yaml.safe_load(BLOCK), "rules": [], "layer_decay": 0.75})
    args = ("--solver.layer_decay.rate=0.5", "--solver.layer_decay.min_scale=0.25")
    run = cli("--config", path, *args, module=WithoutArgument, run=False)
    assert run.model.solver.layer_decay == LayerDecay(0.5, min_scale=0.25)


def test_a_later_file_may_hold_a_part_of_the_block(write: Any) -> None:
    first, second = write(), write(block={"lr": 0.25}, name="second.yaml")
    run = cli("fit", "--config", first, "--config", second)
    assert run.model.solver.lr == 0.25
    assert run.model.solver.optimizer.name == "AdamW"


# ------------------------------------------------------------------ resume


def checkpoint(write: Any, tmp_path: Path, **kwargs: Any) -> str:
    run = cli("fit", "--config", write(**kwargs), "--trainer.max_epochs=1", "--trainer.max_steps=10")
    path = str(tmp_path / "last.ckpt")
    run.trainer.save_checkpoint(path)
    return path


def test_resume_follows_the_command_line_not_the_checkpoint(
    write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(write, tmp_path)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        run = cli("fit", "--config", write(), "--ckpt_path", path, "--model.solver.lr=0.5")
    assert run.model.used == planned(run)[10:]
    assert max(max(row) for row in run.model.used) == 0.5
    assert "lr: (not set) -> 0.5" in caplog.text


def test_resume_by_lightning_cli_would_not(write: Any, tmp_path: Path) -> None:
    """The reason for the test above: the checkpoint's hyper-parameters win there."""
    path = checkpoint(write, tmp_path)
    run = cli("fit", "--config", write(), "--ckpt_path", path, "--model.solver.lr=0.5", cls=LightningCLI)
    assert run.model.solver.lr is None


def test_resume_follows_the_yaml_not_the_checkpoint(write: Any, tmp_path: Path) -> None:
    path = checkpoint(write, tmp_path)
    changed = spec(lr=0.125, rules=[]).to_dict()
    run = cli("fit", "--config", write(block=changed), "--ckpt_path", path)
    assert run.model.solver == spec(lr=0.125, rules=[])
    assert run.model.used == planned(run)[10:]


def test_resume_with_the_top_level_key(write: Any, tmp_path: Path) -> None:
    block = {**yaml.safe_load(BLOCK), "rules": []}
    run = cli("fit", "--config", write("solver", block), "--trainer.max_epochs=1", module=WithoutArgument)
    run.trainer.save_checkpoint(tmp_path / "last.ckpt")
    args = ("--ckpt_path", str(tmp_path / "last.ckpt"), "--solver.lr=0.5")
    run = cli("fit", "--config", write("solver", block), *args, module=WithoutArgument)
    assert run.model.solver.lr == 0.5
    assert run.trainer.global_step == 20


def test_test_reads_a_checkpoint(write: Any, tmp_path: Path) -> None:
    path = checkpoint(write, tmp_path)
    cli("test", "--config", write(), "--ckpt_path", path)


def test_what_the_command_line_saves_loads_with_weights_only(write: Any, tmp_path: Path) -> None:
    path = checkpoint(write, tmp_path)
    saved = torch.load(path, weights_only=True)
    assert saved["hyper_parameters"]["solver"]["optimizer"]["name"] == "AdamW"
    again = WithArgument.load_from_checkpoint(path, weights_only=True)
    assert again.solver is not None
    assert again.solver.optimizer is not None
