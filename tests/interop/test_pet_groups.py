"""Pet's optimiser and parameter groups: by a walk of this file's own, as Pet cannot be installed."""

import math

import pytest
from group_cases import is_plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_solver import OptimizerSpec, SolverError
from lightning_solver.interop.pet import from_pet
from stand_ins import golden_model

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, nn.LocalResponseNorm),
)
FULL = {
    "TYPE": "SGD",
    "BASE_LR": 0.1,
    "BIAS_LR_FACTOR": 2.0,
    "BACKBONE_LR_FACTOR": 0.1,
    "BACKBONE_WEIGHT_DECAY_FACTOR": 0.5,
    "WEIGHT_DECAY": 0.04,
    "WEIGHT_DECAY_BIAS": 0.001,
    "WEIGHT_DECAY_NORM": 0.002,
    "WEIGHT_DECAY_EMBED": 0.003,
    "MOMENTUM": 0.8,
}
FLAT = {"OPTIMIZER": "SGD", "BASE_LR": 0.1, "MOMENTUM": 0.9, "WEIGHT_DECAY": 0.04} | {
    "WEIGHT_DECAY_NORM": 0.002,
    "WEIGHT_DECAY_BIAS": 0.001,
    "BIAS_LR_FACTOR": 2.0,
}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.norm = nn.LayerNorm(3)
        self.qkv = nn.Linear(3, 3)
        self.words = nn.Embedding(4, 3)


class Own(nn.Module):
    """Parameters of its own, directly in a module called backbone."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.inner = Attention()
        self.bias = nn.Parameter(nn.Linear(3, 2).bias.detach())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Own()
        self.xbackbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.head = nn.ModuleDict({"words": nn.Embedding(4, 3), "out": nn.Linear(3, 4), "rms": nn.RMSNorm(3)})
        self.head["out"].weight = self.head["words"].weight
        self.absolute_pos_embed_2 = nn.Parameter(nn.Linear(3, 2).weight.detach())
        self.backbone.inner.qkv.weight.requires_grad_(False)


MODELS = {
    "Net": Net,
    **{
        name: lambda name=name: golden_model(f"models:{name}", {})
        for name in ("ConvZoo", "TinyTransformer", "SharedBlocks")
    },
}


def walked(model, o, earlier=False):
    """Name -> learning rate and weight decay, step by step in Pet's order."""
    seen, found = set(), {}
    for path, module in model.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            if not tensor.requires_grad or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            lr, decay = o["BASE_LR"], o["WEIGHT_DECAY"]
            norm = isinstance(module, NORMS)
            if earlier:
                if norm:
                    decay = o["WEIGHT_DECAY_NORM"]
                elif leaf == "bias":
                    lr, decay = lr * o["BIAS_LR_FACTOR"], o["WEIGHT_DECAY_BIAS"]
            else:
                if "backbone." in path:
                    lr, decay = lr * o["BACKBONE_LR_FACTOR"], decay * o["BACKBONE_WEIGHT_DECAY_FACTOR"]
                if "relative_position_bias_table" in leaf or "absolute_pos_embed" in leaf:
                    decay = 0.0
                decay = o["WEIGHT_DECAY_NORM"] if norm else decay
                decay = o["WEIGHT_DECAY_EMBED"] if isinstance(module, nn.Embedding) else decay
                if leaf == "bias" and o["BIAS_LR_FACTOR"] not in (None, 1):
                    lr = o["BASE_LR"] * o["BIAS_LR_FACTOR"]
                if leaf == "bias" and o["WEIGHT_DECAY_BIAS"] not in (None, o["WEIGHT_DECAY"]):
                    decay = o["WEIGHT_DECAY_BIAS"]
            found[f"{path}.{leaf}" if path else leaf] = (lr, decay)
    return found


def groups(model, config):
    plan = from_pet(config).spec.plan(model, total_steps=10)
    assert plan.parameters.keys() | plan.left_out.keys() == {
        name for name, _ in model.named_parameters(remove_duplicate=False)
    }
    return {name: (value["lr"], value["weight_decay"]) for name, value in plan.parameters.items()}


factor = st.sampled_from([None, 0.5, 1, 1.0, 2.0])
decay = st.sampled_from([0.0, 1e-4, 0.04, 0.3])
options = st.fixed_dictionaries(
    {
        "TYPE": st.sampled_from(["SGD", "ADAMW", "RMSPROP"]),
        "BASE_LR": st.sampled_from([0.1, 3e-4]),
        "BIAS_LR_FACTOR": factor,
        "BACKBONE_LR_FACTOR": factor.filter(lambda value: value is not None),
        "BACKBONE_WEIGHT_DECAY_FACTOR": factor.filter(lambda value: value is not None),
        "WEIGHT_DECAY": decay,
        "WEIGHT_DECAY_NORM": decay,
        "WEIGHT_DECAY_EMBED": decay,
        "WEIGHT_DECAY_BIAS": st.one_of(st.none(), decay),
        "MOMENTUM": st.just(0.9),
    }
)


@settings(max_examples=40, deadline=None)
@given(options, st.sampled_from([*MODELS]))
def test_every_parameter_gets_what_pet_gives(o, name):
    model = MODELS[name]()
    assert groups(model, {"SOLVER": {"OPTIMIZER": o}}) == walked(model, o)
    flat = {("OPTIMIZER" if key == "TYPE" else key): value for key, value in o.items()}
    assert groups(model, {"SOLVER": flat}) == walked(model, o)
    assert groups(model, o) == walked(model, o)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_earlier_releases_test_for_norms_first(name, bias):
    o = {**FLAT, "BIAS_LR_FACTOR": bias}
    model = MODELS[name]()
    assert groups(model, {"SOLVER": o}) == walked(model, o, earlier=True)
    assert groups(model, {"SOLVER": o, "builder": "QANet"}) == walked(model, o, earlier=True)
    later = {"BACKBONE_LR_FACTOR": 1.0, "BACKBONE_WEIGHT_DECAY_FACTOR": 1.0, "WEIGHT_DECAY_EMBED": 0.04}
    assert groups(model, {"SOLVER": o, "builder": "Pet"}) == walked(model, {**o, **later})


def test_the_figures_of_one_model():
    found = groups(Net(), {"SOLVER": {"OPTIMIZER": FULL}})
    assert found == {
        "absolute_pos_embed_2": (0.1, 0.0),
        "backbone.gain": (0.1, 0.04),  # the module called backbone itself has no dot behind its name
        "backbone.bias": (0.2, 0.001),
        "backbone.inner.relative_position_bias_table": (0.1 * 0.1, 0.0),
        "backbone.inner.norm.weight": (0.1 * 0.1, 0.002),
        "backbone.inner.norm.bias": (0.2, 0.001),
        "backbone.inner.qkv.bias": (0.2, 0.001),
        "backbone.inner.words.weight": (0.1 * 0.1, 0.003),
        "xbackbone.0.weight": (0.1 * 0.1, 0.04 * 0.5),  # any module whose name holds "backbone." counts
        "xbackbone.0.bias": (0.2, 0.001),
        "xbackbone.1.weight": (0.1 * 0.1, 0.002),
        "xbackbone.1.bias": (0.2, 0.001),
        "head.words.weight": (0.1, 0.003),
        "head.out.bias": (0.2, 0.001),
        "head.rms.weight": (0.1, 0.04),  # RMSNorm is not in Pet's list
    }


def test_adam_takes_all_as_one_group():
    config = {"SOLVER": {"OPTIMIZER": {**FULL, "TYPE": "ADAM"}}}
    read = from_pet(config)
    assert read.spec.optimizer == OptimizerSpec("Adam", {"lr": 0.1, "weight_decay": 0.04})
    assert set(groups(Net(), config).values()) == {(0.1, 0.04)}
    note = "SOLVER.OPTIMIZER.WEIGHT_DECAY_NORM: is not used by ADAM: it takes all parameters as one group"
    assert note in read.notes
    assert read.unmapped == ()
    earlier = from_pet({**FLAT, "OPTIMIZER": "ADAM"}).spec
    assert earlier.optimizer == OptimizerSpec("Adam", {"lr": 0.1})  # its weight decay is not handed on


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SGD", OptimizerSpec("SGD", {"lr": 0.1, "weight_decay": 0.04, "momentum": 0.8})),
        ("ADAMW", OptimizerSpec("AdamW", {"lr": 0.1, "weight_decay": 0.04})),
        ("RMSPROP", OptimizerSpec("RMSprop", {"lr": 0.1, "weight_decay": 0.04, "momentum": 0.8})),
    ],
)
def test_types(kind, expected):
    read = from_pet({"SOLVER": {"OPTIMIZER": {**FULL, "TYPE": kind}}})
    assert read.spec.optimizer == expected
    assert is_plain(read.spec)
    assert read.spec.tied == "first"
    assert not read.spec.default_rules
    assert ("SOLVER.OPTIMIZER.MOMENTUM: is not used by ADAMW" in read.notes) == (kind == "ADAMW")


def test_the_rates_scale_with_the_optimisers_own():
    spec = from_pet({"OPTIMIZER": FULL}).spec.replace(lr=1.0)
    plan = spec.plan(Net(), total_steps=10)
    assert plan.parameters["backbone.inner.norm.weight"]["lr"] == 0.1
    assert plan.parameters["head.out.bias"]["lr"] == 2.0


def test_schedule_and_optimizer_together():
    scheduler = {"POLICY": "POLY", "TOTAL_ITERS": 10, "WARM_UP_ITERS": 0, "LR_POW": 2.0}
    spec = from_pet({"SOLVER": {"OPTIMIZER": FULL, "SCHEDULER": scheduler}}).spec
    plan = spec.plan(Net(), total_steps=10)
    column = [group.name for group in plan.groups].index(plan.parameters["backbone.inner.norm.weight"]["group"])
    assert math.isclose(plan.curve("lr")[5, column], 0.1 * 0.1 * 0.25)


def test_notes():
    solver = {"OPTIMIZER": {"TYPE": "SGD", "BASE_LR": 0.1, "CLIP_GRADIENTS": {"ENABLED": True}, "NESTEROV": True}}
    read = from_pet({"SOLVER": {**solver, "BASE_LR": 0.3}})
    assert read.unmapped == (
        "SOLVER.OPTIMIZER.NESTEROV",
        "SOLVER.BASE_LR",
    )
    assert "SOLVER.BASE_LR: is not read beside SOLVER.OPTIMIZER" in read.notes
    assert (
        "SOLVER.OPTIMIZER: not all is given; read as in the public release (QANet): MOMENTUM 0.9, "
        "WEIGHT_DECAY 0.0001, WEIGHT_DECAY_NORM 0, WEIGHT_DECAY_BIAS 0, BIAS_LR_FACTOR 2"
    ) in read.notes
    same = from_pet({"OPTIMIZER": {**FULL, "WEIGHT_DECAY_BIAS": 0.04}})
    assert "OPTIMIZER.WEIGHT_DECAY_BIAS: is WEIGHT_DECAY, which Pet takes for no rule: biases keep what other " in (
        "\n".join(same.notes)
    )
    before = from_pet({**FLAT, "BIAS_DOUBLE_LR": True, "LR_POLICY": "COSINE", "MAX_ITER": 5, "WARM_UP_ITERS": 0})
    assert before.spec.optimizer is None
    assert set(before.unmapped) == {*FLAT, "BIAS_DOUBLE_LR"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"OPTIMIZER": {**FULL, "TYPE": "ADAGRAD"}}, r"OPTIMIZER\.TYPE: unknown value; got 'ADAGRAD'"),
        ({"OPTIMIZER": {**FULL, "TYPE": "sgd"}}, r"OPTIMIZER\.TYPE: unknown value; got 'sgd'; did you mean SGD"),
        ({**FLAT, "OPTIMIZER": "ADADELTA"}, "OPTIMIZER: unknown value"),
        ({"OPTIMIZER": {**FULL, "BASE_LR": -1}}, r"OPTIMIZER\.BASE_LR: must be at least 0"),
        ({"OPTIMIZER": {**FULL, "WEIGHT_DECAY_NORM": None}}, r"OPTIMIZER\.WEIGHT_DECAY_NORM: must be a number"),
        ({**FLAT, "BIAS_LR_FACTOR": None}, "BIAS_LR_FACTOR: must be a number"),
        (
            {"OPTIMIZER": {**FULL, "TYPE": "ADAM", "CLIP_GRADIENTS": {"ENABLED": True}}},
            r"OPTIMIZER\.CLIP_GRADIENTS: is for SGD and ADAMW only in Pet; got ADAM",
        ),
        ({**FLAT, "builder": "Petal"}, "builder: unknown value; got 'Petal'; did you mean Pet"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(SolverError, match=rf"^{message}"):
        from_pet(config)
