"""torch's ``AveragedModel`` and ``SWALR`` beside ours, over drawn functions, loops and learning rates."""

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.swa_utils import SWALR, AveragedModel

from lightning_solver.interop.torch import from_torch
from lightning_solver.optimizer_spec import OptimizerSpec

slow = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
decays = st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0])
functions = st.one_of(
    st.just(""),
    st.just("avg_fn=get_swa_avg_fn()"),
    st.just("multi_avg_fn=get_swa_multi_avg_fn()"),
    decays.map(lambda decay: f"avg_fn=get_ema_avg_fn({decay})"),
    decays.map(lambda decay: f"multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay={decay})"),
)
BATCHES = 3


def real(text, model):
    """The real average that a text makes."""
    names = {**vars(swa_utils), "swa_utils": swa_utils, "model": model}
    return eval(text, names)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    data = [torch.randn(6, 3).double() for _ in range(BATCHES)]
    return model, data


def compare(running, averaged, buffers):
    values = dict(zip(running.names, running.values, strict=True))
    held = dict(averaged.module.named_parameters())
    if buffers:
        held |= {name: value for name, value in averaged.module.named_buffers() if value.is_floating_point()}
    assert values.keys() == held.keys()
    for name, expected in held.items():
        torch.testing.assert_close(values[name], expected.detach(), rtol=1e-6, atol=1e-9)


@slow
@given(
    function=functions,
    buffers=st.booleans(),
    per_epoch=st.booleans(),
    guard=st.none() | st.tuples(st.sampled_from([">", ">="]), st.integers(0, 5)),
    as_object=st.booleans(),
)
def test_averaged_model(function, buffers, per_epoch, guard, as_object):
    assume(not (buffers and "get_swa_multi" in function))  # torch fails on whole numbers in buffers there
    model, data = network()
    made = f"AveragedModel(model, {function}{', ' * bool(function)}use_buffers={buffers})"
    pad = " " * (4 if per_epoch else 8)
    call = f"{pad}average.update_parameters(model)\n"
    if guard is not None:
        call = f"{pad}if epoch {guard[0]} begin:\n    {call}"
    text = (
        f"average = {made}\nbegin = {guard and guard[1]}\nfor epoch in range(6):\n"
        f"    for batch in loader:\n        train(batch)\n{call}"
    )
    averaged = real(made, model)
    average_of = {"average": real(made, model)} if as_object and guard is None and not per_epoch else text
    (average,) = from_torch(average_of).spec.averages.values()
    running = average.over(model, total_steps=6 * BATCHES, steps_per_epoch=BATCHES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(epoch):
        if guard is None or (epoch > guard[1] if guard[0] == ">" else epoch >= guard[1]):
            averaged.update_parameters(model)

    for epoch in range(6):
        for batch in data:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            if not per_epoch:
                update(epoch)
            running.update()
        if per_epoch:
            update(epoch)
        assert running.begun == bool(averaged.n_averaged)
        compare(running, averaged, buffers)


@slow
@given(
    start=st.integers(0, 12),
    epochs=st.integers(1, 16),
    swa_lr=st.sampled_from([0.05, 0.2, 0.001]),
    anneal=st.integers(0, 6),
    strategy=st.sampled_from(["cos", "linear"]),
    scheduler=st.sampled_from(["CosineAnnealingLR(optimizer, T_max=16)", "ExponentialLR(optimizer, gamma=0.8)"]),
)
def test_the_averaging_recipe(start, epochs, swa_lr, anneal, strategy, scheduler):
    """Both together: the rates of every epoch, and the average that they lead to."""
    swalr = f"SWALR(optimizer, swa_lr={swa_lr}, anneal_epochs={anneal}, anneal_strategy='{strategy}')"
    text = (
        f"swa_model = AveragedModel(model)\nscheduler = {scheduler}\nswa_start = {start}\nswa_scheduler = {swalr}\n"
        f"for epoch in range({epochs}):\n    for batch in loader:\n        train(batch)\n    if epoch > swa_start:\n"
        "        swa_model.update_parameters(model)\n        swa_scheduler.step()\n    else:\n        scheduler.step()\n"
    )
    facts = {"step_on": "epoch", "epochs": epochs}
    spec = from_torch(text, facts=facts, strict=True).spec.replace(optimizer=OptimizerSpec("SGD", {"lr": 0.1}))

    model, data = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = {"optimizer": optimizer, **vars(lr_scheduler), "SWALR": SWALR}
    first, then, averaged = eval(scheduler, made), eval(swalr, made), AveragedModel(model)
    mine, same = network()
    plan = spec.plan(mine, total_steps=epochs * BATCHES, steps_per_epoch=BATCHES)
    my_optimizer, my_scheduler = plan.build()
    (average,) = spec.averages.values()
    running = average.over(mine, total_steps=epochs * BATCHES, steps_per_epoch=BATCHES)
    for epoch in range(epochs):
        rates = [group["lr"] for group in optimizer.param_groups]
        np.testing.assert_allclose([group["lr"] for group in my_optimizer.param_groups], rates, rtol=1e-9, atol=1e-12)
        for batch in data:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
        for batch in same:
            my_optimizer.zero_grad()
            mine(batch).square().mean().backward()
            my_optimizer.step()
            my_scheduler.step()
            running.update()
        if epoch > start:
            averaged.update_parameters(model)
            then.step()
        else:
            first.step()
        compare(running, averaged, buffers=False)
    assert running.count.updates == int(averaged.n_averaged)
