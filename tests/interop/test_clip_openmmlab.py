"""Clipping in MMCV and MMEngine configs: the figures of the real ones, their arguments, and what is said of the rest."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_solver import SolverError, SolverSpec
from lightning_solver.clipping import GlobalNorm, Value
from lightning_solver.interop import from_mmcv, from_mmengine

CASES = json.loads((Path(__file__).parent.parent / "golden" / "clip_openmmlab.json").read_text())
IMPORTERS = {"mmcv1": from_mmcv, "mmengine": from_mmengine}
SGD = {"type": "SGD", "lr": 0.1}


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


def hook(clip, **arguments):
    return {"optimizer_config": {"grad_clip": clip, **arguments}}


def wrapper(clip, **arguments):
    return {"optim_wrapper": {"type": "OptimWrapper", "optimizer": SGD, "clip_grad": clip, **arguments}}


# ------------------------------------------------------------------ figures of the real ones


@pytest.mark.parametrize("how", ["module", "parameters"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_peer_gave_the_same(case, how):
    spec = IMPORTERS[case["peer"]](case["config"], facts=case["setting"], strict=True).spec
    module = Holder(case["setting"]["grads"])
    spec.clip.apply(module if how == "module" else module.parameters())
    for ours, theirs in zip(module.grads, case["values"], strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_python_of_the_case_is_read_alike_and_the_spec_is_plain_data(case):
    importer = IMPORTERS[case["peer"]]
    spec = importer(case["config"]).spec
    ((name, inner),) = case["config"].items()
    text = case["config_py"].removeprefix("{").removesuffix("}").partition(": ")[2]
    assert importer(f"{name} = {text}").spec == spec, inner
    assert SolverSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


# ------------------------------------------------------------------ snippets of the manuals

BASE = "optimizer_config = dict(grad_clip=None)\nlr_config = dict(policy='step', step=[30])\n"
NORM_35 = "optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))"
DELETED = "optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2), _delete_=True, type='OptimizerHook')"
NORM_02 = """
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=optimizer,
    clip_grad=dict(
        max_norm=0.2,
        norm_type=2))
"""
MIXED = """
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=optimizer)
"""


def test_the_tutorials_are_read_as_a_human_would_write_them(tmp_path):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "config.py").write_text(f"_base_ = ['base.py']\n{DELETED}\n")
    for config in (NORM_35, DELETED, tmp_path / "config.py"):
        assert from_mmcv(config, strict=True).spec.clip == GlobalNorm(35.0)
    assert from_mmcv("optimizer_config = dict(type='OptimizerHook')", strict=True).spec.clip is None
    assert from_mmengine(NORM_02, strict=True).spec.clip == GlobalNorm(0.2)
    assert from_mmengine(NORM_02).spec.to_dict()["clip"] == {
        "class_path": "GlobalNorm",
        "init_args": {"max_norm": 0.2},
    }
    mixed = from_mmengine(MIXED)
    assert mixed.unmapped == ("optim_wrapper.type",)
    assert "optim_wrapper.type: the precision belongs to the Trainer: Trainer(precision='16-mixed')" in mixed.notes


# ------------------------------------------------------------------ arguments


NORMS = {
    "bare": ({"max_norm": 3}, GlobalNorm(3.0)),
    "order 1": ({"max_norm": 3.5, "norm_type": 1}, GlobalNorm(3.5, norm_type=1.0)),
    "a part of an order": ({"max_norm": 1, "norm_type": 0.5}, GlobalNorm(1.0, norm_type=0.5)),
    "inf as a number": ({"max_norm": 1, "norm_type": math.inf}, GlobalNorm(1.0, norm_type="inf")),
    "inf as a text": ({"max_norm": 1, "norm_type": "Inf"}, GlobalNorm(1.0, norm_type="inf")),
    "a number as a text": ({"max_norm": "1e-1"}, GlobalNorm(0.1)),
    "how it goes over the tensors": ({"max_norm": 1, "foreach": False}, GlobalNorm(1.0)),
    "non-finite ones are let through": ({"max_norm": 1, "error_if_nonfinite": False}, GlobalNorm(1.0)),
}


@pytest.mark.parametrize("name", NORMS)
def test_arguments_of_the_norm(name):
    arguments, expected = NORMS[name]
    for spec in (from_mmcv(hook(arguments), strict=True).spec, from_mmengine(wrapper(arguments), strict=True).spec):
        assert (spec.clip, spec.nonfinite) == (expected, None)


@pytest.mark.parametrize("text", ["float('inf')", "inf", "torch.inf", "math.inf", "np.inf", "'inf'"])
def test_infinity_in_python_text(text):
    config = f"optimizer_config = dict(grad_clip=dict(max_norm=2, norm_type={text}))"
    assert from_mmcv(config).spec.clip == GlobalNorm(2.0, norm_type="inf")


def test_norms_that_are_not_finite_are_an_error_where_torch_is_told_so():
    clip = {"max_norm": 1.0, "error_if_nonfinite": True}
    for spec in (from_mmcv(hook(clip), strict=True).spec, from_mmengine(wrapper(clip), strict=True).spec):
        assert (spec.clip, spec.nonfinite) == (GlobalNorm(1.0), "error")


def test_values():
    for clip in ({"type": "value", "clip_value": 0.3}, {"type": "value", "clip_value": 0.3, "foreach": True}):
        assert from_mmengine(wrapper(clip), strict=True).spec.clip == Value(0.3)
    assert from_mmengine(wrapper({"type": "norm", "max_norm": 0.3}), strict=True).spec.clip == GlobalNorm(0.3)


def test_a_norm_that_is_only_logged():
    for read in (from_mmcv(hook({"max_norm": math.inf})), from_mmengine(wrapper({"max_norm": "inf"}))):
        assert (read.spec.clip, read.unmapped) == (None, ())
        assert any("max_norm: is infinite: nothing is clipped" in note for note in read.notes)


def test_no_clipping():
    for read in (from_mmcv(hook(None), strict=True), from_mmengine(wrapper(None), strict=True)):
        assert (read.spec.clip, read.spec.nonfinite, read.notes) == (None, None, read.notes)
        assert not any("clip" in note for note in read.notes)


UNKNOWN = [
    (from_mmcv, hook({"max_norm": 1, "norm_typ": 2}), "optimizer_config.grad_clip.norm_typ", "did you mean norm_type"),
    (from_mmcv, hook({"max_norm": 1, "type": "norm"}), "optimizer_config.grad_clip.type", "no such argument"),
    (from_mmengine, wrapper({"max_norm": 1, "clip_value": 2}), "optim_wrapper.clip_grad.clip_value", "clip_grad_norm_"),
    (
        from_mmengine,
        wrapper({"type": "value", "clip_value": 1, "norm_type": 2}),
        "optim_wrapper.clip_grad.norm_type",
        "clip_grad_value_ has no such argument",
    ),
    (
        from_mmcv,
        hook(None, detect_anomalous_param=True),
        "optimizer_config.detect_anomalous_param",
        "OptimizerHook has",
    ),
]


@pytest.mark.parametrize(("importer", "config", "path", "words"), UNKNOWN)
def test_what_the_peer_would_refuse_to_take_is_named(importer, config, path, words):
    read = importer(config)
    assert read.unmapped == (path,)
    assert any(note.startswith(f"{path}: ") and words in note for note in read.notes)
    with pytest.raises(SolverError, match=r"is not mapped"):
        importer(config, strict=True)


REFUSED = [
    ({}, "max_norm: is missing"),
    ({"norm_type": 2}, "max_norm: is missing"),
    ({"maxnorm": 2}, "max_norm: is missing; got keys maxnorm; rename maxnorm"),
    ({"max_norm": 0}, "max_norm: must be above 0: nothing is learnt else; got 0"),
    ({"max_norm": -1.0}, "max_norm: must be above 0: nothing is learnt else; got -1.0"),
    ({"max_norm": "much"}, "max_norm: must be a number; got 'much'"),
    ({"max_norm": True}, "max_norm: must be a number; got True"),
    ({"max_norm": 1, "norm_type": 0}, "norm_type: must be above 0; got 0; give the order of a norm, or inf"),
    ({"max_norm": 1, "norm_type": None}, "norm_type: must be above 0; got None"),
    ({"max_norm": 1, "error_if_nonfinite": "yes"}, "error_if_nonfinite: must be true or false"),
    (35, "must be a mapping; got 35"),
]


@pytest.mark.parametrize(("clip", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(clip, message):
    between = ": " if message.startswith("must be a mapping") else "."
    for importer, config, where in (
        (from_mmcv, hook(clip), "optimizer_config.grad_clip"),
        (from_mmengine, wrapper(clip), "optim_wrapper.clip_grad"),
    ):
        with pytest.raises(SolverError) as caught:
            importer(config)
        assert str(caught.value).startswith(f"{where}{between}{message}")


def test_what_mmengine_refuses():
    with pytest.raises(SolverError, match=r"optim_wrapper\.clip_grad\.type: unknown value; got 'agc'"):
        from_mmengine(wrapper({"type": "agc", "max_norm": 1}))
    with pytest.raises(SolverError, match=r"clip_grad\.clip_value: is missing"):
        from_mmengine(wrapper({"type": "value"}))
    with pytest.raises(SolverError, match=r"clip_grad\.clip_value: must be above 0: nothing is learnt else; got 0"):
        from_mmengine(wrapper({"type": "value", "clip_value": 0}))


# ------------------------------------------------------------------ hooks, wrappers, precision


HOOKS = [
    ({"type": "OptimizerHook"}, (), ()),
    ({"type": "mmcv.OptimizerHook", "detect_anomalous_params": False}, (), ()),
    (
        {"detect_anomalous_params": True},
        ("optimizer_config.detect_anomalous_params",),
        ("logs which parameters the loss does not depend on",),
    ),
    (
        {"type": "Fp16OptimizerHook", "coalesce": True, "bucket_size_mb": -1, "distributed": False},
        ("optimizer_config.type",),
        (
            "optimizer_config.type: the precision belongs to the Trainer: Trainer(plugins=MixedPrecision('16-mixed', "
            "'cuda', scaler=...)) with a torch.amp.GradScaler for loss_scale 512.0, which a GradScaler moves and theirs "
            "keeps",
            "optimizer_config.coalesce: is not needed: the Trainer's strategy sums up gradients over devices",
            "optimizer_config.bucket_size_mb: is not needed",
            "optimizer_config.distributed: is not needed",
        ),
    ),
    (
        {"type": "Fp16OptimizerHook", "loss_scale": "dynamic"},
        ("optimizer_config.type",),
        ("optimizer_config.type: the precision belongs to the Trainer: Trainer(precision='16-mixed')",),
    ),
    (
        {"type": "Fp16OptimizerHook", "loss_scale": {"init_scale": 64.0, "growth_interval": 100}},
        ("optimizer_config.type",),
        ("GradScaler for loss_scale {'init_scale': 64.0, 'growth_interval': 100}",),
    ),
    (
        {"type": "DistOptimizerHook", "coalesce": False, "frozen_layers_cfg": {"prototypes": 100}},
        ("optimizer_config.frozen_layers_cfg",),
        ("write a rule with frozen_until",),
    ),
    ({"type": "DistOptimizerHook", "frozen_layers_cfg": {}, "use_fp16": False}, (), ()),
    (
        {"type": "DistOptimizerHook", "update_interval": 1, "use_fp16": True},
        ("optimizer_config.use_fp16",),
        ("optimizer_config.use_fp16: the precision belongs to the Trainer: Trainer(precision='16-mixed')",),
    ),
    (
        {"type": "OptimizerHok", "anything": 3},
        ("optimizer_config.type", "optimizer_config.anything"),
        ("OptimizerHok is a hook of its own", "did you mean OptimizerHook"),
    ),
]


@pytest.mark.parametrize(("arguments", "unmapped", "words"), HOOKS)
def test_hooks_of_mmcv(arguments, unmapped, words):
    read = from_mmcv(hook({"max_norm": 2}, **arguments))
    assert read.spec.clip == GlobalNorm(2.0)
    assert set(read.unmapped) == set(unmapped)
    assert all(any(word in note for note in read.notes) for word in words)


def test_arguments_of_another_hook_are_not_taken():
    read = from_mmcv({"optimizer_config": {"type": "OptimizerHook", "loss_scale": 512.0, "coalesce": True}})
    assert set(read.unmapped) == {"optimizer_config.loss_scale", "optimizer_config.coalesce"}
    assert any("OptimizerHook has no such argument" in note for note in read.notes)
    with pytest.raises(SolverError, match=r"optimizer_config\.type: is not a hook; got 3"):
        from_mmcv({"optimizer_config": {"type": 3}})


def test_the_precision_of_a_whole_config():
    read = from_mmcv({"optimizer": SGD, "fp16": {"loss_scale": "dynamic"}})
    assert read.unmapped == ("fp16",)
    assert "fp16: the precision belongs to the Trainer: Trainer(precision='16-mixed')" in read.notes
    static = from_mmcv({"optimizer": SGD, "fp16": {"loss_scale": 512.0}})
    assert any("a torch.amp.GradScaler for loss_scale 512.0" in note for note in static.notes)
    for config, importer in (
        ({"optimizer": SGD, "fp16": {"loss_scale": "static"}}, from_mmcv),
        (hook(None, type="Fp16OptimizerHook", loss_scale="static"), from_mmcv),
        (wrapper(None, type="AmpOptimWrapper", loss_scale="static"), from_mmengine),
    ):
        with pytest.raises(SolverError, match=r"loss_scale: is not a scale of the loss; got 'static'"):
            importer(config)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (None, "Trainer(precision='16-mixed')"),
        ("float16", "Trainer(precision='16-mixed')"),
        ("bfloat16", "Trainer(precision='bf16-mixed')"),
        ("float32", "casts to float32"),
    ],
)
def test_clipping_beside_mixed_precision(dtype, words):
    read = from_mmengine(wrapper({"max_norm": 1.0}, type="AmpOptimWrapper", dtype=dtype))
    assert read.spec.clip == GlobalNorm(1.0)
    assert read.unmapped == ("optim_wrapper.type",)
    assert any(words in note for note in read.notes)


def test_the_parts_of_several_wrappers_are_imported_one_by_one():
    parts = {
        "generator": {"type": "OptimWrapper", "optimizer": SGD, "clip_grad": {"max_norm": 1.0}},
        "discriminator": {"optimizer": SGD, "clip_grad": {"type": "value", "clip_value": 0.5}},
    }
    read = from_mmengine({"optim_wrapper": {**parts, "constructor": "MultiOptimWrapperConstructor"}})
    assert (read.spec.clip, read.unmapped) == (None, ("optim_wrapper",))
    clips = [from_mmengine({"optim_wrapper": part}, strict=True).spec.clip for part in parts.values()]
    assert clips == [GlobalNorm(1.0), Value(0.5)]


# ------------------------------------------------------------------ what it is for


class Net(nn.Module):
    """Two layers, of which the first requires no gradient."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)
        self.first.requires_grad_(False)


@pytest.mark.parametrize("importer", [from_mmcv, from_mmengine])
def test_all_that_the_model_trains_is_clipped_what_has_a_rate_of_0_too(importer):
    """MMCV clips what requires a gradient, MMEngine what the optimiser has: the same parameters."""
    keys = {"custom_keys": {"second.bias": {"lr_mult": 0.0}}}
    config = {
        from_mmcv: {"optimizer": {**SGD, "paramwise_cfg": keys}, **hook({"max_norm": 1.0})},
        from_mmengine: wrapper({"max_norm": 1.0}, paramwise_cfg=keys),
    }[importer]
    plan = importer(config, strict=True).spec.plan(Net(), total_steps=10)
    (planned,) = plan.clips
    assert (sorted(planned.names), planned.everything) == (["second.bias", "second.weight"], True)
    assert plan.parameters["second.bias"]["lr"] == 0.0
