"""``GradientClipping`` of Composer and its microbatches as a spec: their manner worked out here."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from lightning_solver import SolverError
from lightning_solver.clipping import AGC, GlobalNorm, Value
from lightning_solver.interop import from_composer

KINDS = {
    "norm": GlobalNorm(0.5),
    "value": Value(0.5),
    "adaptive": AGC(0.5, eps=0.0),
}
FORMS = [
    {"algorithms": "GradientClipping('{kind}', 0.5)"},
    {"algorithms": ["GradientClipping(clipping_type='{kind}', clipping_threshold=0.5)"], "max_duration": "9ba"},
    {"algorithms": [{"type": "GradientClipping", "clipping_type": "{kind}", "clipping_threshold": 0.5}]},
    {"algorithms": {"gradient_clipping": {"clipping_type": "{kind}", "clipping_threshold": 0.5}}},
    {"algorithms": {"GradientClipping": {"clipping_type": "{kind}", "clipping_threshold": 0.5}}},
    {"GradientClipping": {"clipping_type": "{kind}", "clipping_threshold": 0.5}},
    "GradientClipping(clipping_type='{kind}', clipping_threshold=0.5)",
    "from composer.algorithms import GradientClipping\nclip = GradientClipping('{kind}', 0.5)\n"
    "trainer = Trainer(model=model, max_duration='9ba', algorithms=[clip])",
]


def filled(form, kind):
    if isinstance(form, dict):
        return {key: filled(value, kind) for key, value in form.items()}
    if isinstance(form, list):
        return [filled(value, kind) for value in form]
    return form.replace("{kind}", kind) if isinstance(form, str) else form


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form)[:40])
def test_forms(form, kind):
    imported = from_composer(filled(form, kind))
    assert imported.spec.clip == KINDS[kind]
    assert set(imported.unmapped) <= {"model"}


def test_in_the_configuration_of_llm_foundry():
    config = {
        "scheduler": {"name": "cosine_with_warmup", "t_warmup": "2ba", "alpha_f": 0.1},
        "optimizer": {"name": "decoupled_adamw", "lr": 6e-4, "betas": [0.9, 0.95]},
        "algorithms": {"gradient_clipping": {"clipping_type": "norm", "clipping_threshold": 1.0}},
        "max_duration": "10ba",
        "device_train_microbatch_size": "auto",
    }
    spec = from_composer(config, strict=True).spec
    assert spec.clip == GlobalNorm(1.0)
    del config["algorithms"]
    assert from_composer(config, strict=True).spec == spec.replace(clip=None)


def test_with_a_scheduler_of_torch():
    config = {"algorithms": ["GradientClipping('norm', 1.0)", "EMA()"], "schedulers": "StepLR(optimizer, 3)"}
    spec = from_composer({**config, "max_duration": "9ep"}, strict=True).spec
    assert spec.clip == GlobalNorm(1.0)
    assert set(spec.averages) == {"ema"}
    assert set(spec.schedules) == {"lr"}


# ------------------------------------------------------------------ what it does


def as_composer(kind, parameters, threshold):
    """What the algorithm does to gradients without FSDP."""
    if kind == "norm":
        clip_grad_norm_(parameters, max_norm=threshold)
    elif kind == "value":
        clip_grad_value_(parameters, clip_value=threshold)
    else:
        for parameter in parameters:
            dims = tuple(range(1, parameter.ndim)) if parameter.ndim > 1 else 0
            of = {"ord": 2, "dim": dims, "keepdim": parameter.ndim > 1}
            allowed = torch.linalg.vector_norm(parameter.detach(), **of) * threshold
            ratio = allowed / torch.linalg.vector_norm(parameter.grad, **of)
            parameter.grad.mul_(ratio.nan_to_num(nan=1.0).clamp(max=1.0))


def made():
    """Parameters of every number of dimensions; units of weights or gradients that are all 0 among them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3, 2, 2), (4, 3), (2, 3, 2), (4,), ()]
    tensors = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 2
    with torch.no_grad():
        tensors[0][1] = 0.0
        tensors[1][2] = 0.0
        tensors[1].grad[2] = 0.0
        tensors[2].grad[0] = 0.0
    return tensors


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_composer_s(kind, threshold):
    ours, theirs = made(), made()
    spec = from_composer({"algorithms": f"GradientClipping('{kind}', {threshold})"}, strict=True).spec
    spec.clip.apply(ours)
    as_composer(kind, theirs, threshold)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_of_several_the_last_acts_first():
    """The order of algorithms is turned round after a batch."""
    config = {"algorithms": ["GradientClipping('norm', 0.5)", "GradientClipping('value', 0.2)"]}
    imported = from_composer(config, strict=True)
    assert imported.spec.clip == (Value(0.2), GlobalNorm(0.5))
    assert any(note.startswith("algorithms[0]: of several the last acts first") for note in imported.notes)


def test_units_of_zeros_are_spoken_of():
    notes = from_composer({"algorithms": "GradientClipping('adaptive', 0.01)"}).notes
    assert any("clipping_type: a unit whose weights are all 0" in note for note in notes)


# ------------------------------------------------------------------ shards, microbatches

SHARDED = [{"fsdp_config": {"sharding_strategy": "FULL_SHARD"}}, {"parallelism_config": {"fsdp": {"mixed": 1}}}]


@pytest.mark.parametrize("shards", SHARDED, ids=lambda shards: next(iter(shards)))
def test_with_shards(shards):
    def read(kind):
        return from_composer({"algorithms": f"GradientClipping('{kind}', 0.5)", **shards})

    assert read("norm").spec.clip == GlobalNorm(0.5)
    assert read("norm").unmapped == tuple(shards)
    with pytest.raises(SolverError, match=r"clipping_type: is refused by Composer with FSDP; got adaptive; give norm"):
        read("adaptive")
    value = read("value")
    assert value.spec.clip == GlobalNorm(0.5, "inf")
    assert any("with FSDP Composer scales all gradients down" in note for note in value.notes)


@pytest.mark.parametrize("shards", [{"fsdp_config": None}, {"fsdp_config": {}}, {"parallelism_config": {"tp": {}}}])
def test_without_shards(shards):
    imported = from_composer({"algorithms": "GradientClipping('value', 0.5)", **shards})
    assert imported.spec.clip == Value(0.5)


@pytest.mark.parametrize("key", ["device_train_microbatch_size", "device_train_grad_accum", "grad_accum"])
def test_microbatches_change_no_number(key):
    config = {"schedulers": "ConstantScheduler()", "max_duration": "9ba"}
    imported = from_composer({**config, key: 4}, strict=True)
    assert imported.spec == from_composer(config, strict=True).spec
    (note,) = [note for note in imported.notes if note.startswith(key)]
    assert "write accumulate: {samples: ...}" in note
    assert not any(key in note for note in from_composer({**config, key: None}, strict=True).notes)


def test_batches_that_count_by_tokens():
    imported = from_composer({"max_duration": "9ba", "accumulate_train_batch_on_tokens": True})
    assert imported.unmapped == ("accumulate_train_batch_on_tokens",)
    assert "weigh_by: tokens" in " ".join(imported.notes)
    assert from_composer({"max_duration": "9ba", "accumulate_train_batch_on_tokens": False}, strict=True)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            "GradientClipping('adaptve', 0.1)",
            r"^algorithms\.clipping_type: unknown value; got 'adaptve'; give norm, value",
        ),
        ("GradientClipping('norm')", r"^algorithms\.clipping_threshold: is missing"),
        ("GradientClipping(clipping_threshold=1)", r"^algorithms\.clipping_type: is missing"),
        ("GradientClipping('norm', 0)", r"^algorithms\.clipping_threshold: must be above 0.*; got 0; correct it, or"),
        ("GradientClipping('norm', 'much')", r"^algorithms\.clipping_threshold: must be a number"),
        ("GradientClipping('norm', limit)", r"^algorithms\.clipping_threshold: is not a literal; got limit"),
    ],
)
def test_mistakes(algorithm, message):
    with pytest.raises(SolverError, match=message):
        from_composer({"algorithms": algorithm})


def test_an_argument_that_composer_does_not_know():
    imported = from_composer({"algorithms": "GradientClipping('norm', 1.0, clip_type=3)"})
    assert imported.unmapped == ("algorithms.clip_type",)
    assert "did you mean clipping_type" in " ".join(imported.notes)
