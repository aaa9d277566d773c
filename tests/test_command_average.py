"""The command ``lightning-solver average``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from cli_module import WithArgument
from lightning_solver.averaging import PowerEMA
from lightning_solver.averaging.average import Count
from lightning_solver.averaging.post_hoc import save_snapshot, snapshot_path
from lightning_solver.command import main
from small import loader, spec, trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's CLI, of jsonargparse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with one number each, and a function that scores it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder
    for name, value, step in (("a", 5.0, 10), ("b", 0.25, 30), ("c", 1.5, 20)):
        torch.save({"state_dict": {"w": torch.tensor([value])}, "global_step": step}, f"{name}.ckpt")
    (tmp_path / "scores_of_mine.py").write_text(
        "def near(state):\n    return -abs(state['w'].item() - 1)\n\nnumber = 1\n"
    )
    return tmp_path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of three short runs, and the configuration that they were made with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    for name, lr in (("a", 0.1), ("b", 0.01), ("c", 0.02)):
        torch.manual_seed(0)
        fit = trainer(max_epochs=1)
        fit.fit(WithArgument(spec(lr=lr)), loader())
        fit.save_checkpoint(f"{name}.ckpt", weights_only=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    config = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", **quiet},
        "model": {"class_path": "cli_module.WithArgument"},
        "ckpt_path": None,  # as in what a CLI saves after fit
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def weight(path: str) -> Any:
    return torch.load(path, weights_only=True)["state_dict"]["w"].item()


# ------------------------------------------------------------------ uniform and weighted


@pytest.mark.usefixtures("folder")
def test_the_mean_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", "a.ckpt", "b.ckpt", "c.ckpt", "-o", "soup.ckpt"]) == 0
    assert weight("soup.ckpt") == 2.25
    assert capsys.readouterr().out.splitlines() == [
        "share   step  file",
        "0.3333  10    a.ckpt",
        "0.3333  30    b.ckpt",
        "0.3333  20    c.ckpt",
        "",
        "written: soup.ckpt",
    ]


@pytest.mark.usefixtures("folder")
def test_the_weighted_mean_of_the_last_files_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", ".", "--last", "2", "--weights", "1", "4", "-o", "soup.ckpt"]) == 0
    assert weight("soup.ckpt") == 0.5
    assert "0.2    20    c.ckpt\n0.8    30    b.ckpt\n" in capsys.readouterr().out
    assert main(["average", ".", "-o", "soup.ckpt", "--force"]) == 0
    assert weight("soup.ckpt") == 2.25
    assert "note: soup.ckpt: left out, as it is an average of files\n" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_other_files_of_a_folder_with_the_weights_elsewhere() -> None:
    for i in range(2):
        torch.save({"model": {"w": torch.ones(1) * i}}, f"model_{i}.pth")
    assert main(["average", ".", "--glob", "*.pth", "--key", "model", "-o", "soup.pth"]) == 0
    assert torch.load("soup.pth", weights_only=True)["model"]["w"].item() == 0.5


def test_a_soup_is_a_checkpoint_for_tests(runs: Path) -> None:
    assert main(["average", "a.ckpt", "b.ckpt", "c.ckpt", "-o", "soup.ckpt"]) == 0
    states = [torch.load(f"{name}.ckpt", weights_only=True)["state_dict"] for name in "abc"]
    module = WithArgument.load_from_checkpoint("soup.ckpt", weights_only=True)
    assert module.solver == spec(lr=0.02)
    mean: Tensor = sum(state["head.weight"].double() for state in states) / 3  # type: ignore[assignment]
    assert torch.equal(module.head.weight, mean.float())
    fresh = WithArgument(spec())
    run = trainer()
    run.test(fresh, ckpt_path="soup.ckpt", weights_only=True, verbose=False)
    assert torch.equal(fresh.head.weight, module.head.weight)
    assert "test_loss" in run.callback_metrics


# ------------------------------------------------------------------ greedy


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["scores_of_mine:near", "scores_of_mine.near"])
def test_a_greedy_soup_by_a_function(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["average", "a.ckpt", "b.ckpt", "c.ckpt", "--greedy", "--mode", "max", "--score", path, "-o", "soup.ckpt"])
        == 0
    )
    assert weight("soup.ckpt") == 0.875
    assert capsys.readouterr().out.splitlines() == [
        "-4           a.ckpt",
        "-0.75        b.ckpt",
        "-0.5         c.ckpt",
        "-0.125       soup of 2 with b.ckpt",
        "-1.25        soup of 3 with a.ckpt",
        "",
        "own score  soup with it  taken  file",
        "-0.5       -0.5          yes    c.ckpt",
        "-0.75      -0.125        yes    b.ckpt",
        "-4         -1.25         no     a.ckpt",
        "",
        "share  step  file",
        "0.5    30    b.ckpt",
        "0.5    20    c.ckpt",
        "",
        "written: soup.ckpt",
    ]
    assert torch.load("soup.ckpt", weights_only=True)["lightning_solver_average_of"]["kind"] == "greedy soup"


def test_a_greedy_soup_by_the_validation_of_a_module(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["average", "a.ckpt", "b.ckpt", "c.ckpt", "-o", "soup.ckpt", "--greedy", "--mode", "min"]
    assert main([*arguments, "--config", "config.yaml", "--metric", "val_loss"]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    own = {line[1]: float(line[0]) for line in told if len(line) == 2 and line[1] != "soup.ckpt"}
    for name in "abc":
        run = trainer()
        run.validate(WithArgument(spec()), ckpt_path=f"{name}.ckpt", verbose=False, weights_only=True)
        assert own[f"{name}.ckpt"] == pytest.approx(float(run.callback_metrics["val_loss"]), rel=1e-4)
    assert len(set(own.values())) == 3
    module = WithArgument.load_from_checkpoint("soup.ckpt", weights_only=True)
    run = trainer()
    run.validate(module, verbose=False)
    assert float(run.callback_metrics["val_loss"]) <= min(own.values()) * (1 + 1e-4)
    assert sorted(path.name for path in runs.iterdir()) == ["a.ckpt", "b.ckpt", "c.ckpt", "config.yaml", "soup.ckpt"]


def test_state_dicts_by_themselves_are_validated_with_further_arguments(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        torch.save(torch.load(f"{name}.ckpt", weights_only=True)["state_dict"], f"{name}.pt")
    arguments = ["average", "a.pt", "b.pt", "-o", "soup.pt", "--greedy", "--mode", "min", "--config", "config.yaml"]
    assert main([*arguments, "--metric", "val_loss"]) == 0
    whole = capsys.readouterr().out
    assert main([*arguments, "--force", "--metric", "val_loss", "--trainer.limit_val_batches", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[0] != whole.splitlines()[0]
    module = WithArgument(spec())
    module.load_state_dict(torch.load("soup.pt", weights_only=True))


WIDER = """
from cli_module import WithArgument
from torch import nn

class Wider(WithArgument):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
"""


def test_mistakes_about_the_validation(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "wider.py").write_text(WIDER)
    config = Path("config.yaml").read_text()
    arguments = [
        "average",
        "a.ckpt",
        "b.ckpt",
        "-o",
        "soup.ckpt",
        "--greedy",
        "--mode",
        "max",
        "--config",
        "config.yaml",
        "--metric",
    ]
    assert main([*arguments, "val_los"]) == 2
    assert (
        "error: --metric: is not logged by validation; got 'val_los'; did you mean val_loss?" in capsys.readouterr().err
    )
    for name, message in (
        ("wider.Wider", "its module does not take the weights; got Error(s) in loading state_dict for Wider:"),
        ("cli_module.Plain", "its module cannot be validated; got No `validation_step()` method defined"),
    ):
        Path("config.yaml").write_text(config.replace("cli_module.WithArgument", name))
        assert main([*arguments, "val_loss"]) == 2
        assert f"error: config.yaml: {message}" in capsys.readouterr().err
    assert not Path("soup.ckpt").exists()


# ------------------------------------------------------------------ snapshots


def test_an_average_of_another_length_from_snapshots(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for length in (0.05, 0.1):
        average = PowerEMA(sigma_rel=length)
        averaged = average.over([weights := torch.zeros(1)])
        for step in range(1, 101):
            weights.fill_(step)
            averaged.update()
            if step % 5 == 0:
                count = Count(steps=step, began=1, updates=step, latest=step)
                path = snapshot_path("snapshots", f"ema{length}", step)
                save_snapshot(path, {"w": averaged.values[0].clone()}, f"ema{length}", average, count)
    direct = PowerEMA(sigma_rel=0.15).over([weights])
    for step in range(1, 101):
        weights.fill_(step)
        direct.update()
    assert main(["average", "snapshots", "--sigma-rel", "0.15", "-o", "long.ckpt"]) == 0
    assert weight("long.ckpt") == pytest.approx(direct.values[0].item(), rel=1e-3)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["share", "step", "sigma_rel", "file"]
    assert len([line for line in out if "snapshots/ema" in line]) == 40
    assert out[-5:] == [
        "sigma_rel 0.15 at step 100",
        "residual of the fit: 0.0058 (0 is exact)",
        "rounding errors of the snapshots count 0.87 times",
        "",
        "written: long.ckpt",
    ]
    assert main(["average", "snapshots", "--sigma-rel", "0.05", "--step", "50", "-o", "mid.ckpt"]) == 0
    assert weight("mid.ckpt") == torch.load("snapshots/ema0.05-step=00000050.ckpt")["state_dict"]["w"].item()


def test_all_but_the_weights_is_taken_from_another_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 10):
        state = WithArgument(spec()).state_dict()
        count = Count(steps=step, began=1, updates=step, latest=step)
        save_snapshot(snapshot_path("snapshots", "ema", step), state, "ema", PowerEMA(gamma=6.0), count)
    arguments = ["average", "snapshots", "--sigma-rel", "0.1", "--like"]
    assert main([*arguments, "a.ckpt", "-o", "out.ckpt"]) == 0
    module = WithArgument.load_from_checkpoint("out.ckpt", weights_only=True)
    assert module.solver == spec(lr=0.1)
    torch.save({"state_dict": {"w": torch.ones(1)}}, "other.ckpt")
    assert main([*arguments, "other.ckpt", "-o", "x.ckpt"]) == 2
    assert "error: x.ckpt: has no w, which other.ckpt has" in capsys.readouterr().err


# ------------------------------------------------------------------ mistakes


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.ckpt", "b.ckpt", "-o", "c.ckpt"], "error: c.ckpt: is there already; give another path, or --force"),
        (["a.ckpt", "-o", "x.ckpt"], "error: files: an average needs at least two; got a.ckpt; give more"),
        (["a.ckpt", "no.ckpt", "-o", "x.ckpt"], "error: no.ckpt: is not a file"),
        (["a.ckpt", "b.ckpt", "-o", "no/x.ckpt"], "error: no/x.ckpt: cannot be written: there is no such folder"),
        (["a.ckpt", "b.ckpt", "--like", "no.ckpt", "-o", "x"], "error: no.ckpt: is not a file"),
        (["a.ckpt", "b.ckpt", "--weights", "1", "-o", "x"], "error: weights: are not one for each of 2 files; got 1;"),
        (["a.ckpt", "b.ckpt", "--last", "3", "-o", "x"], "error: last: is more than there are; got 3 of 2 files"),
        (
            ["a.ckpt", "b.ckpt", "--step", "3", "-o", "x"],
            "error: --step: is no option of an average of checkpoints; got 3;",
        ),
        (
            ["a.ckpt", "b.ckpt", "--mode", "min", "-o", "x"],
            "of checkpoints; got min; give --greedy too, or leave it out",
        ),
        (
            ["a.ckpt", "b.ckpt", "--modl.x=1", "-o", "x"],
            "error: average: unknown arguments; got --modl.x=1; leave them out",
        ),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "-o", "x"],
            "error: --greedy: needs one way to score the weights; give --score",
        ),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "--score", "m:f", "--config", "c", "--metric", "m", "-o", "x"],
            "error: --greedy: needs one way to score the weights",
        ),
        (["a.ckpt", "b.ckpt", "--greedy", "--config", "c.yaml", "-o", "x"], "error: --config: needs --metric; give"),
        (["a.ckpt", "b.ckpt", "--greedy", "--score", "m:f", "--metric", "m", "-o", "x"], "--metric: needs --config"),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "--score", "m:f", "--weights", "1", "2", "-o", "x"],
            "error: --weights: is no option of a greedy average (--greedy); got 1.0 2.0; leave it out",
        ),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "--mode", "max", "--score", "no_such:f", "-o", "x"],
            "error: --score: cannot be imported",
        ),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "--mode", "max", "--score", "scores_of_mine:far", "-o", "x"],
            "has no far; got 'scores_of_mine.far'",
        ),
        (
            ["a.ckpt", "b.ckpt", "--greedy", "--mode", "max", "--score", "scores_of_mine:number", "-o", "x"],
            "--score: cannot be called; got",
        ),
        (["a.ckpt", "b.ckpt", "--sigma-rel", "0.1", "-o", "x"], "error: a.ckpt: is no snapshot of an average; give"),
        (["a.ckpt", "--sigma-rel", "0.5", "-o", "x"], "error: PowerEMA.sigma_rel: is out of range; got 0.5"),
        (
            ["a.ckpt", "--sigma-rel", "0.1", "--greedy", "-o", "x"],
            "error: --greedy: is no option of an average from snapshots (--sigma-rel); leave it out",
        ),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert weight("c.ckpt") == 1.5
    assert not Path("x").exists()
