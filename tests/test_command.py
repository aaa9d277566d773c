"""The command lightning-solver: import, diff, schema, and plan of a block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader

from lightning_solver import SolverError, SolverSpec
from lightning_solver.command import main
from lightning_solver.comparison import compare
from lightning_solver.durations import RunLength
from lightning_solver.files import Stored, importer, stored, to_yaml
from lightning_solver.schedules import Constant, Cosine, Join, Linear, MultiStep, Product, Staircase, Step, Warmup
from small import Net, loader, spec, trainer

RECIPES = sorted((Path(__file__).parent.parent / "examples" / "recipes").glob("*.yaml"))
MMCV = """
_base_ = ["base.py"]
lr_config = dict(policy="step", step=[16, 22], warmup="linear", warmup_iters=20 * 25, warmup_ratio=0.001)
model = dict(type="FasterRCNN")
"""
BLOCK = """
schedules:
  lr:
    - {class_path: Linear, init_args: {start: 0.1, until: 5ep}}
    - class_path: Cosine
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text("runner = dict(type='EpochBasedRunner', max_epochs=24)\n")
    (tmp_path / "config.py").write_text(MMCV)
    (tmp_path / "block.yaml").write_text(BLOCK)
    (tmp_path / "other.yaml").write_text(BLOCK.replace("5ep", "3ep"))
    return tmp_path


# ------------------------------------------------------------------ import


@pytest.mark.usefixtures("folder")
def test_import_prints_what_a_human_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--from", "mmcv", "config.py"]) == 0
    out = capsys.readouterr().out
    notes = [line for line in out.splitlines() if line.startswith("# ")]
    assert any("model" in note for note in notes)
    block = yaml.safe_load(out)
    assert block["schedules"]["lr"] == {
        "class_path": "Warmup",
        "init_args": {
            "ramp": {"class_path": "Linear", "init_args": {"start": 0.001, "until": 500}},
            "of": {"class_path": "MultiStep", "init_args": {"at": ["16ep", "22ep"]}},
            "meets": "multiply",
        },
    }
    SolverSpec.from_dict(block)


def test_import_into_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--from", "mmcv", "config.py", "--output", "solver.yaml"]) == 0
    assert capsys.readouterr().out == ""
    assert isinstance(stored(str(folder / "solver.yaml")).spec.schedules["lr"], Warmup)


@pytest.mark.usefixtures("folder")
def test_import_strictly(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--from", "mmcv", "config.py", "--strict"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "--from", "mmcv1", "config.py"], "error: peer: there is no importer of this name; got 'mmcv1'"),
        (["import", "--from", "mmcv", "confg.py"], "error: config: cannot be read"),
        (["import", "--from", "mmengine", "config.py"], "use interop.from_mmcv"),
        (
            ["import", "--from", "mmcv", "config.py", "--fact", "epochs"],
            "error: --fact: is not NAME=VALUE; got 'epochs'",
        ),
        (["diff", "block.yaml", "nothing.yaml"], "error: nothing.yaml: is not a file; give a YAML or JSON file, a"),
        (["diff", "block.yaml", "config.py"], "error: config.py: is a Python config of another system; write PEER:"),
        (["plan", "block.yaml", "--total-steps", "9", "--solver.lr=1"], "error: plan: takes nothing else beside"),
        (
            ["plan", "block.yaml", "--total-steps", "9", "--with-log", "x.csv"],
            "error: --with-log: needs the module that",
        ),
        (["plan", "block.yaml", "--total-steps", "9"], "error: schedules.lr[0].until: needs the length of an epoch"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_unknown_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["schema", "--confg"])
    assert "unrecognized arguments: --confg" in capsys.readouterr().err


# ------------------------------------------------------------------ diff


@pytest.mark.usefixtures("folder")
def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--total-steps", "200", "--steps-per-epoch", "10"]
    assert main(["diff", "block.yaml", "block.yaml", *run]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["diff", "block.yaml", "other.yaml", *run]) == 1
    out = capsys.readouterr().out
    assert "schedules.lr[0].init_args.until: 5ep -> 3ep" in out
    assert "   a  0.1  0.136  0.28  0.46       1" in out
    assert main(["diff", "mmcv:config.py", "block.yaml", *run]) == 1


def test_diff_of_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, changes in (("a", {}), ("b", {"lr": 0.02, "rules": []})):
        fit = trainer(max_epochs=1)
        fit.fit(Net(spec(**changes)), loader())
        fit.save_checkpoint(folder / f"{name}.ckpt")
    assert stored("a.ckpt").step == 10
    assert main(["diff", "a.ckpt", "a.ckpt"]) == 0
    capsys.readouterr()
    assert main(["diff", "a.ckpt", "b.ckpt"]) == 1
    out = capsys.readouterr().out
    assert "lr: (not set) -> 0.02" in out
    assert "rules[0].lr_scale: 0.1 -> (not set)" in out
    assert "backbone: only in a" in out


def test_diff_of_equal_curves_said_differently() -> None:
    one = Stored("one", SolverSpec(schedules={"lr": Cosine()}))
    other = Stored("other", SolverSpec(schedules={"lr": [Cosine()]}))
    differ, text = compare(one, other, RunLength(total_steps=10))
    assert differ
    assert "settings (a -> b)" in text
    assert "at step" not in text


MOVES = {"class_path": "Linear", "init_args": {"end": 0.1}}


def norm(max_norm: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"class_path": "GlobalNorm", "init_args": {"max_norm": max_norm, **more}}


@pytest.mark.parametrize(
    ("one", "other", "lines"),
    [
        ({}, {"clip": norm()}, ["clip: (not set) -> GlobalNorm (max_norm 1)"]),
        ({"clip": norm()}, {"clip": norm(2.0)}, ["clip.init_args.max_norm: 1.0 -> 2.0"]),
        (
            {"clip": norm()},
            {"clip": [norm(), {"class_path": "AGC", "init_args": {"unless": {"kind": "head"}}}]},
            ["clip: GlobalNorm (max_norm 1) -> GlobalNorm (max_norm 1), then AGC unless kind head"],
        ),
        ({"clip": norm()}, {"clip": "AutoClip"}, ["clip: GlobalNorm (max_norm 1) -> AutoClip"]),
        ({"clip": norm()}, {"clip": [norm()]}, []),
        ({"nonfinite": "skip"}, {"nonfinite": {"policy": "skip"}}, []),
        ({"nonfinite": "skip"}, {}, ["nonfinite: skip, 20 in a row -> (not set)"]),
        ({"accumulate": 4}, {"accumulate": {"batches": 4}}, []),
        ({"accumulate": 4}, {"accumulate": {0: 1, "5ep": 4}}, ["accumulate: 4 batches a step -> 1 batch a step, 4 from 5ep on"]),
        ({}, {"accumulate": {"samples": 64}}, ["accumulate: (not set) -> 64 samples a step"]),
        (
            {"accumulate": 4, "lr": 0.1},
            {"accumulate": {"batches": 4, "keep_gradients": True}},
            ["lr: 0.1 -> (not set)", "accumulate.keep_gradients: False -> True"],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_diff_of_clipping_and_accumulation(one: Any, other: Any, lines: list[str]) -> None:
    a, b = (Stored(name, SolverSpec.from_dict(block)) for name, block in (("one", one), ("other", other)))
    differ, text = compare(a, b, RunLength(total_steps=10))
    assert differ == bool(lines)
    if differ:
        assert text.partition("settings (a -> b)\n")[2].splitlines() == [f"  {line}" for line in lines]


def test_diff_of_limits_that_move() -> None:
    blocks = [{"clip": norm(2.0, schedule=MOVES)}, {"clip": norm(2.0)}]
    a, b = (Stored(name, SolverSpec.from_dict(block)) for name, block in zip("ab", blocks))
    differ, text = compare(a, b, RunLength(total_steps=11))
    assert differ
    assert "clip (max_norm), over a run of 11 steps\n" in text
    table = [line.split() for line in text.splitlines()]
    assert ["b", *["2"] * 7] in table
    assert "    2 |" in text
    assert not compare(a, a, RunLength(total_steps=11))[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epochs: 1}\nmodel: Net\n", "x.yaml: has no solver block; got keys trainer, model; add solver:"),
        ("- 1\n", "x.yaml: holds no mapping"),
        ("a: [\n", "x.yaml: cannot be read"),
        ("solver: {schedule: {}}\n", "solver.schedule: unknown key"),
        ("model: {init_args: {solver: {lrr: 1}}}\n", "model.init_args.solver.lrr: unknown key"),
        ("fit: {solver: {lrr: 1}}\n", "solver.lrr: unknown key"),
        ("lrr: 1\n", "solver.lrr: unknown key; got 'lrr'; did you mean lr?"),
    ],
)
def test_files_that_hold_no_solver(folder: Path, text: str, message: str) -> None:
    (folder / "x.yaml").write_text(text)
    with pytest.raises(SolverError) as error:
        stored("x.yaml")
    assert message in str(error.value)


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_no_checkpoint() -> None:
    Path("x.ckpt").write_text("nothing")
    with pytest.raises(SolverError, match=r"x.ckpt: cannot be read: \w+; give a YAML or JSON file, or a checkpoint"):
        stored("x.ckpt")


# ------------------------------------------------------------------ schema and plan


def test_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "schedules" in json.loads(capsys.readouterr().out)["properties"]
    assert main(["schema", "--config", "--output", "schema.json"]) == 0
    assert "solver" in json.loads((folder / "schema.json").read_text())["properties"]


@pytest.mark.usefixtures("folder")
def test_plan_of_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "block.yaml", "--total-steps", "100", "--steps-per-epoch", "10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("lr, as a factor of the base value (of a base value of 1: see --base)\n     1 |")
    assert "*" in out


def test_plan_of_a_block_shows_the_schedules_of_rules(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "rules:\n  - {match: 'a*', schedules: {lr: Cosine}}\n"
    (folder / "rules.yaml").write_text(rule)
    assert main(["plan", "rules.yaml", "--total-steps", "10", "--base", "0.5"]) == 0
    assert capsys.readouterr().out.startswith("rules[0].schedules.lr\n")


def test_plan_of_a_block_shows_limits_that_move(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "clip.yaml").write_text(yaml.safe_dump({"clip": ["AutoClip", norm(2.0, schedule=MOVES)]}))
    assert main(["plan", "clip.yaml", "--total-steps", "10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("clip[1]: GlobalNorm (max_norm 2), scheduled\n     2 |*")
    (folder / "clip.yaml").write_text(yaml.safe_dump({"clip": norm(2.0, schedule=MOVES)}))
    assert main(["plan", "clip.yaml", "--total-steps", "10"]) == 0
    assert capsys.readouterr().out.startswith("clip: GlobalNorm (max_norm 2), scheduled\n")
    assert "AutoClip" not in out


def test_plan_of_a_block_without_a_length(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["plan", str(folder / "block.yaml")]) == 2
    assert "names no module to make a plan for; give --total-steps" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_an_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--output", "nowhere/x.json"]) == 2
    assert "error: --output: cannot be written: No such file or directory" in capsys.readouterr().err


# ------------------------------------------------------------------ YAML


SPECS = [
    SolverSpec(),
    spec(),
    SolverSpec(schedules={"lr": [Linear(start={"absolute": 1e-6, "base": 0.1}, until="5ep"), Constant("previous")]}),
    SolverSpec(schedules={"lr": Product([[Linear(end="next", until="1/3ep"), Cosine()], Staircase([Step("2ep")])])}),
    SolverSpec(schedules={"lr": Join([MultiStep(at=[f"{i}ep" for i in range(1, 60)])])}),
    SolverSpec.from_dict({"optimizer": {"name": "SGD", "args": {"lr": 1e-7, "foreach": None, "note": "yes: no # x"}}}),
    *(SolverSpec.from_dict(get_loader("yaml")(path.read_text())) for path in RECIPES),
]


@pytest.mark.parametrize("one", SPECS)
def test_yaml_is_read_back(one: Any) -> None:
    text = to_yaml(one)
    assert SolverSpec.from_dict(get_loader("yaml")(text)) == one
    assert SolverSpec.from_dict(yaml.safe_load(text)) == one
    long = [line for line in text.splitlines() if len(line) > 140]
    assert not long or "at:" in text


def test_yaml_as_a_human_writes_it() -> None:
    ramp = Linear(start=0.001, until="5ep")
    block = SolverSpec(schedules={"lr": Warmup(ramp=ramp, of=[Cosine(end=0.1)], meets="delay")}, beyond_run="allow")
    assert to_yaml(block) == (
        "schedules:\n"
        "  lr:\n"
        "    class_path: Warmup\n"
        "    init_args:\n"
        "      ramp: {class_path: Linear, init_args: {start: 0.001, until: 5ep}}\n"
        "      of:\n"
        "        - {class_path: Cosine, init_args: {end: 0.1}}\n"
        "      meets: delay\n"
        "beyond_run: allow\n"
    )


def test_every_importer_has_a_name() -> None:
    for peer in ("mmcv", "mmengine", "detectron2", "pet", "timm", "transformers", "composer", "torch"):
        assert importer(peer).__name__ == f"from_{peer}"


def test_a_base_value_stands_in_only_where_the_block_has_none(tmp_path, capsys):
    block = tmp_path / "block.yaml"
    for optimizer, top in (("", "0.5"), ("optimizer: {name: SGD, args: {lr: 0.1}}\n", "0.1")):
        block.write_text(optimizer + "schedules: {lr: {class_path: Constant}}\n")
        assert main(["plan", str(block), "--total-steps", "10", "--base", "0.5"]) == 0
        assert f" {top} |*" in capsys.readouterr().out
