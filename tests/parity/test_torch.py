"""Schedulers of torch, drawn at random, nested and stepped together, side by side with the real ones."""

import math
import warnings

import numpy as np
import pytest
import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from lightning_solver import SolverError
from lightning_solver.interop.torch import from_torch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RATES = [0.1, 0.01, 0.05]
MOMENTA = [0.9, 0.95, 0.8]
KNOWN_LIMITS = (
    "no schedule says",
    "is 0, by which torch divides here",  # where it does not, as no step() is left
    "must not be negative here",
    "whose last rate torch makes negative",
    "torch compares it with the rate that both have made",
    "is the second OneCycleLR",
)


def halves(n):
    return 0.5 ** (n // 3)


def ramp(n):
    return min(1.0, (n + 1) / 7)


def steady(n):
    return 0.97


def shrink(n):
    return 1 / (1.0 + n / 10)


functions = st.sampled_from([halves, ramp, steady, shrink])
counts = st.integers(1, 25)
floors = st.sampled_from([0.0, 0.0, 1e-3, 0.02, 0.3])
factors = st.sampled_from([0.1, 0.25, 0.5, 1 / 3, 0.9, 1.0])


def each(values):
    """One for all groups, or one for each."""
    return values | st.lists(values, min_size=3, max_size=3)


def kwargs(name, **fields):
    """A class and some of its arguments; ``needed`` ones are always there."""
    needed = {key[1:]: value for key, value in fields.items() if key.startswith("_")}
    optional = {key: value for key, value in fields.items() if not key.startswith("_")}
    return st.tuples(st.just(name), st.fixed_dictionaries(needed, optional=optional))


RECURSIVE = [
    kwargs("StepLR", _step_size=counts, gamma=st.sampled_from([0.1, 0.5, 1.0, 1.1, 0.0])),
    kwargs(
        "MultiStepLR", _milestones=st.lists(st.integers(-1, 40), max_size=5), gamma=st.sampled_from([0.1, 0.5, 0.0])
    ),
    kwargs("ConstantLR", factor=factors, total_iters=st.integers(0, 20)),
    kwargs(
        "LinearLR",
        start_factor=factors,
        end_factor=factors | st.just(0.0),
        total_iters=st.integers(0, 20) | st.just(4.5),
    ),
    kwargs("ExponentialLR", _gamma=st.sampled_from([0.9, 0.5, 1.0, 1.02, 0.0])),
    kwargs("PolynomialLR", total_iters=st.integers(0, 40) | st.just(6.5), power=st.sampled_from([1.0, 0.9, 2.0, 0.0])),
    kwargs("CosineAnnealingLR", _T_max=counts | st.sampled_from([7.5, 60]), eta_min=floors),
    kwargs("MultiplicativeLR", _lr_lambda=each(functions)),
    kwargs(
        "SWALR",
        _swa_lr=each(st.sampled_from([0.05, 0.002])),
        anneal_epochs=st.integers(0, 12),
        anneal_strategy=st.sampled_from(["cos", "linear"]),
    ),
]
CLOSED = [
    kwargs("LambdaLR", _lr_lambda=each(functions)),
    kwargs("CosineAnnealingWarmRestarts", _T_0=counts, T_mult=st.integers(1, 3), eta_min=floors),
    kwargs(
        "OneCycleLR",
        _max_lr=each(st.sampled_from([0.5, 0.03])),
        _total_steps=st.integers(1, 80) | st.just(60),
        pct_start=st.sampled_from([0.3, 0.0, 1.0, 0.25, 0.5, 0.55, 0.8, 0.05]),
        anneal_strategy=st.sampled_from(["cos", "linear"]),
        cycle_momentum=st.booleans(),
        base_momentum=each(st.sampled_from([0.85, 0.7])),
        max_momentum=st.sampled_from([0.95, 0.9]),
        div_factor=st.sampled_from([25.0, 10]),
        final_div_factor=st.sampled_from([1e4, 1.0, 30]),
        three_phase=st.booleans(),
    ),
    kwargs(
        "CyclicLR",
        _base_lr=each(st.sampled_from([0.01, 0.001, 0.0])),
        _max_lr=each(st.sampled_from([0.1, 0.005])),
        step_size_up=counts,
        step_size_down=st.integers(0, 20),
        mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
        gamma=st.sampled_from([1.0, 0.99, 0.9]),
        scale_fn=st.sampled_from([shrink, steady]),
        scale_mode=st.sampled_from(["cycle", "iterations"]),
        cycle_momentum=st.booleans(),
        base_momentum=st.sampled_from([0.8, 0.95]),
        max_momentum=each(st.sampled_from([0.9, 0.99])),
    ),
]
leaves = st.one_of(*RECURSIVE, *CLOSED)


def sequences(children):
    def cut(nodes):
        count = len(nodes) - 1
        points = st.lists(st.integers(0, 40), min_size=count, max_size=count).map(sorted)
        return points.map(lambda milestones: ("SequentialLR", {"schedulers": nodes, "milestones": milestones}))

    return st.lists(children, min_size=1, max_size=3).flatmap(cut)


def chains(children):
    return st.lists(children, min_size=1, max_size=3).map(lambda nodes: ("ChainedScheduler", {"schedulers": nodes}))


nests = st.recursive(leaves, lambda children: sequences(children) | chains(children), max_leaves=4)
smooth = st.one_of(*RECURSIVE[:-2])


def build(node, optimizer):
    name, arguments = node
    if name == "ChainedScheduler":
        return lr_scheduler.ChainedScheduler([build(inner, optimizer) for inner in arguments["schedulers"]])
    if "schedulers" in arguments:
        arguments = {**arguments, "schedulers": [build(inner, optimizer) for inner in arguments["schedulers"]]}
    cls = SWALR if name == "SWALR" else getattr(lr_scheduler, name)
    return cls(optimizer, **arguments)


def written(node):
    """The node as LightningCLI has it."""
    name, arguments = node
    if "schedulers" in arguments:
        arguments = {**arguments, "schedulers": [written(inner) for inner in arguments["schedulers"]]}
    return {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": arguments}


def optimizer_of(kind):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in RATES]
    if kind == "SGD":
        return torch.optim.SGD([{**group, "momentum": m} for group, m in zip(groups, MOMENTA)], lr=0.1)
    return torch.optim.AdamW([{**group, "betas": (m, 0.99)} for group, m in zip(groups, MOMENTA)], lr=0.1)


def peer(make, steps, epoch, kind, step):
    """What the real ones gave, rates beside momenta; the error where they refuse."""
    try:
        optimizer = optimizer_of(kind)
        schedulers = make(optimizer)
        values = []
        for i in range(steps):
            momenta = [group["momentum"] if kind == "SGD" else group["betas"][0] for group in optimizer.param_groups]
            values.append([float(group["lr"]) for group in optimizer.param_groups] + momenta)
            optimizer.step()
            if i < steps - 1:
                step(schedulers, i, epoch)
    except (ValueError, TypeError, ZeroDivisionError, NotImplementedError) as error:
        return error
    values = np.array(values)
    return ValueError("not a rate") if not np.isfinite(values).all() or (values < -1e-12).any() else values


def compare(config, facts, expected, steps, epoch, metrics=None):
    try:
        spec = from_torch(config, facts=facts).spec
        groups = [{"lr": rate, "momentum": momentum} for rate, momentum in zip(RATES, MOMENTA)]
        columns = [
            spec.curve(
                option, groups, total_steps=steps, steps_per_epoch=epoch, metrics=metrics if option == "lr" else None
            )
            for option in ("lr", "momentum")
        ]
    except SolverError as error:
        if not isinstance(expected, Exception):
            event("not expressed")
            if not any(limit in str(error) for limit in KNOWN_LIMITS):
                raise
        return
    assert not isinstance(expected, Exception), (expected, config, spec.schedules)
    np.testing.assert_allclose(
        np.hstack(columns), expected, rtol=1e-9, atol=1e-12, err_msg=f"{config}\n{spec.schedules}"
    )


def plain_step(schedulers, i, epoch, by_epoch):
    if not by_epoch or (i + 1) % epoch == 0:
        for scheduler in schedulers:
            scheduler.step()


slow = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@slow
@given(
    nodes=st.lists(leaves, min_size=1, max_size=1)
    | st.lists(nests, min_size=1, max_size=1)
    | st.lists(st.one_of(*RECURSIVE, CLOSED[0]), min_size=2, max_size=3),
    epochs=st.integers(1, 60),
    epoch=st.sampled_from([1, 3]),
    by_epoch=st.booleans(),
    kind=st.sampled_from(["SGD", "AdamW"]),
)
def test_stepped_together(nodes, epochs, epoch, by_epoch, kind):
    steps = epochs * epoch if by_epoch else epochs

    def make(optimizer):
        return [build(node, optimizer) for node in nodes]

    def step(schedulers, i, epoch):
        plain_step(schedulers, i, epoch, by_epoch)

    facts = {
        "step_on": "epoch" if by_epoch else "step",
        "total_iters": steps,
        "iters_per_epoch": epoch,
        "base_lr": RATES,
    }
    expected = peer(make, steps, epoch, kind, step)
    compare([written(node) for node in nodes], {**facts, "optimizer": kind}, expected, steps, epoch)
    if len(nodes) == 1 and not isinstance(expected, Exception):
        compare(build(nodes[0], optimizer_of(kind)), facts, expected, steps, epoch)


@slow
@given(
    nodes=st.lists(st.one_of(*RECURSIVE[:-1], *CLOSED), min_size=1, max_size=2),
    swa=RECURSIVE[-1],
    start=st.integers(0, 30),
    epochs=st.integers(1, 60),
)
def test_swa_start(nodes, swa, start, epochs):
    def make(optimizer):
        return [build(node, optimizer) for node in [*nodes, swa]]

    def step(schedulers, i, epoch):
        for scheduler in schedulers[-1:] if i > start else schedulers[:-1]:
            scheduler.step()

    config = {"schedulers": [written(node) for node in [*nodes, swa]], "swa_start": start}
    facts = {"step_on": "epoch", "epochs": epochs, "iters_per_epoch": 2, "base_lr": RATES}
    expected = peer(make, epochs, 1, "SGD", step)
    if not isinstance(expected, Exception):
        expected = np.repeat(expected, 2, axis=0)
    compare(config, facts, expected, 2 * epochs, 2)


@slow
@given(
    node=smooth | CLOSED[1],
    epochs=st.integers(1, 12),
    epoch=st.integers(1, 9),
    call=st.sampled_from(["epoch + i / iters", "epoch + (i + 1) / iters", "epoch"]),
)
def test_told_the_epoch(node, epochs, epoch, call):
    if node[0] == "CosineAnnealingWarmRestarts":
        node[1]["T_0"] = min(node[1]["T_0"], 5)

    def step(schedulers, i, epoch):
        at = {"epoch": i // epoch, "epoch + i / iters": i / epoch, "epoch + (i + 1) / iters": (i + 1) / epoch}[call]
        if call != "epoch":
            at = i // epoch + (i % epoch + (0 if call == "epoch + i / iters" else 1)) / epoch
        schedulers[0].step(at)

    steps = epochs * epoch
    expected = peer(lambda optimizer: [build(node, optimizer)], steps, epoch, "SGD", step)
    config = {"schedulers": [written(node)], "step_call": f"scheduler.step({call})"}
    facts = {"step_on": "step", "total_iters": steps, "iters_per_epoch": epoch}
    compare(config, facts, expected, steps, epoch)


@slow
@given(
    nodes=st.lists(st.one_of(*RECURSIVE[:-1]), max_size=2),
    plateau=st.fixed_dictionaries(
        {"patience": st.integers(0, 3), "min_lr": each(st.sampled_from([0.0, 0.004]))},
        optional={
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.sampled_from([0.5, 0.1]),
            "threshold": st.sampled_from([1e-4, 0.1]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "eps": st.sampled_from([1e-8, 0.002]),
        },
    ),
    metrics=st.lists(st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]), min_size=20, max_size=20),
)
def test_plateau(nodes, plateau, metrics):
    if nodes:  # torch compares min_lr and eps with the rate that both have made
        plateau = {**plateau, "min_lr": 0.0, "eps": 0.0}

    def make(optimizer):
        return [build(node, optimizer) for node in [*nodes, ("ReduceLROnPlateau", plateau)]]

    def step(schedulers, i, epoch):
        if (i + 1) % epoch == 0:
            for scheduler in schedulers[:-1]:
                scheduler.step()
            schedulers[-1].step(metrics[i // epoch])

    config = [written(node) for node in [*nodes, ("ReduceLROnPlateau", plateau)]]
    facts = {"step_on": "epoch", "epochs": 20, "iters_per_epoch": 2, "metrics": metrics}
    compare(config, facts, peer(make, 40, 2, "SGD", step), 40, 2, metrics)


@slow
@given(
    first=st.one_of(*RECURSIVE[:5]),
    second=st.one_of(*RECURSIVE[:5]),
    frequency=st.sampled_from([1, 2, 3]),
    epochs=st.integers(1, 20),
)
def test_lightning_intervals(first, second, frequency, epochs):
    """The calls that Lightning makes: by the step within the epoch, and by the epoch."""

    def step(schedulers, i, epoch):
        if (i % epoch + 1) % 2 == 0:
            schedulers[0].step()
        if (i + 1) % epoch == 0 and ((i + 1) // epoch) % frequency == 0:
            schedulers[1].step()

    config = [
        {"scheduler": written(first), "interval": "step", "frequency": 2},
        {"scheduler": written(second), "interval": "epoch", "frequency": frequency},
    ]
    expected = peer(lambda optimizer: [build(n, optimizer) for n in (first, second)], 4 * epochs, 4, "SGD", step)
    compare(config, {"epochs": epochs, "iters_per_epoch": 4}, expected, 4 * epochs, 4)


def test_the_version():
    assert torch.__version__.startswith("2.13"), "the importer says which version it follows"
    with warnings.catch_warnings():
        assert math.isclose(float(torch.tensor(0.5)), 0.5)
