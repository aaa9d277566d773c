"""Fields of the language of parameters: as plain data, by the JSON schema, and in the YAML of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cli_module import WithArgument, WithoutArgument
from lightning_solver import Rule, SolverCLI, SolverError, SolverSpec
from lightning_solver.factors import FanIn, LayerDecay
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.rule import Selector
from lightning_solver.schema import block_schema, config_schema

pytestmark = [
    # Lightning's own use of jsonargparse
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SCHEMA = jsonschema.Draft202012Validator(block_schema())
CONFIG = jsonschema.Draft202012Validator(config_schema())
FAN_IN = {"class_path": "FanIn", "init_args": {"base": 8}}
OPTIMIZER = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"match": "*", **fields}]}


BLOCKS: dict[str, dict[str, Any]] = {
    "decay as a number": {"layer_decay": 0.75, "depth": ["backbone", "head"]},
    "decay as a mapping": {"layer_decay": {"rate": 0.75, "min_scale": 0.1}, "depth": ["backbone", "head"]},
    "decay that freezes": {"layer_decay": {"rate": 0.5, "freeze_below": 0.6}, "depth": ["backbone.0", "head|backbone"]},
    "depth by name": {"layer_decay": 0.75, "depth": "method"},
    "depth of a rule": {"depth": ["backbone", "head"], "rules": [{"depth": -1, "lr": 0.1}]},
    "depth of a rule as text": {"depth": ["backbone", "head"], "rules": [{"depth": "<=0", "lr": 0.1}]},
    "depths of a rule": {"depth": ["backbone", "head"], "rules": [{"depth": [-1, "<1", "0-0"], "lr": 0.1}]},
    "unless as a mapping": rule(unless={"kind": ["bias", "norm"]}, lr=0.1),
    "unless as a list": rule(unless=[{"match": "head.*", "kind": "bias"}, {"ndim": 1}], lr=0.1),
    "fresh": rule(fresh=True, lr=0.1),
    "fresh options": rule(fresh=["lr", "weight_decay"]),
    "an optimiser": rule(optimizer={"name": "SGD", "args": {"momentum": 0.9}}),
    "an optimiser without arguments": rule(optimizer={"name": "SGD"}),
    "width": {"rules": [{"ndim": 2, "lr_scale": FAN_IN}]},
    "width of other options": {"rules": [{"ndim": 2, "weight_decay_scale": FAN_IN, "scale": {"eps": FAN_IN}}]},
    "by name": rule(lr_scale={"class_path": "ByName", "init_args": {"function": "builtins.len"}}),
    "frozen": {"rules": [{"match": "head.*", "frozen": True}, {"match": "head.bias", "frozen": False}]},
    "frozen until": {"rules": [{"match": "head.*", "frozen_until": "1ep"}]},
    "frozen in steps": {"rules": [{"match": "head.*", "frozen_until": 3, "frozen_from": "80%"}]},
    "unfreezing": {"depth": ["backbone.0", "backbone.1", "head"], "rules": [{"match": "*", "unfreeze_every": "2st"}]},
    "batch size": {"base_batch_size": 256, "batch_scaling": "sqrt"},
    "scale to 0": rule(lr_scale=0.0),
    "whole numbers": rule(lr_scale=1, set={"betas": [0.8, 0.9]}),
    "inside": {"rules": [{"inside": ["Linear", "LayerNorm"], "module_class": "Linear", "lr": 0.1}]},
    "a schedule of its own": rule(schedules={"lr": ["Cosine"], "momentum": {"class_path": "Linear"}}),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_it_is_plain_data(block: dict[str, Any]) -> None:
    spec = SolverSpec.from_dict(block)
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    assert SolverSpec.from_dict(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_the_schema_takes_it(block: dict[str, Any]) -> None:
    for written in (block, SolverSpec.from_dict(block).to_dict()):
        assert [error.message for error in SCHEMA.iter_errors(written)] == []
        assert [error.message for error in CONFIG.iter_errors({"model": {"solver": written}})] == []


@pytest.mark.parametrize(
    "block",
    [
        {"layer_decay": "fast"},
        {"layer_decay": {"rat": 0.5}},
        {"layer_decay": {"min_scale": 0.5}},
        {"batch_scaling": "cubic"},
        {"depth": 3},
        {"batches_per_step": "5ep"},
        rule(unless={"lr": 0.5}, lr=0.1),
        rule(unless="*.bias", lr=0.1),
        rule(fresh="lr"),
        rule(optimizer="SGD"),
        rule(optimizer={"nam": "SGD"}),
        rule(lr_scale={"class_path": "FanIn", "init_args": {}}),
        rule(lr_scale={"class_path": "FanIn", "init_args": {"base": "wide"}}),
        rule(lr_scale="FanIn"),
        rule(frozen="yes"),
        rule(frozen_until="5 epochs"),
        {"rules": [{"depth": "~3", "lr": 0.1}]},
        {"rules": [{"depth": ["5ep"], "lr": 0.1}]},
    ],
    ids=repr,
)
def test_neither_the_schema_nor_the_reader_takes_what_makes_no_sense(block: dict[str, Any]) -> None:
    assert [*SCHEMA.iter_errors(block)]
    with pytest.raises(SolverError):
        SolverSpec.from_dict(block)


def test_mappings_become_settings() -> None:
    spec = SolverSpec.from_dict({**BLOCKS["unless as a list"], **BLOCKS["decay as a mapping"]})
    assert spec.layer_decay == LayerDecay(0.75, min_scale=0.1)
    assert spec.rules[0].unless == (Selector(match="head.*", kind="bias"), Selector(ndim=1))
    assert type(SolverSpec.from_dict(BLOCKS["unless as a mapping"]).rules[0].unless) is Selector
    assert SolverSpec.from_dict(BLOCKS["width"]).rules[0].lr_scale == FanIn(8)
    assert SolverSpec.from_dict(BLOCKS["an optimiser"]).rules[0].optimizer == OptimizerSpec("SGD", {"momentum": 0.9})


def test_python_reads_what_yaml_reads() -> None:
    ours = SolverSpec(
        layer_decay=0.75,
        depth=["backbone", "head"],
        rules=[Rule(match="*", unless=Selector(kind="bias"), lr_scale=FanIn(8), fresh=["lr"], frozen_until=2)],
    )
    unless = {"kind": "bias"}
    fields = {"match": "*", "unless": unless, "lr_scale": FAN_IN, "fresh": ["lr"], "frozen_until": 2}
    block = {"layer_decay": 0.75, "depth": ["backbone", "head"], "rules": [fields]}
    assert SolverSpec.from_dict(block) == ours


# ------------------------------------------------------------------ the command line


class WithDepth(WithArgument):
    def get_layer_depth(self, name: str) -> int:
        return 0 if name.startswith("backbone.0") else 1


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def config(tmp_path: Path, block: dict[str, Any], where: str = "model.solver") -> str:
    """A file with the block; the top-level key works for any module, the argument for one that takes it."""
    trainer = {**QUIET, "enable_checkpointing": False, "max_epochs": 2, "default_root_dir": str(tmp_path)}
    whole = {"optimizer": OPTIMIZER, **block}
    content = {"trainer": trainer, **({"solver": whole} if where == "solver" else {"model": {"solver": whole}})}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def cli(*args: str, module: Any = WithDepth, **kwargs: Any) -> Any:
    return SolverCLI(module, seed_everything_default=1, save_config_callback=None, args=list(args), **kwargs)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_the_command_line_reads_it(tmp_path: Path, block: dict[str, Any]) -> None:
    run = cli("--config", config(tmp_path, block), run=False)
    assert run.model.solver == SolverSpec.from_dict({"optimizer": OPTIMIZER, **block})


@pytest.mark.parametrize("name", ["decay as a mapping", "unless as a list", "width", "an optimiser", "frozen in steps"])
def test_the_top_level_key_reads_it(tmp_path: Path, name: str) -> None:
    block = BLOCKS[name]
    run = cli("--config", config(tmp_path, block, "solver"), module=WithoutArgument, run=False)
    assert run.model.solver == SolverSpec.from_dict({"optimizer": OPTIMIZER, **block})


@pytest.mark.parametrize(
    "name", ["decay as a number", "depths of a rule", "unless as a list", "fresh options", "width", "unfreezing", "an optimiser"]
)  # fmt: skip
def test_the_command_line_trains_by_it(tmp_path: Path, name: str) -> None:
    run = cli("fit", "--config", config(tmp_path, BLOCKS[name]))
    assert run.model.used == run.model.solver_plan.curve("lr").tolist()
    assert len(run.model.used) == 20


def test_overrides_from_the_command_line(tmp_path: Path) -> None:
    path = config(tmp_path, {})
    run = cli("--config", path, "--model.solver.layer_decay=0.5", "--model.solver.base_batch_size=64", run=False)
    assert run.model.solver.layer_decay == 0.5
    assert run.model.solver.base_batch_size == 64
    run = cli("--config", path, "--model.solver.layer_decay={rate: 0.5, min_scale: 0.1}", run=False)
    assert run.model.solver.layer_decay == LayerDecay(0.5, min_scale=0.1)
    run = cli(
        "--config", config(tmp_path, BLOCKS["decay as a mapping"]), "--model.solver.layer_decay.rate=0.5", run=False
    )
    assert run.model.solver.layer_decay == LayerDecay(0.5, min_scale=0.1)
    run = cli("--config", path, '--model.solver.depth=["a", "b"]', "--model.solver.layer_decay=0.5", run=False)
    assert run.model.solver.depth == ("a", "b")


def test_mistakes_are_told_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block, message in [
        (rule(lr_scale={"class_path": "FanOut"}), "solver.rules[0].lr_scale"),
        (rule(unless={"mtach": "a"}, lr=0.1), "solver.rules[0].unless"),
        ({"layer_decay": {"rat": 0.5}}, "solver.layer_decay"),
    ]:
        with pytest.raises(SystemExit):
            cli("fit", "--config", config(tmp_path, block))
        assert message in capsys.readouterr().err
