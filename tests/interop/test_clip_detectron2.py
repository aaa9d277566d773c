"""``CLIP_GRADIENTS`` of detectron2 and Pet, ``train.clip_grad`` of detrex: what the real ones gave, and every key."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_solver import SolverError, SolverSpec
from lightning_solver.clipping import GlobalNorm, ParameterNorm, Value
from lightning_solver.interop import from_detectron2, from_pet

CASES = json.loads((Path(__file__).parent.parent / "golden" / "clip_detectron2.json").read_text())
IMPORTERS = {"detectron2": from_detectron2, "pet": from_pet}


def yacs(clip, **solver):
    return {"SOLVER": {"CLIP_GRADIENTS": {"ENABLED": True, **clip}, **solver}}


def pet(clip, **optimizer):
    return {"SOLVER": {"OPTIMIZER": {"CLIP_GRADIENTS": {"ENABLED": True, **clip}, **optimizer}}}


class Holder(nn.Module):
    """Parameters with given gradients."""

    def __init__(self, grads):
        super().__init__()
        tensors = [torch.tensor(grad, dtype=torch.float64) for grad in grads]
        self.held = nn.ParameterList(nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors)
        for parameter, tensor in zip(self.held, tensors, strict=True):
            parameter.grad = tensor

    @property
    def grads(self):
        return [parameter.grad for parameter in self.held]


# ------------------------------------------------------------------ figures of the real one


@pytest.mark.parametrize("how", ["module", "parameters"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_peer_gave_the_same(case, how):
    spec = IMPORTERS[case["peer"]](case["config"], facts=case["setting"], strict=True).spec
    module = Holder(case["setting"]["grads"])
    spec.clip.apply(module if how == "module" else module.parameters())
    for ours, theirs in zip(module.grads, case["values"], strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=1e-7, atol=1e-12)
    assert SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_pet_does_as_detectron2_where_both_clip(case):
    theirs = from_detectron2(case["config"]).spec.clip
    clip = case["config"]["SOLVER"]["CLIP_GRADIENTS"]
    assert from_pet(pet(clip)).spec.clip == theirs
    assert from_pet({"OPTIMIZER": {"TYPE": "ADAMW", "CLIP_GRADIENTS": clip}}).spec.clip == theirs
    assert from_pet({"SOLVER": {"OPTIMIZER": "SGD", "CLIP_GRADIENTS": clip}}).spec.clip == theirs


def test_norm_is_that_of_each_parameter_by_itself():
    for config, importer in ((yacs({"CLIP_TYPE": "norm"}), from_detectron2), (pet({"CLIP_TYPE": "norm"}), from_pet)):
        read = importer(config, strict=True)
        assert read.spec.clip == ParameterNorm(1.0)
        assert any("CLIP_TYPE: norm is that of each parameter by itself" in note for note in read.notes)
        module = Holder([[3.0, 4.0], [0.3, 0.4], [0.0]])
        read.spec.clip.apply(module)
        assert [round(float(grad.norm()), 5) for grad in module.grads] == [1.0, 0.5, 0.0]


# ------------------------------------------------------------------ detectron2


YACS = {
    "all defaults": ({}, Value(1.0)),
    "value": ({"CLIP_TYPE": "value", "CLIP_VALUE": 0.5, "NORM_TYPE": 2.0}, Value(0.5)),
    "a text": ({"CLIP_VALUE": "0.5"}, Value(0.5)),
    "a text for true": ({"ENABLED": "True", "CLIP_VALUE": 0.5}, Value(0.5)),
    "norm": ({"CLIP_TYPE": "norm", "CLIP_VALUE": 2, "NORM_TYPE": 1}, ParameterNorm(2.0, norm_type=1.0)),
    "greatest": ({"CLIP_TYPE": "norm", "NORM_TYPE": "inf"}, ParameterNorm(1.0, norm_type="inf")),
    "full model": ({"CLIP_TYPE": "full_model", "CLIP_VALUE": 0.01, "NORM_TYPE": 2.0}, GlobalNorm(0.01)),
    "full model of another order": ({"CLIP_TYPE": "full_model", "NORM_TYPE": math.inf}, GlobalNorm(1.0, "inf")),
    "full model of 0": ({"CLIP_TYPE": "full_model", "CLIP_VALUE": 0.0}, None),
    "full model of less": ({"CLIP_TYPE": "full_model", "CLIP_VALUE": -1}, None),
    "turned off": ({"ENABLED": False, "CLIP_TYPE": "nothing of this kind", "CLIP_VALUE": -3}, None),
}


@pytest.mark.parametrize("name", YACS)
def test_clipping_of_detectron2(name):
    clip, expected = YACS[name]
    read = from_detectron2(yacs(clip), strict=True)
    assert (read.spec.clip, read.unmapped) == (expected, ())
    assert from_detectron2(yacs(clip)["SOLVER"], strict=True).spec.clip == expected


@pytest.mark.parametrize(
    "marks",
    [
        {"builder": "Mask2Former"},
        {"builder": "Sparse R-CNN"},
        {"MODEL": {"MASK_FORMER": {}}},
        {"MODEL": {"DETR": {}}},
    ],
)
def test_a_project_reads_no_order_of_the_norm(marks):
    clip = {"CLIP_TYPE": "full_model", "CLIP_VALUE": 0.01, "NORM_TYPE": 1.0}
    read = from_detectron2({**yacs(clip, OPTIMIZER="ADAMW", BASE_LR=1e-4), **marks})
    assert read.spec.clip == GlobalNorm(0.01)
    assert any("NORM_TYPE: is not read by" in note and "the 2-norm" in note for note in read.notes)
    assert not any("is no type of detectron2 itself" in note for note in read.notes)
    read = from_detectron2({**yacs({**clip, "CLIP_TYPE": "norm"}, OPTIMIZER="ADAMW", BASE_LR=1e-4), **marks})
    assert read.spec.clip == ParameterNorm(0.01, norm_type=1.0)


def test_full_model_is_said_to_be_of_projects():
    read = from_detectron2(yacs({"CLIP_TYPE": "full_model"}))
    assert any("CLIP_TYPE: is no type of detectron2 itself" in note for note in read.notes)
    off = from_detectron2(yacs({"CLIP_TYPE": "full_model", "CLIP_VALUE": 0}))
    assert any("CLIP_VALUE: is not above 0: full_model clips nothing then" in note for note in off.notes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            yacs({"CLIP_TYPE": "Norm"}),
            r"SOLVER\.CLIP_GRADIENTS\.CLIP_TYPE: unknown value; got 'Norm'; did you mean norm",
        ),
        (
            yacs({"CLIP_VALUE": 0}),
            r"SOLVER\.CLIP_GRADIENTS\.CLIP_VALUE: must be above 0: nothing is learnt else; got 0",
        ),
        (
            yacs({"CLIP_VALUE": -1.0}),
            r"SOLVER\.CLIP_GRADIENTS\.CLIP_VALUE: must be above 0: nothing is learnt else; got -1.0",
        ),
        (yacs({"CLIP_TYPE": "norm", "NORM_TYPE": 0}), r"SOLVER\.CLIP_GRADIENTS\.NORM_TYPE: must be above 0; got 0"),
        (yacs({"ENABLED": 1}), r"SOLVER\.CLIP_GRADIENTS\.ENABLED: must be true or false; got 1"),
        ({"SOLVER": {"CLIP_GRADIENTS": 3}}, r"SOLVER\.CLIP_GRADIENTS: must be a mapping; got 3"),
    ],
)
def test_what_makes_no_sense_is_refused(config, message):
    with pytest.raises(SolverError, match=f"^{message}"):
        from_detectron2(config)


def test_keys_that_are_not_known_are_named():
    for importer, config, path in (
        (from_detectron2, yacs({"CLIP_VAL": 1.0}), "SOLVER.CLIP_GRADIENTS.CLIP_VAL"),
        (from_pet, pet({"CLIP_VAL": 1.0}), "SOLVER.OPTIMIZER.CLIP_GRADIENTS.CLIP_VAL"),
    ):
        read = importer(config)
        assert read.unmapped == (path,)
        assert any(f"{path}: is not mapped; did you mean CLIP_VALUE?" in note for note in read.notes)


def test_the_precision_is_the_trainers():
    read = from_detectron2(yacs({}, AMP={"ENABLED": True}))
    assert read.unmapped == ("SOLVER.AMP",)
    assert any("SOLVER.AMP: the precision belongs to the Trainer" in note for note in read.notes)


def test_python_text():
    text = "cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True\ncfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = 'norm'\n"
    assert from_detectron2(text).spec.clip == ParameterNorm(1.0)


# ------------------------------------------------------------------ detrex


def lazy(**clip):
    return {"train": {"max_iter": 50, "clip_grad": clip}}


def test_clipping_of_detrex():
    read = from_detectron2(lazy(enabled=True, params={"max_norm": 0.1, "norm_type": 2}), strict=True)
    assert read.spec.clip == GlobalNorm(0.1)
    assert from_detectron2(lazy(enabled=False, params={"max_norm": 0.1}), strict=True).spec.clip is None
    text = (
        "optimizer = L(torch.optim.AdamW)(params=L(get_default_optimizer_params)(), lr=1e-4)\n"
        "train.clip_grad.enabled = True\ntrain.clip_grad.params.max_norm = 0.2\ntrain.clip_grad.params.norm_type = 1\n"
    )
    spec = from_detectron2(text).spec
    assert (spec.clip, spec.optimizer.name) == (GlobalNorm(0.2, norm_type=1.0), "AdamW")


def test_what_detrex_refuses_or_does_not_know():
    with pytest.raises(SolverError, match=r"^train\.clip_grad\.params: is missing"):
        from_detectron2(lazy(enabled=True))
    with pytest.raises(SolverError, match=r"^train\.clip_grad\.params\.max_norm: is missing"):
        from_detectron2(lazy(enabled=True, params={}))
    read = from_detectron2(lazy(enabled=True, params={"max_norm": 0.1, "normtype": 2}, mode="norm"))
    assert set(read.unmapped) == {"train.clip_grad.mode", "train.clip_grad.params.normtype"}


# ------------------------------------------------------------------ Pet

FULL = {"TYPE": "SGD", "BASE_LR": 0.1}
PET = {
    "value": ({"CLIP_TYPE": "value", "CLIP_VALUE": 0.5, "NORM_TYPE": 2.0}, Value(0.5)),
    "norm": ({"CLIP_TYPE": "norm", "CLIP_VALUE": 0.5, "NORM_TYPE": 1.0}, ParameterNorm(0.5, norm_type=1.0)),
    "full model": ({"CLIP_TYPE": "full_model", "CLIP_VALUE": 0.5, "NORM_TYPE": 1.0}, GlobalNorm(0.5, norm_type=1.0)),
    "texts": ({"ENABLED": "True", "CLIP_TYPE": "norm", "CLIP_VALUE": "0.5"}, ParameterNorm(0.5)),
    "value of 0": ({"CLIP_TYPE": "value", "CLIP_VALUE": 0.0}, None),
    "norm of less": ({"CLIP_TYPE": "norm", "CLIP_VALUE": -1.0}, None),
    "full model of 0": ({"CLIP_TYPE": "full_model", "CLIP_VALUE": 0.0}, None),
    "turned off": ({"ENABLED": False, "CLIP_TYPE": "norm", "CLIP_VALUE": 1.0}, None),
}


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
@pytest.mark.parametrize("name", PET)
def test_clipping_of_pet(name, kind):
    clip, expected = PET[name]
    read = from_pet(pet(clip, TYPE=kind, BASE_LR=0.1), strict=True)
    assert (read.spec.clip, read.unmapped) == (expected, ())
    flat = {"OPTIMIZER": kind, "BASE_LR": 0.1, "CLIP_GRADIENTS": {"ENABLED": True, **clip}}
    assert from_pet({"SOLVER": flat}, strict=True).spec.clip == expected


def test_a_limit_of_0_is_said_to_clip_nothing():
    notes = from_pet(pet({"CLIP_TYPE": "norm", "CLIP_VALUE": 0})).notes
    assert "SOLVER.OPTIMIZER.CLIP_GRADIENTS.CLIP_VALUE: is not above 0: Pet clips nothing then" in notes


def test_defaults_that_are_taken_are_said():
    read = from_pet(pet({"CLIP_VALUE": 3}))
    what = "SOLVER.OPTIMIZER.CLIP_GRADIENTS: not all is given; read as in detectron2: CLIP_TYPE value, NORM_TYPE 2.0"
    assert what in read.notes
    assert read.spec.clip == Value(3.0)
    assert read.spec.optimizer is None  # nothing else is said of it


@pytest.mark.parametrize("kind", ["ADAM", "RMSPROP"])
def test_optimizers_that_pet_does_not_clip(kind):
    with pytest.raises(SolverError, match=r"CLIP_GRADIENTS: is for SGD and ADAMW only in Pet; got " + kind):
        from_pet(pet({"CLIP_VALUE": 0.0}, TYPE=kind, BASE_LR=0.1))
    off = from_pet(pet({"ENABLED": False}, TYPE=kind, BASE_LR=0.1), strict=True).spec
    assert (off.clip, off.optimizer.name.upper()) == (None, kind)


def test_what_pet_does_not_read():
    flat = {"OPTIMIZER": "SGD", "BASE_LR": 0.1, "CLIP_GRADIENTS": {"ENABLED": True}}
    read = from_pet({"SOLVER": flat, "builder": "QANet"})
    assert read.spec.clip is None
    assert "SOLVER.CLIP_GRADIENTS: is not read by earlier releases (QANet)" in read.notes
    beside = from_pet({"SOLVER": {"OPTIMIZER": FULL, "CLIP_GRADIENTS": {"ENABLED": True}}})
    assert (beside.spec.clip, beside.unmapped) == (None, ("SOLVER.CLIP_GRADIENTS",))
    with pytest.raises(SolverError, match=r"CLIP_TYPE: unknown value; got 'full'"):
        from_pet(pet({"CLIP_TYPE": "full"}))
    assert from_pet({"CLIP_GRADIENTS": {"ENABLED": False}}).spec.clip is None
