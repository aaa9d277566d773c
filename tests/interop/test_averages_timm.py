"""``ModelEmaV3``, its older forms and the arguments of ``train.py`` as a spec: what the real ones gave."""

import json
from pathlib import Path

import pytest
import torch

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, PowerWarmup, SlowStart
from lightning_solver.interop import from_timm

GOLDEN = Path(__file__).parent.parent / "golden"


def cases(peer):
    return json.loads((GOLDEN / f"averages_{peer}.json").read_text())


def averages(config, **options):
    return from_timm(config, **options).spec.averages


def check_golden(case, average, rtol, atol):
    """The average moves as the peer's did."""
    setting = case["setting"]
    tensor = torch.tensor(setting["initial"], dtype=torch.float64)
    running = average.over([tensor])
    for weights, value in zip(setting["weights"], case["values"], strict=True):
        tensor.copy_(torch.tensor(weights, dtype=torch.float64))
        running.update()
        expected = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(running.values[0], expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", cases("timm"), ids=lambda case: case["id"])
def test_timm_gave_the_same(case):
    ((name, average),) = averages(case["config"], facts=case["setting"], strict=True).items()
    assert name == "ema"
    check_golden(case, average, 1e-9, 1e-12)


EMA_PYTORCH = {
    "default": EMA(
        decay=0.9999, start=101, every=10, before="every", decay_per="update", warmup=PowerWarmup(1.0, 2 / 3)
    ),
    "power1": EMA(decay=0.999, warmup=PowerWarmup(gamma=2.0, power=1.0)),
    "min": EMA(decay=0.99, every=2, decay_per="update", warmup=PowerWarmup(power=0.75, minimum=0.6)),
}


@pytest.mark.parametrize("case", cases("ema_pytorch"), ids=lambda case: case["id"])
def test_ema_pytorch_gave_what_our_own_options_give(case):
    """It has no importer; its decays are kept in single precision."""
    check_golden(case, EMA_PYTORCH[case["id"].rpartition("/")[2]], 1e-5, 1e-5)


def test_a_golden_case_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check_golden(cases("timm")[1], EMA(decay=0.999, warmup=SlowStart(100)), 1e-9, 1e-12)


# ------------------------------------------------------------------ the decay, number by number


def decay_of(step, decay=0.9999, min_decay=0.0, update_after_step=0, use_warmup=False, gamma=1.0, power=2 / 3):
    """What ``ModelEmaV3`` takes for the decay at a step, counted from 1."""
    step = max(0, step - update_after_step - 1)
    if step <= 0:
        return 0.0
    if not use_warmup:
        return decay
    return max(min(1 - (1 + step / gamma) ** -power, decay), min_decay)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, EMA(decay=0.9999)),
        ({"decay": 0.9, "update_after_step": 5}, EMA(decay=0.9, start=6)),
        ({"decay": 0.9, "update_after_step": -1}, EMA(decay=0.9, start=0)),
        ({"decay": 0.9, "update_after_step": -4}, EMA(decay=0.9, start=0)),
        ({"use_warmup": True, "update_after_step": 5}, EMA(decay=0.9999, start=6, warmup=PowerWarmup())),
        ({"use_warmup": True, "update_after_step": -1}, EMA(decay=0.9999, start=0, warmup=PowerWarmup())),
        (
            {"decay": 0.95, "use_warmup": True, "min_decay": 0.3, "warmup_gamma": 3.0, "warmup_power": 0.8},
            EMA(decay=0.95, warmup=PowerWarmup(3.0, 0.8, 0.3)),
        ),
        ({"decay": 0.9, "use_warmup": True, "min_decay": 0.95}, EMA(decay=0.95)),
        ({"decay": 0.9, "min_decay": 0.95}, EMA(decay=0.9)),
    ],
)
def test_the_decay_at_every_step(arguments, expected):
    ((_, average),) = averages({"type": "ModelEmaV3", **arguments}).items()
    assert average == expected
    shares = average.curve(total_steps=40)
    named = {key.removeprefix("warmup_"): value for key, value in arguments.items()}
    decays = [decay_of(step + 1, **named) for step in range(40)]
    assert (1 - shares).tolist() == pytest.approx(decays, rel=1e-12, abs=1e-12)


def test_without_the_step_the_decay_is_always_the_same():
    config = {
        "average": "ModelEmaV3(model, decay=0.9, use_warmup=True, update_after_step=5)",
        "update": "update(model)",
    }
    imported = from_timm(config, strict=True)
    assert imported.spec.averages == {"ema": EMA(decay=0.9, start=0)}
    for key in ("use_warmup", "update_after_step"):
        note = f"ModelEmaV3.{key}: has no effect, as in timm: update() is not told the step"
        assert note in imported.notes


@pytest.mark.parametrize(
    ("update", "start"),
    [
        ("update(model, step=num_updates)", 1),
        ("model_ema.update(model, num_updates)", 1),
        ("update(model)", 0),
        ("model_ema.update(model, step=None)", 0),
        (None, 1),
    ],
)
def test_what_update_is_told(update, start):
    assert averages({"average": "ModelEmaV3(model)", "update": update})["ema"].start == start


# ------------------------------------------------------------------ forms

TRAIN = """
model = create_model('resnet50')
model_ema = utils.ModelEmaV3(model, decay=0.99)
for epoch in range(num_epochs):
    for batch in loader:
        optimizer.step()
        model_ema.update(model{told})
"""


@pytest.mark.parametrize(
    "config",
    [
        "ModelEmaV3(model, decay=0.99)",
        "timm.utils.ModelEmaV3(model, 0.99)",
        {"average": "ModelEmaV3(model, decay=0.99)"},
        {"type": "ModelEmaV3", "decay": 0.99},
        {"type": "timm.utils.ModelEmaV3", "decay": 0.99},
        {"ModelEmaV3": {"decay": 0.99}},
        {"average": {"type": "ModelEmaV3", "decay": 0.99}},
        TRAIN.format(told=", step=num_updates"),
    ],
)
def test_forms(config):
    assert averages(config) == {"ema": EMA(decay=0.99)}


def test_a_script_that_does_not_tell_the_step():
    assert averages(TRAIN.format(told="")) == {"ema": EMA(decay=0.99, start=0)}


def test_files(tmp_path):
    (tmp_path / "train.py").write_text("ema = ModelEmaV3(model, decay=0.99)\n")
    (tmp_path / "ema.json").write_text('{"average": "ModelEmaV3(model, decay=0.99)", "update": "update(model)"}')
    assert averages(tmp_path / "train.py") == {"ema": EMA(decay=0.99)}
    assert averages(tmp_path / "ema.json") == {"ema": EMA(decay=0.99, start=0)}


def test_beside_a_schedule_and_an_optimiser():
    config = {
        "create_scheduler_v2": {"sched": "cosine", "num_epochs": 10},
        "create_optimizer_v2": {"opt": "sgd", "lr": 0.1},
        "average": "ModelEmaV3(model, decay=0.99)",
        "update": "update(model, step=n)",
    }
    for given in (
        config,
        "create_optimizer_v2(model, opt='sgd', lr=0.1)\ncreate_scheduler_v2(optimizer, num_epochs=10)\n"
        "ModelEmaV3(model, decay=0.99)",
    ):
        spec = from_timm(given, strict=True).spec
        assert spec.averages == {"ema": EMA(decay=0.99)}
        assert spec.optimizer.name == "SGD"
        assert "lr" in spec.schedules


@pytest.mark.parametrize("name", ["ModelEmaV2", "ModelEma"])
def test_the_older_classes(name):
    imported = from_timm(f"{name}(model, decay=0.9, device='cpu')", strict=True)
    assert imported.spec.averages == {"ema": EMA(decay=0.9, start=0, device="cpu")}
    assert any("averages whole numbers in buffers too" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("device='cpu'", {"device": "cpu"}),
        ("device=torch.device('cpu')", {"device": "cpu"}),
        ("device=device", {}),
        ("device=None", {}),
        ("exclude_buffers=True", {"buffers": "copy"}),
        ("foreach=False", {}),
        ("dtype=torch.float32", {"dtype": "float32"}),
        ("stochastic_rounding=False", {"dtype": "same"}),
    ],
)
def test_which_tensors_and_where(arguments, fields):
    assert averages(f"ModelEmaV3(model, {arguments})", strict=True) == {"ema": EMA(decay=0.9999, **fields)}


# ------------------------------------------------------------------ the arguments of train.py


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"model_ema": True}, EMA(decay=0.9998, evaluate_live=True)),
        ({"--model-ema": True, "--model-ema-decay": 0.99}, EMA(decay=0.99, evaluate_live=True)),
        (
            {"model_ema": True, "model_ema_warmup": True},
            EMA(decay=0.9998, warmup=PowerWarmup(), evaluate_live=True),
        ),
        ({"model_ema": True, "model_ema_force_cpu": True}, EMA(decay=0.9998, device="cpu", evaluate_live=True)),
    ],
)
def test_the_arguments_of_the_script(arguments, expected):
    for more in ({}, {"sched": "cosine", "epochs": 10}, {"opt": "sgd", "lr": 0.1}, {"epochs": 10, "lr": 0.1}):
        spec = from_timm({**arguments, **more}, strict=True).spec
        assert spec.averages == {"ema": expected}
        assert bool(spec.schedules) == ("epochs" in more)
        assert (spec.optimizer is not None) == ("lr" in more)


def test_without_model_ema_there_is_none():
    imported = from_timm(
        {"lr": 0.1, "model_ema": False, "model_ema_decay": 0.99, "model_ema_warmup": True}, strict=True
    )
    assert imported.spec.averages == {}
    for key in ("model_ema_decay", "model_ema_warmup"):
        assert f"{key}: has no effect without model_ema, as in timm" in imported.notes
    assert from_timm({"model_ema": False}, strict=True).spec.averages == {}
    defaults = {"model_ema": False, "model_ema_decay": 0.9998, "model_ema_warmup": False, "lr": 0.1}
    assert not any("model_ema" in note for note in from_timm(defaults).notes)


# ------------------------------------------------------------------ what is not mapped


def test_an_argument_that_timm_does_not_have():
    imported = from_timm("ModelEmaV3(model, decy=0.9)")
    assert imported.unmapped == ("ModelEmaV3.decy",)
    assert "did you mean decay or min_decay" in str(imported.notes)
    script = from_timm({"lr": 0.1, "model_ema": True, "model_ema_deca": 0.9})
    assert script.unmapped == ("model_ema_deca",)
    assert "did you mean model_ema_decay?" in str(script.notes)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("ModelEmaV3(model, dtype=torch.bfloat16)", "ModelEmaV3.dtype"),
        ("ModelEma(model, resume='last.pth')", "ModelEma.resume"),
        ({"average": "ModelEmaV3(model)", "zzz": 3}, "zzz"),
        ({"average": "ModelEmaV3(model)", "opt": "sgd", "lr": 0.1, "zzz": 3}, "zzz"),
    ],
)
def test_what_is_not_mapped_is_noted(config, key):
    assert from_timm(config).unmapped == (key,)
    with pytest.raises(SolverError, match="is not mapped"):
        from_timm(config, strict=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("ModelEmaV3(model, decay=1.1)", r"ModelEmaV3\.decay: must be from 0 to 1"),
        ("ModelEmaV3(model, decay=args.model_ema_decay)", r"ModelEmaV3\.decay: is not a literal"),
        ("ModelEmaV3(model, warmup_gamma=0)", "warmup_gamma: must be above 0"),
        ("ModelEmaV3(model, update_after_step=2.5)", "update_after_step: must be a whole number"),
        ("ModelEmaV3(model, use_warmup=True, update_after_step=-3)", "begins the warm-up in its middle"),
        ("ModelEmaV3(model)\nModelEmaV2(model)", "has several averages; got ModelEmaV3, ModelEmaV2"),
        (
            {"average": "ModelEmaV4(model)"},
            r"average: is not an average of timm; got 'ModelEmaV4'; did you mean ModelEma",
        ),
        ({"average": "ModelEmaV2(model)", "update": "update(model, step=3)"}, r"update\(\) takes no step"),
        ({"average": "ModelEmaV3(model)", "update": "set(model)"}, r"is not a call of update\(\)"),
        ({"model_ema": True, "model_ema_decay": 3}, "model_ema_decay: must be from 0 to 1"),
        ({"model_ema": "yes"}, "model_ema: must be true or false"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=message):
        from_timm(config)
