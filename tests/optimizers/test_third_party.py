"""Optimisers of other packages, for real."""

import inspect
import re
import warnings

import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, SolverError, SolverSpec
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.implementation import choose
from lightning_solver.optimizers.recipe import resolve_optimizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
schedulefree = pytest.importorskip("schedulefree")

pytestmark = pytest.mark.filterwarnings("ignore")  # which other packages may say what they like

CLASSES = sorted(
    name
    for name, cls in vars(pytorch_optimizer).items()
    if inspect.isclass(cls)
    and issubclass(cls, torch.optim.Optimizer)
    and cls.__module__.startswith("pytorch_optimizer.")
)
# What they ask for in their steps: gradients of gradients, a closure.
NEEDS_MORE = {"AdaHessian": "graph", "SophiaH": "graph", "AliG": "closure"}


def model_for(matrices_only):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=not matrices_only), nn.Tanh(), nn.Linear(6, 2, bias=not matrices_only))


def backward(model, graph=False):
    loss = model(torch.ones(3, 4)).square().mean()
    loss.backward(create_graph=graph)
    return loss


def test_there_are_many():
    assert len(CLASSES) > 80


@pytest.mark.parametrize("name", CLASSES)
def test_a_plan_takes_or_refuses_each_in_words(name):
    """Whatever the class is: it steps, or the plan says what is wrong with it; no other error comes through."""
    spec = SolverSpec(optimizer=OptimizerSpec(f"pytorch_optimizer.{name}"), default_rules=False)
    model = model_for(matrices_only=False)
    try:
        plan = spec.plan(model, total_steps=2)
    except SolverError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert re.match(r"optimizer(\.name|\.args): ", refusal)
        assert f" {name} " in refusal
        assert "'list' object has no attribute" not in refusal
        assert "__contains__" not in refusal
        return
    optimizer, _ = plan.build()
    before = [param.detach().clone() for param in model.parameters()]
    for _ in range(12):  # some take their time
        optimizer.zero_grad()
        backward(model, graph=NEEDS_MORE.get(name) == "graph")
        if NEEDS_MORE.get(name) == "closure":
            optimizer.step(lambda: 1.0)
        elif name == "SpectralSphere":  # says in its first step only that it wants matrices
            with pytest.raises(ValueError, match="only supports 2D parameters"):
                optimizer.step()
            return
        else:
            optimizer.step()
    assert all(torch.isfinite(param).all() for param in model.parameters())
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert moved or name == "SaRA"  # which trains what is all but 0 only


@pytest.mark.parametrize("name", ["Lion", "Lamb", "LARS", "AdaBelief", "Adan", "Prodigy", "SOAP", "Tiger", "CAME"])
def test_those_that_people_use_are_taken(name):
    model = model_for(matrices_only=False)
    spec = SolverSpec(optimizer=OptimizerSpec(f"pytorch_optimizer.{name}", {"lr": 0.01}))
    optimizer, _ = spec.plan(model, total_steps=2).build()
    first = backward(model).item()
    for _ in range(5):
        optimizer.step()
        optimizer.zero_grad()
        last = backward(model).item()
    assert last < first or name in ("Prodigy", "SOAP")  # which start by finding their pace


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Lookahead",
            "optimizer.name: Lookahead is not made from parameters; got optimizer as first argument; name an",
        ),
        ("LOMO", "optimizer.name: LOMO is not made from parameters; got model as first argument"),
        ("WSAM", "optimizer.name: WSAM is not made from parameters; got model as first argument"),
        ("SAM", "optimizer.args: SAM needs base_optimizer; got {}; add it"),
        ("BSAM", "optimizer.args: BSAM needs num_data; got {}; add it"),
        ("Magma", "optimizer.name: Magma has none of torch's hooks, with which its state is carried over; got "),
        ("Muon", "optimizer.args: Muon refuses them: "),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        resolve_optimizer(OptimizerSpec(f"pytorch_optimizer.{name}"))


def test_an_implementation_that_another_package_offers():
    lion = resolve_optimizer(OptimizerSpec("pytorch_optimizer.Lion", {"lr": 0.01}))
    small = list(model_for(matrices_only=False).parameters())
    assert choose(lion, small).args == {"foreach": True}
    assert choose(lion, [nn.Parameter(torch.zeros(200, 200))]).args == {"foreach": False}


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_schedule_free(name):
    model = model_for(matrices_only=False)
    spec = SolverSpec(optimizer=OptimizerSpec(f"schedulefree.{name}", {"lr": 0.01}))
    optimizer, _ = spec.plan(model, total_steps=2).build()
    optimizer.train()
    for _ in range(8):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    at_train = model[0].weight.detach().clone()
    optimizer.eval()
    assert not torch.equal(at_train, model[0].weight)
    optimizer.train()
    torch.testing.assert_close(at_train, model[0].weight.detach())


def test_schedule_free_in_a_composite():
    def members(model):
        free = schedulefree.AdamWScheduleFree([model[0].weight, model[2].weight], lr=0.01)
        return {"free": free, "rest": torch.optim.SGD([model[0].bias, model[2].bias], lr=0.1)}

    ours, theirs = model_for(matrices_only=False), model_for(matrices_only=False)
    optimizer, apart = CompositeOptimizer(members(ours)), members(theirs)
    optimizer.train()
    apart["free"].train()
    for _ in range(3):
        for model in (ours, theirs):
            model.zero_grad()
            backward(model)
        optimizer.step()
        for member in apart.values():
            member.step()
    optimizer.eval()
    apart["free"].eval()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")
def test_lion_and_muon_of_torch_as_one():
    model = model_for(matrices_only=False)
    lion = resolve_optimizer(OptimizerSpec("pytorch_optimizer.Lion", {"lr": 0.01}))
    members = {
        "matrices": torch.optim.Muon([model[0].weight, model[2].weight], lr=0.01),
        "rest": lion.build([{"params": [model[0].bias, model[2].bias]}], {"foreach": True}),
    }
    optimizer = CompositeOptimizer(members)
    for _ in range(2):
        backward(model)
        optimizer.step()
    assert set(optimizer.state) == set(model.parameters())
