import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_solver import OptimizerSpec
from lightning_solver.optimizers.decoupled import SGDW
from lightning_solver.optimizers.recipe import resolve_optimizer

IMPLEMENTATIONS = [{"foreach": False}, {"foreach": True}, {"fused": True}, {}]


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), ()]
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)


def by_the_formula(steps, lr, decay, momentum, nesterov):
    params = [param.detach().clone() for param in weights()]
    buffers = [torch.zeros_like(param) for param in params]
    holders = [nn.Parameter(param) for param in params]
    for step in range(steps):
        give_gradients(holders, step)
        for param, buffer, holder in zip(params, buffers, holders):
            grad = holder.grad
            buffer.mul_(momentum).add_(grad)
            update = grad + momentum * buffer if nesterov else buffer
            param.mul_(1 - lr * decay).sub_(lr * update)
    return params


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
def test_the_formula(implementation, nesterov):
    params = weights()
    optimizer = SGDW(params, lr=0.1, momentum=0.9, weight_decay=0.3, nesterov=nesterov, **implementation)
    for step in range(5):
        give_gradients(params, step)
        optimizer.step()
    for got, wanted in zip(params, by_the_formula(5, 0.1, 0.3, 0.9, nesterov)):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-12, atol=1e-12)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
def test_without_decay_it_is_sgd_bit_by_bit(implementation):
    ours, theirs = weights(), weights()
    a = SGDW(ours, lr=0.1, momentum=0.9, **implementation)
    b = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, **implementation)
    for step in range(3):
        for params, optimizer in ((ours, a), (theirs, b)):
            give_gradients(params, step)
            optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs))


def test_each_group_has_its_decay_and_its_learning_rate():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGDW([{"params": [a], "weight_decay": 0.5}, {"params": [b], "lr": 0.2, "weight_decay": 1.0}], lr=0.1)
    a.grad, b.grad = torch.zeros(1), torch.zeros(1)
    optimizer.step()
    assert a.item() == pytest.approx(0.95)
    assert b.item() == pytest.approx(0.8)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
def test_a_parameter_without_a_gradient_is_left_alone(implementation):
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGDW([a, b], lr=0.1, weight_decay=0.5, **implementation)
    optimizer.step()
    assert (a.item(), b.item()) == (1.0, 1.0)
    a.grad = torch.zeros(1)
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(0.95), 1.0)


def test_ascending_decays_all_the_same():
    a = nn.Parameter(torch.ones(1))
    a.grad = torch.ones(1)
    SGDW([a], lr=0.1, weight_decay=0.5, maximize=True).step()
    assert a.item() == pytest.approx(0.95 + 0.1)


def test_the_closure_is_called_once_before_the_decay():
    a, seen = nn.Parameter(torch.ones(1)), []
    optimizer = SGDW([a], lr=0.1, weight_decay=0.5)

    def closure():
        seen.append(a.item())
        optimizer.zero_grad()
        loss = (a * 2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert seen == [1.0]
    assert a.item() == pytest.approx(0.95 - 0.2)


def test_hooks_run_once():
    a, seen = nn.Parameter(torch.ones(1)), []
    torch.optim.SGD([a], lr=0.1)  # whose class torch wraps too
    optimizer = SGDW([a], lr=0.1, weight_decay=0.5)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("any"))
    try:
        a.grad = torch.zeros(1)
        optimizer.step()
    finally:
        handle.remove()
    assert seen == ["before", "after", "any"]


def test_the_decay_stays_in_the_group_when_a_step_fails():
    a = nn.Parameter(torch.ones(2, 2))
    optimizer = SGDW([a], lr=0.1, weight_decay=0.5, fused=True)
    a.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_a_step_that_the_loss_scaler_skips_decays_nothing():
    a = nn.Parameter(torch.ones(2))
    optimizer = SGDW([a], lr=0.1, weight_decay=0.5, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((a * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert a.tolist() == [1.0, 1.0]


def test_it_survives_copying():
    params = weights()
    optimizer = SGDW(params, lr=0.1, momentum=0.9, weight_decay=0.3, fused=True)
    give_gradients(params, 0)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    for one in (optimizer, copied):
        give_gradients(one.param_groups[0]["params"], 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(params, copied.param_groups[0]["params"]))


@pytest.mark.parametrize("name", ["SGDW", "lightning_solver.optimizers.decoupled.SGDW"])
def test_it_is_found_by_name(name):
    recipe = resolve_optimizer(OptimizerSpec(name, {"lr": 0.1, "weight_decay": 0.3}))
    assert recipe.cls is SGDW
    assert recipe.defaults["weight_decay"] == 0.3


def test_a_learning_rate_in_a_tensor():
    a, lr = nn.Parameter(torch.ones(1)), torch.tensor(0.1)
    a.grad = torch.ones(1)
    SGDW([a], lr=lr, weight_decay=0.5).step()
    assert a.item() == pytest.approx(0.85)
