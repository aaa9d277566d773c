"""The same network trained by a loop such as timm's script has and by a Trainer with the imported spec."""

import pytest
import torchvision_stub  # noqa: F401
import trained as t
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from lightning_solver.interop.timm import from_timm

SGD = {"opt": "sgd", "lr": 0.05, "weight_decay": 1e-3, "momentum": 0.9, "foreach": False}
ADAMW = {"opt": "adamw", "lr": 2e-3, "weight_decay": 0.05, "betas": (0.9, 0.95), "foreach": False}
COSINE = {"sched": "cosine", "num_epochs": t.EPOCHS, "warmup_epochs": 1, "warmup_lr": 1e-5, "min_lr": 1e-5}
STAIRS = {
    "sched": "multistep",
    "num_epochs": t.EPOCHS,
    "decay_milestones": [2, 4],
    "decay_rate": 0.5,
    "warmup_epochs": 0,
}
GROUPS = {
    "stem": r"^backbone\.[01]\.",
    "blocks": [(r"^backbone\.(\d+)\.", None), (r"^head\.1\.", (99999,))],
}
"""Layers of the network in timm's words: the norm of the head is one with the last of the backbone."""


class Theirs(t.Bare):
    """The parts as a model of timm, which says what its layers are and what has no weight decay."""

    def group_matcher(self, coarse=False):
        return GROUPS

    def no_weight_decay(self):
        return {"backbone.6.weight"}


class Ours(t.Module):
    """The same beside Lightning."""

    group_matcher, no_weight_decay = Theirs.group_matcher, Theirs.no_weight_decay


def by_loop(optimizer, scheduler):
    model = Theirs()
    opt = create_optimizer_v2(model, **optimizer)
    schedule, epochs = create_scheduler_v2(opt, updates_per_epoch=t.BATCHES, **scheduler)
    assert epochs == t.EPOCHS
    updates = 0
    for epoch in range(epochs):
        for batch in t.loader():
            opt.zero_grad()
            t.loss_of(model, *batch).backward()
            opt.step()
            updates += 1
            schedule.step_update(num_updates=updates)
        schedule.step(epoch + 1)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def imported(optimizer, scheduler):
    config = {"create_optimizer_v2": optimizer, "create_scheduler_v2": scheduler}
    return from_timm(config, facts={"iters_per_epoch": t.BATCHES}, strict=True).spec


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["opt"])
@pytest.mark.parametrize("decay", [{}, {"layer_decay": 0.7}], ids=["by_weight", "by_layer"])
@pytest.mark.parametrize("on_updates", [False, True])
def test_warmup_and_cosine(optimizer, decay, on_updates):
    optimizer, scheduler = {**optimizer, **decay}, {**COSINE, "step_on_epochs": not on_updates}
    ours = t.trained(imported(optimizer, scheduler), module=Ours)
    assert t.far(ours, by_loop(optimizer, scheduler)) <= 1e-6


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["opt"])
def test_rates_that_are_the_same_numbers_give_the_same_bits(optimizer):
    assert t.far(t.trained(imported(optimizer, STAIRS), module=Ours), by_loop(optimizer, STAIRS)) == 0.0


def test_it_is_the_rules_that_make_them_equal():
    optimizer = {**ADAMW, "layer_decay": 0.7}
    spec, theirs = imported(optimizer, STAIRS), by_loop(optimizer, STAIRS)
    for other in (spec.replace(layer_decay=None), spec.replace(rules=())):
        assert t.far(t.trained(other, module=Ours), theirs) > 1e-4
