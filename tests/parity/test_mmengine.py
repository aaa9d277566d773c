"""Schedulers of MMEngine, drawn at random and run side by side: the same values at every step, in every group."""

import copy
import itertools
import logging
import os
import re

import mmengine.optim.scheduler  # noqa: F401
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from mmengine.registry import PARAM_SCHEDULERS

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.mmengine import from_mmengine

logging.disable(logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of", "ignore:Seems like")
BASES = {"lr": [0.1, 0.01, 0.05, 0.0], "momentum": [0.9, 0.95, 0.8, 0.0], "weight_decay": [0.05, 0.0, 0.3, 0.01]}

shares = st.sampled_from([0.001, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0, 1])
floors = st.sampled_from([None, None, 0, 0.0, 1e-5, 1e-3, 0.02, 0.4])
gammas = st.sampled_from([0.1, 0.5, 0.9, 0.97, 1.0, 1.1])
SETTINGS = {
    "Linear": {"start_factor": shares | st.just(0.0), "end_factor": shares | st.just(0.0)},
    "Constant": {"factor": shares | st.just(0.0)},
    "CosineAnnealing": {"T_max": st.integers(1, 14), "floor": floors},
    "CosineRestart": {"periods": ..., "floor": floors},
    "Exponential": {"gamma!": gammas},
    "MultiStep": {"milestones!": st.lists(st.integers(0, 14), max_size=4), "gamma": gammas | st.just(0.0)},
    "OneCycle": {
        "eta_max": st.sampled_from([0.0, 0.2, 1.0, [0.1, 0.2, 0.3, 0.4]]),
        "total_steps": st.integers(1, 40),
        "pct_start": st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 1 / 3, 0.7, 1.0]),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "div_factor": st.sampled_from([1.0, 10, 25.0]),
        "final_div_factor": st.sampled_from([1.0, 100, 1e4]),
        "three_phase": st.booleans(),
    },
    "Poly": {"power": st.sampled_from([0.5, 0.9, 1, 1.0, 2, 0]), "eta_min": floors.filter(lambda x: x is not None)},
    "Step": {"step_size!": st.integers(1, 9), "gamma": gammas},
}
EASY = ["Linear", "Constant", "CosineAnnealing", "Exponential", "MultiStep", "Poly", "Step"]


@st.composite
def schedulers(draw, option, by_epochs, epochs, batches, kinds, begin=None):
    kind = draw(st.sampled_from(kinds))
    by_epoch = draw(st.booleans() if by_epochs else st.sampled_from([False, False, False, True]))
    config = {"type": kind + {"lr": "LR", "momentum": "Momentum", "weight_decay": "ParamScheduler"}[option]}
    if option == "weight_decay":
        config["param_name"] = option
    if not by_epoch or draw(st.booleans()):
        config["by_epoch"] = by_epoch
    if by_epoch and draw(st.booleans()):
        config["convert_to_iter_based"] = True
    total = epochs if by_epoch else batches
    if draw(st.booleans()):
        config["begin"] = draw(st.sampled_from([0, 1, 2, total // 2]) | st.integers(0, total))
    if draw(st.booleans()):
        config["end"] = draw(st.sampled_from([total, total - 1, total // 2, total + 1]) | st.integers(1, total + 4))
    for key, values in SETTINGS[kind].items():
        if key == "periods":
            config[key] = draw(st.lists(st.integers(1, max(total // 2, 2)), min_size=1, max_size=4))
            config["restart_weights"] = [draw(st.sampled_from([1, 0.5, 0.25])) for _ in config[key]]
        elif key == "floor":
            value, ratio = draw(values), draw(st.booleans())
            if value is not None or kind == "CosineRestart":
                config["eta_min_ratio" if ratio else "eta_min"] = value or 0
        elif key.endswith("!"):
            config[key[:-1]] = draw(values)
        elif draw(st.booleans()):
            config[key] = draw(values)
    return config


@st.composite
def recipes(draw, kinds=tuple(SETTINGS), most=1):
    per_epoch, by_epochs = draw(st.integers(1, 7)), draw(st.booleans())
    epochs = draw(st.integers(1, 12))
    batches = epochs * per_epoch if by_epochs else draw(st.integers(1, 60))
    option = draw(st.sampled_from(["lr", "lr", "momentum", "weight_decay"]))
    kinds = [kind for kind in kinds if option == "lr" or kind != "OneCycle"]
    one = schedulers(option, by_epochs, epochs, batches, kinds)
    listed = draw(st.lists(one, min_size=most and min(2, most), max_size=most))
    if len(listed) > 1:  # a chain cannot tell one factor of 0 from several
        listed = [{**item, "gamma": 0.5} if item.get("gamma") == 0 else item for item in listed]
    loop = {"by_epoch": True, "max_epochs": epochs} if by_epochs else {"by_epoch": False, "max_iters": batches}
    return {"param_scheduler": listed, "train_cfg": loop}, option, per_epoch, batches


@st.composite
def adjoining(draw):
    """A warm-up, and what follows it at once, or overlaps by a little."""
    per_epoch, epochs = draw(st.integers(1, 7)), draw(st.integers(3, 12))
    option, by_epoch = draw(st.sampled_from(["lr", "momentum"])), draw(st.booleans())
    total = epochs if by_epoch else epochs * per_epoch
    points = sorted({0, *draw(st.lists(st.integers(1, total), max_size=3)), total})
    listed = []
    for begin, end in itertools.pairwise(points):
        config = draw(schedulers(option, True, epochs, epochs * per_epoch, EASY))
        config.pop("convert_to_iter_based", None)
        config |= {"by_epoch": by_epoch, "begin": begin, "end": end}
        if by_epoch and draw(st.booleans()):
            config["convert_to_iter_based"] = True
        listed.append(config)
    if draw(st.booleans()):
        listed[-1].pop("end")
    if draw(st.integers(0, 3)) == 0:
        listed.reverse()
    return (
        {"param_scheduler": listed, "train_cfg": {"by_epoch": True, "max_epochs": epochs}},
        option,
        per_epoch,
        epochs * per_epoch,
    )


def peer(config, option, per_epoch, batches, metrics=None, rates=None):
    """What the groups hold as each iteration is made, by the schedulers and the order of the hook; or its error."""
    loop = config["train_cfg"]
    groups = [
        {
            "params": [torch.zeros(1, requires_grad=True)],
            **{name: values[i] for name, values in (rates or BASES).items()},
        }
        for i in range(len((rates or BASES)["lr"]))
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    rows = []
    try:
        schedulers = []
        for item in config["param_scheduler"]:
            item = copy.deepcopy(item)
            by_epoch = item.get("by_epoch", True)
            item.setdefault("end", (loop.get("max_epochs", 1)) if by_epoch else batches)
            default = {"optimizer": optimizer, "epoch_length": per_epoch}
            schedulers.append(PARAM_SCHEDULERS.build(item, default_args=default))
        for i in range(batches):
            rows.append([group[option] for group in optimizer.param_groups])
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if loop["by_epoch"] and (i + 1) % per_epoch == 0:
                for scheduler in schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()
            if metrics is not None and (i + 1) % per_epoch == 0:
                for scheduler in schedulers:
                    if getattr(scheduler, "need_val_args", False):
                        scheduler.step({"loss": metrics[(i + 1) // per_epoch - 1]})
    except Exception as error:  # whatever it may raise
        return error if len(rows) < batches else np.array(rows)
    return np.array(rows)


def facts_of(config, per_epoch, batches):
    loop = config["train_cfg"]
    facts = {"iters_per_epoch": per_epoch, "total_iters": batches}
    return facts | (
        {"epochs": loop["max_epochs"], "train_loop": "by_epoch"} if loop["by_epoch"] else {"train_loop": "by_iter"}
    )


CANNOT = ("sets the value whatever", "OneCycleLR before it", "makes the learning rate negative")


def compare(recipe):
    config, option, per_epoch, batches = recipe
    expected = peer(config, option, per_epoch, batches)
    facts = facts_of(config, per_epoch, batches)
    try:
        spec = from_mmengine(config, facts=facts).spec
    except SolverError as error:
        if isinstance(expected, Exception):
            event("both refuse")
            return
        if any(text in str(error) for text in CANNOT):
            event(f"cannot: {error.what[:60]}")
            return
        raise
    assert not isinstance(expected, Exception), (expected, spec.to_dict())
    if not np.isfinite(expected).all() or expected.min() < 0:  # no values for an optimiser
        return
    same(spec, expected, option, per_epoch, batches)
    assert type(spec).from_dict(spec.to_dict()) == spec
    # With less known of the run, it is written differently, and is the same, or something is asked for.
    total = config["train_cfg"].get("max_epochs", batches)
    if per_epoch == 1 or any(item.get("begin", 0) >= total - 1 for item in config["param_scheduler"]):
        return  # what is not known is taken to be long enough for two moves
    if len(config["param_scheduler"]) > 1 and any(item.get("end", 0) >= total for item in config["param_scheduler"]):
        return  # and so is the run for what ends before something else begins
    if any("OneCycle" in item["type"] for item in config["param_scheduler"]):
        return  # nor are its stretches taken to be shorter than one step
    schedule_alone = {"param_scheduler": config["param_scheduler"]}
    loop = {"train_loop": facts["train_loop"]}
    for less, known in ((config, {}), (schedule_alone, loop), (schedule_alone, loop | {"iters_per_epoch": per_epoch})):
        try:
            spec = from_mmengine(less, facts=known).spec
        except SolverError as error:
            allowed = ("which the config does not say", "MMEngine stops with", "must be larger than begin", *CANNOT)
            if not any(text in str(error) for text in allowed):
                raise
            event("asks for a fact")
            continue
        try:
            same(spec, expected, option, per_epoch, batches)
        except SolverError as error:  # phases that do not fit a run or epochs this short say so
            short = re.search("ends before it begins|is negative in this run", str(error))
            if not short or {"iters_per_epoch", "train_cfg"} <= {*less, *known}:
                raise


def same(spec, expected, option, per_epoch, batches):
    run = RunLength(total_steps=batches, steps_per_epoch=per_epoch)
    values = spec.curve(option, BASES[option], run=run)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=str(spec.to_dict()["schedules"]))


SETUP = settings(
    max_examples=int(os.environ.get("EXAMPLES", 150)),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@SETUP
@given(recipes())
def test_one_scheduler(recipe):
    compare(recipe)


@SETUP
@given(adjoining())
def test_schedulers_one_after_another(recipe):
    compare(recipe)


@SETUP
@given(recipes(EASY, most=3))
def test_schedulers_at_the_same_time(recipe):
    compare(recipe)


@SETUP
@given(recipes(most=2))
def test_schedulers_that_set_the_value(recipe):
    compare(recipe)


@SETUP
@given(st.data())
def test_plateau(data):
    draw, per_epoch, epochs = data.draw, data.draw(st.integers(1, 4)), data.draw(st.integers(2, 15))
    option = draw(st.sampled_from(["lr", "momentum"]))
    config = {
        "type": "ReduceOnPlateauLR" if option == "lr" else "ReduceOnPlateauMomentum",
        "rule": draw(st.sampled_from(["less", "greater"])),
        "factor": draw(st.sampled_from([0.1, 0.5, 0.9])),
        "patience": draw(st.integers(0, 3)),
        "threshold": draw(st.sampled_from([1e-4, 0.1, 0])),
        "threshold_rule": draw(st.sampled_from(["rel", "abs"])),
        "cooldown": draw(st.integers(0, 2)),
        "min_value": draw(st.sampled_from([0, 0.004, [0.0, 0.001, 0.02, 0.0]])),
    }
    if draw(st.booleans()):
        config["begin"] = draw(st.integers(0, epochs - 1))
    if draw(st.booleans()):
        config["end"] = draw(st.integers(config.get("begin", 0) + 1, epochs + 1))
    listed = [config]
    if draw(st.booleans()):
        kinds = ["Linear", "Constant", "Exponential", "MultiStep", "Step"]
        other = draw(schedulers(option, True, epochs, epochs * per_epoch, kinds))
        assume(other.get("start_factor") != 0 and other.get("factor") != 0)
        config["eps"] = 0.0  # it is measured without the other
        listed.insert(draw(st.integers(0, 1)), other)
    metrics = draw(st.lists(st.floats(-2, 2).map(lambda x: round(x, 2)), min_size=epochs, max_size=epochs))
    whole = {"param_scheduler": listed, "train_cfg": {"by_epoch": True, "max_epochs": epochs}}
    expected = peer(whole, option, per_epoch, epochs * per_epoch, metrics)
    facts = facts_of(whole, per_epoch, epochs * per_epoch)
    try:
        spec = from_mmengine(whole, facts=facts).spec
    except SolverError as error:
        if isinstance(expected, Exception) or "another scheduler moves at the same time" in str(error):
            return
        raise
    assert not isinstance(expected, Exception), expected
    run = RunLength(total_steps=epochs * per_epoch, steps_per_epoch=per_epoch)
    followed = {"loss": metrics} if "Plateau" in str(spec) else None
    values = spec.curve(option, BASES[option], run=run, metrics=followed)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=str(spec.to_dict()["schedules"]))
