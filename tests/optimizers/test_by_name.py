"""Every optimiser of torch by its name, through a plan, and in a fit."""

import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, Rule, SolverSpec
from lightning_solver.optimizers.recipe import resolve_optimizer
from small import Net, loader, trainer

TORCH = [
    "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "LBFGS", "Muon", "NAdam", "RAdam", "RMSprop",
    "Rprop", "SGD", "SparseAdam",
]  # fmt: skip
NAMES = [name for name in TORCH if hasattr(torch.optim, name)]  # Muon came with torch 2.9


class UsersOwn(torch.optim.Optimizer):
    """A class in a module of the user's."""

    def __init__(self, params, lr: float = 0.1, share: float = 0.5):
        super().__init__(params, {"lr": lr, "share": share})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(group["lr"] * group["share"] * param.grad)
        return loss


def model_for(name):
    torch.manual_seed(0)
    if name == "Muon":
        return nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False))
    if name == "SparseAdam":
        return nn.Sequential(nn.Embedding(7, 4, sparse=True))
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def step(model, optimizer, name):
    batch = torch.tensor([1, 3, 3]) if name == "SparseAdam" else torch.ones(3, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    return loss.item()


def test_torch_has_no_others():
    found = {
        cls.__name__
        for cls in vars(torch.optim).values()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }
    assert found == set(NAMES)


@pytest.mark.parametrize("name", [*NAMES, "SGDW", f"{__name__}.UsersOwn"])
def test_by_name_through_a_plan(name):
    model = model_for(name)
    spec = SolverSpec(optimizer=OptimizerSpec(name, {"lr": 0.01}))
    optimizer, scheduler = spec.plan(model, total_steps=3).build()
    assert type(optimizer).__name__ == name.rpartition(".")[2]
    before = [param.detach().clone() for param in model.parameters()]
    losses = []
    for _ in range(3):
        losses.append(step(model, optimizer, name))
        scheduler.step()
    assert losses[2] < losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("LBFGS", "SparseAdam", "Muon")])
def test_a_rule_by_name(name):
    rules = [Rule(match="0.*", lr_scale=0.1)]
    optimizer, _ = (
        SolverSpec(optimizer=OptimizerSpec(name, {"lr": 0.01}), rules=rules)
        .plan(model_for(name), total_steps=3)
        .build()
    )
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.001, 0.01])


def test_sparse_gradients_through_a_plan():
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))
    spec = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1}))
    optimizer, _ = spec.plan(model, total_steps=3).build()
    before = model[0].weight.detach().clone()
    model(torch.tensor([1, 3])).sum().backward()
    assert model[0].weight.grad.is_sparse
    optimizer.step()
    changed = (before != model[0].weight).any(dim=1).tolist()
    assert changed == [False, True, False, True, False, False, False]


def test_lbfgs_in_a_fit():
    """With automatic optimisation, whose closure it evaluates several times a step."""

    class Counting(Net):
        calls = 0

        def training_step(self, batch, batch_idx):
            self.calls += 1
            return super().training_step(batch, batch_idx)

    net = Counting(SolverSpec(optimizer=OptimizerSpec("LBFGS", {"lr": 0.1, "max_iter": 4}), default_rules=False))
    fit = trainer(max_steps=3)
    fit.fit(net, loader())
    assert fit.global_step == 3
    assert type(fit.optimizers[0]) is torch.optim.LBFGS
    assert net.calls > 6
    assert fit.callback_metrics["train_loss"] > 0


@pytest.mark.parametrize("name", ["AdamW", "SGDW", "RMSprop"])
def test_in_a_fit(name):
    net = Net(SolverSpec(optimizer=OptimizerSpec(name, {"lr": 0.01, "weight_decay": 0.1})))
    fit = trainer(max_steps=3)
    fit.fit(net, loader())
    assert fit.global_step == 3
    assert type(fit.optimizers[0]) is resolve_optimizer(OptimizerSpec(name)).cls
