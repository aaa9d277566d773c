"""The optimiser of a script gives every parameter what torch itself gives it when the script is run."""

import functools
import inspect
import json

import pytest
import torch
import yaml
from torch import nn, optim
from torch.optim import lr_scheduler

from lightning_solver import SolverError, SolverSpec
from lightning_solver.interop.torch import from_torch
from lightning_solver.interop.torch.optimizer_classes import OPTIMIZERS

EPOCH = {"step_on": "epoch"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        self.basement = nn.Linear(2, 2)
        self.classifier = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(()))


def net():
    model = Net()
    model.base[1].bias.requires_grad_(False)
    return model


def run_by_torch(script, model, **names):
    """What the script's optimiser holds for every parameter that requires a gradient."""
    known = {"model": model, "net": model, "optim": optim, "torch": torch, **vars(optim), **names}
    exec(script, known)
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        called[id(parameter)]: {
            key: value for key, value in group.items() if key not in ("params", "param_names", "name")
        }
        for group in known["optimizer"].param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }


def check(script, config=None, facts=None, model=None):
    """The plan holds what torch holds, and leaves out what torch leaves out; the spec is plain data."""
    model = model or net()
    expected = run_by_torch(script, model)
    imported = from_torch(script if config is None else config, facts=facts)
    plan = imported.spec.plan(model, total_steps=10, steps_per_epoch=1)
    assert plan.parameters.keys() == expected.keys()
    assert plan.left_out.keys() == dict(model.named_parameters()).keys() - expected.keys()
    for name, options in expected.items():
        held = plan.parameters[name]
        assert {key: value for key, value in options.items() if held[key] != value} == {}, name
    assert SolverSpec.from_dict(json.loads(json.dumps(imported.spec.to_dict()))) == imported.spec
    return imported


# ------------------------------------------------------------------ the snippets of the torch notes


def test_the_optimiser_of_the_notes():
    imported = check("optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)")
    assert imported.spec.to_dict()["optimizer"] == {"name": "SGD", "args": {"lr": 0.01, "momentum": 0.9}}
    assert imported.spec.rules == ()
    assert not imported.spec.default_rules
    assert imported.notes == imported.unmapped == ()


LOOP = """
for epoch in range(20):
    for input, target in dataset:
        optimizer.zero_grad()
        output = model(input)
        loss = loss_fn(output, target)
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize(
    ("schedulers", "lr"),
    [
        ("scheduler = ExponentialLR(optimizer, gamma=0.9)", lambda e: 0.01 * 0.9**e),
        (
            "scheduler1 = ExponentialLR(optimizer, gamma=0.9)\n"
            "scheduler2 = MultiStepLR(optimizer, milestones=[30,80], gamma=0.1)",
            lambda e: 0.01 * 0.9**e * 0.1 ** ((e >= 30) + (e >= 80)),
        ),
    ],
)
def test_the_scripts_of_the_notes(schedulers, lr):
    text = f"optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)\n{schedulers}\n{LOOP}"
    imported = from_torch(text, facts=EPOCH, strict=True)
    plan = imported.spec.plan(net(), total_steps=200, steps_per_epoch=2)
    assert plan.curve("lr")[:, 0] == pytest.approx([lr(step // 2) for step in range(200)], rel=1e-12)
    assert {values["momentum"] for values in plan.parameters.values()} == {0.9}


def test_the_averaging_script_of_the_notes_has_no_optimiser():
    text = (
        "loader, optimizer, model, loss_fn = ...\n"
        "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)\n"
        "swa_scheduler = SWALR(optimizer, swa_lr=0.05)\n"
    )
    assert from_torch({"schedulers": text, "swa_start": 160}, facts=EPOCH).spec.optimizer is None


NAMED = [
    *("Adadelta", "Adagrad", "Adam", "AdamW", "SparseAdam", "Adamax", "ASGD"),
    *("LBFGS", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD", "Adafactor", "Muon"),
]


def test_the_classes_and_their_arguments_are_those_of_torch():
    assert sorted(NAMED) == sorted(OPTIMIZERS)
    for name, arguments in OPTIMIZERS.items():
        if (cls := getattr(optim, name, None)) is not None:
            here = inspect.signature(cls).parameters
            assert [*here] == ["params", *(argument for argument in arguments.split() if argument in here)]


@pytest.mark.parametrize("name", NAMED)
def test_every_class_by_its_name(name):
    if not hasattr(optim, name):
        pytest.skip("not in this release")
    model = nn.Linear(3, 3, bias=False)
    imported = check(f"optimizer = torch.optim.{name}(model.parameters(), 0.02)", model=model)
    assert imported.spec.to_dict()["optimizer"] == {"name": name, "args": {"lr": 0.02}}


@pytest.mark.parametrize(
    "arguments",
    [
        "Adam(model.parameters(), 1e-4, (0.8, 0.99), 1e-6, 0.1, True)",
        "AdamW(model.parameters(), lr=1e-4, foreach=True, capturable=False, maximize=True)",
        "AdamW(model.parameters(), lr=torch.tensor(1e-4), fused=True)",
        "SGD(model.parameters(), 0.1, 0.9, 0, 1e-4, True, differentiable=True)",
        "RMSprop(model.parameters(), lr=0.1, centered=True, momentum=0.5)",
        "Adadelta(params=model.parameters(), rho=0.8)",
        "SGD(model.named_parameters(), lr=0.1, fused=None, foreach=False)",
        "SGD(list(model.parameters()), **{'lr': 0.5, 'momentum': 0.1})",
    ],
)
def test_arguments(arguments):
    check(f"optimizer = {arguments}")


# ------------------------------------------------------------------ groups

CASES = {
    "two modules, the rest in no group": """
optimizer = SGD([{"params": model.base.parameters(), "lr": 1e-2}, {"params": model.classifier.parameters()}],
                lr=1e-3, momentum=0.9)
""",
    "a variable for everything": """
lr = 1e-3
backbone = net.base
groups = [dict(params=backbone.parameters(), lr=lr / 10, name="backbone"), dict(params=net.classifier.parameters())]
optimizer = optim.AdamW(groups, lr=lr * 2, betas=(0.9, 0.95))
""",
    "decay and no decay by lists of names": """
no_decay = ["bias", "base.1.weight"]
decayed = [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)]
plain = [p for n, p in model.named_parameters() if any(nd in n for nd in no_decay)]
optimizer = AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=5e-5)
""",
    "the same by pairs": """
pairs = list(model.named_parameters())
no_decay = ("bias",)
optimizer = AdamW([
    {"params": [p for n, p in pairs if not any(nd in n for nd in no_decay)], "weight_decay": 0.01},
    {"params": [p for n, p in pairs if any(nd in n for nd in no_decay)], "weight_decay": 0.0},
], lr=5e-5)
""",
    "all but a module, by identity": """
ignored = list(map(id, model.classifier.parameters()))
rest = filter(lambda p: id(p) not in ignored, model.parameters())
optimizer = optim.Adam([{"params": rest}, {"params": model.classifier.parameters(), "lr": 0.1}], 1e-3)
""",
    "all but a module, by a set of identities": """
head = {id(p) for p in model.classifier.parameters()}
optimizer = optim.Adam([
    {"params": [p for p in model.parameters() if id(p) not in head]},
    {"params": [p for p in model.parameters() if id(p) in head], "betas": (0.5, 0.9)},
])
""",
    "by dimensions": """
decay = [p for n, p in model.named_parameters() if p.dim() >= 2]
nodecay = [p for n, p in model.named_parameters() if p.dim() < 2]
optimizer = AdamW([{"params": decay, "weight_decay": 0.1}, {"params": nodecay, "weight_decay": 0.0}], lr=6e-4)
""",
    "by dimensions and names": """
matrices = [p for n, p in model.named_parameters() if len(p.shape) == 2 and "base." in n]
vectors = [p for n, p in model.named_parameters() if p.ndim != 2 or "base." not in n]
optimizer = AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "lr": 0.5}], lr=6e-4)
""",
    "only what requires a gradient": "optimizer = SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)",
    "the same by a comprehension": "optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)",
    "the same by a generator": """
optimizer = SGD((p for n, p in model.named_parameters() if p.requires_grad and n.endswith("weight")), lr=0.1)
""",
    "nested modules, places and single tensors": """
optimizer = SGD(list(model.base[0].parameters()) + [model.scale, model.classifier.weight], lr=0.1)
""",
    "a stretch of modules": 'optimizer = SGD([{"params": model.base[:2].parameters(), "lr": 0.5}], lr=0.1)',
    "a name that begins like another": """
optimizer = SGD([{"params": model.base.parameters(), "lr": 0.5}, {"params": model.basement.parameters()}], lr=0.1)
""",
    "names within a module": """
optimizer = SGD([
    {"params": [p for n, p in model.base.named_parameters() if n.startswith("0")], "lr": 0.5},
    {"params": [p for n, p in model.base.named_parameters() if not n.startswith("0")], "momentum": 0.5},
], lr=0.1)
""",
    "whole names": """
last = ["classifier.weight", "classifier.bias"]
optimizer = SGD([
    {"params": [p for n, p in model.named_parameters() if n in last], "lr": 0.5},
    {"params": [p for n, p in model.named_parameters() if n not in last and n != "scale"]},
], lr=0.1)
""",
    "several in a chain": """
import itertools
optimizer = SGD(itertools.chain(model.base.parameters(), model.classifier.parameters()), lr=0.1)
""",
    "unpacked": "optimizer = SGD([*model.base.parameters(), *model.classifier.parameters()], lr=0.1)",
    "a group that is added": """
optimizer = SGD(model.base.parameters(), lr=0.1, weight_decay=1e-4)
optimizer.add_param_group({"params": model.classifier.parameters(), "lr": 0.2, "momentum": 0.5})
""",
    "lists that are joined": """
first = [{"params": model.base.parameters()}]
optimizer = SGD(first + [{"params": [model.scale], "weight_decay": 0.1}], lr=0.1)
""",
    "one that is on a device": "optimizer = SGD(model.cpu().base.parameters(), lr=0.1)",
}


@pytest.mark.parametrize("name", CASES)
def test_groups(name):
    imported = check(CASES[name])
    assert imported.unmapped == () or "itertools" in CASES[name]


def test_groups_as_rules():
    rules = from_torch(CASES["two modules, the rest in no group"]).spec.to_dict()["rules"]
    assert rules == [
        {"match": "classifier.*", "name": "in the script", "frozen": False},
        {
            "match": "*",
            "unless": {"match": ["base.*", "classifier.*"]},
            "name": "in no group",
            "frozen": True,
            "unmatched": "allow",
        },
        {"match": "base.*", "lr": 0.01},
    ]
    rules = from_torch(CASES["decay and no decay by lists of names"]).spec.to_dict()["rules"]
    globs = ["*bias*", "*base.1.weight*"]
    assert rules == [
        {"match": "*", "unless": {"match": globs}, "weight_decay": 0.01, "unmatched": "allow"},
        {"match": globs, "weight_decay": 0.0, "unmatched": "allow"},
    ]


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = net()
        self.classifier = nn.Linear(4, 2)  # of another model


@pytest.mark.parametrize(
    "script",
    [
        "SGD([{'params': model.base.parameters(), 'lr': 0.5}, {'params': model.classifier.parameters()}], lr=0.1)",
        "SGD([{'params': model.base.parameters()}, {'params': model.classifier.parameters(), 'lr': 0.5}], lr=0.1)",
        "SGD([{'params': [model.scale, *model.classifier.parameters()], 'lr': 0.5}], lr=0.1)",
        "SGD(model.base.parameters(), lr=0.1)",
        "SGD([p for n, p in model.base.named_parameters() if 'bias' in n], lr=0.1)",
        "ids = list(map(id, model.base.parameters()))\nSGD([p for p in model.parameters() if id(p) not in ids], lr=0.1)",
        optim.SGD([{"params": net().base.named_parameters("base"), "lr": 0.5}], lr=0.1),
    ],
    ids=str,
)
def test_names_of_a_script_have_to_be_those_of_the_module(script):
    imported = from_torch(script)
    imported.spec.plan(net(), total_steps=1)
    assert any("self.net, write net." in note for note in imported.notes)
    with pytest.raises(
        SolverError, match=r"rules\[[0-9]\]\.match: matches no parameter; got '(base.*|scale)'; nearest"
    ):
        imported.spec.plan(Holder(), total_steps=1)


@pytest.mark.parametrize(
    "script",
    [
        "SGD(self.base.parameters(), lr=0.1)",
        "SGD([{'params': [p for n, p in model.named_parameters() if 'bias' in n], 'lr': 0.5}], lr=0.1)",
        "SGD(model.parameters(), lr=0.1)",
    ],
)
def test_names_that_hold_wherever_the_model_is_are_not_noted(script):
    assert not any("self.net" in note for note in from_torch(script).notes)


def test_tests_on_names_may_select_nothing():
    script = "SGD([{'params': [p for n, p in m.named_parameters() if 'absent' in n], 'lr': 0.5}, "
    script += "{'params': [p for n, p in m.named_parameters() if 'absent' not in n]}], lr=0.1)"
    assert {rule.unmatched for rule in from_torch(script).spec.rules} == {"allow"}
    from_torch(script).spec.plan(net(), total_steps=1)


LOOPS = [
    "decay, no_decay = [], []\nfor n, p in model.named_parameters():\n    (no_decay if p.ndim < 2 else decay).append(p)\n",
    "decay = []\nno_decay = list()\nfor n, p in model.named_parameters():\n    if p.ndim < 2:\n"
    "        no_decay.append(p)\n    else:\n        decay += [p]\n",
]


@pytest.mark.parametrize("loop", LOOPS)
def test_groups_that_a_loop_fills_are_noted_with_their_rules(loop):
    script = loop + (
        "groups = [{'params': decay, 'weight_decay': 0.1}, {'params': no_decay, 'weight_decay': 0.0}]\n"
        "optimizer = AdamW(groups, lr=3e-4, betas=(0.9, 0.95))\nscheduler = CosineAnnealingLR(optimizer, T_max=10)\n"
    )
    imported = from_torch(script, facts=EPOCH)
    assert imported.spec.to_dict()["optimizer"] == {"name": "AdamW", "args": {"lr": 3e-4, "betas": [0.9, 0.95]}}
    assert imported.spec.schedules.keys() == {"lr"}
    assert imported.spec.rules == ()
    assert imported.unmapped == ("optimizer.params[0]", "optimizer.params[1]")
    rules = [yaml.safe_load(note[note.index("{") : note.index("}") + 1]) for note in imported.notes[:2]]
    assert rules == [{"match": "*", "weight_decay": 0.1}, {"ndim": [0, 1], "weight_decay": 0.0}]
    model = net()
    expected = run_by_torch(script.partition("scheduler")[0], model)
    plan = SolverSpec.from_dict({**imported.spec.to_dict(), "rules": rules}).plan(
        model, total_steps=10, steps_per_epoch=1
    )
    for name, options in expected.items():
        assert plan.parameters[name]["weight_decay"] == options["weight_decay"]
    with pytest.raises(SolverError, match=r"optimizer\.params\[0\]: is not mapped"):
        from_torch(script, facts=EPOCH, strict=True)


def test_groups_that_a_loop_makes_are_noted():
    loop = "groups = []\nfor b in model.blocks:\n    groups.append({'params': b.parameters(), 'lr': 0.5})\n"
    for made in ("groups", "groups + [{'params': model.base.parameters(), 'lr': 0.2}]"):
        imported = from_torch(
            f"{loop}optimizer = SGD({made}, lr=0.1)\nOneCycleLR(optimizer, [0.1, 0.1], total_steps=10)"
        )
        unmapped = "optimizer.params" if made == "groups" else "optimizer.params[0]"
        assert imported.unmapped == (unmapped,)
        assert any("a loop that fills it is not read; write its groups as rules" in note for note in imported.notes)
        assert [rule.lr for rule in imported.spec.rules] == ([] if made == "groups" else [0.2])
    with pytest.raises(
        SolverError, match="has a schedule of its own, and it cannot be told which parameters these are"
    ):
        from_torch(f"{loop}optimizer = SGD(groups, lr=0.1)\nOneCycleLR(optimizer, [0.1, 0.2], total_steps=10)")


@pytest.mark.parametrize(
    ("config", "unmapped", "note"),
    [
        ("SGD([{'params': a}, {'params': b, 'lr': 0.1}], lr=1)", [0, 1], "got b; write their rule, with their names"),
        (
            "SGD([{'params': [p for p in m.parameters() if f(p)], 'lr': 2}, {'params': m.x.parameters()}], lr=1)",
            [0],
            '{match: "head.*", lr: 2}',
        ),
        (
            "SGD([{'params': a, 'lr': 2, 'nesterov': True}, {'params': m.x.parameters(), 'lr': 3}], lr=1)",
            [0],
            '{match: "head.*", lr: 2, set: {nesterov: true}}',
        ),
        ("params = []\nfor p in model.parameters():\n    params.append(p)\nSGD(params, lr=0.1)", None, "a loop that"),
        ("ps = [m.a.weight]\nfor p in m.parameters():\n    ps.append(p)\nSGD(ps, lr=0.1)", None, "a loop that"),
        ("SGD(m.layers[-1].parameters(), lr=1)", None, "got -1; they get the optimiser's own values"),
        ("SGD(m.parameters(recurse=False), lr=1)", None, "got m.parameters(recurse=False)"),
        ("SGD((p for p in m.parameters() if not p.requires_grad), lr=1)", None, "got not p.requires_grad"),
        ({"type": "SGD", "lr": 1, "params": [{"params": ["a"], "lr": 0.1}]}, [0], '{match: "head.*", lr: 0.1}'),
    ],
)
def test_groups_that_cannot_be_told_are_noted(config, unmapped, note):
    imported = from_torch(config)
    owner = "config" if isinstance(config, dict) else "optimizer"
    paths = [f"{owner}.params"] if unmapped is None else [f"{owner}.params[{i}]" for i in unmapped]
    assert imported.unmapped == tuple(paths)
    assert any(note in text for text in imported.notes)
    assert imported.spec.optimizer.name == "SGD"
    assert not any(rule.frozen for rule in imported.spec.rules)
    with pytest.raises(SolverError, match="is not mapped"):
        from_torch(config, strict=True)


def test_a_group_keeps_its_name():
    plan = from_torch(CASES["a variable for everything"]).spec.plan(net(), total_steps=1)
    assert plan.parameters["base.0.weight"]["group"] == "backbone"


def test_a_name_that_a_comprehension_binds_is_not_the_variable_outside():
    check('n = 5\np = ["classifier"]\noptimizer = SGD([p for n, p in model.named_parameters() if "base" in n], lr=0.1)')


def test_the_wrapper_of_data_parallel_is_not_part_of_names():
    script = "optimizer = SGD([{'params': model.module.base.parameters(), 'lr': 0.5}], lr=0.1)"
    imported = from_torch(script)
    assert imported.spec.rules[-1].match == "base.*"
    assert any("module is taken to be the wrapper of DataParallel" in note for note in imported.notes)


def test_modules_of_several_names_are_attributes_of_one():
    imported = from_torch("optimizer = Adam(list(base.parameters()) + list(classifier.parameters()), lr=0.1)")
    plan = imported.spec.plan(net(), total_steps=1)
    assert {name.split(".")[0] for name in plan.parameters} == {"base", "classifier"}
    assert any("base, classifier are taken to be attributes" in note for note in imported.notes)


def test_a_tied_parameter_follows_its_first_name():
    model = net()
    model.classifier.weight = model.base[0].weight = nn.Parameter(torch.zeros(4, 4))
    script = """
head = {id(p) for p in model.base.parameters()}
optimizer = SGD([{"params": model.base.parameters(), "lr": 0.5},
                 {"params": [p for p in model.parameters() if id(p) not in head]}], lr=0.1)
"""
    expected = run_by_torch(script, model)
    plan = from_torch(script).spec.plan(model, total_steps=1)
    assert {name: held["lr"] for name, held in plan.parameters.items()} == {n: g["lr"] for n, g in expected.items()}
    assert plan.left_out["classifier.weight"] == "same tensor as base.0.weight"


# ------------------------------------------------------------------ schedulers of groups


TWO = (
    "optimizer = SGD([{'params': net.base.parameters()}, {'params': net.classifier.parameters(), 'lr': 0.2}], lr=0.5)\n"
)


@pytest.mark.parametrize(
    "scheduler",
    [
        "lr_scheduler.CyclicLR(optimizer, [0.01, 0.02], [0.3, 0.4], 4, base_momentum=[0.7, 0.8])",
        "lr_scheduler.OneCycleLR(optimizer, [0.3, 0.4], total_steps=40)",
        "lr_scheduler.StepLR(optimizer, 4)",
    ],
)
def test_lists_of_schedulers_go_by_the_groups_of_the_optimiser(scheduler):
    """Also where the plan has them in another order, or in one group."""
    script = TWO.replace("base", "other").replace("classifier", "base").replace("other", "classifier")
    script += f"scheduler = {scheduler}\n"
    model = net()
    names = {"lr_scheduler": lr_scheduler, "SGD": optim.SGD, "net": model}
    exec(script, names)
    plan = from_torch(script, facts={"step_on": "step"}).spec.plan(model, total_steps=40)
    owner = {"classifier": 0, "base": 1}
    columns = [owner[group.names[0].split(".")[0]] for group in plan.groups]
    assert columns == [1, 0]
    for step in range(40):
        held = names["optimizer"].param_groups
        assert plan.curve("lr")[step] == pytest.approx([held[i]["lr"] for i in columns], rel=1e-9, abs=1e-12)
        assert plan.curve("momentum")[step] == pytest.approx([held[i]["momentum"] for i in columns], rel=1e-9)
        names["optimizer"].step()
        names["scheduler"].step()


def test_a_list_must_fit_the_groups():
    script = TWO + "scheduler = CyclicLR(optimizer, [0.1, 0.2, 0.3], 0.4)"
    with pytest.raises(SolverError, match=r"base_lr: does not fit the number of groups; got 3 for 2 groups"):
        from_torch(script)


def test_the_class_of_the_optimiser_is_known_to_the_schedulers():
    with pytest.raises(SolverError, match="cycle_momentum: the optimiser has no momentum; got Adagrad"):
        from_torch("opt = Adagrad(model.parameters())\nOneCycleLR(opt, 0.1, total_steps=20)")


def test_the_rates_of_the_optimiser_are_known_to_the_schedulers():
    script = "opt = SGD(model.parameters(), lr=1e-6)\nCosineAnnealingLR(opt, T_max=20, eta_min=1e-5)"
    assert any("is above the rate 1e-06 of a group" in note for note in from_torch(script, facts=EPOCH).notes)


# ------------------------------------------------------------------ forms


def made(**options):
    return {"class_path": "torch.optim.SGD", "init_args": options}


@pytest.mark.parametrize(
    "config",
    [
        "SGD(model.parameters(), lr=0.1)",
        "torch.optim.SGD(params, 0.1)",
        "import torch.optim as to\nopt = to.SGD(self.parameters(), lr=0.1)",
        "from torch.optim import SGD as Opt\nopt = Opt(model.parameters(), lr=0.1)",
        "opt: SGD = torch.optim.sgd.SGD(model.parameters(), lr=0.1)",
        "make = partial(torch.optim.SGD, lr=0.1)",
        made(lr=0.1),
        made(lr="1e-1"),
        {"type": "SGD", "lr": 0.1},
        {"_target_": "torch.optim.SGD", "lr": 0.1},
        {"type": optim.SGD, "lr": 0.1},
        {"SGD": {"lr": 0.1}},
        {"optimizer": made(lr=0.1)},
        {"optimizer": "SGD(model.parameters(), lr=0.1)"},
        {"optimizer": ["SGD(model.parameters(), lr=0.1)"]},
        functools.partial(optim.SGD, lr=0.1),
        optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1),
    ],
    ids=str,
)
def test_forms(config):
    imported = from_torch(config)
    assert imported.spec.to_dict()["optimizer"] == {"name": "SGD", "args": {"lr": 0.1}}
    assert imported.spec.rules == ()
    assert imported.spec.tied == "first"
    assert imported.unmapped == ()


@pytest.mark.parametrize(
    "config",
    [
        "optimizer = SGD(model.parameters(), lr=0.1)\nscheduler = StepLR(optimizer, 3)",
        "[SGD(model.parameters(), lr=0.1), StepLR(optimizer, 3)]",
        ["SGD(model.parameters(), lr=0.1)", "StepLR(optimizer, 3)"],
        "StepLR(SGD(model.parameters(), lr=0.1), 3)",
        {"optimizer": made(lr=0.1), "lr_scheduler": {"class_path": "StepLR", "init_args": {"step_size": 3}}},
        {"optimizer": "SGD(model.parameters(), lr=0.1)", "lr_scheduler": {"scheduler": "StepLR(optimizer, 3)"}},
        {"optimizer": made(lr=0.1), "schedulers": ["StepLR(optimizer, 3)"], "step_on": "epoch"},
    ],
    ids=str,
)
def test_forms_beside_a_scheduler(config):
    written = from_torch(config, facts=EPOCH, strict=True).spec.to_dict()
    assert written["optimizer"] == {"name": "SGD", "args": {"lr": 0.1}}
    assert written["schedules"] == {"lr": {"class_path": "Step", "init_args": {"every": "3ep"}}}


@pytest.mark.parametrize("suffix", ["py", "yaml"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"train.{suffix}"
    text = CASES["a variable for everything"]
    path.write_text(text if suffix == "py" else yaml.safe_dump({"optimizer": made(lr=0.1)}))
    expected = from_torch(text if suffix == "py" else made(lr=0.1)).spec
    assert from_torch(path).spec == from_torch(str(path)).spec == expected


def test_only_a_scheduler_gives_no_optimiser():
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for config in ("StepLR(optimizer, 3)", lr_scheduler.StepLR(optimizer, 3)):
        spec = from_torch(config, facts=EPOCH).spec
        assert spec.optimizer is None
        assert spec.rules == ()


# ------------------------------------------------------------------ optimisers themselves


def groups_of(model):
    return [
        {"params": list(model.base.named_parameters("base")), "lr": 0.5, "name": "body"},
        {"params": list(model.classifier.named_parameters("classifier")), "betas": (0.5, 0.6), "mine": 3},
    ]


def test_an_optimiser_itself_gives_what_it_holds():
    model = net()
    optimizer = optim.AdamW(groups_of(model), lr=0.1, amsgrad=True)
    imported = from_torch(optimizer)
    assert imported.spec.to_dict()["optimizer"] == {"name": "AdamW", "args": {"lr": 0.1, "amsgrad": True}}
    plan = imported.spec.plan(model, total_steps=1)
    held = {name: (v["lr"], v["betas"], v["amsgrad"], v["group"]) for name, v in plan.parameters.items()}
    assert held["base.0.weight"] == (0.5, (0.9, 0.999), True, "body")
    assert held["classifier.bias"][:3] == (0.1, (0.5, 0.6), True)
    assert plan.left_out.keys() == {"base.1.bias", "basement.weight", "basement.bias", "scale"}
    assert "config.param_groups[1].mine: is not used by AdamW" in imported.notes


def test_an_optimiser_whose_rate_a_scheduler_has_changed_gives_the_first_rate():
    model = net()
    optimizer = optim.AdamW(groups_of(model), lr=0.1)
    scheduler = lr_scheduler.LinearLR(optimizer, 0.25, total_iters=4)
    imported = from_torch([optimizer, scheduler], facts={"step_on": "step"})
    plan = imported.spec.plan(model, total_steps=6)
    for step in range(6):
        assert plan.curve("lr")[step] == pytest.approx([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()


def test_an_optimiser_without_names_of_parameters():
    model = net()
    imported = from_torch(optim.SGD(model.parameters(), lr=0.1))
    assert "taken to be all of the module's" in imported.notes[0]
    optimizer = optim.SGD([{"params": model.base.parameters()}, {"params": model.classifier.parameters()}], lr=0.1)
    imported = from_torch(optimizer)
    assert imported.unmapped == ("config.param_groups[0]", "config.param_groups[1]")
    assert all("have no names, unless the optimiser is made over model.named_parameters()" in n for n in imported.notes)
    assert imported.spec.rules == ()


def test_an_optimiser_that_has_made_steps_is_noted():
    model = net()
    optimizer = optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    model.scale.grad = torch.ones(())
    optimizer.step()
    assert any("its state is not carried over" in note for note in from_torch(optimizer).notes)


def test_names_with_wildcards_are_meant_as_they_are():
    model = nn.ParameterDict({"a*": nn.Parameter(torch.zeros(1)), "ab": nn.Parameter(torch.zeros(1))})
    optimizer = optim.SGD([{"params": [("a*", model["a*"])], "lr": 0.5}, {"params": [("ab", model["ab"])]}], lr=0.1)
    plan = from_torch(optimizer).spec.plan(model, total_steps=1)
    assert {name: held["lr"] for name, held in plan.parameters.items()} == {"a*": 0.5, "ab": 0.1}


# ------------------------------------------------------------------ notes


@pytest.mark.parametrize(
    ("config", "unmapped", "note"),
    [
        ("Adam([var1, var2], lr=0.0001)", "optimizer.params", "[var1, var2] is taken to stand for all"),
        ("SGD(get_params(model), lr=0.1)", "optimizer.params", "get_params(model) is taken to stand for all"),
        ("opt = SGD(model.parameters(), lr=0.1, momentm=0.9)", "opt.momentm", "did you mean momentum"),
        (
            "SGD([{'params': model.parameters(), 'lr_mult': 2}], lr=0.1)",
            "optimizer.params[0].lr_mult",
            "SGD has no such argument",
        ),
        ({"type": "SGD", "lr": 0.1, "nesterof": True}, "config.nesterof", "did you mean nesterov"),
        ({"type": "SGD", "lr": 0.1, "params": ["a"]}, "config.params", "taken to be all parameters"),
        ("SGD(model.parameters(), lr=1)\nopt = Lion(model.parameters(), lr=1)", "opt", "Lion is no optimiser of torch"),
        (
            "optimizer = SGD(model.parameters(), lr=1)\noptimizer.param_groups[0]['lr'] = 3",
            "optimizer.param_groups[0]['lr'] = 3",
            "give the groups their values where the optimiser is made",
        ),
        ("ema = EMA(model.parameters(), 0.9)\nopt = SGD(model.parameters(), lr=1)", "ema: EMA", "is not part of"),
    ],
)
def test_what_is_not_mapped_is_noted(config, unmapped, note):
    imported = from_torch(config)
    assert imported.unmapped == (unmapped,)
    assert any(text.startswith(f"{unmapped}: ") and note in text for text in imported.notes)
    assert imported.spec.optimizer is not None
    with pytest.raises(SolverError, match="is not mapped"):
        from_torch(config, strict=True)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("SGD(params, lr=0.1)", "params is taken to stand for all parameters of the module"),
        ("SGD(filter(lambda p: p.requires_grad, model.parameters()), 0.1)", "frozen parameters are left out"),
        ("SGD(model.head.parameters(), lr=0.1)", "parameters in no group are left out of the optimiser"),
    ],
)
def test_what_is_odd_is_noted(text, note):
    imported = from_torch(text, strict=True)
    assert any(note in text for text in imported.notes)


def test_an_optimiser_of_another_package_is_named_by_its_path():
    text = "import bitsandbytes as bnb\nopt = bnb.optim.AdamW8bit(model.parameters(), lr=0.1, percentile=95)"
    spec = from_torch(text, strict=True).spec
    assert spec.to_dict()["optimizer"] == {
        "name": "bitsandbytes.optim.AdamW8bit",
        "args": {"lr": 0.1, "percentile": 95},
    }
    text = "from timm.optim import Lamb\noptimizer = Lamb([{'params': m.a.parameters(), 'x': 2, 'name': 'a'}], lr=0.1)"
    spec = from_torch(text, strict=True).spec
    assert spec.optimizer.name == "timm.optim.Lamb"
    assert (spec.rules[-1].set, spec.rules[-1].name) == ({"x": 2}, "a")
    assert from_torch({"class_path": "torch.optim.SGD"}).spec.optimizer.name == "SGD"


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "a = SGD(g.parameters(), lr=0.1)\nb = SGD(d.parameters(), lr=0.1)",
            "has several optimisers; got a (SGD) and b (SGD); drop b with its schedulers from the config and import a, "
            "then the other way round; a mapping of names to solvers trains them all, solver = {a: ..., b: ...}",
        ),
        (["SGD(params, lr=0.1)", "Adam(params)"], "has several optimisers"),
        (
            "SGD([{'params': model.parameters()}, {'params': model.head.parameters(), 'lr': 0.1}], lr=1)",
            "optimizer.params[1]: has parameters of optimizer.params[0]; got head.*",
        ),
        ("SGD([{'params': m.a.parameters()}, {'params': m.a.b.parameters()}], lr=1)", "got a.b.*"),
        ("SGD(model.parameters(), lr=args.lr)", "optimizer.lr: is not a literal; got args.lr"),
        ("SGD(model.parameters(), lr=0.1, **extra)", "has arguments that are not literals; got **extra"),
        ("Adam(model.parameters(), betas=(args.b1, 0.9))", "optimizer.betas: is not a literal"),
        ("SGD([{'params': m.a.parameters(), 'lr': args.lr}], lr=1)", "lr: is not a literal; got args.lr"),
        ("SGD([{'params': m.parameters(), **more}], lr=1)", "has a key that is not a text"),
        ("SGD([{'lr': 0.5}], lr=1)", "has a group without params"),
        ("SGD([{'params': m.a.parameters()}, m.b.weight], lr=1)", "has groups beside parameters"),
        ("SGD(lr=0.1)", "optimizer.params: is missing"),
        ("SGD(model.parameters(), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)", "SGD has too many arguments"),
        ("import x\no = x.optim.Foo(m.parameters(), 0.1)", "the arguments of x.optim.Foo have no names; got 0.1"),
        ("opt = Lion(model.parameters(), lr=0.1)", "has no scheduler or optimiser of torch"),
        ("x = f(3)", "has no scheduler or optimiser of torch"),
    ],
)
def test_refused(config, message):
    with pytest.raises(SolverError) as error:
        from_torch(config)
    assert message in str(error.value)


def test_nothing_of_a_script_is_executed(tmp_path):
    path = tmp_path / "touched"
    text = f"optimizer = SGD(model.parameters(), lr=0.1 if open({str(path)!r}, 'w') else 1)"
    with pytest.raises(SolverError, match="is not a literal"):
        from_torch(text)
    assert not path.exists()


def test_a_script_that_doubles_a_list_again_and_again_is_read_in_time():
    text = "a = [1, 2]\n" + "a = [a, a]\n" * 60 + "optimizer = SGD(model.parameters(), lr=0.1)"
    assert from_torch(text).spec.optimizer.args == {"lr": 0.1}
