"""timm's optimisers by dotted path, beside timm's own way of making them."""

import inspect
import re

import pytest
import torch
import torchvision_stub  # noqa: F401  # before timm, which wants torchvision
from timm import optim as timm_optim
from timm.optim import create_optimizer_v2
from torch import nn

from lightning_solver import OptimizerSpec, SolverError, SolverSpec
from lightning_solver.optimizers.implementation import choose
from lightning_solver.optimizers.recipe import resolve_optimizer

CLASSES = sorted(
    name
    for name, cls in vars(timm_optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)
# timm's name -> the class that it makes, whose arguments are the same.
BY_NAME = {
    "adabelief": "AdaBelief",
    "adamp": "AdamP",
    "adan": "Adan",
    "lamb": "Lamb",
    "lars": "Lars",
    "lion": "Lion",
    "madgrad": "MADGRAD",
    "novograd": "NvNovoGrad",
    "sgdp": "SGDP",
}
NEEDS_MORE = {"Adahessian", "Lookahead"}  # gradients of gradients; another optimiser


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def steps(model, optimizer, count=4):
    for step in range(count):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        optimizer.step()


def test_there_are_many():
    assert len(CLASSES) >= 20


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in NEEDS_MORE])
def test_each_is_taken_by_its_dotted_path(name):
    model = net()
    spec = SolverSpec(optimizer=OptimizerSpec(f"timm.optim.{name}", {"lr": 0.01}), default_rules=False)
    optimizer, _ = spec.plan(model, total_steps=4).build()
    before = [param.detach().clone() for param in model.parameters()]
    steps(model, optimizer)
    assert type(optimizer).__name__ == name
    assert all(torch.isfinite(param).all() for param in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_numbers_are_those_of_timm(name):
    ours, theirs = net(), net()
    args = {"lr": 0.01, "weight_decay": 0.05}
    made = create_optimizer_v2(theirs, name, **args)
    assert type(made).__name__ == BY_NAME[name]
    own = {key: value for key, value in made.defaults.items() if key in recipe(name).takes and value is not None}
    spec = SolverSpec(optimizer=OptimizerSpec(f"timm.optim.{BY_NAME[name]}", {**own, **args}))
    optimizer, _ = spec.plan(ours, total_steps=4).build()
    steps(ours, optimizer)
    steps(theirs, made)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def recipe(name):
    return resolve_optimizer(OptimizerSpec(f"timm.optim.{BY_NAME[name]}", {"lr": 0.01}))


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_chosen_gives_the_numbers_of_the_loop(name):
    found = choose(recipe(name), list(net().parameters()))
    assert found.name in ("foreach", "loop", "own")
    ours, theirs = net(), net()
    steps(ours, recipe(name).build([{"params": list(ours.parameters())}], found.args))
    loop = {"foreach": False} if "foreach" in recipe(name).takes else {}
    steps(theirs, recipe(name).build([{"params": list(theirs.parameters())}], loop))
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_wrapper_is_refused():
    message = "optimizer.name: Lookahead is not made from parameters; got base_optimizer as first argument"
    with pytest.raises(SolverError, match=re.escape(message)):
        resolve_optimizer(OptimizerSpec("timm.optim.Lookahead"))
