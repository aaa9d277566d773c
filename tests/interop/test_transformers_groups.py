"""The optimiser of transformers' Trainer and what it decays: what the real one gave, and what a config is written as."""

import json

import pytest
import torch
from group_cases import differences, is_plain, plan_of
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop.transformers import from_transformers
from lightning_solver.interop.transformers.optimizers import NOT_MAPPED, OPTIMIZERS
from stand_ins import GOLDEN, golden_cases

CASES = golden_cases("param_groups_transformers")
LISTED = json.loads((GOLDEN / "model_parameters_transformers.json").read_text())
RATE = {"lr": 5e-5, "weight_decay": 0.0}
ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}


def read(**fields):
    return from_transformers({"TrainingArguments": {"max_steps": 9, **fields}})


def optimizer(**fields):
    return read(**fields).spec.to_dict()["optimizer"]


def decays(model, weight_decay=0.5):
    """Name -> weight decay."""
    plan = read(weight_decay=weight_decay).spec.plan(model, total_steps=9)
    return {name: values["weight_decay"] for name, values in plan.parameters.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_transformers_gave_the_same(case, monkeypatch):
    monkeypatch.setattr(nn.Embedding, "sparse", False, raising=False)  # which stand-ins have not
    imported = from_transformers(case["config"], facts=case["setting"])
    assert imported.unmapped == ()
    assert is_plain(imported.spec)
    assert differences(case, plan_of(case, imported.spec, LISTED)) == []


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class OwnNorm(nn.LayerNorm):
    def __init__(self):
        super().__init__(3)
        self.gate = nn.Linear(3, 3, bias=False)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn1, self.ln, self.rms, self.norm = nn.BatchNorm1d(3), nn.LayerNorm(3), RMSNorm(), nn.Linear(3, 3, False)
        self.own = OwnNorm()
        self.RMSNorm, self.post_norm, self.normal = RMSNorm(), RMSNorm(), nn.Linear(3, 3)
        self.norm1, self.Abiased = RMSNorm(), nn.Linear(3, 3, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 3))


def test_what_is_not_decayed():
    """Names in any case, and layer norms with all that is in them; other norms are decayed by their class."""
    found = decays(Odd())
    assert {name for name, decay in found.items() if decay} == {
        *("cls_token", "bn1.weight", "rms.weight", "normal.weight", "norm1.weight"),
    }
    assert found.keys() == dict(Odd().named_parameters()).keys()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"name": "AdamW", "args": {**RATE, **ADAM}}),
        (
            {"learning_rate": "1e-4", "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6},
            {"name": "AdamW", "args": {"lr": 1e-4, "weight_decay": 0.1, "betas": [0.8, 0.9], "eps": 1e-6}},
        ),
        ({"optim": "adamw_torch_fused"}, {"name": "AdamW", "args": {**RATE, **ADAM, "fused": True}}),
        ({"optim": "sgd"}, {"name": "SGD", "args": RATE}),
        (
            {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True,dampening=0"},
            {"name": "SGD", "args": {**RATE, "momentum": 0.9, "dampening": 0.0, "nesterov": True}},
        ),
        ({"optim": "adagrad", "optim_args": "eps=1e-9"}, {"name": "Adagrad", "args": {**RATE, "eps": 1e-9}}),
        (
            {"optim": "rmsprop", "optim_args": "alpha=0.9,centered=1"},
            {"name": "RMSprop", "args": {**RATE, "alpha": 0.9, "centered": True}},
        ),
        (
            {"adafactor": True},
            {
                "name": "transformers.optimization.Adafactor",
                "args": {**RATE, "scale_parameter": False, "relative_step": False},
            },
        ),
        (
            {"optim": "paged_lion_8bit"},
            {
                "name": "bitsandbytes.optim.Lion",
                "args": {**RATE, "betas": [0.9, 0.999], "optim_bits": 8, "is_paged": True},
            },
        ),
        (
            {"optim": "rmsprop_bnb", "optim_args": "alpha=0.9"},
            {"name": "bitsandbytes.optim.RMSprop", "args": {**RATE, "alpha": 0.9, "optim_bits": 32}},
        ),
        (
            {"optim": "ademamix", "optim_args": "beta3=0.99,t_alpha=100"},
            {
                "name": "bitsandbytes.optim.AdEMAMix",
                "args": {
                    **RATE,
                    "betas": [0.9, 0.999, 0.99],
                    "alpha": 5.0,
                    "eps": 1e-8,
                    "t_alpha": 100,
                    "optim_bits": 32,
                    "is_paged": False,
                },
            },
        ),
        (
            {"optim": "schedule_free_sgd", "warmup_steps": 3, "weight_decay": 0.1},
            {
                "name": "schedulefree.SGDScheduleFree",
                "args": {"lr": 5e-5, "weight_decay": 0.1, "warmup_steps": 3, "weight_lr_power": 2.0, "r": 0.0},
            },
        ),
        (
            {"optim": "schedule_free_radam", "optim_args": "r=0.5"},
            {"name": "schedulefree.RAdamScheduleFree", "args": {**RATE, **ADAM, "weight_lr_power": 2.0, "r": 0.5}},
        ),
        (
            {"optim": "stable_adamw", "optim_args": "max_lr=0.1,kahan_sum=True"},
            {
                "name": "optimi.StableAdamW",
                "args": {**RATE, **ADAM, "decouple_lr": False, "max_lr": 0.1, "kahan_sum": True},
            },
        ),
        (
            {"optim": "adamw_torch_8bit", "optim_args": "block_size=128"},
            {
                "name": "torchao.optim.AdamW8bit",
                "args": {**RATE, "block_size": 128, "bf16_stochastic_round": False, **ADAM},
            },
        ),
    ],
)
def test_the_optimizer(fields, expected):
    assert optimizer(**fields) == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_gives_a_class_and_its_rate(name):
    found = optimizer(optim=name, learning_rate=0.5, weight_decay=0.25)
    assert found["args"]["lr"] == 0.5
    assert found["args"]["weight_decay"] == 0.25
    assert "." in found["name"] or hasattr(torch.optim, found["name"])


@pytest.mark.parametrize("name", NOT_MAPPED)
def test_what_has_no_counterpart(name):
    imported = read(optim=name, weight_decay=0.1)
    assert imported.spec.optimizer is None
    assert imported.unmapped == ("TrainingArguments.optim", "TrainingArguments.weight_decay")
    assert f"TrainingArguments.optim: {name} is not mapped: " in " ".join(imported.notes)


def test_members_of_the_enumeration():
    text = "TrainingArguments('out', max_steps=9, optim=OptimizerNames.{})"
    for member, name in {
        "ADAMW_TORCH": "adamw_torch",
        "LION": "lion_32bit",
        "RMSPROP_8BIT": "rmsprop_bnb_8bit",
    }.items():
        assert from_transformers(text.format(member)).spec.to_dict()["optimizer"] == optimizer(optim=name)


def test_only_a_schedule_has_no_optimizer():
    for config in ({"lr_scheduler_type": "linear", "max_steps": 9}, "get_constant_schedule(optimizer)"):
        spec = from_transformers(config).spec
        assert spec.optimizer is None
        assert spec.rules == ()
    assert from_transformers({"max_steps": 9, "optim": "sgd"}).spec.optimizer.name == "SGD"


def test_a_learning_rate_beside_a_schedule_that_is_relative_to_it():
    own = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.01}, "learning_rate": 0.1}
    plan = read(**own).spec.plan(nn.Linear(2, 2), total_steps=9)
    assert plan.curve("lr")[0, 0] == 0.1
    assert plan.curve("lr")[-1, 0] == pytest.approx(0.01 + 0.09 * (1 + torch.tensor(torch.pi * 8 / 9).cos().item()) / 2)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, "optim: is not given: AdamW is taken"),
        ({"optim": "sgd", "adam_beta1": 0.5}, "adam_beta1: has no effect with sgd"),
        ({"optim": "lion_8bit", "adam_epsilon": 0.5}, "adam_epsilon: has no effect with lion_8bit"),
        (
            {"optim": "sgd", "optim_args": "weight_decay=3"},
            "optim_args.weight_decay: has no effect, as in transformers",
        ),
        ({"optim": "sgd", "optim_target_modules": ["q"]}, "optim_target_modules: has no effect with sgd"),
        ({"optim": "adamw_8bit"}, "keeps 32 bits for embeddings"),
        ({"optim": "stable_adamw", "optim_args": "kahan_sum=False"}, "any text is true to transformers"),
        ({"optim": "schedule_free_adamw", "warmup_steps": 0.5}, "is handed to schedulefree as it is"),
        ({"optim": "sgd", "optim_args": "momentu=0.9"}, "optim_args.momentu: has no effect with sgd"),
        ({}, "max_grad_norm: is not given: gradients are clipped to a norm of 1"),
    ],
)
def test_what_is_odd_is_noted(fields, note):
    assert any(note in said for said in read(**fields).notes)


@pytest.mark.parametrize(
    ("fields", "unmapped"),
    [
        ({"optim": "sgd", "adam_beta1": 0.5, "optim_args": "momentum=0.9"}, ()),
        ({"optim": "sgd", "optim_args": "momentu=0.9"}, ("TrainingArguments.optim_args.momentu",)),
        ({"adam_beta3": 0.9, "weight_deca": 0.1}, ("TrainingArguments.adam_beta3", "TrainingArguments.weight_deca")),
    ],
)
def test_what_is_not_mapped(fields, unmapped):
    assert read(**fields).unmapped == unmapped


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"optim": "adamw_troch"},
            "optim: transformers has no such optimiser; got 'adamw_troch'; did you mean adamw_torch",
        ),
        ({"optim": "adamw_hf"}, "optim: transformers has no such optimiser"),
        ({"optim_args": "momentum:0.9"}, "optim_args: must be a text of name=value"),
        ({"optim_args": {"momentum": 0.9}}, "optim_args: must be a text of name=value"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, r"optim_args\.momentum: must be a number"),
        ({"optim": "ademamix", "optim_args": "t_alpha=1.5"}, r"t_alpha: must be a whole number"),
        ({"learning_rate": -1}, "learning_rate: must be at least 0"),
        ({"weight_decay": "much"}, "weight_decay: must be a number"),
    ],
)
def test_what_transformers_refuses(fields, message):
    with pytest.raises(SolverError, match=message):
        read(**fields)


def test_text_of_the_usual_kind():
    text = "TrainingArguments(output_dir='o', learning_rate=2e-5, weight_decay=0.01, num_train_epochs=3)"
    imported = from_transformers(text)
    assert imported.spec.to_dict()["optimizer"] == optimizer(learning_rate=2e-5, weight_decay=0.01)
    assert imported.unmapped == ("TrainingArguments.output_dir",)


def test_an_optimizer_that_is_made_by_hand_is_not_passed_over():
    text = "optimizer = AdamW(model.parameters(), lr=1e-4)\nget_scheduler('constant', optimizer)"
    imported = from_transformers(text)
    assert imported.unmapped == ("AdamW",)
    assert imported.spec.optimizer is None
