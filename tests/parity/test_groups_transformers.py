"""The Trainer's own optimiser and groups beside what is made of the same TrainingArguments here."""

import dataclasses
import warnings

import pytest
import torch
import torchvision_stub  # noqa: F401
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm import create_model
from torch import nn
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from lightning_solver.interop import from_transformers
from lightning_solver.interop.transformers.optimizer import FIELDS
from lightning_solver.interop.transformers.optimizers import MEMBERS, NOT_MAPPED, OPTIMIZERS

warnings.filterwarnings("ignore")
SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
FAMILIES = [
    *("bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "gpt2", "opt", "bloom", "gpt_neox", "phi"),
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "t5", "bart", "mbart", "whisper", "vit", "deit", "swin"),
    *("convnext", "resnet", "segformer", "dinov2", "beit", "clip", "wav2vec2", "hubert", "mamba", "mixtral", "olmo2"),
    *("falcon", "mpt", "starcoder2", "cohere", "persimmon", "stablelm", "xlnet", "longformer", "big_bird"),
]
TIMM = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18", "convnext_atto", "efficientnet_lite0"]


def family(name):
    """A model of a family: a small one, or, where its sizes must fit in other ways, the usual one."""
    known = AutoConfig.for_model(name)
    fields = {key: value for key, value in SMALL.items() if hasattr(known, key)}
    with torch.device("meta"):
        try:
            return AutoModel.from_config(AutoConfig.for_model(name, **fields))
        except Exception:  # each family refuses sizes in a way of its own
            return AutoModel.from_config(known)


class Odd(nn.Module):
    """Names and modules at the edges of the rule."""

    def __init__(self):
        super().__init__()
        self.bn1, self.LayerNorm, self.ln = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.LayerNorm(3)
        self.norm, self.pre_norm, self.norms, self.anorm = (nn.Linear(3, 3) for _ in range(4))
        self.Unbiased = nn.ModuleList([nn.Linear(3, 3), nn.LayerNorm(3)])
        self.ln.inner = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.norms.weight
        self.other = self.Unbiased[0]
        self.token = nn.Parameter(torch.zeros(1, 3))
        self.Norm = nn.Parameter(torch.zeros(2, 3))
        self.anorm.weight.requires_grad_(False)


def trainers(model, fields):
    """The optimiser that a Trainer makes."""
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to=[], **fields)
    trainer = object.__new__(Trainer)  # all that create_optimizer looks at
    trainer.model, trainer.args, trainer.optimizer, trainer.optimizer_cls_and_kwargs = model, arguments, None, None
    return trainer.create_optimizer()


def compare(model, fields):
    theirs = trainers(model, fields)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in theirs.param_groups
        for parameter in group["params"]
    }
    plan = from_transformers({"TrainingArguments": fields}, strict=True).spec.plan(model, total_steps=10)
    assert {name: (values["lr"], values["weight_decay"]) for name, values in plan.parameters.items()} == wanted
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert set(plan.left_out) == every - wanted.keys()
    assert plan.recipe.cls is type(theirs)
    for option, value in theirs.defaults.items():
        if option not in ("weight_decay", "foreach", "fused"):  # the first is in every group
            assert plan.recipe.defaults[option] == value, option
    return theirs, plan


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name):
    compare(family(name), {"learning_rate": 3e-5, "weight_decay": 0.1, "optim": "adamw_torch"})


@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm(name):
    with torch.device("meta"):
        model = create_model(name, pretrained=False)
    compare(model, {"learning_rate": 3e-5, "weight_decay": 0.1, "optim": "sgd"})


rates = st.sampled_from([1e-3, 0.1, 0.02])
own = {
    "sgd": ["momentum=0.9", "momentum=0.9,nesterov=True", "dampening=0.1,momentum=0.5", "weight_decay=3,nesterov=on"],
    "adagrad": ["eps=1e-9", "lr_decay=0.1,eps=1e-3", "weight_decay=0.3"],
    "rmsprop": ["momentum=0.9,centered=1", "alpha = 0.9, eps=1e-4", "centered=no"],
    "adafactor": [""],
    "adamw_torch": [""],
    "adamw_torch_fused": [""],
}


@st.composite
def arguments(draw):
    name = draw(st.sampled_from(sorted(own)))
    fields = {"optim": name}
    for key, values in {
        "learning_rate": rates,
        "weight_decay": st.sampled_from([0.0, 0.1, 0.5]),
        "adam_beta1": st.sampled_from([0.8, 0.0]),
        "adam_beta2": st.sampled_from([0.95, 0.99]),
        "adam_epsilon": st.sampled_from([1e-6, 1e-3]),
        "optim_args": st.sampled_from(own[name]),
    }.items():
        if draw(st.booleans()):
            fields[key] = draw(values)
    return fields


def stepped(model, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@given(fields=arguments())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_arguments(fields):
    torch.manual_seed(0)
    theirs = Odd()
    ours = Odd()
    ours.load_state_dict(theirs.state_dict())
    reference, _ = compare(theirs, fields)
    spec = from_transformers({"TrainingArguments": {**fields, "lr_scheduler_type": "constant"}}).spec
    optimizer, _ = spec.plan(ours, total_steps=10).build()
    for got, wanted in zip(stepped(ours, optimizer), stepped(theirs, reference)):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_every_name_is_known():
    assert {name.value for name in OptimizerNames} == {*OPTIMIZERS, *NOT_MAPPED} - {"adamw_apex_fused"}
    differ = {name.name.lower(): name.value for name in OptimizerNames if name.name.lower() != name.value}
    assert differ == MEMBERS


def test_every_field_is_one_of_transformers():
    fields = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    assert {*FIELDS} - {"adafactor"} <= fields.keys()
    args = from_transformers({"TrainingArguments": {}}).spec.optimizer.args
    assert args["lr"] == fields["learning_rate"]
    assert args["weight_decay"] == fields["weight_decay"]
    assert args["betas"] == (fields["adam_beta1"], fields["adam_beta2"])
    assert args["eps"] == fields["adam_epsilon"]
    assert transformers.__version__ >= "5"
