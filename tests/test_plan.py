import copy
import fnmatch
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_solver import Rule, RunLength, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Linear, MultiStep, Step

ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1, "betas": [0.8, 0.95]}}
SGD = {"name": "SGD", "args": {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)


def plan(module=None, *, total_steps=10, run=None, optimizer=ADAMW, **more):
    spec = SolverSpec(optimizer=optimizer, **more)
    module = Net() if module is None else module
    return spec.plan(module, run=run) if run is not None else spec.plan(module, total_steps=total_steps)


# ------------------------------------------------------------------ parameters


def test_parameters_are_in_the_order_of_the_module_with_group_and_every_option():
    net = Net()
    made = plan(net, rules=[Rule(match="head.*", lr_scale=0.5)])
    assert list(made.parameters) == [name for name, _ in net.named_parameters()]
    assert dict(made.parameters["head.bias"]) == {
        **made.recipe.defaults,
        "group": made.parameters["head.bias"]["group"],
        "lr": 0.005,
        "weight_decay": 0.0,
        "betas": (0.8, 0.95),
        "eps": 1e-8,
    }
    assert {name for name, got in made.parameters.items() if got["weight_decay"] == 0.1} == {
        "stem.weight",
        "backbone.0.weight",
        "head.weight",
    }


def test_parameters_and_groups_tell_the_same():
    made = plan(rules=[Rule(match="head.*", lr_scale=0.5)])
    for group in made.groups:
        for name in group.names:
            assert made.parameters[name] == {"group": group.name, **group.options}


def test_what_a_plan_holds_cannot_be_changed():
    made = plan()
    with pytest.raises(TypeError, match="a specification is frozen"):
        made.parameters["x"] = {}
    with pytest.raises(TypeError, match="a specification is frozen"):
        made.parameters["head.bias"]["lr"] = 1.0
    with pytest.raises(TypeError, match="frozen"):
        made.groups[0].options["lr"] = 1.0


def test_the_module_is_not_changed():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    plan(net, schedules={"lr": Cosine()})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(tensor.grad is None and tensor.requires_grad for tensor in net.parameters())


def test_numbers_of_a_group():
    made = plan()
    assert {group.name: group.numel for group in made.groups} == {"default": 108 + 16 + 8, "no_decay": 4 + 4 + 8 + 2}


# ------------------------------------------------------------------ the built-in rule


def test_the_built_in_rule_can_be_switched_off():
    assert [group.name for group in plan().groups] == ["default", "no_decay"]
    made = plan(default_rules=False)
    assert [group.name for group in made.groups] == ["default"]
    assert {got["weight_decay"] for got in made.parameters.values()} == {0.1}


def test_the_built_in_rule_is_the_reason():
    assert plan().reasons["head.bias"]["weight_decay"] == "default_rules (no_decay)"


@pytest.mark.parametrize("optimizer", [{"name": "SGD", "args": {"lr": 0.1}}, {"name": "LBFGS"}], ids=["zero", "none"])
def test_without_weight_decay_the_built_in_rule_has_nothing_to_say(optimizer):
    made = plan(optimizer=optimizer)
    assert len(made.groups) == 1
    assert made.notes == ()


# ------------------------------------------------------------------ the learning rate of the spec


def test_the_lr_of_the_spec_replaces_that_of_the_arguments():
    made = plan(lr=0.5)
    assert {got["lr"] for got in made.parameters.values()} == {0.5}
    assert made.reasons["head.bias"]["lr"] == "solver lr, in place of optimizer.args.lr 0.01"
    assert plan(lr=0.5, optimizer={"name": "SGD"}).reasons["head.bias"]["lr"] == "solver lr"


# ------------------------------------------------------------------ curves


def column(made, option):
    table = made.curve(option)
    assert table.dtype == np.float64
    assert table.shape == (made.run.total_steps, len(made.groups))
    return table


def test_curve_of_the_learning_rate():
    made = plan(rules=[Rule(match="head.*", lr_scale=0.5)], schedules={"lr": Linear(end=0.0)}, default_rules=False)
    expected = np.outer([1 - i / 10 for i in range(10)], [0.01, 0.005])
    np.testing.assert_allclose(column(made, "lr"), expected, rtol=1e-14)


def test_curves_are_those_of_the_spec_bit_for_bit():
    spec = SolverSpec(
        optimizer=ADAMW,
        schedules={
            "lr": [Linear(start=0.1, until="25%"), Cosine(end={"optimizer": 0.01})],
            "weight_decay": Cosine(start=0.5, end=1.0),
            "momentum": Linear(start=1.0, end=0.9),
        },
    )
    made = spec.plan(Net(), total_steps=13)
    for option in spec.schedules:
        alone = spec.curve(option, [group.options for group in made.groups], total_steps=13)
        assert column(made, option).tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("optimizer", "option", "value"),
    [
        (SGD, "momentum", 0.8),
        (SGD, "dampening", 0.0),
        (SGD, "weight_decay", 0.1),
        (ADAMW, "momentum", 0.8),
        (ADAMW, "beta2", 0.95),
        (ADAMW, "eps", 1e-8),
        ({"name": "RMSprop"}, "momentum", 0.0),
        ({"name": "RMSprop"}, "alpha", 0.99),
        ({"name": "Adamax"}, "beta2", 0.999),
        ({"name": "LBFGS"}, "lr", 1.0),
    ],
    ids=str,
)
def test_options_without_a_schedule_are_constant(optimizer, option, value):
    made = plan(optimizer=optimizer, default_rules=False)
    assert (column(made, option) == value).all()


@pytest.mark.parametrize(
    ("optimizer", "option", "base"),
    [(SGD, "momentum", 0.8), (ADAMW, "momentum", 0.8), (ADAMW, "beta2", 0.95), (ADAMW, "eps", 1e-8)],
    ids=str,
)
def test_any_numeric_option_can_be_scheduled(optimizer, option, base):
    made = plan(optimizer=optimizer, default_rules=False, schedules={option: Linear(end=0.5)})
    assert column(made, option)[:, 0] == pytest.approx([base * (1 - 0.05 * i) for i in range(10)], rel=1e-14)
    assert (column(made, "lr") == 0.01).all()


def test_a_group_s_own_betas_are_its_base():
    made = plan(
        rules=[Rule(match="head.*", set={"betas": [0.5, 0.9]})],
        schedules={"momentum": Constant(0.5)},
        default_rules=False,
    )
    assert made.curve("momentum")[0].tolist() == [0.4, 0.25]
    assert made.curve("beta2")[0].tolist() == [0.95, 0.9]


@pytest.mark.parametrize(
    ("optimizer", "option", "message"),
    [
        (ADAMW, "lrr", "lrr: AdamW has no option lrr; got 'lrr'; did you mean lr"),
        (
            ADAMW,
            "betas",
            "betas: betas of AdamW is not a number; got (0.8, 0.95); schedule momentum (betas[0]) or beta2",
        ),
        (ADAMW, "amsgrad", "amsgrad: amsgrad of AdamW is not a number; got False"),
        (SGD, "beta2", "beta2: SGD has no option beta2; got 'beta2'"),
        (SGD, "nesterov", "nesterov: nesterov of SGD is not a number; got False"),
        ({"name": "Adagrad"}, "momentum", "momentum: Adagrad has no option momentum; got 'momentum'"),
        ({"name": "AdamW"}, "momentun", "did you mean momentum"),
    ],
    ids=str,
)
def test_options_that_are_not_there_or_no_numbers(optimizer, option, message):
    made = plan(optimizer=optimizer)
    with pytest.raises(SolverError, match=re.escape(message)):
        made.curve(option)
    with pytest.raises(SolverError, match=re.escape(f"schedules.{message}" if ":" in message else message)):
        plan(optimizer=optimizer, schedules={option: Linear()})


def test_an_optimizer_level_may_be_a_default_of_the_class():
    made = plan(optimizer={"name": "AdamW"}, schedules={"lr": Constant({"optimizer": 0.5})})
    assert (made.curve("lr") == 0.0005).all()


# ------------------------------------------------------------------ what has no plan


def test_no_optimiser():
    message = (
        "optimizer: a spec without an optimiser has no plan; got None; give optimizer: {name: AdamW, args: {lr: 0.001}}"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        SolverSpec(schedules={"lr": Cosine()}).plan(Net(), total_steps=10)


def test_no_trainable_parameters():
    message = (
        "module: has no trainable parameters; got 8 parameters, all frozen; unfreeze some, or pass the right module"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        plan(Net().requires_grad_(False))
    with pytest.raises(SolverError, match=re.escape("module: has no trainable parameters; got a module without param")):
        plan(nn.ReLU())


def test_the_run_is_given_in_one_way():
    with pytest.raises(SolverError, match="run: is given beside total_steps or steps_per_epoch; give one or the other"):
        SolverSpec(optimizer=ADAMW).plan(Net(), total_steps=5, run=RunLength(total_steps=5))


@pytest.mark.parametrize("module", ["net", None, [nn.Linear(2, 2)]], ids=["text", "none", "list"])
def test_what_is_no_module(module):
    with pytest.raises(SolverError, match="module"):
        SolverSpec(optimizer=ADAMW).plan(module, total_steps=5)


def test_what_is_no_length_of_a_run():
    with pytest.raises(SolverError, match="run"):
        SolverSpec(optimizer=ADAMW).plan(Net(), run=5)


def test_an_optimiser_that_takes_no_groups():
    # torch's LBFGS refuses several groups when it is built: that is known before.
    with pytest.raises(SolverError, match="LBFGS"):
        plan(optimizer={"name": "LBFGS"}, rules=[Rule(match="head.*", lr_scale=0.5)])


class MatricesOnly(torch.optim.SGD):
    """Refuses, as torch's Muon does, what is no matrix."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.ndim != 2:
                    raise ValueError("only matrices are supported")


def test_an_optimiser_that_does_not_take_every_parameter():
    with pytest.raises(SolverError, match="MatricesOnly"):
        plan(optimizer={"name": f"{__name__}.MatricesOnly"})


# ------------------------------------------------------------------ the length of the run


@pytest.mark.parametrize("run", [RunLength(), RunLength(unknown="the loader has no length")], ids=["plain", "reason"])
def test_a_length_that_nothing_needs_may_be_unknown(run):
    made = plan(run=run, schedules={"lr": [Linear(start=0.1, until=5), Step(every=5)]})
    assert made.curve_of("lr").at(10**6)[0] >= 0
    optimizer, scheduler = made.build()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == made.curve_of("lr").at(1)[0]
    with pytest.raises(SolverError, match="total_steps: needs the length of the run"):
        made.curve("lr")


def test_a_length_that_is_needed():
    message = "schedules.lr: needs the length of the run; got the loader has no length; give total_steps, or durations in steps"
    with pytest.raises(SolverError, match=re.escape(message)):
        plan(run=RunLength(unknown="the loader has no length"), schedules={"lr": Cosine()})


def test_uneven_epochs():
    made = plan(run=RunLength(total_steps=9, epoch_ends=[2, 5, 9]), schedules={"lr": Step(every="1ep", gamma=0.5)})
    assert made.curve("lr")[:, 0].tolist() == [0.01] * 2 + [0.005] * 3 + [0.0025] * 4


def test_a_length_that_is_not_whole():
    made = plan(run=RunLength(total_steps=Fraction(7, 2)))
    with pytest.raises(SolverError, match="total_steps: must be a whole number; got 7/2"):
        made.curve("lr")


# ------------------------------------------------------------------ notes


def test_nothing_odd_nothing_noted():
    assert plan(schedules={"lr": [Linear(start=0.1, until=5), Cosine()]}).notes == ()


def test_a_jump_is_noted():
    made = plan(schedules={"lr": [Constant(0.5, until=5), Constant()]})
    assert made.notes == ("schedules.lr[1]: jumps from 0.005 to 0.01 at step 5 (base value 0.01)",)


def test_a_first_step_at_nothing_is_noted():
    made = plan(schedules={"lr": Linear(start=0.0)})
    assert made.notes == ("schedules.lr: the learning rate of the first step is 0, so that nothing is learnt in it",)


def test_a_group_at_nothing_is_noted():
    made = plan(rules=[Rule(match="head.*", lr_scale=0.0, name="still")], default_rules=False)
    assert made.notes == ("group still: its learning rate is 0, so that it is never trained",)


def test_a_rule_that_is_overridden_is_noted():
    made = plan(rules=[Rule(match="head.*", lr=0.5), Rule(match="*", lr=0.3)])
    assert made.notes == ("rules[0] (match head.*): later rules override all that it says",)


def test_a_rule_for_frozen_parameters_is_noted():
    net = Net()
    net.head.requires_grad_(False)
    made = plan(net, rules=[Rule(match="head.*", lr=0.5)])
    assert made.notes == ("rules[0] (match head.*): selects only frozen parameters",)


def test_what_lies_beyond_the_run_is_noted():
    made = plan(schedules={"lr": MultiStep(at=[5, 20])}, beyond_run="allow")
    assert made.notes == ("schedules.lr.at[1] (20) lies at step 20, beyond step 10 where its phase ends",)


# ------------------------------------------------------------------ names of groups


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ([], ["default", "no_decay"]),
        ([Rule(match="head.*", lr_scale=0.1)], ["default", "no_decay", "head", "head.no_decay"]),
        (
            [Rule(match="head.*", lr_scale=0.1, name="my head / 1")],
            ["default", "no_decay", "my_head_1", "my_head_1.no_decay"],
        ),
        ([Rule(kind="bias", lr_scale=2)], ["default", "lr_x2.no_decay", "no_decay"]),
        ([Rule(ndim=2, set={"eps": 1e-6})], ["default", "no_decay", "eps_1e-06"]),
        (
            [Rule(match="head.weight", lr_scale=0.1, name="a"), Rule(match="stem.weight", lr_scale=0.2, name="a")],
            ["a", "no_decay", "default", "a_2"],
        ),
    ],
    ids=["none", "glob", "name", "value", "option", "twice"],
)
def test_names_of_groups(rules, names):
    assert [group.name for group in plan(rules=rules).groups] == names


@pytest.mark.parametrize("name", ["голова", "!!!", " ", "a b", "é", "default", "no_decay", "x/y:z"])
def test_names_of_groups_are_plain_and_unique(name):
    made = plan(rules=[Rule(match="head.*", lr_scale=0.1, name=name), Rule(match="stem.*", lr_scale=0.2, name=name)])
    names = [group.name for group in made.groups]
    assert len(set(names)) == len(names) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)


# ------------------------------------------------------------------ meta device


def test_a_plan_on_the_meta_device():
    with torch.device("meta"):
        net = Net()
    made = plan(net, schedules={"lr": Cosine()})
    real = plan(schedules={"lr": Cosine()})
    assert made.parameters == real.parameters
    assert "decided when built" in made.table()
    assert np.array_equal(made.curve("lr"), real.curve("lr"))
    optimizer, scheduler = made.build()
    scheduler.step()
    assert [p.device.type for group in optimizer.param_groups for p in group["params"]] == ["meta"] * 8


# ------------------------------------------------------------------ build


def test_build_names_groups_and_parameters_and_starts_at_step_0():
    net = Net()
    made = plan(
        net, schedules={"lr": Linear(start=0.25), "momentum": Constant(0.5)}, rules=[Rule(match="head.*", lr_scale=0.1)]
    )
    optimizer, scheduler = made.build()
    assert type(optimizer) is torch.optim.AdamW
    assert scheduler.optimizer is optimizer
    assert len(optimizer.param_groups) == len(made.groups)
    tensors = dict(net.named_parameters())
    for got, group in zip(optimizer.param_groups, made.groups):
        assert got["name"] == group.name
        assert got["param_names"] == list(group.names)
        assert [p is tensors[name] for p, name in zip(got["params"], group.names)] == [True] * len(group.names)
        assert got["lr"] == group.options["lr"] * 0.25
        assert got["betas"] == (0.4, 0.95)
        assert got["weight_decay"] == group.options["weight_decay"]
        assert got["initial_lr"] == group.options["lr"]


def test_groups_hold_every_option():
    made = plan(rules=[Rule(match="head.*", set={"eps": 1e-6, "amsgrad": True})])
    optimizer, _ = made.build()
    for got, group in zip(optimizer.param_groups, made.groups):
        assert {option: got[option] for option in group.options} == group.options | {"fused": True}


def test_two_builds_do_not_share_anything():
    made = plan(schedules={"lr": Linear(end=0.0)})
    first, first_scheduler = made.build()
    second, _ = made.build()
    first_scheduler.step()
    assert first.param_groups[0]["lr"] < second.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad", "NAdam", "Rprop", "Adafactor"])
def test_other_optimisers_train_too(name):
    net = nn.Linear(2, 1)
    made = plan(net, optimizer={"name": name, "args": {"lr": 0.01}}, schedules={"lr": Linear(end=0.5)})
    optimizer, scheduler = made.build()
    before = net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert not torch.equal(net.weight, before)
    assert [group["lr"] for group in optimizer.param_groups] == made.curve("lr")[1].tolist()


def test_a_plan_and_its_scheduler_can_be_copied():
    # A module keeps its plan: averaging callbacks and users copy modules.
    made = plan(schedules={"lr": [Linear(start=0.1, until=5), Cosine()]})
    twin = copy.deepcopy(made)
    assert twin.parameters == made.parameters
    assert twin.table() == made.table()
    assert np.array_equal(twin.curve("lr"), made.curve("lr"))
    _, scheduler = made.build()
    assert copy.deepcopy(scheduler).state_dict() == scheduler.state_dict()


# ------------------------------------------------------------------ properties over modules and rules


LAYERS = [
    lambda: nn.Linear(2, 3),
    lambda: nn.Linear(2, 2, bias=False),
    lambda: nn.LayerNorm(2),
    lambda: nn.Conv1d(2, 2, 1, groups=2),
    lambda: nn.Embedding(3, 2),
    lambda: nn.BatchNorm1d(2, affine=False),
    lambda: nn.PReLU(),
]
NAMES = ["stem", "body", "head", "norm", "module"]


@st.composite
def modules(draw, depth=2, shared=False):
    parts = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        if depth and draw(st.booleans()):
            parts[name] = draw(modules(depth - 1))
        else:
            parts[name] = draw(st.sampled_from(LAYERS))()
            if draw(st.integers(0, 4)) == 0:
                parts[name].requires_grad_(False)
    if shared and draw(st.booleans()):
        parts["again"] = parts[draw(st.sampled_from(sorted(parts)))]
    return nn.ModuleDict(parts)


def values():
    return st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0])


@st.composite
def rules(draw, selectors):
    name = draw(st.sampled_from(selectors))
    choices = {
        "match": st.sampled_from(["*", "stem.*", "body.*", "*.weight", "*.head.*", "*bias", "[sb]*", "*.?orm.*"]),
        "ndim": st.integers(1, 3),
        "kind": st.sampled_from(["norm", "bias", "embedding", "depthwise"]),
    }
    setting = draw(st.sampled_from(["lr", "lr_scale", "weight_decay", "weight_decay_scale", "set", "scale"]))
    value = {"set": {"eps": draw(values())}, "scale": {"eps": draw(values())}}.get(setting, draw(values()))
    return Rule(**{name: draw(choices[name]), setting: value}, unmatched="allow")


def by_hand(spec, base, name, tensor):
    """What a parameter gets, worked out one rule and one option at a time."""
    found, factor = dict(base), dict.fromkeys(base, 1.0)
    for rule in spec.rules:
        if rule.match is not None and not fnmatch.fnmatchcase(name, rule.match):
            continue
        if rule.ndim is not None and tensor.ndim != rule.ndim:
            continue
        for option in ("lr", "weight_decay", "eps"):
            set_to = rule.set.get(option) if option == "eps" else getattr(rule, option)
            scale = rule.scale.get(option) if option == "eps" else getattr(rule, f"{option}_scale")
            if set_to is not None:
                found[option], factor[option] = set_to, 1.0
            if scale is not None:
                factor[option] = scale
    return {option: found[option] * factor[option] for option in found}


@given(modules(), st.lists(rules(["match", "ndim"]), max_size=6))
@settings(max_examples=100, deadline=None)
def test_every_parameter_gets_what_the_rules_say_and_merging_changes_no_number(module, found):
    tensors = dict(module.named_parameters())
    if not any(tensor.requires_grad for tensor in tensors.values()):
        module["more"] = nn.Linear(1, 1)
        tensors = dict(module.named_parameters())
    spec = SolverSpec(optimizer=ADAMW, rules=found, default_rules=False)
    made = spec.plan(module, total_steps=3)
    base = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-8}
    assert list(made.parameters) == [name for name, tensor in tensors.items() if tensor.requires_grad]
    for name, got in made.parameters.items():
        assert {option: got[option] for option in base} == by_hand(spec, base, name, tensors[name])


@given(modules(shared=True), st.lists(rules(["ndim", "kind"]), max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_parameter_is_in_one_group_or_left_out_with_a_reason(module, found, default_rules):
    tensors = dict(module.named_parameters())
    if not any(tensor.requires_grad for tensor in tensors.values()):
        module["more"] = nn.Linear(1, 1)
        tensors = dict(module.named_parameters())
    spec = SolverSpec(optimizer=ADAMW, rules=found, default_rules=default_rules, schedules={"lr": Linear(end=0.0)})
    made = spec.plan(module, total_steps=3)
    grouped = [name for group in made.groups for name in group.names]
    assert sorted(grouped) == sorted(name for name, tensor in tensors.items() if tensor.requires_grad)
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert {*grouped, *made.left_out} == every
    assert not set(grouped) & set(made.left_out)
    for name, reason in made.left_out.items():
        assert reason == "frozen" if name in tensors else reason.startswith("same tensor as ")
    names = [group.name for group in made.groups]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
    settings_of_groups = [tuple(sorted(group.options.items(), key=str)) for group in made.groups]
    assert len(set(settings_of_groups)) == len(settings_of_groups)
    optimizer, _ = made.build()
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(group.names) for group in made.groups]
    for i, group in enumerate(made.groups):
        assert {made.parameters[name]["group"] for name in group.names} == {group.name}
        assert made.curve("lr")[:, i].tobytes() == spec.curve("lr", [group.options["lr"]], total_steps=3).tobytes()
