"""Scripts whose groups are drawn at random give every parameter what torch gives it when they are run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, optim

from lightning_solver.interop import from_torch


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.conv = nn.Conv1d(3, 3, 1)
        self.linear = nn.Linear(3, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 3))
        self.layers = nn.ModuleList([Block(), Block(), Block()])
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(()))


MODEL = Net()
MODEL.layers[1].norm.bias.requires_grad_(False)
TEXTS = ["bias", "norm", "linear", "layers", "layers.1", "weight", "1.linear", "scale", "s", ".", "linear.weight"]
MODULES = ["model", "model.layers", "model.layers[0]", "model.layers[1].norm", "model.layers[:2]", "model.linear"]
OPTIONS = [
    "'lr': 0.5",
    "'weight_decay': 0.25",
    "'momentum': 0.75",
    "'lr': 2.0, 'weight_decay': 0.0",
    "'nesterov': False",
]

texts = st.sampled_from(TEXTS).map(repr)
lists = st.lists(texts, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]")
atoms = st.one_of(
    st.builds("{} in n".format, texts),
    st.builds("{} not in n".format, texts),
    st.builds("n.startswith({})".format, texts),
    st.builds("n.endswith({})".format, texts),
    st.builds("n == {}".format, st.sampled_from(["'scale'", "'linear.weight'", "'layers.0.norm.bias'"])),
    st.builds("n in {}".format, lists),
    st.builds("any(k in n for k in {})".format, lists),
    st.builds("all(k not in n for k in {})".format, lists),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["p.ndim", "p.dim()", "len(p.shape)"]),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        st.integers(0, 3),
    ),
    st.just("p.requires_grad"),
)
tests = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner.filter(lambda text: "requires_grad" not in text)),
    ),
    max_leaves=4,
)


def by_torch(script):
    known = {"model": MODEL, "SGD": optim.SGD}
    exec(script, known)
    called = {id(parameter): name for name, parameter in MODEL.named_parameters()}
    return {
        called[id(parameter)]: {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in known["optimizer"].param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }


def compare(script):
    expected = by_torch(script)
    if not expected:
        return
    plan = from_torch(script, strict=True).spec.plan(MODEL, total_steps=1)
    assert {name: {key: held[key] for key in expected[name]} for name, held in plan.parameters.items()} == expected
    assert plan.left_out.keys() == dict(MODEL.named_parameters()).keys() - expected.keys()


def refused_by_torch(script):
    try:
        by_torch(script)
    except ValueError as error:
        return "more than one parameter group" in str(error)
    return False


@settings(max_examples=400, deadline=None)
@given(
    test=tests,
    one=st.sampled_from(OPTIONS),
    other=st.sampled_from(OPTIONS),
    module=st.sampled_from(["model", "model.layers", "model.layers[1]"]),
    rest=st.booleans(),
)
def test_a_condition_and_its_opposite(test, one, other, module, rest):
    """Both groups, and parameters in neither: those of other modules, or where the second group is left out."""
    chosen = f"[p for n, p in {module}.named_parameters() if {test}]"
    groups = [f"{{'params': {chosen}, {one}}}"]
    if rest and "requires_grad" not in test:
        groups.append(f"{{'params': [p for n, p in {module}.named_parameters() if not ({test})], {other}}}")
    try:
        compare(f"optimizer = SGD([{', '.join(groups)}], lr=0.1, momentum=0.9, weight_decay=1e-4)")
    except ValueError as error:  # torch: a group that has nothing in it
        if "empty parameter list" not in str(error):
            raise


@settings(max_examples=200, deadline=None)
@given(
    ignored=st.lists(st.sampled_from(MODULES[2:]), min_size=1, max_size=2, unique=True),
    test=tests,
    option=st.sampled_from(OPTIONS),
)
def test_all_but_some_modules(ignored, test, option):
    """By identity, and a condition on top."""
    sequences = " + ".join(f"list({module}.parameters())" for module in ignored)
    named = [module for module in ignored if "[:" not in module]
    if len(named) < len(ignored) or {*ignored} >= {"model.layers[0]", "model.layers[:2]"}:
        sequences = " + ".join(f"list({module}.parameters())" for module in named or ["model.linear"])
    script = (
        f"ids = list(map(id, {sequences}))\n"
        f"kept = [p for n, p in model.named_parameters() if id(p) not in ids and {test}]\n"
        f"optimizer = SGD([{{'params': kept, {option}}}, {{'params': {sequences}}}], lr=0.1, momentum=0.9)\n"
    )
    compare(script)


@settings(max_examples=100, deadline=None)
@given(
    modules=st.lists(st.sampled_from(MODULES[1:]), min_size=1, max_size=3, unique=True),
    options=st.lists(st.sampled_from(OPTIONS), min_size=3, max_size=3),
    added=st.booleans(),
)
def test_modules(modules, options, added):
    """What torch refuses, as a parameter is in two groups, is refused here."""
    groups = [f"{{'params': {module}.parameters(), {option}}}" for module, option in zip(modules, options)]
    text = f"optimizer = SGD([{', '.join(groups)}], lr=0.1, momentum=0.9)\n"
    if added:
        text += "optimizer.add_param_group({'params': [model.scale, model.token], 'lr': 3.0})\n"
    if refused_by_torch(text):
        with pytest.raises(ValueError, match=r"has parameters of optimizer.params\[\d\]"):
            from_torch(text)
        return
    compare(text)


@settings(max_examples=100, deadline=None)
@given(
    groups=st.lists(st.sampled_from(["layers", "linear", "scale", "token"]), min_size=1, max_size=3, unique=True),
    lrs=st.lists(st.sampled_from([0.1, 0.5, 0.0]), min_size=3, max_size=3),
    betas=st.booleans(),
)
def test_optimisers_themselves(groups, lrs, betas):
    made = [
        {"params": [(n, p) for n, p in MODEL.named_parameters() if n.startswith(group)], "lr": lr}
        for group, lr in zip(groups, lrs)
    ]
    if betas:
        made[0]["betas"] = (0.5, 0.75)
    optimizer = optim.AdamW(made, lr=0.1, weight_decay=0.125)
    plan = from_torch(optimizer).spec.plan(MODEL, total_steps=1)
    expected = {
        name: (group["lr"], group["betas"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"])
        if parameter.requires_grad
    }
    held = {name: (values["lr"], values["betas"], values["weight_decay"]) for name, values in plan.parameters.items()}
    assert held == expected
