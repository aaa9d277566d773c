"""Layer-wise decay that acts on the learning rate itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.factors import LayerDecay
from lightning_solver.rule import Selector
from lightning_solver.schedules import Linear

SGD = OptimizerSpec("SGD", {"lr": 1.0, "momentum": 0.5})


class Vit(nn.Module):
    """The names of a vision transformer: depths 0 (stem), 1 to 3 (blocks) and 4 (norm and head)."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 2)})
        self.blocks = nn.ModuleList(nn.ModuleDict({"norm1": nn.LayerNorm(4), "fc": nn.Linear(4, 4)}) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


DEPTHS = {
    "cls_token": 0,
    "patch_embed.proj.weight": 0,
    "blocks.0.fc.weight": 1,
    "blocks.2.norm1.bias": 3,
    "head.bias": 4,
}


def plan(*rules: Rule, module: nn.Module | None = None, total: int = 4, **more: Any) -> Any:
    given: dict[str, Any] = {"optimizer": SGD, "layer_decay": 0.5, "default_rules": False}
    return SolverSpec(**{**given, **more}, rules=rules).plan(module or Vit(), total_steps=total)


def rates(*rules: Rule, **more: Any) -> dict[str, float]:
    return {name: got["lr"] for name, got in plan(*rules, **more).parameters.items()}


def test_the_rate_falls_by_the_factor_at_each_depth_below_the_head() -> None:
    found = rates()
    assert {name: found[name] for name in DEPTHS} == {name: 0.5 ** (4 - depth) for name, depth in DEPTHS.items()}
    assert plan().depths.of["pos_embed"] == 0
    assert plan().depths.top == 4


@pytest.mark.parametrize("how", ["auto", "vit"])
def test_the_way_in_which_depth_is_found_is_said(how: str) -> None:
    made = plan(depth=how)
    assert "vit" in made.depths.source
    assert made.depths.source in made.table()


def test_it_is_the_optimiser_s_own_rate_and_it_keeps_its_ratio() -> None:
    made = plan(schedules={"lr": Linear(1.0, 0.0)})
    optimizer, scheduler = made.build()
    of = {name: i for i, group in enumerate(optimizer.param_groups) for name in group["param_names"]}
    for step in range(4):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[of["cls_token"]] == pytest.approx(rates[of["head.bias"]] / 16)
        assert rates == made.curve("lr")[step].tolist()
        optimizer.step()
        scheduler.step()


def test_the_update_is_smaller_by_the_factor() -> None:
    module = Vit()
    optimizer, _ = plan(module=module).build()
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    for tensor in module.parameters():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    for name, depth in DEPTHS.items():
        step = before[name] - module.get_parameter(name).detach()
        torch.testing.assert_close(step, torch.full_like(step, 0.5 ** (4 - depth)))


def test_a_least_factor() -> None:
    found = rates(layer_decay=LayerDecay(0.5, min_scale=0.2))
    assert [found[name] for name in DEPTHS] == [0.2, 0.2, 0.2, 0.5, 1.0]
    assert rates(layer_decay=LayerDecay(0.5, min_scale=1.0)) == dict.fromkeys(found, 1.0)


def test_what_lies_too_deep_is_left_out() -> None:
    made = plan(layer_decay=LayerDecay(0.5, freeze_below=0.125))
    assert [name for name in DEPTHS if name in made.left_out] == ["cls_token", "patch_embed.proj.weight"]
    assert made.left_out["cls_token"] == "frozen by layer_decay (depth_0)"
    assert made.parameters["blocks.0.fc.weight"]["lr"] == 0.125
    back = plan(Rule(match="cls_token", frozen=False), layer_decay=LayerDecay(0.5, freeze_below=0.125))
    assert back.parameters["cls_token"]["lr"] == 0.0625


def test_a_bound_that_can_never_be_reached_is_refused() -> None:
    with pytest.raises(SolverError, match=re.escape("LayerDecay.freeze_below")):
        LayerDecay(0.5, min_scale=0.1, freeze_below=0.05)


def test_frozen_layers_keep_their_depth() -> None:
    module = Vit()
    for part in (module.blocks[0], module.blocks[2], module.head, module.norm):
        part.requires_grad_(False)
    found = rates(module=module)
    assert (found["cls_token"], found["blocks.1.fc.weight"]) == (0.0625, 0.25)
    made = plan(Rule(match=["head.*", "norm.*", "blocks.2.*"], frozen=True))
    assert made.parameters["blocks.1.fc.weight"]["lr"] == 0.25
    until = plan(Rule(match="blocks.2.*", frozen_until=2))
    assert until.parameters["blocks.2.fc.weight"]["lr"] == 0.5


def test_factors_of_rules_multiply_it_and_rates_replace_it() -> None:
    assert rates(Rule(match="blocks.*", lr_scale=3.0))["blocks.1.fc.weight"] == 0.75
    assert rates(Rule(match="blocks.*", lr_scale=3.0), Rule(match="*", lr_scale=2.0))["blocks.1.fc.weight"] == 0.5
    assert rates(Rule(match="blocks.*", lr=3.0))["blocks.1.fc.weight"] == 3.0
    assert (
        rates(Rule(match="blocks.*", lr=3.0), Rule(match="blocks.1.*", lr_scale=0.1))["blocks.1.fc.weight"] == 3.0 * 0.1
    )
    assert rates(Rule(match="blocks.*", fresh=["lr"]))["blocks.1.fc.weight"] == 1.0
    assert rates(Rule(match="blocks.*", fresh=["weight_decay"]))["blocks.1.fc.weight"] == 0.25


def test_only_the_rate_decays() -> None:
    made = plan(optimizer=OptimizerSpec("AdamW", {"lr": 1.0, "weight_decay": 0.1})).parameters
    assert {got["weight_decay"] for got in made.values()} == {0.1}


def test_rules_may_select_by_depth_and_leave_out_by_depth() -> None:
    assert rates(Rule(depth=0, lr=3.0))["cls_token"] == 3.0
    found = rates(Rule(match="*", unless=Selector(depth="<=2"), lr=3.0))
    assert [found[name] for name in DEPTHS] == [0.0625, 0.0625, 0.125, 3.0, 3.0]


def test_names_of_a_tied_tensor_do_not_disagree_about_the_decay() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(5, 3), "middle": nn.Linear(3, 3), "head": nn.Linear(3, 5, bias=False)})
    net["head"].weight = net["embed"].weight
    rules = [Rule(match="embed.*", lr_scale=0.5), Rule(match="head.*", weight_decay=0.0)]
    made = plan(*rules, module=net, depth=("embed", "middle"))
    assert made.parameters["embed.weight"]["lr"] == 0.25
    assert made.parameters["embed.weight"]["weight_decay"] == 0.0
    rules = [Rule(match="embed.*", lr_scale=0.5), Rule(match="head.*", lr_scale=0.1)]
    with pytest.raises(SolverError, match=re.escape("embed.weight: rules disagree about lr")):
        plan(*rules, module=net, depth=("embed", "middle"))


def test_the_plan_shows_depths_factors_and_what_lies_there() -> None:
    table = plan(layer_decay=LayerDecay(0.5, min_scale=0.1)).table(parameters=True)
    lines = [line.split() for line in table.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:3] == ["layer", "decay", "0.5,"])
    assert lines[start + 1][:5] == ["depth", "lr", "scale", "lr", "tensors"]
    shown = [(line[0], line[1], line[3]) for line in lines[start + 3 : start + 8]]
    assert shown == [("0", "0.1", "4"), ("1", "0.125", "4"), ("2", "0.25", "4"), ("3", "0.5", "4"), ("4", "1", "4")]
    assert "layer_decay (depth_0)" in table


def test_groups_have_names_that_tell_the_depth() -> None:
    assert {group.name for group in plan().groups} == {"depth_0", "depth_1", "depth_2", "depth_3", "default"}
    decayed = plan(default_rules=True, optimizer=OptimizerSpec("AdamW", {"weight_decay": 0.1})).groups
    assert len(decayed) == 10
    assert len({group.name for group in decayed}) == 10


def test_what_schedules_call_scaled_counts_the_decay() -> None:
    found = plan(schedules={"lr": Linear(end={"scaled": 0.1})}, total=10)
    one = next(i for i, group in enumerate(found.groups) if "cls_token" in group.names)
    alone = SolverSpec(schedules={"lr": Linear(end={"scaled": 0.1})}).curve(
        "lr", [{"lr": 1.0, "lr_scale": 0.0625}], total_steps=10
    )
    assert np.array_equal(found.curve("lr")[:, one], alone[:, 0])


def test_a_model_that_is_not_known_says_what_to_do() -> None:
    with pytest.raises(SolverError, match=re.escape("depth: ")) as caught:
        plan(module=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert "get_layer_depth" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "LayerDecay.rate"),
        ({"rate": -0.5}, "LayerDecay.rate"),
        ({"rate": 0.5, "min_scale": -1.0}, "LayerDecay.min_scale"),
        ({"rate": 0.5, "freeze_below": -1.0}, "LayerDecay.freeze_below"),
        ({"rate": float("nan")}, "LayerDecay.rate"),
        ({"rate": "fast"}, "LayerDecay.rate"),
    ],
    ids=repr,
)
def test_decays_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        LayerDecay(**given)


def test_a_number_is_checked_as_the_whole() -> None:
    with pytest.raises(SolverError, match=r"rate|layer_decay"):
        SolverSpec(layer_decay=-0.5)
    assert SolverSpec(layer_decay=1).decay() == LayerDecay(1.0)
    assert SolverSpec().decay() is None


@pytest.mark.parametrize(
    "block",
    [
        {"layer_decay": 0.75},
        {"layer_decay": {"rate": 0.75, "min_scale": 0.1}},
        {"layer_decay": {"rate": 0.75, "freeze_below": 0.01}, "depth": "vit"},
        {"layer_decay": 0.75, "depth": ["embed", r"layers\.(\d+)\."]},
    ],
    ids=repr,
)
def test_it_is_plain_data(block: dict[str, Any]) -> None:
    spec = SolverSpec.from_dict(block)
    assert spec.to_dict() == {**block, "version": 1}
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    decay = spec.decay()
    assert decay is not None
    assert decay.rate == 0.75


class Headless(nn.Module):
    """A model that says how its layers are grouped and has no head of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(2, 2), nn.LayerNorm(2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def group_matcher(self, coarse=False):
        return {"stem": "stem", "blocks": [(r"blocks\.(\d+)", None), ("norm", (99999,))]}


def test_a_head_beside_a_model_without_one_lies_above_its_last_block():
    net = nn.ModuleDict({"model": Headless(), "head": nn.Linear(2, 2)})
    plan = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 1.0}), layer_decay=0.5).plan(net, total_steps=3)
    rates = {
        name: plan.parameters[f"{name}.weight"]["lr"] for name in ("head", "model.blocks.2", "model.norm", "model.stem")
    }
    assert rates == {"head": 1.0, "model.blocks.2": 0.5, "model.norm": 0.5, "model.stem": 0.0625}
    alone = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 1.0}), layer_decay=0.5).plan(Headless(), total_steps=3)
    assert alone.parameters["blocks.2.weight"]["lr"] == 1.0


def test_what_no_regex_is_found_in_is_noted():
    spec = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 1.0}), layer_decay=0.5, depth=[r"blocks\.(\d+)"])
    plan = spec.plan(Headless(), total_steps=3)
    rest = "stem.weight, stem.bias, norm.weight and 1 more"
    assert f"depth: no regex is found in {rest}, which get the greatest depth, 3" in plan.notes


def test_a_rate_above_one_is_noted():
    plan = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 1.0}), layer_decay=1.5).plan(Headless(), total_steps=3)
    assert any("1.5 is above 1" in note for note in plan.notes)
