import copy
import io
import re

import pytest
import torch
from torch import nn

from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.schedules import Linear

ADAMW = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}


def net(**more):
    torch.manual_seed(3)
    return nn.ModuleDict({"stem": nn.Linear(3, 3), "norm": nn.LayerNorm(3), "head": nn.Linear(3, 3), **more})


def build(module, optimizer=ADAMW, **more):
    return SolverSpec(optimizer=optimizer, **more).plan(module, total_steps=10).build()[0]


def trained(module, optimizer, steps=2):
    """Steps with a gradient of its own for each tensor, so that no two states are alike."""
    for step in range(steps):
        for i, tensor in enumerate(module.parameters()):
            tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 * step + i))
        optimizer.step()
    return optimizer


def states(module, optimizer):
    """Parameter name -> its state in the optimiser."""
    return {name: optimizer.state[p] for name, p in module.named_parameters() if p in optimizer.state}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def saved(**spec):
    module = net()
    optimizer = trained(module, build(module, **spec))
    return optimizer.state_dict(), copy.deepcopy(states(module, optimizer))


LAYOUTS = {
    "same": {},
    "one group": {"default_rules": False},
    "split": {"rules": [Rule(match="head.*", lr_scale=0.5), Rule(kind="norm", lr_scale=0.25)]},
    "reordered": {"rules": [Rule(match="stem.weight", weight_decay=0.0), Rule(match="norm.*", weight_decay=0.1)]},
    "each alone": {
        "rules": [
            Rule(match=f"{n}.{p}", lr_scale=1 / (i + 2))
            for i, (n, p) in enumerate((n, p) for n in ("stem", "norm", "head") for p in ("weight", "bias"))
        ]
    },
}


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_each_tensor_keeps_its_moments_whatever_the_groups(before, after, caplog):
    state, moments = saved(**LAYOUTS[before])
    module = net()
    optimizer = build(module, **LAYOUTS[after])
    optimizer.load_state_dict(state)
    found = states(module, optimizer)
    assert found.keys() == moments.keys() == dict(module.named_parameters()).keys()
    for name in moments:
        assert same(found[name], moments[name]), name
    assert caplog.records == []


def test_layouts_differ():
    modules = {name: net() for name in LAYOUTS}
    shapes = {
        name: tuple(tuple(group["param_names"]) for group in build(modules[name], **LAYOUTS[name]).param_groups)
        for name in LAYOUTS
    }
    assert len(set(shapes.values())) == len(LAYOUTS)


def test_present_settings_win():
    state, _ = saved(rules=[Rule(match="head.*", lr_scale=0.5)])
    module = net()
    optimizer = build(
        module,
        {"name": "AdamW", "args": {"lr": 0.5, "weight_decay": 0.3, "betas": [0.5, 0.6]}},
        schedules={"lr": Linear(start=0.1)},
    )
    before = copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
    optimizer.load_state_dict(state)
    after = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    assert after == before
    assert {group["lr"] for group in after} == {0.05}


def test_training_goes_on_as_if_nothing_had_been_regrouped():
    module, other = net(), net()
    plain = trained(module, build(module, default_rules=False))
    other.load_state_dict(module.state_dict())
    # Groups that differ in a setting which changes no update, so that the numbers have to agree.
    regrouped = build(
        other, default_rules=False, rules=[Rule(match="head.*", set={"maximize": False, "foreach": False})]
    )
    assert len(regrouped.param_groups) == 2
    regrouped.load_state_dict(copy.deepcopy(plain.state_dict()))
    trained(module, plain)
    trained(other, regrouped)
    for (name, one), two in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7, msg=name)


def test_new_and_gone_parameters_are_reported(caplog):
    state, moments = saved()
    module = net(tail=nn.Linear(3, 1))
    del module["norm"]
    optimizer = build(module)
    optimizer.load_state_dict(state)
    found = states(module, optimizer)
    assert found.keys() == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert all(same(found[name], moments[name]) for name in found)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("lightning_solver", "WARNING")
    headline, *rest = record.message.splitlines()
    assert headline == "the checkpoint's optimiser state fits only some of the parameters:"
    assert sorted(rest) == [
        "  gone: norm.bias",
        "  gone: norm.weight",
        "  new, starts afresh: tail.bias",
        "  new, starts afresh: tail.weight",
    ]
    trained(module, optimizer)  # and the new ones do train
    assert states(module, optimizer)["tail.bias"]["step"] == 2


def test_state_of_another_shape_is_not_taken(caplog):
    state, moments = saved()
    module = net()
    module["head"] = nn.Linear(3, 7)
    optimizer = build(module)
    optimizer.load_state_dict(state)
    found = states(module, optimizer)
    assert found.keys() == {"stem.weight", "stem.bias", "norm.weight", "norm.bias"}
    assert all(same(found[name], moments[name]) for name in found)
    assert "head.weight" in caplog.text
    assert "head.bias" in caplog.text
    trained(module, optimizer)


def test_another_optimiser_starts_with_fresh_state(caplog):
    state, _ = saved()
    module = net()
    optimizer = build(module, {"name": "SGD", "args": {"lr": 0.1, "momentum": 0.9}})
    optimizer.load_state_dict(state)
    assert states(module, optimizer) == {}
    (record,) = caplog.records
    assert record.name == "lightning_solver"
    assert re.fullmatch(
        r"the checkpoint was written with torch\.optim\.\w+\.AdamW: torch\.optim\.\w+\.SGD starts with fresh state",
        record.message,
    )
    trained(module, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_state_of_an_optimiser_that_has_not_stepped(caplog):
    module = net()
    state = build(module).state_dict()
    optimizer = build(net())
    optimizer.load_state_dict(state)
    assert len(optimizer.state) == 0
    assert caplog.records == []


def test_state_without_names_is_refused():
    module = net()
    plain = trained(module, torch.optim.AdamW(module.parameters()))
    optimizer = build(net())
    message = "optimizer.param_groups[0]: the saved state does not say which parameter it belongs to; got keys "
    with pytest.raises(SolverError, match=re.escape(message)) as caught:
        optimizer.load_state_dict(plain.state_dict())
    assert str(caught.value).endswith("resume by the code that wrote it, or load the weights alone")


def test_state_with_torch_s_own_names_is_taken():
    module = net()
    plain = trained(module, torch.optim.AdamW(module.named_parameters()))
    other = net()
    optimizer = build(other)
    optimizer.load_state_dict(plain.state_dict())
    moments = states(module, plain)
    assert all(same(found, moments[name]) for name, found in states(other, optimizer).items())
    assert len(optimizer.state) == 6


def test_state_whose_parameters_are_names_is_taken():
    # Distributed checkpoints write the names in place of the numbers.
    state, moments = saved()
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_name = {
        "state": {names[numbers.index(number)]: value for number, value in state["state"].items()},
        "param_groups": [
            {key: value for key, value in group.items() if key != "param_names"} | {"params": group["param_names"]}
            for group in state["param_groups"]
        ],
    }
    module = net()
    optimizer = build(module, **LAYOUTS["split"])
    optimizer.load_state_dict(by_name)
    assert all(same(found, moments[name]) for name, found in states(module, optimizer).items())
    assert len(optimizer.state) == 6


def test_what_is_given_is_not_changed():
    state, _ = saved()
    before = copy.deepcopy(state)
    build(net(), **LAYOUTS["split"]).load_state_dict(state)
    assert state.keys() == before.keys()
    assert state["param_groups"] == before["param_groups"]
    assert all(same(state["state"][key], before["state"][key]) for key in before["state"])


def test_saved_state_loads_with_weights_only_and_names_its_class():
    state, _ = saved()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert all(cls.endswith(".AdamW") for cls in read["lightning_solver"]["classes"])
    module = net()
    optimizer = build(module)
    optimizer.load_state_dict(read)
    assert len(optimizer.state) == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moments_go_to_the_parameter_s_own_precision(dtype):
    # As torch's own load_state_dict does it.
    state, _ = saved()
    module = net().to(dtype)
    optimizer = build(module)
    optimizer.load_state_dict(state)
    assert {value["exp_avg"].dtype for value in optimizer.state.values()} == {dtype}


# ------------------------------------------------------------------ what an optimiser keeps in its groups


class Keeps(torch.optim.SGD):
    """Counts steps in its groups and adapts an argument of its own, as many optimisers of other packages do."""

    def __init__(self, params, lr: float = 0.1, d: float = 1e-6, scale: float = 1.0):
        super().__init__(params, lr=lr)
        for name, value in (("d", d), ("scale", scale)):
            self.defaults[name] = value
            for group in self.param_groups:
                group.setdefault(name, value)

    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            group["d"] = group["d"] * 2
        return super().step(closure)


def kept(rules=(), steps=0, **args):
    model = torch.nn.Linear(3, 2)
    block = {"optimizer": {"name": f"{__name__}.Keeps", "args": args}, "rules": list(rules), "default_rules": False}
    spec = SolverSpec.from_dict({**block, "schedules": {"lr": {"class_path": "Cosine"}}})
    optimizer, scheduler = spec.plan(model, total_steps=10).build()
    for _ in range(steps):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer


def test_what_the_class_keeps_in_its_groups_is_state():
    old = kept(steps=3)
    saved = io.BytesIO()
    torch.save(old.state_dict(), saved)
    saved.seek(0)
    new = kept()
    new.load_state_dict(torch.load(saved, weights_only=True))
    assert [(g["step"], g["d"], g["scale"]) for g in new.param_groups] == [(3, 8e-6, 1.0)]


def test_what_the_spec_says_now_wins_over_what_was_only_said_then():
    new = kept(scale=5.0)
    new.load_state_dict(kept(steps=3, scale=2.0).state_dict())
    assert [(g["step"], g["d"], g["scale"]) for g in new.param_groups] == [(3, 8e-6, 5.0)]


def test_split_groups_each_get_what_was_kept():
    new = kept([{"match": "bias", "lr_scale": 0.5}])
    new.load_state_dict(kept(steps=3).state_dict())
    assert [(g["step"], g["d"]) for g in new.param_groups] == [(3, 8e-6), (3, 8e-6)]


def test_merged_groups_that_kept_different_things_are_refused():
    old = kept([{"match": "bias", "set": {"d": 1e-3}}], steps=3)
    with pytest.raises(SolverError, match=r"group default: the optimiser kept different values of d .*8e-06.*0\.008"):
        kept().load_state_dict(old.state_dict())


def test_a_parameter_that_never_had_a_gradient_is_not_new(caplog):
    model = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)])
    spec = SolverSpec.from_dict({"optimizer": {"name": "AdamW"}})
    optimizer, _ = spec.plan(model, total_steps=3).build()
    model[0](torch.ones(3)).sum().backward()
    optimizer.step()
    again, _ = spec.plan(model, total_steps=3).build()
    with caplog.at_level("WARNING", "lightning_solver"):
        again.load_state_dict(optimizer.state_dict())
    assert caplog.text == ""


def test_a_rate_that_was_planned_anew_is_a_setting_and_no_state():
    model = torch.nn.Linear(3, 2)
    spec = SolverSpec.from_dict({"optimizer": {"name": "AdamW", "args": {"lr": 0.1}}})
    optimizer, scheduler = spec.plan(model, total_steps=3).build()
    scheduler.follow(spec.replace(lr=0.2).plan(model, total_steps=3))
    again, _ = spec.replace(lr=0.3).plan(model, total_steps=3).build()
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("name", "before", "after", "missing"),
    [
        ("AdamW", {}, {"amsgrad": True}, "max_exp_avg_sq"),
        ("RMSprop", {}, {"momentum": 0.9}, "momentum_buffer"),
        ("RMSprop", {}, {"centered": True}, "grad_avg"),
    ],
)
def test_state_that_present_options_need_and_the_checkpoint_lacks_starts_afresh(name, before, after, missing, caplog):
    def made(args):
        spec = SolverSpec(optimizer=OptimizerSpec(name, {"lr": 0.01, **args}), default_rules=False)
        return spec.plan(torch.nn.Linear(2, 2), total_steps=4).build()[0]

    first, second = made(before), made(after)
    for optimizer in (first, second):
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                tensor.grad = torch.ones_like(tensor)
    first.step()
    with caplog.at_level("WARNING", logger="lightning_solver"):
        second.load_state_dict(first.state_dict())
    assert f"weight ({missing}), starts afresh" in caplog.text
    second.step()
