"""Averages of MMEngine, drawn at random: its own hook and classes beside the importer, step by step."""

import copy
import logging
from fractions import Fraction
from types import SimpleNamespace

import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from torch import nn

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.mmengine import from_mmengine

logging.disable(logging.WARNING)
EQUAL, EXPONENTIAL, ANNEALED = "StochasticWeightAverage", "ExponentialMovingAverage", "MomentumAnnealingEMA"
momenta = st.sampled_from([0.0002, 0.05, 0.1, 0.5, 0.9] * 3 + [0.0, 1.0, 1.5, -0.1])
gammas = st.sampled_from([1, 3, 30, 100, 7.5] * 3 + [0])


class Small(nn.Module):
    """Parameters and buffers, one of them a count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.layer = nn.Linear(2, 2).double()
        self.register_buffer("running", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def move(self, generator):
        with torch.no_grad():
            for tensor in (*self.parameters(), self.running):
                tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64, generator=generator))
            self.count += 1


@st.composite
def arguments(draw):
    """The arguments of a class of averages; the momentum also for the one that has none."""
    kind = draw(st.sampled_from([EQUAL, EXPONENTIAL, ANNEALED]))
    found = {}
    for key, values, owners in (
        ("momentum", momenta, (EXPONENTIAL, ANNEALED)),
        ("gamma", gammas, (ANNEALED,)),
        ("interval", st.sampled_from([1, 1, 2, 3, 4, 6]), (EQUAL, EXPONENTIAL, ANNEALED)),
        ("update_buffers", st.booleans(), (EQUAL, EXPONENTIAL, ANNEALED)),
    ):
        if (kind in owners or draw(st.integers(0, 20)) == 0) and draw(st.booleans()):
            found[key] = draw(values)
    return kind, found


@st.composite
def hooks(draw):
    kind, found = draw(arguments())
    if kind != EXPONENTIAL or draw(st.booleans()):
        found["ema_type"] = kind
    for key, values in (("begin_iter", st.sampled_from([0, 1, 2, 4, 7, 12])), ("begin_epoch", st.integers(0, 5))):
        if draw(st.integers(0, 2)) == 0:
            found[key] = draw(values)
    return {"type": "EMAHook", **found, **draw(st.sampled_from([{}, {"priority": "LOW"}, {"strict_load": True}]))}


def beside(ours, theirs, wanted):
    """Compare all that is averaged."""
    state = theirs.module.state_dict()
    assert ours.names == wanted
    for name, value in zip(ours.names, ours.values):
        assert torch.allclose(value, state[name], rtol=1e-9, atol=1e-12), (name, value, state[name])


def names_of(model, *, buffers):
    return (*dict(model.named_parameters()), *(("running",) if buffers else ()))


@given(
    hook=hooks(),
    per_step=st.sampled_from([1, 1, 2, 3, 4]),
    per_epoch=st.integers(1, 8),
    epochs=st.integers(1, 5),
    by_epochs=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_the_hook_gives_the_same(hook, per_step, per_epoch, epochs, by_epochs, seed):
    generator = torch.Generator().manual_seed(seed)
    model = Small()
    batches = per_epoch * epochs
    steps = -(-batches // per_step)
    loop = {"by_epoch": True, "max_epochs": epochs} if by_epochs else {"by_epoch": False, "max_iters": batches}
    config = {"custom_hooks": [hook], "train_cfg": loop, "optim_wrapper": {"accumulative_counts": per_step}}
    config["optim_wrapper"]["optimizer"] = {"type": "SGD", "lr": 0.1}
    runner = SimpleNamespace(
        model=model, iter=0, epoch=0, max_iters=batches, max_epochs=epochs if by_epochs else 1, _resume=False
    )
    refused = None
    theirs = None
    try:
        theirs = EMAHook(**{key: value for key, value in hook.items() if key not in ("type", "priority")})
        theirs.before_run(runner)
        theirs.before_train(runner)
    except (AssertionError, TypeError) as error:
        refused = error
    try:
        read = from_mmengine(config, facts={"iters_per_epoch": per_epoch}, strict=refused is not None)
    except SolverError:
        assert refused is not None
        event("refused")
        return
    assert refused is None, refused
    if read.unmapped:
        event("not exact")
        assert per_step > 1
        return
    event(f"exact, {per_step} batches a step")
    (average,) = read.spec.averages.values()
    run = RunLength(total_steps=steps, steps_per_epoch=Fraction(per_epoch, per_step))
    ours = average.over(model, run=run)
    wanted = names_of(model, buffers=hook.get("update_buffers", False))
    for batch in range(1, steps * per_step + per_step):  # the last step is seen as the others are: before the next one
        if batch % per_step == 0:
            model.move(generator)
            ours.update()
        runner.iter, runner.epoch = batch - 1, (batch - 1) // per_epoch if by_epochs else 0
        theirs.after_train_iter(runner, runner.iter)
        if (batch + 1) % per_step == 0:
            beside(ours, theirs.ema_model, wanted)


@given(drawn=arguments(), seed=st.integers(0, 9), steps=st.integers(1, 20))
@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
def test_the_classes_give_the_same(drawn, seed, steps):
    kind, found = drawn
    generator = torch.Generator().manual_seed(seed)
    model = Small()
    refused = None
    try:
        theirs = MODELS.build({"type": kind, "model": model, **copy.deepcopy(found)})
    except (AssertionError, TypeError) as error:
        refused = error
    text = f"{kind}({', '.join(['model', *(f'{key}={value!r}' for key, value in found.items())])})"
    try:
        read = from_mmengine({"average": text}, facts={"total_iters": steps}, strict=True)
    except SolverError:
        assert refused is not None
        return
    assert refused is None, refused
    (average,) = read.spec.averages.values()
    ours = average.over(model, total_steps=steps)
    for _ in range(steps):
        model.move(generator)
        ours.update()
        theirs.update_parameters(model)
        beside(ours, theirs, names_of(model, buffers=found.get("update_buffers", False)))
