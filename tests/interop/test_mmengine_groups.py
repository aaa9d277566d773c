"""MMEngine's optimiser and parameter groups: what the real ones gave, and what a config is written as."""

import json

import pytest
from group_cases import differences, is_plain, plan_of
from torch import nn

from lightning_solver import SolverError
from lightning_solver.interop.mmengine import from_mmengine
from stand_ins import GOLDEN, golden_cases, golden_model

CASES = golden_cases("param_groups_mmengine")
LISTED = json.loads((GOLDEN / "model_parameters_mmengine.json").read_text())
SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
SEGMENTOR = "LearningRateDecayOptimizerConstructor"
BY_LAYER = "LearningRateDecayOptimWrapperConstructor"


def imported(paramwise=None, /, *, optimizer=SGD, **wrapper):
    inner = {"type": "OptimWrapper", "optimizer": optimizer, **wrapper}
    return from_mmengine({"optim_wrapper": inner | ({} if paramwise is None else {"paramwise_cfg": paramwise})})


def groups(model, paramwise=None, /, **wrapper):
    """Name -> learning rate and weight decay."""
    plan = imported(paramwise, **wrapper).spec.plan(model, total_steps=10)
    return {name: (value["lr"], value["weight_decay"]) for name, value in plan.parameters.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_peer_gave_the_same(case):
    read = from_mmengine(case["config"], facts=case["setting"])
    assert set(read.unmapped) <= {"optim_wrapper.type"}
    assert is_plain(read.spec)
    if "raises" not in case:
        assert differences(case, plan_of(case, read.spec, LISTED)) == []
    elif "more than one parameter group" in case["raises"]:  # here a shared tensor is trained by its first name
        left_out = plan_of(case, read.spec, LISTED).left_out
        assert left_out["head.lm.weight"] == "same tensor as backbone.tok_embed.weight"
    else:
        with pytest.raises(SolverError):
            plan_of(case, read.spec, LISTED)


def test_only_a_schedule_has_no_optimizer():
    spec = from_mmengine({"type": "StepLR", "step_size": 3}).spec
    assert spec.optimizer is None
    assert spec.to_dict().keys() == {"default_rules", "schedules", "beyond_run", "version"}
    assert from_mmengine({"train_cfg": {"by_epoch": True, "max_epochs": 3}}).spec.optimizer is None


def test_an_optimizer_and_its_schedule():
    config = {
        "optim_wrapper": {"optimizer": SGD, "paramwise_cfg": {"custom_keys": {"bias": {"lr_mult": 2.0}}}},
        "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": 10, "by_epoch": False}],
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 10},
    }
    curve = from_mmengine(config, strict=True).spec.plan(nn.Linear(2, 2), total_steps=10).curve("lr")
    assert sorted(curve[0]) == [0.1, 0.2]
    assert sorted(curve[5]) == pytest.approx([0.05, 0.1])


def test_other_keys_of_a_custom_key_go_into_the_group_and_win():
    keys = {
        "head": {"lr_mult": 0.5, "lr": 0.9, "decay_mult": 2.0, "weight_decay": 0.123, "momentum": 0.5},
        "neck": {"lr_mult": 0.5, "nesterov": True},
    }
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "neck": nn.Linear(2, 2)})
    plan = imported({"custom_keys": keys}).spec.plan(model, total_steps=10).parameters
    assert [plan["head.bias"][option] for option in ("lr", "weight_decay", "momentum")] == [0.9, 0.123, 0.5]
    assert [plan["neck.bias"][option] for option in ("lr", "momentum", "nesterov")] == [0.05, 0.9, True]


def test_keys_without_an_effect_are_noted():
    read = imported({"custom_keys": {"head": {"fix_lr": True, "_delete_": True}}})
    assert read.unmapped == ("optim_wrapper.paramwise_cfg.custom_keys.head.fix_lr",)
    assert any("stays in the group of MMEngine, where this optimiser does not look at it" in n for n in read.notes)
    assert (read.spec.rules[0].fresh, read.spec.rules[0].set) == (True, {})


def test_the_order_of_the_factors_of_the_decay():
    model = golden_model("models:ConvZoo", {})
    every = {"flat_decay_mult": 2.0, "dwconv_decay_mult": 3.0, "bias_decay_mult": 5.0, "norm_decay_mult": 7.0}
    decays = {name: round(value[1] / 5e-4, 9) for name, value in groups(model, every).items()}
    names = ("bn.bias", "bn.weight", "dw.bias", "dw.weight", "prelu.weight", "pw.weight")
    assert [decays[f"backbone.{name}"] for name in names] == [7.0, 7.0, 5.0, 3.0, 2.0, 1.0]
    found = {
        name: round(value[1] / 5e-4, 9) for name, value in groups(model, {**every, "norm_decay_mult": None}).items()
    }
    assert [found[f"backbone.{name}"] for name in ("bn.bias", "bn.weight")] == [5.0, 2.0]  # None turns a rule off


def test_flat_parameters_have_one_dimension():
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(nn.Linear(1, 1).weight[0, 0].detach())
    assert groups(model, {"flat_decay_mult": 0.0}) == {"scale": (0.1, 5e-4), "weight": (0.1, 5e-4), "bias": (0.1, 0.0)}


def test_without_a_weight_decay():
    bare = {"type": "SGD", "lr": 0.1}
    read = imported({"flat_decay_mult": 0.0, "custom_keys": {"bias": {"weight_decay": 0.5}}}, optimizer=bare)
    assert any("flat_decay_mult: MMEngine does without it" in note for note in read.notes)
    plan = read.spec.plan(nn.Linear(2, 2), total_steps=10).parameters
    assert (plan["weight"]["weight_decay"], plan["bias"]["weight_decay"]) == (0.0, 0.5)


def test_frozen_parameters():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    for paramwise in (None, {}, {"bypass_duplicate": True}):
        read = imported(paramwise)
        assert read.spec.plan(model, total_steps=10).left_out.keys() == {"bias"}
        assert any("here they are left out" in note for note in read.notes) == (not paramwise)


def test_forced_settings():
    paramwise = {
        "custom_keys": {"0": {"lr_mult": 0.5, "weight_decay": 0.3}},
        "bias_lr_mult": 3.0,
        "bias_decay_mult": 0.0,
    }
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    constructor = "ForceDefaultOptimWrapperConstructor"
    forced = groups(model, {**paramwise, "force_default_settings": True}, constructor=constructor)
    assert forced["0.bias"] == (pytest.approx(0.3), 0.0)
    assert forced["0.weight"] == (0.05, 0.3)
    assert groups(model, paramwise, constructor=constructor) == groups(model, paramwise)


# ------------------------------------------------------------------ decay by layers


def test_decay_by_layers_of_pretraining():
    paramwise = {
        "layer_decay_rate": 0.75,
        "flat_decay_mult": 0.5,
        "norm_decay_mult": 0.25,
        "bias_lr_mult": 3.0,
        "custom_keys": {"ln1": {"lr": 3.0, "weight_decay": 0.7, "momentum": 0.3}, "layers.0.ln1.b": {"lr_mult": 3}},
    }
    read = imported(paramwise, constructor=BY_LAYER)
    assert (read.spec.layer_decay, read.spec.depth) == (0.75, "mmpretrain")
    assert read.unmapped == ()
    where = "optim_wrapper.paramwise_cfg.bias_lr_mult"
    assert f"{where}: has no effect with this constructor, as in MMPretrain" in read.notes
    assert sum("has no effect: with this constructor" in note for note in read.notes) == 2
    model = golden_model("mmpretrain:vit6-rate1", LISTED)
    plan = read.spec.plan(model, total_steps=10).parameters
    options = ("weight_decay", "momentum")
    assert [plan["backbone.layers.0.ln1.weight"][option] for option in options] == [0.7, 0.3]
    assert [plan["backbone.layers.0.ln1.bias"][option] for option in options] == [5e-4, 0.9]
    assert plan["backbone.layers.0.ln2.bias"]["weight_decay"] == 5e-4 * 0.25
    assert plan["backbone.layers.0.ln1.weight"]["lr"] == plan["backbone.layers.0.ln2.bias"]["lr"] == 0.1 * 0.75**6
    assert plan["head.layers.head.weight"]["lr"] == 0.1


def test_a_model_says_itself_how_deep_its_layers_are():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

        def get_layer_depth(self, name, prefix=""):
            return (0, 4) if name.startswith("stem") else (3, 4)

    found = groups(Own(), {"layer_decay_rate": 0.5}, constructor=BY_LAYER)
    assert found["stem.weight"][0] == 0.1 * 0.5**3
    assert found["head.weight"][0] == 0.1


def test_an_empty_paramwise_cfg_turns_the_decay_by_layers_off():
    for constructor in (BY_LAYER, SEGMENTOR):
        read = imported({}, constructor=constructor)
        assert (read.spec.layer_decay, read.spec.rules) == (None, ())
        assert any(f"is empty, which turns {constructor} off" in note for note in read.notes)


@pytest.mark.parametrize(
    ("paramwise", "depth"),
    [
        ({"decay_rate": 0.9, "num_layers": 6}, "mmseg_layer_wise:6"),
        ({"decay_rate": 0.9, "num_layers": 6, "decay_type": "layer_wise_vit"}, "mmseg_layer_wise:6"),
        ({"decay_rate": 0.9, "num_layers": 12, "decay_type": "stage_wise"}, "mmseg_stage_wise:12"),
    ],
)
def test_decay_by_layers_of_segmentation(paramwise, depth):
    read = imported(paramwise, constructor=SEGMENTOR)
    assert (read.spec.layer_decay, read.spec.depth) == (0.9, depth)
    inert = {"norm_decay_mult": 0.0, "custom_keys": {"backbone": {"lr_mult": 0.1}}, "layer_decay_rate": 0.5}
    noted = imported({**paramwise, **inert, "norm_decay_mlut": 0.0}, constructor=SEGMENTOR)
    assert noted.spec == read.spec
    assert noted.unmapped == ("optim_wrapper.paramwise_cfg.norm_decay_mlut",)
    for key in inert:
        where = f"optim_wrapper.paramwise_cfg.{key}"
        assert f"{where}: has no effect with this constructor, as in MMSegmentation" in noted.notes


def test_names_that_segmentation_exempts():
    """Only whole names count, and only parameters of one dimension besides."""
    model = golden_model("models:BEiTSegmentor", {})
    model.pos_embed = nn.Parameter(nn.Linear(2, 2).weight.detach())
    found = groups(model, {"decay_rate": 0.9, "num_layers": 6}, constructor=SEGMENTOR)
    assert (found["pos_embed"][1], found["backbone.pos_embed"][1]) == (0.0, 5e-4)
    assert found["backbone.layers.0.attn.logit_scale"][1] == 5e-4  # three dimensions


# ------------------------------------------------------------------ optimisers


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        ("AdamW", "AdamW"),
        ("torch.optim.AdamW", "AdamW"),
        ("TorchAdafactor", "Adafactor"),
        ("Adafactor", "transformers.optimization.Adafactor"),
        ("Lion", "lion_pytorch.Lion"),
        ("DAdaptAdam", "dadaptation.DAdaptAdam"),
        ("bnb_AdamW", "bitsandbytes.optim.AdamW"),
        ("AdamW8bit", "bitsandbytes.optim.AdamW8bit"),
        ("SophiaG", "Sophia.SophiaG"),
        ("Lamb", "timm.optim.Lamb"),
        ("mmpretrain.Lamb", "timm.optim.Lamb"),
        ("Adan", "timm.optim.Adan"),
        ("package.module.Own", "package.module.Own"),
    ],
)
def test_optimizers_by_name(type_, name):
    read = imported(optimizer={"type": type_, "lr": 0.1})
    assert (read.spec.optimizer.name, dict(read.spec.optimizer.args), read.unmapped) == (name, {"lr": 0.1}, ())


def test_a_class_or_a_name_in_python():
    from torch.optim import AdamW

    assert imported(optimizer={"type": AdamW, "lr": 0.1}).spec.optimizer.name == "AdamW"
    read = from_mmengine(
        "optim_wrapper = dict(type=AmpOptimWrapper, dtype='bfloat16', optimizer=dict(type=AdamW, lr=0.1))"
    )
    assert read.spec.optimizer.name == "AdamW"
    assert any("Trainer(precision='bf16-mixed')" in note for note in read.notes)


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ({"type": "LARS", "lr": 0.1}, "inside its momentum"),
        ({"type": "Adan", "lr": 0.1, "no_prox": True}, "only shrinks the weights"),
        ({"type": "Adan", "lr": 0.1, "max_grad_norm": 1.0}, "clips by max_grad_norm"),
        ({"type": "HybridAdam", "lr": 0.1}, "no optimiser of torch"),
        ({"type": "ZeroRedundancyOptimizer", "optimizer_type": "SGD", "lr": 0.1}, "sharding strategy"),
    ],
)
def test_optimizers_without_a_counterpart(optimizer, why):
    read = imported(optimizer=optimizer)
    assert read.spec.optimizer is None
    assert read.unmapped == ("optim_wrapper.optimizer.type",)
    assert any(why in note for note in read.notes)


def test_adan_that_does_as_timms():
    adan = {"type": "Adan", "lr": 0.1, "no_prox": True, "foreach": False, "max_grad_norm": 0.0}
    assert dict(imported(optimizer=adan).spec.optimizer.args) == {"lr": 0.1, "no_prox": True, "foreach": False}


def test_numbers_that_yaml_reads_as_texts():
    spec = imported(optimizer={"type": "AdamW", "lr": "1e-3", "eps": "1e-8", "betas": [0.9, "0.99"]}).spec
    assert spec.to_dict()["optimizer"]["args"] == {"lr": 1e-3, "eps": 1e-8, "betas": [0.9, 0.99]}


# ------------------------------------------------------------------ wrappers and the batch size


@pytest.mark.parametrize(
    ("wrapper", "unmapped", "words"),
    [
        ({"type": "OptimWrapper", "accumulative_counts": 2}, (), ""),
        ({"type": "AmpOptimWrapper"}, ("optim_wrapper.type",), "Trainer(precision='16-mixed')"),
        ({"type": "AmpOptimWrapper", "dtype": "float16"}, ("optim_wrapper.type",), "Trainer(precision='16-mixed')"),
        ({"type": "AmpOptimWrapper", "loss_scale": 512.0}, ("optim_wrapper.type",), "GradScaler for loss_scale 512.0"),
        ({"type": "ApexOptimWrapper"}, ("optim_wrapper.type",), "apex is gone"),
        ({"type": "MyOptimWrapper", "a": 1}, ("optim_wrapper.type", "optim_wrapper.a"), "a wrapper of its own"),
        ({"clip_grads": {"max_norm": 1.0}}, ("optim_wrapper.clip_grads",), "did you mean clip_grad?"),
        ({"loss_scale": 512.0}, ("optim_wrapper.loss_scale",), "is not mapped"),
    ],
)
def test_wrappers(wrapper, unmapped, words):
    read = imported(**wrapper)
    assert read.unmapped == unmapped
    assert any(words in note for note in read.notes)


def test_several_optimizers():
    one = {"type": "OptimWrapper", "optimizer": SGD}
    read = from_mmengine({"optim_wrapper": {"generator": one, "discriminator": one, "constructor": "Own"}})
    assert (read.spec.optimizer, read.unmapped) == (None, ("optim_wrapper",))
    assert any("import generator, discriminator one by one" in note for note in read.notes)
    assert any("solver = {generator: ..., discriminator: ...}" in note for note in read.notes)
    with pytest.raises(SolverError, match="optim_wrapper: is not mapped"):
        from_mmengine({"optim_wrapper": {"generator": one, "discriminator": one}}, strict=True)


def test_scaling_of_the_learning_rate():
    def scaled(auto, **wrapper):
        config = {"optim_wrapper": {"optimizer": SGD, **wrapper}, "auto_scale_lr": auto}
        return from_mmengine(config)

    assert scaled({"enable": True, "base_batch_size": 256}).spec.base_batch_size == 256
    assert scaled({"enable": True, "base_batch_size": 256}).spec.batch_scaling == "linear"
    for off in ({"base_batch_size": 256}, {"enable": False, "base_batch_size": 256}, {"enable": False}, None):
        assert (scaled(off).spec.base_batch_size, scaled(off).unmapped) == (None, ())
    read = scaled({"enable": True, "base_batch_size": 256}, accumulative_counts=4)
    assert read.spec.base_batch_size == 1024  # samples of four batches, where MMEngine counts those of one
    assert any("1024 is what that comes to here" in note for note in read.notes)


REFUSED = [
    (
        {"optim_wrapper": {"optimizer": (SGD,)}},
        "optim_wrapper.optimizer: is a list of one, as a comma after it makes it",
    ),
    ({"optim_wrapper": {"optimizer": [SGD, SGD]}}, "optim_wrapper.optimizer: must be a mapping"),
    ({"optim_wrapper": {"type": "OptimWrapper"}}, "optim_wrapper.optimizer: is missing"),
    ({"optim_wrapper": 3}, "optim_wrapper: must be a mapping"),
    ({"optimizer": (SGD,)}, "optimizer: is a list of one"),
    ({"optim_wrapper": {"optimizer": SGD, "paramwise_cfg": [1]}}, "paramwise_cfg: must be a mapping"),
    (
        {"optim_wrapper": {"optimizer": {"type": "SGD"}, "paramwise_cfg": {"bias_lr_mult": 2.0}}},
        "bias_lr_mult: MMEngine multiplies the learning rate of the optimiser, which is not given",
    ),
    (
        {"optim_wrapper": {"optimizer": {"type": "SGD"}, "paramwise_cfg": {"custom_keys": {"a": {"momentum": 0.5}}}}},
        r"custom_keys\.a: MMEngine multiplies the learning rate",
    ),
    (
        {"optim_wrapper": {"optimizer": SGD, "paramwise_cfg": {"custom_keys": {"a": {"params": []}}}}},
        "takes the place of the parameter itself",
    ),
    (
        {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"dwconv_decay_mult": None}}},
        "dwconv_decay_mult: multiplies the weight decay",
    ),
    ({"optim_wrapper": {"optimizer": SGD}, "auto_scale_lr": {"enable": True}}, "base_batch_size: must be a whole"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=message):
        from_mmengine(config)


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({"decay_rate": 0.9}, "num_layers: is missing"),
        ({"num_layers": 6}, "decay_rate: is missing"),
        ({"num_layers": 6.5, "decay_rate": 0.9}, "num_layers: must be a whole number"),
        ({"num_layers": 6, "decay_rate": 0.9, "decay_type": "depth_wise"}, "decay_type: is not known"),
        ({"num_layers": 6, "decay_rate": 0.9, "decay_type": None}, "decay_type: is not known"),
    ],
)
def test_what_segmentation_refuses(paramwise, message):
    with pytest.raises(SolverError, match=message):
        imported(paramwise, constructor=SEGMENTOR)


@pytest.mark.parametrize("constructor", [BY_LAYER, SEGMENTOR])
@pytest.mark.parametrize("missing", ["lr", "weight_decay"])
def test_what_decay_by_layers_needs_of_the_optimizer(constructor, missing):
    optimizer = {key: value for key, value in SGD.items() if key != missing}
    paramwise = {"num_layers": 6, "decay_rate": 0.9} if constructor == SEGMENTOR else {"layer_decay_rate": 0.5}
    with pytest.raises(SolverError, match=rf"optim_wrapper\.optimizer\.{missing}: is needed by a constructor"):
        imported(paramwise, optimizer=optimizer, constructor=constructor)


# ------------------------------------------------------------------ the snippets of MMSegmentation's manual


PLAIN = "optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)\n"
SNIPPETS = [
    ("optimizer = dict(type='SGD', lr=0.0003, weight_decay=0.0001)", "SGD", {"lr": 0.0003, "weight_decay": 0.0001}),
    (
        "optimizer = dict(type='Adam', lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=False)",
        "Adam",
        {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0, "amsgrad": False},
    ),
    (
        f"{PLAIN}optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=0.2, norm_type=2))",
        "SGD",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001},
    ),
    (
        f"{PLAIN}train_dataloader = dict(batch_size=4)\n"
        "optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, accumulative_counts=4)",
        "SGD",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001},
    ),
    (
        f"{PLAIN}optim_wrapper = dict(type='AmpOptimWrapper', optimizer=optimizer)",
        "SGD",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001},
    ),
]


@pytest.mark.parametrize(("text", "name", "args"), SNIPPETS)
def test_snippets_of_optimizers(text, name, args):
    spec = from_mmengine(text).spec
    assert (spec.optimizer.name, dict(spec.optimizer.args)) == (name, args)


TOKENS = """
optimizer = dict(
        type='AdamW', lr=0.00006, betas=(0.9, 0.999), weight_decay=0.01){comma}
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=optimizer,
    paramwise_cfg=dict(
        custom_keys={{
            'pos_embed': dict(decay_mult=0.),
            'cls_token': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.)
        }}))
"""


def test_the_snippet_of_tokens():
    read = from_mmengine(TOKENS.format(comma=""), strict=True)
    plan = read.spec.plan(golden_model("models:BEiTSegmentor", {}), total_steps=10).parameters
    bare = {name for name, value in plan.items() if value["weight_decay"] == 0}
    assert bare == {f"backbone.{name}" for name in ("cls_token", "pos_embed", "norm1.weight", "norm1.bias")}
    with pytest.raises(SolverError, match=r"optim_wrapper\.optimizer: is a list of one.*take the comma after it out"):
        from_mmengine(TOKENS.format(comma=","))  # as it is printed


def test_the_snippet_of_stages():
    text = """
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(
        type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg={
        'decay_rate': 0.9,
        'decay_type': 'stage_wise',
        'num_layers': 12
    },
    constructor='LearningRateDecayOptimizerConstructor',
    loss_scale='dynamic')
"""
    read = from_mmengine(text)
    assert read.unmapped == ("optim_wrapper.type",)
    plan = read.spec.plan(golden_model("models:ConvNeXtDetector", {}), total_steps=10).parameters
    assert plan["backbone.downsample_layers.3.0.bias"]["lr"] == 0.9**13 * 1e-4
    assert plan["backbone.stages.3.1.gamma"]["lr"] == 0.9**9 * 1e-4
    assert plan["decode_head.conv.weight"]["lr"] == 1e-4
    assert plan["decode_head.conv.weight"]["weight_decay"] == 0.05
    assert plan["backbone.stages.3.1.gamma"]["weight_decay"] == 0.0
