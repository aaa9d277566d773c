"""Freezing as a schedule: what is frozen, and the mode of frozen norms, are a pure function of the step."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_solver import OptimizerSpec, Rule, RunLength, SolverError, SolverSpec
from lightning_solver.callbacks.freezing import Freezing
from lightning_solver.norm_modes import NormModes
from lightning_solver.rules.freezing import Frozen, freeze
from lightning_solver.schedules import Linear
from small import Net, Numbers, loader, spec, trainer

SGD = OptimizerSpec("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1})
ADAMW = OptimizerSpec("AdamW", {"lr": 0.1, "weight_decay": 0.1})


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))


def solver(*rules: Rule, optimizer: OptimizerSpec = SGD, **more: Any) -> SolverSpec:
    return SolverSpec(optimizer=optimizer, rules=rules, **{"depth": ("^0", "^1", "^2"), **more})


def moved(module: nn.Module, plan: Any, steps: int, closure: bool = False) -> dict[str, list[int]]:
    """In which steps each parameter has moved."""
    optimizer, scheduler = plan.build()
    found: dict[str, list[int]] = {name: [] for name, _ in module.named_parameters()}

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = module(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    for step in range(steps):
        before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
        scheduler.step()
        for name, tensor in module.named_parameters():
            if not torch.equal(before[name], tensor):
                found[name].append(step)
    return found


# ------------------------------------------------------------------ the stretches


@pytest.mark.parametrize(
    ("says", "frozen"),
    [
        ({"frozen_until": 3}, [0, 1, 2]),
        ({"frozen_until": "2ep"}, [0, 1, 2, 3]),
        ({"frozen_until": "25%"}, [0, 1, 2]),  # 2.5: a step is whole, and begins before it ends
        ({"frozen_from": "80%"}, [8, 9]),
        ({"frozen_from": "7.5st"}, [8, 9]),
        ({"frozen_until": 2, "frozen_from": 7}, [0, 1, 7, 8, 9]),
        ({"frozen_until": 0}, []),
        ({"frozen_until": 0, "frozen_from": 9}, [9]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("closure", [False, True], ids=["", "closure"])
def test_parameters_move_in_the_steps_in_which_they_are_not_frozen(
    says: dict[str, Any], frozen: list[int], optimizer: OptimizerSpec, closure: bool
) -> None:
    """Neither by gradients, nor by momentum, nor by weight decay, nor by what a closure makes."""
    net = stack()
    plan = solver(Rule(match="0.*", **says), optimizer=optimizer).plan(net, total_steps=10, steps_per_epoch=2)
    found = moved(net, plan, 10, closure)
    assert found["0.weight"] == found["0.bias"] == [step for step in range(10) if step not in frozen]
    assert found["1.weight"] == found["2.bias"] == list(range(10))


def test_several_optimisers_freeze_by_one_spec_too() -> None:
    net = stack()
    rules = [Rule(match="0.*", frozen_until=2), Rule(ndim=2, optimizer=OptimizerSpec("Muon"), match=["0.*", "1.*"])]
    found = moved(net, solver(*rules).plan(net, total_steps=5), 5, closure=True)
    assert found["0.weight"] == found["0.bias"] == [2, 3, 4]
    assert found["1.weight"] == found["2.weight"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "says", [{"frozen_until": 5, "frozen_from": 5}, {"frozen_until": 6, "frozen_from": 5}, {"frozen_from": 0}]
)
def test_stretches_that_leave_no_step_are_refused(says):
    with pytest.raises(
        SolverError, match=r"rules\[0\].frozen_from: leaves no step in which they are trained; got frozen_"
    ):
        solver(Rule(match="0.*", **says)).plan(stack(), total_steps=10)


def test_what_has_moved_before_keeps_its_state_while_it_is_frozen() -> None:
    net = stack()
    optimizer, scheduler = solver(Rule(match="0.*", frozen_from=1), optimizer=ADAMW).plan(net, total_steps=4).build()
    for _ in range(3):
        net(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    assert optimizer.state[net[0].weight]["step"] == 1
    assert optimizer.state[net[1].weight]["step"] == 3


def test_the_schedule_goes_on_while_its_group_is_frozen() -> None:
    plan = solver(Rule(match="0.*", frozen_until=2), schedules={"lr": Linear(end=0.0)}).plan(stack(), total_steps=4)
    (group,) = {plan.parameters[name]["group"] for name in ("0.weight",)}
    column = [g.name for g in plan.groups].index(group)
    assert plan.curve("lr")[:, column] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_every_parameter_is_in_the_optimiser_from_the_start() -> None:
    net = stack()
    plan = solver(Rule(match="*", unfreeze_every=3)).plan(net, total_steps=12)
    optimizer, scheduler = plan.build()
    before = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert sum(map(len, before)) == 6
    for _ in range(12):
        scheduler.step()
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == before
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("start", range(10))
def test_what_is_frozen_is_known_from_the_step_alone(start: int) -> None:
    plan = solver(Rule(match="0.*", frozen_until=3), Rule(match="1.*", frozen_from=6)).plan(stack(), total_steps=10)
    _, walked = plan.build()
    for _ in range(start):
        walked.step()
    _, there = plan.build()
    there.go_to(start)
    _, loaded = plan.build()
    loaded.load_state_dict(walked.state_dict())
    assert walked.frozen() == there.frozen() == loaded.frozen()
    assert set(walked.state_dict()) == {"step", "spec"}


def test_a_plan_that_is_followed_later_may_freeze_more() -> None:
    net = stack()
    first = solver(Rule(match="0.*", lr_scale=0.5)).plan(net, total_steps=6)
    second = solver(Rule(match="0.*", lr_scale=0.5, frozen_from=2)).plan(net, total_steps=6)
    optimizer, scheduler = first.build()
    scheduler.follow(second)
    before = []
    for _ in range(4):
        before.append(net[0].weight.detach().clone())
        net(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    assert [torch.equal(a, b) for a, b in pairwise(before)] == [False, False, True]


def test_later_rules_have_the_last_word() -> None:
    def stretches(*rules: Rule) -> str | None:
        plan = solver(*rules).plan(stack(), total_steps=10)
        found = next((group for group in plan.groups if "0.weight" in group.names), None)
        return "left out" if found is None else str(found.frozen or "never")

    first = Rule(match="0.*", frozen_until=3)
    assert stretches(first) == "until step 3"
    assert stretches(first, Rule(match="*", frozen=False)) == "never"
    assert stretches(first, Rule(match="0.*", frozen_from=5)) == "from step 5"
    assert stretches(first, Rule(match="0.*", frozen=True)) == "left out"
    assert stretches(Rule(match="0.*", frozen=True), first) == "until step 3"
    assert stretches(first, Rule(match="0.*", fresh=True, lr=0.1)) == "never"
    assert stretches(first, Rule(match="0.*", frozen_until=0)) == "never"
    assert stretches(Rule(match="0.*", frozen=True), Rule(match="0.weight", frozen=False)) == "never"


def test_what_the_user_has_frozen_stays_frozen() -> None:
    net = stack()
    net[0].requires_grad_(False)
    plan = solver(Rule(match="0.*", frozen=False), Rule(match="1.*", frozen_until=1)).plan(net, total_steps=3)
    assert plan.left_out["0.weight"] == "frozen"
    why = "requires_grad is False in the module, which no rule undoes"
    assert f"rules[0] (match 0.*): selects only frozen parameters: {why}" in plan.notes


# ------------------------------------------------------------------ gradual unfreezing


def test_unfreezing_goes_down_from_the_top() -> None:
    net = stack()
    plan = solver(Rule(match="*", unfreeze_every=2)).plan(net, total_steps=6)
    found = moved(net, plan, 6)
    assert found["2.weight"] == [0, 1, 2, 3, 4, 5]
    assert found["1.weight"] == [2, 3, 4, 5]
    assert found["0.weight"] == found["0.bias"] == [4, 5]


def test_unfreezing_in_epochs_and_percent() -> None:
    for every in ("2ep", "20%", "1/5ep+1.6st"):
        plan = solver(Rule(match="*", unfreeze_every=every)).plan(stack(), total_steps=10, steps_per_epoch=1)
        until = {name: group.frozen for group in plan.groups for name in group.names}
        expected = Fraction(2) if every != "1/5ep+1.6st" else Fraction(9, 5)
        assert until["2.weight"] is None
        assert until["1.weight"] == Frozen(expected)
        assert until["0.bias"] == Frozen(2 * expected)


def test_unfreezing_of_some_parameters_counts_depths_of_the_whole_model() -> None:
    plan = solver(Rule(match=["0.*", "1.*"], unfreeze_every=2)).plan(stack(), total_steps=6)
    until = {name: str(group.frozen or "never") for group in plan.groups for name in group.names}
    assert [until[f"{i}.weight"] for i in range(3)] == ["until step 4", "until step 2", "never"]


def test_frozen_layers_keep_their_depth() -> None:
    net = stack()
    net[1].requires_grad_(False)
    plan = solver(Rule(match="*", unfreeze_every=2)).plan(net, total_steps=6)
    until = {name: str(group.frozen or "never") for group in plan.groups for name in group.names}
    assert (until["0.weight"], until["2.weight"]) == ("until step 4", "never")


def test_unfreezing_by_epochs_that_differ_in_length_goes_by_their_ends() -> None:
    uneven = RunLength(total_steps=30, epoch_ends=[3, 8, 20, 30])
    plan = solver(Rule(match="*", unfreeze_every="1ep")).plan(stack(), run=uneven)
    until = {name: str(group.frozen or "never") for group in plan.groups for name in group.names}
    assert [until[f"{i}.weight"] for i in range(3)] == ["until step 8", "until step 3", "never"]
    plan = solver(Rule(match="0.*", frozen_until="2ep")).plan(stack(), run=uneven)
    assert {str(group.frozen) for group in plan.groups if group.frozen} == {"until step 8"}


def test_above_the_top_nothing_is_frozen() -> None:
    """A peer's layout with a number of layers may put parameters above the depth whose scale is 1."""
    assert (
        freeze({"unfreeze_every": 2}, "rules[0]", lambda duration, where, times: Fraction(duration) * times, -1)
        is False
    )


# ------------------------------------------------------------------ what makes no sense


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule(match="0.*", frozen_until=10)], "is frozen until step 10, but the run ends at step 10"),
        ([Rule(match="0.*", frozen_from="100%")], "is frozen from step 10, but the run ends at step 10"),
        ([Rule(match="*", unfreeze_every=5)], "is frozen until step 10, but the run ends at step 10"),
        ([Rule(match="*", frozen_until=2)], "rules: every parameter is frozen at step 0, so that no step would ever"),
        ([Rule(match="*", frozen_from=5)], "rules: every parameter is frozen at step 5"),
        (
            [Rule(match=["0.*", "1.*"], frozen_until="55%"), Rule(match="2.*", frozen_from="42%")],
            "rules: every parameter is frozen at step 5",
        ),
        ([Rule(match="*", frozen=True)], "rules: leave every parameter out of the optimiser"),
        ([Rule(match="0.*", frozen_until="2ep")], "rules[0].frozen_until: "),
    ],
)
def test_freezing_that_makes_no_sense_is_an_error(rules: list[Rule], message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        solver(*rules).plan(stack(), total_steps=10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frozen": True, "frozen_until": 3}, "Rule.frozen: is given beside another; got frozen True and frozen_until 3"),
        ({"unfreeze_every": 3, "frozen_from": 5}, "is given beside another"),
        ({"frozen_until": "soon"}, "Rule.frozen_until: "),
        ({"frozen_until": -1}, "Rule.frozen_until: "),
        ({"unfreeze_every": "1 epoch"}, "Rule.unfreeze_every: "),
        ({"unfreeze_every": 0}, "Rule.unfreeze_every: must be longer than nothing"),
    ],
    ids=repr,
)  # fmt: skip
def test_freezing_that_cannot_be_written(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=re.escape(message)):
        Rule(match="*", **given)


def test_a_stretch_beyond_the_run_may_be_allowed_and_is_noted() -> None:
    plan = solver(Rule(match="0.*", frozen_until=20), beyond_run="allow").plan(stack(), total_steps=10)
    assert any("is frozen until step 20, but the run ends at step 10" in note for note in plan.notes)


def test_the_table_shows_when_what_is_frozen() -> None:
    rules = [Rule(match="*", unfreeze_every=2), Rule(match="1.bias", frozen=True)]
    table = solver(*rules).plan(stack(), total_steps=10).table()
    assert "until step 4" in table
    assert "until step 2" in table
    assert "frozen by rules[1] (match 1.bias): 1.bias" in table


def test_tied_names_that_are_frozen_differently_are_refused() -> None:
    net = stack()
    net[2].weight = net[0].weight
    rules = [Rule(match="0.*", frozen_until=2), Rule(match="2.*", frozen_until=3)]
    with pytest.raises(SolverError, match=re.escape("0.weight: rules disagree about when to freeze it")):
        solver(*rules, depth="auto").plan(net, total_steps=10)


# ------------------------------------------------------------------ the mode of norms


class Normed(Net):
    """Notes the mode of its two norms in each batch."""

    def __init__(self, solver: SolverSpec) -> None:
        torch.manual_seed(0)
        super().__init__(solver)
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.neck = nn.BatchNorm1d(16)
        self.modes: list[tuple[bool, bool]] = []
        self.weights: list[Tensor] = []
        self.norms: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.modes.append((self.backbone[1].training, self.neck.training))
        self.weights.append(self.backbone[0].weight.detach().clone())
        return (self.head(self.neck(self.backbone(batch))) - batch[:, :2]).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert not self.backbone[1].training
        assert not self.neck.training
        super().validation_step(batch, batch_idx)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        gradients = [tensor.grad for group in optimizer.param_groups for tensor in group["params"]]
        self.norms.append(float(sum(g.square().sum() for g in gradients if g is not None)))
        super().configure_gradient_clipping(optimizer, *args, **kwargs)


def fit(net: Normed, *callbacks: Callback, ckpt: Any = None, validate: bool = False, **kwargs: Any) -> Any:
    run = trainer(callbacks=[*callbacks], **{"max_epochs": 1, **kwargs})
    run.fit(
        net,
        StatefulDataLoader(Numbers(40), batch_size=4),
        loader(8) if validate else None,
        ckpt_path=ckpt,
        weights_only=True,
    )
    return run


def frozen_modes(*rules: Rule, total: int = 10, **kwargs: Any) -> list[tuple[bool, bool]]:
    net = Normed(spec(rules=rules, schedules={}))
    fit(net, **kwargs)
    return net.modes


TRAIN, BACKBONE = (True, True), (False, True)


@pytest.mark.parametrize("validate", [False, True], ids=["", "validation"])
def test_a_frozen_norm_is_in_evaluation_mode_as_long_as_it_is_frozen(validate: bool) -> None:
    more = {"validate": validate, "val_check_interval": 3} if validate else {}
    found = frozen_modes(Rule(match="backbone.*", frozen_until=4), **more)
    assert found == [BACKBONE] * 4 + [TRAIN] * 6
    assert frozen_modes(Rule(match="backbone.*", frozen_from="50%"), **more) == [TRAIN] * 5 + [BACKBONE] * 5


def test_a_norm_that_is_left_out_by_a_rule_is_in_evaluation_mode() -> None:
    assert frozen_modes(Rule(match="backbone.*", frozen=True)) == [BACKBONE] * 10


def test_a_norm_of_which_only_some_is_frozen_goes_on() -> None:
    assert frozen_modes(Rule(match="backbone.1.weight", frozen_until=4)) == [TRAIN] * 10


def test_the_mode_follows_steps_and_not_batches() -> None:
    found = frozen_modes(Rule(match="backbone.*", frozen_until=2), accumulate_grad_batches=3)
    assert found == [BACKBONE] * 6 + [TRAIN] * 4


def test_norms_that_the_user_has_put_into_evaluation_mode_are_left_alone() -> None:
    class Own(Normed):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.neck.eval()

    net = Own(spec(rules=[Rule(match="backbone.*", frozen_until=2)], schedules={}))
    fit(net)
    assert net.modes == [(False, False)] * 2 + [(True, False)] * 8


def test_statistics_of_frozen_norms_and_dropout() -> None:
    net = Normed(spec(rules=[Rule(match="backbone.*", frozen=True)], schedules={}))
    fit(net)
    assert torch.equal(net.backbone[1].running_mean, torch.zeros(16))
    assert not torch.equal(net.neck.running_mean, torch.zeros(16))
    assert net.backbone[2].training  # which has no statistics


def test_a_further_fit_begins_with_the_modes_of_its_first_step() -> None:
    net = Normed(spec(rules=[Rule(match="backbone.*", frozen_from="50%")], schedules={}))
    fit(net)
    first, net.modes = net.modes, []
    fit(net)
    assert net.modes == first == [TRAIN] * 5 + [BACKBONE] * 5


def test_modes_follow_a_plan_that_is_made_anew() -> None:
    class Shorter(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                pl_module.plan_anew({"solver": RunLength(total_steps=8, steps_per_epoch=10)})

    net = Normed(spec(rules=[Rule(match="backbone.*", frozen_from="50%")], schedules={}))
    fit(net, Shorter())
    still = [torch.equal(a, b) for a, b in zip(net.weights, net.weights[1:])]
    assert still == [False] * 4 + [True] * 5
    assert net.modes == [TRAIN] * 4 + [BACKBONE] * 6


def test_without_a_trainer_the_modes_are_set_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    plan = SolverSpec(optimizer=SGD, rules=[Rule(match=["0.*", "1.*"], frozen_until=2)]).plan(net, total_steps=4)
    modes = NormModes(net)
    seen = []
    for step in (0, 1, 2, 3, 1):
        modes.set(plan, step)
        seen.append((net[1].training, net[3].training))
    assert seen == [(False, True)] * 2 + [(True, True)] * 2 + [(False, True)]
    modes.release()
    assert net[1].training


# ------------------------------------------------------------------ in a Trainer


def test_the_mixin_adds_the_callback_once() -> None:
    net = Normed(spec(rules=[Rule(match="backbone.*", frozen_until=2)], schedules={}))
    for _ in range(2):
        run = fit(net)
        assert sum(isinstance(one, Freezing) for one in run.callbacks) == 1


def test_what_is_left_out_by_a_rule_gathers_no_gradients() -> None:
    """No step and no ``zero_grad`` reaches them: what backward adds would stay, and grow."""
    net = Normed(spec(rules=[Rule(match="backbone.*", frozen=True)], schedules={}))
    fit(net)
    assert torch.equal(net.weights[0], net.backbone[0].weight)
    assert all(parameter.grad is None for parameter in net.backbone.parameters())


def test_by_hand_what_is_frozen_does_not_move_either() -> None:
    class Manual(Normed):
        def __init__(self, solver: SolverSpec) -> None:
            super().__init__(solver)
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            with self.solver_turn() as turn:
                turn.step((self.head(self.neck(self.backbone(batch))) - batch[:, :2]).square().mean())
            return loss

    net = Manual(spec(rules=[Rule(match="backbone.*", frozen_until=4)], schedules={}))
    fit(net)
    still = [torch.equal(a, b) for a, b in zip(net.weights, net.weights[1:])]
    assert still == [True] * 4 + [False] * 5
    assert net.modes == [BACKBONE] * 4 + [TRAIN] * 6


def test_a_trainer_moves_what_is_not_frozen_and_requires_every_gradient() -> None:
    net = Normed(spec(rules=[Rule(match="backbone.*", frozen_until=4)], schedules={}))
    fit(net)
    still = [torch.equal(a, b) for a, b in zip(net.weights, net.weights[1:])]
    assert still == [True] * 4 + [False] * 5
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_gradients_of_what_is_frozen_are_not_clipped_with_the_others() -> None:
    """The norm that clipping sees is that of what is trained."""
    frozen = Normed(spec(rules=[Rule(match=["backbone.*", "neck.*"], frozen_until=9)], schedules={}))
    fit(frozen, gradient_clip_val=1e9)
    alone = Normed(spec(rules=[Rule(match=["backbone.*", "neck.*"], frozen=True)], schedules={}))
    fit(alone, gradient_clip_val=1e9)
    assert frozen.norms[0] == pytest.approx(alone.norms[0], rel=1e-6)
    free = Normed(spec(rules=[], schedules={}))
    fit(free, gradient_clip_val=1e9)
    assert free.norms[0] > 1.01 * frozen.norms[0]


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_resumed_run_is_the_straight_one(tmp_path: Path, step: int) -> None:
    """Between frozen, unfrozen and frozen again; nothing of it is in the checkpoint."""
    rules = [Rule(match="backbone.*", frozen_until=4, frozen_from=7), Rule(match="neck.*", frozen_from=6)]
    quiet = nn.Dropout(0.0)

    def net() -> Normed:
        made = Normed(spec(rules=rules))
        made.backbone[2] = quiet
        return made

    straight = net()
    fit(straight)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(net(), keep, enable_checkpointing=True)
    path = tmp_path / f"step={step}.ckpt"
    resumed = net()
    fit(resumed, ckpt=path)
    assert resumed.modes == straight.modes[step:]
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    saved = torch.load(path, weights_only=True)
    assert not any("freez" in str(key).lower() for key in saved.get("callbacks", {}))
    assert set(saved["lr_schedulers"][0]) == {"step", "spec"}
