"""Random trees of modules and random rules: what the cascade makes of them, against another, simpler telling of it."""

import copy
import fnmatch
import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_solver import Rule, SolverError, SolverSpec
from lightning_solver.factors import FanIn
from lightning_solver.rule import Selector

TOTAL = 6
OWN = {"lr": 0.1, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01}
DECAY = 0.5
LEAVES = {
    "linear": lambda: nn.Linear(3, 3),
    "plain": lambda: nn.Linear(3, 2, bias=False),
    "norm": lambda: nn.LayerNorm(3),
    "table": lambda: nn.Embedding(4, 3),
    "batch": lambda: nn.BatchNorm1d(3),
}
GLOBS = ("*", "a.*", "*.a.*", "*.weight", "*.bias", "b*", "*c.*", "?.weight", "*a*b*", "a.[ab].*")
KINDS = ("bias", "norm", "embedding", "flat")


class Root(nn.ModuleDict):
    """Knows how deep its parameters lie."""

    def get_layer_depth(self, name):
        return name.count(".")


trees = st.recursive(
    st.sampled_from(["linear", "linear", "linear", "plain", "norm", "table", "batch"]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=6,
)
roots = st.dictionaries(st.sampled_from("abc"), trees, min_size=1, max_size=3)
selectors = st.one_of(
    st.fixed_dictionaries({"match": st.sampled_from(GLOBS)}),
    st.fixed_dictionaries({"match": st.lists(st.sampled_from(GLOBS), min_size=2, max_size=2)}),
    st.fixed_dictionaries({"kind": st.sampled_from(KINDS)}),
    st.fixed_dictionaries({"ndim": st.sampled_from([1, 2])}),
    st.fixed_dictionaries({"match": st.sampled_from(GLOBS), "kind": st.sampled_from(KINDS)}),
)
factors = st.sampled_from([0.5, 2.0, 1.0, 0.125])
lr = st.one_of(st.fixed_dictionaries({"lr": factors}), st.fixed_dictionaries({"lr_scale": factors}), st.just({}))
decay = st.one_of(
    st.fixed_dictionaries({"weight_decay": factors}),
    st.fixed_dictionaries({"weight_decay_scale": factors}),
    st.just({}),
)
momentum = st.one_of(
    st.fixed_dictionaries({"set": st.fixed_dictionaries({"momentum": st.sampled_from([0.5, 0.9])})}),
    st.fixed_dictionaries({"scale": st.fixed_dictionaries({"momentum": st.sampled_from([0.5, 1.0])})}),
    st.just({}),
)
freezing = st.sampled_from(
    [{}, {}, {}, {"frozen": True}, {"frozen": False}, {"frozen_until": 2}, {"frozen_from": 4}, {"unfreeze_every": 1},
     {"frozen_until": 2, "frozen_from": 4}]
)  # fmt: skip
fresh = st.sampled_from([{}, {}, {}, {"fresh": True}, {"fresh": ("lr",)}, {"fresh": ("weight_decay", "momentum")}])


@st.composite
def rules(draw):
    found = {}
    for part in (lr, decay, momentum, freezing, fresh):
        found.update(draw(part))
    exceptions = draw(
        st.sampled_from([(), (), (Selector(match="*.bias"),), (Selector(kind="norm"), Selector(match="b*"))])
    )
    more = {"unless": exceptions} if exceptions else {}
    if not found:
        found = {"lr_scale": 0.25}
    return Rule(**draw(selectors), **found, **more, unmatched="allow")


def grow(tree):
    if isinstance(tree, str):
        return LEAVES[tree]()
    return nn.ModuleDict({key: grow(inner) for key, inner in tree.items()})


@st.composite
def models(draw, tied=True):
    root = Root({key: grow(inner) for key, inner in draw(roots).items()})
    linears = [module for module in root.modules() if isinstance(module, nn.Linear) and module.bias is not None]
    if tied and len(linears) > 1 and draw(st.booleans()):
        linears[-1].weight = linears[0].weight
    for parameter in root.parameters():
        parameter.requires_grad_(draw(st.sampled_from([True, True, True, False])))
    return root


# ------------------------------------------------------------------ the other telling


def is_of(kind, module, leaf, tensor):
    norm = isinstance(module, (nn.LayerNorm, nn.BatchNorm1d))
    return {
        "norm": norm,
        "bias": leaf == "bias",
        "embedding": isinstance(module, nn.Embedding),
        "flat": tensor.ndim <= 1,
    }[kind]


def listed(value):
    return value if isinstance(value, tuple) else (value,)


def holds(selector, root, name):
    """Whether a selector holds for a name."""
    path, _, leaf = name.rpartition(".")
    module = root.get_submodule(path)
    tensor = getattr(module, leaf)
    return (
        (selector.match is None or any(fnmatch.fnmatchcase(name, glob) for glob in listed(selector.match)))
        and (selector.kind is None or any(is_of(kind, module, leaf, tensor) for kind in listed(selector.kind)))
        and (selector.ndim is None or tensor.ndim in listed(selector.ndim))
    )


def choose(rule, root, names):
    """Whether a rule is for a tensor of these names: by any of them, and by none of them among what it leaves out."""
    out = any(holds(selector, root, name) for selector in rule.exceptions() for name in names)
    return not out and any(holds(rule, root, name) for name in names)


def told(root, names, rules, *, default, decays, top):
    """What a tensor of these names gets: its options, and at which steps it moves (``None``: it is left out)."""
    base, scale, frozen = dict(OWN), {}, False
    height = top - names[0].count(".")
    if default and any(
        is_of(kind, root.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], root.get_parameter(name))
        for name in names for kind in ("norm", "bias")
    ):  # fmt: skip
        base["weight_decay"] = 0.0
    decay = DECAY**height if decays else 1.0
    for rule in rules:
        if not choose(rule, root, names):
            continue
        for option in OWN if rule.fresh is True else rule.fresh or ():
            base[option] = OWN[option]
            scale.pop(option, None)
            decay = 1.0 if option == "lr" else decay
        if rule.fresh is True:
            frozen = False
        given = {"lr": rule.lr, "weight_decay": rule.weight_decay, **rule.set}
        for option, value in given.items():
            if value is not None:
                base[option] = value
                scale.pop(option, None)
                decay = 1.0 if option == "lr" else decay
        factors = {"lr": rule.lr_scale, "weight_decay": rule.weight_decay_scale, **rule.scale}
        scale.update({option: factor for option, factor in factors.items() if factor is not None})
        if rule.frozen is not None:
            frozen = rule.frozen
        elif rule.unfreeze_every is not None:
            frozen = {step for step in range(TOTAL) if step < height * rule.unfreeze_every}
        elif rule.frozen_until is not None or rule.frozen_from is not None:
            until, since = rule.frozen_until or 0, TOTAL if rule.frozen_from is None else rule.frozen_from
            frozen = {step for step in range(TOTAL) if step < until or step >= since} if until < since else True
    values = {option: base[option] * scale.get(option, 1.0) for option in OWN}
    values["lr"] *= decay
    moves = None if frozen is True else [step for step in range(TOTAL) if not frozen or step not in frozen]
    return values, moves


def names_of(root):
    """Every name of every tensor, the first one first."""
    found = {}
    for name, tensor in root.named_parameters(remove_duplicate=False):
        found.setdefault(id(tensor), []).append(name)
    return list(found.values())


def make(root, given, default, decays):
    """The plan and what is expected of it; no plan where the two agree that there is none."""
    all_names = names_of(root)
    top = max(name.count(".") for names in all_names for name in names[:1])
    spec = SolverSpec(
        optimizer={"name": "SGD", "args": OWN},  # type: ignore[arg-type]
        rules=given,
        default_rules=default,
        layer_decay=DECAY if decays else None,
        beyond_run="allow",
    )
    trained = [names for names in all_names if root.get_parameter(names[0]).requires_grad]
    expected = {
        names[0]: told(root, names, given, default=default, decays=decays, top=top) for names in trained
    }  # fmt: skip
    kept = [moves for _, moves in expected.values() if moves is not None]
    nobody = bool(kept) and any(all(step not in moves for moves in kept) for step in range(TOTAL))
    try:
        plan = spec.plan(root, total_steps=TOTAL)
    except SolverError as error:
        text = str(error)
        if "has no trainable parameters" in text:
            assert not trained
        elif "leave every parameter out" in text:
            assert trained
            assert not kept
        elif "every parameter is frozen at step" in text:
            assert nobody
        else:
            assert "rules disagree about" in text, text
            (names,) = (names for names in all_names if len(names) > 1)
            assert text.startswith(names[0])
            alone = [told(root, [name], given, default=default, decays=decays, top=top) for name in names]
            assert any(one != alone[0] for one in alone)
        return None, expected
    assert trained
    assert kept
    assert not nobody
    return plan, expected


several_rules = st.lists(rules(), max_size=5)


@given(root=models(), given_rules=several_rules, default=st.booleans(), decays=st.booleans())
@settings(deadline=None, max_examples=250)
def test_every_tensor_gets_what_the_rules_say_in_order(root, given_rules, default, decays):
    plan, expected = make(root, given_rules, default, decays)
    if plan is None:
        return
    for name, (values, moves) in expected.items():
        if moves is None:
            assert plan.left_out[name].startswith("frozen by rules[")
            continue
        got = plan.parameters[name]
        for option, value in values.items():
            assert got[option] == pytest.approx(value, rel=1e-15, abs=0), (name, option)
        group = next(group for group in plan.groups if group.name == got["group"])
        assert [s for s in range(TOTAL) if group.frozen is None or not group.frozen.at(s)] == moves, name


@given(root=models(), given_rules=several_rules, default=st.booleans(), decays=st.booleans())
@settings(deadline=None, max_examples=150)
def test_every_name_is_in_one_group_or_left_out(root, given_rules, default, decays):
    plan, _ = make(root, given_rules, default, decays)
    if plan is None:
        return
    everything = [name for names in names_of(root) for name in names]
    grouped = [name for group in plan.groups for name in group.names]
    assert sorted([*grouped, *plan.left_out]) == sorted(everything)
    assert [*plan.parameters] == [name for name, _ in root.named_parameters() if name in grouped]
    assert len({group.name for group in plan.groups}) == len(plan.groups)
    assert all(root.get_parameter(n) is t for group in plan.groups for n, t in zip(group.names, group.tensors))
    for names in names_of(root):
        assert all(plan.left_out[name] == f"same tensor as {names[0]}" for name in names[1:])
        if not root.get_parameter(names[0]).requires_grad:
            assert plan.left_out[names[0]] == "frozen"


@given(root=models(), given_rules=several_rules, default=st.booleans(), decays=st.booleans())
@settings(deadline=None, max_examples=60)
def test_merging_into_groups_changes_no_number(root, given_rules, default, decays):
    """Against one plain optimiser for each tensor, stepped where that tensor moves."""
    plan, expected = make(root.double(), given_rules, default, decays)
    if plan is None:
        return
    keys = [(dict(group.options), group.frozen) for group in plan.groups]
    assert all(keys.count(key) == 1 for key in keys)
    other = copy.deepcopy(root)
    optimizer, scheduler = plan.build()
    alone = {
        name: torch.optim.SGD([other.get_parameter(name)], **dict(values), foreach=False)
        for name, (values, moves) in expected.items()
        if moves is not None
    }
    draw = random.Random(0)
    for step in range(TOTAL):
        for names in names_of(root):
            tensor, twin = root.get_parameter(names[0]), other.get_parameter(names[0])
            if tensor.requires_grad:
                tensor.grad = torch.full_like(tensor, draw.random())
                twin.grad = tensor.grad.clone()
        optimizer.step()
        scheduler.step()
        for name, one in alone.items():
            if step in expected[name][1]:
                one.step()
    for (name, tensor), twin in zip(root.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(tensor, twin, rtol=1e-12, atol=1e-14, msg=name)


@given(root=models(), given_rules=several_rules, repeat=st.integers(0, 4))
@settings(deadline=None, max_examples=60)
def test_a_rule_that_is_said_twice_running_says_nothing_new(root, given_rules, repeat):
    if not given_rules:
        return
    at = repeat % len(given_rules)
    twice = [*given_rules[: at + 1], *given_rules[at:]]
    first, _ = make(root, given_rules, True, False)
    second, _ = make(root, twice, True, False)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        without = [{k: v for k, v in got.items() if k != "group"} for got in first.parameters.values()]
        assert without == [{k: v for k, v in got.items() if k != "group"} for got in second.parameters.values()]


@given(root=models(), given_rules=several_rules)
@settings(deadline=None, max_examples=60)
def test_a_fresh_rule_for_everything_forgets_all_before_it(root, given_rules):
    plan, _ = make(root, [*given_rules, Rule(match="*", fresh=True)], True, True)
    if plan is None:
        return
    for got in plan.parameters.values():
        assert {option: got[option] for option in OWN} == OWN
    assert all(reason == "frozen" or reason.startswith("same tensor") for reason in plan.left_out.values())
    assert all(group.frozen is None for group in plan.groups)
    assert len(plan.groups) == 1


@given(root=models(tied=False), base=st.integers(1, 64))
@settings(deadline=None, max_examples=40)
def test_a_factor_is_worked_out_for_each_parameter(root, base):
    """As many groups as there are widths, whatever else is alike."""
    given_rules = [Rule(ndim=2, lr_scale=FanIn(base), unmatched="allow")]
    assume(any(parameter.requires_grad for parameter in root.parameters()))
    spec = SolverSpec(optimizer={"name": "SGD", "args": OWN}, rules=given_rules, default_rules=False)
    plan = spec.plan(root, total_steps=TOTAL)
    for name, got in plan.parameters.items():
        shape = root.get_parameter(name).shape
        assert got["lr"] == (0.1 * (base / shape[1]) if len(shape) == 2 else 0.1)


def test_the_other_telling_can_disagree():
    """So that the properties above are no tautology."""
    root = Root({"a": nn.Linear(3, 3)})
    values, moves = told(root, ["a.weight"], [Rule(match="*", lr=0.5)], default=True, decays=False, top=1)
    assert values["lr"] == 0.5
    assert moves == list(range(TOTAL))
    wrong = SolverSpec(optimizer={"name": "SGD", "args": OWN}, rules=[Rule(match="*", lr=0.25)])
    assert wrong.plan(root, total_steps=TOTAL).parameters["a.weight"]["lr"] != values["lr"]
