"""Schedules that differ between groups: by a rule, and by values that follow a group's own scale."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, KeepZero, Linear, Plateau, Product

FROZEN = (Constant(0.0, until=4), Cosine())


def model() -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(3, 3), "neck": nn.Linear(3, 3), "head": nn.Linear(3, 2)})


def spec(*rules: Rule, **changes: Any) -> SolverSpec:
    given: dict[str, Any] = {
        "optimizer": OptimizerSpec("SGD", {"lr": 0.1, "momentum": 0.9}),
        "rules": rules,
        "schedules": {"lr": Linear(end=0.0)},
    }
    return SolverSpec(**{**given, **changes})


def column(plan: Any, parameter: str, option: str = "lr") -> list[float]:
    names = [group.name for group in plan.groups]
    values: list[float] = plan.curve(option)[:, names.index(plan.parameters[parameter]["group"])].tolist()
    return values


def test_a_rule_has_a_schedule_of_its_own() -> None:
    plan = spec(Rule(match="backbone.*", lr_scale=0.5, schedules={"lr": FROZEN})).plan(model(), total_steps=10)
    assert [group.name for group in plan.groups] == ["backbone", "default"]
    alone = SolverSpec(schedules={"lr": FROZEN}).curve("lr", [0.05], total_steps=10)[:, 0].tolist()
    assert column(plan, "backbone.weight") == alone
    assert column(plan, "head.bias") == spec().curve("lr", [0.1], total_steps=10)[:, 0].tolist()
    assert plan.reasons["backbone.weight"]["schedules.lr"] == "rules[0] (match backbone.*)"
    assert "schedules.lr: rules[0] (match backbone.*)" in plan.table(parameters=True)
    assert any("rules[0].schedules.lr[1]: jumps from 0 to 0.05 at step 4" in note for note in plan.notes)


def test_the_optimiser_holds_what_the_plan_says() -> None:
    rules = (Rule(match="backbone.*", schedules={"lr": FROZEN, "momentum": Linear(0.5, 1.0)}),)
    plan = spec(*rules).plan(model(), total_steps=6)
    optimizer, scheduler = plan.build()
    for step in range(6):
        for option in ("lr", "momentum"):
            assert [group[option] for group in optimizer.param_groups] == plan.curve(option)[step].tolist()
        optimizer.step()
        scheduler.step()
    assert column(plan, "head.weight", "momentum") == [0.9] * 6  # no schedule of momentum but the rule's


def test_the_last_rule_wins_option_by_option() -> None:
    rules = [
        Rule(regex="backbone|neck", schedules={"lr": FROZEN, "momentum": Constant(0.5)}),
        Rule(match="neck.*", schedules={"lr": Constant()}),
    ]
    plan = spec(*rules).plan(model(), total_steps=4)
    assert column(plan, "backbone.weight") == [0.0] * 4
    assert column(plan, "neck.weight") == [0.1] * 4
    assert column(plan, "neck.weight", "momentum") == [0.45] * 4


def test_equal_schedules_share_a_group_and_different_ones_do_not() -> None:
    same = [Rule(match=f"{name}.*", schedules={"lr": Constant()}) for name in ("backbone", "neck")]
    assert len(spec(*same).plan(model(), total_steps=4).groups) == 2
    other = Rule(match="neck.*", schedules={"lr": Constant(0.5)})
    assert len(spec(same[0], other).plan(model(), total_steps=4).groups) == 3


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            Rule(match="backbone.*", schedules={"beta2": Constant()}),
            "rules[0].schedules.beta2: SGD has no option beta2",
        ),
        (Rule(match="backbone.*", schedules={"lr": Linear(until=2)}), "rules[0].schedules.lr.until: leaves the run"),
        (Rule(match="backbon.*", schedules={"lr": Constant()}), "rules[0].match: matches no parameter"),
    ],
)
def test_bad_rules(rule: Rule, message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        spec(rule).plan(model(), total_steps=10)


def test_a_rule_without_phases_or_settings() -> None:
    with pytest.raises(SolverError, match=re.escape("Rule.schedules.lr: has no phases")):
        Rule(match="a", schedules={"lr": ()})
    with pytest.raises(SolverError, match="changes nothing; set, scale, schedule or freeze"):
        Rule(match="a")


def test_tied_parameters_with_other_schedules() -> None:
    net = model()
    net.head = nn.Linear(3, 3)  # type: ignore[assignment]
    net.head.weight = net.backbone.weight  # type: ignore[union-attr]
    rules = [Rule(match=f"{name}.*", schedules={"lr": Constant(f)}) for name, f in (("backbone", 1.0), ("head", 0.5))]
    with pytest.raises(SolverError, match="rules disagree about the schedule of lr of one tensor that has two names"):
        spec(*rules).plan(net, total_steps=4)


def test_values_that_follow_the_scale_of_a_group() -> None:
    """An absolute floor that the factor of a rule shrinks too, as in timm, and equal values of other scales."""
    rules = [Rule(match="backbone.*", lr_scale=0.5), Rule(match="neck.*", lr=0.05)]
    floor = Linear(end={"scaled": 0.01})
    plan = spec(*rules, schedules={"lr": (floor,)}).plan(model(), total_steps=2)
    assert len(plan.groups) == 3
    assert column(plan, "backbone.weight") == [0.05, pytest.approx((0.05 + 0.005) / 2)]
    assert column(plan, "neck.weight") == [0.05, pytest.approx((0.05 + 0.01) / 2)]
    groups = [{"lr": 0.1, "lr_scale": 0.5}, 0.05]
    by_hand = SolverSpec(schedules={"lr": floor}).curve("lr", groups, total_steps=2)
    assert by_hand[1].tolist() == [column(plan, "backbone.weight")[1], column(plan, "neck.weight")[1]]
    without = spec(*rules).plan(model(), total_steps=2)
    assert len(without.groups) == 2  # nothing tells the two apart


def test_zero_stays_zero_by_an_absolute_schedule() -> None:
    decay = {"weight_decay": KeepZero(Linear(end={"absolute": 0.4}))}
    plan = spec(
        optimizer=OptimizerSpec("AdamW", {"lr": 0.1, "weight_decay": 0.1}), schedules=decay
    ).plan(model(), total_steps=4)  # fmt: skip
    assert column(plan, "head.bias", "weight_decay") == [0.0] * 4
    assert column(plan, "head.weight", "weight_decay") == pytest.approx([0.1, 0.175, 0.25, 0.325])


def test_a_plateau_of_a_rule_has_a_state_of_its_own() -> None:
    def plateau(patience: int) -> Product:
        return Product([Constant(), Plateau("loss", factor=0.5, patience=patience)])

    rule = Rule(match="backbone.*", schedules={"lr": plateau(0)})
    plan = spec(rule, schedules={"lr": plateau(1)}).plan(model(), total_steps=10)
    assert plan.monitors == {"loss"}
    assert "follows loss: the values above hold as long as nothing drops" in plan.table()
    optimizer, scheduler = plan.build()
    held = []
    for loss in (1.0, 1.0, 1.0):
        optimizer.step()
        scheduler.step()
        scheduler.observe({"loss": loss, "accuracy": 0.5})
        held.append([group["lr"] for group in optimizer.param_groups])
    assert held == [[0.1, 0.1], [0.05, 0.1], [0.025, 0.05]]
    assert scheduler.monitors == {"loss"}
    state = scheduler.state_dict()
    assert set(state["plateaus"]) == {"rules[0].schedules.lr.factors[1]", "schedules.lr.factors[1]"}
    again, resumed = plan.build()
    assert [group["lr"] for group in again.param_groups] == [0.1, 0.1]  # a plan is not changed by what it built
    resumed.load_state_dict(torch.load(saved(state), weights_only=True))
    assert [group["lr"] for group in again.param_groups] == held[-1]
    assert resumed.state_dict() == state
    assert np.array_equal(plan.curve("lr"), np.full((10, 2), 0.1))


def saved(state: Any) -> Any:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
