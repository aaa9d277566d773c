"""MMCV 1.x's optimiser and parameter groups: what real MMCV gave, and what a config of it is written as."""

import json

import pytest
from group_cases import differences, is_plain, plan_of
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop.mmcv import from_mmcv
from stand_ins import GOLDEN, golden_cases, golden_model

CASES = golden_cases("param_groups_mmcv1")
LISTED = json.loads((GOLDEN / "model_parameters_mmcv1.json").read_text())
SGD = {"type": "SGD", "lr": 0.8, "weight_decay": 1e-4}


def imported(paramwise=None, /, **changes):
    optimizer = {**SGD, **changes} | ({} if paramwise is None else {"paramwise_cfg": paramwise})
    return from_mmcv({"optimizer": optimizer})


def groups(model, paramwise=None, /, **changes):
    """Name -> learning rate and weight decay."""
    plan = imported(paramwise, **changes).spec.plan(model, total_steps=10)
    return {name: (value["lr"], value["weight_decay"]) for name, value in plan.parameters.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_mmcv_gave_the_same(case):
    read = from_mmcv(case["config"], facts=case["setting"])
    plan = plan_of(case, read.spec, LISTED)
    assert read.unmapped == ()
    assert is_plain(read.spec)
    if "raises" in case:  # a shared tensor is in two groups there; here it is trained by its first name
        assert "more than one parameter group" in case["raises"]
        assert plan.left_out["head.lm.weight"] == "same tensor as backbone.tok_embed.weight"
    else:
        assert differences(case, plan) == []


def test_only_a_schedule_has_no_optimizer():
    spec = from_mmcv({"policy": "step", "step": [2]}).spec
    assert spec.optimizer is None
    assert spec.to_dict().keys() == {"default_rules", "schedules", "beyond_run", "version"}


def test_arguments_reach_the_optimizer():
    read = from_mmcv(
        "optimizer = dict(type='Adam', lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=False)"
    )
    assert read.spec.to_dict() == {
        "optimizer": {
            "name": "Adam",
            "args": {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-08, "weight_decay": 0, "amsgrad": False},
        },
        "default_rules": False,
        "tied": "first",
        "beyond_run": "allow",
        "version": 1,
    }
    assert read.notes == (
        "optimizer: MMCV makes one group of all parameters, those too that require no gradient and so never move; "
        "here they are left out",
    )


def test_a_schedule_beside_the_optimizer():
    config = {"optimizer": SGD, "lr_config": {"policy": "step", "step": [5]}, "runner": {"max_epochs": 10}}
    spec = from_mmcv(config).spec
    plan = spec.plan(nn.Linear(2, 2), total_steps=20, steps_per_epoch=2)
    assert plan.curve("lr")[:, 0].tolist() == [0.8] * 10 + [pytest.approx(0.08)] * 10


def test_factors_stay_factors():
    read = imported({"custom_keys": {"weight": {"lr_mult": 0.1}}})
    plan = read.spec.replace(lr=2.0).plan(nn.Linear(2, 2), total_steps=10)
    assert plan.parameters["weight"]["lr"] == 2.0 * 0.1


def test_every_option():
    rules = imported(
        {
            "norm_decay_mult": 0.0,
            "bias_decay_mult": 0.5,
            "dwconv_decay_mult": 0.25,
            "bias_lr_mult": 2,
            "dcn_offset_lr_mult": 0.1,
            "bypass_duplicate": True,
        }
    ).spec.rules
    assert [(rule.name, rule.weight_decay_scale, rule.lr_scale, rule.unmatched) for rule in rules] == [
        ("dwconv_decay", 0.25, None, "allow"),
        ("bias_decay", 0.5, None, "allow"),
        ("norm_decay", 0.0, None, "allow"),
        ("bias_lr", None, 2.0, "allow"),
        ("dcn_offset_lr", None, 0.1, "allow"),
    ]


class Net(nn.Module):
    """Parameters of the outermost module, of modules with the same names, and of inner ones."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(nn.init.ones_(nn.Linear(2, 2).weight).detach())
        self.pos_embed_extra = nn.Linear(2, 2)
        self.head = nn.Module()
        self.head.pos_embed = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("pos_embed", ["head.pos_embed.bias", "head.pos_embed.weight", "pos_embed"]),
        (".pos_embed", ["head.pos_embed.bias", "head.pos_embed.weight", "pos_embed"]),
        (".pos_embed_", []),
        ("pos_embed_extra.", ["pos_embed_extra.bias", "pos_embed_extra.weight"]),
        (".pos_embed_extra", []),  # in the string of the outermost module's own parameters alone
        (".pos_embed.w", ["head.pos_embed.weight"]),
        ("", ["head.pos_embed.bias", "head.pos_embed.weight", "pos_embed", "pos_embed_extra.bias"]),
        (".", ["head.pos_embed.bias", "head.pos_embed.weight", "pos_embed", "pos_embed_extra.bias"]),
        ("[a-z]", []),
        ("*", []),
    ],
)
def test_a_custom_key_is_a_part_of_the_name_after_a_dot(key, names):
    """Which names have the key in them, as MMCV puts it together: the module's path, a dot, the own name."""
    model = Net()
    full = {n: f"{n.rpartition('.')[0]}.{n.rpartition('.')[2]}" for n, _ in model.named_parameters()}
    expected = {name for name, text in full.items() if key in text}
    assert expected >= set(names)
    changed = {
        name for name, value in groups(model, {"custom_keys": {key: {"lr_mult": 0.5}}}).items() if value[0] == 0.4
    }
    assert changed == expected


def test_of_keys_of_one_length_the_first_by_the_alphabet_wins():
    model = nn.ModuleDict({"ab": nn.Linear(2, 2)})
    keys = {"ab.b": {"lr_mult": 0.5}, ".bia": {"lr_mult": 0.25}, "bias": {"lr_mult": 0.125}, "ab": {"decay_mult": 0.5}}
    assert groups(model, {"custom_keys": keys}) == {"ab.weight": (0.8, 1e-4 * 0.5), "ab.bias": (0.8 * 0.25, 1e-4)}


def test_a_custom_key_turns_every_other_rule_off():
    model = nn.ModuleDict({"backbone": nn.BatchNorm1d(2), "neck": nn.BatchNorm1d(2)})
    found = groups(model, {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0, "custom_keys": {"backbone": {"lr_mult": 0.1}}})
    assert found["backbone.weight"] == found["backbone.bias"] == (0.8 * 0.1, 1e-4)
    assert found["neck.weight"] == found["neck.bias"] == (0.8, 0.0)


def test_kinds_of_convolutions():
    model = golden_model("models:ConvZoo", {})
    found = groups(model, {"dwconv_decay_mult": 0.0, "bias_decay_mult": 0.5})
    assert found["backbone.dw.bias"] == found["backbone.dw.weight"] == found["backbone.mult.weight"] == (0.8, 0.0)
    assert found["backbone.dw1d.weight"] == (0.8, 1e-4)  # only a Conv2d counts
    assert found["backbone.dw1d.bias"] == (0.8, 1e-4 * 0.5)
    found = groups(model, {"bias_decay_mult": 0.5})
    assert found["backbone.dw.bias"] == found["backbone.bn.bias"] == (0.8, 1e-4)
    assert found["backbone.up.bias"] == (0.8, 1e-4 * 0.5)


def test_a_class_of_the_users_own_that_is_called_like_a_norm_is_none():
    own = type("LayerNorm", (nn.Linear,), {})
    assert groups(own(2, 2), {"norm_decay_mult": 0.0}) == {"weight": (0.8, 1e-4), "bias": (0.8, 1e-4)}


def test_deformable_convolutions():
    model = golden_model("models:ConvNeXtDetector", {})
    found = groups(model, {"bias_lr_mult": 2.0, "dcn_offset_lr_mult": 0.1, "bias_decay_mult": 0.0})
    assert found["neck.0.conv_offset.weight"] == found["neck.0.conv_offset.bias"] == (0.8 * 0.1, 1e-4)
    assert found["neck.0.bias"] == found["conv_offset.bias"] == (0.8 * 2.0, 0.0)
    assert found["conv_offset.weight"] == (0.8, 1e-4)


def test_frozen_parameters_are_left_out_with_a_note():
    read = imported({"norm_decay_mult": 0.0})
    assert any("those too that require no gradient and so never move; here they are left out" in n for n in read.notes)
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    plan = read.spec.plan(model, total_steps=10)
    assert plan.left_out.keys() == {"bias"}


def test_constructors_of_segmentation():
    paramwise = {"decay_rate": 0.9, "decay_type": "stage_wise", "num_layers": 6}
    read = imported(paramwise, constructor="LearningRateDecayOptimizerConstructor")
    assert (read.spec.layer_decay, read.spec.depth, read.unmapped) == (0.9, "mmseg_stage_wise:6", ())
    old = imported({"layer_decay_rate": 0.9, "num_layers": 6}, constructor="LayerDecayOptimizerConstructor").spec
    assert (old.layer_decay, old.depth) == (0.9, "mmseg_layer_wise:6")


def test_a_constructor_of_ones_own():
    read = imported({"a": 1}, constructor="MyOptimizerConstructor")
    assert read.spec.optimizer is not None
    assert read.spec.rules == ()
    assert read.unmapped == ("optimizer.constructor", "optimizer.paramwise_cfg")
    assert any("MyOptimizerConstructor makes its own groups" in note for note in read.notes)
    assert imported(constructor="DefaultOptimizerConstructor").unmapped == ()


def test_an_optimizer_of_ones_own():
    read = from_mmcv(
        "optimizer = dict(type='MyOptimizer', a=a_value, b=b_value, c=c_value, paramwise_cfg=dict(norm_decay_mult=0.), "
        "lr=0.1, weight_decay=0.1)"
    )
    assert read.spec.optimizer is None
    assert [rule.name for rule in read.spec.rules] == ["norm_decay"]
    assert read.unmapped == ("optimizer.type",)
    assert any("MyOptimizer is no optimiser of torch" in note for note in read.notes)
    with pytest.raises(SolverError, match=r"optimizer\.type: is not mapped"):
        from_mmcv({"optimizer": {"type": "MyOptimizer"}}, strict=True)
    dotted = from_mmcv({"optimizer": {"type": "pytorch_optimizer.Lion", "lr": 0.1}})
    assert dotted.spec.optimizer.name == "pytorch_optimizer.Lion"
    assert from_mmcv({"optimizer": {"type": "torch.optim.SGD", "lr": 0.1}}).spec.optimizer.name == "SGD"


def test_lamb_is_that_of_timm():
    read = imported(type="Lamb", max_grad_norm=2.0)
    assert (read.spec.optimizer.name, read.spec.optimizer.args["max_grad_norm"]) == ("timm.optim.Lamb", 2.0)
    assert any("timm has to be installed" in note for note in read.notes)


def test_lars_has_no_counterpart():
    read = imported({"custom_keys": {"bias": {"decay_mult": 0, "lars_exclude": True}}}, type="LARS", momentum=0.9)
    assert read.spec.optimizer is None
    assert read.unmapped == ("optimizer.type", "optimizer.paramwise_cfg.custom_keys.bias.lars_exclude")


def test_several_optimizers():
    read = from_mmcv({"optimizer": {"generator": SGD, "discriminator": {"type": "Adam", "lr": 1e-3}}})
    assert (read.spec.optimizer, read.unmapped) == (None, ("optimizer",))
    assert any("manual optimisation: import them one by one" in note for note in read.notes)
    assert any("solver = {generator: ..., discriminator: ...}" in note for note in read.notes)


def test_what_has_no_effect_beside_decay_by_layers():
    paramwise = {"num_layers": 6, "layer_decay_rate": 0.9}
    inert = {"decay_rate": 0.3, "decay_type": "stage_wise", "custom_keys": {"head": {"lr_mult": 2}}}
    plain, read = (
        from_mmcv({"optimizer": {**SGD, "constructor": "LayerDecayOptimizerConstructor", "paramwise_cfg": given}})
        for given in (paramwise, {**paramwise, **inert})
    )
    assert read.spec == plain.spec
    assert read.unmapped == ()
    noted = [note for note in read.notes if "has no effect with this constructor, as in MMSegmentation" in note]
    assert [note.partition(":")[0].rpartition(".")[2] for note in noted] == [*inert]


def test_scaling_of_the_learning_rate():
    assert (
        from_mmcv({"optimizer": SGD, "auto_scale_lr": {"enable": True, "base_batch_size": 16}}).spec.base_batch_size
        == 16
    )
    for off in ({"base_batch_size": 16}, {"enable": False, "base_batch_size": 16}, None):
        read = from_mmcv({"optimizer": SGD, "auto_scale_lr": off})
        assert (read.spec.base_batch_size, read.unmapped) == (None, ())


def test_what_mmcv_does_not_look_at():
    read = imported(
        {"norm_decay_mlut": 0.0, "flat_decay_mult": 0.0, "custom_keys": {"bias": {"lr": 0.1}}}, momentun=0.9
    )
    assert read.unmapped == (
        "optimizer.momentun",
        "optimizer.paramwise_cfg.custom_keys.bias.lr",
        "optimizer.paramwise_cfg.norm_decay_mlut",
        "optimizer.paramwise_cfg.flat_decay_mult",
    )
    assert "optimizer.momentun: is not mapped: SGD has no such argument; did you mean momentum?" in read.notes
    assert any("norm_decay_mlut: is not mapped; did you mean norm_decay_mult?" in note for note in read.notes)


REFUSED = [
    ({"optimizer": {"lr": 0.1}}, "optimizer.type: is missing"),
    ({"optimizer": [SGD]}, "optimizer: must be a mapping"),
    ({"optimizer": {**SGD, "type": 3}}, "optimizer.type: is not an optimiser"),
    ({"optimizer": {**SGD, "lr": -0.1}}, "optimizer.lr: must be at least 0"),
    ({"optimizer": {**SGD, "lr": None}}, "optimizer.lr: must be a number"),
    ({"optimizer": {**SGD, "lr": "high"}}, "optimizer.lr: must be a number"),
    ({"optimizer": {**SGD, "momentum": float("inf")}}, "optimizer.momentum: must be a finite number"),
    ({"optimizer": {**SGD, "paramwise_cfg": 3}}, "optimizer.paramwise_cfg: must be a mapping"),
    ({"optimizer": {**SGD, "constructor": 3}}, "optimizer.constructor: is not the name of a class"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"custom_keys": None}}}, "custom_keys: must be a mapping"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"custom_keys": ["bias"]}}}, "custom_keys: must be a mapping"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"custom_keys": {"a": 0.1}}}}, r"custom_keys\.a: must be a mapping"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"custom_keys": {"a": {"lr_mult": None}}}}}, "lr_mult: must be a number"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"norm_decay_mult": "x"}}}, "norm_decay_mult: must be a number"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"norm_decay_mult": None}}}, "norm_decay_mult: must be a number"),
    ({"optimizer": {**SGD, "paramwise_cfg": {"bypass_duplicate": 3}}}, "bypass_duplicate: must be true or false"),
    (
        {"optimizer": {"type": "SGD", "lr": 0.1, "paramwise_cfg": {"norm_decay_mult": 0.0}}},
        "norm_decay_mult: multiplies the weight decay of the optimiser, which is not given",
    ),
    (
        {"optimizer": {"type": "SGD", "lr": 0.1, "paramwise_cfg": {"custom_keys": {"a": {"decay_mult": 0.0}}}}},
        r"custom_keys\.a\.decay_mult: multiplies the weight decay",
    ),
    (
        {"optimizer": {"type": "SGD", "paramwise_cfg": {"bypass_duplicate": True}}},
        "MMCV multiplies the learning rate of the optimiser, which is not given",
    ),
    ({"optimizer": SGD, "auto_scale_lr": {"enable": True}}, r"auto_scale_lr\.base_batch_size: must be a whole"),
    (
        {"optimizer": {**SGD, "constructor": "LayerDecayOptimizerConstructor"}},
        "paramwise_cfg: LayerDecayOptimizerConstructor takes the rate from it",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=message):
        from_mmcv(config)


# ------------------------------------------------------------------ the snippets of its manual


@pytest.mark.parametrize(
    ("paramwise", "expected"),
    [
        ("dict(norm_decay_mult=0.)", {"conv.weight": (0.8, 1e-4), "bn.weight": (0.8, 0.0), "bn.bias": (0.8, 0.0)}),
        (
            "dict(custom_keys={'backbone.cls_token': dict(decay_mult=0.0), 'backbone.pos_embed': dict(decay_mult=0.0)})",
            {"cls_token": (0.8, 0.0), "pos_embed": (0.8, 0.0), "conv.weight": (0.8, 1e-4)},
        ),
        (
            "dict(custom_keys={'backbone': dict(lr_mult=0.1, decay_mult=0.9)})",
            {"conv.weight": (0.8 * 0.1, 1e-4 * 0.9), "bn.bias": (0.8 * 0.1, 1e-4 * 0.9)},
        ),
    ],
)
def test_snippets_of_the_manual(paramwise, expected):
    backbone = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1), "bn": nn.BatchNorm2d(2)})
    backbone.cls_token, backbone.pos_embed = (nn.Parameter(nn.Linear(2, 2).weight.detach()) for _ in range(2))
    text = f"""
paramwise_cfg = {paramwise}
optimizer = dict(
    type='SGD',
    lr=0.8,
    weight_decay=1e-4,
    paramwise_cfg=paramwise_cfg)
"""
    plan = from_mmcv(text).spec.plan(nn.ModuleDict({"backbone": backbone}), total_steps=10)
    for name, (lr, weight_decay) in expected.items():
        assert plan.parameters[f"backbone.{name}"]["lr"] == lr
        assert plan.parameters[f"backbone.{name}"]["weight_decay"] == weight_decay
