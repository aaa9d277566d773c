"""Pet's configs: what they are read as, and that the numbers are Pet's, by arithmetic of this file's own."""

import json
import math
from bisect import bisect_right

import numpy as np
import pytest

from lightning_solver import SolverError
from lightning_solver.interop.pet import from_pet

LRS = (0.1, 0.01)
BASE = {"STEPS": [], "GAMMA": 0.1, "LR_POW": 0.9, "WARM_UP_FACTOR": 0.1, "WARM_UP_METHOD": "LINEAR"}
NEW = {**BASE, "TOTAL_EPOCHS": None, "TOTAL_ITERS": 60, "WARM_UP_EPOCHS": None, "WARM_UP_ITERS": 0, "POLICY": "COSINE"}
OLD = {**BASE, "MAX_ITER": 60, "WARM_UP_ITERS": 0, "LR_POLICY": "COSINE", "LOG_LR_CHANGE_THRESHOLD": 1.1}


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
    return brief(from_pet(config, facts=facts).spec.to_dict()["schedules"])["lr"]


def curve(config, total=60, per_epoch=6, **facts):
    spec = from_pet(config, facts=facts).spec
    return spec.curve("lr", LRS, total_steps=total, steps_per_epoch=per_epoch)


def factors(policy, total, end, steps=(), gamma=0.1, power=0.9, warm=0, start=0.1, constant=False):
    """Pet's factor of every iteration; lengths in iterations."""
    for i in range(total):
        w = 1 if i >= warm else start if constant else start * (1 - i / warm) + i / warm
        if policy == "STEP":
            yield w * gamma ** bisect_right(steps, i)
        elif policy == "COSINE":
            yield w * 0.5 * (math.cos(math.pi * i / end) + 1)
        else:
            yield w * (1 - i / end) ** power


def same(values, expected):
    expected = np.array(list(expected))
    np.testing.assert_allclose(values, np.outer(expected, LRS), rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ the fields of the document, in its two modes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"POLICY": "STEP", "STEPS": [20, 40]}, {"MultiStep": {"at": [20, 40]}}),
        ({"POLICY": "COSINE"}, {"Cosine": {}}),
        ({"POLICY": "POLY"}, {"Polynomial": {"power": 0.9}}),
        ({"POLICY": "POLY", "LR_POW": 1}, {"Linear": {"end": 0.0}}),
        ({"POLICY": "POLY", "LR_POW": 0}, {"Constant": {}}),
        (
            {"TOTAL_EPOCHS": 10, "TOTAL_ITERS": None, "POLICY": "STEP", "STEPS": [6, 8], "GAMMA": 0.5},
            {"MultiStep": {"at": ["6ep", "8ep"], "gamma": 0.5}},
        ),
        (
            {"WARM_UP_ITERS": 500, "WARM_UP_METHOD": "LINEAR"},
            {"Warmup": {"ramp": {"Linear": {"start": 0.1, "until": 500}}, "of": {"Cosine": {}}, "meets": "multiply"}},
        ),
        (
            {"WARM_UP_EPOCHS": 2, "WARM_UP_ITERS": None, "WARM_UP_METHOD": "CONSTANT"},
            {
                "Warmup": {
                    "ramp": {"Constant": {"value": 0.1, "until": "2ep"}},
                    "of": {"Cosine": {}},
                    "meets": "multiply",
                }
            },
        ),
        ({"WARM_UP_ITERS": 9, "WARM_UP_FACTOR": 1.0}, {"Cosine": {}}),
        ({"POLICY": "STEP", "STEPS": []}, {"Constant": {}}),
        (
            {"POLICY": "STEP", "STEPS": [0, 20, 20], "GAMMA": 0.5},
            [{"Constant": {"value": 0.5, "until": 20}}, {"Constant": {"value": 0.125}}],
        ),
    ],
)
def test_fields_of_the_document(settings, expected):
    assert read({"SOLVER": {"SCHEDULER": {**NEW, **settings}}}) == expected


@pytest.mark.parametrize("policy", ["STEP", "COSINE", "POLY"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("warm_by_epoch", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_numbers(flat, by_epoch, warm_by_epoch, warm, constant, policy):
    """Epochs for the run and for the warm-up are independent in the document's form, one switch in the older one."""
    config = {**BASE, "STEPS": [1, 3, 3, 7], "GAMMA": 0.5, "WARM_UP_METHOD": "CONSTANT" if constant else "LINEAR"}
    if flat:
        warm_by_epoch = by_epoch
        config |= {"MAX_EPOCHS": 10, "WARM_UP_EPOCH": warm} if by_epoch else {"MAX_ITER": 60, "WARM_UP_ITERS": warm}
        config |= {"LR_POLICY": policy}
    else:
        config |= {"TOTAL_EPOCHS": 10, "TOTAL_ITERS": None} if by_epoch else {"TOTAL_EPOCHS": None, "TOTAL_ITERS": 60}
        config |= {"WARM_UP_EPOCHS": warm} if warm_by_epoch else {"WARM_UP_EPOCHS": None, "WARM_UP_ITERS": warm}
        config = {"SCHEDULER": {**config, "POLICY": policy}}
    steps = [step * 6 if by_epoch else step for step in (1, 3, 3, 7)]
    length = warm * 6 if warm_by_epoch else warm
    expected = factors(policy, 60, 60, steps, 0.5, warm=length, constant=constant)
    same(curve({"SOLVER": config}), expected)


def test_defaults():
    same(curve({"TOTAL_ITERS": 60, "WARM_UP_ITERS": 12}), factors("COSINE", 60, 60, warm=12))
    assert read({"POLICY": "STEP", "STEPS": [5], "TOTAL_ITERS": 9, "WARM_UP_ITERS": 0}) == {"MultiStep": {"at": [5]}}
    assert read({"POLICY": "COSINE", "WARM_UP_ITERS": 0}) == {"Cosine": {}}  # as long as the run


# ------------------------------------------------------------------ the length of the run


@pytest.mark.parametrize("total", [30, 61, 100, 130, 200])
@pytest.mark.parametrize(("policy", "power"), [("COSINE", 1), ("POLY", 2), ("POLY", 4.0), ("POLY", 0)])
def test_a_run_of_another_length(policy, power, total):
    """Beyond the end Pet's cosine rises again, and so does an even power."""
    config = {**NEW, "POLICY": policy, "LR_POW": power}
    same(curve(config, total, total_iters=total), factors(policy, total, 60, power=power))
    config = {**config, "TOTAL_EPOCHS": 10, "TOTAL_ITERS": None}
    same(curve(config, total, total_iters=total, iters_per_epoch=6), factors(policy, total, 60, power=power))


def test_explicit_ends():
    assert read(NEW, total_iters=30) == {"Cosine": {"until": 60}}
    expected = [{"Cosine": {"until": 60}}, {"Cosine": {"start": 0.0, "end": 1.0, "until": 120}}]
    assert read(NEW, total_iters=70) == expected
    assert read({**NEW, "TOTAL_EPOCHS": 10}, epochs=5) == {"Cosine": {"until": "10ep"}}
    assert read(NEW, epochs=10, iters_per_epoch=6) == {"Cosine": {}}
    notes = from_pet(NEW, facts={"total_iters": 70}).notes
    assert "TOTAL_ITERS: the facts say 70 iterations: the curve ends where the config says" in notes
    notes = from_pet({**OLD, "LR_POLICY": "STEP"}, facts={"total_iters": 70}).notes
    assert "MAX_ITER: the schedule is made for a run of 60 iterations: Trainer(max_steps=60)" in notes
    with pytest.raises(SolverError, match=r"^LR_POW: is no learning rate beyond the end; got 0.9"):
        from_pet({**NEW, "POLICY": "POLY"}, facts={"total_iters": 70})


# ------------------------------------------------------------------ forms, notes, files


def test_the_solver_or_the_scheduler_by_itself():
    expected = {"MultiStep": {"at": [20]}}
    scheduler = {**NEW, "POLICY": "STEP", "STEPS": (20,)}
    solver = {"OPTIMIZER": {"TYPE": "SGD", "BASE_LR": 0.1}, "SCHEDULER": scheduler}
    for config in (scheduler, solver, {"SOLVER": solver}, {"SCHEDULER": scheduler}, {"SOLVER": scheduler}):
        assert read(config) == expected
    flat = {**OLD, "LR_POLICY": "STEP", "STEPS": [20], "BASE_LR": 0.1}
    assert read(flat) == read({"SOLVER": flat}) == expected
    assert read("SOLVER = dict(LR_POLICY='STEP', MAX_ITER=9, STEPS=[20], WARM_UP_ITERS=0)") == expected


def test_notes():
    config = {"MODEL": {}, "SOLVER": {"OPTIMIZER": {}, "MAX_ITER": 5, "SCHEDULER": {**NEW, "LR_POWER": 2}}, "EXTRA": 1}
    imported = from_pet(config, facts={"total_iter": 60})
    assert imported.notes == (
        "facts.total_iter: is not used; did you mean total_iters?",
        *(f"SOLVER.SCHEDULER.{name}: changes nothing under the policy COSINE" for name in ("GAMMA", "LR_POW")),
        "SOLVER.SCHEDULER.TOTAL_ITERS: the schedule is made for a run of 60 iterations: Trainer(max_steps=60)",
        "SOLVER.SCHEDULER.LR_POWER: is not mapped; did you mean LR_POW?",
        "SOLVER.MAX_ITER: is not read beside SOLVER.SCHEDULER",
        "MODEL: is not part of the schedules",
        "EXTRA: is not mapped",
    )
    assert imported.unmapped[0] == "SOLVER.SCHEDULER.LR_POWER"
    with pytest.raises(SolverError, match=r"^SOLVER\.SCHEDULER\.LR_POWER: is not mapped; got 4 such keys"):
        from_pet(config, strict=True)
    assert from_pet(OLD, strict=True).notes[0] == (
        "LOG_LR_CHANGE_THRESHOLD: is when Pet writes a change to its log, which changes no value"
    )


def test_keys_that_pet_does_not_read():
    both = {**NEW, "TOTAL_EPOCHS": 10, "WARM_UP_EPOCHS": 1, "WARM_UP_ITERS": 7}
    notes = from_pet(both).notes
    assert "TOTAL_ITERS: is not read by Pet beside TOTAL_EPOCHS" in notes
    assert "WARM_UP_ITERS: is not read by Pet beside WARM_UP_EPOCHS" in notes
    notes = from_pet({**OLD, "MAX_EPOCHS": 5, "WARM_UP_EPOCH": 1}).notes
    assert "MAX_EPOCHS: is not read by Pet beside MAX_ITER" in notes
    assert "WARM_UP_EPOCH: is not read by Pet beside MAX_ITER" in notes
    assert (
        "WARM_UP_FACTOR: a warm-up by the factor 1 is left out"
        in from_pet({**OLD, "WARM_UP_ITERS": 3, "WARM_UP_FACTOR": 1}).notes
    )


def test_files_with_texts_as_yacs_reads_them(tmp_path):
    path = tmp_path / "pet.yaml"
    path.write_text(
        "SOLVER: {SCHEDULER: {TOTAL_EPOCHS: None, TOTAL_ITERS: 9e1, STEPS: '(20, 40)', POLICY: STEP, WARM_UP_ITERS: 0}}"
    )
    assert read(path) == read(str(path)) == {"MultiStep": {"at": [20, 40]}}
    path = tmp_path / "pet.json"
    path.write_text(json.dumps({"SOLVER": OLD}))
    assert read(path) == {"Cosine": {}}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("policy", ["STEP", "COSINE", "POLY", "STEP_COSINE"])
def test_unsorted_steps_for_every_policy(policy):
    with pytest.raises(SolverError, match=r"^SOLVER\.STEPS: is not sorted; got \[40, 20\]; sort it"):
        from_pet({"SOLVER": {**OLD, "LR_POLICY": policy, "STEPS": [40, 20]}})


def test_step_cosine_says_what_was_meant():
    meant = r"schedules\.lr: \[MultiStep\(at: \[20ep\], gamma: 0\.5, until: 40ep\), Cosine\(start: previous\)\]"
    settings = {"TOTAL_EPOCHS": 60, "POLICY": "STEP_COSINE", "STEPS": [20, 40], "GAMMA": 0.5}
    with pytest.raises(SolverError, match=rf"^SOLVER\.SCHEDULER\.POLICY: Pet fails at the last of STEPS.*{meant}"):
        from_pet({"SOLVER": {"SCHEDULER": {**NEW, **settings}}})
    with pytest.raises(SolverError, match=r"^LR_POLICY: Pet fails.*\[Constant\(until: 40\), Cosine"):
        from_pet({**OLD, "LR_POLICY": "STEP_COSINE", "STEPS": [40]})


def without(config, key):
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**NEW, "POLICY": "cosine"}, "POLICY: unknown value; got 'cosine'; did you mean COSINE"),
        ({**OLD, "LR_POLICY": "steps_with_decay"}, "LR_POLICY: unknown value"),
        (without(OLD, "LR_POLICY"), "LR_POLICY: is missing"),
        (without(OLD, "MAX_ITER"), "MAX_EPOCHS: is missing"),
        (without(OLD, "WARM_UP_ITERS"), "WARM_UP_ITERS: is missing.*add WARM_UP_ITERS: 0"),
        (without(NEW, "WARM_UP_ITERS"), "WARM_UP_ITERS: is missing"),
        (without({**OLD, "WARM_UP_ITERS": 5}, "WARM_UP_FACTOR"), "WARM_UP_FACTOR: is missing"),
        (without({**NEW, "POLICY": "STEP"}, "STEPS"), "STEPS: is missing"),
        ({**NEW, "WARM_UP_METHOD": "linear"}, "WARM_UP_METHOD: unknown value"),
        ({**NEW, "STEPS": 20}, "STEPS: must be a list"),
        ({**NEW, "STEPS": ["a"]}, "STEPS: must be a list"),
        ({**NEW, "TOTAL_ITERS": 0}, "TOTAL_ITERS: must be > 0"),
        ({**NEW, "TOTAL_EPOCHS": -1}, "TOTAL_EPOCHS: must be > 0"),
        ({**NEW, "WARM_UP_ITERS": -1}, "WARM_UP_ITERS: must be at least 0"),
        ({**NEW, "WARM_UP_FACTOR": -1}, "WARM_UP_FACTOR: must be at least 0"),
        ({**NEW, "GAMMA": "much"}, "GAMMA: must be a number"),
        ({**NEW, "LR_POW": -1}, "LR_POW: must be at least 0"),
        ({"SOLVER": {"SCHEDULERS": NEW}}, r"SOLVER\.SCHEDULER: is missing; .*rename SCHEDULERS"),
        ({"SOLVER": 3}, "SOLVER: must be a mapping"),
        ({"SOLVER": {"SCHEDULER": 3}}, r"SOLVER\.SCHEDULER: must be a mapping"),
        ({}, "SCHEDULER: is missing; got keys .none."),
        (3, "config: must be a mapping"),
        ({"SOLVER": {"LR_SCHEDULER_NAME": "WarmupCosineLR"}}, r"SOLVER\.LR_SCHEDULER_NAME: .*from_detectron2"),
        ({"SOLVER": {"MAX_ITER": 9, "WARMUP_ITERS": 3}}, r"SOLVER\.WARMUP_ITERS: is a key of detectron2"),
        ({"lr_config": {}}, "config: is not for from_pet.*from_mmcv"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=f"^{message}"):
        from_pet(config)
