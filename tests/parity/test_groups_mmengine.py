"""Parameter groups of MMEngine, drawn at random: its own builder beside the importer, parameter by parameter."""

import copy
import logging

import pytest
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mmengine.optim import build_optim_wrapper
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop.mmengine import from_mmengine
from stand_ins import golden_model

logging.disable(logging.WARNING)


class Roots(nn.Module):
    """Parameters of the outermost module, some without a dimension, beside modules whose names begin alike."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(nn.Linear(1, 3).bias.detach())
        self.weight = nn.Parameter(nn.Linear(1, 3).weight.detach())
        self.gamma = nn.Parameter(nn.Linear(1, 1).bias[0].detach())
        self.norm = nn.LayerNorm(3)
        self.norm_extra = nn.Sequential(nn.Linear(3, 3), nn.GroupNorm(1, 3), nn.Embedding(2, 3))
        self.bias_net = nn.Linear(3, 3)
        self.conv = nn.ModuleList([nn.Conv2d(3, 3, 1, groups=3), nn.Conv1d(3, 3, 1, groups=3), nn.Conv2d(3, 6, 1)])
        self.norm_extra[0].bias.requires_grad_(False)
        self.register_parameter("empty", None)


def timm_model(name):
    import timm

    return timm.create_model(name, pretrained=False)


MODELS = {
    "roots": Roots(),
    **{
        name: golden_model(f"models:{name}", {})
        for name in ("ConvZoo", "TinyTransformer", "SharedBlocks", "BEiTSegmentor")
    },
    **{name: timm_model(name) for name in ("resnet18", "mobilenetv3_small_050", "convnext_atto")},
}
OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.95)},
    "RMSprop": {"lr": 0.01, "alpha": 0.9},
    "NAdam": {"lr": 2e-3},
}
mults = st.sampled_from([0, 0.0, 0.1, 0.5, 1, 1.0, 2.0, 10, None])
numbers = st.sampled_from([0, 0.0, 0.1, 1 / 3, 1, 3.0])
words = st.sampled_from(
    [
        *(
            "bias",
            "weight",
            ".bias",
            ".weight",
            "norm",
            ".norm",
            "norm.",
            "norm_",
            "backbone",
            "backbone.",
            "conv",
            "0",
            ".0.",
        ),
        *("layers.1", "head", "bn", "ln1", "stages.1.inner", "pos_embed", ".pos_embed", "cls_token", ".gamma", "gamma"),
        *(
            "trunk",
            "extra_bias",
            ".extra_bias",
            "a",
            "",
            ".",
            "*",
            "[a-z]",
            ".norm.bias",
            ".bias_net",
            "blocks.0.0",
            "fc",
        ),
    ]
)


@st.composite
def configs(draw):
    name = draw(st.sampled_from(sorted(OPTIMIZERS)))
    optimizer = {"type": name, **OPTIMIZERS[name]}
    has_decay = draw(st.sampled_from([True, True, True, False]))
    if has_decay:
        optimizer["weight_decay"] = draw(st.sampled_from([0, 1e-4, 0.05]))
    options = ["flat_decay_mult", "bias_lr_mult"] + [
        "norm_decay_mult",
        "bias_decay_mult",
        "dwconv_decay_mult",
    ] * has_decay
    paramwise = {option: draw(mults) for option in draw(st.lists(st.sampled_from(options), unique=True))}
    keys = draw(st.lists(words, unique=True, max_size=5))
    extras = {"momentum": numbers} if name in ("SGD", "RMSprop") else {"eps": numbers}
    for key in keys:
        fields = {"lr_mult": numbers, "lr": numbers, "weight_decay": numbers, **extras}
        fields |= {"decay_mult": numbers} if has_decay else {}
        chosen = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=3))
        paramwise.setdefault("custom_keys", {})[key] = {field: draw(fields[field]) for field in chosen}
    if draw(st.booleans()):
        paramwise["bypass_duplicate"] = True
    return {"optim_wrapper": {"optimizer": optimizer, "paramwise_cfg": paramwise}}


def theirs_of(model, config):
    """Name -> every option of the group that has it, as MMEngine made it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, copy.deepcopy(config["optim_wrapper"])).optimizer.param_groups
    return {
        names[id(parameter)]: {key: value for key, value in group.items() if key != "params"}
        for group in groups
        for parameter in group["params"]
    }


@given(config=configs(), name=st.sampled_from(sorted(MODELS)))
@settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
def test_the_builder_gives_the_same(config, name):
    model = MODELS[name]
    try:
        theirs = theirs_of(model, config)
    except ValueError as error:  # tensors with several names, without bypass_duplicate
        if "more than one parameter group" not in str(error):
            raise
        event("refused")
        theirs = None
    ours = from_mmengine(config, strict=True).spec.plan(model, total_steps=10)
    if theirs is None:
        config["optim_wrapper"]["paramwise_cfg"]["bypass_duplicate"] = True
        theirs = theirs_of(model, config)
    compare(theirs, ours, model, frozen_kept=not config["optim_wrapper"]["paramwise_cfg"])


def compare(theirs, ours, model, *, frozen_kept):
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert ours.parameters.keys() == theirs.keys() - (frozen if frozen_kept else set())
    assert not frozen & ours.parameters.keys()
    for name, options in ours.parameters.items():
        for option, value in options.items():
            if option != "group":
                assert theirs[name][option] == value, (name, option)


@given(
    name=st.sampled_from(sorted(OPTIMIZERS)), model=st.sampled_from(sorted(MODELS)), empty=st.sampled_from([None, {}])
)
@settings(deadline=None, max_examples=30)
def test_one_group(name, model, empty):
    config = {"optim_wrapper": {"optimizer": {"type": name, **OPTIMIZERS[name]}, "paramwise_cfg": empty}}
    ours = from_mmengine(config, strict=True).spec.plan(MODELS[model], total_steps=10)
    compare(theirs_of(MODELS[model], config), ours, MODELS[model], frozen_kept=True)


@pytest.mark.parametrize(
    ("optimizer", "paramwise"),
    [
        ({"type": "SGD", "lr": 0.1}, {"norm_decay_mult": 0.0}),
        ({"type": "SGD", "lr": 0.1}, {"bias_decay_mult": None}),
        ({"type": "SGD", "lr": 0.1}, {"custom_keys": {"a": {"decay_mult": 1.0}}}),
        ({"type": "SGD", "lr": 0.1, "weight_decay": 0.1}, {"custom_keys": ["a"]}),
        ({"type": "SGD", "lr": 0.1, "weight_decay": 0.1}, [1]),
        ({"type": "SGD", "weight_decay": 0.1}, {"bias_lr_mult": 2.0}),
        ({"type": "SGD", "weight_decay": 0.1}, {"custom_keys": {"weight": {}}}),
        (({"type": "SGD", "lr": 0.1},), None),
    ],
)
def test_both_refuse(optimizer, paramwise):
    config = {"optim_wrapper": {"optimizer": optimizer, "paramwise_cfg": paramwise}}
    with pytest.raises((ValueError, TypeError, AttributeError)):
        theirs_of(MODELS["roots"], config)
    with pytest.raises(SolverError):
        from_mmengine(config)
