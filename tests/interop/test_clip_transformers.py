"""``max_grad_norm`` and accumulation of ``TrainingArguments`` as a spec."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from lightning_solver import SolverError, SolverSpec
from lightning_solver.clipping import GlobalNorm
from lightning_solver.interop import from_transformers

RUN = {"lr_scheduler_type": "linear", "max_steps": 9}


def named(**fields):
    return from_transformers({"TrainingArguments": {**RUN, **fields}})


def bare(**fields):
    return from_transformers({**RUN, **fields}, strict=True)


@pytest.mark.parametrize(
    ("fields", "clip"),
    [
        ({"max_grad_norm": 0.5}, GlobalNorm(0.5)),
        ({"max_grad_norm": 2}, GlobalNorm(2.0)),
        ({"max_grad_norm": "5e-1"}, GlobalNorm(0.5)),
        ({"max_grad_norm": 0}, None),
        ({"max_grad_norm": 0.0}, None),
        ({"max_grad_norm": -1.0}, None),
        ({"max_grad_norm": None}, None),
    ],
)
@pytest.mark.parametrize("form", [named, bare, lambda **fields: bare(learning_rate=1e-3, **fields)])
def test_the_greatest_norm(fields, clip, form):
    imported = form(**fields)
    assert imported.spec.clip == clip
    assert imported.unmapped == ()
    assert any("nothing is clipped, as in transformers" in note for note in imported.notes) == (clip is None)
    assert SolverSpec.from_dict(json.loads(json.dumps(imported.spec.to_dict()))) == imported.spec


def test_there_is_a_default():
    """A Trainer clips unless it is told not to; fields of the schedule alone say nothing of it."""
    for imported in (named(), bare(optim="sgd"), bare(weight_decay=0.1)):
        assert imported.spec.clip == GlobalNorm(1.0)
        assert any("max_grad_norm: is not given: gradients are clipped to a norm of 1" in n for n in imported.notes)
    assert bare().spec.clip is None
    assert from_transformers({"get_scheduler": {"name": "constant"}}).spec.clip is None


def test_it_is_there_where_the_optimiser_is_not_mapped():
    imported = named(optim="galore_adamw", optim_target_modules="all")
    assert imported.spec.optimizer is None
    assert imported.spec.clip == GlobalNorm(1.0)


def test_the_optimiser_s_own_clipping_stays_its_own():
    spec = named(optim="grokadamw", max_grad_norm=0.0).spec
    assert spec.clip is None
    assert spec.optimizer.args["gradient_clipping"] == 1.0


def test_gradients_are_torch_s():
    """The Trainer clips all parameters together, by torch's function."""
    clip = named(max_grad_norm=0.7).spec.clip
    gradients = []
    for how in (lambda module: clip.apply(module), lambda module: clip_grad_norm_(module.parameters(), 0.7)):
        module = nn.Linear(5, 3)
        for i, parameter in enumerate(module.parameters()):
            parameter.grad = torch.linspace(-1, 2, parameter.numel()).reshape(parameter.shape) * (i + 1)
        how(module)
        gradients.append([parameter.grad for parameter in module.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------ accumulation


@pytest.mark.parametrize(("steps", "accumulate"), [(1, None), (4, 4), (4.0, 4)])
def test_accumulation(steps, accumulate):
    for form in (named, bare):
        imported = form(gradient_accumulation_steps=steps)
        assert imported.spec == form().spec.replace(accumulate=accumulate)
        assert imported.unmapped == ()
        assert any("weigh_by: tokens" in note for note in imported.notes) == (accumulate is not None)


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_accumulation_by_accelerate(form):
    config = form({"gradient_accumulation_kwargs": {"num_steps": 4}})
    imported = named(accelerator_config=config)
    assert imported.spec.accumulate == 4
    assert imported.unmapped == ()
    both = named(accelerator_config=form({"gradient_accumulation_kwargs": {"num_steps": 4, "sync_each_batch": True}}))
    assert both.unmapped == ("TrainingArguments.accelerator_config",)
    assert both.spec.accumulate == 4
    with pytest.raises(SolverError, match="num_steps: is given beside it, which transformers refuses; got 4 beside"):
        named(accelerator_config=config, gradient_accumulation_steps=2)


@pytest.mark.parametrize("config", [{"split_batches": True}, "accelerator.json"])
def test_the_rest_of_accelerate_is_not_mapped(config):
    imported = named(accelerator_config=config)
    assert imported.unmapped == ("TrainingArguments.accelerator_config",)
    assert imported.spec.accumulate is None
    assert named(accelerator_config=None).unmapped == ()


def test_an_epoch_has_a_short_window_at_its_end():
    """11 batches, 3 a step, are 4 steps, 2 epochs of which are 8."""
    config = {"lr_scheduler_type": "linear", "num_train_epochs": 2, "warmup_steps": 0.5}
    for keys in (
        {"gradient_accumulation_steps": 3},
        {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 3}}},
    ):
        spec = from_transformers({**config, **keys}, facts={"iters_per_epoch": 11}, strict=True).spec
        assert spec.accumulate == 3
        assert spec.to_dict()["schedules"]["lr"][0]["init_args"] == {"start": 0.0, "until": 4}


@pytest.mark.parametrize("told", [True, False])
def test_tokens_over_devices(told):
    imported = named(average_tokens_across_devices=told)
    path = "TrainingArguments.average_tokens_across_devices"
    assert imported.unmapped == ((path,) if told else ())
    (note,) = [note for note in imported.notes if note.startswith(path)]
    assert ("weigh_by: tokens" if told else "all processes count equally, as here") in note
    several = named(average_tokens_across_devices=told, gradient_accumulation_steps=2)
    assert several.spec.accumulate == 2
    assert any("where the model takes num_items_in_batch" in n for n in several.notes if n.startswith(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_grad_norm": "much"}, "max_grad_norm: must be a number; got 'much'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: must be at least 1; got 0"),
        ({"gradient_accumulation_steps": 1.5}, r"gradient_accumulation_steps: must be a whole number; got 1\.5"),
        ({"average_tokens_across_devices": 3}, "average_tokens_across_devices: must be true or false"),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 0}}},
            r"accelerator_config\.gradient_accumulation_kwargs\.num_steps: must be a whole number >= 1; got 0",
        ),
        ({"accelerator_config": "{num_steps"}, "accelerator_config: is not JSON"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(SolverError, match=message):
        named(**fields)


def test_what_contradicts_the_facts():
    config = {**RUN, "gradient_accumulation_steps": 2}
    with pytest.raises(SolverError, match="gradient_accumulation_steps: contradicts the facts; got 2, and facts 3"):
        from_transformers(config, facts={"batches_per_step": 3})
    assert from_transformers(config, facts={"batches_per_step": 2}, strict=True).spec.accumulate == 2
