"""Several optimisers as one: a rule names its own."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.presets import muon_adamw
from lightning_solver.rule import Selector
from lightning_solver.schedules import Constant, Cosine, Linear, Plateau, Product
from small import Net, Numbers, spec, trainer

ADAMW = OptimizerSpec("AdamW", {"lr": 0.01, "weight_decay": 0.1})
MUON = OptimizerSpec("Muon", {"weight_decay": 0.2})
SGD = OptimizerSpec("SGD", {"lr": 0.5, "momentum": 0.9})
HIDDEN = Rule(kind="hidden", optimizer=MUON, name="muon")
MATRICES = Rule(match=["0.weight", "2.weight"], optimizer=MUON)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def solver(*rules: Rule, **more: Any) -> SolverSpec:
    return SolverSpec(**{"optimizer": ADAMW, "rules": rules, "depth": ("^0", "^[12]", "^3"), **more})


def plan(*rules: Rule, total: int = 6, module: nn.Module | None = None, **more: Any) -> Any:
    return solver(*rules, **more).plan(module or model(), total_steps=total, steps_per_epoch=2)


def train(module: nn.Module, optimizer: Any, scheduler: Any, steps: int = 3) -> None:
    for step in range(steps):
        for i, tensor in enumerate(module.parameters()):
            tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 * step + i))
        optimizer.step()
        scheduler.step()


# ------------------------------------------------------------------ which parameter goes where


def test_each_parameter_has_one_optimiser() -> None:
    made = plan(HIDDEN)
    assert [member.recipe.cls.__name__ for member in made.members] == ["AdamW", "Muon"]
    of = {name: group.member.recipe.cls.__name__ for group in made.groups for name in group.names}
    assert [name for name, cls in of.items() if cls == "Muon"] == ["0.weight", "2.weight"]
    assert sorted(of) == sorted(made.parameters) == sorted(name for name, _ in model().named_parameters())
    assert {group.name.partition(".")[0] for group in made.groups} == {"adamw", "muon"}
    assert made.recipe is made.members[0].recipe


def test_a_parameter_has_the_options_of_its_own_optimiser() -> None:
    made = plan(HIDDEN).parameters
    assert {"betas", "eps"} <= made["0.bias"].keys()
    assert "momentum" not in made["0.bias"]
    assert {"momentum", "ns_steps"} <= made["0.weight"].keys()
    assert "betas" not in made["0.weight"]
    assert made["0.weight"]["weight_decay"] == 0.2
    assert made["3.weight"]["weight_decay"] == 0.1
    assert made["0.bias"]["weight_decay"] == made["1.weight"]["weight_decay"] == 0.0


def test_an_optimiser_without_a_rate_takes_the_solver_s() -> None:
    made = plan(HIDDEN)
    assert made.parameters["0.weight"]["lr"] == 0.01
    assert plan(HIDDEN, lr=0.25).parameters["0.weight"]["lr"] == 0.25
    own = Rule(kind="hidden", optimizer=OptimizerSpec("Muon", {"lr": 0.5}))
    assert plan(own, lr=0.25).parameters["0.weight"]["lr"] == 0.5
    assert plan(own, lr=0.25).parameters["3.weight"]["lr"] == 0.25


def test_the_last_rule_that_names_an_optimiser_wins() -> None:
    made = plan(HIDDEN, Rule(match="2.*", optimizer=SGD))
    of = {name: group.member.recipe.cls.__name__ for group in made.groups for name in group.names}
    assert (of["0.weight"], of["2.weight"], of["2.bias"], of["3.bias"]) == ("Muon", "SGD", "SGD", "AdamW")


def test_the_solver_s_own_may_be_named_again() -> None:
    made = plan(Rule(match="*", optimizer=SGD), Rule(match="3.*", optimizer=ADAMW))
    of = {name: group.member.recipe.cls.__name__ for group in made.groups for name in group.names}
    assert (of["3.weight"], of["0.weight"]) == ("AdamW", "SGD")
    assert len(made.members) == 2


def test_a_fresh_start_leads_back_to_the_solver_s_own() -> None:
    made = plan(Rule(match="*", optimizer=SGD), Rule(match="3.*", fresh=True))
    of = {name: group.member.recipe.cls.__name__ for group in made.groups for name in group.names}
    assert (of["3.weight"], of["0.weight"]) == ("AdamW", "SGD")


def test_two_rules_that_say_the_same_share_one() -> None:
    one, two = Rule(match="0.weight", optimizer=MUON), Rule(match="2.weight", optimizer=MUON)
    made = plan(one, two)
    assert len(made.members) == 2
    assert len({group.name for group in made.groups if "muon" in group.name}) == 1
    other = Rule(match="2.weight", optimizer=OptimizerSpec("Muon", {"weight_decay": 0.3}))
    assert len(plan(one, other).members) == 3
    optimizer, _ = plan(one, other).build()
    assert len(optimizer.members) == 3  # two of one class have names of their own


def test_an_optimiser_for_which_nothing_is_left_is_noted_and_not_built() -> None:
    made = plan(HIDDEN, Rule(match="*", optimizer=SGD))
    assert "rules[0].optimizer (Muon): no parameter is left for it, so that it is not built" in made.notes
    assert "optimizer (AdamW): no parameter is left for it, so that it is not built" in made.notes
    assert isinstance(made.build()[0], torch.optim.SGD)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(match="*", optimizer=OptimizerSpec("Mun")), "rules[0].optimizer.name: torch.optim has no optimiser of"),
        (Rule(match="*", optimizer=OptimizerSpec("Muon", {"betas": [0.9, 0.9]})), "rules[0].optimizer.args.betas: Muon has no argument betas"),
        (Rule(match="*", optimizer=OptimizerSpec("SGD", {"momentum": -1.0})), "rules[0].optimizer.args: SGD refuses them"),
        (Rule(match="0.*", optimizer=MUON), "Muon"),
        (Rule(match="*", optimizer=MUON, set={"betas": [0.9, 0.9]}), "rules[0].set.betas: Muon has no option betas"),
        (Rule(match="*", optimizer=SGD, schedules={"beta2": Constant()}), "rules[0].schedules.beta2: SGD has no option beta2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.describe(),
)  # fmt: skip
def test_optimisers_that_do_not_fit(rule: Rule, message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        plan(rule)


# ------------------------------------------------------------------ what rules set


def test_a_rule_sets_what_each_optimiser_has() -> None:
    rules = [HIDDEN, Rule(kind="hidden", set={"momentum": 0.5}), Rule(kind="head", set={"betas": [0.5, 0.6]})]
    made = plan(*rules).parameters
    assert made["0.weight"]["momentum"] == 0.5
    assert made["3.weight"]["betas"] == (0.5, 0.6)


def test_an_option_that_the_parameters_optimiser_lacks_is_an_error() -> None:
    with pytest.raises(
        SolverError,
        match=re.escape(
            "rules[1].set.betas: Muon, which rules[0] (muon) chooses for some of the parameters, has no betas; leave"
        ),
    ):
        plan(HIDDEN, Rule(match="*", set={"betas": [0.5, 0.6]}))
    made = plan(HIDDEN, Rule(match="*", unless=Selector(kind="hidden"), set={"betas": [0.5, 0.6]}))
    assert made.parameters["3.weight"]["betas"] == (0.5, 0.6)


def test_arguments_of_an_optimiser_win_over_earlier_rules_and_factors_stay() -> None:
    earlier = Rule(match="*", weight_decay=0.7, name="first")
    assert plan(earlier, MATRICES).parameters["0.weight"]["weight_decay"] == 0.2
    scaled = [Rule(match="*", lr_scale=0.5, weight_decay_scale=0.5), MATRICES]
    made = plan(*scaled).parameters["0.weight"]
    assert (made["lr"], made["weight_decay"]) == (0.005, 0.1)


def test_a_rate_that_an_earlier_rule_has_set_stays_where_the_optimiser_names_none() -> None:
    assert plan(Rule(match="*", lr=0.5), MATRICES).parameters["0.weight"]["lr"] == 0.5
    own = Rule(match=["0.weight", "2.weight"], optimizer=OptimizerSpec("Muon", {"lr": 0.25}))
    assert plan(Rule(match="*", lr=0.5), own).parameters["0.weight"]["lr"] == 0.25


def test_biases_and_norms_are_not_decayed_by_any_optimiser() -> None:
    """The built-in rule holds for an optimiser that a rule names, as it does for the solver's own."""
    other = OptimizerSpec("AdamW", {"weight_decay": 0.3})
    made = plan(Rule(match="*", optimizer=other)).parameters
    assert [made[name]["weight_decay"] for name in ("0.weight", "0.bias", "1.weight")] == [0.3, 0.0, 0.0]
    without = OptimizerSpec("Rprop", {"lr": 0.01})  # which has no weight decay
    made = plan(Rule(match="*", optimizer=other), optimizer=without).parameters
    assert [made[name]["weight_decay"] for name in ("0.weight", "0.bias", "1.weight")] == [0.3, 0.0, 0.0]
    made = plan(Rule(match="*", optimizer=other), default_rules=False).parameters
    assert made["0.bias"]["weight_decay"] == 0.3
    made = plan(Rule(match="*", optimizer=other), Rule(match="0.bias", weight_decay=0.5)).parameters
    assert made["0.bias"]["weight_decay"] == 0.5


def test_a_factor_of_what_is_no_number_in_the_chosen_optimiser_is_an_error() -> None:
    rules = [Rule(match="*", scale={"eps": 10.0}), Rule(match="0.*", optimizer=OptimizerSpec("Adafactor"))]
    with pytest.raises(SolverError, match=r"rules\[[01]\]\S*: .*eps") as caught:
        plan(*rules)
    assert "cannot be scaled" in str(caught.value)


def test_layer_decay_acts_on_both() -> None:
    made = plan(HIDDEN, layer_decay=0.5).parameters
    assert [made[f"{i}.weight"]["lr"] for i in range(4)] == [0.01 * 0.25, 0.01 * 0.5, 0.01 * 0.5, 0.01]
    own = Rule(kind="hidden", optimizer=OptimizerSpec("Muon", {"lr": 0.8}))
    assert plan(own, layer_decay=0.5).parameters["0.weight"]["lr"] == 0.8 * 0.25


def test_tied_names_that_choose_different_optimisers_are_refused() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    net["b"].weight = net["a"].weight
    rules = [Rule(match="a.*", optimizer=MUON), Rule(match="b.*", optimizer=SGD)]
    with pytest.raises(SolverError, match=re.escape("a.weight: rules disagree about the optimiser of one tensor")):
        plan(*rules, module=net, depth="auto")


# ------------------------------------------------------------------ schedules


def columns(made: Any, option: str) -> dict[str, list[float]]:
    values = made.curve(option)
    names = [group.name for group in made.groups]
    return {name: values[:, names.index(made.parameters[name]["group"])].tolist() for name in made.parameters}


def test_a_schedule_of_the_rate_is_for_all_of_them() -> None:
    made = plan(HIDDEN, schedules={"lr": Linear(end=0.0)}, total=4)
    assert (
        columns(made, "lr")["0.weight"]
        == columns(made, "lr")["3.weight"]
        == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    )
    optimizer, scheduler = made.build()
    for step in range(4):
        assert [group["lr"] for group in optimizer.param_groups] == made.curve("lr")[step].tolist()
        optimizer.step()
        scheduler.step()


def test_a_schedule_of_momentum_is_betas_in_one_and_momentum_in_another() -> None:
    made = plan(HIDDEN, schedules={"momentum": Linear(1.0, 0.5)}, total=2)
    optimizer, scheduler = made.build()
    held = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert (held["0.weight"]["momentum"], held["3.weight"]["betas"][0]) == (0.95, 0.9)
    scheduler.step()
    held = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert held["0.weight"]["momentum"] == pytest.approx(0.95 * 0.75)
    assert held["3.weight"]["betas"] == (pytest.approx(0.9 * 0.75), 0.999)


def test_an_option_that_one_of_them_lacks_is_left_alone_there_and_noted() -> None:
    made = plan(HIDDEN, schedules={"beta2": Linear(1.0, 0.5)}, total=2)
    assert "schedules.beta2: Muon has no such option, so that its groups keep theirs" in made.notes
    found = columns(made, "beta2")
    assert np.isnan(found["0.weight"]).all()
    assert found["3.weight"] == pytest.approx([0.999, 0.75 * 0.999])
    optimizer, scheduler = made.build()
    train(model(), optimizer, scheduler, 1)
    assert made.table()
    assert made.chart(height=4)


def test_an_option_that_nobody_has_is_an_error() -> None:
    with pytest.raises(SolverError, match=r"schedules\.rho: \w+ has no option rho"):
        plan(HIDDEN, schedules={"rho": Constant()})


def test_a_drawing_leaves_out_groups_without_the_option(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = plan(Rule(match="0.*", optimizer=OptimizerSpec("Adagrad")), schedules={"momentum": Cosine()})
    assert made.draw(tmp_path / "x.png").stat().st_size > 0
    assert made.chart(height=4)


def test_the_table_tells_turns_though_the_first_group_has_no_such_option() -> None:
    rule = Rule(match="0.*", optimizer=OptimizerSpec("Adagrad"))
    momentum = [Linear(1.0, 0.5, until=20), Linear(0.5, 1.0)]
    table = plan(rule, schedules={"momentum": momentum}, total=100).table()
    (line,) = (line for line in table.splitlines() if line.startswith("momentum at step"))
    assert {"19", "20"} & {*line.split()}


def test_a_plateau_drops_for_all_of_them() -> None:
    plateau = Product([Constant(), Plateau("loss", factor=0.5, patience=0)])
    module = model()
    made = plan(HIDDEN, schedules={"lr": plateau}, module=module)
    optimizer, scheduler = made.build()
    for loss in (1.0, 1.0, 1.0):
        train(module, optimizer, scheduler, 1)
        scheduler.observe({"loss": loss})
    assert {group["lr"] for group in optimizer.param_groups} == {0.0025}
    again, resumed = made.build()
    resumed.load_state_dict(scheduler.state_dict())
    assert {group["lr"] for group in again.param_groups} == {0.0025}


def test_a_rule_s_schedule_is_laid_over_its_own_optimiser() -> None:
    rule = Rule(kind="hidden", optimizer=MUON, schedules={"momentum": Constant(0.5)})
    made = plan(rule)
    assert columns(made, "momentum")["0.weight"] == [0.475] * 6
    assert columns(made, "momentum")["3.weight"] == [0.9] * 6


def test_a_schedule_may_begin_afresh_by_the_name_under_which_it_was_given() -> None:
    """Momentum, which AdamW keeps in its betas."""
    rules = [Rule(match="*", schedules={"momentum": Constant(0.5)}), Rule(match="3.*", fresh=["momentum"])]
    found = columns(plan(*rules), "momentum")
    assert found["0.weight"] == [0.45] * 6
    assert found["3.weight"] == [0.9] * 6


@pytest.mark.parametrize("name", ["头", "---", "élan vital"])
def test_groups_have_names_whatever_rules_are_called(name: str) -> None:
    made = plan(Rule(match="0.*", lr=0.5, name=name), HIDDEN)
    for group in made.groups:
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", group.name), group.name
    assert len({group.name for group in made.groups}) == len(made.groups)


# ------------------------------------------------------------------ the optimiser


def test_it_steps_each_as_if_it_were_alone() -> None:
    module, twin = model(), model()
    made = plan(HIDDEN, schedules={"lr": Linear(end=0.0)}, module=module, total=5)
    optimizer, scheduler = made.build()
    assert isinstance(optimizer, CompositeOptimizer)
    named = dict(twin.named_parameters())
    muon = torch.optim.Muon([named["0.weight"], named["2.weight"]], lr=0.01, weight_decay=0.2)
    decayed = [named["3.weight"]]
    rest = [tensor for tensor in named.values() if tensor.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, foreach=False)
    train(module, optimizer, scheduler, 5)
    for step in range(5):
        for i, tensor in enumerate(twin.parameters()):
            tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 * step + i))
        for one in (muon, adamw):
            for group in one.param_groups:
                group["lr"] = 0.01 * (1 - step / 5)
            one.step()
    for (name, ours), theirs in zip(module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7, msg=name)


def test_groups_come_in_the_order_of_the_plan() -> None:
    made = plan(HIDDEN)
    optimizer, _ = made.build()
    assert [group["name"] for group in optimizer.param_groups] == [group.name for group in made.groups]
    assert [tuple(group["param_names"]) for group in optimizer.param_groups] == [group.names for group in made.groups]


# ------------------------------------------------------------------ resume


REGROUPED: dict[str, tuple[Rule, ...]] = {
    "same": (HIDDEN,),
    "renamed": (Rule(kind="hidden", optimizer=MUON, name="matrices"),),
    "split": (HIDDEN, Rule(match="0.*", lr_scale=0.5), Rule(match="3.bias", set={"eps": 1e-6})),
    "by name": (MATRICES,),
    "other settings": (Rule(kind="hidden", optimizer=OptimizerSpec("Muon", {"lr": 0.3})), Rule(kind="norm", lr=0.2)),
}


@pytest.mark.parametrize("before", REGROUPED)
@pytest.mark.parametrize("after", REGROUPED)
def test_state_follows_the_names_through_the_composite(
    before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    module = model()
    old, scheduler = plan(*REGROUPED[before], module=module).build()
    train(module, old, scheduler)
    moments = {name: copy.deepcopy(old.state[tensor]) for name, tensor in module.named_parameters()}
    other = model()
    new, _ = plan(*REGROUPED[after], module=other).build()
    settings = [{k: v for k, v in group.items() if k != "params"} for group in new.param_groups]
    new.load_state_dict(old.state_dict())
    assert [{k: v for k, v in group.items() if k != "params"} for group in new.param_groups] == settings
    for name, tensor in other.named_parameters():
        assert moments[name].keys() == new.state[tensor].keys()
        assert all(torch.equal(value, new.state[tensor][key]) for key, value in moments[name].items()), name
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [((HIDDEN,), ()), ((), (HIDDEN,)), ((HIDDEN,), (Rule(match="0.weight", optimizer=MUON),))],
    ids=["one is dropped", "one is added", "one has less"],
)
def test_what_stays_with_its_optimiser_keeps_its_state(
    before: tuple[Rule, ...], after: tuple[Rule, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Only what another class steps now starts afresh, and that is told by name."""

    def owner(made: Any) -> dict[str, str]:
        return {name: group.member.recipe.cls.__name__ for group in made.groups for name in group.names}

    module, other = model(), model()
    first, second = plan(*before, module=module), plan(*after, module=other)
    old, scheduler = first.build()
    train(module, old, scheduler)
    new, scheduler = second.build()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    stays = {name for name in owner(first) if owner(first)[name] == owner(second)[name]}
    assert 0 < len(stays) < len(owner(first))
    kept = {name for name, tensor in other.named_parameters() if new.state.get(tensor)}
    assert kept == stays
    named = dict(module.named_parameters())
    for name, tensor in other.named_parameters():
        if name in stays:
            theirs = old.state[named[name]]
            assert new.state[tensor].keys() == theirs.keys()
            assert all(torch.equal(value, theirs[key]) for key, value in new.state[tensor].items()), name
        else:
            assert name in caplog.text
    train(other, new, scheduler, 1)


def test_new_and_gone_parameters_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    module = model()
    old, scheduler = plan(HIDDEN, module=module).build()
    train(module, old, scheduler)
    other = model()
    other.append(nn.Linear(2, 2))
    new, _ = plan(MATRICES, module=other, depth="auto").build()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        new.load_state_dict(old.state_dict())
    assert "new, starts afresh: 4.weight" in caplog.text
    assert "new, starts afresh: 4.bias" in caplog.text
    assert "gone" not in caplog.text


# ------------------------------------------------------------------ in a Trainer


class Mixed(Net):
    def __init__(self, solver: SolverSpec) -> None:
        torch.manual_seed(0)
        super().__init__(solver)
        self.batches: list[int] = []

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        gradients = [tensor.grad for group in optimizer.param_groups for tensor in group["params"]]
        self.norms = [*getattr(self, "norms", []), float(sum(g.square().sum() for g in gradients)) ** 0.5]


NET_MUON = Rule(match="backbone.0.weight", optimizer=OptimizerSpec("Muon"))


def fit(net: Net, *callbacks: Any, ckpt: Path | None = None, **kwargs: Any) -> Any:
    run = trainer(callbacks=[*callbacks], **{"max_epochs": 2, **kwargs})
    run.fit(net, StatefulDataLoader(Numbers(40), batch_size=4), ckpt_path=ckpt, weights_only=True)
    return run


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.named_parameters()}


def test_accumulation_and_clipping_in_a_trainer() -> None:
    net = Mixed(spec(rules=[NET_MUON]))
    run = fit(net, accumulate_grad_batches=3, gradient_clip_val=0.01)
    assert net.solver_plan is not None
    assert run.global_step == net.solver_plan.run.total_steps == 8
    assert net.used == net.solver_plan.curve("lr").tolist()
    assert net.norms
    assert max(net.norms) <= 0.01 * 1.001  # of all parameters together


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize(
    "after",
    [
        (NET_MUON,),
        (Rule(match="backbone.0.weight", optimizer=OptimizerSpec("Muon"), name="renamed"),),
        (Rule(match="head.bias", lr_scale=1.0), NET_MUON),
        (NET_MUON, Rule(match="head.*", schedules=spec().schedules)),
    ],
    ids=["same", "renamed", "another order", "split"],
)
def test_a_resumed_run_is_the_straight_one(tmp_path: Path, after: tuple[Rule, ...]) -> None:
    straight = Mixed(spec(rules=[NET_MUON]))
    fit(straight, accumulate_grad_batches=2)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    fit(Mixed(spec(rules=[NET_MUON])), keep, enable_checkpointing=True, accumulate_grad_batches=2)
    resumed = Mixed(spec(rules=after))
    fit(resumed, ckpt=tmp_path / "step=3.ckpt", accumulate_grad_batches=2)
    assert len(resumed.used) == 7
    ours, theirs = weights(resumed), weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_preset_trains_in_a_trainer_and_its_rules_come_before_others() -> None:
    preset = muon_adamw(0.01, rules=[{"match": "head.*", "lr_scale": 0.5}], schedules={"lr": "Cosine"})
    net = Mixed(preset)
    fit(net)
    assert net.solver_plan is not None
    assert net.solver_plan.parameters["head.weight"]["lr"] == 0.005
    assert preset.rules[0].name == "muon"
    assert SolverSpec.from_dict(preset.to_dict()) == preset


def test_the_table_lists_each_of_them() -> None:
    table = plan(HIDDEN, layer_decay=0.5).table(parameters=True)
    assert table.startswith("2 optimisers as one: ")
    assert re.search(r"^Muon \(rules\[0\]\.optimizer\): 2 tensors, 28 numbers", table, re.MULTILINE)
    assert re.search(r"^AdamW \(optimizer\): 6 tensors", table, re.MULTILINE)
    assert "optimizer: rules[0] (muon)" in table


def test_what_an_optimiser_refuses_is_named():
    net = nn.ModuleDict({"norm": nn.LayerNorm(3), "fc": nn.Linear(3, 3)})
    rule = Rule(match="*", optimizer=OptimizerSpec("Muon"))
    spec = SolverSpec(optimizer=OptimizerSpec("AdamW", {"lr": 0.1}), rules=[rule])
    with pytest.raises(
        SolverError, match=r"rules\[0\]\.optimizer: Muon refuses 3 of its parameters .*norm\.weight of shape \[3\]"
    ):
        spec.plan(net, total_steps=3)


def test_several_groups_that_an_optimiser_refuses_are_named():
    spec = SolverSpec(optimizer=OptimizerSpec("LBFGS"), rules=[Rule(match="0.*", lr_scale=0.5)])
    with pytest.raises(
        SolverError, match=r"optimizer: LBFGS refuses several groups .*set default_rules: false and drop"
    ):
        spec.plan(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), total_steps=3)


def test_an_optimiser_that_takes_no_sparse_gradients_is_refused_before_the_first_step():
    net = nn.ModuleDict({"table": nn.Embedding(4, 2, sparse=True), "fc": nn.Linear(2, 2)})
    plan = SolverSpec(optimizer=OptimizerSpec("AdamW", {"lr": 0.1})).plan(net, total_steps=3)
    with pytest.raises(SolverError, match=r"optimizer: AdamW takes no sparse gradients.*table\.weight"):
        plan.build()


def test_keys_of_other_config_systems_are_told():
    for key, words in (("class_path", "write name: and args:"), ("lr", "write it under args")):
        with pytest.raises(SolverError, match=words):
            SolverSpec.from_dict({"optimizer": {"name": "AdamW", key: 1}})
