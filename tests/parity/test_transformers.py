"""Schedules of transformers, drawn at random and run side by side: the same rates at every step, in every group."""

import json
import math

import numpy as np
import pytest
import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments, get_scheduler

from lightning_solver import SolverError
from lightning_solver.interop.transformers import from_transformers
from lightning_solver.interop.transformers.policies import POLICIES

pytestmark = pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
NAMES = sorted(set(POLICIES) - {"reduce_lr_on_plateau", "greedy"})
RATES = [0.1, 0.01, 0.05, 0.0]

cycles = st.sampled_from([0.5, 1, 2, 3, 0.25, 0.7, 1.5, 2.5, 0, 22, 26, 49]) | st.floats(0.01, 5)
lowest = st.sampled_from([0.0, 1e-3, 0.01, 0.1, 0.3])
OWN = {
    "cosine": {"num_cycles": cycles},
    "cosine_with_restarts": {"num_cycles": cycles},
    "polynomial": {
        "lr_end": st.sampled_from([0.0, 1e-7, 1e-3, 0.03, 0.3]),
        "power": st.sampled_from([0, 0.5, 1, 1.0, 2, 3.3]),
    },
    "inverse_sqrt": {"timescale": st.integers(1, 300)},
    "cosine_with_min_lr": {"num_cycles": cycles, "min_lr": lowest, "min_lr_rate": lowest},
    "cosine_warmup_with_min_lr": {
        "num_cycles": cycles,
        "min_lr": lowest,
        "min_lr_rate": lowest,
        "warmup_lr_rate": lowest,
    },
    "warmup_stable_decay": {
        "num_decay_steps": st.integers(0, 60),
        "num_stable_steps": st.integers(0, 60),
        "warmup_type": st.sampled_from(["linear", "cosine", "1-sqrt"]),
        "decay_type": st.sampled_from(["linear", "cosine", "1-sqrt", "cosin"]),
        "min_lr_ratio": st.sampled_from([0, 0.05, 0.1, 1, 1.5]),
        "num_cycles": cycles,
    },
}
lengths = st.integers(0, 40) | st.sampled_from([0, 1, 2, 10, 80, 7.5])


@st.composite
def recipes(draw):
    name = draw(st.sampled_from(NAMES))
    arguments = {"name": name, "num_warmup_steps": draw(lengths), "num_training_steps": draw(st.integers(1, 120))}
    if draw(st.integers(0, 9)) == 0:
        arguments["num_training_steps"] = draw(st.sampled_from([62.5, None, arguments["num_warmup_steps"] or 1]))
    own = {key: draw(values) for key, values in OWN.get(name, {}).items() if draw(st.booleans())}
    if own or draw(st.booleans()):
        arguments["scheduler_specific_kwargs"] = own
    return {key: value for key, value in arguments.items() if value is not None}


def groups(default):
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in RATES]
    return torch.optim.SGD(parameters, lr=default)


def rates(scheduler, optimizer, steps, metric=None):
    """The rate of every group as each step is taken."""
    values = []
    for step in range(steps):
        values.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if step < steps - 1:  # what fails after the last step fails after the run
            scheduler.step() if metric is None else scheduler.step(metric[step])
    return values


def peer(arguments, default, steps):
    """The figures of the real thing; ``None`` if it refuses."""
    optimizer = groups(default)
    try:
        return rates(get_scheduler(optimizer=optimizer, **arguments), optimizer, steps)
    except (ValueError, TypeError, ZeroDivisionError, UnboundLocalError):
        return None


def compare(config, facts, steps, expected):
    try:
        imported = from_transformers(config, facts=facts)
    except SolverError as error:
        if expected is not None:
            pytest.fail(f"{config} over {steps}: {error}")
        return
    assert expected is not None, f"the peer refuses {config} over {steps}, the importer does not"
    values = imported.spec.curve("lr", RATES, total_steps=steps)
    schedules = imported.spec.to_dict()["schedules"]
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=f"{config} over {steps}: {schedules}")
    written = json.loads(json.dumps(imported.spec.to_dict()))
    assert type(imported.spec).from_dict(written) == imported.spec


check = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))


@check
@given(recipes(), st.sampled_from([0.2, 0.1, 0.05]), st.integers(1, 200) | st.none())
def test_get_scheduler(arguments, default, steps):
    total = arguments.get("num_training_steps")
    length = steps or math.ceil(total or 50)
    relative = steps is None and total is not None and total == length
    facts = {"optimizer_default_lr": default} | ({} if relative else {"total_iters": length})
    expected = peer(arguments, default, length)
    warmup = arguments["num_warmup_steps"]
    if arguments["name"] == "cosine_warmup_with_min_lr" and warmup != int(warmup):
        expected = None  # the one thing that is refused and would run
    compare({"get_scheduler": arguments}, facts, length, expected)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes(), st.sampled_from([0, 0.05, 0.1, 1 / 3, 0.99, 1, 7, 12.9]), st.integers(1, 150), st.booleans())
def test_training_arguments(tmp_path_factory, arguments, warmup, total, epochs):
    config = {"lr_scheduler_type": arguments["name"], "warmup_steps": warmup, "learning_rate": 0.1}
    config |= {"lr_scheduler_kwargs": arguments.get("scheduler_specific_kwargs", {})}
    facts = {}
    if epochs:  # as Trainer.set_initial_training_values counts
        config |= {"num_train_epochs": 2.5, "gradient_accumulation_steps": 2}
        facts, length = {"iters_per_epoch": total}, math.ceil(2.5 * math.ceil(total / 2))
    else:
        config |= {"max_steps": total}
        length = total
    trainer = TrainingArguments(output_dir=str(tmp_path_factory.getbasetemp()), use_cpu=True, report_to=[], **config)
    own = {"name": trainer.lr_scheduler_type, "scheduler_specific_kwargs": trainer.lr_scheduler_kwargs}
    own |= {"num_training_steps": length, "num_warmup_steps": trainer.get_warmup_steps(length)}
    compare({"TrainingArguments": config}, facts, length, peer(own, 0.1, length))


def test_epochs_of_unknown_length():
    """What is relative to the run needs no length."""
    for name, own in [
        ("linear", {}),
        ("cosine", {"num_cycles": 1}),
        ("cosine", {"num_cycles": 2}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 2}),
        ("cosine_with_min_lr", {"min_lr": 0.01}),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2}),
        ("warmup_stable_decay", {"num_decay_steps": 17}),
        ("warmup_stable_decay", {"num_decay_steps": 17, "num_cycles": 0.25}),
    ]:
        for warmup in (0, 1, 6):
            config = {
                "lr_scheduler_type": name,
                "lr_scheduler_kwargs": own,
                "warmup_steps": warmup,
                "learning_rate": 0.1,
            }
            arguments = {"name": name, "scheduler_specific_kwargs": own, "num_warmup_steps": warmup}
            compare(config, {}, 91, peer({**arguments, "num_training_steps": 91}, 0.1, 91))


@check
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.sampled_from([0.1, 0.5, 0.9]),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0, 1e-4, 0.1]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0, 1e-3, [1e-3, 0.0, 0.02, 0.0]]),
            "eps": st.sampled_from([1e-8, 0.01]),
        },
    ),
    st.lists(st.sampled_from([1.0, 0.9, 0.95, 0.89995, 0.5, 1.2, 2.0]), min_size=2, max_size=25),
)
def test_plateau(own, metric):
    optimizer = groups(0.1)
    scheduler = get_scheduler("reduce_lr_on_plateau", optimizer, scheduler_specific_kwargs=own)
    expected = rates(scheduler, optimizer, len(metric), metric)
    imported = from_transformers({"get_scheduler": {"name": "reduce_lr_on_plateau", "scheduler_specific_kwargs": own}})
    values = imported.spec.curve("lr", RATES, total_steps=len(metric), steps_per_epoch=1, metrics=metric)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=f"{own} over {metric}")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_schedule_of_the_peer_is_known(name):
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    functions = {key.value: function.__name__ for key, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    assert functions.keys() == POLICIES.keys()
    assert functions[name] == POLICIES[name].function
