"""MMEngine's param_scheduler: what it is written as, and the numbers, by the recursions of its manual."""

import functools
import json
import math

import numpy as np
import pytest

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.mmengine import from_mmengine

BASES = [0.1, 0.01, 0.05]


def phase(name, /, **arguments):
    """A schedule as plain data."""
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


def imported(config, /, **facts):
    return from_mmengine(config, facts=facts)


def schedules(config, /, **facts):
    return imported(config, **facts).spec.to_dict()["schedules"]


def lr(config, /, **facts):
    return schedules(config, **facts)["lr"]


def run(epochs, per_epoch=6):
    return {"epochs": epochs, "iters_per_epoch": per_epoch, "total_iters": epochs * per_epoch, "train_loop": "by_epoch"}


def iters(count, per_epoch=6):
    return {"iters_per_epoch": per_epoch, "total_iters": count, "train_loop": "by_iter"}


# ------------------------------------------------------------------ the recursions


def moved(kind, s, n, length, v, base):
    """The value after the ``n``-th move of a scheduler."""
    last = length - 1
    if kind == "Constant":
        return v * s.get("factor", 1 / 3) if n == 0 else v / s.get("factor", 1 / 3) if n == last else v
    if kind == "Linear":
        a, b = s.get("start_factor", 1 / 3), s.get("end_factor", 1.0)
        return v * a if n == 0 else v * (1 + (b - a) / (last * a + (n - 1) * (b - a)))
    if kind == "MultiStep":
        return v * s.get("gamma", 0.1) ** s["milestones"].count(n)
    if kind == "CosineRestart":
        for period, weight in zip(s["periods"], s["restart_weights"]):
            if n < period:
                low = s["eta_min"]
                return weight * base if n == 0 else low + (v - low) * cosine(n, period)
            n -= period
        return v
    if n == 0:
        return v
    if kind == "Step":
        return v * s.get("gamma", 0.1) if n % s["step_size"] == 0 else v
    if kind == "Exponential":
        return v * s["gamma"]
    if kind == "Poly":
        return (v - s.get("eta_min", 0)) * (1 - 1 / (last - n + 1)) ** s.get("power", 1) + s.get("eta_min", 0)
    low, half = s.get("eta_min", s.get("eta_min_ratio", 0) * base), s.get("T_max", length)
    if (n - 1 - half) % (2 * half) == 0:
        return v + (base - low) * (1 - math.cos(math.pi / half)) / 2
    return low + (v - low) * cosine(n, half)


def cosine(n, half):
    return (1 + math.cos(math.pi * n / half)) / (1 + math.cos(math.pi * (n - 1) / half))


def by_recursion(config, epochs, per_epoch, count, by_epochs=True, bases=BASES):
    """The values of every iteration, the schedulers stepped as MMEngine's hook does."""
    listed = []
    for s in config:
        by_epoch = s.get("by_epoch", True)
        unit = per_epoch if s.get("convert_to_iter_based") else 1
        begin, end = s.get("begin", 0) * unit, s.get("end", epochs if by_epoch else count) * unit
        s = {**s, **({"T_max": s["T_max"] * unit} if "T_max" in s else {})}
        s |= {key: [x * unit for x in s[key]] for key in ("milestones", "periods") if key in s}
        s |= {"step_size": s["step_size"] * unit} if "step_size" in s else {}
        kind = s["type"].removesuffix("LR").removesuffix("Momentum").removesuffix("ParamScheduler")
        listed.append((kind, s, by_epoch and not s.get("convert_to_iter_based"), begin, end))
    values, rows, position = list(bases), [], [0, 0]

    def step(which, at):
        for kind, s, by_epoch, begin, end in listed:
            if by_epoch in which and begin <= at < end:
                values[:] = [moved(kind, s, at - begin, end - begin, v, b) for v, b in zip(values, bases)]

    step((True, False), 0)
    for i in range(count):
        rows.append(list(values))
        position[0] += 1
        step((False,), position[0])
        if by_epochs and (i + 1) % per_epoch == 0:
            position[1] += 1
            step((True,), position[1])
    return np.array(rows)


def check(config, epochs=12, per_epoch=6, option="lr", **facts):
    """The schedule, once its numbers are those of the recursions."""
    known = facts or run(epochs, per_epoch)
    spec = imported(config, **known).spec
    count = known["total_iters"]
    run_length = RunLength(total_steps=count, steps_per_epoch=per_epoch)
    listed = config if isinstance(config, list) else [config]
    by_epochs = known["train_loop"] == "by_epoch"
    expected = by_recursion(listed, epochs if by_epochs else 1, per_epoch, count, by_epochs)
    np.testing.assert_allclose(spec.curve(option, BASES, run=run_length), expected, rtol=1e-9, atol=1e-12)
    return spec.to_dict()["schedules"][option]


ITER = {"by_epoch": False}
CONVERT = {"convert_to_iter_based": True}
HOLD = phase("Constant", value="previous")

ALONE = [
    ({"type": "StepLR", "step_size": 3}, phase("Step", every="3ep")),
    ({"type": "StepLR", "step_size": 3, **CONVERT}, phase("Step", every="3ep")),
    ({"type": "StepLR", "step_size": 30, "gamma": 0.5, **ITER}, phase("Step", every=30, gamma=0.5)),
    ({"type": "StepLR", "step_size": 3, "end": 7}, [phase("Step", every="3ep", until="6ep"), HOLD]),
    ({"type": "StepLR", "step_size": 30, "end": 7}, phase("Constant")),
    ({"type": "MultiStepLR", "milestones": [10, 8]}, phase("MultiStep", at=["8ep", "10ep"])),
    ({"type": "MultiStepLR", "milestones": [2, 4], "begin": 3, **CONVERT}, phase("MultiStep", at=["5ep", "7ep"])),
    ({"type": "MultiStepLR", "milestones": [2, 9], "begin": 3, "end": 10}, phase("MultiStep", at=["5ep"])),
    ({"type": "MultiStepLR", "milestones": [0]}, phase("Constant", value=0.1)),
    (
        {"type": "MultiStepLR", "milestones": [2, 2, 4], "gamma": 0.5},
        [phase("Constant", until="2ep"), phase("Constant", value=0.25, until="4ep"), phase("Constant", value=0.125)],
    ),
    ({"type": "ExponentialLR", "gamma": 0.9}, phase("Step", every="1ep", gamma=0.9)),
    ({"type": "ExponentialLR", "gamma": 0.9, **ITER}, phase("Exponential", gamma=0.9, every=1)),
    ({"type": "CosineAnnealingLR", "T_max": 12}, phase("Staircase", of=phase("Cosine"))),
    ({"type": "CosineAnnealingLR", **ITER}, phase("Cosine")),
    ({"type": "CosineAnnealingLR", **CONVERT, "eta_min_ratio": 0.1}, phase("Cosine", end=0.1)),
    ({"type": "CosineAnnealingLR", "T_max": 100, **ITER}, phase("Over", of=phase("Cosine"), end=100)),
    (
        {"type": "CosineAnnealingLR", "eta_min": 1e-3, "end": 6, **CONVERT},
        [phase("Over", of=phase("Cosine", end={"absolute": 1e-3}), end="6ep", until="6ep-1st"), HOLD],
    ),
    (  # it rises again
        {"type": "CosineAnnealingLR", "eta_min": 1e-3, "T_max": 6, **CONVERT},
        [phase("Cosine", end={"absolute": 1e-3}, until="6ep"), phase("Cosine", start={"absolute": 1e-3}, end=1.0)],
    ),
    (
        {"type": "CosineAnnealingLR", "T_max": 10, **ITER},
        phase("Cycle", of=[phase("Cosine", until=10), phase("Cosine", start=0.0, end=1.0)], every=20),
    ),
    (
        {"type": "LinearLR", "start_factor": 0.1, "end": 100, **ITER},
        phase("Linear", start=0.1, until=99),
    ),
    (
        {"type": "LinearLR", "start_factor": 0.1, "end_factor": 0.5, "end": 5},
        phase("Staircase", of=[phase("Linear", start=0.1, end=0.5, until="4ep"), HOLD]),
    ),
    ({"type": "LinearLR", "start_factor": 0.1, "end": 1}, phase("Constant", value=0.1)),
    ({"type": "ConstantLR", "factor": 0.5, "end": 1}, phase("Constant", value=0.5)),
    (
        {"type": "ConstantLR", "factor": 0.5, **ITER},
        [phase("Constant", value=0.5, until="100%-1st"), phase("Constant")],
    ),
    ({"type": "PolyLR", **CONVERT}, [phase("Linear", end=0.0, until="100%-1st"), HOLD]),
    (
        {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4},
        phase("Staircase", of=[phase("Polynomial", power=0.9, end={"absolute": 1e-4}, until="100%-1ep"), HOLD]),
    ),
    (
        {"type": "CosineRestartLR", "periods": [4, 4, 4], "restart_weights": [1, 1, 1], "eta_min": 0, **CONVERT},
        phase("Cycle", of=phase("Cosine"), every="4ep"),
    ),
    (  # after the last period the value of its last iteration stays
        {"type": "CosineRestartLR", "periods": [20, 30], "restart_weights": [1, 0.5], "eta_min": 0.001, **ITER},
        [
            phase("Cosine", end={"absolute": 0.001}, until=20),
            phase("Over", of=phase("Cosine", start=0.5, end={"absolute": 0.001}), end=50, until=49),
            HOLD,
        ],
    ),
]


@pytest.mark.parametrize(("config", "expected"), ALONE, ids=lambda x: x.get("type") if isinstance(x, dict) else None)
def test_a_scheduler_alone(config, expected):
    assert check(config) == expected


WARMUP = {"type": "LinearLR", "start_factor": 0.001, **ITER, "begin": 0, "end": 10}
RAMP = phase("Linear", start=0.001, until=9)
LISTS = [
    (
        [WARMUP, {"type": "MultiStepLR", "milestones": [8, 11], "end": 12}],
        [RAMP, phase("MultiStep", at=["8ep", "11ep"])],
    ),
    (
        [WARMUP, {"type": "CosineAnnealingLR", "T_max": 10, "begin": 2, "end": 12, "eta_min": 1e-5, **CONVERT}],
        [RAMP, phase("Constant", until="2ep"), phase("Cosine", end={"absolute": 1e-5})],
    ),
    (
        [WARMUP, {"type": "CosineAnnealingLR", "begin": 2}],
        [RAMP, phase("Constant", until="2ep"), phase("Staircase", of=phase("Cosine"))],
    ),
    (
        [{"type": "LinearLR", "start_factor": 0.1, "end": 3}, {"type": "CosineAnnealingLR", "T_max": 9, "begin": 3}],
        phase(
            "Staircase", of=[phase("Linear", start=0.1, until="2ep"), phase("Constant", until="3ep"), phase("Cosine")]
        ),
    ),
    (  # from the start on, both at once
        [WARMUP, {"type": "CosineAnnealingLR", **ITER}],
        phase("Warmup", ramp=RAMP, of=phase("Cosine"), meets="multiply"),
    ),
    (
        [{"type": "ConstantLR", "end": 3}, {"type": "StepLR", "step_size": 2}],
        phase(
            "Warmup",
            ramp=phase("Constant", value=1 / 3, until="2ep"),
            of=phase("Step", every="2ep"),
            meets="multiply",
        ),
    ),
    (
        [{"type": "ExponentialLR", "gamma": 0.9, **ITER}, {"type": "StepLR", "step_size": 2}],
        phase("Product", factors=[phase("Exponential", gamma=0.9, every=1), phase("Step", every="2ep")]),
    ),
    (  # one of them has a floor: no closed formula
        [WARMUP, {"type": "CosineAnnealingLR", "eta_min": 1e-4, **ITER}],
        phase(
            "Chain",
            of=[[RAMP, phase("Constant")], phase("Cosine", end={"absolute": 1e-4})],
            floors=[0.0, {"absolute": 1e-4}],
        ),
    ),
    (  # it begins at a value that is no factor of the base value
        [
            {"type": "PolyLR", "eta_min": 1e-3, "end": 20, **ITER},
            {"type": "LinearLR", "start_factor": 0.5, "begin": 20, "end": 40, **ITER},
        ],
        phase(
            "Product",
            factors=[
                [phase("Linear", end={"absolute": 1e-3}, until=19), HOLD],
                [phase("Constant", until=20), phase("Linear", start=0.5, until=39), phase("Constant")],
            ],
        ),
    ),
    (
        [{"type": "MultiStepLR", "milestones": [2, 3]}, {"type": "CosineAnnealingLR", "begin": 4, **CONVERT}],
        [phase("MultiStep", at=["2ep", "3ep"], until="4ep"), phase("Cosine", start="previous")],
    ),
]


@pytest.mark.parametrize(("config", "expected"), LISTS)
def test_schedulers_together(config, expected):
    assert check(config) == expected


def test_a_warmup_in_iterations_needs_no_epoch_length():
    """The commonest recipe of all, where nothing is known but the config."""
    config = {"param_scheduler": [WARMUP | {"end": 500}, {"type": "MultiStepLR", "milestones": [8, 11], "end": 12}]}
    config["train_cfg"] = {"type": "EpochBasedTrainLoop", "max_epochs": 12, "val_interval": 1}
    ramp = phase("Linear", start=0.001, until=499)
    expected = phase("Warmup", ramp=ramp, of=phase("MultiStep", at=["8ep", "11ep"]), meets="multiply")
    assert lr(config) == expected
    cosine = config | {"param_scheduler": [WARMUP | {"end": 500}, {"type": "CosineAnnealingLR", "begin": 6, **CONVERT}]}
    assert lr(cosine) == [ramp, phase("Constant", until="6ep"), phase("Cosine")]
    assert any("taken to be long enough" in note for note in imported(cosine).notes)
    with pytest.raises(SolverError, match="ends before it begins"):
        imported(cosine).spec.curve("lr", BASES, run=RunLength(total_steps=1000, steps_per_epoch=5))


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"type": "LinearMomentum", "start_factor": 0.5, **ITER, "begin": 5, "end": 45}, "momentum"),
        ({"type": "mmengine.StepMomentum", "step_size": 3, "gamma": 0.8}, "momentum"),
        ({"type": "CosineAnnealingParamScheduler", "param_name": "weight_decay", "eta_min": 0.4}, "weight_decay"),
        ({"type": "LinearParamScheduler", "param_name": "eps", **ITER}, "eps"),
    ],
)
def test_what_else_is_scheduled(config, option):
    kind = {**config, "type": config["type"].removeprefix("mmengine.")}
    spec = imported(config, **run(12)).spec
    values = spec.curve(option, [{option: base} for base in BASES], total_steps=72, steps_per_epoch=6)
    np.testing.assert_allclose(values, by_recursion([kind], 12, 6, 72), rtol=1e-9)


def test_weight_decay_of_mmpretrain_leaves_groups_without_any():
    config = {"type": "mmpretrain.CosineAnnealingWeightDecay", "eta_min": 0.4, **ITER}
    cosine = phase("Cosine", end={"absolute": 0.4})
    assert schedules(config) == {"weight_decay": phase("KeepZero", of=cosine)}
    assert schedules(config | {"eta_min": 0}) == {"weight_decay": phase("Cosine")}
    plain = {"type": "PolyParamScheduler", "param_name": "weight_decay", "eta_min": 0.1, "begin": 3}
    with pytest.raises(SolverError, match=r"param_scheduler\[0\]: keeps groups at 0 that another scheduler"):
        imported([config | {"end": 9}, plain])


# ------------------------------------------------------------------ OneCycleLR


def one_cycle(n, steps, low, high, last, share=0.3, linear=False):
    """From ``low`` up to ``high`` at step ``share * steps - 1``, down to ``last`` at the last step."""
    top = share * steps - 1
    a, b, part = (low, high, n / top) if n <= top else (high, last, (n - top) / (steps - 1 - top))
    return a + (b - a) * part if linear else b + (a - b) / 2 * (1 + math.cos(math.pi * part))


@pytest.mark.parametrize("linear", [False, True])
def test_one_cycle(linear):
    config = {"type": "OneCycleLR", "eta_max": 0.5, "anneal_strategy": "linear" if linear else "cos", **ITER}
    shape = "Linear" if linear else "Cosine"
    low, high, last = ({"absolute": value} for value in (0.02, 0.5, 0.02 / 1e4))
    expected = [
        phase(shape, start=low, end=high, until="30%-1st"),
        phase(shape, start=high, end=last, until="100%-1st"),
        HOLD,
    ]
    assert lr(config, **run(12)) == expected
    values = imported(config).spec.curve("lr", BASES, total_steps=50)
    expected = [one_cycle(n, 50, 0.02, 0.5, 0.02 / 1e4, linear=linear) for n in range(50)]
    np.testing.assert_allclose(values, np.array([expected] * 3).T, rtol=1e-9)


def test_one_cycle_with_three_phases_and_for_every_group():
    config = {"type": "OneCycleLR", "eta_max": [1.0, 0.5, 0.2], "three_phase": True, "pct_start": 0.25, **ITER}
    values = imported(config, **iters(40)).spec.curve("lr", BASES, total_steps=40)
    np.testing.assert_allclose(values[[0, 9, 18, 39], 0], [0.04, 1.0, 0.04, 4e-6], rtol=1e-9)
    np.testing.assert_allclose(values[:, 1], values[:, 0] / 2, rtol=1e-9)
    with pytest.raises(SolverError, match="has not one value for each of 2 groups"):
        imported(config, base_lr=[0.1, 0.2])


def test_one_cycle_without_a_rise():
    config = {"type": "OneCycleLR", "eta_max": 1.0, "pct_start": 0.0, **ITER}
    values = imported(config, **iters(11)).spec.curve("lr", BASES, total_steps=11)[:, 0]
    expected = [0.5 * (1 + math.cos(math.pi * (n + 1) / 11)) * (1 - 4e-6) + 4e-6 for n in range(11)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_one_cycle_forgets_its_eta_max():
    found = imported({"type": "OneCycleLR"}, **run(12))
    assert not found.spec.curve("lr", BASES, total_steps=72, steps_per_epoch=6).any()
    assert any("eta_max is 0, which is its default" in note for note in found.notes)


def test_one_cycle_beyond_its_steps():
    config = {"type": "OneCycleLR", "eta_max": 1.0, "total_steps": 20, **ITER}
    values = imported(config, **iters(21)).spec.curve("lr", BASES, total_steps=21)[:, 0]
    assert values[20] == pytest.approx(values[18])  # the cosine turns
    with pytest.raises(SolverError, match="total_steps: the scheduler goes on beyond it, and MMEngine stops"):
        imported(config, **iters(22))
    ends = imported(config | {"end": 20}, **iters(40)).spec.curve("lr", BASES, total_steps=40)[:, 0]
    np.testing.assert_array_equal(ends[19:], ends[19])


def test_what_comes_after_a_one_cycle_takes_its_start_for_the_base_value():
    restart = {"type": "CosineRestartLR", "periods": [20], "eta_min_ratio": 0.5, "begin": 20, **ITER}
    cycle = {"type": "OneCycleLR", "eta_max": 1.0, "end": 20, **ITER}
    values = imported([cycle, restart], **iters(40)).spec.curve("lr", BASES, total_steps=40)[20:, 0]
    expected = [0.02 + 0.02 * (1 + math.cos(math.pi * n / 20)) / 2 for n in range(20)]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    with pytest.raises(SolverError, match="works on the values that the OneCycleLR before it has put"):
        imported([cycle | {"eta_max": [1.0, 2.0, 3.0]}, restart], **iters(40))
    with pytest.raises(SolverError, match=r"param_scheduler\[1\]: differs from the OneCycleLR before it"):
        imported([cycle, cycle | {"begin": 20, "end": 40, "eta_max": 2.0}], **iters(40))


# ------------------------------------------------------------------ ReduceOnPlateau

LOSSES = [1.0, 0.9, 0.95, 0.96, 0.97, 0.8, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9]


def followed(config, **facts):
    return imported(config, **(facts or run(12))).spec.curve(
        "lr", BASES, total_steps=72, steps_per_epoch=6, metrics=LOSSES
    )


def test_plateau():
    config = {"type": "ReduceOnPlateauLR", "factor": 0.5, "patience": 2, "rule": "less"}
    assert lr(config) == phase("Plateau", monitor="loss", factor=0.5, patience=2)
    expected = [1.0] * 5 + [0.5] * 4 + [0.25] * 3
    np.testing.assert_allclose(followed(config)[::6, 0], np.array(expected) * 0.1)
    more = {"rule": "greater", "threshold_rule": "abs", "min_value": [0.01, 0.0, 0.02], "monitor": "acc", "cooldown": 1}
    of = [
        phase("Plateau", monitor="acc", mode="max", threshold_mode="abs", cooldown=1, **low)
        for low in ({"min": {"absolute": 0.01}}, {}, {"min": {"absolute": 0.02}})
    ]
    assert lr({"type": "ReduceOnPlateauLR", **more}) == phase("PerGroup", of=of)


def test_plateau_within_its_window():
    config = {"type": "ReduceOnPlateauLR", "factor": 0.5, "patience": 1}
    assert lr(config | {"begin": 3, "end": 8}, **run(12)) == phase(
        "Over", of=phase("Plateau", monitor="loss", factor=0.5, patience=1), begin="3ep-1st", end="7ep"
    )
    # Counted are the losses after 3 to 7 epochs: 0.95, 0.96, 0.97 (drops), 0.8, 0.85.
    np.testing.assert_allclose(followed(config | {"begin": 3, "end": 8})[::6, 0], [0.1] * 5 + [0.05] * 7)
    assert lr(config | {"end": 1}, **run(12)) == phase("Constant")


def test_plateau_beside_others():
    config = [WARMUP, {"type": "ReduceOnPlateauLR", "factor": 0.5, "patience": 2, "min_value": 0.01}]
    plateau = phase("Plateau", monitor="loss", factor=0.5, patience=2, min={"absolute": 0.01})
    assert lr(config, **run(12)) == phase("Product", factors=[plateau, [RAMP, phase("Constant")]])
    expected = np.repeat([1.0] * 5 + [0.5] * 4 + [0.25] * 3, 6)[:, None] * by_recursion([WARMUP], 12, 6, 72)
    np.testing.assert_allclose(followed(config)[:, [0, 2]], expected[:, [0, 2]])
    floor = [{"type": "CosineAnnealingLR", "eta_min": 0.01}, config[1]]
    with pytest.raises(SolverError, match=r"param_scheduler\[1\]: stands beside a scheduler with a floor"):
        imported(floor, **run(12))
    with pytest.raises(SolverError, match="limits a value that another scheduler moves at the same time"):
        imported([{"type": "StepLR", "step_size": 2}, config[1]], **run(12))


# ------------------------------------------------------------------ the run


def whole(scheduler, loop, **more):
    return {"param_scheduler": scheduler, "train_cfg": loop, **more}


def test_the_length_of_the_run():
    cosine = {"type": "CosineAnnealingLR", "T_max": 10, "end": 10, **CONVERT}
    found = imported(whole(cosine, {"by_epoch": True, "max_epochs": 10, "val_interval": 2}))
    assert found.spec.to_dict()["schedules"]["lr"] == phase("Cosine")
    assert (
        "train_cfg.max_epochs: the schedules are made for a run of this length: Trainer(max_epochs=10)" in found.notes
    )
    assert "train_cfg.val_interval: validation is not part of the schedules" in found.notes
    longer = [phase("Over", of=phase("Cosine"), end="10ep", until="10ep-1st"), HOLD]
    assert lr(cosine) == lr(cosine, **run(12)) == longer  # nothing says that the run ends there
    assert lr(cosine, epochs=10) == phase("Cosine")
    default = whole({"type": "CosineAnnealingLR", **CONVERT}, {"by_epoch": True, "max_epochs": 10})
    assert lr(default, epochs=12) == longer
    assert lr(default, epochs=12, iters_per_epoch=6) == longer
    poly = {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4, "begin": 0, "end": 160000, **ITER}
    found = imported(whole(poly, {"type": "IterBasedTrainLoop", "max_iters": 160000, "val_interval": 16000}))
    shape = phase("Polynomial", power=0.9, end={"absolute": 1e-4}, until="100%-1st")
    assert found.spec.to_dict()["schedules"]["lr"] == [shape, HOLD]
    assert any("Trainer(max_steps=160000)" in note for note in found.notes)


def test_a_loop_by_iterations_has_one_epoch():
    config = [{"type": "LinearLR", "start_factor": 0.5}, {"type": "CosineAnnealingLR", **ITER}]
    found = imported(whole(config, {"type": "IterBasedTrainLoop", "max_iters": 40}))
    assert found.spec.to_dict()["schedules"]["lr"] == phase("Cosine", start=0.5)
    assert any("an IterBasedTrainLoop has one" in note for note in found.notes)
    late = {"type": "StepLR", "step_size": 1, "begin": 1}
    with pytest.raises(SolverError, match=r"param_scheduler.end: must be larger than begin; got begin 1ep, end 1ep"):
        imported(late, **iters(40))
    assert check({"type": "MultiStepLR", "milestones": [0, 3], "end": 9}, **iters(40)) == phase("Constant", value=0.1)
    converted = {"type": "LinearLR", "start_factor": 0.5, "end": 3, **CONVERT}
    assert check(converted, **iters(40)) == [phase("Linear", start=0.5, until="3ep-1st"), phase("Constant")]
    assert lr({"type": "ReduceOnPlateauLR"}, **iters(40)) == phase("Plateau", monitor="loss")


def test_accumulation():
    config = {"type": "ExponentialLR", "gamma": 0.9, **ITER}
    wrapper = {"type": "OptimWrapper", "accumulative_counts": 4, "optimizer": {"type": "SGD", "lr": 0.1}}
    found = imported({"param_scheduler": config, "optim_wrapper": wrapper})
    of = phase("Shift", of=phase("Exponential", gamma=0.9, every=1), earlier=3)
    assert found.spec.to_dict()["schedules"]["lr"] == phase("Scale", of=of, by=4)
    assert found.unmapped == ()
    facts = {"iters_per_epoch": 5, "epochs": 2, "total_batches": 10, "total_iters": 3, "train_loop": "by_epoch"}
    spec = imported({"param_scheduler": config, "optim_wrapper": wrapper}, **facts).spec
    values = spec.curve("lr", [1.0], run=RunLength(total_steps=3, steps_per_epoch=1.25))[:, 0]
    np.testing.assert_allclose(values, [0.9**3, 0.9**7, 0.9**9])  # the last step has two batches
    with pytest.raises(SolverError, match="accumulative_counts: contradicts the facts; got 4, and facts"):
        imported({"param_scheduler": config, "optim_wrapper": wrapper}, batches_per_step=2)
    with pytest.raises(SolverError, match="accumulative_counts: must be a whole number >= 1"):
        imported({"param_scheduler": config, "optim_wrapper": {**wrapper, "accumulative_counts": 0}})
    several = {"generator": wrapper, "discriminator": wrapper, "constructor": "MultiOptimWrapperConstructor"}
    assert any("several optimisers" in n for n in imported({"param_scheduler": config, "optim_wrapper": several}).notes)


def test_parts_of_epochs():
    config = {"type": "LinearLR", "start_factor": 0.5, "end": 0.5, **CONVERT}
    assert lr(config, **run(12, 7)) == [phase("Linear", start=0.5, until=2), phase("Constant")]  # int(3.5) iterations
    with pytest.raises(SolverError, match=r"param_scheduler.end: is a part of an epoch.*facts={'iters_per_epoch'"):
        imported(config)
    with pytest.raises(SolverError, match="end: must be a whole number"):
        imported({"type": "LinearLR", "end": 2.5})
    stairs = {"type": "StepLR", "step_size": 2.5, **CONVERT}
    assert lr(stairs, **run(12, 6)) == phase("Step", every="2.5ep")
    assert lr(stairs, **run(12, 5)) == phase("Step", every=25)  # only at whole multiples of 12.5
    never = imported({"type": "MultiStepLR", "milestones": [2.5, 4]}, **run(12))
    assert never.spec.to_dict()["schedules"]["lr"] == phase("MultiStep", at=["4ep"])
    assert any("milestones: the scheduler is never at 2.5" in note for note in never.notes)
    own = {"type": "StepLR", "step_size": 2, **CONVERT, "epoch_length": 8}
    assert lr(own, **run(12, 6)) == phase("Step", every=16)
    assert lr(own | {"epoch_length": 6}, **run(12, 6)) == phase("Step", every="2ep")


# ------------------------------------------------------------------ forms, notes and errors


def test_forms(tmp_path):
    base = tmp_path / "schedule.py"
    base.write_text(
        "train_cfg = dict(by_epoch=True, max_epochs=12)\n"
        "param_scheduler = [\n"
        "    dict(type='LinearLR', start_factor=1.0 / 1000, by_epoch=False, begin=0, end=10),\n"
        "    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]\n"
    )
    child = tmp_path / "child.py"
    child.write_text("_base_ = './schedule.py'\nmodel = dict(type='Net')\n")
    known = run(12)
    expected = [RAMP, phase("MultiStep", at=["8ep", "11ep"])]
    data = [WARMUP, {"type": "MultiStepLR", "milestones": [8, 11], "end": 12}]
    for name, text in (
        ("a.json", json.dumps({"param_scheduler": data})),
        ("b.yaml", json.dumps({"param_scheduler": data})),
    ):
        (tmp_path / name).write_text(text)
        assert lr(tmp_path / name, **known) == expected
    assert lr(base, **known) == lr(str(child), **known) == lr(base.read_text(), **known) == expected
    assert lr(data, **known) == lr(tuple(data), **known) == expected
    calls = (
        "LinearLR(optimizer, start_factor=0.001, by_epoch=False, end=10)\nMultiStepLR(optimizer, milestones=[8, 11])"
    )
    assert lr(calls, **known) == expected
    lazy = "param_scheduler = [dict(type=MultiStepLR, milestones=[8, 11])]"
    assert lr(lazy, **known) == expected[1]
    assert imported({"param_scheduler": None, "train_cfg": {"by_epoch": True, "max_epochs": 3}}).spec.schedules == {}


def test_notes_and_strict():
    config = whole(WARMUP, {"by_epoch": True, "max_epochs": 12}, model={"type": "Net"}, foo=1)
    found = imported(config, iters=3)
    assert found.unmapped == ("model", "foo")
    assert "model: is not part of the schedules" in found.notes
    assert any(note.startswith("facts.iters: is not used") for note in found.notes)
    with pytest.raises(SolverError, match="model: is not mapped"):
        from_mmengine(config, strict=True)
    assert from_mmengine(whole(WARMUP, {"by_epoch": True, "max_epochs": 12}), strict=True).unmapped == ()
    once = imported({"type": "LinearLR", "end": 1, **ITER})
    assert any("has one move only, and so stays at its start_factor" in note for note in once.notes)
    rises = imported({"type": "CosineAnnealingLR", "T_max": 6}, **run(12))
    assert any("T_max: the scheduler goes on beyond it: it rises again" in note for note in rises.notes)


LIST = {"type": "MultiStepLR", "milestones": [3]}
BAD = [
    (
        {"type": "LinearRL"},
        r"param_scheduler.type: is not a scheduler of MMEngine; got 'LinearRL'; did you mean LinearLR",
    ),
    ({"type": "OneCycleMomentum"}, "is not a scheduler of MMEngine"),
    ({"type": "LinearParamScheduler"}, "param_name: is missing"),
    ({"type": "LinearParamScheduler", "param_name": "betas"}, "param_name: is not an option with one number"),
    ({"type": "OneCycleParamScheduler", "param_name": "momentum"}, "param_name: OneCycle moves the lr only"),
    ({"type": "LinearLR", "start_factor": 0, "end": 5}, "start_factor: MMEngine stops with a division by zero"),
    ({"type": "LinearLR", "start_factor": 1.5}, "start_factor: must lie between 0 and 1; got 1.5"),
    ({"type": "LinearLR", "start_factor": "a"}, "start_factor: must be a number"),
    ({"type": "ConstantLR", "factor": 0}, "factor: MMEngine stops with a division by zero"),
    ({"type": "ConstantLR", "begin": 5, "end": 5}, "end: must be larger than begin; got begin 5ep, end 5ep"),
    ({"type": "ConstantLR", "begin": -1}, "begin: must be at least 0"),
    ({"type": "ConstantLR", "end": None}, "end: must be a number; got None"),
    ({"type": "ConstantLR", "last_step": 4}, "last_step: resumes a run of MMEngine"),
    ({"type": "ConstantLR", "by_epoch": False, **CONVERT}, "convert_to_iter_based: only a scheduler by epoch"),
    ({"type": "ConstantLR", "by_epoch": 1}, "by_epoch: must be true or false"),
    ({"type": "StepLR"}, "step_size: is missing"),
    ({"type": "StepLR", "step_size": 0}, "step_size: must be > 0"),
    ({"type": "ExponentialLR"}, "gamma: is missing"),
    ({"type": "MultiStepLR", "milestones": 5}, "milestones: must be a list of numbers"),
    ({"type": "MultiStepLR", "milestones": ["a"]}, r"milestones\[0\]: must be a number"),
    (
        {"type": "CosineAnnealingLR", "eta_min": 0.1, "eta_min_ratio": 0.1},
        "one of eta_min and eta_min_ratio must be given",
    ),
    ({"type": "CosineAnnealingLR", "eta_min": -1}, "eta_min: must be at least 0"),
    ({"type": "CosineAnnealingLR", "T_max": -1}, "T_max: must be > 0"),
    ({"type": "PolyLR", "power": -1}, "power: MMEngine stops with a division by zero"),
    (
        {"type": "CosineRestartLR", "periods": [5], "restart_weights": [1]},
        "one of eta_min and eta_min_ratio must be given",
    ),
    ({"type": "CosineRestartLR", "periods": [5, 5], "eta_min": 0}, "restart_weights: must have one weight for each"),
    ({"type": "CosineRestartLR", "periods": [0], "eta_min": 0}, r"periods\[0\]: must be a whole number > 0"),
    ({"type": "OneCycleLR", "pct_start": 1}, "pct_start: must be a float from 0.0 to 1.0; got 1"),
    ({"type": "OneCycleLR", "total_steps": 0}, "total_steps: must be a whole number > 0"),
    (
        {"type": "OneCycleLR", "total_steps": 10, "pct_start": 0.1},
        "pct_start: leaves the rise no step, and MMEngine stops",
    ),
    ({"type": "OneCycleLR", "anneal_strategy": "cosine"}, "anneal_strategy: unknown value"),
    ({"type": "ReduceOnPlateauLR", "by_epoch": False}, "by_epoch: ReduceOnPlateau moves with epochs only"),
    ({"type": "ReduceOnPlateauLR", **CONVERT}, "convert_to_iter_based: ReduceOnPlateau cannot be converted"),
    ({"type": "ReduceOnPlateauLR", "factor": 1.0}, "factor: must be > 0 and < 1"),
    ({"type": "ReduceOnPlateauLR", "rule": "min"}, "rule: unknown value"),
    ([LIST, {"milestones": [3]}], r"param_scheduler\[1\].type: is missing"),
    ([LIST, 3], r"param_scheduler\[1\]: must be a mapping"),
    ({"param_scheduler": 3}, "param_scheduler: is not a scheduler"),
    (
        {"param_scheduler": {"generator": [LIST], "discriminator": []}},
        "param_scheduler: has schedulers for several optimisers",
    ),
    ("LinearLR(optimizer, 0.1)", r"param_scheduler\[0\]: has arguments without a name"),
    (
        [{"type": "OneCycleLR", "eta_max": 1.0, **ITER}, {"type": "ExponentialLR", "gamma": 0.9, **ITER}],
        r"param_scheduler\[0\]: sets the value whatever the others made of it",
    ),
    (whole(LIST, {"by_epoch": True, "max_iters": 5}), "train_cfg.max_iters: is not for EpochBasedTrainLoop"),
    (whole(LIST, {"by_epoch": True, "type": "EpochBasedTrainLoop"}), "train_cfg.by_epoch: cannot stand beside type"),
    (whole(LIST, {"by_epoch": True, "max_epochs": 2.5}), "train_cfg.max_epochs: must be a whole number"),
    ({"param_schedular": LIST}, "param_scheduler: is missing; got keys param_schedular; rename param_schedular"),
    ({"lr_config": {"policy": "step", "step": [3]}}, "is not for from_mmengine: lr_config.*use interop.from_mmcv"),
    ({}, "param_scheduler: is missing"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=lambda x: x if isinstance(x, str) else None)
def test_bad_configs(config, message):
    with pytest.raises(SolverError, match=message):
        imported(config)


def test_facts_are_checked():
    with pytest.raises(SolverError, match=r"facts\.train_loop: must be by_epoch or by_iter"):
        imported(LIST, train_loop="epoch")
    mixed = whole({"type": "CosineAnnealingLR", "T_max": 500, **ITER}, {"by_epoch": True, "max_epochs": 12})
    with pytest.raises(SolverError, match=r"T_max: counts iterations beside epochs.*facts={'iters_per_epoch'"):
        imported(mixed)
    late = functools.partial(imported, {"type": "LinearLR", "start_factor": 0.0, "end": 5})
    assert late(**run(1)).spec.curve("lr", [1.0], total_steps=6, steps_per_epoch=6).tolist() == [[0.0]] * 6
