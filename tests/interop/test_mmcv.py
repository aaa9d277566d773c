"""MMCV 1.x configs: what they are read as, and that the numbers are MMCV's, by arithmetic of this file's own."""

import json
import math

import numpy as np
import pytest

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.base import drops
from lightning_solver.interop.mmcv import from_mmcv

LRS, MOMENTA = (0.1, 0.01, 0.05), (0.9, 0.95, 0.8)
GROUPS = [{"lr": lr, "momentum": momentum} for lr, momentum in zip(LRS, MOMENTA)]


def brief(data):
    """``{"class_path": "Cosine", "init_args": {...}}`` as ``{"Cosine": {...}}``."""
    if isinstance(data, list):
        return [brief(item) for item in data]
    if not isinstance(data, dict):
        return data
    if "class_path" in data:
        return {data["class_path"]: brief(data.get("init_args", {}))}
    return {key: brief(value) for key, value in data.items()}


def read(config, **facts):
    return brief(from_mmcv(config, facts=facts).spec.to_dict()["schedules"])


def curve(config, epochs=10, per_epoch=6, option="lr", per_step=1, steps=None, **facts):
    total = epochs * per_epoch if steps is None else steps * per_step
    facts = {"iters_per_epoch": per_epoch, "total_batches": total, **facts}
    facts |= {} if "runner" in facts else {"epochs": epochs}
    run = RunLength(total_steps=-(-total // per_step), steps_per_epoch=per_epoch / per_step)
    return from_mmcv(config, facts=facts).spec.curve(option, GROUPS, run=run)


def same(values, expected):
    np.testing.assert_allclose(values, np.array(expected), rtol=1e-9, atol=1e-12)


def cos(start, end, x):
    return end + (start - end) * (1 + math.cos(math.pi * x)) / 2


# ------------------------------------------------------------------ the snippets of MMClassification's tutorial

EXP_WARMUP = {"Exponential": {"start": 0.1, "end": 1.0, "until": "5ep"}}
TUTORIAL = {
    "lr_config = dict(policy='step', step=[100, 150])": {"lr": {"MultiStep": {"at": ["100ep", "150ep"]}}},
    "lr_config = dict(policy='CosineAnnealing', min_lr_ratio=1e-5)": {
        "lr": {"Staircase": {"of": {"Cosine": {"end": 1e-05}}}}
    },
    "lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)": {
        "lr": {"Polynomial": {"power": 0.9, "end": {"absolute": 0.0001}}}
    },
    """lr_config = dict(
        policy='CosineAnnealing',
        by_epoch=False,
        min_lr_ratio=1e-2,
        warmup='linear',
        warmup_ratio=1e-3,
        warmup_iters=20 * 1252,
        warmup_by_epoch=False)""": {
        "lr": {
            "Warmup": {
                "ramp": {"Linear": {"start": 0.001, "until": 25040}},
                "of": {"Cosine": {"end": 0.01}},
                "meets": "multiply",
            }
        }
    },
    """lr_config = dict(
        policy='CosineAnnealing',
        min_lr=0,
        warmup='exp',
        warmup_iters=5,
        warmup_ratio=0.1,
        warmup_by_epoch=True)""": {
        "lr": {"Warmup": {"ramp": EXP_WARMUP, "of": {"Staircase": {"of": {"Cosine": {}}}}, "meets": "multiply"}}
    },
    """lr_config = dict(
    policy='cyclic',
    target_ratio=(10, 1e-4),
    cyclic_times=1,
    step_ratio_up=0.4,
)
momentum_config = dict(
    policy='cyclic',
    target_ratio=(0.85 / 0.95, 1),
    cyclic_times=1,
    step_ratio_up=0.4,
)""": {
        "lr": [{"Cosine": {"end": 10.0, "until": "40%"}}, {"Cosine": {"start": 10.0, "end": 0.0001}}],
        "momentum": [
            {"Cosine": {"end": 0.85 / 0.95, "until": "40%"}},
            {"Cosine": {"start": 0.85 / 0.95, "end": 1.0}},
        ],
    },
    """data = dict(samples_per_gpu=64)
optimizer_config = dict(type="GradientCumulativeOptimizerHook", cumulative_iters=4)
lr_config = dict(policy='step', step=[30], by_epoch=False)""": {
        "lr": {"Scale": {"of": {"Shift": {"of": {"MultiStep": {"at": [30]}}, "earlier": 3}}, "by": 4}}
    },
}


@pytest.mark.parametrize(("text", "expected"), TUTORIAL.items())
def test_the_tutorial_is_read_as_a_human_would_write_it(text, expected):
    assert read(text) == expected


def test_numbers_of_the_tutorial():
    step, cosine, poly, linear, exp, cyclic = list(TUTORIAL)[:6]
    values = curve(step, epochs=160, per_epoch=2)
    assert values[[199, 200, 299, 300], 0] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    same(curve(cosine, 20, 3)[:, 1], [cos(0.01, 0.01 * 1e-5, i // 3 / 20) for i in range(60)])
    same(curve(poly, 20, 3)[:, 2], [(0.05 - 1e-4) * (1 - i / 60) ** 0.9 + 1e-4 for i in range(60)])
    ramp = [min(1.0, 0.001 + 0.999 * i / 25040) for i in range(37560)]
    same(curve(linear, 30, 1252)[:, 0], [r * cos(0.1, 0.001, i / 37560) for i, r in enumerate(ramp)])
    ramp = [0.1 ** max(0.0, 1 - i / 35) for i in range(70)]
    same(curve(exp, 10, 7)[:, 0], [r * cos(0.1, 0, i // 7 / 10) for i, r in enumerate(ramp)])
    values = [cos(1, 10, i / 24) if i < 24 else cos(10, 1e-4, (i - 24) / 36) for i in range(60)]
    same(curve(cyclic)[:, 0] / 0.1, values)
    values = [cos(0.95, 0.85, i / 24) if i < 24 else cos(0.85, 0.95, (i - 24) / 36) for i in range(60)]
    same(curve(cyclic, option="momentum")[:, 1], values)


# ------------------------------------------------------------------ every policy, with every warm-up


def stepped(p, step):
    return p // step if isinstance(step, int) else next((k for k, s in enumerate(step) if p < s), len(step))


def restarted(b, p, low, periods, weights):
    start = 0
    for period, weight in zip(periods, weights):
        if p < start + period:
            return low + weight * (b - low) * (1 + math.cos(math.pi * (p - start) / period)) / 2
        start += period
    raise AssertionError("beyond the last period")


def flat(b, p, of, low, share):
    start = round(of * share)
    return b if p < start else cos(b, low, (p - start) / (of - start))


def cooled(b, p, of, low, time, ratio):
    return low * ratio if p > of - time else cos(b, low, p / (of - time))


# name -> (settings, value of base b at p of P)
POLICIES = {
    "fixed": ({}, lambda b, p, of: b),
    "step": ({"step": 3, "gamma": 0.5}, lambda b, p, of: b * 0.5 ** (p // 3)),
    "Step": ({"step": [2, 5]}, lambda b, p, of: b * 0.1 ** stepped(p, [2, 5])),
    "step, one point twice": ({"step": [2, 2, 5]}, lambda b, p, of: b * 0.1 ** stepped(p, [2, 2, 5])),
    "step, unsorted": ({"step": [5, 2, 8]}, lambda b, p, of: b * 0.1 ** stepped(p, [5, 2, 8])),
    "step, none": ({"step": []}, lambda b, p, of: b),
    "step, to nothing": ({"step": 4, "gamma": 0}, lambda b, p, of: b if p < 4 else 0),
    "step, clipped": ({"step": [3], "min_lr": 0.02}, lambda b, p, of: max(b * (0.1 if p >= 3 else 1), 0.02)),
    "exp": ({"gamma": 0.9}, lambda b, p, of: b * 0.9**p),
    "exp, to nothing": ({"gamma": 0}, lambda b, p, of: b * 0.0**p),
    "poly": ({}, lambda b, p, of: b * (1 - p / of)),
    "Poly": ({"power": 2, "min_lr": 0.02}, lambda b, p, of: (b - 0.02) * (1 - p / of) ** 2 + 0.02),
    "poly, no power": ({"power": 0}, lambda b, p, of: b),
    "inv": ({"gamma": 0.3}, lambda b, p, of: b / (1 + 0.3 * p)),
    "inv, power": ({"gamma": 2, "power": 0.5}, lambda b, p, of: b / (1 + 2 * p) ** 0.5),
    "inv, not at all": ({"gamma": 0}, lambda b, p, of: b),
    "CosineAnnealing": ({"min_lr": 0.02}, lambda b, p, of: cos(b, 0.02, p / of)),
    "CosineAnnealing, ratio": ({"min_lr_ratio": 0.3}, lambda b, p, of: cos(b, 0.3 * b, p / of)),
    "LinearAnnealing": ({"min_lr": 1e-3}, lambda b, p, of: b + (1e-3 - b) * p / of),
    "LinearAnnealing, ratio": ({"min_lr_ratio": 0}, lambda b, p, of: b - b * p / of),
    "FlatCosineAnnealing": ({"min_lr": 0}, lambda b, p, of: flat(b, p, of, 0, 0.75)),
    "FlatCosineAnnealing, ratio": (
        {"start_percent": 0.33, "min_lr_ratio": 0.1},
        lambda b, p, of: flat(b, p, of, b / 10, 0.33),
    ),
    "FlatCosineAnnealing, all cosine": (
        {"start_percent": 0.0, "min_lr": 0},
        lambda b, p, of: cos(b, 0, p / of),
    ),
    "FlatCosineAnnealing, all flat": ({"start_percent": 1.0, "min_lr": 0}, lambda b, p, of: b),
    "CosineAnnealingCooldown": (
        {"min_lr": 0.001, "cool_down_time": 3},
        lambda b, p, of: cooled(b, p, of, 0.001, 3, 0.1),
    ),
    "CosineAnnealingCooldown, ratio": (
        {"min_lr_ratio": 0.1, "cool_down_time": 2.5, "cool_down_ratio": 0.5},
        lambda b, p, of: cooled(b, p, of, b / 10, 2.5, 0.5),
    ),
    "CosineAnnealingCooldown, one": (
        {"min_lr": 0.001, "cool_down_time": 1},
        lambda b, p, of: cooled(b, p, of, 0.001, 1, 0.1),
    ),
    "CosineAnnealingCooldown, none": (
        {"min_lr": 0.001, "cool_down_time": 0},
        lambda b, p, of: cos(b, 0.001, p / of),
    ),
    "CosineAnnealingCooldown, negative": (
        {"min_lr": 0.001, "cool_down_time": -2},
        lambda b, p, of: cos(b, 0.001, p / (of + 2)),
    ),
    "CosineAnnealingCooldown, all": (
        {"min_lr": 0.001, "cool_down_time": 99},
        lambda b, p, of: 0.0001,
    ),
    "CosineRestart": (
        {"periods": [4, 0, 60], "restart_weights": [1, 3, 0.5], "min_lr": 0.001},
        lambda b, p, of: restarted(b, p, 0.001, [4, 60], [1, 0.5]),
    ),
    "CosineRestart, ratio": (
        {"periods": [4, 2, 60], "restart_weights": [0.5, 1.5, 1], "min_lr_ratio": 0.1},
        lambda b, p, of: restarted(b, p, b / 10, [4, 2, 60], [0.5, 1.5, 1]),
    ),
    "CosineRestart, equal": (
        {"periods": [30, 30], "restart_weights": [1, 1], "min_lr": 0},
        lambda b, p, of: restarted(b, p, 0, [30, 30], [1, 1]),
    ),
}
WARMUPS = {
    "none": ({}, lambda i: 1),
    "constant": ({"warmup": "constant", "warmup_iters": 8}, lambda i: 0.1 if i < 8 else 1),
    "linear": (
        {"warmup": "linear", "warmup_iters": 2, "warmup_ratio": 0.25, "warmup_by_epoch": True},
        lambda i: min(1, 1 - (1 - i / 12) * 0.75),
    ),
    "exp": (
        {"warmup": "exp", "warmup_iters": 9, "warmup_ratio": 0.02},
        lambda i: 0.02 ** max(0, 1 - i / 9),
    ),
}


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy(name, by_epoch, warmup):
    settings, value = POLICIES[name]
    warm, factor = WARMUPS[warmup]
    config = {"policy": name.partition(",")[0], **settings, **warm, "by_epoch": by_epoch}
    at = (lambda i: (i // 6, 10)) if by_epoch else (lambda i: (i, 60))
    same(curve(config), [[value(b, *at(i)) * factor(i) for b in LRS] for i in range(60)])


def test_epochs_are_the_default_of_an_epoch_based_runner_alone():
    config = {"policy": "poly"}
    assert read(config) == {"lr": {"Staircase": {"of": {"Linear": {"end": 0.0}}}}}
    assert read(config, runner="IterBasedRunner") == {"lr": {"Linear": {"end": 0.0}}}
    assert read({"lr_config": config, "runner": {"type": "IterBasedRunner", "max_iters": 9}})["lr"] == {
        "Linear": {"end": 0.0}
    }


def test_an_iter_based_runner_never_gets_to_epochs():
    config = {
        "lr_config": {"policy": "step", "step": [1], "by_epoch": True, "warmup": "linear", "warmup_iters": 5},
        "momentum_config": {"policy": "step", "step": [1]},
    }
    imported = from_mmcv(config, facts={"runner": "IterBasedRunner"})
    assert brief(imported.spec.to_dict()["schedules"]) == {"lr": {"Constant": {}}, "momentum": {"Constant": {}}}
    assert sum("stays as it is" in note for note in imported.notes) == 2


# ------------------------------------------------------------------ cyclic and one cycle


def cyclic(i, total, top, low, times, share, gamma, anneal):
    length = total // times
    up, (cycle, p) = int(share * length), divmod(i, length)
    scale = gamma**cycle
    peak = 1 - scale + top * scale
    if up == 0:
        return anneal(top, 1 - scale + low * scale, p / length)
    return anneal(1, peak, p / up) if p < up else anneal(peak, low, (p - up) / (length - up))


def line(start, end, x):
    return start + (end - start) * x


@pytest.mark.parametrize("epochs", [10, 7])
@pytest.mark.parametrize("gamma", [1, 0.5])
@pytest.mark.parametrize("share", [0.4, 0.0, 0.29, 0.01])
@pytest.mark.parametrize("times", [1, 2, 4, 7])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_cyclic(strategy, times, share, gamma, epochs):
    config = {"policy": "cyclic", "target_ratio": (4, 0.2), "cyclic_times": times, "step_ratio_up": share}
    config |= {"gamma": gamma, "anneal_strategy": strategy}
    total, anneal = epochs * 6, {"cos": cos, "linear": line}[strategy]
    expected = [cyclic(i, total, 4, 0.2, times, share, gamma, anneal) for i in range(total)]
    same(curve(config, epochs)[:, 0] / 0.1, expected)
    config = {"momentum_config": config}
    same(curve(config, epochs, option="momentum")[:, 1] / 0.95, expected)


@pytest.mark.parametrize(
    ("ratio", "top", "low"), [(3.0, 3, 3e-5), ((4,), 4, 4e-5), ([4, 0.1], 4, 0.1), ((0.5, 2), 0.5, 2), (None, 10, 1e-4)]
)
def test_target_ratio(ratio, top, low):
    config = {"policy": "cyclic"} | ({} if ratio is None else {"target_ratio": ratio})
    same(curve(config)[:, 0] / 0.1, [cyclic(i, 60, top, low, 1, 0.4, 1, cos) for i in range(60)])


def test_cycles_are_written_as_cycles():
    config = {"policy": "cyclic", "cyclic_times": 3, "target_ratio": (3, 0.1), "anneal_strategy": "linear"}
    phases = [{"Linear": {"end": 3.0, "until": "40%"}}, {"Linear": {"start": 3.0, "end": 0.1}}]
    assert read(config, total_iters=300) == {"lr": {"Cycle": {"of": phases, "every": "100/3%"}}}
    whole = {"lr_config": config, "runner": {"type": "EpochBasedRunner", "max_epochs": 12}}
    assert read(whole) == read(config, total_iters=300)  # 12 epochs of any length fall into three parts
    phases = [{"Linear": {"end": 3.0, "until": 13}}, {"Linear": {"start": 3.0, "end": 0.1}}]
    assert read(config, total_iters=100) == {"lr": {"Cycle": {"of": phases, "every": 33}}}
    notes = from_mmcv(config, facts={"total_iters": 100}).notes
    assert "cyclic_times: does not divide 100 iterations: those left over begin another cycle" in notes


def one_cycle(i, ends, values, anneal):
    start, first = 0, values[0]
    for end, value in zip(ends, values[1:]):
        if i <= end:
            return anneal(first, value, (i - start) / (end - start))
        start, first = end, value
    raise AssertionError("beyond the last phase")


@pytest.mark.parametrize("total", [60, 90])
@pytest.mark.parametrize("share", [0.3, 0.25, 0.0, 1.0, 0.01, 0.5, 0.51, 0.8])
@pytest.mark.parametrize("three", [True, False])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle(strategy, three, share, total):
    config = {"policy": "OneCycle", "max_lr": 0.5, "pct_start": share, "three_phase": three, "div_factor": 10}
    config |= {"anneal_strategy": strategy, "final_div_factor": 100} | ({"total_steps": total} if total > 60 else {})
    anneal = {"cos": cos, "linear": line}[strategy]
    ends = [share * total - 1, 2 * share * total - 2, total - 1] if three else [share * total - 1, total - 1]
    values = [0.05, 0.5, 0.05, 0.0005] if three else [0.05, 0.5, 0.0005]
    same(curve(config)[:, 1], [one_cycle(i, ends, values, anneal) for i in range(60)])
    del config["max_lr"], config["div_factor"], config["final_div_factor"]
    config.pop("total_steps", None)
    ends = [share * 60 - 1, 2 * share * 60 - 2, 59] if three else [share * 60 - 1, 59]
    values = [0.95, 0.85, 0.95, 0.95] if three else [0.95, 0.85, 0.95]
    expected = [one_cycle(i, ends, values, anneal) for i in range(60)]
    same(curve({"momentum_config": config}, option="momentum")[:, 2], expected)


def test_one_cycle_is_written_simply():
    up = {"Cosine": {"start": {"absolute": 0.02}, "end": {"absolute": 0.5}, "until": "30%-1st"}}
    down = {"Cosine": {"start": {"absolute": 0.5}, "end": {"absolute": 2e-06}, "until": "100%-1st"}}
    hold = {"Constant": {"value": "previous"}}
    assert read({"policy": "OneCycle", "max_lr": 0.5}) == {"lr": [up, down, hold]}
    assert read({"policy": "OneCycle", "max_lr": [0.5, 0.5]}, base_lr=[1, 1]) == {"lr": [up, down, hold]}
    (phases,) = read({"policy": "OneCycle", "max_lr": 0.5, "total_steps": 90}).values()
    assert [phase.get("Cosine", {}).get("until") for phase in phases] == [26, 89, None]


@pytest.mark.parametrize(
    ("max_lr", "facts"),
    [([0.3, 0.2, 0.1], {}), ({"Adam": [0.3, 0.2, 0.1]}, {"optimizer": "Adam"})],
)
def test_values_of_their_own_for_groups(max_lr, facts):
    values = curve({"policy": "OneCycle", "max_lr": max_lr}, base_lr=LRS, **facts)
    same(values[17], [0.3, 0.2, 0.1])
    same(values[59], [0.3 / 25e4, 0.2 / 25e4, 0.1 / 25e4])
    config = {"momentum_config": {"policy": "OneCycle", "base_momentum": [0.8, 0.7, 0.6], "max_momentum": 0.9}}
    same(curve(config, option="momentum")[[0, 17, 59]], [[0.9, 0.9, 0.9], [0.8, 0.7, 0.6], [0.9, 0.9, 0.9]])


def test_the_optimizer_of_the_config_names_the_values():
    config = {"optimizer": {"type": "Adam"}, "lr_config": {"policy": "OneCycle", "max_lr": {"Adam": [0.3, 0.2, 0.1]}}}
    same(curve(config)[17], [0.3, 0.2, 0.1])


# ------------------------------------------------------------------ momentum


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"policy": "step", "step": [2]}, lambda b, p, of: b * (0.5 if p >= 2 else 1)),
        ({"policy": "step", "step": 4, "min_momentum": 0.6}, lambda b, p, of: max(b * 0.5 ** (p // 4), 0.6)),
        ({"policy": "CosineAnnealing", "min_momentum": 0.6}, lambda b, p, of: cos(b, 0.6, p / of)),
        ({"policy": "CosineAnnealing", "min_momentum_ratio": 0.5}, lambda b, p, of: cos(b, b / 2, p / of)),
        ({"policy": "LinearAnnealing", "min_momentum_ratio": 0.5}, lambda b, p, of: line(b, b / 2, p / of)),
    ],
)
@pytest.mark.parametrize(
    ("warm", "divisor"),
    [
        ({}, lambda i: 1),
        ({"warmup": "constant", "warmup_iters": 8}, lambda i: 0.9 if i < 8 else 1),
        ({"warmup": "linear", "warmup_iters": 10, "warmup_ratio": 0.8}, lambda i: min(1, 0.8 + 0.2 * i / 10)),
        ({"warmup": "exp", "warmup_iters": 9, "warmup_ratio": 0.7}, lambda i: 0.7 ** max(0, 1 - i / 9)),
    ],
)
@pytest.mark.parametrize("by_epoch", [True, False])
def test_momentum_is_divided_by_its_warmup(settings, value, warm, divisor, by_epoch):
    at = (lambda i: (i // 6, 10)) if by_epoch else (lambda i: (i, 60))
    expected = [[value(b, *at(i)) / divisor(i) for b in MOMENTA] for i in range(60)]
    imported = {"momentum_config": {**settings, **warm, "by_epoch": by_epoch}}
    same(curve(imported, option="momentum"), expected)
    notes = from_mmcv(imported, facts={"epochs": 10, "total_iters": 60}).notes
    assert any("divides the momentum" in note for note in notes) == bool(warm)


def test_a_momentum_warmup_is_an_inverse():
    config = {"policy": "step", "step": [2], "warmup": "linear", "warmup_iters": 500, "warmup_ratio": 0.9}
    ramp = {"Inverse": {"every": 4500, "start": 1 / 0.9, "until": 500}}
    assert read({"momentum_config": config})["momentum"]["Warmup"]["ramp"] == ramp


# ------------------------------------------------------------------ accumulation and the length of the run


@pytest.mark.parametrize("hook", ["GradientCumulativeOptimizerHook", "GradientCumulativeFp16OptimizerHook", None])
@pytest.mark.parametrize(("batches", "per_step"), [(60, 4), (60, 1), (61, 4), (59, 3), (2, 4), (1, 4)])
@pytest.mark.parametrize("policy", ["CosineAnnealing", "CosineAnnealingCooldown", "FlatCosineAnnealing", "cyclic"])
def test_accumulation_counts_batches(policy, batches, per_step, hook):
    """Step i is made by the rate of its last batch; what is left at the end makes a step of its own."""
    config = {"policy": policy, "by_epoch": False, "warmup": "linear", "warmup_iters": 7}
    config |= {"target_ratio": (4, 0.2)} if policy == "cyclic" else {"min_lr": 0.001}
    config |= {"cool_down_time": 1.5} if policy == "CosineAnnealingCooldown" else {}
    whole = {"lr_config": config}
    if hook:
        whole["optimizer_config"] = {"type": hook, "cumulative_iters": per_step}
    alone = curve(config, 1, batches)
    facts = {} if hook else {"batches_per_step": per_step}
    last = [min((i + 1) * per_step, batches) - 1 for i in range(-(-batches // per_step))]
    same(curve(whole, 1, batches, per_step=per_step, **facts), alone[last])


def test_accumulation_by_epochs():
    config = {"lr_config": {"policy": "CosineAnnealing", "min_lr": 0}}
    config["optimizer_config"] = {"type": "DistOptimizerHook", "update_interval": 4}
    same(curve(config, 10, 6, per_step=4)[:, 0], [cos(0.1, 0, (4 * i + 3) // 6 / 10) for i in range(15)])


def test_the_length_of_the_run():
    config = {"lr_config": {"policy": "FlatCosineAnnealing", "min_lr": 0}}
    half = {"runner": {"type": "EpochBasedRunner", "max_epochs": 100}, **config}
    imported = from_mmcv(half)
    phases = [{"Constant": {"until": "75%"}}, {"Cosine": {}}]
    assert brief(imported.spec.to_dict()["schedules"]) == {"lr": {"Staircase": {"of": phases}}}
    assert (
        "runner.max_epochs: the schedules last as long as the run, which has 100 epochs: Trainer(max_epochs=100)"
        in imported.notes
    )
    imported = from_mmcv(half, facts={"epochs": 10})
    phases[0]["Constant"]["until"] = "8ep"
    assert brief(imported.spec.to_dict()["schedules"]) == {"lr": {"Staircase": {"of": phases}}}
    assert any("the facts say 10 epochs" in note for note in imported.notes)
    assert "lr_config.start_percent: MMCV rounds it: the cosine begins after 8 of 10" in imported.notes
    old = {"total_epochs": 8, **config}
    assert read(old)["lr"]["Staircase"]["of"][0] == {"Constant": {"until": "75%"}}
    notes = from_mmcv({"total_iters": 80, "lr_config": {"policy": "poly"}}, facts={"batches_per_step": 3}).notes
    assert "total_iters: the schedules last as long as the run, which has 80 iterations: Trainer(max_steps=27)" in notes


def test_lengths_that_need_facts():
    config = {"policy": "FlatCosineAnnealing", "min_lr": 0}
    with pytest.raises(SolverError, match=r"^start_percent: .*whole epochs.*facts=\{'epochs'"):
        from_mmcv(config)
    imported = from_mmcv({**config, "by_epoch": False})
    assert brief(imported.spec.to_dict()["schedules"])["lr"][0] == {"Constant": {"until": "75%"}}
    assert any("give facts total_iters" in note for note in imported.notes)
    with pytest.raises(SolverError, match=r"^cyclic_times: .*facts=\{'total_iters'"):
        from_mmcv({"policy": "cyclic", "cyclic_times": 3})
    config = {"policy": "CosineRestart", "periods": [10, 20], "restart_weights": [1, 0.5], "min_lr": 0}
    assert read(config)["lr"]["Staircase"]["of"][1:] == [
        {"Cosine": {"start": 0.5, "until": "30ep"}},
        {"Constant": {"value": "previous"}},
    ]
    assert read(config, epochs=30)["lr"]["Staircase"]["of"][1:] == [{"Cosine": {"start": 0.5}}]
    equal = {"policy": "CosineRestart", "periods": [10, 10], "restart_weights": [1, 1], "min_lr": 0}
    assert read(equal) == {"lr": {"Staircase": {"of": {"Cycle": {"of": {"Cosine": {}}, "every": "10ep", "times": 2}}}}}


# ------------------------------------------------------------------ whole configs, notes, files


WHOLE = """
_base_ = ['base.py']
optimizer = dict(type='SGD', lr=0.8, weight_decay=1e-4, paramwise_cfg=dict(norm_decay_mult=0.))
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2), _delete_=True, type='OptimizerHook')
lr_config = dict(warmup='linear', warmup_iters=500, warmup_ratio=0.25)
"""
BASE = """
model = dict(type='ImageClassifier')
data = dict(samples_per_gpu=32)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[30, 60, 90])
runner = dict(type='EpochBasedRunner', max_epochs=100)
log_config = dict(interval=100)
"""
READ = {
    "lr": {
        "Warmup": {
            "ramp": {"Linear": {"start": 0.25, "until": 500}},
            "of": {"MultiStep": {"at": ["30ep", "60ep", "90ep"]}},
            "meets": "multiply",
        }
    }
}


def test_a_file_with_its_base(tmp_path):
    (tmp_path / "base.py").write_text(BASE)
    path = tmp_path / "config.py"
    path.write_text(WHOLE)
    for config in (path, str(path)):
        imported = from_mmcv(config)
        assert brief(imported.spec.to_dict()["schedules"]) == READ
    assert imported.unmapped == ("model", "data", "log_config")
    assert "model: is not part of the schedules" in imported.notes
    with pytest.raises(SolverError, match=r"^model: is not mapped; got 3"):
        from_mmcv(path, strict=True)


def test_yaml_and_json(tmp_path):
    config = {"policy": "step", "step": [2], "warmup": "exp", "warmup_iters": 3}
    (tmp_path / "config.json").write_text(json.dumps({"lr_config": config}))
    (tmp_path / "config.yaml").write_text(
        "lr_config: {policy: step, step: [2], warmup: exp, warmup_iters: 3, warmup_ratio: 1e-1}"
    )
    assert read(tmp_path / "config.json") == read(tmp_path / "config.yaml") == read(config)
    assert from_mmcv(config, strict=True).notes == ()


def test_nothing_to_read():
    imported = from_mmcv({"lr_config": None, "optimizer": {"type": "SGD"}})
    assert imported.spec.schedules == {}
    assert from_mmcv({"optimizer_config": {"grad_clip": None}}, strict=True).spec.clip is None
    imported = from_mmcv({"model": {}, "lr_confg": {"policy": "step", "step": 1}})
    assert "lr_confg: is not mapped; did you mean lr_config?" in imported.notes


def test_notes():
    config = {"policy": "step", "step": [5, 2], "min_lr": 0.02, "warmup_iters": 5, "warmup_ratio": 0.5}
    notes = "\n".join(from_mmcv(config, facts={"epoch": 3}).notes)
    for gist in ("step: is not sorted", "min_lr: is the same for all", "warmup_iters: does nothing", "facts.epoch"):
        assert gist in notes
    config = {"policy": "step", "step": [5], "warmup": "linear", "warmup_iters": 5, "warmup_ratio": 1.0}
    imported = from_mmcv(config)
    assert brief(imported.spec.to_dict()["schedules"]) == {"lr": {"MultiStep": {"at": ["5ep"]}}}
    assert imported.notes == ("warmup_ratio: a warm-up by the factor 1 is left out",)
    assert "target_ratio: is read as a tuple" in from_mmcv({"policy": "cyclic", "target_ratio": [2.0]}).notes[0]


def test_a_base_that_is_not_at_hand_is_noted():
    imported = from_mmcv("_base_ = './base.py'\nlr_config = dict(policy='fixed')")
    assert imported.unmapped == ("_base_",)


# ------------------------------------------------------------------ what is refused

STEP = {"policy": "step", "step": [2]}
COSINE = {"policy": "CosineAnnealing", "min_lr": 0}
CYCLIC = {"policy": "cyclic"}
ONE = {"policy": "OneCycle", "max_lr": 0.5}
BAD = [
    ({"policy": "cosineannealing"}, "policy: is not a policy of MMCV for the lr; .*CosineAnnealing"),
    ({"policy": 3}, "policy: must be a name"),
    ({"lr_config": {"step": [2]}}, "lr_config.policy: is missing"),
    ({"lr_config": [1]}, "lr_config: must be a mapping"),
    ({"policy": "step"}, "step: is missing"),
    ({"policy": "step", "step": (2, 3)}, "step: must be a whole number >= 1, or a list"),
    ({"policy": "step", "step": [0, 3]}, "step: must be a whole number"),
    ({"policy": "step", "step": [2.0]}, "step: must be a whole number"),
    ({"policy": "step", "step": 0}, "step: must be a whole number"),
    ({"policy": "exp"}, "gamma: is missing"),
    ({"policy": "inv"}, "gamma: is missing"),
    ({"policy": "inv", "gamma": -1}, "gamma: must be at least 0"),
    ({"policy": "poly", "power": "much"}, "power: must be a number"),
    ({"policy": "CosineAnnealing"}, "min_lr: one of min_lr and min_lr_ratio"),
    ({**COSINE, "min_lr_ratio": 0.1}, "min_lr: one of min_lr and min_lr_ratio"),
    ({**COSINE, "min_lr": -1}, "min_lr: must be at least 0"),
    ({**COSINE, "policy": "FlatCosineAnnealing", "start_percent": 1}, "start_percent: must be a float"),
    ({**COSINE, "policy": "FlatCosineAnnealing", "start_percent": 1.5}, "start_percent: must be a float"),
    ({**COSINE, "policy": "CosineAnnealingCooldown"}, "cool_down_time: leaves no time"),
    ({**COSINE, "policy": "CosineRestart"}, "periods: is missing"),
    ({**COSINE, "policy": "CosineRestart", "periods": [5, 5]}, "restart_weights: must be as long"),
    ({**COSINE, "policy": "CosineRestart", "periods": [5]}, "periods: end before the run"),
    ({**COSINE, "policy": "CosineRestart", "periods": "all"}, "periods: must be a list"),
    ({**COSINE, "by_epoch": "no"}, "by_epoch: must be true or false"),
    ({**STEP, "warmup": "cosine", "warmup_iters": 2}, "warmup: unknown value"),
    ({**STEP, "warmup": "linear"}, "warmup_iters: must be > 0"),
    ({**STEP, "warmup_iters": 2.0}, "warmup_iters: must be a whole number"),
    ({**STEP, "warmup": "linear", "warmup_iters": 2, "warmup_ratio": 0}, "warmup_ratio: must be above 0"),
    ({**STEP, "warmup": "linear", "warmup_iters": 2, "warmup_ratio": 1.5}, "warmup_ratio: must be above 0"),
    ({**CYCLIC, "by_epoch": True}, "by_epoch: Cyclic moves with every iteration"),
    ({**CYCLIC, "target_ratio": 10}, "target_ratio: must be a float, or a tuple"),
    ({**CYCLIC, "target_ratio": (1, 2, 3)}, "target_ratio: must be a float, or a tuple"),
    ({**CYCLIC, "target_ratio": (1, -2)}, "target_ratio: must not be negative"),
    ({**CYCLIC, "step_ratio_up": 1.0}, "step_ratio_up: must be below 1"),
    ({**CYCLIC, "cyclic_times": 0}, "cyclic_times: must be a whole number"),
    ({**CYCLIC, "cyclic_times": 61}, "cyclic_times: is more than the run's 60"),
    ({**CYCLIC, "gamma": 1.5}, "gamma: must be above 0"),
    ({**CYCLIC, "anneal_strategy": "exp"}, "anneal_strategy: unknown value"),
    (
        {"momentum_config": {**CYCLIC, "gamma": 2, "cyclic_times": 3, "target_ratio": (0.4, 1)}},
        "momentum_config.gamma: ",
    ),
    ({"policy": "OneCycle"}, "max_lr: is missing"),
    ({**ONE, "by_epoch": True}, "by_epoch: OneCycle moves with every iteration"),
    ({**ONE, "max_lr": (0.1, 0.2, 0.3)}, "max_lr: must be a number, or a list"),
    ({**ONE, "max_lr": [0.1, 0.2]}, "max_lr: has not one value for each of 3 groups"),
    ({**ONE, "max_lr": {"Adam": [0.1]}}, "max_lr: has no values for SGD"),
    ({**ONE, "max_lr": -1}, "max_lr: must not be negative"),
    ({**ONE, "total_steps": 59}, "total_steps: is less than the run's 60"),
    ({**ONE, "total_steps": 60.0}, "total_steps: must be a whole number"),
    ({**ONE, "pct_start": 1}, "pct_start: must be a float"),
    ({**ONE, "pct_start": 1 / 60}, "pct_start: leaves the first phase no iteration"),
    ({**ONE, "div_factor": 0}, "div_factor: factors must be > 0"),
    ({"momentum_config": {"policy": "fixed"}}, "momentum_config.policy: is not a policy of MMCV for the momentum"),
    (
        {"momentum_config": {**STEP, "warmup": "exp", "warmup_iters": 1.5}},
        "momentum_config.warmup_iters: must be a whole",
    ),
    (
        {"momentum_config": {"policy": "OneCycle", "base_momentum": 1}},
        "momentum_config.base_momentum: must be a number",
    ),
    (
        {"momentum_config": {"policy": "OneCycle", "base_momentum": [0.1, 0.2, 0.3], "max_momentum": [0.9] * 2}},
        "momentum_config.max_momentum: has not one value",
    ),
    (
        {"lr_config": STEP, "optimizer_config": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 0}},
        "optimizer_config.cumulative_iters: must be a whole number >= 1",
    ),
    (
        {"lr_config": STEP, "optimizer_config": {"cumulative_iters": 4}},
        "optimizer_config.cumulative_iters: OptimizerHook",
    ),
    ({"lr_config": STEP, "runner": {"type": "MyRunner"}}, "runner.type: is not known"),
    ({"lr_config": STEP, "runner": {"type": "EpochBasedRunner", "max_iters": 5}}, "runner.max_iters: is not what"),
    ({"lr_config": STEP, "runner": {"max_epochs": 5, "max_iters": 5}}, "runner.max_iters: is given beside"),
    (
        {"lr_config": STEP, "runner": {"type": "EpochBasedRunner", "max_epochs": 0}},
        "runner.max_epochs: must be a whole",
    ),
    ({"lr_config": STEP, "custom_hooks": [{"type": "StepLrUpdaterHook"}]}, r"custom_hooks\[0\]: makes a schedule"),
    ({}, "lr_config: is missing"),
    ({"lr_confg": STEP}, "lr_config: is missing; got keys lr_confg; rename lr_confg"),
    ("lr_config = make()", "lr_config: must be a mapping"),
    ("lr_config = dict(policy='exp', gamma=g if g else 1)", "lr_config.gamma: is not a literal"),
    (3, "config: must be a mapping"),
    ({"param_scheduler": []}, "config: is not for from_mmcv.*from_mmengine"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_what_is_refused(config, message):
    facts = {"epochs": 10, "iters_per_epoch": 6, "base_lr": LRS, "optimizer": "SGD"}
    facts |= {} if "runner" in str(config) else {"runner": "EpochBasedRunner"}
    with pytest.raises(SolverError, match=f"^{message}"):
        from_mmcv(config, facts=facts)


@pytest.mark.parametrize(
    ("config", "path", "note"),
    [
        (
            {"policy": "poly", "min_lr_ratio": 0.1},
            "min_lr_ratio",
            "Poly in MMCV has no such argument; did you mean min_lr",
        ),
        ({"policy": "step", "step": 2, "min_momentum": 0.1}, "min_momentum", "Step in MMCV has no such argument"),
        ({"momentum_config": {**STEP, "warmup_by_epoch": True}}, "momentum_config.warmup_by_epoch", "has no such"),
    ],
)
def test_settings_that_the_policy_does_not_have(config, path, note):
    imported = from_mmcv(config, facts={"runner": "EpochBasedRunner"})
    assert imported.unmapped == (path,)
    assert any(found.startswith(f"{path}: is not mapped") and note in found for found in imported.notes)
    with pytest.raises(SolverError, match=f"^{path}: is not mapped"):
        from_mmcv(config, facts={"runner": "EpochBasedRunner"}, strict=True)


def test_contradictions_with_facts():
    config = {"optimizer_config": {"type": "GradientCumulativeOptimizerHook", "cumulative_iters": 4}, "lr_config": STEP}
    with pytest.raises(SolverError, match=r"^optimizer_config.cumulative_iters: contradicts the facts; got 4.* 2"):
        from_mmcv(config, facts={"batches_per_step": 2})
    with pytest.raises(SolverError, match=r"^warmup_by_epoch: an IterBasedRunner does not know"):
        from_mmcv({**STEP, "warmup_by_epoch": True}, facts={"runner": "IterBasedRunner"})
    with pytest.raises(SolverError, match=r"^max_lr: has values by the optimiser's class.*facts=\{'optimizer'"):
        from_mmcv({**ONE, "max_lr": {"Adam": [0.1]}})


def test_drops():
    assert [type(phase).__name__ for phase in drops([0, 5], 0.5, "st")] == ["Constant", "Constant"]
    assert drops([0], 0.5, "st").value == 0.5
    assert drops([2, 5], 0.0, "ep")[0].until == "2ep"
    assert len(drops([2, 5], 0.0, "ep")) == 2
