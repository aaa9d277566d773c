"""Clipping in a Trainer: by the solver and by the callback alone, under whatever changes gradients or steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import BaseFinetuning, BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn

from clipping_callback_cases import (
    SGD,
    STEPS,
    WAYS,
    At,
    Net,
    Seen,
    Solved,
    at_work,
    by_hand,
    close,
    data,
    far,
    fit,
    layers,
    loss_of,
    prepared,
    scaler,
    spec,
    the_work,
    weights,
)
from lightning_solver import OptimizerSpec, Rule, SolverError, SolverSpec
from lightning_solver.callbacks import GradientClipping
from lightning_solver.clipping import AGC, AutoClip, GlobalNorm, GroupNorm, ParameterNorm, Value, ZClip
from lightning_solver.schedules import Linear
from small import trainer

# Lightning's advice about what these tests do on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")

LIMIT = 0.05
IMPLEMENTATIONS = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"fused": True},
}


def global_norm(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), LIMIT)


# ------------------------------------------------------------------ right everywhere


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_as_a_loop_by_hand(way: str, precision: str, implementation: str, accumulate: int) -> None:
    args = {**SGD, **IMPLEMENTATIONS[implementation]}
    net, callbacks = prepared(way, GlobalNorm(LIMIT), args=args)
    seen = Seen()
    plugins: Any = [scaler()] if precision == "16-mixed" else None
    ran = fit(
        net, [*callbacks, seen], plugins=plugins, accumulate_grad_batches=accumulate,
        **{} if plugins else {"precision": precision},
    )  # fmt: skip
    close(net, by_hand(global_norm, precision=precision, accumulate=accumulate, args=args))
    far(net, by_hand(lambda model: None, precision=precision, accumulate=accumulate, args=args))
    assert len(seen.norms) == ran.global_step == -(-STEPS // accumulate)
    assert seen.norms == pytest.approx([LIMIT] * len(seen.norms), rel=1e-4)
    assert float(the_work(ran).clipped[0].norm) > 2 * LIMIT  # type: ignore[arg-type]


KINDS: dict[str, tuple[Any, Any]] = {
    "GroupNorm": (lambda: GroupNorm(LIMIT), global_norm),
    "ParameterNorm": (
        lambda: ParameterNorm(LIMIT),
        lambda model: [nn.utils.clip_grad_norm_([p], LIMIT) for p in model.parameters()],
    ),
    "Value": (lambda: Value(LIMIT), lambda model: nn.utils.clip_grad_value_(model.parameters(), LIMIT)),
    "inf": (
        lambda: GlobalNorm(LIMIT, "inf"),
        lambda model: nn.utils.clip_grad_norm_(model.parameters(), LIMIT, float("inf")),
    ),
    "1": (lambda: GlobalNorm(LIMIT, 1.0), lambda model: nn.utils.clip_grad_norm_(model.parameters(), LIMIT, 1.0)),
}


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize(("make", "change"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_each_kind_is_the_same_as_by_hand(way: str, make: Any, change: Any, precision: str) -> None:
    net, callbacks = prepared(way, make())
    fit(net, callbacks, plugins=[scaler()] if precision == "16-mixed" else None)
    close(net, by_hand(change, precision=precision))


@pytest.mark.parametrize("clip", [AGC(0.01), AutoClip(50.0), ZClip(warmup=3, threshold=0.1)], ids=repr)
def test_both_ways_do_the_same(clip: Any) -> None:
    """Of these kinds the arithmetic has tests of its own."""
    found = []
    for way in WAYS:
        net, callbacks = prepared(way, clip)
        fit(net, callbacks)
        found.append(weights(net))
    close(*found)
    far(found[0], by_hand(lambda model: None))


def test_the_groups_of_the_optimiser_are_those_of_the_norm() -> None:
    """A rule makes two groups, each with a norm of its own."""
    seen = Seen()
    net = Solved(spec(GroupNorm(LIMIT), rules=[Rule(match="layers.0.*", lr_scale=0.5)]))
    fit(net, [seen])
    count = sum(parameter.numel() for parameter in net.solver_plan.groups[0].tensors)  # type: ignore[union-attr]
    for gradient in seen.gradients:
        assert gradient is not None
        assert [float(part.norm()) for part in (gradient[:count], gradient[count:])] == pytest.approx(
            [LIMIT] * 2, rel=1e-4
        )


def test_several_act_in_their_order() -> None:
    def value_first(model: nn.Module) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 0.03)
        global_norm(model)

    def norm_first(model: nn.Module) -> None:
        global_norm(model)
        nn.utils.clip_grad_value_(model.parameters(), 0.03)

    for clips, change in (
        ([Value(0.03), GlobalNorm(LIMIT)], value_first),
        ([GlobalNorm(LIMIT), Value(0.03)], norm_first),
    ):
        for way in WAYS:
            net, callbacks = prepared(way, clips)
            ran = fit(net, callbacks)
            close(net, by_hand(change))
            assert len(the_work(ran).clipped) == 2
    far(by_hand(value_first), by_hand(norm_first))


@pytest.mark.parametrize("way", WAYS)
def test_selectors_say_what_is_clipped(way: str) -> None:
    def weights_of_the_first(model: Any) -> None:
        nn.utils.clip_grad_norm_([model[0].weight], LIMIT)

    clip = GlobalNorm(LIMIT, of={"match": "layers.0.*"}, unless={"kind": "bias"})
    net, callbacks = prepared(way, clip)
    ran = fit(net, callbacks)
    close(net, by_hand(weights_of_the_first))
    assert the_work(ran).planned[0].names == ("layers.0.weight",)
    wrong = GlobalNorm(LIMIT, of={"match": "layer.*"})
    net, callbacks = prepared(way, wrong)
    where = "clip" if way == "solver" else r"GradientClipping\.clip"
    with pytest.raises(SolverError, match=rf"^{where}\.of\.match: matches no parameter; got 'layer\.\*'; .*layers"):
        fit(net, callbacks)


@pytest.mark.parametrize("name", ["solver", "callback"])
def test_a_composite_optimiser_has_one_norm_over_all_members(name: str) -> None:
    """Two members: the norm is that of the gradients of both."""
    rules = [Rule(match="layers.2.*", optimizer=OptimizerSpec("AdamW", {"lr": 0.01}))]
    seen, raw = Seen(), []
    net = Solved(spec(GlobalNorm(LIMIT) if name == "solver" else None, rules=rules))
    callbacks = [] if name == "solver" else [GradientClipping(GlobalNorm(LIMIT))]
    look = At("on_after_backward", lambda trainer, module: raw.append([p.grad.clone() for p in module.parameters()]))
    ran = fit(net, [look, seen, *callbacks])
    assert type(ran.optimizers[0]).__name__ == "CompositeOptimizer"
    assert [float(one) for one in map(_total, raw)][-1] == pytest.approx(float(the_work(ran).clipped[0].norm))  # type: ignore[arg-type]

    model = layers()
    plan = spec(rules=[Rule(match="2.*", optimizer=rules[0].optimizer)]).plan(model, total_steps=STEPS)
    optimizer, _ = plan.build()
    for batch in data():
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        global_norm(model)
        optimizer.step()
    close(net, model)


def _total(gradients: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(gradients)


def test_frozen_parameters_have_no_part_in_the_norm() -> None:
    norms: list[float] = []
    net = Solved(spec(GlobalNorm(LIMIT), rules=[Rule(match="layers.0.*", frozen_until=4)]))

    def look(trainer: Any, module: Any) -> None:
        work = the_work(trainer)
        norms.append(float(work.clipped[0].norm))  # type: ignore[arg-type]

    seen = Seen()
    fit(net, [At("on_train_batch_end", look), seen])
    frozen = sum(p.numel() for p in net.layers[0].parameters())
    total = frozen + sum(p.numel() for p in net.layers[2].parameters())
    sizes = [0 if gradient is None else len(gradient) for gradient in seen.gradients]
    assert sizes == [total - frozen] * 4 + [total] * 6
    assert seen.norms == pytest.approx([LIMIT] * STEPS, rel=1e-4)

    model = layers()
    loss_of(model, next(iter(data()))).backward()
    assert norms[0] == pytest.approx(float(_total([p.grad for p in model[2].parameters() if p.grad is not None])))


# ------------------------------------------------------------------ a limit that moves


FALLING = GlobalNorm(LIMIT, schedule=Linear(end=0.2))


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_follows_its_schedule_step_by_step(way: str) -> None:
    net, callbacks = prepared(way, FALLING)
    seen = Seen()
    fit(net, [*callbacks, seen], max_epochs=2)
    assert seen.norms == pytest.approx(FALLING.limits(total_steps=20).tolist(), rel=1e-4)
    assert seen.norms[-1] < 0.3 * LIMIT


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_follows_its_schedule_under_accumulation(way: str) -> None:
    net, callbacks = prepared(way, FALLING)
    seen = Seen()
    fit(net, [*callbacks, seen], max_epochs=2, accumulate_grad_batches=4)
    assert seen.norms == pytest.approx(FALLING.limits(total_steps=6).tolist(), rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [4, 10, 13])
def test_the_limit_goes_on_where_it_was_on_resume(way: str, step: int, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    net, callbacks = prepared(way, FALLING)
    fit(net, [*callbacks, keep], max_epochs=2, enable_checkpointing=True)
    again, callbacks = prepared(way, FALLING)
    seen = Seen()
    fit(again, [*callbacks, seen], max_epochs=2, ckpt=tmp_path / f"step={step}.ckpt")
    limits = FALLING.limits(total_steps=20).tolist()
    # a loader without a state starts its epoch anew, but what is left of it is as long
    assert seen.norms == pytest.approx(limits[step:], rel=1e-4)


def test_a_callback_that_a_checkpoint_does_not_know_counts_from_its_step(tmp_path: Path) -> None:
    fit(Net()).save_checkpoint(tmp_path / "x.ckpt")
    seen = Seen()
    fit(Net(), [GradientClipping(FALLING), seen], max_epochs=2, ckpt=tmp_path / "x.ckpt")
    assert seen.norms == pytest.approx(FALLING.limits(total_steps=20)[10:].tolist(), rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_second_fit_of_one_trainer_goes_on(way: str, caplog: pytest.LogCaptureFixture) -> None:
    def run(made: Any, net: Any) -> list[float]:
        seen = Seen()
        made.callbacks.append(seen)
        made.fit(net, data())
        return seen.norms

    net, callbacks = prepared(way, [AutoClip(60.0), FALLING])
    made = trainer(max_epochs=1, callbacks=callbacks)
    run(made, net)
    norms = (*_learnt(made), the_work(made).found)
    made.fit_loop.max_epochs = 2
    seen = run(made, net)
    assert len(seen) == 10
    assert seen == pytest.approx(FALLING.limits(total_steps=20)[10:].tolist(), rel=1e-4)
    assert torch.equal(_learnt(made)[0][:10], norms[0])
    assert len(_learnt(made)[0]) == 20


def _learnt(ran: Any) -> list[Tensor]:
    return [clipper.state_dict()["norms"] for clipper in the_work(ran).clippers if clipper.state_dict()]


def test_tested_checkpoints_do_not_reach_into_a_later_fit(tmp_path: Path) -> None:
    class Tested(Net):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            loss_of(self, batch)

    first = fit(Tested(), [GradientClipping(FALLING, nonfinite="skip")])
    first.save_checkpoint(tmp_path / "x.ckpt")
    seen = Seen()
    made = trainer(max_epochs=1, callbacks=[GradientClipping(FALLING, nonfinite="skip"), seen])
    made.test(Tested(), data(), ckpt_path=tmp_path / "x.ckpt", verbose=False, weights_only=True)
    made.fit(Tested(), data())
    assert seen.norms == pytest.approx(FALLING.limits(total_steps=10).tolist(), rel=1e-4)


LONG = GlobalNorm(LIMIT, schedule=Linear(start=0.5, until=1000))


@pytest.mark.parametrize("way", WAYS)
def test_a_phase_of_the_limit_may_reach_beyond_a_run_of_a_few_batches(way: str) -> None:
    net, callbacks = prepared(way, LONG)
    seen = Seen()
    fit(net, [*callbacks, seen], fast_dev_run=3)
    assert seen.norms == pytest.approx(LONG.limits(total_steps=1000)[:3].tolist(), rel=1e-4)
    net, callbacks = prepared(way, LONG)
    with pytest.raises(SolverError, match=r"clip\.schedule\.until: reaches beyond the run, which ends at step 10"):
        fit(net, callbacks)


def test_a_phase_of_the_limit_may_reach_beyond_the_run_where_that_is_allowed() -> None:
    seen = Seen()
    fit(Solved(spec(LONG, beyond_run="allow")), [seen])
    assert seen.norms == pytest.approx(LONG.limits(total_steps=1000)[:10].tolist(), rel=1e-4)


# ------------------------------------------------------------------ what is learnt


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("clip", [AutoClip(30.0, window=6), ZClip(warmup=3, threshold=0.5, decay=0.5)], ids=repr)
def test_what_was_learnt_goes_on_bit_by_bit_on_resume(way: str, clip: Any, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    straight, callbacks = prepared(way, clip)
    ran = fit(straight, [*callbacks, keep], max_epochs=3, enable_checkpointing=True)
    again, callbacks = prepared(way, clip)
    resumed = fit(again, callbacks, max_epochs=3, ckpt=tmp_path / "epoch=0.ckpt")
    assert torch.equal(weights(straight), weights(again))
    states = [the_work(one).clippers[0].state_dict() for one in (ran, resumed)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key])), key
    fresh, callbacks = prepared(way, clip)
    bare = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    bare["callbacks"] = {}
    torch.save(bare, tmp_path / "bare.ckpt")
    fit(fresh, callbacks, max_epochs=3, ckpt=tmp_path / "bare.ckpt")
    far(straight, fresh)  # so that the state matters


@pytest.mark.parametrize("way", WAYS)
def test_another_kind_does_not_take_over_what_was_learnt(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, callbacks = prepared(way, AutoClip())
    fit(net, callbacks).save_checkpoint(tmp_path / "x.ckpt")
    net, callbacks = prepared(way, [ZClip(), GlobalNorm(1.0)])
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, callbacks, max_epochs=2, ckpt=tmp_path / "x.ckpt")
    where = "clip" if way == "solver" else "GradientClipping.clip"
    text = (
        f"{where} was AutoClip when the checkpoint was written, and is ZClip, GlobalNorm now: what it has learnt does"
    )
    assert text in caplog.text


@pytest.mark.parametrize("finder", [LearningRateFinder(num_training_steps=4), BatchSizeFinder(max_trials=1)], ids=str)
def test_what_finders_try_is_not_learnt_from(finder: Any, tmp_path: Path) -> None:
    """Also where the callback has served another run before."""

    class Found(Net):
        batch_size, lr = 4, 0.1

        def train_dataloader(self) -> Any:
            return data(batch_size=4)

    callback = GradientClipping([AutoClip(50.0), FALLING], nonfinite="skip")
    fit(Found(), [callback])
    seen = Seen()
    made = trainer(max_epochs=1, callbacks=[finder, callback, seen], default_root_dir=tmp_path)
    made.fit(Found())
    assert len(_learnt(made)[0]) == STEPS
    assert seen.norms[-STEPS:] == pytest.approx(FALLING.limits(total_steps=STEPS).tolist(), rel=1e-4)


# ------------------------------------------------------------------ optimisers of the user's own


class ByTurns(Net):
    """Two optimisers under manual optimisation; the second steps for every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.layers[i].parameters(), **SGD) for i in (0, 2)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[attr-defined]
        self.zero_grad()
        self.manual_backward(loss_of(self, batch, batch_idx))
        first.step()
        if batch_idx % 2:
            second.step()


@pytest.mark.parametrize("plugins", [None, "scaler"])
def test_each_of_several_optimisers_is_clipped_by_itself(plugins: Any) -> None:
    net, seen = ByTurns(), Seen()
    ran = fit(net, [GradientClipping(GlobalNorm(LIMIT)), seen], plugins=[scaler()] if plugins else None)
    assert [*at_work(ran)] == ["0", "1"]
    assert seen.norms == pytest.approx([LIMIT] * 15, rel=1e-4)


def test_the_limit_of_each_of_several_follows_its_own_steps() -> None:
    net, seen = ByTurns(), Seen()
    fit(net, [GradientClipping(FALLING), seen], max_epochs=2)
    order = [name for batch in range(20) for name in ((0, 1) if batch % 2 else (0,))]
    limits = FALLING.limits(total_steps=20).tolist()
    for name, steps in ((0, 20), (1, 10)):
        made = [norm for norm, whose in zip(seen.norms, order) if whose == name]
        assert made == pytest.approx(limits[:steps], rel=1e-4)


def test_limits_of_several_begin_anew_where_nothing_says_how_far_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(ByTurns()).save_checkpoint(tmp_path / "x.ckpt")
    seen = Seen()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(ByTurns(), [GradientClipping(FALLING), seen], max_epochs=2, ckpt=tmp_path / "x.ckpt")
        told = caplog.text.count("nor how many steps each optimiser has made: the schedules of its limits begin anew")
        assert told == 2
        caplog.clear()
        fit(ByTurns(), [GradientClipping(GlobalNorm(1.0))], max_epochs=2, ckpt=tmp_path / "x.ckpt")
    assert caplog.text == ""
    assert seen.norms[0] == pytest.approx(LIMIT, rel=1e-4)


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


def test_a_closure_is_clipped_each_time_it_is_evaluated() -> None:
    """By value, which is bit for bit the same by hand: LBFGS makes much of a rounding."""
    net = Lbfgs()
    fit(net, [GradientClipping(Value(LIMIT))])
    model = layers()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    for batch in data():

        def closure(batch: Any = batch) -> Any:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), LIMIT)
            return loss

        optimizer.step(closure)
    close(net, model)
    unclipped = Lbfgs()
    fit(unclipped)
    far(net, unclipped)


def test_the_limit_of_a_closure_moves_with_steps_and_not_with_evaluations() -> None:
    limits: list[float] = []

    def look(trainer: Any, module: Any) -> None:
        limits.append(the_work(trainer).clipped[0].limit)  # type: ignore[arg-type]

    fit(Lbfgs(), [GradientClipping(FALLING), At("on_train_batch_end", look)])
    assert limits == pytest.approx(FALLING.limits(total_steps=10).tolist())


class Lookahead(torch.optim.SGD):
    """Has an attribute of the name under which Lightning keeps the optimiser that it wraps."""

    def __init__(self, parameters: Any, **kwargs: Any) -> None:
        super().__init__(parameters, **kwargs)
        self.optimizer = torch.optim.SGD(self.param_groups[0]["params"], lr=0.1)


def test_an_optimiser_that_has_another_inside_is_clipped() -> None:
    net, seen = Net(lambda parameters: Lookahead(parameters, **SGD)), Seen()
    fit(net, [GradientClipping(GlobalNorm(LIMIT)), seen])
    assert seen.norms == pytest.approx([LIMIT] * STEPS, rel=1e-4)


class Unfreeze(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.layers[0], optimizer, lr=0.1)


class Head(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], **SGD)


@pytest.mark.parametrize("clip", [GlobalNorm(LIMIT), AutoClip(1.0)], ids=repr)
def test_parameters_that_are_added_in_mid_run_are_clipped(clip: Any) -> None:
    seen = Seen()
    callback = GradientClipping(clip, nonfinite="skip")
    ran = fit(Head(), [Unfreeze(), callback, seen], max_epochs=2)
    sizes = {len(gradient) for gradient in seen.gradients if gradient is not None}
    assert len(sizes) == 2
    assert len(the_work(ran).planned[0].names) == 4
    if isinstance(clip, GlobalNorm):
        assert seen.norms == pytest.approx([LIMIT] * 20, rel=1e-4)
    else:
        assert len(_learnt(ran)[0]) == 20


# ------------------------------------------------------------------ loops of the user's own


@pytest.mark.parametrize("clips", [GlobalNorm(LIMIT), [Value(0.03), GlobalNorm(LIMIT)]], ids=["one", "two"])
def test_a_loop_by_hand_and_fabric_take_the_clipping_of_the_specification(clips: Any) -> None:
    given = SolverSpec(optimizer=OptimizerSpec("SGD", SGD), clip=clips)
    assert given.clip is not None
    several = given.clip if isinstance(given.clip, tuple) else (given.clip,)

    def change(model: nn.Module) -> None:
        for clip in several:
            clip.apply(model)

    net = Solved(given)
    fit(net)
    close(net, by_hand(change))
    fabric = Fabric(accelerator="cpu", devices=1)
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for batch in data():
        optimizer.zero_grad()
        fabric.backward(loss_of(wrapped, batch))
        change(wrapped)
        optimizer.step()
    close(net, model)


def test_names_are_those_of_the_module_that_fabric_has_wrapped() -> None:
    wrapped = Fabric(accelerator="cpu", devices=1).setup(layers())
    loss_of(wrapped, next(iter(data()))).backward()
    before = [parameter.grad.clone() for parameter in wrapped.parameters()]
    GlobalNorm(1e-3, of={"match": "0.*"}).apply(wrapped)
    changed = [not torch.equal(a, b.grad) for a, b in zip(before, wrapped.parameters())]
    assert changed == [True, True, False, False]


# ------------------------------------------------------------------ refusals


TWICE = "the gradients would be clipped twice"


@pytest.mark.parametrize(("way", "who"), [("solver", "clip of the solver"), ("callback", "GradientClipping")])
def test_it_does_not_work_beside_gradient_clip_val(way: str, who: str) -> None:
    net, callbacks = prepared(way, GlobalNorm(LIMIT))
    message = f"Trainer.gradient_clip_val: {TWICE}; got 0.5; leave it out: the gradients are clipped by {who}"
    with pytest.raises(SolverError) as caught:
        fit(net, callbacks, gradient_clip_val=0.5)
    assert str(caught.value) == message


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_clip_val_of_0_clips_nothing(way: str) -> None:
    net, callbacks = prepared(way, GlobalNorm(LIMIT))
    fit(net, callbacks, gradient_clip_val=0)
    close(net, by_hand(global_norm))


@pytest.mark.parametrize("way", WAYS)
def test_who_only_looks_at_gradients_lets_the_trainer_clip(way: str) -> None:
    net, callbacks = prepared(way, None, "skip", wrong=(2,))
    ran = fit(net, callbacks, gradient_clip_val=LIMIT)
    assert the_work(ran).found == 1
    close(net, by_hand(lambda model: _clip_or_drop(model), wrong=(2,)))


def _clip_or_drop(model: nn.Module) -> None:
    norm = nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
    for parameter in model.parameters():
        parameter.grad = parameter.grad if norm.isfinite() else None


class Clips(Net):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, 1.0, "norm")


class ClipsSolved(Solved):
    configure_gradient_clipping = Clips.configure_gradient_clipping


def test_it_does_not_work_beside_a_method_that_clips() -> None:
    for net, callbacks, who in (
        (Clips(), [GradientClipping(GlobalNorm(1.0))], "GradientClipping"),
        (ClipsSolved(spec(GlobalNorm(1.0))), [], "SolverClipping"),
    ):
        with pytest.raises(SolverError) as caught:
            fit(net, callbacks)
        assert str(caught.value) == (
            f"{type(net).__name__}.configure_gradient_clipping: {TWICE}; "
            f"drop the method: the gradients are clipped by {who}"
        )
    fit(Clips(), [GradientClipping(nonfinite="skip")])
    fit(ClipsSolved(spec()))


def test_it_does_not_work_beside_the_solver() -> None:
    message = (
        "Trainer.callbacks: two would look after the gradients; got GradientClipping and SolverClipping; "
        "say clip and nonfinite in the solver or by one callback"
    )
    for asked in (spec(GlobalNorm(1.0)), spec(nonfinite="skip")):
        with pytest.raises(SolverError) as caught:
            fit(Solved(asked), [GradientClipping(GlobalNorm(1.0))])
        assert str(caught.value) == message


def test_a_callback_clips_for_a_solver_that_does_not() -> None:
    net = Solved(spec())
    fit(net, [GradientClipping(GlobalNorm(LIMIT))])
    close(net, by_hand(global_norm))


def test_two_callbacks_are_refused() -> None:
    class Other(GradientClipping):
        pass

    with pytest.raises(RuntimeError, match="more than one stateful callback of type `GradientClipping`"):
        trainer(callbacks=[GradientClipping(GlobalNorm(1.0)), GradientClipping(Value(1.0))])
    with pytest.raises(SolverError, match="two would look after the gradients; got GradientClipping and Other; say"):
        fit(Net(), [GradientClipping(GlobalNorm(1.0)), Other(Value(1.0))])


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", [{"clip": GlobalNorm(1.0)}, {"nonfinite": "skip"}], ids=["clip", "nonfinite"])
def test_strategies_that_hide_gradients_are_refused(strategy: Any, way: str, asked: dict[str, Any]) -> None:
    net, callbacks = prepared(way, **asked)
    made = trainer(max_epochs=1, callbacks=callbacks)
    made.fit(net, data())
    real, hiding = made.strategy, object.__new__(strategy)
    hiding._optimizers = real._optimizers
    callback = next(one for one in made.callbacks if type(one).__name__ in ("SolverClipping", "GradientClipping"))
    made._accelerator_connector.strategy = hiding
    try:
        with pytest.raises(SolverError) as caught:
            callback.on_fit_start(made, net)
    finally:
        made._accelerator_connector.strategy = real
    assert str(caught.value) == (
        f"Trainer.strategy: holds gradients in a form of its own, of which no right norm can be had here; "
        f"got {strategy.__name__}; use ModelParallelStrategy (FSDP2) or DDP, or drop clip and nonfinite"
    )


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(
        SolverError, match=r"^GradientClipping: is given neither clip nor nonfinite; give one of them, as"
    ):
        GradientClipping()
    with pytest.raises(SolverError, match=r"^GradientClipping\.clip: is empty; got \[\]; give at least one"):
        GradientClipping([])
    for policy in ("warn", True, 3, {"polcy": "skip"}):
        with pytest.raises(SolverError, match=r"^GradientClipping\.nonfinite"):
            GradientClipping(nonfinite=policy)  # type: ignore[arg-type]
    with pytest.raises(SolverError, match=r"^GradientClipping\.clip: must be a Clip"):
        GradientClipping(1.0)  # type: ignore[arg-type]
