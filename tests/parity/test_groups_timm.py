"""timm's own optimisers and groups of parameters, beside what is made of the same configuration here."""

import copy
import functools
import importlib
import inspect
import warnings

import pytest
import torch
import torchvision_stub  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm import create_model
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.optim._optim_factory import default_registry
from timm.scheduler import create_scheduler_v2
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop import from_timm
from lightning_solver.interop.timm.registered import CLASSES, OPTIMIZERS
from lightning_solver.interop.timm.signatures import SIGNATURES

MODELS = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "convnext_atto",
    "convnextv2_atto",
    "mobilenetv3_small_050",
    "efficientnet_lite0",
    "resnet18",
    "resnet26t",
    "regnety_002",
    "mixer_s32_224",
    "pvt_v2_b0",
    "levit_128s",
    "xcit_nano_12_p16_224",
    "densenet121",
    "vgg11",
    "maxvit_rmlp_pico_rw_256",
    "coatnet_pico_rw_224",
    "fastvit_t8",
    "mobilevit_xxs",
    "poolformer_s12",
    "hrnet_w18_small",
    "efficientformer_l1",
    "davit_tiny",
    "nest_tiny",
    "gmlp_s16_224",
    "vit_relpos_small_patch16_224",
    "volo_d1_224",
    "focalnet_tiny_srf",
    "tiny_vit_5m_224",
    "hiera_tiny_224",
    "repvgg_a0",
    "dla34",
    "visformer_tiny",
    "mvitv2_tiny",
]


@functools.cache
def built(name):
    with torch.device("meta"):
        return create_model(name, pretrained=False)


class Plain(nn.Module):
    """A model that timm does not know, with a bias of three dimensions and a frozen tensor."""

    def __init__(self, classifier=None):
        super().__init__()
        if classifier is not None:
            self.pretrained_cfg = {"classifier": classifier}
        self.stem = nn.Conv2d(3, 4, 3)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(9))
        self.shift = nn.Module()
        self.shift.bias = nn.Parameter(torch.zeros(1, 4, 1))
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 2)
        self.layers[2][0].weight.requires_grad_(False)


def made(name):
    if name.startswith("plain"):
        return Plain({"plain": None, "plain head": "head", "plain heads": ("head", "scale")}[name])
    return built(name)


def expected(model, optimizer):
    """What timm has for every parameter, once one of its schedulers multiplies by ``lr_scale``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"] * group.get("lr_scale", 1.0), group["weight_decay"] or 0.0)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def compare(model, config, make):
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = expected(model, make(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(before[name])
    plan = from_timm(config, strict=True).spec.plan(model, total_steps=10)
    ours = {name: (values["lr"], values["weight_decay"]) for name, values in plan.parameters.items()}
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-9, abs=1e-15), name
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert set(plan.left_out) == every - theirs.keys()


@pytest.mark.parametrize("layer_decay", [None, 0.75])
@pytest.mark.parametrize("name", [*MODELS, "plain", "plain head", "plain heads"])
def test_a_model(name, layer_decay):
    keywords = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": layer_decay}
    compare(made(name), {"create_optimizer_v2": keywords}, lambda model: create_optimizer_v2(model, **keywords))


def test_a_part_that_lists_what_is_not_decayed():
    """timm asks the model alone, and so it is here: what is in the blocks is not asked."""
    model = made("edgenext_xx_small")
    keywords = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05}
    theirs = expected(model, create_optimizer_v2(model, **keywords))
    imported = from_timm({"create_optimizer_v2": keywords})
    plan = imported.spec.plan(model, total_steps=10)
    differ = {name for name, (_, decay) in theirs.items() if plan.parameters[name]["weight_decay"] != decay}
    assert not differ
    assert any("asks the model alone" in note for note in imported.notes)


scales = st.sampled_from([0.0, 0.05, 0.2, 0.7])
keywords = st.fixed_dictionaries(
    {"opt": st.sampled_from(["adamw", "sgd", "lamb", "rmsproptf", "nadamw", "adagrad", "muon", "lion"])},
    optional={
        "lr": st.sampled_from([1e-3, 0.05]),
        "weight_decay": st.sampled_from([0.0, 0.02, 0.3, 1]),
        "momentum": st.sampled_from([0.9, 0.5]),
        "filter_bias_and_bn": st.booleans(),
        "layer_decay": st.sampled_from([None, 0.5, 0.75, 1.0, 0.0, 1.2]),
        "layer_decay_min_scale": scales,
        "layer_decay_no_opt_scale": st.none() | scales,
        "fallback_list": st.sampled_from([(), ["*.qkv.*"], ["*norm*", "head.*"], ["nothing"]]),
        "fallback_no_weight_decay": st.booleans(),
        "foreach": st.sampled_from([None, False]),
    },
)
few = st.sampled_from(
    ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224", "resnet18", "plain head"]
)


@given(name=few, drawn=keywords, frozen=st.sampled_from(["", "blocks.0", "stem", "layers.1"]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_keywords(name, drawn, frozen):
    if drawn["opt"] == "adagrad":
        drawn.pop("foreach", None)
    if drawn["opt"] == "muon":
        drawn.pop("foreach", None)
    model = made(name)
    still = [parameter for full, parameter in model.named_parameters() if frozen and full.startswith(frozen)]
    held = [parameter.requires_grad for parameter in still]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        compare(model, {"create_optimizer_v2": dict(drawn)}, lambda model: create_optimizer_v2(model, **drawn))
    finally:
        for parameter, grad in zip(still, held):
            parameter.requires_grad_(grad)


listed = st.sampled_from([(), ["cls_token", "*pos_embed"], ["*.WEIGHT"], ["*.weight"], ["head.?eight"], ["[a-h]*"]])
functions = st.one_of(
    st.tuples(
        st.just(param_groups_weight_decay),
        st.fixed_dictionaries(
            {},
            optional={
                "weight_decay": st.sampled_from([0.0, 0.05, None]),
                "weight_decay_exclude_1d": st.booleans(),
                "no_weight_decay_list": listed,
                "fallback_list": listed,
            },
        ),
    ),
    st.tuples(
        st.just(param_groups_layer_decay),
        st.fixed_dictionaries(
            {},
            optional={
                "weight_decay": st.sampled_from([0.0, 0.05]),
                "weight_decay_exclude_1d": st.booleans(),
                "no_weight_decay_list": listed,
                "layer_decay": st.sampled_from([0.6, 0.9, 0.0, 1.0]),
                "min_scale": scales,
                "no_opt_scale": st.none() | scales,
                "verbose": st.just(False),
            },
        ),
    ),
)


@given(name=few, function=functions, as_text=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_groups_for_an_optimiser_of_torch(name, function, as_text):
    make, arguments = function
    config = {make.__name__: arguments, "optimizer": {"type": "AdamW", "lr": 0.01}}
    if as_text:
        said = "".join(f", {key}={value!r}" for key, value in arguments.items())
        config = f"optimizer = torch.optim.AdamW({make.__name__}(model{said}), lr=0.01)"
    compare(made(name), config, lambda model: torch.optim.AdamW(make(model, **arguments), lr=0.01))


# ------------------------------------------------------------------ names, arguments, arithmetic


def test_every_name_and_what_timm_gives_it():
    assert set(OPTIMIZERS) == set(list_optimizers())
    for name, ours in OPTIMIZERS.items():
        theirs = default_registry.get_optimizer_info(name)
        assert dict(ours.given) == (theirs.defaults or {}), name
        takes = {"eps": theirs.has_eps, "momentum": theirs.has_momentum, "betas": theirs.has_betas}
        assert ours.takes == {key for key, value in takes.items() if value}, name
        if isinstance(theirs.opt_class, str):
            assert ours.name == theirs.opt_class
            continue
        package, _, cls = ours.name.rpartition(".")
        assert getattr(importlib.import_module(package or "torch.optim"), cls) is theirs.opt_class, name


def test_every_signature():
    for name in CLASSES:
        package, _, cls = name.rpartition(".")
        if package.partition(".")[0] in ("apex", "bitsandbytes"):
            continue
        found = inspect.signature(getattr(importlib.import_module(package or "torch.optim"), cls).__init__)
        if package:
            assert [*found.parameters][2:] == [*SIGNATURES[name]], name
        else:
            assert {*found.parameters} - {"self", "params"} == {*SIGNATURES[name]}, name


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 3))
    model[0].weight.data.mul_(0.5)
    return model.double()


def stepped(model, optimizer, steps=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


INSTALLED = {name for name in OPTIMIZERS if OPTIMIZERS[name].name.split(".")[0] not in ("apex", "bitsandbytes")}
NAMES = sorted(INSTALLED - {"adahessian"})  # which needs a graph of the gradients


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_are_timm_s(name):
    keywords = {"opt": name, "lr": 0.01, "weight_decay": 0.1}
    if "kron" in name:  # it draws numbers for one tensor after another, in the order of the groups
        keywords |= {"deterministic": True, "weight_decay": 0.0}
    if name in ("muon", "nmuon", "adamuon", "nadamuon"):
        keywords |= {"fallback_list": ["3.*"], "fallback_lr_scale": 0.5}
    theirs, ours = net(), net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        wanted = stepped(theirs, create_optimizer_v2(theirs, **keywords))
        optimizer, _ = from_timm({"create_optimizer_v2": keywords}, strict=True).spec.plan(ours, total_steps=9).build()
        torch.manual_seed(2)
        got = stepped(ours, optimizer)
    for ours, theirs in zip(got, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert not torch.equal(got[0], next(iter(net().parameters())))


@pytest.mark.parametrize("name", ["sgd", "adamw", "adafactor", "lion"])
def test_eps_betas_and_momentum_go_where_timm_lets_them(name):
    keywords = {"opt": name, "lr": 0.01, "eps": 1e-4, "betas": (0.8, 0.95), "momentum": 0.6}
    theirs = create_optimizer_v2(net(), **keywords)
    imported = from_timm({"create_optimizer_v2": keywords})
    recipe = imported.spec.plan(net(), total_steps=3).recipe
    same = {key: value for key, value in theirs.defaults.items() if key in recipe.defaults}
    for key in ("eps", "betas", "momentum", "nesterov", "lr"):
        if key in same:
            assert recipe.defaults[key] == same[key], key
    assert copy.copy(imported.unmapped) == ()


@pytest.mark.parametrize("opt", ["adamx", "lookahead_", "", "adam w"])
def test_a_name_that_timm_refuses(opt):
    with pytest.raises((ValueError, AssertionError)):
        create_optimizer_v2(net(), opt)
    with pytest.raises(SolverError, match="timm has no such optimiser"):
        from_timm({"create_optimizer_v2": {"opt": opt}})


@pytest.mark.parametrize("sched", ["cosine", "poly", "step", "tanh"])
def test_the_rates_of_a_whole_run(sched):
    """Layers, warm-up and the least rate: timm multiplies all of it by the scale of the layer."""
    model = made("vit_tiny_patch16_224")
    make = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": 0.7}
    move = {"sched": sched, "num_epochs": 6, "warmup_epochs": 2, "warmup_lr": 1e-4, "min_lr": 1e-5, "decay_epochs": 2}
    optimizer = create_optimizer_v2(model, **make)
    scheduler, epochs = create_scheduler_v2(optimizer, **move)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    first = {names[id(group["params"][0])]: group for group in optimizer.param_groups}
    spec = from_timm({"create_optimizer_v2": make, "create_scheduler_v2": move}, strict=True).spec
    plan = spec.plan(model, total_steps=2 * epochs, steps_per_epoch=2)
    curve = plan.curve("lr")
    columns = {name: i for i, group in enumerate(plan.groups) for name in group.names}
    for epoch in range(epochs):
        for name, group in first.items():
            assert curve[2 * epoch + 1, columns[name]] == pytest.approx(group["lr"], rel=1e-9, abs=1e-15), (epoch, name)
        scheduler.step(epoch + 1)
