"""Composer's optimisers, which decay by the share of the first learning rate, move weights here as they do there."""

import math

import pytest
import torch
from torch import nn, optim

from lightning_solver import SolverError
from lightning_solver.interop.composer import from_composer

STEPS = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.base = nn.Linear(3, 4).double()
        self.norm = nn.LayerNorm(4).double()
        self.head = nn.Linear(4, 2).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def run(**more):
    return {"schedulers": "LinearWithWarmupScheduler(t_warmup='4ba', alpha_f=0.1)", "max_duration": "20ba", **more}


def gradients(model):
    generator = torch.Generator().manual_seed(7)
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    return [
        dict(zip(names, (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)))
        for _ in range(STEPS)
    ]


def stepped(config, grads):
    """The weights after each step of what is built from the recipe."""
    model = Net()
    optimizer, scheduler = from_composer(config).spec.plan(model, total_steps=STEPS).build()
    rows = []
    for given in grads:
        for name, parameter in model.named_parameters():
            parameter.grad = given[name].clone()
        optimizer.step()
        scheduler.step()
        rows.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    return rows


def rates(config, initial, model):
    """The learning rate of every parameter in every step, by its first one."""
    curve = from_composer(config).spec.curve("lr", [1.0], total_steps=STEPS)[:, 0]
    return [{name: initial(name) * factor for name, _ in model.named_parameters()} for factor in curve]


def by_formula(grads, rates, initial, decay, move):
    """Decay by ``lr / initial_lr * weight_decay``, then the move of the method."""
    model = Net()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state, rows = {name: {} for name in weights}, []
    for step, (given, lrs) in enumerate(zip(grads, rates), start=1):
        for name in weights:
            shrunk = weights[name] * (1 - lrs[name] / initial(name) * decay(name))
            weights[name] = shrunk - lrs[name] * move(given[name], state[name], step)
        rows.append(dict(weights))
    return rows


def sgd(momentum=0.0, dampening=0.0, nesterov=False):
    def move(grad, state, step):
        if not momentum:
            return grad
        held = state.get("buffer")
        state["buffer"] = grad if held is None else momentum * held + (1 - dampening) * grad
        return grad + momentum * state["buffer"] if nesterov else state["buffer"]

    return move


def adam(betas=(0.9, 0.95), eps=1e-8, amsgrad=False):
    def move(grad, state, step):
        state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * grad
        state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * grad**2
        second = state["v"]
        if amsgrad:
            second = state["most"] = torch.maximum(state.get("most", torch.zeros_like(second)), second)
        return state["m"] / (1 - betas[0] ** step) / (second.sqrt() / math.sqrt(1 - betas[1] ** step) + eps)

    return move


@pytest.mark.parametrize(
    ("call", "lr", "decay", "move"),
    [
        ("DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=0.01)", 0.1, 0.01, sgd()),
        ("DecoupledSGDW(model.parameters(), 0.1, 0.9, 0.3, 0.01)", 0.1, 0.01, sgd(0.9, 0.3)),
        (
            "DecoupledSGDW(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.02, nesterov=True)",
            *(0.2, 0.02, sgd(0.9, nesterov=True)),
        ),
        ("DecoupledSGDW(model.parameters(), lr=0.1)", 0.1, 0.0, sgd()),
        ("DecoupledAdamW(model.parameters())", 1e-3, 1e-5, adam()),
        (
            "DecoupledAdamW(model.parameters(), lr=0.02, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.05)",
            *(0.02, 0.05, adam((0.8, 0.9), 1e-3)),
        ),
        ("DecoupledAdamW(model.parameters(), 0.02, weight_decay=0.1, amsgrad=True)", 0.02, 0.1, adam(amsgrad=True)),
    ],
)
def test_weights_move_by_the_formulas(call, lr, decay, move):
    config, grads = run(optimizers=call), gradients(Net())
    expected = by_formula(grads, rates(config, lambda _: lr, Net()), lambda _: lr, lambda _: decay, move)
    for row, wanted in zip(stepped(config, grads), expected):
        for name in wanted:
            torch.testing.assert_close(row[name], wanted[name], rtol=1e-11, atol=1e-13)


GROUPS = """[
    {"params": model.base.parameters(), "lr": 0.01},
    {"params": model.norm.parameters(), "weight_decay": 0.0},
    {"params": model.head.parameters()},
]"""


@pytest.mark.parametrize(("name", "move"), [("DecoupledSGDW", sgd()), ("DecoupledAdamW", adam())])
def test_every_group_decays_by_its_own_first_rate(name, move):
    config = run(optimizers=f"{name}({GROUPS}, lr=0.1, weight_decay=0.02)")
    grads = gradients(Net())

    def initial(parameter):
        return 0.01 if parameter.startswith("base") else 0.1

    def decay(parameter):
        return 0.0 if parameter.startswith("norm") else 0.02

    expected = by_formula(grads, rates(config, initial, Net()), initial, decay, move)
    for row, wanted in zip(stepped(config, grads), expected):
        for parameter in wanted:
            torch.testing.assert_close(row[parameter], wanted[parameter], rtol=1e-11, atol=1e-13)


def test_one_cycle_changes_the_rate_that_decay_is_relative_to():
    """It writes ``max_lr / div_factor`` into the groups as their first rate."""
    cycle = "OneCycleLR(optimizer, 0.5, total_steps=20, div_factor=10.0, cycle_momentum=False)"
    config = {
        "optimizers": "DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=0.01)",
        "schedulers": cycle,
        "max_duration": "20ba",
        "step_schedulers_every_batch": True,
    }
    grads = gradients(Net())
    lrs = from_composer(config).spec.curve("lr", [0.1], total_steps=STEPS)[:, 0]
    assert lrs[0] == pytest.approx(0.05)
    named = [{name: lr for name, _ in Net().named_parameters()} for lr in lrs]
    expected = by_formula(grads, named, lambda _: 0.05, lambda _: 0.01, sgd())
    for row, wanted in zip(stepped(config, grads), expected):
        for parameter in wanted:
            torch.testing.assert_close(row[parameter], wanted[parameter], rtol=1e-11, atol=1e-13)


# ------------------------------------------------------------------ forms


SCRIPT = """
from composer import Trainer
from composer.optim import DecoupledSGDW
lr = 0.1
optimizer = DecoupledSGDW(model.parameters(), lr=lr, weight_decay=1e-4)
scheduler = LinearScheduler()
trainer = Trainer(model=model, optimizers=optimizer, schedulers=scheduler, max_duration="20ba")
trainer.fit()
"""
NATIVE = {"name": "SGDW", "args": {"lr": 0.1, "weight_decay": 1e-3}}


@pytest.mark.parametrize(
    "config",
    [
        run(optimizers="DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=1e-4)"),
        run(optimizers=["composer.optim.DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=1e-4)"]),
        run(optimizers={"type": "composer.optim.DecoupledSGDW", "lr": 0.1, "weight_decay": "1e-4"}),
        run(optimizers={"DecoupledSGDW": {"lr": 0.1, "weight_decay": 1e-4}}),
        {"optimizer": {"name": "decoupled_sgdw", "lr": 0.1, "weight_decay": 1e-4}, "max_duration": "20ba"},
        SCRIPT,
        "optimizer = DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=1e-4)",
        "DecoupledSGDW(model.parameters(), lr=0.1, weight_decay=1e-4)\nLinearScheduler()",
        "Trainer(optimizers=DecoupledSGDW(model.parameters(), 0.1, weight_decay=1e-4), max_duration='20ba')",
    ],
    ids=str,
)
def test_forms(config):
    imported = from_composer(config)
    assert imported.spec.to_dict()["optimizer"] == NATIVE
    assert imported.spec.tied == "first"
    assert not imported.spec.default_rules
    assert [key for key in imported.unmapped if key != "model"] == []
    assert any("weight_decay: is given as 0.001, 0.0001 over the first learning rate" in n for n in imported.notes)


def test_a_file_with_a_script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    imported = from_composer(path)
    assert imported.spec == from_composer(SCRIPT).spec
    assert "lr" in imported.spec.schedules


@pytest.mark.parametrize(
    ("optimizers", "native"),
    [
        ("torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)", ("SGD", {"lr": 0.1, "weight_decay": 1e-4})),
        ("AdamW(model.parameters(), fused=True)", ("AdamW", {"fused": True})),
        (optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.5), ("Adam", {"lr": 0.5})),
        ({"class_path": "torch.optim.RMSprop", "init_args": {"lr": 0.1}}, ("RMSprop", {"lr": 0.1})),
    ],
    ids=["SGD", "AdamW", "itself", "mapping"],
)
def test_optimisers_of_torch_stay_what_they_are(optimizers, native):
    imported = from_composer(run(optimizers=optimizers), strict=True)
    assert imported.spec.to_dict()["optimizer"] == {"name": native[0], "args": native[1]}


def test_schedulers_of_torch_beside_an_optimiser_with_groups():
    config = {
        "optimizers": f"SGD({GROUPS}, lr=0.1)",
        "schedulers": "CyclicLR(optimizer, [0.1, 0.2, 0.3], 0.5, 4, cycle_momentum=False)",
        "max_duration": "20ba",
        "step_schedulers_every_batch": True,
    }
    plan = from_composer(config).spec.plan(Net(), total_steps=STEPS)
    first = {group.names[0].split(".")[0]: rate for group, rate in zip(plan.groups, plan.curve("lr")[0])}
    assert first == pytest.approx({"base": 0.1, "norm": 0.2, "head": 0.3})


def test_a_recipe_without_an_optimiser_has_none():
    spec = from_composer(run(), strict=True).spec
    assert spec.optimizer is None
    assert spec.rules == ()


# ------------------------------------------------------------------ llm-foundry


FOUNDRY = {
    "name": "decoupled_adamw",
    "lr": 6e-4,
    "betas": [0.9, 0.95],
    "weight_decay": 0.003,
    "param_groups": [
        {"param_str_match": "norm", "lr": 1e-4},
        {"param_str_match": "bi.s$", "weight_decay": 0.0, "betas": [0.8, 0.9]},
    ],
    "disable_grad": ["base.weight"],
}


def test_llm_foundry_gives_a_parameter_to_the_first_group_that_is_found_in_its_name():
    plan = from_composer({"optimizer": FOUNDRY, "max_duration": "20ba"}, strict=True).spec.plan(Net(), total_steps=1)
    held = {name: (p["lr"], p["weight_decay"] * p["lr"], p["betas"]) for name, p in plan.parameters.items()}
    assert held == {
        "base.bias": (6e-4, 0.0, (0.8, 0.9)),
        "norm.weight": (1e-4, pytest.approx(0.003), (0.9, 0.95)),
        "norm.bias": (1e-4, pytest.approx(0.003), (0.9, 0.95)),
        "head.weight": (6e-4, pytest.approx(0.003), (0.9, 0.95)),
        "head.bias": (6e-4, 0.0, (0.8, 0.9)),
    }
    assert plan.left_out.keys() == {"base.weight"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("adam", "Adam"),
        ("adamw", "AdamW"),
        ("decoupled_lionw", "llmfoundry.optim.DecoupledLionW"),
        ("clip_lion", "llmfoundry.optim.DecoupledClipLion"),
        ("adalr_lion", "llmfoundry.optim.DecoupledAdaLRLion"),
    ],
)
def test_names_of_llm_foundry(name, path):
    config = {"optimizer": {"name": name, "lr": 0.1, "weight_decay": 0.5}, "max_duration": "20ba"}
    optimizer = from_composer(config, strict=True).spec.optimizer
    assert (optimizer.name, optimizer.args) == (path, {"lr": 0.1, "weight_decay": 0.5})


# ------------------------------------------------------------------ notes and mistakes


@pytest.mark.parametrize(
    ("config", "unmapped", "note"),
    [
        (run(optimizers="opt"), "optimizers", "it is no optimiser of torch or Composer"),
        ({"optimizer": {"name": "decoupled_adam"}, "max_duration": "9ba"}, "optimizer", "did you mean decoupled_adamw"),
        (
            run(optimizers="DecoupledAdamW(model.parameters(), foreach=True)"),
            "optimizer.foreach",
            "DecoupledAdamW has no such argument",
        ),
        (
            {"optimizer": {**FOUNDRY, "param_groups": [{"param_str_match": "a", "wd": 1}]}, "max_duration": "9ba"},
            "optimizer.param_groups[0].wd",
            "DecoupledAdamW has no such argument",
        ),
        (run(algorithms=["LayerFreezing(freeze_start=0.5)"]), "algorithms", "write rules with frozen_from"),
        (run(algorithms="SAM(rho=0.05)"), "algorithms", "makes two passes for one step"),
        (run(algorithms=[object()]), "algorithms", "object is not part of the solver"),
    ],
)
def test_what_is_not_mapped_is_noted(config, unmapped, note):
    imported = from_composer(config)
    assert imported.unmapped == (unmapped,)
    assert any(text.startswith(f"{unmapped}: ") and note in text for text in imported.notes)


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        ("DecoupledSGDW(model.parameters(), momentum=0.9)", "optimizer.lr: is missing, which DecoupledSGDW needs"),
        ("DecoupledSGDW(model.parameters(), lr=0.0, weight_decay=1e-4)", "lr: is 0, at which DecoupledSGDW decays"),
        (
            "DecoupledAdamW([{'params': m.a.parameters(), 'lr': 0.0}, {'params': m.b.parameters()}], lr=0.1)",
            "optimizer.params[0].lr: is 0, at which DecoupledAdamW decays",
        ),
        ("DecoupledAdamW(model.parameters(), lr='fast')", "lr: must be a number; got 'fast'"),
        (["SGD(model.parameters(), lr=0.1)", "Adam(model.parameters())"], "optimizers: has several optimisers"),
    ],
)
def test_refused(optimizers, message):
    with pytest.raises(SolverError) as error:
        from_composer(run(optimizers=optimizers))
    assert message in str(error.value)


def test_a_rate_of_0_is_no_mistake_without_decay():
    spec = from_composer(run(optimizers="DecoupledSGDW(model.parameters(), lr=0.0)")).spec
    assert spec.optimizer.args == {"lr": 0.0, "weight_decay": 0.0}
