import re

import pytest
import torch
from torch import nn

from lightning_solver import Rule, SolverError, SolverSpec


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
        self.head = nn.Linear(4, 2)


ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}
SGD = {"name": "SGD", "args": {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}}


def plan(rules, module=None, optimizer=ADAMW, **more):
    spec = SolverSpec(optimizer=optimizer, rules=rules, default_rules=False, **more)
    return spec.plan(Net() if module is None else module, total_steps=10)


def touched(rules, module=None):
    """The parameters whose learning rate the rules have changed."""
    return [name for name, got in plan(rules, module).parameters.items() if got["lr"] != 0.01]


# ------------------------------------------------------------------ selectors


@pytest.mark.parametrize(
    ("selectors", "selected"),
    [
        ({"match": "head.*"}, ["head.weight", "head.bias"]),
        ({"match": "head.bias"}, ["head.bias"]),
        ({"match": "*.bias"}, ["stem.bias", "backbone.0.bias", "backbone.1.bias", "head.bias"]),
        ({"match": "backbone.?.bias"}, ["backbone.0.bias", "backbone.1.bias"]),
        ({"match": "backbone.[02].weight"}, ["backbone.0.weight", "backbone.2.weight"]),
        ({"match": "backbone.[!0].weight"}, ["backbone.1.weight", "backbone.2.weight"]),
        ({"match": ["stem.*", "head.weight"]}, ["stem.weight", "stem.bias", "head.weight"]),
        ({"regex": r"^(stem|head)\.bias$"}, ["stem.bias", "head.bias"]),
        ({"regex": r"\.2\."}, ["backbone.2.weight"]),
        ({"regex": ["^stem", "^head"]}, ["stem.weight", "stem.bias", "head.weight", "head.bias"]),
        ({"kind": "norm"}, ["backbone.1.weight", "backbone.1.bias"]),
        (
            {"kind": ["norm", "bias"]},
            ["stem.bias", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.bias"],
        ),
        ({"module_class": "Conv2d"}, ["stem.weight", "stem.bias"]),
        ({"module_class": "nn.LayerNorm"}, ["backbone.1.weight", "backbone.1.bias"]),
        ({"module_class": "torch.nn.Conv2d"}, ["stem.weight", "stem.bias"]),
        ({"module_class": "torch.nn.modules.conv.Conv2d"}, ["stem.weight", "stem.bias"]),
        (
            {"module_class": ["Conv2d", "LayerNorm"]},
            ["stem.weight", "stem.bias", "backbone.1.weight", "backbone.1.bias"],
        ),
        ({"ndim": 4}, ["stem.weight"]),
        ({"ndim": [2, 4]}, ["stem.weight", "backbone.0.weight", "backbone.2.weight", "head.weight"]),
        ({"match": "backbone.*", "kind": "bias"}, ["backbone.0.bias", "backbone.1.bias"]),
        ({"match": "backbone.*", "kind": ["bias", "norm"], "module_class": "Linear"}, ["backbone.0.bias"]),
        ({"regex": "backbone", "ndim": 2, "match": "*.2.*"}, ["backbone.2.weight"]),
    ],
    ids=repr,
)
def test_selectors(selectors, selected):
    assert touched([Rule(**selectors, lr=0.5)]) == selected


def test_a_glob_is_of_the_whole_name_and_a_regex_of_any_part():
    assert touched([Rule(regex="ead", lr=0.5)]) == ["head.weight", "head.bias"]
    with pytest.raises(SolverError, match=re.escape("rules[0].match: matches no parameter; got 'ead'")):
        touched([Rule(match="ead", lr=0.5)])


def test_globs_tell_upper_and_lower_case_apart():
    with pytest.raises(
        SolverError, match=re.escape("rules[0].match: matches no parameter; got 'HEAD.*'; nearest names: ")
    ):
        touched([Rule(match="HEAD.*", lr=0.5)])


def test_a_base_class_selects_its_derived_classes():
    class Mine(nn.Linear):
        pass

    net = nn.Sequential(Mine(2, 2), nn.Linear(2, 2))
    assert touched([Rule(module_class="Linear", lr=0.5)], net) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert touched([Rule(module_class="Mine", lr=0.5)], net) == ["0.weight", "0.bias"]


def test_rules_see_the_names_below_a_wrapper():
    assert touched([Rule(match="head.*", lr=0.5)], torch.compile(Net(), backend="eager")) == [
        "head.weight",
        "head.bias",
    ]


# ------------------------------------------------------------------ what selects nothing


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ({"match": "haed.*"}, "rules[0].match: matches no parameter; got 'haed.*'; nearest names: head"),
        (
            {"match": "backbnoe.0.*"},
            "rules[0].match: matches no parameter; got 'backbnoe.0.*'; nearest names: backbone",
        ),
        ({"match": ["head.*", "haed.*"]}, "rules[0].match: matches no parameter; got 'haed.*'; nearest names: head"),
        (
            {"match": "backbone.1.weigth"},
            "rules[0].match: matches no parameter; got 'backbone.1.weigth'; nearest names: b",
        ),
        ({"regex": r"^haed\."}, r"rules[0].regex: matches no parameter; got '^haed\\.'; nearest names: head"),
        (
            {"match": "zzzzzz"},
            "got 'zzzzzz'; names start like: stem, weight, bias, backbone, head; or set unmatched: allow",
        ),
        ({"match": ""}, "rules[0].match: matches no parameter; got ''"),
        (
            {"module_class": "Conv1d"},
            "rules[0].module_class: no parameter is held by a module of this class; got 'Conv1d'",
        ),
        ({"module_class": "Conv1d"}, "nearest names: Conv2d"),
        ({"module_class": "conv2d"}, "nearest names: Conv2d"),
    ],
)
def test_a_name_or_class_that_selects_nothing(selectors, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        plan([Rule(**selectors, lr=0.5)])


def test_the_error_says_which_rule():
    rules = [Rule(kind="bias", lr=0.5), Rule(match="nothing", lr=0.5)]
    with pytest.raises(SolverError, match=re.escape("rules[1].match: matches no parameter")):
        plan(rules)


@pytest.mark.parametrize(
    ("selectors", "note"),
    [
        ({"match": "haed.*", "unmatched": "allow"}, "rules[0].match (haed.*): matches no parameter"),
        ({"match": ["head.*", "haed.*"], "unmatched": "allow"}, "rules[0].match (haed.*): matches no parameter"),
        ({"regex": "haed", "unmatched": "allow"}, "rules[0].regex (haed): matches no parameter"),
        ({"module_class": "Conv1d", "unmatched": "allow"}, "rules[0].module_class (Conv1d): matches no parameter"),
        ({"kind": "embedding"}, "rules[0].kind (embedding): the model has no such parameter"),
        ({"kind": ["bias", "token"]}, "rules[0].kind (token): the model has no such parameter"),
        ({"ndim": 3}, "rules[0].ndim (3): the model has no such parameter"),
    ],
)
def test_what_may_select_nothing_is_noted(selectors, note):
    made = plan([Rule(**selectors, lr=0.5)])
    assert note in made.notes


def test_the_built_in_rule_is_not_noted_where_it_selects_nothing():
    spec = SolverSpec(optimizer=ADAMW)
    assert spec.plan(nn.Linear(2, 2, bias=False), total_steps=10).notes == ()


def test_selectors_that_never_hold_together():
    message = (
        "rules[0]: its selectors contradict each other, as no parameter satisfies all; "
        "got match head.* holds for 2, kind norm holds for 2; all selectors of a rule must hold: drop one, or write two"
    )
    with pytest.raises(SolverError, match=re.escape(message)):
        plan([Rule(match="head.*", kind="norm", lr=0.5)])


def test_selectors_that_never_hold_together_where_that_is_allowed():
    made = plan([Rule(match="head.*", kind="norm", lr=0.5, unmatched="allow")])
    assert made.notes == ("rules[0] (match head.*, kind norm): no parameter satisfies all of its selectors",)
    assert len(made.groups) == 1


def test_a_selector_that_may_select_nothing_is_no_contradiction():
    made = plan([Rule(match="head.*", kind="embedding", lr=0.5)])
    assert made.notes == ("rules[0].kind (embedding): the model has no such parameter",)


# ------------------------------------------------------------------ the cascade


def lr_of(rules, name="head.weight", **more):
    return plan(rules, **more).parameters[name]["lr"]


def test_the_last_match_wins_option_by_option():
    rules = [
        Rule(match="*", lr=0.5, weight_decay=0.3),
        Rule(match="head.*", weight_decay=0.2),
        Rule(kind="bias", lr=0.7),
    ]
    made = plan(rules).parameters
    assert [made["stem.weight"][option] for option in ("lr", "weight_decay")] == [0.5, 0.3]
    assert [made["head.weight"][option] for option in ("lr", "weight_decay")] == [0.5, 0.2]
    assert [made["head.bias"][option] for option in ("lr", "weight_decay")] == [0.7, 0.2]


def test_a_rule_earlier_in_the_list_does_not_win():
    assert lr_of([Rule(match="head.*", lr=0.5), Rule(match="*", lr=0.25)]) == 0.25


@pytest.mark.parametrize(
    ("settings", "lr"),
    [
        ([{"lr_scale": 0.1}], 0.01 * 0.1),
        ([{"lr": 0.5}, {"lr_scale": 0.1}], 0.5 * 0.1),
        ([{"lr_scale": 0.1}, {"lr": 0.5}], 0.5),
        ([{"lr_scale": 0.1}, {"lr_scale": 0.3}], 0.01 * 0.3),
        ([{"lr": 0.5}, {"lr_scale": 0.1}, {"lr_scale": 0.3}], 0.5 * 0.3),
        ([{"lr_scale": 0.1}, {"lr": 0.5}, {"lr_scale": 0.3}], 0.5 * 0.3),
        ([{"lr_scale": 0.1}, {"weight_decay": 0.5}], 0.01 * 0.1),
        ([{"lr_scale": 1.0}], 0.01),
        ([{"lr_scale": 0.0}], 0.0),
    ],
    ids=repr,
)
def test_setting_and_scaling(settings, lr):
    assert lr_of([Rule(match="head.*", **setting) for setting in settings]) == lr


def test_scales_are_of_the_lr_of_the_spec():
    assert lr_of([Rule(match="head.*", lr_scale=0.5)], lr=0.8) == 0.4


def test_weight_decay_is_scaled_alike():
    made = plan([Rule(match="*", weight_decay=0.4), Rule(match="head.*", weight_decay_scale=0.5)]).parameters
    assert made["head.weight"]["weight_decay"] == 0.2
    assert made["stem.weight"]["weight_decay"] == 0.4


def test_the_built_in_rule_goes_first():
    spec = SolverSpec(optimizer=ADAMW, rules=[Rule(match="head.*", weight_decay=0.3)])
    made = spec.plan(Net(), total_steps=10).parameters
    assert made["stem.bias"]["weight_decay"] == 0.0
    assert made["backbone.1.weight"]["weight_decay"] == 0.0
    assert made["head.bias"]["weight_decay"] == 0.3
    assert made["stem.weight"]["weight_decay"] == 0.1


def test_scaling_a_weight_decay_that_the_built_in_rule_has_set_leaves_it_at_nothing():
    spec = SolverSpec(optimizer=ADAMW, rules=[Rule(match="head.*", weight_decay_scale=0.5)])
    made = spec.plan(Net(), total_steps=10).parameters
    assert made["head.bias"]["weight_decay"] == 0.0
    assert made["head.weight"]["weight_decay"] == 0.05


# ------------------------------------------------------------------ other options


def test_setting_betas_and_flags():
    made = plan([Rule(match="head.*", set={"betas": [0.8, 0.9], "amsgrad": True})])
    assert made.parameters["head.weight"]["betas"] == (0.8, 0.9)
    assert made.parameters["head.weight"]["amsgrad"] is True
    assert made.parameters["stem.weight"]["betas"] == (0.9, 0.999)
    optimizer, _ = made.build()
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999), (0.8, 0.9)]
    assert [group["amsgrad"] for group in optimizer.param_groups] == [False, True]


def test_setting_and_scaling_eps_and_momentum():
    assert plan([Rule(match="head.*", set={"eps": 1e-6})]).parameters["head.weight"]["eps"] == 1e-6
    assert plan([Rule(match="head.*", scale={"eps": 10})]).parameters["head.weight"]["eps"] == 1e-8 * 10
    rules = [Rule(match="head.*", set={"momentum": 0.5}), Rule(kind="bias", scale={"momentum": 0.5})]
    made = plan(rules, optimizer=SGD).parameters
    assert [made[name]["momentum"] for name in ("stem.weight", "stem.bias", "head.weight", "head.bias")] == [
        0.8,
        0.8 * 0.5,
        0.5,
        0.5 * 0.5,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"set": {"betsa": [0.9, 0.99]}},
            "rules[0].set.betsa: AdamW has no option betsa; got 'betsa'; did you mean betas",
        ),
        ({"scale": {"esp": 2}}, "rules[0].scale.esp: AdamW has no option esp; got 'esp'; did you mean eps"),
        ({"set": {"momentum": 0.9}}, "rules[0].set.momentum: AdamW has no option momentum; got 'momentum'"),
        ({"set": {"params": []}}, "rules[0].set.params: AdamW has no option params"),
        ({"set": {"betas": 0.9}}, "rules[0].set.betas: must be a list of 2 "),
        ({"set": {"betas": [0.9]}}, "rules[0].set.betas: must be a list of 2 "),
        ({"set": {"eps": "small"}}, "rules[0].set.eps: must be a number; got 'small' (str)"),
        ({"set": {"eps": float("nan")}}, "rules[0].set.eps: must be a finite number; got nan"),
        ({"set": {"amsgrad": "yes"}}, "rules[0].set.amsgrad: must be true or false; got 'yes' (str)"),
        (
            {"scale": {"betas": 0.5}},
            "rules[0].scale.betas: betas is not a number and cannot be scaled; got (0.9, 0.999);",
        ),
        ({"scale": {"amsgrad": 2}}, "rules[0].scale.amsgrad: amsgrad is not a number and cannot be scaled; got False"),
        ({"scale": {"foreach": 2}}, "rules[0].scale.foreach: foreach is not a number and cannot be scaled; got None"),
    ],
    ids=repr,
)
def test_options_that_do_not_fit(settings, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        plan([Rule(match="head.*", **settings)])


@pytest.mark.parametrize(
    "settings",
    [{"set": {"betas": [0.9, 1.5]}}, {"set": {"eps": -1.0}}, {"scale": {"eps": -1.0}}],
    ids=repr,
)
def test_options_that_the_optimiser_would_refuse_as_its_own(settings):
    # torch checks its own defaults only; a group is never looked at, and trains into nan.
    with pytest.raises(SolverError, match=re.escape("rules[0]")):
        plan([Rule(match="head.*", **settings)])


def test_an_option_of_a_rule_that_selects_nothing_by_kind_is_checked_too():
    with pytest.raises(SolverError, match=re.escape("rules[0].set.betsa: AdamW has no option betsa")):
        plan([Rule(kind="embedding", set={"betsa": [0.9, 0.99]})])


# ------------------------------------------------------------------ groups


def test_equal_settings_share_a_group_whatever_rules_made_them():
    rules = [Rule(match="stem.*", lr_scale=0.5), Rule(match="head.*", lr=0.005), Rule(kind="norm", lr=0.01)]
    made = plan(rules)
    assert [group.names for group in made.groups] == [
        ("stem.weight", "stem.bias", "head.weight", "head.bias"),
        ("backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "backbone.2.weight"),
    ]


def test_parameters_keep_their_order_inside_a_group():
    made = plan([Rule(kind="bias", lr_scale=0.5)])
    order = list(made.parameters)
    for group in made.groups:
        assert list(group.names) == sorted(group.names, key=order.index)


# ------------------------------------------------------------------ tied parameters


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize(
    "selectors", [{"match": "embed.*"}, {"match": "head.*"}, {"kind": "embedding"}, {"match": "*"}]
)
def test_tied_parameters_are_matched_by_any_of_their_names(selectors):
    made = plan([Rule(**selectors, lr=0.5)], Tied())
    assert made.parameters["embed.weight"]["lr"] == 0.5
    assert "head.weight" not in made.parameters
    assert made.left_out == {"head.weight": "same tensor as embed.weight"}


def test_rules_that_agree_about_a_tied_parameter():
    made = plan([Rule(match="embed.*", lr=0.5), Rule(match="head.*", lr=0.5)], Tied())
    assert made.parameters["embed.weight"]["lr"] == 0.5


def test_rules_that_speak_of_other_options_of_a_tied_parameter():
    made = plan([Rule(match="embed.*", lr=0.5), Rule(match="head.*", weight_decay=0.0)], Tied())
    assert made.parameters["embed.weight"]["lr"] == 0.5
    assert made.parameters["embed.weight"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("rules", "option"),
    [
        ([Rule(match="embed.*", lr=0.5), Rule(match="head.*", lr=0.25)], "lr"),
        ([Rule(kind="embedding", weight_decay=0.0), Rule(match="head.*", weight_decay=0.5)], "weight_decay"),
        ([Rule(match="head.*", lr_scale=0.5), Rule(match="embed.*", lr_scale=0.1)], "lr"),
    ],
    ids=["set", "kind", "scale"],
)
def test_rules_that_disagree_about_a_tied_parameter(rules, option):
    message = f"embed.weight: rules disagree about {option} of one tensor that has two names; got "
    with pytest.raises(SolverError, match=re.escape(message)) as caught:
        plan(rules, Tied())
    assert "for embed.weight by rules[" in str(caught.value)
    assert "for head.weight by rules[" in str(caught.value)
    assert str(caught.value).endswith("let one rule match both names")


def test_a_later_rule_for_both_names_settles_it():
    rules = [Rule(match="embed.*", lr=0.5), Rule(match="head.*", lr=0.25), Rule(match="*.weight", lr=0.1)]
    assert plan(rules, Tied()).parameters["embed.weight"]["lr"] == 0.1


# ------------------------------------------------------------------ frozen parameters


def frozen():
    net = Net()
    net.backbone.requires_grad_(False)
    return net


def test_frozen_parameters_are_left_out():
    made = plan([], frozen())
    assert made.left_out == dict.fromkeys(
        [f"backbone.{n}" for n in ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")], "frozen"
    )
    assert list(made.parameters) == ["stem.weight", "stem.bias", "head.weight", "head.bias"]


def test_a_rule_may_select_frozen_parameters_and_that_is_noted():
    made = plan([Rule(match="backbone.*", lr=0.5)], frozen())
    assert made.notes == ("rules[0] (match backbone.*): selects only frozen parameters",)
    assert plan([Rule(kind="bias", lr=0.5)], frozen()).notes == ()


def test_a_frozen_tied_parameter_is_left_out_under_each_name():
    net = Tied()
    net.embed.requires_grad_(False)
    assert plan([], net).left_out == {"embed.weight": "frozen", "head.weight": "same tensor as embed.weight"}


# ------------------------------------------------------------------ which rule set what


def test_what_set_each_value_is_kept():
    rules = [
        Rule(match="*", lr=0.5),
        Rule(match="head.*", lr_scale=0.1),
        Rule(kind="bias", weight_decay=0.0, name="plain"),
    ]
    reasons = plan(rules).reasons
    assert reasons["head.bias"]["lr"] == "rules[0] (match *) then rules[1] (match head.*)"
    assert reasons["head.bias"]["weight_decay"] == "rules[2] (plain)"
    assert reasons["stem.weight"]["lr"] == "rules[0] (match *)"
    assert reasons["stem.weight"]["weight_decay"] == "optimizer.args"
    assert reasons["stem.weight"]["eps"] == "default of AdamW"


def test_a_rule_that_later_ones_override_is_not_a_reason():
    rules = [Rule(match="head.*", lr_scale=0.5), Rule(match="*", lr=0.3), Rule(match="head.*", lr_scale=0.1)]
    assert plan(rules).reasons["head.weight"]["lr"] == "rules[1] (match *) then rules[2] (match head.*)"
    assert plan(rules).notes == ("rules[0] (match head.*): later rules override all that it says",)


def test_a_scale_that_a_later_one_replaces_is_not_a_reason():
    rules = [Rule(match="*", lr=0.5), Rule(match="head.*", lr_scale=0.5), Rule(regex="^head", lr_scale=0.1)]
    made = plan(rules)
    assert made.reasons["head.weight"]["lr"] == "rules[0] (match *) then rules[2] (regex ^head)"
    assert made.notes == ("rules[1] (match head.*): later rules override all that it says",)


def test_the_lr_of_the_spec_is_the_reason():
    assert plan([], lr=0.5).reasons["head.weight"]["lr"] == "solver lr, in place of optimizer.args.lr 0.01"
