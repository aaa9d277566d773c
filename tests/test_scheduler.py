import io
import re

import numpy as np
import pytest
import torch
from torch import nn

from lightning_solver import Rule, RunLength, SolverError, SolverSpec
from lightning_solver.schedules import Constant, Cosine, Linear, Step

ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1, "betas": [0.8, 0.95]}}
SCHEDULES = {
    "lr": [Linear(start=0.1, until=3), Cosine(end=0.01)],
    "weight_decay": Cosine(start=0.5, end=1.0),
    "momentum": Linear(start=1.0, end=0.9),
    "beta2": Step(every=4, gamma=0.9),
}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def plan(module=None, total_steps=10, *, run=None, **changes):
    spec = SolverSpec(
        **{"optimizer": ADAMW, "schedules": SCHEDULES, "rules": [Rule(match="2.*", lr_scale=0.5)], **changes}
    )
    module = net() if module is None else module
    return spec.plan(module, run=run or RunLength(total_steps=total_steps))


def batch(step):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def train(module, optimizer, scheduler, steps):
    for step in steps:
        optimizer.zero_grad()
        module(batch(step)).square().mean().backward()
        optimizer.step()
        scheduler.step()


def read(optimizer, option):
    """The value of an option in each group, as the optimiser holds it."""
    places = {"momentum": ("betas", 0), "beta2": ("betas", 1)}
    if option in optimizer.param_groups[0]:
        places = {}
    key, index = places.get(option, (option, None))
    return [group[key] if index is None else group[key][index] for group in optimizer.param_groups]


# ------------------------------------------------------------------ stepping


def test_a_bare_loop_has_the_curve_of_the_plan_at_each_step():
    module = net()
    made = plan(module)
    optimizer, scheduler = made.build()
    held = {option: [] for option in SCHEDULES}
    for step in range(10):
        for option, values in held.items():
            values.append(read(optimizer, option))
        assert scheduler.last_epoch == step
        train(module, optimizer, scheduler, [step])
    for option, values in held.items():
        assert np.array(values).tobytes() == made.curve(option).tobytes(), option


def test_what_is_not_scheduled_stays():
    optimizer, scheduler = plan(schedules={"lr": Linear(end=0.0)}).build()
    before = [{k: v for k, v in group.items() if k not in ("lr", "params")} for group in optimizer.param_groups]
    scheduler.step()
    assert [{k: v for k, v in group.items() if k not in ("lr", "params")} for group in optimizer.param_groups] == before


def test_betas_stay_a_tuple_of_floats():
    optimizer, scheduler = plan().build()
    scheduler.step()
    for group in optimizer.param_groups:
        assert type(group["betas"]) is tuple
        assert [type(beta) for beta in group["betas"]] == [float, float]
        assert type(group["lr"]) is float


def test_sgd_momentum():
    made = plan(
        optimizer={"name": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}, schedules={"momentum": Linear(end=0.0)}
    )
    optimizer, scheduler = made.build()
    scheduler.step()
    assert read(optimizer, "momentum") == made.curve("momentum")[1].tolist()


def test_a_tensor_is_filled_in_place():
    # As a captured graph or a compiled step needs it, which hold on to the tensor itself.
    made = plan(rules=[], default_rules=False)
    optimizer, scheduler = made.build()
    lr = torch.tensor(0.0, dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = lr
    for step in range(1, 6):
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == made.curve("lr")[step, 0]
    assert scheduler.get_last_lr() == [lr.item()]
    assert scheduler.get_lr() == [lr.item()]


def test_last_lr_is_what_the_groups_hold():
    made = plan()
    _, scheduler = made.build()
    assert scheduler.get_last_lr() == made.curve("lr")[0].tolist()
    scheduler.step()
    assert scheduler.get_last_lr() == made.curve("lr")[1].tolist()
    assert scheduler.base_lrs == [group.options["lr"] for group in made.groups]


def test_past_the_end_values_are_held():
    made = plan()
    optimizer, scheduler = made.build()
    for _ in range(10):
        scheduler.step()
    end = {option: read(optimizer, option) for option in SCHEDULES}
    assert end["lr"] == made.curve_of("lr").at(10)
    assert end["lr"] == pytest.approx([group.options["lr"] * 0.01 for group in made.groups], rel=1e-15)
    for _ in range(25):
        scheduler.step()
        assert {option: read(optimizer, option) for option in SCHEDULES} == end


def test_epochs_are_refused():
    _, scheduler = plan().build()
    message = "scheduler.step: counts optimiser steps, not epochs; got 3; call step() after each optimizer.step()"
    with pytest.raises(SolverError, match=re.escape(message)):
        scheduler.step(epoch=3)
    with pytest.raises(SolverError, match="counts optimiser steps, not epochs; got 0"):
        scheduler.step(0)
    assert scheduler.last_epoch == 0


def test_an_optimiser_without_a_learning_rate():
    optimizer, scheduler = plan(
        optimizer={"name": f"{__name__}.NoLearningRate"}, schedules={"weight": Linear(end=0.0)}, rules=[]
    ).build()
    scheduler.step()
    assert optimizer.param_groups[0]["weight"] == 0.9
    assert scheduler.base_lrs == [0.0]


class NoLearningRate(torch.optim.Optimizer):
    def __init__(self, params, weight: float = 1.0):
        super().__init__(params, {"weight": weight})


# ------------------------------------------------------------------ state


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_is_the_step_and_the_spec():
    made = plan()
    _, scheduler = made.build()
    for _ in range(4):
        scheduler.step()
    assert scheduler.state_dict() == {"step": 4, "spec": made.spec.to_dict()}
    assert through_a_file(scheduler.state_dict()) == scheduler.state_dict()


def test_a_resumed_run_is_the_straight_run_bit_for_bit():
    straight = net()
    optimizer, scheduler = plan(straight).build()
    train(straight, optimizer, scheduler, range(4))
    saved = through_a_file(
        {"model": straight.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    )
    train(straight, optimizer, scheduler, range(4, 10))

    resumed = net()
    resumed.load_state_dict(saved["model"])
    optimizer_2, scheduler_2 = plan(resumed).build()
    optimizer_2.load_state_dict(saved["optimizer"])
    scheduler_2.load_state_dict(saved["scheduler"])
    assert scheduler_2.last_epoch == 4
    train(resumed, optimizer_2, scheduler_2, range(4, 10))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    for option in SCHEDULES:
        assert read(optimizer, option) == read(optimizer_2, option)


@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
def test_the_order_of_loading_does_not_matter(first):
    optimizer, scheduler = plan().build()
    for _ in range(4):
        scheduler.step()
    fresh = dict(zip(("optimizer", "scheduler"), plan().build()))
    states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    for name in sorted(states, key=lambda name: name != first):
        fresh[name].load_state_dict(states[name])
    fresh["scheduler"].step()
    scheduler.step()
    for option in SCHEDULES:
        assert read(fresh["optimizer"], option) == read(optimizer, option)


@pytest.mark.parametrize(
    ("state", "got"),
    [
        ({}, "got keys ;"),
        ({"last_epoch": 3, "base_lrs": [0.1]}, "got keys 'last_epoch', 'base_lrs';"),
        ({"step": 3}, "got keys 'step';"),
        ({"step": 3, "spec": {}, "more": 1}, "got keys 'step', 'spec', 'more';"),
    ],
)
def test_a_foreign_state_is_refused(state, got):
    _, scheduler = plan().build()
    message = f"scheduler: the saved state is not one of lightning_solver; {got} resume by the scheduler that wrote it"
    with pytest.raises(SolverError, match=re.escape(message)):
        scheduler.load_state_dict(state)
    assert scheduler.last_epoch == 0


def test_an_equal_spec_is_not_reported(caplog):
    _, scheduler = plan().build()
    scheduler.step()
    _, fresh = plan().build()
    fresh.load_state_dict(scheduler.state_dict())
    assert caplog.records == []


def test_a_changed_spec_is_followed_and_reported(caplog):
    _, scheduler = plan().build()
    for _ in range(4):
        scheduler.step()
    changed = plan(
        lr=0.5, schedules={**SCHEDULES, "lr": [Linear(start=0.1, until=2), Cosine(end=0.01)]}, total_steps=20
    )
    optimizer, fresh = changed.build()
    fresh.load_state_dict(scheduler.state_dict())
    assert read(optimizer, "lr") == changed.curve("lr")[4].tolist()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("lightning_solver", "WARNING")
    assert record.message.splitlines() == [
        "resumed by a changed spec, which is followed from here on:",
        "  schedules.lr[0].init_args.until: 3 -> 2",
        "  lr: (not set) -> 0.5",
    ]


def test_a_spec_that_cannot_be_read_is_an_error():
    _, scheduler = plan().build()
    with pytest.raises(SolverError, match=re.escape("saved spec.version: is not a version that can be read; got 99")):
        scheduler.load_state_dict({"step": 3, "spec": {"version": 99}})


# ------------------------------------------------------------------ another plan


def test_following_another_plan_for_the_same_groups():
    module = net()
    optimizer, scheduler = plan(module).build()
    for _ in range(3):
        scheduler.step()
    other = plan(module, lr=0.4, schedules={"lr": Linear(end=0.0), "weight_decay": Constant(0.5)})
    scheduler.follow(other)
    for option in ("lr", "weight_decay", "momentum", "beta2"):
        assert read(optimizer, option) == other.curve(option)[3].tolist(), option
    assert [group["initial_lr"] for group in optimizer.param_groups] == [group.options["lr"] for group in other.groups]
    scheduler.step()
    assert read(optimizer, "lr") == other.curve("lr")[4].tolist()


def test_following_keeps_tensors():
    module = net()
    optimizer, scheduler = plan(module, rules=[], default_rules=False).build()
    lr = torch.tensor(0.0, dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = lr
    other = plan(module, rules=[], default_rules=False, lr=0.4, schedules={})
    scheduler.follow(other)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.4


def test_a_plan_for_other_groups_is_refused():
    module = net()
    _, scheduler = plan(module).build()
    other = plan(module, rules=[])
    with pytest.raises(SolverError, match="plan: groups the parameters in another way; build a new optimiser from it"):
        scheduler.follow(other)
