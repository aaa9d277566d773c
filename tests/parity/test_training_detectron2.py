"""The same network trained by detectron2's recipe, written with torch alone, and by a Trainer with the imported spec.

detectron2 cannot be installed here: the loop below makes what its ``build_optimizer`` and ``build_lr_scheduler`` make,
by the semantics that the figures of ``tests/golden/detectron2.json`` show.
"""

import bisect
import math

import pytest
import torch
import trained as t
from torch import nn

from lightning_solver.interop.detectron2 import from_detectron2

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
BASE = {
    "BASE_LR": 0.05,
    "MAX_ITER": t.STEPS,
    "MOMENTUM": 0.9,
    "WEIGHT_DECAY": 1e-3,
    "STEPS": (20, 40),
    "GAMMA": 0.5,
    "WARMUP_ITERS": 10,
    "WARMUP_FACTOR": 0.01,
}
SOLVERS = {
    "multi_step": BASE,
    "cosine": {**BASE, "LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 0.005},
    "rules": {**BASE, "WEIGHT_DECAY_NORM": 0.01, "BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.0, "NESTEROV": True},
    "norms": {**BASE, "WEIGHT_DECAY_NORM": 0.0, "WARMUP_ITERS": 0},
    "powers": {**BASE, "WARMUP_FACTOR": 0.5, "WARMUP_METHOD": "constant", "WARMUP_ITERS": 5},
}


def groups_of(model, solver):
    """A group of each parameter that requires a gradient; what is said of biases comes last."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            group = {"params": [parameter], "lr": solver["BASE_LR"]}
            if isinstance(module, NORMS):
                group["weight_decay"] = solver.get("WEIGHT_DECAY_NORM", 0.0)
            if name == "bias":
                group["lr"] = solver["BASE_LR"] * solver.get("BIAS_LR_FACTOR", 1.0)
                if solver.get("WEIGHT_DECAY_BIAS") is not None:
                    group["weight_decay"] = solver["WEIGHT_DECAY_BIAS"]
            yield group


def multiplier(step, solver):
    """The factor of every learning rate at a step, 0-based."""
    total, ramp = solver["MAX_ITER"], solver["WARMUP_ITERS"]

    def curve(where):
        if solver.get("LR_SCHEDULER_NAME") == "WarmupCosineLR":
            end = solver["BASE_LR_END"] / solver["BASE_LR"]
            return end + 0.5 * (1.0 - end) * (1 + math.cos(math.pi * where))
        return solver["GAMMA"] ** bisect.bisect_right(solver["STEPS"], int((where + 1e-6) * total))

    if step >= ramp:
        return curve(step / total)
    start = solver["WARMUP_FACTOR"] * curve(0.0)
    if solver.get("WARMUP_METHOD", "linear") == "constant":
        return start
    done = step / ramp
    return curve(ramp / total) * done + start * (1 - done)


def by_loop(solver):
    model = t.Bare()
    momenta = {"momentum": solver["MOMENTUM"], "nesterov": solver.get("NESTEROV", False)}
    made = list(groups_of(model, solver))
    optimizer = torch.optim.SGD(made, solver["BASE_LR"], **momenta, weight_decay=solver["WEIGHT_DECAY"], foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: multiplier(step, solver))
    for _ in range(t.EPOCHS):
        for batch in t.loader():
            optimizer.zero_grad()
            t.loss_of(model, *batch).backward()
            optimizer.step()
            schedule.step()
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def imported(solver):
    spec = from_detectron2({"SOLVER": solver}, strict=True).spec
    plain = {**spec.optimizer.args, "foreach": False, "fused": False}
    return spec.replace(optimizer=type(spec.optimizer)(spec.optimizer.name, plain))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_weights_are_the_same(name):
    assert t.far(t.trained(imported(SOLVERS[name])), by_loop(SOLVERS[name])) <= 1e-6


@pytest.mark.parametrize("name", ["norms", "powers"])
def test_rates_that_are_the_same_numbers_give_the_same_bits(name):
    assert t.far(t.trained(imported(SOLVERS[name])), by_loop(SOLVERS[name])) == 0.0


def test_it_is_the_rules_that_make_them_equal():
    spec, theirs = imported(SOLVERS["rules"]), by_loop(SOLVERS["rules"])
    for dropped in spec.rules:
        others = tuple(rule for rule in spec.rules if rule is not dropped)
        assert t.far(t.trained(spec.replace(rules=others)), theirs) > 1e-4
