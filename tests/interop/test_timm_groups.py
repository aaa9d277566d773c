"""timm's optimisers and groups: what the real one gave for every parameter, and what a config is written as."""

import json
import sys
import types

import pytest
import torch
import yaml
from group_cases import differences, is_plain, plan_of
from torch import nn

from lightning_solver import RunLength, SolverError
from lightning_solver.interop.timm import from_timm
from lightning_solver.interop.timm.registered import CLASSES, OPTIMIZERS
from stand_ins import GOLDEN, golden_cases

CASES = golden_cases("param_groups_timm")
LISTED = json.loads((GOLDEN / "model_parameters_timm.json").read_text())
FLAT = {"kind": "flat", "weight_decay": 0.0, "unmatched": "allow"}
BIAS = {"match": "*.bias", "weight_decay": 0.0, "unmatched": "allow"}
METHOD = {"listed_by": "no_weight_decay", "weight_decay": 0.0, "unmatched": "allow"}


class Lamb(torch.optim.Optimizer):
    """The arguments of the optimiser of timm, which is not installed here."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, trust_clip=False):
        own = {"betas": betas, "eps": eps, "trust_clip": trust_clip}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own})


class RMSpropTF(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-2, alpha=0.9, eps=1e-10, weight_decay=0.0, momentum=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "alpha": alpha, "momentum": momentum})


class AdamWLegacy(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)


class Muon(RMSpropTF):
    def __init__(self, params, lr=0.02, weight_decay=0.0, momentum=0.95, fallback_lr_scale=1.0):
        super().__init__(params, lr, weight_decay=weight_decay, momentum=momentum)


@pytest.fixture
def timm(monkeypatch):
    optim = types.ModuleType("timm.optim")
    for cls in (Lamb, RMSpropTF, AdamWLegacy, Muon):
        setattr(optim, cls.__name__, cls)
    package = types.ModuleType("timm")
    package.optim = optim
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.optim", optim)


def factory(**keywords):
    return {"create_optimizer_v2": keywords}


def written(config):
    return from_timm(config).spec.to_dict()


def optimizer(**keywords):
    return written(factory(**keywords))["optimizer"]


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("form", ["config", "config_py"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_timm_gave_the_same(case, form):
    imported = from_timm(case[form], facts=case["setting"], strict=True)
    listed = case["setting"].get("no_weight_decay")
    methods = None if listed is None else {"no_weight_decay": lambda: set(listed)}
    plan = plan_of(case, imported.spec, LISTED, methods)
    for entry in case["values"]:  # a group of torch's own optimisers holds the scale beside the rate
        entry.setdefault("lr_once_scheduled", entry["lr"] * entry.get("lr_scale", 1.0))
    assert is_plain(imported.spec)
    assert differences(case, plan, rel=1e-12, lr="lr_once_scheduled") == []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.shift = nn.Module()
        self.shift.bias = nn.Parameter(torch.zeros(1, 3))
        self.head = nn.Linear(3, 2)

    def group_matcher(self, coarse):
        return {"stem": r"stem", "blocks": [(r"blocks\.(\d+)", None)]}

    def no_weight_decay(self):
        return {"stem.*"}


def groups(config, option):
    plan = from_timm(config).spec.plan(Net(), total_steps=9)
    return {name: values[option] for name, values in plan.parameters.items() if name.endswith(("weight", "shift.bias"))}


def test_what_is_not_decayed():
    """Matrices called bias count by their name, but not beside a layer-wise decay."""
    base = {"opt": "adamw", "lr": 1.0, "weight_decay": 0.5}
    decayed = {f"blocks.{i}.weight": 0.5 for i in range(3)} | {"head.weight": 0.5}
    assert groups(factory(**base), "weight_decay") == {**decayed, "stem.weight": 0.0, "shift.bias": 0.0}
    by_layer = groups(factory(**base, layer_decay=0.5), "weight_decay")
    assert by_layer == {**decayed, "stem.weight": 0.0, "shift.bias": 0.5}
    everything = from_timm(factory(**base, filter_bias_and_bn=False)).spec.plan(Net(), total_steps=9)
    assert everything.parameters["head.bias"]["weight_decay"] == 0.5
    assert everything.parameters["stem.bias"]["weight_decay"] == 0.0  # listed by the model all the same


def test_layers():
    base = {"opt": "sgd", "lr": 1.0, "weight_decay": 0.1}
    rates = {"stem.weight": 0.0625, **{f"blocks.{i}.weight": 2.0 ** (i - 3) for i in range(3)}}
    rates |= {"head.weight": 1.0, "shift.bias": 1.0}
    assert groups(factory(**base, layer_decay=0.5), "lr") == rates
    at_least = groups(factory(**base, layer_decay=0.5, layer_decay_min_scale=0.2), "lr")
    assert at_least == {name: max(rate, 0.2) for name, rate in rates.items()}
    above = groups(factory(**base, layer_decay=0.5, layer_decay_no_opt_scale=0.2), "lr")
    assert above == {name: rate for name, rate in rates.items() if rate >= 0.2}
    assert groups(factory(**base, layer_decay=0.0), "lr") == {name: rate * (rate == 1) for name, rate in rates.items()}
    only = groups(factory(**base, layer_decay=0.0, layer_decay_no_opt_scale=0.1), "lr")
    assert only == {"head.weight": 1.0, "shift.bias": 1.0}


def test_factors_stay_factors():
    spec = from_timm(factory(opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)).spec
    assert spec.to_dict() == {
        "optimizer": {"name": "AdamW", "args": {"lr": 1e-3, "weight_decay": 0.05}},
        "rules": [FLAT, METHOD],
        "default_rules": False,
        "layer_decay": {"rate": 0.75},
        "depth": "timm",
        "tied": "first",
        "beyond_run": "allow",
        "version": 1,
    }


@pytest.mark.parametrize(
    ("keywords", "name", "args"),
    [
        ({}, "SGD", {"weight_decay": 0.0, "nesterov": True, "momentum": 0.9}),
        ({"opt": "momentum", "lr": 0.1}, "SGD", {"lr": 0.1, "weight_decay": 0.0, "nesterov": False, "momentum": 0.9}),
        (
            {"opt": "SGD", "momentum": 0.8, "nesterov": False},
            "SGD",
            {"weight_decay": 0.0, "nesterov": False, "momentum": 0.8},
        ),
        ({"opt": "adamw", "momentum": 0.8, "lr": None}, "AdamW", {"weight_decay": 0.0}),
        ({"opt": "rmsprop"}, "RMSprop", {"weight_decay": 0.0, "alpha": 0.9, "momentum": 0.9}),
        ({"opt": "adagrad", "eps": "1e-5"}, "Adagrad", {"weight_decay": 0.0, "eps": 1e-5}),
        ({"opt": "radamw"}, "RAdam", {"weight_decay": 0.0, "decoupled_weight_decay": True}),
        (
            {"opt": "adam", "betas": (0.8, 0.9), "amsgrad": True, "foreach": False},
            "Adam",
            {"weight_decay": 0.0, "betas": [0.8, 0.9], "amsgrad": True, "foreach": False},
        ),
        ({"opt": "lion", "eps": 1e-3, "lr": 1}, "timm.optim.Lion", {"lr": 1, "weight_decay": 0.0}),
        ({"opt": "lambc"}, "timm.optim.Lamb", {"weight_decay": 0.0, "trust_clip": True}),
        ({"opt": "nadamc"}, "timm.optim.NAdamW", {"weight_decay": 0.0, "corrected_weight_decay": True}),
        ({"opt": "fusedadam"}, "apex.optimizers.FusedAdam", {"weight_decay": 0.0, "adam_w_mode": False}),
        ({"opt": "bnblion8bit"}, "bitsandbytes.optim.Lion8bit", {"weight_decay": 0.0}),
        ({"opt": "kronw"}, "timm.optim.kron.Kron", {"weight_decay": 0.0, "decoupled_decay": True, "momentum": 0.9}),
        ({"opt": "my_adamw"}, "AdamW", {"weight_decay": 0.0}),
    ],
)
def test_the_optimizer(keywords, name, args):
    assert optimizer(**keywords) == {"name": name, "args": args}


def test_positional_arguments():
    found = written("LaProp(param_groups_weight_decay(model, 0.1), 0.2, (0.8, 0.9), caution=True)")["optimizer"]
    args = {"lr": 0.2, "betas": [0.8, 0.9], "caution": True, "weight_decay": 0.1}
    assert found == {"name": "timm.optim.LaProp", "args": args}


def test_names_are_101_and_classes_of_torch_are_torch_s():
    assert len(OPTIMIZERS) == 101
    assert all(hasattr(torch.optim, name) for name in CLASSES if "." not in name)
    assert {registered.name for registered in OPTIMIZERS.values()} == set(CLASSES)


@pytest.mark.usefixtures("timm")
def test_muon_s_second_optimizer():
    config = factory(opt="muon", lr=0.1, weight_decay=0.5, fallback_list=["head.*"], fallback_lr_scale=0.5)
    plan = from_timm(config, strict=True).spec.plan(Net(), total_steps=9)
    assert [member.recipe.cls.__name__ for member in plan.members] == ["Muon", "AdamWLegacy"]
    head, bias, block = (plan.parameters[name] for name in ("head.weight", "head.bias", "blocks.0.weight"))
    assert (head["lr"], head["weight_decay"], head["betas"], head["eps"]) == (0.05, 0.5, (0.9, 0.95), 1e-7)
    assert (bias["lr"], bias["weight_decay"]) == (0.05, 0.0)
    assert (block["lr"], block["weight_decay"]) == (0.1, 0.5)
    listed = from_timm(factory(opt="nmuon", fallback_no_weight_decay=True)).spec.to_dict()["rules"][0]
    assert listed["listed_by"] == "no_weight_decay"
    assert listed["optimizer"]["name"] == "timm.optim.NAdamW"
    deprecated = from_timm(factory(opt="muon", lr=0.1, adamw_lr=0.01, fallback_list=["*"])).spec.rules[0]
    assert deprecated.lr_scale == pytest.approx(0.1)


# ------------------------------------------------------------------ forms


BARE = {
    "optimizer": {"name": "AdamW", "args": {"lr": 1e-3, "weight_decay": 0.05}},
    "rules": [FLAT, BIAS, METHOD],
    "default_rules": False,
    "tied": "first",
    "beyond_run": "allow",
    "version": 1,
}


@pytest.mark.parametrize(
    "config",
    [
        factory(opt="adamw", lr=1e-3, weight_decay=0.05),
        {"create_optimizer_v2": "create_optimizer_v2(model, 'adamw', 1e-3, 0.05)"},
        "create_optimizer_v2(model, 'adamw', 1e-3, weight_decay=0.05)",
        "opt = timm.optim.create_optimizer_v2(create_model('vit'), opt='adamw', lr=1e-3, weight_decay=0.05)",
        {"create_optimizer": {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "momentum": 0.9}},
        {"optimizer_kwargs": {"opt": "adamw", "lr": 1e-3, "weight-decay": 0.05, "momentum": 0.9}},
        {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        {"--opt": "adamw", "--lr": 1e-3, "--weight-decay": 0.05},
        {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "filter_bias_and_bn": True},
        "AdamW(param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay()), lr=1e-3)",
        "groups = param_groups_weight_decay(model, 0.05, True, model.no_weight_decay())\noptim.AdamW(groups, 1e-3)",
        "create_optimizer_v2(param_groups_weight_decay(model, 0.05, True, model.no_weight_decay()), 'adamw', 1e-3)",
    ],
)
def test_the_forms_are_one(config):
    imported = from_timm(config, strict=True)
    assert imported.spec.to_dict() == BARE


def test_optimizer_and_schedule_together(tmp_path):
    both = {"create_optimizer_v2": {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05}}
    both["create_scheduler_v2"] = {"num_epochs": 30, "warmup_epochs": 5}
    text = (
        "from timm.optim import create_optimizer_v2\n"
        "model = create_model('vit_tiny_patch16_224')\n"
        "optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3, weight_decay=0.05)\n"
        "scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=30, warmup_epochs=5)\n"
    )
    script = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "epochs": 30, "opt_eps": None, "momentum": 0.9}
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(script))
    (tmp_path / "train.py").write_text(text)
    expected = written(both)
    assert expected == {**BARE, "schedules": expected["schedules"]}
    for config in (text, script, tmp_path / "args.yaml", tmp_path / "train.py"):
        imported = from_timm(config, strict=True)
        assert imported.spec.to_dict() == expected, config
    assert "schedules" not in written({"opt": "adamw", "lr": 1e-3})


def test_only_a_schedule_has_no_optimizer():
    configs = {"create_scheduler_v2": {"num_epochs": 3}}, {"sched": "cosine", "epochs": 3}, "CosineLRScheduler(o, 5)"
    for config in configs:
        spec = from_timm(config).spec
        assert spec.optimizer is None
        assert (spec.rules, spec.tied) == ((), "any")


def test_arguments_of_the_script():
    script = {"opt": "lamb", "opt_betas": [0.8, 0.9], "opt-eps": 1e-3, "opt_kwargs": {"trust_clip": True}, "lr": 0.1}
    assert written(script)["optimizer"]["args"] == {
        **{"lr": 0.1, "weight_decay": 2e-5, "betas": [0.8, 0.9], "eps": 1e-3, "trust_clip": True},
    }
    spec = from_timm({"layer_decay": 0.7, "layer_decay_min_scale": 0.1, "opt": "adamw", "lr": 1.0}).spec
    assert spec.to_dict()["layer_decay"] == {"rate": 0.7, "min_scale": 0.1}
    assert spec.optimizer.args["weight_decay"] == 2e-5
    assert from_timm({"lr": 0.1}).spec.optimizer.name == "SGD"


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("script", "rate"),
    [
        ({"opt": "sgd"}, 0.1 * 4),
        ({"opt": "adamw"}, 0.1 * 2),
        ({"opt": "lamb", "lr_base": 0.5, "lr_base_size": 1024}, 0.5),
        ({"opt": "adamw", "lr_base_scale": "linear"}, 0.1 * 4),
        ({"opt": "sgd", "lr_base_scale": "sqrt", "lr": 0}, 0.1 * 2),
        ({"opt": "sgd", "lr": 0.3}, 0.3),
    ],
)
def test_a_rate_for_a_number_of_samples(script, rate):
    spec = from_timm(script, strict=True).spec
    plan = spec.plan(Net(), run=RunLength(total_steps=9, samples_per_step=1024))
    assert plan.parameters["head.weight"]["lr"] == pytest.approx(rate, rel=1e-12)


# ------------------------------------------------------------------ notes and mistakes


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (factory(opt="adamw", eps=1e-3, layer_decay=0.7), "lr_scale, others leave it without effect"),
        (factory(opt="sgd", betas=(0.9, 0.99)), "betas: has no effect with sgd, as in timm"),
        (factory(opt="sgd", layer_decay_min_scale=0.1), "layer_decay_min_scale: has no effect without layer_decay"),
        (
            factory(layer_decay=0.5, layer_decay_min_scale=0.1, layer_decay_no_opt_scale=0.1),
            "layer_decay_no_opt_scale: freezes nothing: no factor is below 0.1",
        ),
        (factory(opt="lookahead_adamw"), "Lookahead is wrapped around an optimiser; adamw is read without it"),
        (factory(opt="fast_adamw"), "timm reads fast_adamw as adamw"),
        (factory(opt="adamw", fallback_list=["head*"]), "has no effect with AdamW, as in timm: Muon alone"),
        (factory(opt="adamw"), "asks the model alone in timm"),
        (
            "create_optimizer_v2(model.parameters(), 'adamw', layer_decay=0.5)",
            "layer_decay: has no effect on parameters",
        ),
        ("AdamW(param_groups_weight_decay(m, 0.1), weight_decay=0.2)", "every group has a weight decay of its own"),
        ("Adafactor(param_groups_weight_decay(m), lr=1)", "both torch and timm have one of this name"),
        ("AdamW(param_groups_weight_decay(m, no_weight_decay_list=['a']))", "names are compared whole, as in timm"),
        ({"opt": "sgd", "lr": 0.1, "lr_base": 0.2}, "lr_base: has no effect beside lr"),
        ({"opt": "sgd"}, "lr_base: 0.1 is for 256 samples in an optimiser step"),
    ],
)
def test_what_is_odd_is_noted(config, note):
    assert any(note in said for said in from_timm(config).notes)


@pytest.mark.parametrize(
    ("config", "unmapped"),
    [
        (factory(opt="lookahead_adamw"), ("create_optimizer_v2.opt",)),
        ("create_optimizer_v2(model, 'sgd', param_group_fn=mine)", ("create_optimizer_v2.param_group_fn",)),
        (
            "create_optimizer_v2(model, 'adafactorbv', momentum_dtype=torch.float32)",
            ("create_optimizer_v2.momentum_dtype",),
        ),
        ("AdamW([p for p in model.parameters() if p.ndim > 1], lr=0.1)", ("AdamW.params",)),
        ("AdamW(param_groups_weight_decay(m, exclude=3))", ("param_groups_weight_decay.exclude",)),
        (factory(opt="adamw", wd_ratio=0.1, lr=1), ("create_optimizer_v2.wd_ratio",)),
        (factory(opt="lars", beta=0.1), ("create_optimizer_v2.beta",)),
        (factory(opt="madgrad", foreach=False), ("create_optimizer_v2.foreach",)),
        ("SGD(model.parameters(), lr=0.1, eps=0.1)", ("SGD.eps",)),
        ({"create_optimizer_v2": {"opt": "adamw"}, "mixup": 1.0}, ("mixup",)),
        ({"opt": "adamw", "lr": 0.1, "mixup": 1.0, "opt_epz": 1}, ("mixup", "opt_epz")),
        (
            {"create_optimizer": {"opt": "sgd", "lr": 1, "weight_decay": 0, "momentum": 0, "x": 1}},
            ("create_optimizer.x",),
        ),
    ],
)
def test_what_is_not_mapped(config, unmapped):
    imported = from_timm(config)
    assert imported.unmapped == unmapped
    assert imported.spec.optimizer is not None
    with pytest.raises(SolverError, match="is not mapped"):
        from_timm(config, strict=True)


def test_functions_do_not_divide():
    spec = from_timm("create_optimizer_v2(model, 'sgd', weight_decay=0.1, param_group_fn=mine)").spec
    assert spec.rules == ()
    assert spec.optimizer.args["weight_decay"] == 0.1
    assert from_timm("create_optimizer_v2(model.parameters(), 'sgd', weight_decay=0.1)", strict=True).spec == spec


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (factory(opt="adamx"), r"create_optimizer_v2\.opt: timm has no such optimiser; got 'adamx'; did you mean"),
        (factory(opt=3), r"opt: must be a name"),
        (factory(opt="sgd", lr=-1), r"lr: must be at least 0"),
        (factory(opt="sgd", weight_decay=-1), r"weight_decay: must be at least 0"),
        (factory(opt="sgd", layer_decay=-0.5), r"layer_decay: must be at least 0"),
        (factory(opt="sgd", layer_decay=0.5, weight_decay=None), r"weight_decay: must be a number beside layer_decay"),
        (factory(opt="sgd", filter_bias_and_bn=1), r"filter_bias_and_bn: must be true or false"),
        ("AdamW(param_groups_weight_decay(m, no_weight_decay_list=skip), lr=1)", r"list: must be a list of names"),
        ("param_groups_weight_decay(model)", r"groups of parameters without an optimiser"),
        ({"param_groups_layer_decay": {}}, r"groups of parameters without an optimiser"),
        (
            {"param_groups_layer_decay": {}, "param_groups_weight_decay": {}, "optimizer": {"type": "SGD"}},
            r"divides the parameters twice",
        ),
        ("SGD(m.parameters(), lr=1)\nAdam(m.parameters())", r"must have one optimiser; got SGD, Adam"),
        (
            {"create_optimizer_v2": {}, "create_optimizer": {"opt": "sgd"}},
            r"must have one optimiser; got create_optimizer_v2 and",
        ),
        ({"create_optimizer": {"opt": "sgd"}}, r"create_optimizer\.lr: is missing"),
        ({"create_optimizer": {"lr": 1}}, r"create_optimizer\.opt: is missing"),
        ("create_optimizer(args, model)", r"takes its arguments from an object"),
        ({"optimizer": {"type": "Adamz", "lr": 1}}, r"optimizer: is not an optimiser of torch or timm; got 'Adamz'"),
        ({"opt": "sgd", "opt_eps": 1, "opt_kwargs": {"eps": 2}}, r"opt_kwargs\.eps: is given twice"),
        ({"opt": "sgd", "opt_kwargs": "nesterov"}, r"opt_kwargs: must be a mapping"),
        ({"opt": "sgd", "lr_base_size": 0.5}, r"lr_base_size: must be at least 1"),
        ("NAdamLegacy(m.parameters(), 0.1, (0.9, 0.9), 1, 2, 3, 4)", r"NAdamLegacy has too many arguments"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(SolverError, match=message):
        from_timm(config)


def test_the_names_that_the_model_lists_may_be_given_as_a_fact():
    model = nn.ModuleDict({"table": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    for names in (["table.weight"], []):
        spec = from_timm(factory(opt="adamw", weight_decay=0.05), facts={"no_weight_decay": names}).spec
        decays = {name: options["weight_decay"] for name, options in spec.plan(model, total_steps=3).parameters.items()}
        assert {name for name, decay in decays.items() if decay == 0} == {"table.bias", "head.bias", *names}
    with pytest.raises(SolverError, match=r"facts\.no_weight_decay: must be names; got 'table'"):
        from_timm(factory(opt="adamw", weight_decay=0.05), facts={"no_weight_decay": "table"})
