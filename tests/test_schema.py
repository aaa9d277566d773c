"""The JSON schema says of a block what reading it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonargparse import get_loader

from lightning_solver import SolverSpec
from lightning_solver.factors import Factor
from lightning_solver.plain import subclasses
from lightning_solver.schedules import Schedule
from lightning_solver.schema import block_schema, config_schema

EXAMPLES = Path(__file__).parent.parent / "examples"
RECIPES = sorted((EXAMPLES / "recipes").glob("*.yaml"))
BLOCK = jsonschema.Draft202012Validator(block_schema())


def loaded(path: Path) -> Any:
    return get_loader("yaml")(path.read_text())


def as_json(block: Any) -> Any:
    """A block as editors see it: keys that are numbers in YAML are texts."""
    return json.loads(json.dumps(block))


def complaints(block: Any) -> list[str]:
    return [error.message for error in BLOCK.iter_errors(as_json(block))]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(block_schema())
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert json.loads(json.dumps(block_schema())) == block_schema()


def test_there_are_examples() -> None:
    assert len(RECIPES) >= 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_native_examples_validate(path: Path) -> None:
    block = loaded(path)
    assert complaints(block) == []
    spec = SolverSpec.from_dict(block)
    assert complaints(spec.to_dict()) == []
    for option in spec.schedules:
        curve = spec.curve(option, [0.1, 0.0], total_steps=10_000, steps_per_epoch=500)
        assert curve.shape == (10_000, 2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_misspelt_key_does_not_validate(path: Path) -> None:
    """Every key of every mapping, misspelt one at a time."""
    found = 0
    for block in misspelt(loaded(path)):
        assert complaints(block), block
        found += 1
    assert found > 10


def misspelt(value: Any) -> Any:
    if isinstance(value, list):
        for i, item in enumerate(value):
            for other in misspelt(item):
                yield [*value[:i], other, *value[i + 1 :]]
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "args":
                for other in misspelt(item):
                    yield {**value, key: other}
        known = {"optimizer", "rules", "schedules", "name", "class_path", "init_args", "until", "start", "end", "ramp"}
        for key in value.keys() & known:
            yield {(f"{key}x" if k == key else k): item for k, item in value.items()}


@pytest.mark.parametrize(
    "block",
    [
        {"schedules": {"lr": "Cosin"}},
        {"schedules": {"lr": {"class_path": "Linear", "init_args": {"until": "5 epochs"}}}},
        {"schedules": {"lr": {"class_path": "Linear", "init_args": {"end": {"absolut": 1.0}}}}},
        {"schedules": {"lr": {"class_path": "Linear", "init_args": {"end": "last"}}}},
        {"schedules": {"lr": {"class_path": "Step", "init_args": {}}}},
        {"schedules": {"lr": {"class_path": "Step"}}},
        {"optimizer": {"args": {}}},
        {"rules": [{"kind": "nrom", "lr": 0.1}]},
        {"rules": {"match": "a", "lr": 0.1}},
        {"beyond_run": "yes"},
        {"lr": "fast"},
        {"clip": "GlobalNrom"},
        {"clip": "GlobalNorm"},
        {"clip": {"class_path": "GlobalNorm"}},
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_nrom": 1.0}}},
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0, "norm_type": "max"}}},
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0, "of": {"match": 3}}}},
        {"clip": {"class_path": "GlobalNorm", "init_args": {"max_norm": 1.0, "schedule": "Cosin"}}},
        {"clip": {"class_path": "AGC", "init_args": {"unless": [{"kind": "haed"}]}}},
        {"clip": [{"class_path": "Value", "init_args": {}}]},
        {"clip": {"max_norm": 1.0}},
        {"clip": 1.0},
        {"nonfinite": "ignore"},
        {"nonfinite": {"policy": "skp"}},
        {"nonfinite": {"in_row": 3}},
        {"accumulate": 0},
        {"accumulate": 2.5},
        {"accumulate": "4"},
        {"accumulate": {"5ep": 4}},
        {"accumulate": {0: 1, "5epochs": 4}},
        {"accumulate": {0: 1, "50%": 4}},
        {"accumulate": {0: 1, "1ep+5": 4}},
        {"accumulate": {0: 1, "5ep": 0}},
        {"accumulate": {0: 1, "5ep": "four"}},
        {"accumulate": {"batches": 0}},
        {"accumulate": {"batches": {"5ep": 2}}},
        {"accumulate": {"samples": {0: 64, "5": 12.5}}},
        {"accumulate": {"batches": 4, "weigh": "tokens"}},
    ],
)
def test_bad_blocks(block: Any) -> None:
    assert complaints(block)
    with pytest.raises(ValueError, match="solver"):
        SolverSpec.from_dict(block)


@pytest.mark.parametrize(
    "block",
    [
        {"schedules": {"lr": "Cosine"}},
        {"schedules": {"lr": ["Cosine"]}},
        {"schedules": {"lr": {"class_path": "Linear", "init_args": {"until": "5ep+1/3st", "end": "next"}}}},
        {"schedules": {"lr": {"class_path": "my.package.Own", "init_args": {"anything": 1}}}},
        {"schedules": {"lr": {"class_path": "Clip", "init_args": {"of": "Cosine", "min": 0.1}}}},
    ],
)
def test_good_blocks(block: Any) -> None:
    assert complaints(block) == []


GRADIENTS = """
- clip: {class_path: GlobalNorm, init_args: {max_norm: 1.0}}
- clip: {class_path: GlobalNorm, init_args: {max_norm: 1, norm_type: inf, of: {match: "backbone.*"}}}
- clip: AutoClip
- clip:
    - {class_path: AGC, init_args: {factor: 0.01, unless: [{kind: head}, {kind: bias}]}}
    - {class_path: Value, init_args: {max_value: 0.5, schedule: {class_path: Linear, init_args: {end: 0.1}}}}
    - {class_path: ZClip, init_args: {max_norm: null}}
    - {class_path: GroupNorm, init_args: {max_norm: 2.0, schedule: [{class_path: Constant, init_args: {until: 5ep}}, Cosine]}}
- nonfinite: skip
- nonfinite: {policy: zero, in_a_row: 3}
- accumulate: 4
- accumulate: {0: 1, 5ep: 4}
- accumulate: {0ep: 2, 5/2ep: 4, 7.5ep: 8}
- accumulate: {0: 1, 1000: 4, 2000st: 8}
- accumulate: {batches: {0: 1, 5ep: 4}, keep_gradients: true}
- accumulate: {samples: 256, weigh_by: tokens}
- accumulate: {samples: {0: 64, 10ep: 128}}
- {clip: null, nonfinite: null, accumulate: null}
"""


@pytest.mark.parametrize("block", get_loader("yaml")(GRADIENTS), ids=str)
def test_clipping_and_accumulation_are_read_as_the_schema_has_them(block: Any) -> None:
    assert complaints(block) == []
    spec = SolverSpec.from_dict(block)
    assert complaints(spec.to_dict()) == []
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    again = SolverSpec.from_dict(as_json(spec.to_dict()))  # where points of the run are texts
    assert [one.accumulation() and one.accumulation().describe() for one in (again, spec)] == [
        spec.accumulation() and spec.accumulation().describe()
    ] * 2
    assert again.replace(accumulate=None) == spec.replace(accumulate=None)


def test_classes_of_one_name_do_not_take_each_others_place() -> None:
    """There is a schedule Clip, and clippings derive from a Clip."""
    definitions = block_schema()["$defs"]
    names = {schema["$ref"].rpartition("/")[2] for schema in block_schema()["properties"]["clip"]["anyOf"][:1]}
    (clip,) = names
    kinds = {one["properties"]["class_path"].get("const") for one in definitions[clip]["anyOf"][1:]}
    assert {"GlobalNorm", "Value", "AGC", "AutoClip", "ZClip"} <= kinds
    assert "min" in definitions["Clip"]["properties"]


def test_a_whole_configuration() -> None:
    validator = jsonschema.Draft202012Validator(config_schema())
    config = loaded(EXAMPLES / "digits" / "digits.yaml")
    assert list(validator.iter_errors(as_json(config))) == []
    block = yaml.safe_load(RECIPES[0].read_text())
    block["optimiser"] = block.pop("optimizer")
    for bad in ({"solver": block}, {"model": {"init_args": {"solver": block}}}, {"fit": {"solver": block}}):
        assert list(validator.iter_errors(bad))


def test_every_field_is_described() -> None:
    schema = block_schema()
    bases = (Schedule, Factor)
    of_tests = {n for b in bases for n, c in subclasses(b).items() if not c.__module__.startswith("lightning_solver")}
    undescribed = [
        f"{name}.{field}"
        for name, definition in {"SolverSpec": schema, **schema["$defs"]}.items()
        for field, value in definition.get("properties", {}).items()
        if "description" not in value and name not in of_tests
    ]
    assert undescribed == []
