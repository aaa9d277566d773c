"""Averages of projects on detectron2: the figures of D2Go's and detrex's own hooks, and what is said of the rest."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_solver import SolverError
from lightning_solver.averaging import EMA, PowerWarmup, UpdateBN
from lightning_solver.interop import from_detectron2

CASES = json.loads((Path(__file__).parent.parent / "golden" / "averages_detectron2.json").read_text())
INEXACT = {
    "d2go/ema_curve/after-backward": ("MODEL_EMA.AFTER_BACKWARD", "the average is one step behind"),
}
SOLVER = {"MAX_ITER": 90, "STEPS": [60]}


class Small(nn.Module):
    """A weight and a buffer, in double precision."""

    def __init__(self, weight, buffer):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.register_buffer("running", torch.tensor(buffer, dtype=torch.float64))

    def become(self, weight, buffer):
        with torch.no_grad():
            self.weight.copy_(torch.tensor(weight, dtype=torch.float64))
            self.running.copy_(torch.tensor(buffer, dtype=torch.float64))


def played(average, setting):
    """Weight and buffer of the average after every step; the buffer ``None`` where it is not averaged."""
    module = Small(setting["initial"], setting["initial_buffer"])
    averaged = average.over(module)
    for weight, buffer in zip(setting["weights"], setting["buffers"], strict=True):
        module.become(weight, buffer)
        averaged.update()
        values = {name: value.clone() for name, value in zip(averaged.names, averaged.values, strict=True)}
        yield values["weight"], values.get("running")


@pytest.mark.parametrize("case", [case for case in CASES if case["id"] not in INEXACT], ids=lambda case: case["id"])
def test_the_hook_gave_the_same(case):
    average = from_detectron2(case["config"], strict=True).spec.averages["ema"]
    for (weight, buffer), value, running in zip(
        played(average, case["setting"]), case["values"], case["buffers"], strict=True
    ):
        torch.testing.assert_close(weight, torch.tensor(value, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        assert (buffer is None) is (running is None)
        if buffer is not None:
            torch.testing.assert_close(buffer, torch.tensor(running, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", INEXACT)
def test_what_has_no_exact_counterpart_is_said(name):
    (case,) = [case for case in CASES if case["id"] == name]
    path, words = INEXACT[name]
    imported = from_detectron2(case["config"])
    assert imported.unmapped == (path,)
    assert any(note.startswith(f"{path}: is not mapped") and words in note for note in imported.notes)
    weights = [weight for weight, _ in played(imported.spec.averages["ema"], case["setting"])]
    assert not torch.allclose(torch.stack(weights), torch.tensor(case["values"], dtype=torch.float64))
    with pytest.raises(SolverError, match=f"{path}: is not mapped"):
        from_detectron2(case["config"], strict=True)


FORMS = {
    "a yacs config": {"SOLVER": SOLVER, "MODEL_EMA": {"ENABLED": True, "DECAY": 0.9}},
    "texts, as yacs takes them": {"SOLVER": SOLVER, "MODEL_EMA": {"ENABLED": "True", "DECAY": "0.9"}},
    "by itself": {"MODEL_EMA": {"ENABLED": True, "DECAY": 0.9}},
    "Python text": "cfg.SOLVER.MAX_ITER = 90\ncfg.SOLVER.STEPS = [60]\ncfg.MODEL_EMA.ENABLED = True\ncfg.MODEL_EMA.DECAY = 0.9",
    "a LazyConfig": (
        "lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[60], num_updates=90)\n"
        "train = dict(max_iter=90, model_ema=dict(enabled=True, decay=0.9, device='', "
        "use_ema_weights_for_eval_only=False))"
    ),
    "of a LazyConfig by itself": {"train": {"model_ema": {"enabled": True, "decay": 0.9}}},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_config(name):
    imported = from_detectron2(FORMS[name], strict=True)
    assert imported.spec.averages == {"ema": EMA(decay=0.9, start=0, evaluate_live=True)}
    assert any("is validated beside the trained weights" in note for note in imported.notes)


SETTINGS = {
    "off": ({"ENABLED": False, "DECAY": 0.9}, None),
    "off by default": ({"DECAY": 0.9}, None),
    "default": ({"ENABLED": True}, EMA(decay=0.999, start=0, evaluate_live=True)),
    "on the cpu": ({"ENABLED": True, "DEVICE": "cpu"}, EMA(decay=0.999, start=0, evaluate_live=True, device="cpu")),
    "on a GPU": ({"ENABLED": True, "DEVICE": "cuda"}, EMA(decay=0.999, start=0, evaluate_live=True)),
    "without buffers": (
        {"ENABLED": True, "INCLUDE_BUFFER": False},
        EMA(decay=0.999, start=0, evaluate_live=True, buffers="copy"),
    ),
    "what changes nothing": (
        {"ENABLED": True, "USE_LERP": True, "INCLUDE_FROZEN": False, "USE_EMA_WEIGHTS_FOR_EVAL_ONLY": True},
        EMA(decay=0.999, start=0, evaluate_live=True),
    ),
    "a warm-up that never acts": (
        {"ENABLED": True, "DECAY": 0.5, "DECAY_WARM_UP_FACTOR": 3},
        EMA(decay=0.5, start=0, evaluate_live=True),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_its_settings(name):
    config, wanted = SETTINGS[name]
    averages = from_detectron2({"SOLVER": SOLVER, "MODEL_EMA": config}, strict=True).spec.averages
    assert averages == ({} if wanted is None else {"ema": wanted})


def test_a_warm_up():
    config = {"MODEL_EMA": {"ENABLED": True, "DECAY_WARM_UP_FACTOR": 10}}
    assert from_detectron2(config, strict=True).spec.averages["ema"].warmup == PowerWarmup(9.0, 1.0, ahead=1.0)


def test_statistics_are_estimated_anew_before_validation():
    config = {"SOLVER": SOLVER, "TEST": {"PRECISE_BN": {"ENABLED": True}}, "MODEL_EMA": {"ENABLED": True}}
    imported = from_detectron2(config, strict=True)
    assert imported.spec.averages["ema"].update_bn == UpdateBN(batches=200, at="validation")
    assert any(note.startswith("TEST.PRECISE_BN: detectron2 estimates") for note in imported.notes)
    config["TEST"]["PRECISE_BN"]["NUM_ITER"] = 7
    assert from_detectron2(config).spec.averages["ema"].update_bn == UpdateBN(batches=7, at="validation")
    config["TEST"]["PRECISE_BN"]["ENABLED"] = False
    assert from_detectron2(config, strict=True).spec.averages["ema"].update_bn is False


def test_without_an_average_there_are_no_statistics_to_estimate():
    imported = from_detectron2({"SOLVER": SOLVER, "TEST": {"PRECISE_BN": {"ENABLED": True}, "EVAL_PERIOD": 5}})
    assert imported.spec.averages == {}
    assert imported.unmapped == ("TEST.EVAL_PERIOD", "TEST.PRECISE_BN")
    assert "TEST.PRECISE_BN: is not mapped: statistics are estimated anew for averaged weights only" in imported.notes
    off = from_detectron2({"SOLVER": SOLVER, "TEST": {"PRECISE_BN": {"ENABLED": False}}}, strict=True)
    assert off.spec.averages == {}
    assert from_detectron2({"SOLVER": SOLVER, "TEST": {"EVAL_PERIOD": 5}}).unmapped == ("TEST",)


UNKNOWN = {
    "a yacs key": ({"MODEL_EMA": {"ENABLED": True, "DECAI": 0.9}}, "MODEL_EMA.DECAI", "did you mean DECAY"),
    "a small letter": ({"MODEL_EMA": {"ENABLED": True, "decay": 0.9}}, "MODEL_EMA.decay", "did you mean DECAY"),
    "a lazy key": ({"train": {"model_ema": {"decai": 0.9}}}, "train.model_ema.decai", "did you mean decay"),
    "statistics": (
        {"SOLVER": SOLVER, "TEST": {"PRECISE_BN": {"NUM_ITERS": 3}}},
        "TEST.PRECISE_BN.NUM_ITERS",
        "NUM_ITER?",
    ),
    "the rest of train": ({"train": {"model_ema": {}, "amp": {"enabled": True}}}, "train.amp", "is not part of"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_keys_that_are_not_known_are_named(name):
    config, path, words = UNKNOWN[name]
    imported = from_detectron2(config)
    assert imported.unmapped == (path,)
    assert any(note.startswith(f"{path}: ") and words in note for note in imported.notes)


BAD = {
    "a decay above 1": (
        {"MODEL_EMA": {"ENABLED": True, "DECAY": 1.5}},
        r"MODEL_EMA.DECAY: must be from 0 to 1; got 1.5",
    ),
    "a decay below 0": ({"MODEL_EMA": {"ENABLED": True, "DECAY": -1}}, r"MODEL_EMA.DECAY: must be at least 0"),
    "a word": ({"train": {"model_ema": {"enabled": "yes"}}}, r"train.model_ema.enabled: must be true or false"),
    "no mapping": ({"MODEL_EMA": True}, "MODEL_EMA: must be a mapping"),
    "no batches": ({"SOLVER": SOLVER, "TEST": {"PRECISE_BN": {"NUM_ITER": 0}}}, "NUM_ITER: must be at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_values_that_make_no_sense(name):
    config, message = BAD[name]
    with pytest.raises(SolverError, match=message):
        from_detectron2(config)
