"""Factors that differ from parameter to parameter, and what a user's own may return."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.factors import ByName, Factor, FanIn
from lightning_solver.rule import Selector

SGD = OptimizerSpec("SGD", {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.25})


@dataclass(frozen=True)
class Own(Factor):
    """Gives whatever it was given."""

    value: Any = 1.0

    def of(self, name: str, shape: tuple[int, ...]) -> float:
        return self.value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ByShape(Factor):
    """1 / numbers."""

    def of(self, name: str, shape: tuple[int, ...]) -> float:
        return 1 / math.prod(shape)


def leaves(name: str) -> float:
    """What ``ByName`` is given in YAML."""
    return {"weight": 0.5, "bias": 2.0}[name.rpartition(".")[2]]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def plan(*rules: Rule, module: nn.Module | None = None, **more: Any) -> Any:
    spec = SolverSpec(optimizer=SGD, rules=rules, default_rules=False, **more)
    return spec.plan(module or net(), total_steps=4)


def rates(*rules: Rule, **more: Any) -> dict[str, float]:
    return {name: got["lr"] for name, got in plan(*rules, **more).parameters.items()}


# ------------------------------------------------------------------ width


@pytest.mark.parametrize(
    ("factor", "shape", "value"),
    [
        (FanIn(256), (10, 256), 1.0),
        (FanIn(256), (10, 1024), 0.25),
        (FanIn(256, power=0.5), (10, 1024), 0.5),
        (FanIn(256, power=0), (10, 1024), 1.0),
        (FanIn(256, power=-1), (10, 1024), 4.0),
        (FanIn(16), (8, 4, 2, 2), 1.0),  # a convolution sees its channels at each place of its kernel
        (FanIn(9), (8, 1, 3, 3), 1.0),
    ],
)
def test_fan_in(factor: FanIn, shape: tuple[int, ...], value: float) -> None:
    assert factor.of("w", shape) == value


def test_widths_of_a_model_come_out_one_by_one() -> None:
    found = rates(Rule(ndim=2, lr_scale=FanIn(4)))
    assert found == {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 0.5, "1.bias": 0.5, "2.weight": 0.25, "2.bias": 0.5}


def test_a_wider_model_has_the_rates_of_the_narrow_one_times_the_ratio() -> None:
    """What carries over, whatever the width: rate x fan-in."""
    products = set()
    for width in (8, 64, 512):
        module = nn.Sequential(nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 2))
        found = rates(Rule(match=["1.weight", "2.weight"], lr_scale=FanIn(64)), module=module)
        products |= {found["1.weight"] * width, found["2.weight"] * width}
        assert found["0.weight"] == 0.5
    assert products == {0.5 * 64}


def test_the_plan_holds_the_rate_that_the_optimiser_uses() -> None:
    made = plan(Rule(ndim=2, lr_scale=FanIn(4), weight_decay_scale=FanIn(4, power=-1)))
    optimizer, _ = made.build()
    held = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert (held["2.weight"]["lr"], held["2.weight"]["weight_decay"]) == (0.25, 0.5)
    assert made.reasons["2.weight"]["lr"] == "rules[0] (ndim 2)"


@pytest.mark.parametrize(
    ("rule", "module"),
    [
        (Rule(match="*", lr_scale=FanIn(4)), net()),
        (Rule(match="*", lr_scale=FanIn(4)), nn.ParameterDict({"scale": torch.ones(())})),
    ],
    ids=["a bias", "a single number"],
)
def test_what_has_no_fan_in_is_an_error_that_names_the_rule(rule: Rule, module: nn.Module) -> None:
    with pytest.raises(SolverError, match=re.escape("rules[0].lr_scale")) as caught:
        plan(rule, module=module)
    assert "ndim: 2 or kind: hidden" in str(caught.value)


@pytest.mark.parametrize(
    ("factor", "module"),
    [(FanIn(4), nn.ParameterList([torch.empty(2, 0)])), (FanIn(10**9, power=300), nn.Linear(2, 2)), (FanIn(1, power=-1e9), nn.Linear(2, 2))],
    ids=["no inputs", "beyond all numbers", "beyond all numbers the other way"],
)  # fmt: skip
def test_what_is_no_number_is_an_error_of_ours(factor: FanIn, module: nn.Module) -> None:
    with pytest.raises(SolverError, match=re.escape("rules[0].lr_scale")):
        plan(Rule(ndim=2, lr_scale=factor), module=nn.ModuleList([module]))


@pytest.mark.parametrize("base", [0, -3])
def test_a_base_that_is_no_width(base: int) -> None:
    with pytest.raises(SolverError, match=re.escape("FanIn.base: must be at least 1")):
        FanIn(base)


def test_a_parameter_that_has_no_weights_yet_has_the_shape_all_the_same() -> None:
    with torch.device("meta"):
        module = net()
    assert rates(Rule(ndim=2, lr_scale=FanIn(4)), module=module)["2.weight"] == 0.25


# ------------------------------------------------------------------ names


def test_by_name_takes_a_function_or_its_path() -> None:
    found = [rates(Rule(match="*", lr_scale=ByName(function))) for function in (leaves, f"{__name__}.leaves")]
    assert found[0] == found[1]
    assert found[0]["0.weight"] == 0.25
    assert found[0]["0.bias"] == 1.0


def test_by_name_sees_a_root_in_front_of_bare_names() -> None:
    seen: list[str] = []

    def function(name: str) -> float:
        seen.append(name)
        return 1.0

    module = nn.ModuleDict({"in": nn.Linear(1, 1)})
    module.gain = nn.Parameter(torch.ones(1))  # type: ignore[assignment]
    plan(Rule(match="*", lr_scale=ByName(function, root="model.")), module=module)
    assert {*seen} == {"model.gain", "in.weight", "in.bias"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda name: math.nan, "gave no factor for '0.weight'; got nan"),
        (lambda name: -1, "gave no factor for '0.weight'; got -1"),
        (lambda name: "big", "gave no factor for '0.weight'; got 'big'"),
        (lambda name: True, "gave no factor for '0.weight'; got True"),
        (lambda name: 1 / 0, "failed for '0.weight': ZeroDivisionError"),
    ],
)
def test_functions_that_give_no_factor(function: Any, message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        plan(Rule(match="*", lr_scale=ByName(function)))


@pytest.mark.parametrize("function", ["leaves", "no.such.module.f", 3])
def test_what_is_no_function(function: Any) -> None:
    with pytest.raises(SolverError, match=r"ByName\.function"):
        plan(Rule(match="*", lr_scale=ByName(function)))


# ------------------------------------------------------------------ one's own


def test_a_factor_of_one_s_own() -> None:
    found = rates(Rule(match="*.bias", lr_scale=ByShape()))
    assert found["2.bias"] == 0.25
    assert found["0.bias"] == found["1.bias"] == 0.5 / 8


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "big", None, True], ids=repr)
@pytest.mark.parametrize("field", ["lr_scale", "weight_decay_scale", "scale"])
def test_a_factor_that_is_no_number_is_an_error_that_names_the_rule(field: str, value: Any) -> None:
    factor: Any = {"momentum": Own(value)} if field == "scale" else Own(value)
    where = "rules[1].scale.momentum" if field == "scale" else f"rules[1].{field}"
    with pytest.raises(SolverError, match=re.escape(where)):
        plan(Rule(match="*", lr=0.5), Rule(match="*", **{field: factor}))


def test_factors_replace_one_another_as_numbers_do() -> None:
    assert rates(Rule(ndim=2, lr_scale=FanIn(4)), Rule(match="2.*", lr_scale=0.1))["2.weight"] == 0.5 * 0.1
    assert rates(Rule(match="2.*", lr_scale=0.1), Rule(ndim=2, lr_scale=FanIn(4)))["2.weight"] == 0.5 * 0.5
    assert rates(Rule(ndim=2, lr_scale=FanIn(4)), Rule(match="*", lr=0.25))["2.weight"] == 0.25
    assert rates(Rule(match="*", lr=0.25), Rule(ndim=2, lr_scale=FanIn(4)))["2.weight"] == 0.125


def test_momentum_may_be_scaled_by_a_factor_too() -> None:
    made = plan(Rule(match="*.bias", scale={"momentum": ByShape()})).parameters
    assert made["2.bias"]["momentum"] == 0.25
    assert made["2.weight"]["momentum"] == 0.5


def test_factors_of_what_a_rule_leaves_out_are_not_asked_for() -> None:
    rule = Rule(match="*", unless=Selector(ndim=1), lr_scale=FanIn(4))
    assert rates(rule)["2.weight"] == 0.25


def test_a_factor_sees_the_first_name_of_a_tied_parameter() -> None:
    seen: list[str] = []

    def function(name: str) -> float:
        seen.append(name)
        return 0.5

    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    assert rates(Rule(match="b.*", lr_scale=ByName(function)), module=module) == {"a.weight": 0.25}
    assert {*seen} == {"a.weight"}


# ------------------------------------------------------------------ plain data


@pytest.mark.parametrize(
    "block",
    [
        {"class_path": "FanIn", "init_args": {"base": 256}},
        {"class_path": "FanIn", "init_args": {"base": 256, "power": 0.5}},
        {"class_path": "ByName", "init_args": {"function": "math.sqrt", "root": "model."}},
        {"class_path": "test_factors.Own", "init_args": {"value": 2.0}},
    ],
    ids=repr,
)
def test_factors_are_plain_data(block: dict[str, Any]) -> None:
    rule = {"match": "*", "lr_scale": block, "scale": {"eps": block}}
    spec = SolverSpec.from_dict({"rules": [rule]})
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    assert isinstance(spec.rules[0].lr_scale, Factor)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"class_path": "FanOut", "init_args": {"base": 2}}, "FanIn"),
        ({"class_path": "FanIn", "init_args": {"bas": 2}}, "base"),
        ({"class_path": "FanIn"}, "base"),
        ({"class_path": "Linear"}, "lr_scale"),
        ("big", "lr_scale"),
    ],
    ids=repr,
)
def test_blocks_that_are_no_factor(block: Any, message: str) -> None:
    with pytest.raises(SolverError, match=message) as caught:
        SolverSpec.from_dict({"rules": [{"match": "*", "lr_scale": block}]})
    assert "rules[0].lr_scale" in str(caught.value)
