import json
import pickle
import re
from copy import deepcopy
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import yaml

from lightning_solver import OptimizerSpec, Rule, RunLength, SolverError, SolverSpec
from lightning_solver.rule import KINDS
from lightning_solver.schedules import Constant, Cosine, Join, Linear, MultiStep, Product, Scale, Shift, Staircase, Step
from lightning_solver.spec import VERSION, difference, whole_steps

BLOCK = """
optimizer: {name: AdamW, args: {lr: 1.0e-3, weight_decay: 0.05, betas: [0.9, 0.95]}}
rules:
  - {kind: [norm, bias], weight_decay: 0.0}
  - {match: "backbone.*", lr_scale: 0.1}
schedules:
  lr:
    - {class_path: Linear, init_args: {start: 0.001, until: 5ep}}
    - {class_path: Cosine, init_args: {end: 0.01}}
"""

SPECS = [
    SolverSpec(),
    SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True})),
    SolverSpec(optimizer={"name": "AdamW", "args": {"betas": (0.9, 0.95), "foreach": None}}, lr=3e-4),
    SolverSpec(rules=[Rule(match=["a.*", "b.*"], set={"betas": [0.8, 0.9]}, scale={"eps": 10})], default_rules=False),
    SolverSpec(rules=[Rule(regex="^head", kind="bias", ndim=[1, 2], name="x", lr=0.1, weight_decay_scale=0.5)]),
    SolverSpec(rules=[{"module_class": "nn.Linear", "lr_scale": 2, "unmatched": "allow"}], beyond_run="allow"),
    SolverSpec(schedules={"lr": Cosine(), "weight_decay": [Linear(end=0.5, until="10%"), Constant("previous")]}),
    SolverSpec(
        schedules={
            "lr": Product([Staircase(Cosine(end={"absolute": 1e-6})), [Linear(start=0.1, until=25), Constant()]]),
            "momentum": Shift(Scale([Step(every=5, until="1ep"), Join([MultiStep(at=[9, "50%"])])], by="1/4"), later=1),
        }
    ),
]
IDS = [f"spec{i}" for i in range(len(SPECS))]


def from_block(**changes):
    return SolverSpec.from_dict({**yaml.safe_load(BLOCK), **changes})


# ------------------------------------------------------------------ reading and writing


def test_the_block_that_a_user_writes():
    spec = from_block()
    assert spec.optimizer == OptimizerSpec("AdamW", {"lr": 1e-3, "weight_decay": 0.05, "betas": (0.9, 0.95)})
    assert spec.rules == (Rule(kind=["norm", "bias"], weight_decay=0.0), Rule(match="backbone.*", lr_scale=0.1))
    assert spec.schedules == {"lr": (Linear(start=0.001, until="5ep"), Cosine(end=0.01))}


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize(
    "through",
    [
        lambda data: data,
        lambda data: json.loads(json.dumps(data)),
        lambda data: yaml.safe_load(yaml.safe_dump(data)),
    ],
    ids=["plain", "json", "yaml"],
)
def test_round_trip(spec, through):
    read = SolverSpec.from_dict(through(spec.to_dict()))
    assert read == spec
    assert read.to_dict() == spec.to_dict()
    assert hash(read) == hash(spec)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize("twin", [deepcopy, lambda spec: pickle.loads(pickle.dumps(spec))], ids=["copy", "pickle"])
def test_copies_and_pickles(spec, twin):
    assert twin(spec) == spec


def test_defaults_are_left_out_but_the_version_is_written():
    assert SolverSpec().to_dict() == {"version": VERSION}
    assert SolverSpec(schedules={"lr": Linear(end=0.0)}).to_dict() == {
        "schedules": {"lr": {"class_path": "Linear", "init_args": {"end": 0.0}}},
        "version": VERSION,
    }


def test_what_is_written_is_free_to_change():
    spec = from_block()
    data = spec.to_dict()
    data["optimizer"]["args"]["lr"] = 7.0
    data["rules"].append({})
    assert spec == from_block()


def test_a_version_that_is_not_known():
    message = "solver.version: is not a version that can be read; got 2; this release reads version 1: install the rel"
    with pytest.raises(SolverError, match=re.escape(message)):
        SolverSpec.from_dict({"version": 2})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "solver: must be a mapping; got []"),
        (None, "solver: must be a mapping; got None"),
        ("AdamW", "solver: must be a mapping; got 'AdamW'"),
        ({"optimiser": {}}, "solver.optimiser: unknown key; got 'optimiser'; did you mean optimizer?"),
        ({"schedule": {}}, "solver.schedule: unknown key; got 'schedule'; did you mean schedules?"),
        ({"optimizer": "AdamW"}, "solver.optimizer: must be an OptimizerSpec or nothing; got 'AdamW' (str)"),
        ({"optimizer": {"class_path": "AdamW"}}, "solver.optimizer.class_path: unknown key"),
        ({"optimizer": {}}, "solver.optimizer: OptimizerSpec needs name; got {}; add it"),
        ({"optimizer": {"name": 3}}, "solver.optimizer.name: must be a text; got 3 (int)"),
        ({"optimizer": {"name": "SGD", "args": [0.1]}}, "solver.optimizer.args: must be a mapping; got [0.1] (list)"),
        ({"optimizer": {"name": "SGD", "arg": {}}}, "solver.optimizer.arg: unknown key; got 'arg'; did you mean args?"),
        ({"lr": -0.1}, "solver.lr: must not be negative; got -0.1; give a value >= 0"),
        ({"lr": "1e-3"}, "solver.lr: must be a number or nothing; got '1e-3' (str)"),
        ({"lr": float("nan")}, "solver.lr: must be a finite number; got nan"),
        ({"rules": {"match": "x"}}, "solver.rules: must be a list (each item a Rule); got {'match': 'x'} (dict)"),
        ({"rules": [{"match": "x", "lr_scael": 1}]}, "solver.rules[0].lr_scael: unknown key; got 'lr_scael'; did you"),
        ({"rules": [{"match": "x", "lr": -1}]}, "solver.rules[0].lr: must not be negative; got -1.0"),
        (
            {"rules": [{"match": "x"}]},
            "solver.rules[0]: changes nothing; set, scale, schedule or freeze, or name an optimizer",
        ),
        ({"rules": [{"lr": 1}]}, "solver.rules[0]: selects nothing, as it has no selector; give one of match, regex"),
        ({"rules": [{"kind": "nrom", "lr": 1}]}, "solver.rules[0].kind: unknown value; got 'nrom'; did you mean norm?"),
        ({"rules": [{"kind": ["bias", "nrom"], "lr": 1}]}, "solver.rules[0].kind[1]: unknown value; got 'nrom'; did"),
        ({"default_rules": 1}, "solver.default_rules: must be true or false; got 1 (int)"),
        ({"schedules": [{"class_path": "Cosine"}]}, "solver.schedules: must be a mapping; got [{"),
        ({"schedules": {"lr": []}}, "solver.schedules.lr: has no phases; got []; give at least one, or leave it out"),
        ({"schedules": {"lr": "Cosin"}}, "solver.schedules.lr.class_path: there is no Schedule of this name; got 'Cos"),
        ({"schedules": {"lr": ["Cosin"]}}, "solver.schedules.lr[0].class_path: there is no Schedule of this name; got"),
        (
            {"schedules": {"lr": 0.1}},
            "solver.schedules.lr: must be a Schedule or a list (each item a Schedule); got 0.1",
        ),
        (
            {"schedules": {"lr": {"class_path": "Cosine", "init_args": {"ned": 0.1}}}},
            "solver.schedules.lr.init_args.ned: unknown key; got 'ned'; did you mean end?",
        ),
        (
            {"schedules": {"lr": [{"class_path": "Linear", "init_args": {"until": "5epochs"}}]}},
            "solver.schedules.lr[0].init_args.until: is not a duration; got '5epochs'",
        ),
        (
            {"schedules": {"lr": {"class_path": "Cosine", "init_args": {"end": -0.1}}}},
            "solver.schedules.lr.init_args.end: must not be negative; got -0.1",
        ),
        ({"beyond_run": "alow"}, "solver.beyond_run: unknown value; got 'alow'; did you mean allow?"),
        ({"version": "1"}, "solver.version: must be a whole number; got '1' (str)"),
    ],
)
def test_strict(data, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        SolverSpec.from_dict(data)


def test_where_is_the_path_that_the_caller_says():
    with pytest.raises(SolverError, match=re.escape("model.init_args.solver.lr: must not be negative")):
        SolverSpec.from_dict({"lr": -1.0}, "model.init_args.solver")


def test_frozen_all_the_way_down():
    spec = from_block()
    with pytest.raises(FrozenInstanceError):
        spec.lr = 0.1
    with pytest.raises(FrozenInstanceError):
        spec.optimizer.name = "SGD"
    with pytest.raises(TypeError, match="frozen"):
        spec.optimizer.args["lr"] = 0.1
    with pytest.raises(TypeError, match="frozen"):
        spec.schedules["lr"] = ()
    assert isinstance(spec.rules, tuple)
    assert isinstance(spec.schedules["lr"], tuple)


def test_replace_makes_a_checked_copy():
    spec = from_block()
    assert spec.replace(lr=0.5) == from_block(lr=0.5)
    assert spec.lr is None
    with pytest.raises(SolverError, match=re.escape("SolverSpec.lr: must not be negative; got -0.5")):
        spec.replace(lr=-0.5)


# ------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"lr": 0.1},
            "Rule: selects nothing, as it has no selector; give one of match, regex, kind, module_class, inside, ndim, depth, listed_by",
        ),
        ({"match": "x"}, "Rule: changes nothing; set, scale, schedule or freeze, or name an optimizer"),
        ({"match": [], "lr": 1}, "Rule.match: is empty; got []; give at least one, or leave it out"),
        ({"kind": (), "lr": 1}, "Rule.kind: is empty; got []"),
        ({"regex": "(", "lr": 1}, "Rule.regex: is not a regular expression (missing ), unterminated subpattern"),
        ({"regex": ["a", "*"], "lr": 1}, "Rule.regex: is not a regular expression (nothing to repeat at position 0); "),
        ({"match": "x", "lr": 1, "lr_scale": 2}, "Rule.lr: is both set and scaled; got lr 1.0 and lr_scale 2.0; give"),
        (
            {"match": "x", "weight_decay": 0, "weight_decay_scale": 2},
            "Rule.weight_decay: is both set and scaled; got weight_decay 0.0 and weight_decay_scale 2.0",
        ),
        ({"match": "x", "lr_scale": -1}, "Rule.lr_scale: must not be negative; got -1.0; give a value >= 0"),
        ({"match": "x", "weight_decay": -1}, "Rule.weight_decay: must not be negative; got -1.0"),
        ({"match": "x", "weight_decay_scale": -1}, "Rule.weight_decay_scale: must not be negative; got -1.0"),
        ({"match": "x", "set": {"lr": 1}}, "Rule.set.lr: has a field of its own; write lr of the rule instead"),
        (
            {"match": "x", "scale": {"lr": 1}},
            "Rule.scale.lr: has a field of its own; write lr_scale of the rule instead",
        ),
        ({"match": "x", "set": {"weight_decay": 1}}, "Rule.set.weight_decay: has a field of its own"),
        ({"match": "x", "set": {"eps": 1}, "scale": {"eps": 2}}, "Rule.set.eps: is both set and scaled; give one of"),
        ({"match": "x", "scale": {"eps": "2"}}, "Rule.scale.eps: must be a number or a Factor; got '2' (str)"),
        ({"match": 3, "lr": 1}, "Rule.match: must be a text, a list (each item a text) or nothing; got 3 (int)"),
        (
            {"ndim": "1", "lr": 1},
            "Rule.ndim: must be a whole number, a list (each item a whole number) or nothing; got",
        ),
        ({"ndim": True, "lr": 1}, "Rule.ndim: must be a whole number"),
        ({"match": "x", "lr": 1, "unmatched": "ignore"}, "Rule.unmatched: unknown value; got 'ignore'; known values: "),
    ],
)
def test_rules_that_make_no_sense(arguments, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Rule(**arguments)


def test_selectors_and_settings_are_those_that_are_given():
    rule = Rule(
        match="a.*", kind=["bias", "norm"], ndim=1, lr_scale=0.1, weight_decay=0, set={"eps": 1}, scale={"rho": 2}
    )
    assert rule.selectors() == {"match": ("a.*",), "kind": ("bias", "norm"), "ndim": (1,)}
    assert rule.settings() == {
        "lr": ("scale", 0.1),
        "weight_decay": ("set", 0.0),
        "eps": ("set", 1),
        "rho": ("scale", 2.0),
    }


@pytest.mark.parametrize(
    ("arguments", "short", "description"),
    [
        ({"match": "backbone.*"}, "backbone", "match backbone.*"),
        ({"match": "*.stem.*"}, "stem", "match *.stem.*"),
        ({"match": "*"}, None, "match *"),
        ({"match": ["a.*", "b.*"]}, None, "match a.*|b.*"),
        ({"match": "a.*.b"}, "a.b", "match a.*.b"),
        ({"kind": "norm", "ndim": [1, 2]}, None, "kind norm, ndim 1|2"),
        ({"match": "a.*", "name": "mine"}, "mine", "mine"),
    ],
)
def test_how_a_rule_is_called(arguments, short, description):
    rule = Rule(**arguments, lr_scale=0.1)
    assert rule.short_name() == short
    assert rule.describe() == description


def test_every_kind_can_be_asked_for():
    assert [Rule(kind=kind, lr=1).kind for kind in KINDS] == list(KINDS)


# ------------------------------------------------------------------ own values


@pytest.mark.parametrize(
    ("spec", "option", "value"),
    [
        (SolverSpec(), "lr", None),
        (SolverSpec(lr=0.1), "lr", 0.1),
        (SolverSpec(lr=0.1), "weight_decay", None),
        (SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.2}}), "lr", 0.2),
        (SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.2}}, lr=0.1), "lr", 0.1),
        (SolverSpec(optimizer={"name": "SGD", "args": {"lr": 0.2}}, lr=0.0), "lr", 0.0),
        (SolverSpec(optimizer={"name": "SGD", "args": {"momentum": 0.9}}), "momentum", 0.9),
        (SolverSpec(optimizer={"name": "AdamW", "args": {"betas": [0.8, 0.95]}}), "momentum", 0.8),
        (SolverSpec(optimizer={"name": "AdamW", "args": {"betas": [0.8, 0.95]}}), "beta2", 0.95),
        (SolverSpec(optimizer={"name": "AdamW", "args": {"betas": [0.8, 0.95]}}), "lr", None),
        (SolverSpec(optimizer={"name": "AdamW"}), "momentum", None),
        (SolverSpec(optimizer={"name": "AdamW", "args": {"betas": [0.8]}}), "beta2", None),
    ],
)
def test_own_value(spec, option, value):
    assert spec.own_value(option) == value


# ------------------------------------------------------------------ curves without a model


def linear_of(option="lr", **more):
    return SolverSpec(schedules={option: Linear(end=0.0)}, **more)


def test_groups_are_numbers_or_mappings():
    table = linear_of().curve("lr", [0.4, {"lr": 0.4}, {"lr": 0.4, "lr_scale": 0.5}], total_steps=2)
    assert table.tolist() == [[0.4, 0.4, 0.2], [0.2, 0.2, 0.1]]


def test_lr_scale_is_only_for_the_learning_rate():
    table = linear_of("weight_decay").curve("weight_decay", [{"weight_decay": 0.4, "lr_scale": 0.5}], total_steps=2)
    assert table.tolist() == [[0.4], [0.2]]


def test_momentum_and_beta2_are_found_in_betas():
    groups = [{"betas": [0.8, 0.6]}, {"betas": (0.4, 0.2), "lr": 1.0}]
    assert linear_of("momentum").curve("momentum", groups, total_steps=2).tolist() == [[0.8, 0.4], [0.4, 0.2]]
    assert linear_of("beta2").curve("beta2", groups, total_steps=2).tolist() == [[0.6, 0.2], [0.3, 0.1]]


def test_momentum_is_found_under_its_own_name():
    assert linear_of("momentum").curve("momentum", [{"momentum": 0.5, "betas": [0.8, 0.6]}], total_steps=1) == 0.5


def test_an_option_without_a_schedule_is_constant():
    table = SolverSpec().curve("lr", [0.1, {"lr": 1, "lr_scale": 0.5}], total_steps=3)
    assert table.tolist() == [[0.1, 0.5]] * 3
    assert SolverSpec().curve("eps", [{"eps": 1e-8}], total_steps=2).tolist() == [[1e-8]] * 2


def test_no_groups_make_an_empty_table():
    assert linear_of().curve("lr", [], total_steps=3).shape == (3, 0)
    assert SolverSpec().curve("lr", [], total_steps=3).shape == (3, 0)


def test_an_option_that_nobody_knows():
    message = "schedules.lrr: there is no schedule for it; got 'lrr'; did you mean lr?"
    with pytest.raises(SolverError, match=re.escape(message)):
        linear_of().curve("lrr", [0.1], total_steps=3)
    with pytest.raises(SolverError, match=re.escape("schedules.eps: there is no schedule for it; got 'eps'; the spec")):
        SolverSpec().curve("eps", [0.1], total_steps=3)


@pytest.mark.parametrize(
    ("option", "group", "got"),
    [
        ("lr", {"weight_decay": 0.1}, "{'weight_decay': 0.1}"),
        ("lr", {"lr": "fast"}, "{'lr': 'fast'}"),
        ("lr", {"lr": True}, "{'lr': True}"),
        ("momentum", {"betas": []}, "{'betas': []}"),
        ("beta2", {"betas": [0.9]}, "{'betas': [0.9]}"),
        ("momentum", {"betas": 0.9}, "{'betas': 0.9}"),
    ],
)
def test_a_group_without_a_base_value(option, group, got):
    message = f"groups[1].{option}: the group has no base value; got {got}; add {option}"
    with pytest.raises(SolverError, match=re.escape(message)):
        linear_of(option).curve(option, [0.1, group], total_steps=3)


@pytest.mark.parametrize("group", ["fast", None, [0.1]], ids=repr)
def test_a_group_that_is_no_number(group):
    with pytest.raises(SolverError, match=re.escape("groups[1]")):
        linear_of().curve("lr", [0.1, group], total_steps=3)


def test_metrics_are_refused():
    with pytest.raises(SolverError, match="metrics: no schedule of this option follows a metric; leave metrics out"):
        linear_of().curve("lr", [0.1], total_steps=3, metrics=[0.5])


def test_the_run_is_given_in_one_way():
    run = RunLength(total_steps=4, steps_per_epoch=2)
    spec = SolverSpec(schedules={"lr": Staircase(Linear(end=0.0))})
    by_run = spec.curve("lr", [1.0], run=run)
    assert np.array_equal(by_run, spec.curve("lr", [1.0], total_steps=4, steps_per_epoch=2))
    message = "run: is given beside total_steps or steps_per_epoch; give one or the other"
    for extra in ({"total_steps": 4}, {"steps_per_epoch": 2}):
        with pytest.raises(SolverError, match=message):
            spec.curve("lr", [1.0], run=run, **extra)


def test_a_curve_needs_the_length_of_the_run():
    with pytest.raises(SolverError, match=re.escape("schedules.lr: needs the length of the run, which is not given")):
        linear_of().curve("lr", [1.0])
    with pytest.raises(SolverError, match="total_steps: needs the length of the run"):
        SolverSpec().curve("lr", [1.0])


def test_steps_are_whole():
    assert whole_steps(RunLength(total_steps=Fraction(6, 2))) == 3
    with pytest.raises(SolverError, match="total_steps: must be a whole number; got 7/2; correct it"):
        whole_steps(RunLength(total_steps=Fraction(7, 2)))


@pytest.mark.parametrize(
    ("args", "option"),
    [({"lr": "fast"}, "lr"), ({"betas": 0.9}, "momentum"), ({"weight_decay": [0.1]}, "weight_decay")],
)
def test_a_level_of_an_optimiser_whose_own_value_is_no_number(args, option):
    # The optimiser's arguments are checked when a plan is made; a curve without a model meets them unchecked.
    spec = SolverSpec(optimizer={"name": "AdamW", "args": args}, schedules={option: Constant({"optimizer": 0.5})})
    with pytest.raises(SolverError, match=option):
        spec.curve(option, [0.1], total_steps=3)


# ------------------------------------------------------------------ difference


def test_equal_specs_do_not_differ():
    assert difference(from_block(), from_block()) == []


def test_difference_names_each_setting():
    old = from_block()
    new = SolverSpec.from_dict(
        {
            "optimizer": {"name": "AdamW", "args": {"lr": 2e-3, "betas": [0.9, 0.99], "eps": 1e-6}},
            "rules": [{"kind": ["norm", "bias"], "weight_decay": 0.0}],
            "schedules": {
                "lr": [
                    {"class_path": "Linear", "init_args": {"start": 0.001, "until": "5ep"}},
                    {"class_path": "Linear", "init_args": {"end": 0.01}},
                ]
            },
            "beyond_run": "allow",
        }
    )
    assert sorted(difference(old, new)) == sorted(
        [
            "optimizer.args.lr: 0.001 -> 0.002",
            "optimizer.args.weight_decay: 0.05 -> (not set)",
            "optimizer.args.betas: [0.9, 0.95] -> [0.9, 0.99]",
            "optimizer.args.eps: (not set) -> 1e-06",
            "rules[1].match: backbone.* -> (not set)",
            "rules[1].lr_scale: 0.1 -> (not set)",
            "schedules.lr[1].class_path: Cosine -> Linear",
            "beyond_run: (not set) -> allow",
        ]
    )


def test_difference_of_a_number_and_nothing():
    assert difference(SolverSpec(lr=0.0), SolverSpec()) == ["lr: 0.0 -> (not set)"]


@pytest.mark.parametrize(("one", "other"), [(SPECS[i], SPECS[i + 1]) for i in range(len(SPECS) - 1)])
def test_specs_that_are_not_equal_differ(one, other):
    there, back = difference(one, other), difference(other, one)
    assert there
    assert len(there) == len(back)
