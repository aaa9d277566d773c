"""detectron2's configs and fvcore's schedulers: what they become, and the numbers by arithmetic of the test's own."""

import json
import math
from bisect import bisect_right

import numpy as np
import pytest

from lightning_solver import SolverError
from lightning_solver.interop.detectron2 import from_detectron2
from lightning_solver.schedules import (
    Clip,
    Constant,
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    Over,
    Polynomial,
    Step,
    Warmup,
)


def lr_of(imported):
    """The native YAML of the schedule."""
    return imported.spec.to_dict()["schedules"]["lr"]


def phases_of(imported):
    lr = imported.spec.schedules["lr"]
    return list(lr) if isinstance(lr, tuple) else [lr]


def curve_of(imported, total):
    return imported.spec.curve("lr", [1.0], total_steps=total)[:, 0]


def agree(imported, total, expected):
    values = [expected(step) for step in range(total)]
    np.testing.assert_allclose(curve_of(imported, total), values, rtol=1e-12, atol=1e-15)


def cosine(share, end=0.0):
    return end + (1 - end) * (1 + math.cos(math.pi * share)) / 2


def lerp(start, end, share):
    return start + (end - start) * share


def old_factor(step, iters, factor=0.001):
    return 1.0 if step >= iters else lerp(factor, 1.0, step / iters)


# ------------------------------------------------------------------ the seed document: build_lr_scheduler of 2020

SEED = {
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "BASE_LR": 0.001,
        "MAX_ITER": 40000,
        "STEPS": (30000,),
        "GAMMA": 0.1,
        "WARMUP_FACTOR": 1.0 / 1000,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
    }
}
"""What the function of the seed document reads, at the defaults of its time."""


@pytest.mark.parametrize("legacy", [False, True])
def test_the_seeds_multi_step_config(legacy):
    imported = from_detectron2({**SEED, "legacy_class": legacy})
    assert lr_of(imported) == [
        {"class_path": "Linear", "init_args": {"start": 0.001, "until": 1000}},
        {"class_path": "MultiStep", "init_args": {"at": [30000]}},
    ]
    agree(imported, 40000, lambda t: old_factor(t, 1000) * 0.1 ** (t >= 30000))


def test_the_seeds_cosine_config_multiplies_in_its_own_time_and_leads_to_the_curve_today():
    solver = {**SEED["SOLVER"], "LR_SCHEDULER_NAME": "WarmupCosineLR", "MAX_ITER": 5000}
    today = from_detectron2({"SOLVER": solver})
    then = from_detectron2({"SOLVER": {**solver, "legacy_class": True}})
    ramp = {"class_path": "Linear", "init_args": {"start": 0.001, "until": 1000}}
    for imported, meets in ((today, "interpolate"), (then, "multiply")):
        of = {"class_path": "Cosine"}
        assert lr_of(imported) == {"class_path": "Warmup", "init_args": {"ramp": ramp, "of": of, "meets": meets}}
    agree(then, 5000, lambda t: old_factor(t, 1000) * cosine(t / 5000))
    agree(today, 5000, lambda t: lerp(0.001, cosine(0.2), t / 1000) if t < 1000 else cosine(t / 5000))


def test_the_seeds_other_names_are_refused():
    with pytest.raises(
        SolverError, match=r"SOLVER.LR_SCHEDULER_NAME: unknown value; got 'WarmupCosinLR'; did you mean"
    ):
        from_detectron2({"SOLVER": {**SEED["SOLVER"], "LR_SCHEDULER_NAME": "WarmupCosinLR"}})


CLASSES = {
    "WarmupMultiStepLR(optimizer, [60, 80], 0.1, warmup_factor=0.001, warmup_iters=20, warmup_method='linear')": (
        [Linear(0.001, until=20), MultiStep([60, 80])],
        lambda t: old_factor(t, 20) * 0.1 ** bisect_right([60, 80], t),
    ),
    "WarmupMultiStepLR(optimizer, milestones=[40, 80])": (
        [Warmup(Linear(0.001, until=1000), MultiStep([40, 80]), "multiply")],
        lambda t: old_factor(t, 1000) * 0.1 ** bisect_right([40, 80], t),
    ),
    "WarmupMultiStepLR(optimizer, milestones=[10, 30], gamma=0.5, warmup_iters=20, warmup_method='constant')": (
        [Warmup(Constant(0.001, until=20), MultiStep([10, 30], 0.5), "multiply")],
        lambda t: (0.001 if t < 20 else 1) * 0.5 ** bisect_right([10, 30], t),
    ),
    "WarmupMultiStepLR(optimizer, milestones=[20, 20, 60], warmup_iters=20)": (
        [
            Linear(0.001, until=20),
            Constant(until=20),
            Constant(0.1**2, until=60),
            Constant(0.1**3),
        ],
        lambda t: old_factor(t, 20) * 0.1 ** bisect_right([20, 20, 60], t),
    ),
    "WarmupMultiStepLR(optimizer, [0, 60], warmup_iters=0)": (
        [MultiStep([60], start=0.1)],
        lambda t: 0.1 ** bisect_right([0, 60], t),
    ),
    "WarmupMultiStepLR(optimizer, [0, 60], warmup_factor=0.5, warmup_iters=10)": (
        [Linear(0.05, 0.1, until=10), MultiStep([60], start=0.1)],
        lambda t: old_factor(t, 10, 0.5) * 0.1 ** bisect_right([0, 60], t),
    ),
    "lr_scheduler.WarmupCosineLR(optimizer, 100, warmup_factor=0.001, warmup_iters=20, warmup_method='linear')": (
        [Warmup(Linear(0.001, until=20), Cosine(), "multiply")],
        lambda t: old_factor(t, 20) * cosine(t / 100),
    ),
    "WarmupCosineLR(optimizer, max_iters=100, warmup_iters=0, warmup_method='whatever')": (
        [Cosine()],
        lambda t: cosine(t / 100),
    ),
    "WarmupCosineLR(optimizer, max_iters=40, warmup_iters=0)": (  # it rises again, and falls again
        [Cosine(until=40), Cosine(0.0, 1.0, until=80), Cosine(until=120)],
        lambda t: cosine(t / 40),
    ),
    "WarmupCosineLR(optimizer, max_iters=400, warmup_iters=10, warmup_factor=1.0)": (
        [Cosine(until=400)],
        lambda t: cosine(t / 400),
    ),
    "WarmupPolyLR(optimizer, 100, warmup_iters=10)": (
        [Warmup(Linear(0.001, until=10), Polynomial(0.9), "multiply")],
        lambda t: old_factor(t, 10) * (1 - t / 100) ** 0.9,
    ),
    "WarmupPolyLR(optimizer, 100, warmup_iters=10, constant_ending=0.2)": (
        [Warmup(Linear(0.001, until=10), Clip(Polynomial(0.9), min=0.2), "multiply")],
        lambda t: old_factor(t, 10) * max((1 - t / 100) ** 0.9, 0.2 * (t >= 10)),
    ),
    # The floor is looked at only once the warm-up is over.
    "WarmupPolyLR(optimizer, 100, 0.1, 60, power=2, constant_ending=0.5)": (
        [Warmup(Linear(0.1, until=60), Over(Polynomial(2.0), end=100), "multiply", until=60), Constant(0.5)],
        lambda t: old_factor(t, 60, 0.1) * (1 - t / 100) ** 2 if t < 60 else 0.5,
    ),
    "WarmupPolyLR(optimizer, 100, warmup_iters=0, constant_ending=1.5)": ([Constant(1.5)], lambda t: 1.5),
    "WarmupPolyLR(optimizer, 100, warmup_iters=0, power=0, constant_ending=0.5)": ([Constant()], lambda t: 1.0),
    "WarmupPolyLR(optimizer, 99, warmup_iters=0)": (
        [Polynomial(0.9, until=99), Constant("previous")],
        lambda t: (1 - t / 99) ** 0.9,
    ),
}
"""The old classes in a run of 100 steps."""


@pytest.mark.parametrize("text", CLASSES)
def test_the_old_classes(text):
    phases, expected = CLASSES[text]
    imported = from_detectron2(text, facts={"total_iters": 100})
    assert phases_of(imported) == phases
    agree(imported, 100, expected)


@pytest.mark.parametrize(
    "config",
    [
        {"type": "WarmupMultiStepLR", "legacy_class": True, "milestones": [60, 80], "warmup_iters": 15},
        {"_target_": "detectron2.solver.lr_scheduler.WarmupMultiStepLR", "milestones": [60, 80], "warmup_iters": 15},
        {"WarmupMultiStepLR": {"milestones": [60, 80], "warmup_iters": 15}},
        "optimizer = torch.optim.SGD(parameters, lr=0.1)\nwarm = 15\n"
        "scheduler = WarmupMultiStepLR(optimizer, [60, 80], warmup_iters=warm)\n",
        ["WarmupMultiStepLR(optimizer, milestones=[60, 80], warmup_iters=15)"],
    ],
)
def test_an_old_class_in_any_form(config):
    assert phases_of(from_detectron2(config)) == [Linear(0.001, until=15), MultiStep([60, 80])]


# ------------------------------------------------------------------ yacs


def solver(**keys):
    """A config of 100 steps with 10 steps of warm-up."""
    return {"SOLVER": {"MAX_ITER": 100, "WARMUP_ITERS": 10, **keys}}


CONFIGS = {
    "steps": (solver(STEPS=[60, 80]), [Linear(0.001, until=10), MultiStep([60, 80])]),
    "steps-text": (solver(STEPS="(60, 80)", WARMUP_FACTOR="1e-2"), [Linear(0.01, until=10), MultiStep([60, 80])]),
    "no-steps": (solver(STEPS=()), [Linear(0.001, until=10), Constant()]),
    "steps-beyond": (solver(STEPS=[60, 101, 200]), [Linear(0.001, until=10), MultiStep([60])]),
    "no-warm-up": (solver(STEPS=[60], WARMUP_ITERS=0), [MultiStep([60])]),
    "constant": (
        solver(STEPS=[60], WARMUP_METHOD="constant", WARMUP_FACTOR=0.2),
        [Constant(0.2, until=10), MultiStep([60])],
    ),
    "gamma-0": (solver(STEPS=[60, 80], GAMMA=0), [Linear(0.001, until=10), Constant(until=60), Constant(0.0)]),
    "gamma-1": (solver(STEPS=[60, 80], GAMMA=1), [Linear(0.001, until=10), Constant()]),
    # The warm-up leads to what the steps within it leave.
    "step-in-warm-up": (
        solver(STEPS=[5, 60]),
        [Warmup(Linear(0.001, until=10), MultiStep([5, 60]), "interpolate")],
    ),
    "step-at-warm-up's-end": (
        solver(STEPS=[10]),
        [Warmup(Linear(0.001, until=10), MultiStep([10]), "interpolate")],
    ),
    "all-warm-up": (solver(STEPS=[40], WARMUP_ITERS=100), [Linear(0.001, 0.1)]),
    "longer-warm-up": (solver(STEPS=[40], WARMUP_ITERS=1000, WARMUP_FACTOR=0.1), [Constant(0.1)]),
    "rescaled": (
        solver(STEPS=[60, 80], RESCALE_INTERVAL=True),
        [Linear(0.001, until=10), MultiStep([64, 82])],  # 10 + 60 * 0.9
    ),
    "cosine": (
        solver(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR=0.02, BASE_LR_END=0.01),
        [Warmup(Linear(0.001, until=10), Cosine(end=0.5), "interpolate")],
    ),
    "cosine-rescaled": (
        solver(LR_SCHEDULER_NAME="WarmupCosineLR", RESCALE_INTERVAL=True),
        [Linear(0.001, until=10), Cosine()],
    ),
    "cosine-constant": (
        solver(LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_METHOD="constant"),
        [Warmup(Constant(0.001, until=10), Cosine(), "beneath")],
    ),
    "cosine-all-warm-up": (solver(LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_ITERS=100), [Linear(0.001, 0.0)]),
    "gamma": (
        solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR"),
        [Warmup(Linear(0.001, until=10), Step(25), "interpolate")],
    ),
    "gamma-uneven-rescaled": (
        solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=6, GAMMA=0.5, RESCALE_INTERVAL=True),
        [Linear(0.001, until=10), Step("90/7%", 0.5)],
    ),
    "poly": (
        solver(LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=2, POLY_LR_CONSTANT_ENDING=0.25),
        [Warmup(Linear(0.001, until=10), Clip(Polynomial(2.0), min=0.25), "multiply")],
    ),
}


def by_hand(keys):
    """The factor at a step by detectron2's formulas, written down anew."""
    total, iters = keys["MAX_ITER"], keys["WARMUP_ITERS"]
    factor = float(keys.get("WARMUP_FACTOR", 0.001))
    name, gamma = keys.get("LR_SCHEDULER_NAME", "WarmupMultiStepLR"), keys.get("GAMMA", 0.1)
    steps = [60, 80] if keys.get("STEPS") == "(60, 80)" else [step for step in keys.get("STEPS", ()) if step <= total]
    parts = keys.get("NUM_DECAYS", 3) + 1

    def curve(share):
        if name == "WarmupCosineLR":
            return cosine(share, keys.get("BASE_LR_END", 0.0) / keys.get("BASE_LR", 0.001))
        if name == "WarmupMultiStepLR":
            return gamma ** bisect_right(steps, int((share + 1e-6) * total))
        return gamma ** int((share + 1e-6) * parts)

    def value(step):
        if name == "WarmupPolyLR":
            return old_factor(step, iters) * max((1 - step / total) ** 2, 0.25 * (step >= iters))
        length = min(iters / total, 1.0)
        rescale = keys.get("RESCALE_INTERVAL", False)
        if step / total + 1e-6 > length:
            return curve((step / total - length) / (1 - length) if rescale else step / total)
        start = factor * curve(0.0)
        if keys.get("WARMUP_METHOD") == "constant":
            return start
        return lerp(start, curve(0.0 if rescale else length), step / total / length)

    return value


@pytest.mark.parametrize("name", CONFIGS)
def test_yacs(name):
    config, phases = CONFIGS[name]
    imported = from_detectron2(config)
    assert phases_of(imported) == phases
    agree(imported, 100, by_hand(config["SOLVER"]))
    assert "SOLVER.MAX_ITER: the schedule is made for a run of 100 steps: Trainer(max_steps=100)" in imported.notes
    assert phases_of(from_detectron2(config["SOLVER"])) == phases  # SOLVER by itself


def test_the_defaults_are_those_of_detectron2():
    assert phases_of(from_detectron2({"SOLVER": {}})) == [Linear(0.001, until=1000), MultiStep([30000])]
    gamma = from_detectron2({"SOLVER": {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_ITERS": 0}})
    assert phases_of(gamma) == [Step(10000)]
    poly = from_detectron2({"SOLVER": {"LR_SCHEDULER_NAME": "WarmupPolyLR", "MAX_ITER": 2000}})
    assert phases_of(poly) == [Warmup(Linear(0.001, until=1000), Polynomial(0.9), "multiply")]


@pytest.mark.parametrize(
    ("keys", "run", "phases"),
    [
        ({"STEPS": [60, 80]}, 70, [Linear(0.001, until=10), MultiStep([60, 80])]),
        (
            {"LR_SCHEDULER_NAME": "WarmupCosineLR"},
            50,
            [Warmup(Linear(0.001, until=10), Cosine(), "interpolate", until=100)],
        ),
        (
            {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 0.0005},
            250,
            [
                Warmup(Linear(0.001, until=10), Cosine(end=0.5), "interpolate", until=100),
                Cosine(0.5, 1.0, until=200),
                Cosine(1.0, 0.5, until=300),
            ],
        ),
        (
            {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "NUM_DECAYS": 6, "WARMUP_ITERS": 0},
            50,
            [Step("100/7st")],
        ),
        ({"STEPS": [60]}, 101, [Linear(0.001, until=10), MultiStep([60], until=100), Constant("previous")]),
    ],
)
def test_a_run_of_another_length(keys, run, phases):
    imported = from_detectron2(solver(**keys), facts={"total_iters": run})
    assert phases_of(imported) == phases
    agree(imported, run, by_hand(solver(**keys)["SOLVER"]))
    assert f"SOLVER.MAX_ITER: the schedule is made for 100 steps, while the run has {run}" in imported.notes


def test_switches_come_early_in_a_long_run():
    """fvcore adds 1e-6 to the share of training done: that is four steps of four million."""
    config = {"SOLVER": {"MAX_ITER": 4_000_000, "STEPS": [3_000_000], "WARMUP_ITERS": 100_000}}
    imported = from_detectron2(config)
    ramp, steps = phases_of(imported)
    assert steps == MultiStep([2_999_996])
    assert (ramp.start, ramp.until) == (0.001, 99_997)
    assert ramp.end == pytest.approx(lerp(0.001, 1.0, 0.99997))
    assert any("1e-6" in note and "earlier" in note for note in imported.notes)
    curve = imported.spec.curve("lr", [1.0], total_steps=4_000_000)[:, 0]
    expected = by_hand(config["SOLVER"])
    for step in (0, 99_994, 99_995, 99_996, 99_997, 100_000, 2_999_995, 2_999_996, 3_000_000):
        assert curve[step] == pytest.approx(expected(step), rel=1e-12)


def test_a_cosine_of_a_long_run_meets_its_warm_up_early():
    keys = {"LR_SCHEDULER_NAME": "WarmupCosineLR", "MAX_ITER": 2_000_000, "WARMUP_ITERS": 1000}
    imported = from_detectron2({"SOLVER": keys})
    (warmup,) = phases_of(imported)
    assert (warmup.ramp.until, warmup.meets) == (999, "beneath")  # step 998 + 1e-6 of the run is step 1000, not beyond
    curve = imported.spec.curve("lr", [1.0], total_steps=2_000_000)[:1005, 0]
    np.testing.assert_allclose(curve, [by_hand(keys)(step) for step in range(1005)], rtol=1e-12)


REFUSED = {
    "step-at-the-end": (solver(STEPS=[60, 100]), r"SOLVER.STEPS\[1\]: must lie before the end at 100; got 100"),
    "unsorted": (solver(STEPS=[80, 60]), r"SOLVER.STEPS\[1\]: must be more than 80; got 60; sort the list"),
    "twice": (solver(STEPS=[60, 60]), r"SOLVER.STEPS\[1\]: must be more than 60"),
    "at-0": (solver(STEPS=[0]), r"SOLVER.STEPS\[0\]: must be more than 0"),
    "no-list": (solver(STEPS=60), "SOLVER.STEPS: must be a list of numbers; got 60"),
    "short-run": (solver(MAX_ITER=2, STEPS=[1, 1, 1]), r"SOLVER.MAX_ITER: is less than the number of values"),
    "no-run": (solver(MAX_ITER=0), "SOLVER.MAX_ITER: must be at least 1"),
    "half": (solver(MAX_ITER=99.5), "SOLVER.MAX_ITER: must be a whole number"),
    "method": (solver(STEPS=[], WARMUP_METHOD="burnin"), "SOLVER.WARMUP_METHOD: unknown value; got 'burnin'"),
    "method-poly": (
        solver(LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_METHOD="burnin"),
        "SOLVER.WARMUP_METHOD: unknown value; got 'burnin'",
    ),
    "no-number": (solver(STEPS=[], WARMUP_ITERS="ten"), "SOLVER.WARMUP_ITERS: must be a number; got 'ten'"),
    "negative-gamma": (solver(STEPS=[50], GAMMA=-0.5), "SOLVER.GAMMA: gives a factor below 0"),
    "fixed-negative-gamma": (
        solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", GAMMA=-0.5),
        "SOLVER.GAMMA: must be > 0",
    ),
    "no-decays": (
        solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=0),
        "SOLVER.NUM_DECAYS: must be at least 1",
    ),
    "end-above": (
        solver(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.1),
        "SOLVER.BASE_LR_END: must not lie above BASE_LR; got 0.1 of 0.001",
    ),
    "base-0": (solver(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR=0), "SOLVER.BASE_LR_END: must not lie above BASE_LR"),
    # detectron2 asks for the value where the warm-up ends, and there is none at the end of training.
    "gamma-all-warm-up": (
        solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", WARMUP_ITERS=100),
        "SOLVER.GAMMA: has no value at the end of training",
    ),
    "legacy": (
        {**solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR"), "legacy_class": True},
        "SOLVER.LR_SCHEDULER_NAME: is not one of the old classes",
    ),
    "legacy-unsorted": (
        {**solver(STEPS=[80, 60]), "legacy_class": True},
        r"SOLVER.STEPS: is not in increasing order; got \[80, 60\]",
    ),
    "pet": (solver(LR_POLICY="STEP"), "SOLVER: is not for from_detectron2: LR_POLICY is a key of another system"),
    "mmcv": ({"lr_config": {"policy": "step"}}, "config: is not for from_detectron2.*use interop.from_mmcv"),
    "mmengine": ({"param_scheduler": [{"type": "MultiStepLR"}]}, "use interop.from_mmengine"),
    "nothing": ({"MODEL": {}, "DATASETS": {}}, "config: has no schedule of detectron2; got keys MODEL, DATASETS"),
    "solver-no-mapping": ({"SOLVER": 3}, "SOLVER: must be a mapping; got 3"),
    "base": ({"_BASE_": "base.yaml", "SOLVER": {}}, r"config._BASE_: names files beneath this config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_detectron2_refuses(name):
    config, message = REFUSED[name]
    with pytest.raises(SolverError, match=message):
        from_detectron2(config)


@pytest.mark.parametrize(
    ("keys", "run", "message"),
    [
        ({"STEPS": [60]}, 102, "SOLVER.GAMMA: fails at the end of training, while the run has 102 steps"),
        ({"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"}, 101, "SOLVER.GAMMA: fails at the end of training"),
        ({"LR_SCHEDULER_NAME": "WarmupPolyLR"}, 102, r"SOLVER.MAX_ITER: \(1 - t / 100\) \*\* 0.9 has no value beyond"),
        (
            {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "MAX_ITER": 2_000_000},
            2_000_000,
            "raises IndexError before",
        ),
    ],
)
def test_a_run_that_the_schedule_does_not_reach(keys, run, message):
    with pytest.raises(SolverError, match=message):
        from_detectron2(solver(**keys), facts={"total_iters": run})


def notes_of(config, **options):
    return "\n".join(from_detectron2(config, **options).notes)


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (solver(STEPS=[60, 101, 200]), "SOLVER.STEPS: 101, 200 lies beyond MAX_ITER and is left out"),
        (
            solver(STEPS=[5]),
            "SOLVER.WARMUP_ITERS: a drop comes before the warm-up ends: the warm-up leads to the value",
        ),
        (solver(STEPS=[], WARMUP_ITERS=1000), "SOLVER.WARMUP_ITERS: the warm-up lasts longer than the run"),
        (solver(STEPS=[], REFERENCE_WORLD_SIZE=8), "SOLVER.REFERENCE_WORLD_SIZE: detectron2 rescales"),
        (
            solver(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR=0.02, BASE_LR_END=0.002),
            "SOLVER.BASE_LR_END: only its ratio to BASE_LR counts: every group ends at 0.1 times its own rate",
        ),
        (solver(LR_SCHEDULER_NAME="WarmupCosineLR", STEPS=[60]), "SOLVER.STEPS: is not used by WarmupCosineLR"),
        (
            {**solver(STEPS=[60], RESCALE_INTERVAL=True), "legacy_class": True},
            "is not used by the old WarmupMultiStepLR",
        ),
        (
            solver(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR"),
            "raises IndexError in the scheduler's step after the last",
        ),
        (
            {"param_scheduler": "ConstantParamScheduler(0.5)"},
            "ConstantParamScheduler raises RuntimeError in the scheduler's",
        ),
        (
            "WarmupMultiStepLR(optimizer, [5], warmup_iters=9)",
            "config.milestones: a drop comes before the warm-up ends",
        ),
        ("WarmupCosineLR(optimizer, 50, last_epoch=20)", "config.last_epoch: resumes a run"),
        ("MultiStepParamScheduler([1, 0.1], milestones=[6, 9])", "give facts={'total_iters': ...} for such a run"),
        (solver(STEPS=[], WARMUP_ITER=3), "SOLVER.WARMUP_ITER: is not mapped; did you mean WARMUP_ITERS?"),
    ],
)
def test_notes(config, note):
    assert note in notes_of(config)


def test_every_key_is_mapped_or_named():
    config = {
        "VERSION": 2,
        "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN", "MASK_ON": True},
        "OUTPUT_DIR": "./output",
        "SOLVER": {
            **solver(STEPS=[60])["SOLVER"],
            **{"BASE_LR": 0.02, "IMS_PER_BATCH": 16, "CHECKPOINT_PERIOD": 5000, "CLIP_GRADIENTS": {"ENABLED": True}},
        },
    }
    imported = from_detectron2(config)
    assert set(imported.unmapped) == {
        *("VERSION", "MODEL", "OUTPUT_DIR", "SOLVER.IMS_PER_BATCH"),
        "SOLVER.CHECKPOINT_PERIOD",
    }
    assert "SOLVER.IMS_PER_BATCH: is not part of the schedules" in imported.notes
    with pytest.raises(SolverError, match=r"SOLVER.IMS_PER_BATCH: is not mapped; got 5 such keys"):
        from_detectron2(config, strict=True)
    assert from_detectron2(solver(STEPS=[60]), strict=True).unmapped == ()
    assert "facts.total_iter: is not used; did you mean total_iters?" in notes_of(config, facts={"total_iter": 3})


# ------------------------------------------------------------------ LazyConfig


LAZY = {
    # (multiplier, max_iter, phases, factor by hand)
    "WarmupParamScheduler(CosineParamScheduler(1.0, 0.01), warmup_length=0.05, warmup_factor=0.067)": (
        100,
        [Warmup(Linear(0.067, until="5%"), Cosine(end=0.01), "interpolate")],
        lambda t: cosine(t / 100, 0.01) if t >= 5 else lerp(0.067, cosine(0.05, 0.01), t / 5),
    ),
    # A warm-up that does not end at a step aims at the curve at its very end.
    "WarmupParamScheduler(CosineParamScheduler(1.0, 0.01), 0.1, 0.067, 'linear')": (
        100,
        [Warmup(Linear(0.1, cosine(0.067, 0.01), until="6.7%"), Cosine(end=0.01), "beneath")],
        lambda t: cosine(t / 100, 0.01) if t >= 7 else lerp(0.1, cosine(0.067, 0.01), t / 6.7),
    ),
    "WarmupParamScheduler(PolynomialDecayParamScheduler(1.0, 0.9), 0.1, 0.2, 'linear', True)": (
        100,
        [Linear(0.1, until="20%"), Polynomial(0.9)],
        lambda t: lerp(0.1, 1, t / 20) if t < 20 else (1 - (t - 20) / 80) ** 0.9,
    ),
    "L(WarmupParamScheduler)(scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], "
    "milestones=[6000, 8000, 9000]), warmup_length=1000 / 9000, warmup_method='linear', warmup_factor=0.001)": (
        9000,
        [Linear(0.001, until=1000), MultiStep([6000, 8000])],
        lambda t: old_factor(t, 1000) * 0.1 ** bisect_right([6000, 8000], t),
    ),
    "WarmupParamScheduler(ExponentialParamScheduler(2.0, 0.1), 0.5, 0.1, 'constant')": (
        50,
        [Warmup(Constant(1.0, until="10%"), Exponential(0.1, start=2.0), "beneath")],
        lambda t: 1.0 if t < 5 else 2 * 0.1 ** (t / 50),
    ),
    "LRMultiplier(optimizer, WarmupParamScheduler(LinearParamScheduler(1, 0), 0, 0.1), max_iter=50)": (
        50,
        [Warmup(Linear(0.0, until="10%"), Linear(1.0, 0.0), "interpolate")],
        lambda t: 0.9 * t / 5 if t < 5 else 1 - t / 50,
    ),
}


@pytest.mark.parametrize("text", LAZY)
def test_lazy_configs(text):
    total, phases, expected = LAZY[text]
    imported = from_detectron2(text if text.startswith("LR") else {"lr_multiplier": text, "train": {"max_iter": total}})
    assert phases_of(imported) == phases
    agree(imported, total, expected)
    assert f"for a run of {total} steps" in "\n".join(imported.notes)


def test_a_lazy_config_as_it_is_saved():
    inner = {"_target_": "fvcore.common.param_scheduler.MultiStepParamScheduler", "values": [1.0, 0.1, 0.01]}
    config = {
        "lr_multiplier": {
            "_target_": "detectron2.solver.WarmupParamScheduler",
            "scheduler": {**inner, "milestones": [60, 80], "num_updates": 90},
            "warmup_length": 0.1,
            "warmup_factor": 0.001,
        },
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02},
        "train": {"max_iter": 90, "amp": {"enabled": False}},
    }
    imported = from_detectron2(config)
    assert phases_of(imported) == [Linear(0.001, until="10%"), MultiStep([60, 80])]
    assert set(imported.unmapped) == {"train.amp"}
    agree(imported, 90, lambda t: old_factor(t, 9) * 0.1 ** bisect_right([60, 80], t))
    del config["train"]  # the shares hold for any run, the steps of this one need its length
    assert phases_of(from_detectron2(config))[1] == MultiStep(["200/3%", "800/9%"])
    assert phases_of(from_detectron2(config, facts={"total_iters": 90})) == phases_of(imported)


LAZY_FILE = """
from fvcore.common.param_scheduler import MultiStepParamScheduler
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler

max_iter = 184375
train = dict(output_dir="./output", max_iter=max_iter)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[163889, 177546],
        num_updates=train.max_iter,
    ),
    warmup_length=250 / train.max_iter,
    warmup_factor=0.001,
)
lr_multiplier.warmup_method = "constant"
"""


def test_a_lazy_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(LAZY_FILE)
    for config in (path, str(path), LAZY_FILE):
        imported = from_detectron2(config)
        assert phases_of(imported) == [Constant(0.001, until=250), MultiStep([163889, 177546])]
        assert {"train.output_dir", "max_iter"} <= set(imported.unmapped)


BASE = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
  STEPS: (60000, 80000)
  MAX_ITER: 90000
"""


def test_a_yacs_file_with_its_bases(tmp_path):
    (tmp_path / "Base.yaml").write_text(BASE)
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "3x.yaml"
    path.write_text("_BASE_: ../Base.yaml\nSOLVER:\n  STEPS: (210000, 250000)\n  MAX_ITER: 270000\n")
    imported = from_detectron2(path)
    assert phases_of(imported) == [Linear(0.001, until=1000), MultiStep([210000, 250000])]
    assert {"MODEL", "SOLVER.IMS_PER_BATCH"} == set(imported.unmapped)
    more = tmp_path / "more.yaml"
    more.write_text("_BASE_: [Base.yaml, sub/3x.yaml]\nSOLVER: {WARMUP_ITERS: 0}\n")
    assert phases_of(from_detectron2(str(more))) == [MultiStep([210000, 250000])]
    more.write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(SolverError, match=r"more.yaml: _BASE_: cannot be read"):
        from_detectron2(more)


def test_a_json_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(solver(STEPS=[60])))
    assert phases_of(from_detectron2(path)) == [Linear(0.001, until=10), MultiStep([60])]


# ------------------------------------------------------------------ fvcore

FVCORE = {
    "ConstantParamScheduler(0.5)": ([Constant(0.5)], lambda t: 0.5),
    "CosineParamScheduler(start_value=0.1, end_value=1)": ([Cosine(0.1, 1.0)], lambda t: 1 - 0.9 * cosine(t / 90)),
    "CosineParamScheduler(0.3, 0.3)": ([Constant(0.3)], lambda t: 0.3),
    "ExponentialParamScheduler(2.0, 0.02)": ([Exponential(0.02, start=2.0)], lambda t: 2 * 0.02 ** (t / 90)),
    "LinearParamScheduler(0.0001, 0.01)": ([Linear(0.0001, 0.01)], lambda t: lerp(0.0001, 0.01, t / 90)),
    "PolynomialDecayParamScheduler(0.1, 0.9)": ([Polynomial(0.9, 0.1)], lambda t: 0.1 * (1 - t / 90) ** 0.9),
    "PolynomialDecayParamScheduler(0.1, 0)": ([Constant(0.1)], lambda t: 0.1),
    "StepParamScheduler(120, [0.1, 0.01, 0.001])": (
        [Step(30, 0.1, 0.1)],
        lambda t: [0.1, 0.01, 0.001][t // 30],
    ),
    "StepParamScheduler(values=[1, 0.5, 0.25, 0.125], num_updates=4)": (
        [Step("25%", 0.5)],
        lambda t: 0.5 ** (t * 4 // 90),
    ),
    "StepParamScheduler(4, [1.0, 0.7, 0.2])": (
        [Constant(1.0, until=30), Constant(0.7, until=60), Constant(0.2)],
        lambda t: [1, 0.7, 0.2][t // 30],
    ),
    "StepParamScheduler(4, [0.7])": ([Constant(0.7)], lambda t: 0.7),
    "StepWithFixedGammaParamScheduler(0.1, 3, 0.1, 120)": ([Step("25%", 0.1, 0.1)], lambda t: 0.1 ** (1 + t * 4 // 90)),
    "MultiStepParamScheduler([1, 0.1, 0.01], 90, [60, 80])": (
        [MultiStep([60, 80])],
        lambda t: 0.1 ** bisect_right([60, 80], t),
    ),
    "MultiStepParamScheduler([1, 0.5, 0.25], num_updates=90)": ([MultiStep([30, 60], 0.5)], lambda t: 0.5 ** (t // 30)),
    "MultiStepParamScheduler([1, 0.5, 0.25], milestones=[2, 4, 10])": (
        [MultiStep(["20%", "40%"], 0.5)],
        lambda t: 0.5 ** bisect_right([18, 36], t),
    ),
    "MultiStepParamScheduler([1, 0.5, 0.1], milestones=[3, 4, 7])": (  # 38.57 and 51.43 of 90
        [Constant(1.0, until=39), Constant(0.5, until=52), Constant(0.1)],
        lambda t: [1, 0.5, 0.1][bisect_right([39, 52], t)],
    ),
    # Both come at step 1, and the first is never seen.
    "MultiStepParamScheduler([1, 0.5, 0.25, 0.125], milestones=[1, 2, 300, 900])": (
        [Constant(1.0, until=1), Constant(0.25, until=30), Constant(0.125)],
        lambda t: [1, 0.25, 0.125][bisect_right([1, 30], t)],
    ),
    "CompositeParamScheduler([ConstantParamScheduler(0.42), CosineParamScheduler(0.42, 1e-4)], [0.3, 0.7], "
    "['rescaled', 'rescaled'])": (
        [Constant(0.42, until="30%"), Cosine(0.42, 0.0001)],
        lambda t: 0.42 if t < 27 else 0.0001 + 0.4199 * cosine((t - 27) / 63),
    ),
    "CompositeParamScheduler(schedulers=[LinearParamScheduler(0.1, 1.0), CosineParamScheduler(1, 0)], "
    "interval_scaling=['fixed', 'fixed'], lengths=[1/9, 8/9])": (
        [Linear(0.1, 0.2, until=10), Over(Cosine(), begin=0)],
        lambda t: lerp(0.1, 1, t / 90) if t < 10 else cosine(t / 90),
    ),
    "CompositeParamScheduler([CosineParamScheduler(1, 0), ExponentialParamScheduler(1, 0.5)], [0.5, 0.5], "
    "['fixed', 'fixed'])": (
        [Over(Cosine(), end="100%", until="50%"), Over(Exponential(0.5), begin=0)],
        lambda t: cosine(t / 90) if t < 45 else 0.5 ** (t / 90),
    ),
    "CompositeParamScheduler([ExponentialParamScheduler(1, 0.5), ConstantParamScheduler(0.25)], [0.5, 0.5], "
    "['fixed', 'fixed'])": (
        [Exponential(0.5, "100%", until="50%"), Constant(0.25)],
        lambda t: 0.5 ** (t / 90) if t < 45 else 0.25,
    ),
    # A composite in a composite: its phases stand among the others.
    "CompositeParamScheduler([LinearParamScheduler(0, 1), CompositeParamScheduler([ConstantParamScheduler(1), "
    "CosineParamScheduler(1, 0)], [0.5, 0.5], ['fixed', 'rescaled'])], [0.2, 0.8], ['rescaled', 'rescaled'])": (
        [Linear(0.0, until="20%"), Constant(until="60%"), Cosine()],
        lambda t: t / 18 if t < 18 else 1.0 if t < 54 else cosine((t - 54) / 36),
    ),
    "CompositeParamScheduler([ConstantParamScheduler(1), ConstantParamScheduler(0.5)], [0.4995, 0.5], "
    "['fixed', 'fixed'])": ([Constant(until="49.95%"), Constant(0.5)], lambda t: 1.0 if t < 45 else 0.5),
    "WarmupParamScheduler(CompositeParamScheduler([ConstantParamScheduler(0.8), CosineParamScheduler(0.8, 0)], "
    "[0.5, 0.5], ['fixed', 'rescaled']), 0.25, 0.1)": (
        [Linear(0.2, 0.8, until="10%"), Constant(0.8, until="50%"), Cosine(0.8)],
        lambda t: lerp(0.2, 0.8, t / 9) if t < 9 else 0.8 if t < 45 else 0.8 * cosine((t - 45) / 45),
    ),
}
"""Schedulers in a run of 90 steps."""


@pytest.mark.parametrize("text", FVCORE)
def test_fvcore(text):
    phases, expected = FVCORE[text]
    for config in (text, {"param_scheduler": text}):
        imported = from_detectron2(config, facts={"total_iters": 90})
        assert phases_of(imported) == phases
    agree(imported, 90, expected)


@pytest.mark.parametrize("text", FVCORE)
def test_fvcore_without_a_run_is_in_per_cent(text):
    imported = from_detectron2(text)
    agree(imported, 90, FVCORE[text][1])
    durations = [value for phase in phases_of(imported) for value in (phase.until, *getattr(phase, "at", ())) if value]
    assert all(str(value).endswith("%") for value in durations)


@pytest.mark.parametrize("total", [1, 7, 90, 100, 137])
def test_a_warm_up_of_a_run_that_is_not_known(total):
    imported = from_detectron2("WarmupParamScheduler(CosineParamScheduler(1.0, 0.01), 0.1, 0.067)")
    end = cosine(0.067, 0.01)
    agree(
        imported, total, lambda t: lerp(0.1, end, t / total / 0.067) if t < 0.067 * total else cosine(t / total, 0.01)
    )


@pytest.mark.parametrize(
    ("text", "phases", "expected"),
    [
        ("LinearParamScheduler(0.5, 1.0)", [Linear(0.5, until=100), Linear(1.0, 1.25)], lambda t: 0.5 + t / 200),
        (
            "ExponentialParamScheduler(1, 0.1)",
            [Exponential(0.1, until=100), Exponential(0.1, 100, 0.1)],
            lambda t: 0.1 ** (t / 100),
        ),
        (
            "PolynomialDecayParamScheduler(1, 2)",
            [Polynomial(2.0, until=100), Polynomial(start=0.0, end=0.25, time_power=2.0)],
            lambda t: (1 - t / 100) ** 2,
        ),
        (
            "CompositeParamScheduler([ConstantParamScheduler(1), CosineParamScheduler(1, 0)], [0.5, 0.5], "
            "['rescaled', 'rescaled'])",
            [Constant(until=50), Cosine(until=100), Cosine(0.0, 1.0, until=150)],
            lambda t: 1.0 if t < 50 else cosine((t - 50) / 50),
        ),
    ],
)
def test_fvcore_beyond_its_end(text, phases, expected):
    imported = from_detectron2({"lr_multiplier": text, "train": {"max_iter": 100}}, facts={"total_iters": 150})
    assert phases_of(imported) == phases
    agree(imported, 150, expected)


FVCORE_REFUSED = {
    "LinearParamSchedule(1, 0)": "config: is not a scheduler of fvcore or detectron2; got LinearParamSchedule; did you",
    "LinearParamScheduler(1)": "config.end_value: is missing",
    "LinearParamScheduler(1, 0, 3)": "config: LinearParamScheduler has too many arguments",
    "LinearParamScheduler(1, end=0)": "config.end_value: is missing",
    "LinearParamScheduler(1, start_value=2, end_value=0)": "config.start_value: is given twice",
    "LinearParamScheduler(1, -0.5)": "config: gives a factor below 0",
    "CosineParamScheduler('1', [])": r"config.end_value: must be a number; got \[\]",
    "CosineParamScheduler(1, lowest())": "config.end_value: must be a number",
    "CosineParamScheduler(1, [x for x in y])": "config.end_value: is not a literal",
    "ExponentialParamScheduler(1, -2)": "config.decay: must be > 0",
    "PolynomialDecayParamScheduler(1, -2)": "config.power: must be at least 0",
    "StepParamScheduler(0, [1])": "config.num_updates: must be > 0",
    "StepParamScheduler(3, [])": "config: needs at least one value",
    "StepWithFixedGammaParamScheduler(0, 3, 0.1, 120)": "config.base_value: must be > 0",
    "StepWithFixedGammaParamScheduler(1, 3, 0, 120)": "config.gamma: must be > 0",
    "StepWithFixedGammaParamScheduler(1, 0, 0.1, 120)": "config.num_decays: must be at least 1",
    "MultiStepParamScheduler([1, 0.1])": "config.milestones: is missing, and num_updates too",
    "MultiStepParamScheduler([1, 0.1], 90, [30, 60])": "config.milestones: does not fit the values.*got 2 for 2 values",
    "MultiStepParamScheduler([1, 0.1], milestones=[30])": "config.milestones: does not fit the values.*got 1 for 2 values",
    "MultiStepParamScheduler([1, 0.1], 90, [90])": r"config.milestones\[0\]: must lie before the end at 90; got 90",
    "MultiStepParamScheduler([1, 0.1, 0], 90, [60, 30])": r"config.milestones\[1\]: must be more than 60; got 30",
    "MultiStepParamScheduler([1, 0.1, 0.01], 2)": "config.num_updates: is less than the number of values",
    "CompositeParamScheduler([], [], [])": "config.lengths: must give the length of every scheduler; got 0 for 0",
    "CompositeParamScheduler([ConstantParamScheduler(1)], [0.5, 0.5], ['fixed'])": "config.lengths: must give the length",
    "CompositeParamScheduler([ConstantParamScheduler(1)], [0.9], ['fixed'])": "config.lengths: must add up to 1; got 0.9",
    "CompositeParamScheduler([ConstantParamScheduler(1)], [1.0], ['scaled'])": (
        r"config.interval_scaling\[0\]: unknown value; got 'scaled'; did you mean rescaled"
    ),
    "CompositeParamScheduler([ConstantParamScheduler(1)], [1.0], [])": "config.interval_scaling: must say fixed or rescaled",
    "CompositeParamScheduler([ConstantParamScheduler()], [1.0], ['fixed'])": r"config.schedulers\[0\].value: is missing",
    "CompositeParamScheduler(ConstantParamScheduler(1), [1.0], ['fixed'])": "config.schedulers: must be a list",
    "WarmupParamScheduler(ConstantParamScheduler(1), 0.1, 1000)": "config.warmup_length: is a share of training",
    "WarmupParamScheduler(ConstantParamScheduler(1), 0.1, 0.1, 'cosine')": "config.warmup_method: unknown value",
    "WarmupParamScheduler(ConstantParamScheduler(1), 0.1, 1.0)": "config.scheduler: a ConstantParamScheduler has no value",
    "WarmupMultiStepLR(optimizer)": "config.milestones: is missing",
    "WarmupMultiStepLR(optimizer, [9, 3])": "config.milestones: is not in increasing order",
    "WarmupCosineLR(optimizer)": "config.max_iters: is missing",
    "WarmupCosineLR(optimizer, 90, warmup_method='exp')": "config.warmup_method: unknown value; got 'exp'",
    "CosineAnnealingLR(optimizer, T_max=10)": "config: is not a scheduler of fvcore or detectron2; got CosineAnnealingLR",
    "CosineParamScheduler(1, 0); LinearParamScheduler(1, 0)": "config: must be one scheduler; got CosineParamScheduler, Lin",
    "x = 3\ny = (4)": "config: must be one scheduler; got none",
}


@pytest.mark.parametrize("text", FVCORE_REFUSED)
def test_what_fvcore_refuses(text):
    with pytest.raises(SolverError, match=FVCORE_REFUSED[text]):
        from_detectron2(text)
