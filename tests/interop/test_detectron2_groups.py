"""detectron2's optimiser and parameter groups: what the real one gave, and by a walk of this file's own."""

import functools
import json

import pytest
from group_cases import differences, is_plain, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, optim

from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.interop.detectron2 import from_detectron2
from stand_ins import GOLDEN, golden_cases, golden_model

CASES = golden_cases("param_groups_detectron2")
LISTED = json.loads((GOLDEN / "model_parameters_detectron2.json").read_text())
FUNCTIONS = {
    "lambda n: 0.1 if 'backbone' in n else 1.0": lambda n: 0.1 if "backbone" in n else 1.0,
    "lambda n: 0.5 if n.startswith('.') else 1.0": lambda n: 0.5 if n.startswith(".") else 1.0,
}
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, nn.LocalResponseNorm),
)
ADAMW = {"type": "AdamW", "lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 0.1}


def halves(name):
    return 0.5 if name.startswith(".") else 0.25 if "backbone" in name else 1.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 3))
        self.backbone.attn = nn.Module()
        self.backbone.attn.relative_position_bias_table = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.neck = nn.Module()
        self.neck.from_backbone = nn.Linear(3, 3)
        self.words = nn.Embedding(4, 3)
        self.norm = nn.LayerNorm(3)
        self.rms = nn.RMSNorm(3)
        self.embed = nn.Module()
        self.embed.pos_embed = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.backbone[2].weight.requires_grad_(False)


class Vit(nn.Module):
    """The names of a detector with detectron2's ViT."""

    def __init__(self, blocks=3):
        super().__init__()
        net = nn.Module()
        net.pos_embed = nn.Parameter(nn.Linear(3, 2).weight.detach())
        net.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 3, 1)})
        net.blocks = nn.ModuleList(
            nn.ModuleDict({"norm1": nn.LayerNorm(3), "mlp": nn.Linear(3, 3)}) for _ in range(blocks)
        )
        net.blocks[1]["residual"] = nn.ModuleDict({"conv1": nn.Conv2d(3, 3, 1)})
        self.backbone = nn.ModuleDict({"net": net, "simfp_2": nn.Conv2d(3, 3, 1)})
        self.roi_heads = nn.ModuleDict({"box": nn.Linear(3, 3)})


def vit_rate(name, rate, layers):
    """The factor of a ViT's parameter by its layer."""
    layer = layers + 1
    if name.startswith("backbone"):
        if ".pos_embed" in name or ".patch_embed" in name:
            layer = 0
        elif ".blocks." in name and ".residual." not in name:
            layer = int(name.split(".blocks.")[1].split(".")[0]) + 1
    return rate ** (layers + 1 - layer)


def walked(model, own, o, overrides=None):
    """Name -> learning rate and weight decay; ``own`` are the optimiser's, ``o`` the function's arguments."""
    by_name = {leaf: dict(options) for leaf, options in (overrides or {}).items()}
    if o.get("bias_lr_factor") not in (None, 1):
        by_name.setdefault("bias", {})["lr"] = o["base_lr"] * o["bias_lr_factor"]
    if o.get("weight_decay_bias") is not None:
        by_name.setdefault("bias", {})["weight_decay"] = o["weight_decay_bias"]
    seen, found = set(), {}
    for path, module in model.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            if not tensor.requires_grad or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            group = {"lr": o.get("base_lr"), "weight_decay": o.get("weight_decay")}
            if isinstance(module, NORMS) and o.get("weight_decay_norm") is not None:
                group["weight_decay"] = o["weight_decay_norm"]
            if o.get("lr_factor_func") is not None:
                group["lr"] *= o["lr_factor_func"](f"{path}.{leaf}")
            group.update(by_name.get(leaf, {}))
            name = f"{path}.{leaf}" if path else leaf
            found[name] = tuple(
                mine if group[option] is None else group[option]
                for option, mine in zip(("lr", "weight_decay"), (own["lr"], own["weight_decay"]))
            )
    return found


def groups(model, config, **facts):
    plan = from_detectron2(config, facts=facts).spec.plan(model, total_steps=10)
    return {name: (value["lr"], value["weight_decay"]) for name, value in plan.parameters.items()}


# ------------------------------------------------------------------ what the real one gave


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_detectron2_gave_the_same(case):
    config = json.loads(json.dumps(case["config"]))
    params = config.get("get_default_optimizer_params", {})
    text = params.get("lr_factor_func")
    if text is not None:
        params["lr_factor_func"] = FUNCTIONS[text]
    read = from_detectron2(config, facts=case["setting"])
    assert read.unmapped == ()
    assert differences(case, plan_of(case, read.spec, LISTED), rel=1e-12) == []
    if text is None:
        assert is_plain(read.spec)
    else:
        same = from_detectron2(case["config"], facts={"functions": FUNCTIONS})
        assert same.spec == read.spec
        with pytest.raises(SolverError, match=r"lr_factor_func: is no function, and the text of one is never evalu"):
            from_detectron2(case["config"])


# ------------------------------------------------------------------ every option, drawn

decay = st.sampled_from([None, 0.0, 0.01, 0.3])
MODELS = {
    "Net": Net,
    **{name: lambda name=name: golden_model(f"models:{name}", {}) for name in ("ConvZoo", "SharedBlocks")},
}


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "base_lr": st.sampled_from([0.001, 0.02]),
            "weight_decay": decay,
            "weight_decay_norm": decay,
            "bias_lr_factor": st.sampled_from([None, 1.0, 2.0]),
            "weight_decay_bias": decay,
            "lr_factor_func": st.sampled_from([None, halves]),
        }
    ),
    st.sampled_from([{}, {"scale": {"lr": 0.3}}, {"weight": {"weight_decay": 0.7, "lr": 0.2}, "gone": {"lr": 1.0}}]),
    st.sampled_from([*MODELS]),
)
def test_every_parameter_gets_what_the_function_gives(o, overrides, name):
    model = MODELS[name]()
    expected = walked(model, ADAMW, o, overrides)
    params = {**o, "overrides": overrides}
    assert groups(model, {"get_default_optimizer_params": params, "optimizer": ADAMW}) == expected
    inside = {"_target_": "detectron2.solver.build.get_default_optimizer_params", **params}
    inner = {"_target_": "torch.optim.AdamW", "params": inside, **{k: v for k, v in ADAMW.items() if k != "type"}}
    assert groups(model, {"optimizer": inner}) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "WEIGHT_DECAY": st.sampled_from([0.0, 0.05]),
            "WEIGHT_DECAY_NORM": decay,
            "WEIGHT_DECAY_BIAS": decay,
            "BIAS_LR_FACTOR": st.sampled_from([None, 1.0, 2.0]),
            "MOMENTUM": st.just(0.8),
            "NESTEROV": st.booleans(),
        },
    ),
    st.sampled_from([*MODELS]),
)
def test_every_parameter_gets_what_build_optimizer_gives(solver, name):
    model = MODELS[name]()
    own = {"lr": 0.02, "weight_decay": solver.get("WEIGHT_DECAY", 1e-4)}
    o = {
        "base_lr": 0.02,
        "weight_decay_norm": solver.get("WEIGHT_DECAY_NORM", 0.0),
        "weight_decay_bias": solver.get("WEIGHT_DECAY_BIAS"),
        "bias_lr_factor": solver.get("BIAS_LR_FACTOR", 1.0),
    }
    config = {"SOLVER": {"BASE_LR": 0.02, **solver}}
    assert groups(model, config) == walked(model, own, o)
    assert groups(model, {**config, "builder": "build_optimizer"}) == walked(model, own, o)
    assert groups(model, config["SOLVER"]) == walked(model, own, o)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_the_builder_of_2020_tests_for_norms_first(factor):
    solver = {"BASE_LR": 0.02, "BIAS_LR_FACTOR": factor, "WEIGHT_DECAY": 0.03}
    found = groups(Net(), {"SOLVER": solver, "builder": "build_optimizer of 2020"})
    assert found["backbone.1.weight"] == found["backbone.1.bias"] == (0.02, 0.0)
    assert found["backbone.0.bias"] == (0.02 * factor, 1e-4)  # the weight decay of biases had a default of its own
    assert found["words.weight"] == found["rms.weight"] == (0.02, 0.03)


# ------------------------------------------------------------------ the optimiser


def test_the_arguments_of_sgd():
    read = from_detectron2({"SOLVER": {"WEIGHT_DECAY": "1e-3", "NESTEROV": True, "BIAS_LR_FACTOR": 2.0}})
    args = {"lr": 0.001, "weight_decay": 0.001, "momentum": 0.9, "nesterov": True}
    assert read.spec.optimizer == OptimizerSpec("SGD", args)
    assert (read.spec.tied, read.spec.default_rules, read.unmapped) == ("first", False, ())
    assert is_plain(read.spec)
    plan = read.spec.replace(lr=1.0).plan(Net(), total_steps=10)
    assert plan.parameters["neck.from_backbone.bias"]["lr"] == 2.0


def test_only_a_schedule_has_no_optimizer():
    assert from_detectron2({"SOLVER": {"MAX_ITER": 90, "STEPS": [60]}}).spec.optimizer is None
    assert from_detectron2({"lr_multiplier": "CosineParamScheduler(1, 0)"}).spec.optimizer is None


def test_only_an_optimizer_has_no_schedule():
    read = from_detectron2("torch.optim.SGD(get_default_optimizer_params(model, weight_decay_norm=0), lr=0.01)")
    assert read.spec.schedules == {}
    assert read.spec.optimizer == OptimizerSpec("SGD", {"lr": 0.01})
    assert groups(Net(), "torch.optim.SGD(get_default_optimizer_params(model, weight_decay_norm=0), 0.01)")[
        "norm.weight"
    ] == (0.01, 0.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.optim.adamw.AdamW", "AdamW"),
        ("torch.optim.SGD", "SGD"),
        (optim.RMSprop, "RMSprop"),
        ("apex.optimizers.FusedAdam", "apex.optimizers.FusedAdam"),
    ],
)
def test_classes(name, expected):
    for key in ("_target_", "type"):
        read = from_detectron2({"optimizer": {key: name, "lr": 0.02}})
        assert read.spec.optimizer == OptimizerSpec(expected, {"lr": 0.02})


def test_base_lr_and_weight_decay_stand_in_every_group():
    params = {"base_lr": 0.5, "weight_decay": 0.25}
    read = from_detectron2({"get_default_optimizer_params": params, "optimizer": ADAMW})
    assert read.spec.optimizer.args["lr"] == 0.5
    assert read.spec.optimizer.args["weight_decay"] == 0.25
    assert "optimizer.lr: stands in no group: base_lr of get_default_optimizer_params is in every one" in (
        "\n".join(read.notes)
    )


def test_overrides_of_any_option():
    overrides = {"pos_embed": {"weight_decay": 0.0, "betas": [0.5, 0.9]}, "bias": {"lr": 0.7, "lr_mult": 3}}
    params = {"base_lr": 0.1, "weight_decay_norm": 0, "overrides": overrides}
    read = from_detectron2({"get_default_optimizer_params": params, "optimizer": ADAMW})
    plan = read.spec.plan(Net(), total_steps=10)
    assert plan.parameters["embed.pos_embed"]["weight_decay"] == 0.0
    assert tuple(plan.parameters["embed.pos_embed"]["betas"]) == (0.5, 0.9)
    assert plan.parameters["norm.bias"]["lr"] == 0.7
    assert plan.parameters["norm.bias"]["weight_decay"] == 0.0
    assert read.unmapped == ("get_default_optimizer_params.overrides.bias.lr_mult",)
    rprop = {"type": "Rprop", "lr": 0.1}
    read = from_detectron2({"get_default_optimizer_params": {"weight_decay_norm": 0}, "optimizer": rprop})
    assert read.unmapped == ("get_default_optimizer_params.weight_decay_norm",)
    assert groups_of_lr(read) == {0.1}


def groups_of_lr(read):
    return {value["lr"] for value in read.spec.plan(Net(), total_steps=10).parameters.values()}


def test_unknown_arguments():
    params = {"base_lr": 0.1, "weight_decay_norms": 0.0}
    read = from_detectron2({"get_default_optimizer_params": params, "optimizer": {**ADAMW, "momentum": 0.9}})
    assert set(read.unmapped) == {"get_default_optimizer_params.weight_decay_norms", "optimizer.momentum"}
    assert "did you mean weight_decay_norm" in "\n".join(read.notes)
    assert read.spec.optimizer.args.keys() == {"lr", "betas", "weight_decay"}


# ------------------------------------------------------------------ lr_factor_func

VIT = {"lr_decay_rate": 0.8, "num_layers": 3}
WAYS = {
    "text": "partial(get_vit_lr_decay_rate, lr_decay_rate=0.8, num_layers=3)",
    "positional": "functools.partial(get_vit_lr_decay_rate, lr_decay_rate=0.8, num_layers=3)",
    "mapping": {"type": "get_vit_lr_decay_rate", **VIT},
    "target": {"_target_": "detectron2.modeling.backbone.vit.get_vit_lr_decay_rate", **VIT},
}


def lazy(factor, **params):
    params = {"base_lr": 0.1, "weight_decay_norm": 0.0, "lr_factor_func": factor, **params}
    return {"get_default_optimizer_params": params, "optimizer": ADAMW}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_the_decay_of_a_vit(way, bias):
    overrides = {"pos_embed": {"weight_decay": 0.0}}
    read = from_detectron2(lazy(WAYS[way], bias_lr_factor=bias, overrides=overrides))
    assert (read.spec.layer_decay, read.spec.depth, read.unmapped) == (0.8, "detectron2_vit:3", ())
    assert is_plain(read.spec)
    o = {"base_lr": 0.1, "weight_decay_norm": 0.0, "bias_lr_factor": bias}
    o["lr_factor_func"] = functools.partial(vit_rate, rate=0.8, layers=3)
    expected = walked(Vit(), ADAMW, o, overrides)
    found = groups(Vit(), lazy(WAYS[way], bias_lr_factor=bias, overrides=overrides))
    assert found == {name: pytest.approx(value, rel=1e-12) for name, value in expected.items()}
    assert found["backbone.net.patch_embed.proj.weight"][0] == pytest.approx(0.1 * 0.8**4)
    assert found["backbone.net.blocks.2.norm1.weight"][0] == pytest.approx(0.1 * 0.8)
    assert found["backbone.net.blocks.1.residual.conv1.weight"][0] == 0.1


def test_detectron2s_own_function_becomes_plain_data():
    def get_vit_lr_decay_rate(name, lr_decay_rate=1.0, num_layers=12):
        return vit_rate(name, lr_decay_rate, num_layers)

    mine = functools.partial(get_vit_lr_decay_rate, **VIT)
    assert from_detectron2(lazy(mine)).spec.layer_decay is None  # whoever's it is, it is called
    o = {"base_lr": 0.1, "weight_decay_norm": 0.0, "lr_factor_func": mine}
    assert groups(Vit(), lazy(mine)) == walked(Vit(), ADAMW, o)
    get_vit_lr_decay_rate.__module__ = "detectron2.modeling.backbone.vit"
    assert from_detectron2(lazy(functools.partial(get_vit_lr_decay_rate, **VIT))).spec.layer_decay == 0.8
    assert from_detectron2(lazy(get_vit_lr_decay_rate)).spec.layer_decay is None  # its rate is 1 by default


def test_functions_by_path_and_by_text():
    spec = from_detectron2(lazy("package.module.factor")).spec
    assert spec.to_dict()["rules"][1]["lr_scale"] == {
        "class_path": "ByName",
        "init_args": {"function": "package.module.factor", "root": "."},
    }
    model = Net()
    o = {"base_lr": 0.1, "weight_decay_norm": 0.0, "lr_factor_func": halves}
    assert groups(model, lazy(halves)) == walked(model, ADAMW, o)
    assert groups(model, lazy("halves"), functions={"halves": halves}) == walked(model, ADAMW, o)
    with pytest.raises(SolverError, match="hand over the function itself or its dotted path"):
        from_detectron2(lazy("halves"))
    with pytest.raises(SolverError, match="hand over the function itself or its dotted path"):
        from_detectron2(lazy("partial(halves, 3)"))


# ------------------------------------------------------------------ Python configs

VITDET = """
from functools import partial
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

train = dict(max_iter=100)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[88], num_updates=train.max_iter),
    warmup_length=10 / train.max_iter,
    warmup_factor=0.001,
)
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 3e-4
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=3, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
"""


def test_a_config_of_vitdet(tmp_path):
    path = tmp_path / "vitdet.py"
    path.write_text(VITDET)
    for config in (VITDET, path, str(path)):
        read = from_detectron2(config)
        args = {"lr": 3e-4, "betas": (0.9, 0.999), "weight_decay": 0.1}
        assert read.spec.optimizer == OptimizerSpec("AdamW", args)
        assert (read.spec.layer_decay, read.spec.depth, read.unmapped) == (0.7, "detectron2_vit:3", ())
        assert "optimizer: AdamW is what detectron2's configs/common/optim.py holds" in read.notes
    plan = read.spec.plan(Vit(), total_steps=100)
    assert plan.parameters["backbone.net.pos_embed"]["lr"] == pytest.approx(3e-4 * 0.7**4)
    assert plan.parameters["backbone.net.pos_embed"]["weight_decay"] == 0.0
    assert plan.parameters["backbone.net.blocks.0.norm1.bias"]["weight_decay"] == 0.0
    assert plan.parameters["roi_heads.box.weight"]["weight_decay"] == 0.1


def test_a_config_that_imports_the_optimizer():
    text = (
        "from ..common.optim import SGD as optimizer\nlr_multiplier = L(CosineParamScheduler)(1, 0)\noptimizer.lr = 1\n"
    )
    args = {"lr": 1, "momentum": 0.9, "weight_decay": 1e-4}
    assert from_detectron2(text).spec.optimizer == OptimizerSpec("SGD", args)
    read = from_detectron2("optimizer = make()\nlr_multiplier = L(CosineParamScheduler)(1, 0)\n")
    assert read.spec.optimizer is None
    assert "optimizer" in read.unmapped
    read = from_detectron2("lr_multiplier = L(CosineParamScheduler)(1, 0)\noptimizer.lr = 3\n")
    assert "optimizer: is not mapped: it names no class; what a Python file imports is not followed" in read.notes


# ------------------------------------------------------------------ projects


def test_mask2former():
    solver = {"BASE_LR": 0.1, "WEIGHT_DECAY": 0.05, "OPTIMIZER": "ADAMW", "BACKBONE_MULTIPLIER": 0.5, "MOMENTUM": 0.9}
    solver |= {"WEIGHT_DECAY_NORM": 0.01, "BIAS_LR_FACTOR": 2.0}
    embedding = {"WEIGHT_DECAY_EMBED": 0.02}
    for config in (
        {"MODEL": {"MASK_FORMER": {}}, "SOLVER": {**solver, **embedding}},
        {"SOLVER": {**solver, **embedding}},
        {"SOLVER": {**solver, **embedding}, "builder": "Mask2Former"},
    ):
        assert groups(Net(), config) == {
            "scale": (0.1, 0.05),
            "backbone.0.weight": (0.05, 0.05),
            "backbone.0.bias": (0.05, 0.05),
            "backbone.1.weight": (0.05, 0.01),
            "backbone.1.bias": (0.05, 0.01),
            "backbone.2.bias": (0.05, 0.05),
            "backbone.attn.relative_position_bias_table": (0.05, 0.0),
            "neck.from_backbone.weight": (0.05, 0.05),  # the word may be anywhere in the module's name
            "neck.from_backbone.bias": (0.05, 0.05),
            "words.weight": (0.1, 0.02),
            "norm.weight": (0.1, 0.01),
            "norm.bias": (0.1, 0.01),
            "rms.weight": (0.1, 0.05),
            "embed.pos_embed": (0.1, 0.05),
        }
    read = from_detectron2(config)
    assert read.spec.optimizer == OptimizerSpec("AdamW", {"lr": 0.1, "weight_decay": 0.05})
    assert "SOLVER.BIAS_LR_FACTOR: is not read by Mask2Former" in read.notes
    assert "SOLVER.MOMENTUM: is not used by ADAMW" in read.notes
    assert groups(Net(), {"MODEL": {"MASK_FORMER": {}}, "SOLVER": solver})["words.weight"] == (0.1, 0.0)


def test_sparse_rcnn():
    solver = {"BASE_LR": 0.1, "OPTIMIZER": "SGD", "BACKBONE_MULTIPLIER": 0.5, "WEIGHT_DECAY": 0.02}
    config = {"MODEL": {"SparseRCNN": {}}, "SOLVER": solver}
    found = groups(Net(), config)
    assert {name for name, value in found.items() if value == (0.05, 0.02)} == {n for n in found if "backbone" in n}
    assert {value for name, value in found.items() if "backbone" not in name} == {(0.1, 0.02)}
    args = {"lr": 0.1, "weight_decay": 0.02, "momentum": 0.9}
    assert from_detectron2(config).spec.optimizer == OptimizerSpec("SGD", args)


def test_a_project_that_is_not_known():
    read = from_detectron2({"SOLVER": {"BASE_LR": 0.1, "OPTIMIZER": "ADAMW"}})
    assert read.spec.optimizer is None
    assert read.unmapped == ("SOLVER.BASE_LR", "SOLVER.OPTIMIZER")
    assert "give builder: 'Mask2Former' or 'Sparse R-CNN' beside SOLVER" in read.notes[0]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lazy(None, base_lr=None, bias_lr_factor=2.0), r"get_default_optimizer_params\.bias_lr_factor: needs base_lr"),
        (lazy(halves, base_lr=None), r"get_default_optimizer_params\.lr_factor_func: needs base_lr"),
        (
            lazy(None, weight_decay_bias=0.0, overrides={"bias": {"lr": 1.0}}),
            r"get_default_optimizer_params\.overrides\.bias: says what biases get beside",
        ),
        (lazy(None, overrides={"bias": {"lr": "much"}}), r".*overrides\.bias\.lr: must be a number"),
        (lazy(None, overrides={"bias": {"weight_decay": None}}), r".*overrides\.bias\.weight_decay: must be a number"),
        (lazy(None, overrides=3), r".*overrides: must be a mapping"),
        (lazy(None, base_lr="${..learning_rate}"), r".*base_lr: stands for what is not there"),
        (lazy({"type": "get_vit_lr_decay_rate", "num_layers": 2.5}), r".*num_layers: must be a whole number"),
        ({"get_default_optimizer_params": {}}, "optimizer: is missing"),
        ({"SOLVER": {"BASE_LR": -1}}, r"SOLVER\.BASE_LR: must be at least 0"),
        ({"SOLVER": {"WEIGHT_DECAY_BIAS": -1}}, r"SOLVER\.WEIGHT_DECAY_BIAS: must be at least 0"),
        ({"SOLVER": {"BASE_LR": 1}, "builder": "mine"}, "builder: is not known; got 'mine'"),
        ({"SOLVER": {"OPTIMIZER": {"TYPE": "SGD"}}}, r"SOLVER\.OPTIMIZER: .*interop\.from_pet"),
        (
            {"SOLVER": {"OPTIMIZER": "ADAM"}, "builder": "Mask2Former"},
            r"SOLVER\.OPTIMIZER: unknown value; got 'ADAM'; did you mean ADAMW",
        ),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=rf"^{message}"):
        from_detectron2(config)


def test_notes_about_what_is_odd():
    read = from_detectron2(lazy(halves, bias_lr_factor=2.0, weight_decay_bias=0.1))
    text = "\n".join(read.notes)
    assert "weight_decay_bias: reaches the biases of normalisation layers too, as the rule by name comes last" in text
    assert "lr_factor_func: gives nothing to parameters called bias: their own rate stands in place of it" in text
    read = from_detectron2({"SOLVER": {"BASE_LR": 0.1, "WEIGHT_DECAY_BIAS": 0.1, "CLIP_GRADIENTS": {"ENABLED": True}}})
    assert read.unmapped == ()
    assert "SOLVER.WEIGHT_DECAY_BIAS: reaches the biases of normalisation layers too" in "\n".join(read.notes)
