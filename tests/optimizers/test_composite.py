import copy
import io
import logging
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import profile

from lightning_solver import SolverError
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.implementation import keep_layout
from lightning_solver.real_steps import RealSteps
from lightning_solver.resume import carry_state_by_name
from small import loader, trainer

if hasattr(torch.optim, "Muon"):
    Muon = torch.optim.Muon
else:  # before torch 2.9

    class Muon(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr, momentum=0.95)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def named(model, *names):
    found = dict(model.named_parameters())
    return {"params": [found[name] for name in names], "param_names": list(names), "name": "+".join(names)}


def muon_and_adamw(model):
    return {
        "matrices": Muon([named(model, "0.weight", "2.weight")], lr=0.05),
        "rest": torch.optim.AdamW([named(model, "0.bias"), named(model, "2.bias") | {"lr": 0.2}], lr=0.1, fused=True),
    }


def sgd_and_adagrad(model):
    return {
        "a": torch.optim.SGD([named(model, "0.weight")], lr=0.05, momentum=0.9),
        "b": torch.optim.Adagrad([named(model, "0.bias", "2.weight", "2.bias")], lr=0.1),
    }


def two_alike(model):
    return {
        "a": torch.optim.Adam([named(model, "0.weight", "2.bias")], lr=0.05, amsgrad=True),
        "b": torch.optim.Adam([named(model, "0.bias", "2.weight")], lr=0.1),
    }


MEMBERS = [muon_and_adamw, sgd_and_adagrad, two_alike]


def composite(make, model):
    return CompositeOptimizer(make(model))


def backward(model, step):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = (model(x) - x[:, :2]).square().mean()
    loss.backward()
    return loss


def steps(model, optimizers, count, start=0):
    for step in range(start, start + count):
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(model, step)
        for optimizer in optimizers:
            optimizer.step()


def same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("make", MEMBERS)
def test_it_steps_as_its_members_do(make):
    ours, theirs = net(), net()
    steps(ours, [composite(make, ours)], 4)
    steps(theirs, make(theirs).values(), 4)
    same(ours, theirs)


def test_its_groups_are_those_of_its_members():
    members = muon_and_adamw(net())
    optimizer = CompositeOptimizer(members)
    own = [*members["matrices"].param_groups, *members["rest"].param_groups]
    assert all(a is b for a, b in zip(optimizer.param_groups, own))
    optimizer.param_groups[2]["lr"] = 0.7
    assert members["rest"].param_groups[1]["lr"] == 0.7
    members["matrices"].param_groups[0]["lr"] = 0.6
    assert optimizer.param_groups[0]["lr"] == 0.6


def test_its_state_is_that_of_its_members():
    model = net()
    members = muon_and_adamw(model)
    optimizer = CompositeOptimizer(members)
    steps(model, [optimizer], 1)
    assert all(member.state is optimizer.state for member in members.values())
    assert set(optimizer.state) == set(model.parameters())
    assert set(optimizer.state[model[0].weight]) == {"momentum_buffer"}
    assert set(optimizer.state[model[0].bias]) == {"step", "exp_avg", "exp_avg_sq"}


def test_groups_in_another_order():
    model = net()
    members = muon_and_adamw(model)
    groups = [*members["rest"].param_groups, *members["matrices"].param_groups]
    order = [groups[1], groups[2], groups[0]]
    optimizer = CompositeOptimizer(members, order)
    assert [group["name"] for group in optimizer.param_groups] == ["2.bias", "0.weight+2.weight", "0.bias"]
    steps(model, [optimizer], 2)
    saved = copy.deepcopy(optimizer.state_dict())  # loading shares tensors with what is loaded
    other = net()
    members = muon_and_adamw(other)
    groups = [*members["rest"].param_groups, *members["matrices"].param_groups]
    again = CompositeOptimizer(members, [groups[1], groups[2], groups[0]])
    again.load_state_dict(saved)
    other.load_state_dict(model.state_dict())
    assert [group["lr"] for group in members["rest"].param_groups] == [0.1, 0.2]
    steps(model, [optimizer], 2, start=2)
    steps(other, [again], 2, start=2)
    same(model, other)


def test_an_order_that_is_not_theirs():
    members = muon_and_adamw(net())
    groups = [group for member in members.values() for group in member.param_groups]
    for order in ([], groups[:2], [*groups, groups[0]], [dict(group) for group in groups]):
        with pytest.raises(
            SolverError, match=r"order: must hold the groups of the members; got \d groups, of which \d"
        ):
            CompositeOptimizer(members, order)


def test_no_members():
    with pytest.raises(SolverError, match="optimizer: a composite needs members"):
        CompositeOptimizer({})


def test_a_parameter_in_two_members():
    model = net()
    members = {
        "a": torch.optim.SGD([named(model, "0.weight", "0.bias")], lr=0.1),
        "b": torch.optim.Adam([named(model, "2.bias"), named(model, "0.bias")]),
    }
    with pytest.raises(SolverError, match=r"member b: has a parameter that a has too; got 0.bias; give each parameter"):
        CompositeOptimizer(members)
    unnamed = {name: torch.optim.SGD([model[0].bias], lr=0.1) for name in "ab"}
    with pytest.raises(SolverError, match=r"member b: has a parameter that a has too; got of shape \[6\]"):
        CompositeOptimizer(unnamed)


def test_state_that_members_bring_along():
    model = net()
    members = muon_and_adamw(model)
    steps(model, members.values(), 2)
    other = copy.deepcopy((model, members))
    steps(model, [CompositeOptimizer(members)], 2, start=2)
    steps(other[0], other[1].values(), 2, start=2)
    same(model, other[0])


def test_state_under_a_key_of_two_members():
    model = net()
    members = two_alike(model)
    for member in members.values():
        member.state["total"] = 1
    with pytest.raises(SolverError, match=r"member b: keeps state under a key that another one uses; got \['total'\]"):
        CompositeOptimizer(members)


# ------------------------------------------------------------------ closures


def test_the_closure_is_called_once_with_gradients():
    model = net()
    optimizer, seen = composite(muon_and_adamw, model), []

    def closure():
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        return backward(model, 0)

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert seen == [True]
    assert loss.item() > 0
    assert optimizer.step() is None


def lbfgs(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)


def test_a_member_that_needs_its_closure_several_times_must_be_alone():
    model = net()
    members = {
        "a": torch.optim.LBFGS([model[0].weight]),
        "b": torch.optim.SGD([model[0].bias], lr=0.1),
    }
    message = (
        "member a: LBFGS evaluates its closure several times a step, in which no other can join; use it as the only"
    )
    with pytest.raises(SolverError, match=message):
        CompositeOptimizer(members)


def test_it_may_be_the_only_one():
    ours, theirs = net(), net()
    for model, optimizer in ((ours, CompositeOptimizer({"all": lbfgs(ours)})), (theirs, lbfgs(theirs))):

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            return backward(model, 0)

        assert optimizer.step(closure).item() > 0
    same(ours, theirs)
    with pytest.raises(SolverError, match=r"optimizer\.step: LBFGS needs a closure; got None; pass one: under fp16"):
        CompositeOptimizer({"all": lbfgs(net())}).step()


# ------------------------------------------------------------------ what others see


def test_hooks_run_once_a_step():
    model, seen = net(), []
    members = muon_and_adamw(model)
    optimizer = CompositeOptimizer(members)
    optimizer.register_step_pre_hook(lambda one, *_: seen.append(("before", type(one).__name__)))
    optimizer.register_step_post_hook(lambda one, *_: seen.append(("after", type(one).__name__)))
    members["matrices"].register_step_pre_hook(lambda one, *_: seen.append(("before", type(one).__name__)))
    members["rest"].register_step_post_hook(lambda one, *_: seen.append(("after", type(one).__name__)))
    handles = [
        register_optimizer_step_pre_hook(lambda one, *_: seen.append(("any before", type(one).__name__))),
        register_optimizer_step_post_hook(lambda one, *_: seen.append(("any after", type(one).__name__))),
    ]
    try:
        steps(model, [optimizer], 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [
        ("any before", "CompositeOptimizer"),
        ("before", "CompositeOptimizer"),
        ("before", "Muon"),
        ("after", "AdamW"),
        ("after", "CompositeOptimizer"),
        ("any after", "CompositeOptimizer"),
    ]


def test_a_pre_hook_of_a_member_may_change_what_its_step_is_given():
    model, seen = net(), []
    member = torch.optim.SGD(model.parameters(), lr=0.1)
    member.register_step_pre_hook(lambda one, args, kwargs: ((one, lambda: seen.append("closure")), kwargs))
    CompositeOptimizer({"all": member}).step()
    assert seen == ["closure"]


def test_a_step_that_somebody_has_put_on_a_member_is_the_one_that_runs():
    model, seen = net(), []
    members = muon_and_adamw(model)
    plain = members["rest"].step
    members["rest"].step = lambda: (seen.append("wrapped"), plain())
    steps(model, [CompositeOptimizer(members)], 2)
    assert seen == ["wrapped", "wrapped"]


def test_the_profiler_tells_the_members_apart():
    model = net()
    optimizer = composite(muon_and_adamw, model)
    steps(model, [optimizer], 1)
    with profile() as found:
        steps(model, [optimizer], 1, start=1)
    counts = {event.key: event.count for event in found.key_averages() if event.key.startswith("Optimizer.step#")}
    assert counts == {
        "Optimizer.step#CompositeOptimizer.step": 1,
        "Optimizer.step#Muon.step": 1,
        "Optimizer.step#AdamW.step": 1,
    }


def test_real_steps_are_counted():
    model = net()
    optimizer = composite(muon_and_adamw, model)
    watch = RealSteps(optimizer)
    optimizer.step()
    assert not watch.take()
    steps(model, [optimizer], 1)
    assert watch.take()


def test_gradients_are_dropped():
    model = net()
    optimizer = composite(muon_and_adamw, model)
    backward(model, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(not one.grad.any() for one in model.parameters())
    optimizer.zero_grad()
    assert all(one.grad is None for one in model.parameters())


def test_schedulers_of_torch():
    model = net()
    members = muon_and_adamw(model)
    optimizer = CompositeOptimizer(members)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(2):
        steps(model, [optimizer], 1, start=step)
        scheduler.step()
    assert members["rest"].param_groups[1]["lr"] == pytest.approx(0.2 / 3)
    assert scheduler.get_last_lr() == pytest.approx([0.05 / 3, 0.1 / 3, 0.2 / 3])


def test_the_options_that_all_members_have_are_its_defaults():
    same_betas = CompositeOptimizer(two_alike(net()))
    assert same_betas.defaults["betas"] == (0.9, 0.999)
    assert "lr" not in same_betas.defaults
    assert "amsgrad" not in same_betas.defaults
    OneCycleLR(same_betas, max_lr=0.1, total_steps=10)  # which asks for betas there


def test_no_groups_are_added_later():
    model = net()
    optimizer = composite(muon_and_adamw, model)
    with pytest.raises(SolverError, match="optimizer: no group can be added to several optimisers at once; put every"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert len(optimizer.param_groups) == 3


class Switching(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.modes = []

    def train(self):
        self.modes.append("train")

    def eval(self):
        self.modes.append("eval")


def test_modes_are_passed_on_to_members_that_have_them():
    model = net()
    members = {
        "a": Switching([model[0].weight], lr=0.1),
        "b": torch.optim.SGD([model[0].bias], lr=0.1),
        "c": Switching([model[2].bias], lr=0.1),
    }
    optimizer = CompositeOptimizer(members)
    optimizer.train()
    optimizer.eval()
    assert members["a"].modes == members["c"].modes == ["train", "eval"]


def test_modes_are_not_there_if_no_member_has_them():
    optimizer = composite(muon_and_adamw, net())
    assert not hasattr(optimizer, "train")
    assert not hasattr(optimizer, "eval")
    with pytest.raises(AttributeError, match="CompositeOptimizer has no attribute trian"):
        optimizer.trian  # noqa: B018


def test_a_loss_scaler_unscales_before_the_step():
    ours, theirs = net(), net()
    optimizer = composite(muon_and_adamw, ours)
    assert optimizer._step_supports_amp_scaling is False
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plain = list(muon_and_adamw(theirs).values())
    for step in range(4):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        broken = step == 1
        scaler.scale((ours(x) - x[:, :2]).square().mean() * (float("nan") if broken else 1.0)).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(ours.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        if not broken:
            for one in plain:
                one.zero_grad()
            backward(theirs, step)
            assert float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)) == pytest.approx(float(norm))
            for one in plain:
                one.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ saving


@pytest.mark.parametrize("make", MEMBERS)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_resumed_run_goes_on_bit_by_bit(make, by_name):
    straight = net()
    steps(straight, [composite(make, straight)], 5)
    first = net()
    optimizer = composite(make, first)
    if by_name:
        carry_state_by_name(optimizer, lambda: (optimizer.param_groups, set(), ()))
    steps(first, [optimizer], 2)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = net()
    second.load_state_dict(saved["model"])
    members = make(second)
    resumed = CompositeOptimizer(members)
    if by_name:
        carry_state_by_name(resumed, lambda: (resumed.param_groups, set(), ()))
    resumed.load_state_dict(saved["optimizer"])
    own = [group for member in members.values() for group in member.param_groups]
    assert all(a is b for a, b in zip(resumed.param_groups, own))
    assert all(member.state is resumed.state for member in members.values())
    assert all("member_class" not in group for group in resumed.param_groups)
    steps(second, [resumed], 3, start=2)
    same(straight, second)


def test_what_older_versions_of_a_class_did_not_save_is_filled_in():
    model = net()
    optimizer = composite(muon_and_adamw, model)
    steps(model, [optimizer], 1)
    saved = optimizer.state_dict()
    for group in saved["param_groups"][1:]:
        del group["maximize"], group["capturable"]
    for state in list(saved["state"].values())[2:]:
        state["step"] = 1.0
    members = muon_and_adamw(model)
    CompositeOptimizer(members).load_state_dict(saved)
    assert members["rest"].param_groups[0]["maximize"] is False
    assert isinstance(members["rest"].state[model[0].bias]["step"], torch.Tensor)


def test_members_are_told_when_state_has_been_loaded():
    model, seen = net(), []
    members = muon_and_adamw(model)
    optimizer = CompositeOptimizer(members)
    steps(model, [optimizer], 1)
    members["rest"].register_load_state_dict_post_hook(lambda one: seen.append(len(one.state)))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert seen == [4]


def test_loaded_state_of_a_fused_member_is_laid_out_as_its_parameters():
    def made(model):
        fused = torch.optim.Adam([model[0].weight], lr=0.1, fused=True)
        keep_layout(fused)
        return CompositeOptimizer({"a": fused, "b": torch.optim.SGD([model[0].bias], lr=0.1)})

    first = nn.Sequential(nn.Conv2d(3, 4, 3))
    optimizer = made(first)
    first(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)
    resumed = made(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    moment = resumed.state[second[0].weight]["exp_avg"]
    assert moment.stride() == second[0].weight.stride() != first[0].weight.stride()
    assert torch.equal(moment, optimizer.state[first[0].weight]["exp_avg"])


def swapped(model):
    return {
        "matrices": Muon([named(model, "2.weight")], lr=0.05),
        "rest": torch.optim.AdamW([named(model, "0.weight"), named(model, "0.bias", "2.bias")], lr=0.1),
    }


def test_a_parameter_that_another_class_steps_now_starts_afresh(caplog):
    model = net()
    optimizer = composite(muon_and_adamw, model)
    steps(model, [optimizer], 2)
    saved = optimizer.state_dict()
    again = composite(swapped, model)
    carry_state_by_name(again, lambda: (again.param_groups, set(), ()))
    with caplog.at_level(logging.WARNING, logger="lightning_solver"):
        again.load_state_dict(saved)
    assert "parameters that another optimiser steps now start afresh:" in caplog.text
    assert f"0.weight: {Muon.__module__}.Muon -> torch.optim.adamw.AdamW" in caplog.text
    assert "2.weight" not in caplog.text
    assert model[0].weight not in again.state
    assert set(again.state[model[2].weight]) == {"momentum_buffer"}
    assert again.state[model[2].bias]["step"] == 2
    steps(model, [again], 1, start=2)
    assert set(again.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}


def test_without_names_places_tell_the_parameters_apart():
    def members(model, first):
        return {
            "a": first([model[0].weight, model[0].bias], lr=0.1),
            "b": torch.optim.Adam([model[2].weight, model[2].bias], lr=0.1),
        }

    model = net()
    optimizer = CompositeOptimizer(members(model, torch.optim.Adagrad))
    steps(model, [optimizer], 1)
    again = CompositeOptimizer(members(model, torch.optim.RMSprop))
    again.load_state_dict(optimizer.state_dict())
    assert set(again.state) == {model[2].weight, model[2].bias}
    again = CompositeOptimizer(members(model, torch.optim.Adagrad))
    again.load_state_dict(optimizer.state_dict())
    assert set(again.state) == set(model.parameters())


def test_the_state_of_a_single_optimiser_is_taken_by_place():
    model = net()
    plain = torch.optim.Adam(model.parameters(), lr=0.1)
    steps(model, [plain], 1)
    optimizer = CompositeOptimizer({"all": torch.optim.Adam(model.parameters(), lr=0.3)})
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.state[model[0].bias]["step"] == 1
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("make", MEMBERS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_keep_what_is_shared(make, how):
    model = net()
    optimizer = composite(make, model)
    steps(model, [optimizer], 2)
    pair = (model, optimizer)
    other, copied = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert list(copied.members) == list(optimizer.members)
    own = [group for member in copied.members.values() for group in member.param_groups]
    assert all(a is b for a, b in zip(copied.param_groups, own))
    assert all(member.state is copied.state for member in copied.members.values())
    assert set(copied.state) == set(other.parameters())
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, [optimizer], 2, start=2)
    steps(other, [copied], 2, start=2)
    same(model, other)


@pytest.mark.parametrize("make", MEMBERS)
@pytest.mark.parametrize("full", [True, False])
def test_distributed_state_dicts(make, full):
    model, options = net(), StateDictOptions(full_state_dict=full)
    optimizer = composite(make, model)
    steps(model, [optimizer], 2)
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    assert saved["param_groups"][0]["params"] == optimizer.param_groups[0]["param_names"]
    other = net()
    other.load_state_dict(model.state_dict())
    again = composite(make, other)
    carry_state_by_name(again, lambda: (again.param_groups, set(), ()))
    set_optimizer_state_dict(other, again, copy.deepcopy(saved), options=options)
    assert all("member_class" not in group for group in again.param_groups)
    steps(model, [optimizer], 2, start=2)
    steps(other, [again], 2, start=2)
    same(model, other)


# ------------------------------------------------------------------ Lightning


class Fitted(LightningModule):
    def __init__(self):
        super().__init__()
        seed_everything(0, verbose=False)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        self.seen = []

    def training_step(self, batch, batch_idx):
        assert isinstance(self.optimizers(), LightningOptimizer)
        assert isinstance(self.optimizers(), CompositeOptimizer)
        self.seen.append([group["lr"] for group in self.optimizers().param_groups])
        return (self.net(batch) - batch[:, :2]).square().mean()

    def configure_optimizers(self):
        names = ["0.weight", "2.weight"]
        muon = Muon([named(self.net, *names)], lr=0.05)
        adamw = torch.optim.AdamW([named(self.net, "0.bias", "2.bias")], lr=0.1, fused=True)
        optimizer = CompositeOptimizer({"matrices": muon, "rest": adamw})
        schedule = {"scheduler": LambdaLR(optimizer, lambda step: 1 / (1 + step)), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


@pytest.mark.parametrize("more", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_a_fit_resumes_bit_by_bit(tmp_path, more):
    straight = Fitted()
    trainer(max_epochs=5, **more).fit(straight, loader(8))
    first = trainer(max_epochs=2, **more)
    first.fit(Fitted(), loader(8))
    first.save_checkpoint(tmp_path / "two.ckpt")
    second = Fitted()
    fit = trainer(max_epochs=5, **more)
    fit.fit(second, loader(8), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert fit.global_step == 10 // more.get("accumulate_grad_batches", 1)
    assert straight.seen[4:] == second.seen
    same(straight, second)
