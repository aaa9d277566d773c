"""Schedules of timm, drawn at random and run as its training script runs them: the same rate at every step."""

import inspect
import warnings

import numpy as np
import pytest
import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from timm import scheduler as timm

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.timm import from_timm
from lightning_solver.interop.timm.arguments import CLASSES, FACTORY


def of(**fields):
    """A mapping of which every key but ``sched`` may be missing."""
    needed = {name: fields.pop(name) for name in list(fields) if name in ("sched", "type", "t_initial", "decay_t")}
    return st.fixed_dictionaries(needed, optional=fields)


rates = st.sampled_from([0.1, 0.01, 0.05, 0.003])
scales = st.sampled_from([1.0, 0.25, 0.5, 0.65])
groups = st.lists(st.tuples(rates, scales), min_size=1, max_size=3)
floors = st.sampled_from([0.0, 1e-6, 1e-4, 0.002, 0.02])
few = st.integers(0, 5)
gammas = st.sampled_from([0.1, 0.2, 0.5, 0.9, 1.0, 1.1, 0.0])
noise = {
    "noise_pct": st.sampled_from([0.67, 0.3, 1.0]),
    "noise_std": st.sampled_from([1.0, 0.2, 0.0]),
    "noise_seed": st.integers(0, 1000),
}
cycles = {
    "cycle_mul": st.sampled_from([1.0, 1, 2, 2.0, 3.0, 5, 1.5, 1.1, 0.5, 0.8]),
    "cycle_decay": st.sampled_from([1.0, 0.5, 0.1, 0.0, 1.2]),
    "cycle_limit": st.integers(0, 6),
}
k_decay = st.sampled_from([1.0, 0.5, 1.5, 2])
powers = st.sampled_from([1.0, 0.9, 0.1, 2.0, 0.5, 0])
milestones = st.lists(st.integers(-1, 16), max_size=4).map(sorted) | st.lists(st.integers(0, 12), max_size=5)
ranges = st.none() | st.integers(0, 12) | st.tuples(st.integers(-1, 12), st.integers(0, 16)).map(list)

factory = of(
    sched=st.sampled_from(
        ["cosine", "tanh", "poly", "step", "multistep", "constant", "plateau", "wsd", "rsqrt", "none"]
    ),
    num_epochs=st.integers(1, 16),
    decay_epochs=st.none() | st.integers(1, 6) | st.sampled_from([0.2, 0.35, 0.5, 2.4, 1.1, 3.3]),
    decay_milestones=milestones,
    cooldown_epochs=few,
    patience_epochs=st.integers(0, 4),
    decay_rate=gammas,
    min_lr=floors,
    warmup_lr=floors,
    warmup_epochs=few,
    warmup_prefix=st.booleans(),
    noise=st.none() | st.sampled_from([0.3, 0, [0.5], [0.4, 0.9], [0.1, 0.55], [0.8, 0.2]]),
    decay_fn=st.sampled_from([None, "linear", "1-sqrt", "cosine", "power", "exp"]),
    stable_timescale=st.none() | st.sampled_from([1, 3, 2.5]),
    plateau_mode=st.sampled_from(["max", "min"]),
    step_on_epochs=st.booleans(),
    k_decay=k_decay,
    **noise,
    **cycles,
)
common = {
    "warmup_t": few | st.sampled_from([2.5, 0.5]),
    "warmup_lr_init": floors,
    "t_in_epochs": st.booleans(),
    "noise_range_t": ranges,
    **noise,
}
prefix = {"warmup_prefix": st.booleans()}
curves = {"t_initial": st.integers(1, 14), "lr_min": floors, **cycles, **common, **prefix}
stairs = {"decay_rate": gammas, **common, **prefix}
without = {name: strategy for name, strategy in common.items() if name != "t_in_epochs"}
classes = st.one_of(
    of(type=st.just("CosineLRScheduler"), k_decay=k_decay, **curves),
    of(type=st.just("PolyLRScheduler"), k_decay=k_decay, power=powers, **curves),
    of(
        type=st.just("TanhLRScheduler"),
        lb=st.sampled_from([-7.0, -2, -30.0]),
        ub=st.sampled_from([3.0, 1, -1.0]),
        **curves,
    ),
    of(type=st.just("StepLRScheduler"), decay_t=st.sampled_from([1, 3, 4, 1.1, 2.4, 0.5, 3.3]), **stairs),
    of(type=st.just("MultiStepLRScheduler"), decay_t=milestones, **stairs),
    of(
        type=st.just("PlateauLRScheduler"),
        decay_rate=st.sampled_from([0.1, 0.5]),
        patience_t=st.integers(0, 3),
        threshold=st.sampled_from([1e-4, 0.1]),
        cooldown_t=st.integers(0, 2),
        lr_min=floors,
        mode=st.sampled_from(["max", "min"]),
        noise_type=st.sampled_from(["normal", "uniform"]),
        **without,
    ),
    of(
        type=st.just("WSDLRScheduler"),
        t_initial=st.integers(1, 14),
        decay_t=st.integers(1, 8),
        lr_min=floors,
        stable_fn=st.sampled_from(["constant", "rsqrt", "power"]),
        stable_timescale=st.none() | st.sampled_from([1, 3, 2.5]),
        stable_power=st.sampled_from([0.5, 1.0]),
        decay_fn=st.sampled_from(["linear", "1-sqrt", "cosine", "power", "exp"]),
        decay_power=st.sampled_from([0.5, 1.0, 2.0]),
        decay_ratio=st.sampled_from([0.1, 0.01]),
        **common,
    ),
)
runs = st.fixed_dictionaries({"more": st.sampled_from([0, 0, 0, 1, 5, -1]), "updates": st.integers(1, 5)})
metrics = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.31, 0.5]), min_size=1, max_size=8)


def driven(make, groups, updates, epochs, metrics):
    """What the groups hold at every update: ``make`` gives a scheduler for the optimiser, or none."""
    optimizer = torch.optim.SGD(
        [
            {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, **({} if scale == 1 else {"lr_scale": scale})}
            for lr, scale in groups
        ],
        lr=0.1,
    )
    scheduler, epochs[:] = make(optimizer, epochs[0])
    epochs, values, count = epochs[0], [], 0
    for epoch in range(epochs):
        for _ in range(updates):
            values.append([group["lr"] for group in optimizer.param_groups])
            count += 1
            if scheduler is not None and count < epochs * updates:
                scheduler.step_update(count)
        if scheduler is not None and epoch + 1 < epochs:
            scheduler.step(epoch + 1, metrics[epoch % len(metrics)])
    if any(isinstance(value, complex) or value < 0 for row in values for value in row):
        raise ValueError("no rate")
    return np.array(values)


def compared(config, make, groups, updates, epochs, metrics, warm, facts=None):
    epochs, known = [epochs], facts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = driven(make, groups, updates, epochs, metrics)
    except (AssertionError, ValueError, ZeroDivisionError, IndexError, TypeError, OverflowError):
        with pytest.raises(SolverError):
            from_timm(config, facts=known or _facts(groups, updates, *epochs))
        return
    (epochs,) = epochs
    imported = from_timm(config, facts=known or _facts(groups, updates, epochs))
    spec = type(imported.spec).from_dict(imported.spec.to_dict())
    rows = [{"lr": lr, "lr_scale": scale} for lr, scale in groups]
    run = RunLength(total_steps=epochs * updates, steps_per_epoch=updates)
    begun = epochs > warm  # a plateau that never begins follows no metric
    given = [metrics[epoch % len(metrics)] for epoch in range(epochs)] if begun and "Plateau" in str(spec) else None
    values = spec.curve("lr", rows, run=run, metrics=given)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=str(imported.spec.to_dict()))


def _facts(groups, updates, epochs):
    return {
        "iters_per_epoch": updates,
        "epochs": epochs,
        "total_iters": updates * epochs,
        "base_lr": [lr for lr, _ in groups],
        "lr_scale": [scale for _, scale in groups],
    }


many = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@many
@given(config=factory, groups=groups, run=runs, metrics=metrics)
@example(
    config={"sched": "cosine", "num_epochs": 2, "cycle_mul": 3.0, "cycle_limit": 6, "cycle_decay": 0.5},
    groups=[(0.1, 1.0)],
    run={"more": 0, "updates": 1},
    metrics=[0.1],
)
def test_the_factory(config, groups, run, metrics):
    sched = config["sched"]
    if config.get("decay_rate") in (0.0, 1.0, 1.1) and sched == "plateau":
        config["decay_rate"] = 0.3
    if sched == "poly" and config.get("decay_rate") == 1.1:
        config["decay_rate"] = 2.0

    def make(optimizer, epochs):
        scheduler, own = timm.create_scheduler_v2(optimizer, updates_per_epoch=run["updates"], **config)
        return scheduler, [max(int(own) + run["more"], 1)]

    warm = config.get("warmup_epochs", 0)
    compared({"create_scheduler_v2": config}, make, groups, run["updates"], 10, metrics, warm)


@many
@given(config=classes, groups=groups, run=runs, metrics=metrics, epochs=st.integers(1, 30))
def test_the_classes(config, groups, run, metrics, epochs):
    arguments = {name: value for name, value in config.items() if name != "type"}

    def make(optimizer, epochs):
        return getattr(timm.scheduler_factory, config["type"])(optimizer, **arguments), [epochs]

    compared(config, make, groups, run["updates"], epochs, metrics, config.get("warmup_t", 0))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=factory, groups=groups, updates=st.integers(1, 5), metrics=metrics, seed=st.integers(0, 99))
def test_the_arguments_of_the_script(config, groups, updates, metrics, seed):
    """As train.py hands its arguments on, whose defaults differ; the run is as long as timm makes it."""
    names = {"num_epochs": "epochs", "noise": "lr_noise", "noise_pct": "lr_noise_pct", "noise_std": "lr_noise_std"}
    names |= {name: f"lr_{name}" for name in ("cycle_mul", "cycle_decay", "cycle_limit", "k_decay", "decay_fn")}
    names["stable_timescale"] = "lr_stable_timescale"
    config = {key: value for key, value in config.items() if key not in ("plateau_mode", "noise_seed")}
    if config["sched"] == "plateau":
        config["decay_rate"] = 0.3
    if config["sched"] == "poly" and config.get("decay_rate") == 1.1:
        config["decay_rate"] = 2.0
    args = {names.get(key, key): value for key, value in config.items() if key != "step_on_epochs"}
    args |= {"seed": seed, "sched_on_updates": not config.get("step_on_epochs", True), "model": "resnet50"}
    args.setdefault("epochs", 12)

    def make(optimizer, epochs):
        defaults = {"warmup_epochs": 5, "lr_cycle_decay": 0.5, "decay_epochs": None, "decay_milestones": [90, 180, 270]}
        given = type("Args", (), {**defaults, **args})
        kwargs = timm.scheduler_factory.scheduler_kwargs(given, decreasing_metric=False)
        scheduler, own = timm.create_scheduler_v2(optimizer, **kwargs, updates_per_epoch=updates)
        return scheduler, [max(int(own), 1)]

    dashed = {key.replace("_", "-"): value for key, value in args.items()}
    facts = {
        "iters_per_epoch": updates,
        "base_lr": [lr for lr, _ in groups],
        "lr_scale": [scale for _, scale in groups],
    }
    compared(dashed, make, groups, updates, 10, metrics, config.get("warmup_epochs", 5), facts)


def test_the_arguments_are_timms():
    for name, arguments in CLASSES.items():
        parameters = inspect.signature(getattr(timm.scheduler_factory, name)).parameters
        assert list(arguments) == list(parameters)[1:], name
        for argument, default in arguments.items():
            own = parameters[argument].default
            assert default == (None if own is inspect.Parameter.empty else own) or argument == "noise_seed", argument
    parameters = inspect.signature(timm.create_scheduler_v2).parameters
    assert {name: parameter.default for name, parameter in list(parameters.items())[1:]} == FACTORY
