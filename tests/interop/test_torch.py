"""Schedulers of torch, read as they are written, beside the real ones."""

import functools
import json

import numpy as np
import pytest
import torch
import yaml
from torch.optim import lr_scheduler as real
from torch.optim.swa_utils import SWALR

from lightning_solver import SolverError
from lightning_solver.interop import from_torch

LRS = [0.1, 0.01, 0.05]
EPOCH = {"step_on": "epoch"}
STEP = {"step_on": "step"}


def lr_of(config, facts=EPOCH, **options):
    return from_torch(config, facts=facts, **options).spec.to_dict()["schedules"]["lr"]


def said(name, **args):
    return {"class_path": name, **({"init_args": args} if args else {})}


def halved(n):
    return 0.5 ** (n // 2)


def slower(n):
    return 1 / (1 + n)


# ------------------------------------------------------------------ what a human would write


@pytest.mark.parametrize(
    ("config", "facts", "expected"),
    [
        # the schedulers of the torch document that the seeds quote
        ("scheduler = ExponentialLR(optimizer, gamma=0.9)", EPOCH, said("Step", every="1ep", gamma=0.9)),
        (
            "scheduler1 = ExponentialLR(optimizer, gamma=0.9)\n"
            "scheduler2 = MultiStepLR(optimizer, milestones=[30,80], gamma=0.1)",
            EPOCH,
            said("Product", factors=[said("Step", every="1ep", gamma=0.9), said("MultiStep", at=["30ep", "80ep"])]),
        ),
        ("lr_scheduler.StepLR(optimizer, 30, gamma=0.5)", EPOCH, said("Step", every="30ep", gamma=0.5)),
        ("StepLR(optimizer, step_size=30)", STEP, said("Step", every=30)),
        ("MultiStepLR(optimizer, milestones=[30, 80])", STEP, said("MultiStep", at=[30, 80])),
        (
            "PolynomialLR(optimizer, total_iters=80, power=0.9)",
            {**STEP, "total_iters": 80},
            said("Polynomial", power=0.9),
        ),
        ("CosineAnnealingLR(optimizer, T_max=60)", {**STEP, "total_iters": 60}, said("Cosine")),
        (
            "CosineAnnealingLR(optimizer, T_max=60, eta_min=1e-5)",
            {**STEP, "total_iters": 60},
            said("Cosine", end={"absolute": 1e-5}),
        ),
        (
            "SequentialLR(optimizer, [LinearLR(optimizer, start_factor=0.1, total_iters=5),"
            " CosineAnnealingLR(optimizer, T_max=95)], milestones=[5])",
            {**STEP, "total_iters": 100},
            [said("Linear", start=0.1, until=5), said("Cosine")],
        ),
    ],
)
def test_the_yaml(config, facts, expected):
    assert lr_of(config, facts) == expected


def test_the_swa_snippet():
    """Seed: the cosine up to epoch 160, then SWALR from what it finds."""
    schedulers = ["CosineAnnealingLR(optimizer, T_max=300)", "SWALR(optimizer, swa_lr=0.05)"]
    spec = from_torch({"schedulers": schedulers, "swa_start": 160}, facts=EPOCH).spec
    values = spec.curve("lr", LRS, total_steps=300, steps_per_epoch=1)
    base = np.array(LRS)
    for epoch in (0, 100, 160, 161):
        assert values[epoch] == pytest.approx(base * (1 + np.cos(np.pi * epoch / 300)) / 2)
    for epoch in range(161, 172):
        weight = (1 - np.cos(np.pi * (epoch - 161) / 10)) / 2
        assert values[epoch] == pytest.approx(values[161] * (1 - weight) + 0.05 * weight)
    assert (values[171:] == 0.05).all()


# ------------------------------------------------------------------ forms


STEPS = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}}


@pytest.mark.parametrize(
    "config",
    [
        "StepLR(optimizer, 3)",
        ["StepLR(optimizer, step_size=3)"],
        {"schedulers": ["StepLR(optimizer, 3)"]},
        STEPS,
        {"StepLR": {"step_size": 3}},
        {"type": "StepLR", "step_size": 3},
        functools.partial(real.StepLR, step_size=3),
        {"scheduler": STEPS, "interval": "epoch"},
        {"lr_scheduler": STEPS},
        real.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), 3),
    ],
    ids=lambda config: type(config).__name__,
)
def test_forms(config):
    assert lr_of(config) == said("Step", every="3ep")


@pytest.mark.parametrize("suffix", ["py", "yaml", "json"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"config.{suffix}"
    texts = {
        "py": "import torch\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30 // 10)\n",
        "yaml": yaml.safe_dump({"lr_scheduler": STEPS}),
        "json": json.dumps(STEPS),
    }
    path.write_text(texts[suffix])
    assert lr_of(path) == lr_of(str(path)) == said("Step", every="3ep")


def test_lightning_says_when_it_is_stepped():
    assert lr_of({"scheduler": STEPS, "interval": "step"}, facts=None) == said("Step", every=3)
    assert lr_of({"scheduler": STEPS, "interval": "epoch"}, facts=None) == said("Step", every="3ep")


def test_per_step_where_torch_leaves_no_choice():
    imported = from_torch("OneCycleLR(optimizer, max_lr=0.5, total_steps=100)")
    assert set(imported.spec.schedules) == {"lr", "momentum"}
    assert any("Trainer(max_steps=100)" in note for note in imported.notes)


# ------------------------------------------------------------------ beside the real ones


def driven(make, steps, epoch=1, momentum=0.9):
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in LRS]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=momentum)
    made = make(optimizer)
    schedulers = made if isinstance(made, list) else [made]
    rows = []
    for step in range(steps):
        rows.append([[group[option] for group in optimizer.param_groups] for option in ("lr", "momentum")])
        optimizer.step()
        if (step + 1) % epoch == 0:
            for scheduler in schedulers:
                scheduler.step()
    return np.array(rows)


BESIDE = {
    "step": ("StepLR(optimizer, 4, gamma=0.5)", lambda o: real.StepLR(o, 4, gamma=0.5)),
    "multi, twice": ("MultiStepLR(optimizer, [3, 3, 9])", lambda o: real.MultiStepLR(o, [3, 3, 9])),
    "constant": ("ConstantLR(optimizer, 0.25, 7)", lambda o: real.ConstantLR(o, 0.25, 7)),
    "linear": ("LinearLR(optimizer, 0.2, 0.6, 11)", lambda o: real.LinearLR(o, 0.2, 0.6, 11)),
    "poly": ("PolynomialLR(optimizer, 13, 2.0)", lambda o: real.PolynomialLR(o, 13, 2.0)),
    "cosine, rising again": ("CosineAnnealingLR(optimizer, 9, 0.02)", lambda o: real.CosineAnnealingLR(o, 9, 0.02)),
    "restarts": (
        "CosineAnnealingWarmRestarts(optimizer, 5, 2, 1e-3)",
        lambda o: real.CosineAnnealingWarmRestarts(o, 5, 2, 1e-3),
    ),
    "cyclic": (
        "CyclicLR(optimizer, 0.001, [0.1, 0.2, 0.3], 4, 6, mode='exp_range', gamma=0.9)",
        lambda o: real.CyclicLR(o, 0.001, [0.1, 0.2, 0.3], 4, 6, mode="exp_range", gamma=0.9),
    ),
    "one-cycle": (
        "OneCycleLR(optimizer, [0.3, 0.03, 0.15], total_steps=40, three_phase=True)",
        lambda o: real.OneCycleLR(o, [0.3, 0.03, 0.15], total_steps=40, three_phase=True),
    ),
    "swalr": ("SWALR(optimizer, swa_lr=0.05, anneal_epochs=8)", lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=8)),
    "chained, with a floor": (
        "ChainedScheduler([LinearLR(optimizer, 0.1, total_iters=8), CosineAnnealingLR(optimizer, 20, 0.02)])",
        lambda o: real.ChainedScheduler([real.LinearLR(o, 0.1, total_iters=8), real.CosineAnnealingLR(o, 20, 0.02)]),
    ),
    "two together": (
        ["ExponentialLR(optimizer, 0.9)", "MultiStepLR(optimizer, [5, 11])"],
        lambda o: [real.ExponentialLR(o, 0.9), real.MultiStepLR(o, [5, 11])],
    ),
    "in sequence": (
        "SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 3), ExponentialLR(optimizer, 0.9)], [6])",
        lambda o: real.SequentialLR(o, [real.ConstantLR(o, 0.1, 3), real.ExponentialLR(o, 0.9)], [6]),
    ),
    "functions": (
        {"LambdaLR": {"lr_lambda": [halved, slower, halved]}},
        lambda o: real.LambdaLR(o, [halved, slower, halved]),
    ),
    "function by path": ({"LambdaLR": {"lr_lambda": f"{__name__}.slower"}}, lambda o: real.LambdaLR(o, slower)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about the order of calls
@pytest.mark.parametrize("on", ["step", "epoch"])
@pytest.mark.parametrize("name", BESIDE)
def test_beside_the_real_one(name, on):
    config, make = BESIDE[name]
    steps, epoch = 40, 1 if on == "step" else 4
    expected = driven(make, steps, epoch)
    spec = from_torch(config, facts={"step_on": on, "iters_per_epoch": 4, "total_iters": steps}).spec
    groups = [{"lr": lr, "momentum": 0.9} for lr in LRS]
    for i, option in enumerate(("lr", "momentum")):
        values = spec.curve(option, groups, total_steps=steps, steps_per_epoch=4)
        np.testing.assert_allclose(values, expected[:, i], rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_plateau():
    text = "ReduceLROnPlateau(optimizer, mode='max', factor=0.5, patience=1, cooldown=1, min_lr=[0.02, 0.0, 0.03])"
    metrics = [0.1, 0.3, 0.2, 0.3, 0.3, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5]
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in LRS]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = real.ReduceLROnPlateau(optimizer, "max", 0.5, 1, cooldown=1, min_lr=[0.02, 0.0, 0.03])
    expected = []
    for metric in metrics:
        expected.append([group["lr"] for group in optimizer.param_groups])
        scheduler.step(metric)
    config = {"scheduler": text, "monitor": "accuracy"}
    spec = from_torch(config, facts=EPOCH).spec
    values = spec.curve("lr", LRS, total_steps=12, steps_per_epoch=1, metrics={"accuracy": metrics})
    np.testing.assert_allclose(values, expected, rtol=1e-12)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("StepLer(optimizer, 3)", "StepLR"),
        ("StepLR(optimizer)", "step_size: is missing"),
        ("StepLR(optimizer, 3, last_epoch=5)", "last_epoch"),
        ("MultiStepLR(optimizer, milestones=many)", "milestones"),
        ("LambdaLR(optimizer, lr_lambda=lambda e: 0.95 ** e)", "lr_lambda"),
        ("OneCycleLR(optimizer, max_lr=0.1)", "total_steps"),
        ("OneCycleLR(optimizer, max_lr=0.1, total_steps=10, pct_start=2.0)", "pct_start"),
        ("LinearLR(optimizer, start_factor=0)", "start_factor"),
        ("SequentialLR(optimizer, [StepLR(optimizer, 3)], milestones=[1, 2])", "milestones"),
        ({"LambdaLR": {"lr_lambda": [halved, slower]}}, "does not fit the number of groups"),
        ({"param_scheduler": []}, "use interop.from_mmengine"),
        ({"lr_config": {}}, "use interop.from_mmcv"),
        ({}, "config"),
        ("x = 3", "config"),
    ],
)
def test_refused(config, message):
    with pytest.raises(SolverError) as error:
        from_torch(config, facts={**EPOCH, "base_lr": LRS})
    assert message in str(error.value)


def test_when_it_is_stepped_has_to_be_known():
    with pytest.raises(SolverError, match=r"step_on.*, which the config does not say|facts=\{'step_on'"):
        from_torch("StepLR(optimizer, 3)")
