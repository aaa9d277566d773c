"""Several optimisers under manual optimisation, and the turns of one."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_solver import OptimizerSpec, Rule, RunLength, SolverError, SolverMixin, SolverSpec
from lightning_solver.accumulation import Accumulation
from lightning_solver.callbacks import RandomState
from lightning_solver.callbacks.order import arrange
from lightning_solver.callbacks.solver_clipping import SolverClipping
from lightning_solver.clipping import GlobalNorm, Value
from lightning_solver.comparison import compare_parts
from lightning_solver.files import stored, stored_parts
from lightning_solver.parts import sort_states
from lightning_solver.run_length import manual_run_lengths
from lightning_solver.schedules import Cosine, Linear
from lightning_solver.several import names_parts
from small import Net, Stream, loader, trainer
from two_processes import start

PARTS = ("generator", "discriminator")


def one(lr: float = 0.01, **changes: Any) -> SolverSpec:
    given = {"optimizer": OptimizerSpec("AdamW", {"lr": lr}), "schedules": {"lr": [Cosine(end=0.1)]}}
    return SolverSpec(**{**given, **changes})


def two(**changes: SolverSpec) -> dict[str, SolverSpec]:
    return {"generator": one(0.01), "discriminator": one(0.02), **changes}


class Gan(SolverMixin, LightningModule):
    """Both take a turn for each batch; notes the learning rates of each step."""

    def __init__(self, solver: Any = None, **turn: Any) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["turns"])
        self.automatic_optimization = False
        self.solver = two() if solver is None else solver
        self.generator = nn.Linear(8, 8)
        self.discriminator = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 1))
        self.turn = turn
        self.used: dict[str, list[list[float]]] = {name: [] for name in PARTS}

    def loss_of(self, name: str, batch: Tensor) -> Tensor | None:
        fake = self.discriminator(self.generator(batch))
        if name == "generator":
            return (fake - 1).square().mean()
        return (self.discriminator(batch) - 1).square().mean() + fake.square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        for name in PARTS:
            with self.solver_turn(name, **self.turn) as turn:
                turn.step(self.loss_of(name, batch))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for name, part in self.solver_parts.items():
            if part.optimizer is optimizer:
                self.used.setdefault(name, []).append([group["lr"] for group in optimizer.param_groups])


class Each(Gan):
    """Takes turns as it is told."""

    def __init__(self, turns: Callable[[Any, Tensor, int], None], solver: Any = None) -> None:
        super().__init__(solver)
        self.turns = turns

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.turns(self, batch, batch_idx)


def turn(net: Any, name: str, batch: Tensor, **kwargs: Any) -> bool:
    with net.solver_turn(name, **kwargs) as taken:
        made: bool = taken.step(net.loss_of(name, batch))
    return made


def fit(net: Any, data: Any = None, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    made = trainer(**{"max_epochs": 2, **kwargs})
    made.fit(net, loader() if data is None else data)
    return made


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.named_parameters()}


def made(cls: Any = Gan, *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    return cls(*args, **kwargs)


def follows_its_plans(net: Any) -> None:
    assert net.solver_plans.keys() == set(PARTS)
    for name, plan in net.solver_plans.items():
        assert net.used[name] == plan.curve("lr").tolist()
        assert net.solver_schedulers[name].last_epoch == plan.run.total_steps


# ------------------------------------------------------------------ whose parameters


def test_each_follows_its_own_plan_and_trains_its_own_submodule() -> None:
    net = made()
    ran = fit(net)
    follows_its_plans(net)
    assert ran.global_step == 40
    assert {*net.solver_plans["generator"].parameters} == {"generator.weight", "generator.bias"}
    names = {name for plan in net.solver_plans.values() for name in plan.parameters}
    assert names == dict(net.named_parameters()).keys()
    assert net.solver_plan is None
    assert net.solver_scheduler is None


def test_the_order_of_names_is_the_order_of_lightnings_optimisers() -> None:
    net = made()
    ran = fit(net, max_epochs=1)
    assert [part.optimizer for part in net.solver_parts.values()] == ran.optimizers
    assert [part.scheduler for part in net.solver_parts.values()] == [c.scheduler for c in ran.lr_scheduler_configs]


def test_the_same_as_a_loop_by_hand() -> None:
    net, torch_net = made(), made()
    parts = {name: getattr(torch_net, name) for name in PARTS}
    plans = {n: s.replace(only=f"{n}.*").plan(torch_net, total_steps=20, steps_per_epoch=10) for n, s in two().items()}
    built = {name: plan.build() for name, plan in plans.items()}
    for batch in [*loader(), *loader()]:
        for name in PARTS:
            optimizer, scheduler = built[name]
            torch_net.zero_grad()
            loss = torch_net.loss_of(name, batch)
            gradients = torch.autograd.grad(loss, list(parts[name].parameters()))
            for tensor, gradient in zip(parts[name].parameters(), gradients):
                tensor.grad = gradient
            optimizer.step()
            scheduler.step()
    fit(net)
    for name, tensor in weights(torch_net).items():
        assert torch.equal(tensor, weights(net)[name]), name


def test_a_parameter_may_be_a_part_of_its_own() -> None:
    class Tempered(Gan):
        def __init__(self, solver: Any) -> None:
            super().__init__(solver)
            self.temperature = nn.Parameter(torch.ones(1))

    net = made(Tempered, two(temperature=one(0.5)))
    fit(net, fast_dev_run=True)
    assert [*net.solver_plans["temperature"].parameters] == ["temperature"]


def test_only_says_more_than_a_name() -> None:
    net = made(
        Gan, {"body": one(only=["generator.*", "discriminator.0.*"]), "head": one(only=["discriminator.[12].*"])}
    )
    net.training_step = lambda batch, batch_idx: None
    fit(net, fast_dev_run=True)
    assert [*net.solver_plans["head"].parameters] == [
        f"discriminator.{i}.{n}" for i in (1, 2) for n in ("weight", "bias")
    ]


MISTAKES: dict[str, tuple[Any, str]] = {
    "in none": ({"generator": one()}, r"discriminator\.0\.weight: is trainable, but no optimiser trains it; got 6 such"),
    "in two": (
        two(discriminator=one(only=["discriminator.*", "generator.bias"])),
        r"generator\.bias: would be trained by more than one optimiser; got generator and discriminator; narrow",
    ),
    "no such submodule": (
        {"genrator": one(), "discriminator": one()},
        r"solver\.genrator: the module has no submodule of this name; got 'genrator'; did you mean generator",
    ),
    "only matches nothing": (
        two(discriminator=one(only=["discriminator.0.*", "discriminater.1.*"])),
        r"^solver\.discriminator\.only: matches no parameter; got 'discriminater\.1\.\*'; nearest names: discriminator\.1",
    ),
    "only is far off": (
        two(discriminator=one(only="xyz.*")),
        r"^solver\.discriminator\.only: matches no parameter; got 'xyz\.\*'; names start with: generator, discriminator",
    ),
    "a mistake of one": (
        two(generator=one(schedules={"lr": [Cosine(until="3ep")]})),
        r"^generator\.schedules\.lr\.until: reaches beyond the run",
    ),
    "rule of the other": (two(generator=one(rules=[Rule(match="discriminator.*", lr_scale=2.0)])), r"^generator\.rules"),
}  # fmt: skip


@pytest.mark.parametrize(("solver", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found_before_the_first_step(solver: Any, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        fit(made(Gan, solver))


def test_a_tied_parameter_belongs_to_one() -> None:
    class Tied(Gan):
        def __init__(self, solver: Any) -> None:
            super().__init__(solver)
            self.discriminator[0] = self.generator

    with pytest.raises(SolverError, match=r"generator\.weight: would be trained by more than one optimiser"):
        fit(made(Tied, two()))
    net = made(Tied, two(discriminator=one(only=["discriminator.[12].*"])))
    net.discriminator[1], net.discriminator[2] = nn.LayerNorm(8), nn.Linear(8, 1)
    fit(net, fast_dev_run=True)


def test_frozen_parameters_need_no_optimiser() -> None:
    class Judged(Gan):
        def __init__(self) -> None:
            super().__init__()
            self.judge = nn.Linear(2, 2).requires_grad_(False)

    fit(made(Judged), fast_dev_run=True)


def test_several_under_automatic_optimisation_are_refused() -> None:
    net = Net()
    net.solver = {"backbone": one(), "head": one()}
    with pytest.raises(SolverError, match=r"Net\.solver: several optimisers need manual.*got backbone, head; set self"):
        fit(net)


def test_batches_per_step_is_for_manual_optimisation() -> None:
    with pytest.raises(
        SolverError, match=r"batches_per_step: is for manual optimisation.*got 2; use accumulate, or set"
    ):
        fit(Net(one(batches_per_step=2)))


# ------------------------------------------------------------------ what is a mapping of names


def test_names_are_told_from_settings() -> None:
    assert names_parts({"generator": one(), "discriminator": {"lr": 0.1}})
    assert names_parts({"lr": one()})
    assert not names_parts({"optimizer": {"name": "SGD"}, "genrator": {"lr": 0.1}})
    assert not names_parts({"schedule": {"cosine": {}}})
    assert not names_parts({})


def test_mappings_are_read_and_a_mistake_has_its_path() -> None:
    net = Gan({"generator": {"lr": 0.1}, "discriminator": one()})
    assert net.solver["generator"] == SolverSpec(lr=0.1)
    with pytest.raises(SolverError, match=r"^solver\.generator\.optimiser: unknown key.*did you mean optimizer"):
        Gan({"generator": {"optimiser": {"name": "SGD"}, "lr": 0.1}, "discriminator": one()})
    with pytest.raises(SolverError, match="solver: has a key that is no name; got 3"):
        Gan({3: one()})
    with pytest.raises(SolverError, match=r"^solver: is an empty mapping; got \{\}; give optimizer: \{name: AdamW"):
        Gan({})
    with pytest.raises(SolverError, match=r"Gan\.solver: is not a SolverSpec; got 3"):
        Gan(3)


def test_hyper_parameters_are_plain_and_copies_leave_the_run_behind(tmp_path: Path) -> None:
    net = made()
    assert net.hparams.solver is None
    net = made(Gan, two())
    ran = fit(net, max_epochs=1)
    ran.save_checkpoint(tmp_path / "x.ckpt")
    again = Gan.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert again.solver == net.solver
    assert type(torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]["solver"]) is dict
    assert copy.deepcopy(net).solver_parts == {}


def test_several_have_no_one_learning_rate() -> None:
    net = made()
    assert not hasattr(net, "solver_lr")
    with pytest.raises(AttributeError, match="several optimisers have no one learning rate: generator, discriminator"):
        net.solver_lr = 0.1


# ------------------------------------------------------------------ a turn


def test_a_turn_leaves_no_gradient_behind_and_nothing_frozen() -> None:
    seen = []

    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator") as taken:
            seen.append([p.requires_grad for p in net.parameters()])
            loss = net.loss_of("generator", batch)
            net.manual_backward(loss * 0, retain_graph=True)
            seen.append([p.grad is not None for p in net.parameters()])
            assert taken.step(loss)
        seen.append([p.requires_grad for p in net.parameters()])
        seen.append([p.grad is not None for p in net.parameters()])
        assert taken.steps == batch_idx + 1

    fit(made(Each, turns), limit_train_batches=1, max_epochs=1)
    alone = [True] * 2 + [False] * 6
    assert seen == [alone, alone, [True] * 8, [False] * 8]


def test_what_requires_no_gradient_stays_so() -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        net.discriminator[0].bias.requires_grad_(False)
        turn(net, "generator", batch)
        assert not net.discriminator[0].bias.requires_grad
        assert net.discriminator[0].weight.requires_grad

    fit(made(Each, turns), limit_train_batches=1, max_epochs=1)


def test_an_exception_leaves_nothing_frozen() -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        with contextlib.suppress(KeyError), net.solver_turn("generator"):
            raise KeyError
        assert all(p.requires_grad for p in net.parameters())
        turn(net, "discriminator", batch)

    fit(made(Each, turns), limit_train_batches=1, max_epochs=1)


def test_accumulation_averages_gradients_of_one_part() -> None:
    def small(net: Any, batch: Tensor, batch_idx: int) -> None:
        assert turn(net, "generator", batch, accumulate=4) is (batch_idx % 4 == 3)

    def large(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "generator", batch)

    a, b = made(Each, small, two(generator=one(batches_per_step=4))), made(Each, large)
    fit(a, loader(64, 4), max_epochs=1)
    fit(b, loader(64, 16), max_epochs=1)
    assert a.used["generator"] == b.used["generator"] == a.solver_plans["generator"].curve("lr").tolist()
    for name, tensor in weights(a).items():
        torch.testing.assert_close(tensor, weights(b)[name])


def test_a_window_goes_on_into_the_next_epoch(caplog: pytest.LogCaptureFixture) -> None:
    """10 batches of 3 an epoch: steps after batches 3, 6, 9, 12, 15, 18; two batches remain."""
    net = made(Gan, {name: one(batches_per_step=3) for name in PARTS}, accumulate=3)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net)
    assert [part.scheduler.last_epoch for part in net.solver_parts.values()] == [6, 6]
    assert [plan.run.total_steps for plan in net.solver_plans.values()] == [7, 7]
    assert "the last 2 of 3 batches of generator have led to no step: the run ended in mid-window" in caplog.text
    assert "the plan was made" not in caplog.text


@pytest.mark.parametrize("how", [4, {0: 4}, Accumulation(4), Accumulation({0: 4, 10: 4})], ids=repr)
def test_accumulation_of_the_specification_is_that_of_turns(how: Any) -> None:
    def large(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "generator", batch)

    def small(net: Any, batch: Tensor, batch_idx: int) -> None:
        assert turn(net, "generator", batch) is (batch_idx % 4 == 3)

    a, b = made(Each, small, two(generator=one(accumulate=how))), made(Each, large)
    fit(a, loader(64, 4), max_epochs=1)
    fit(b, loader(64, 16), max_epochs=1)
    plan = a.solver_plans["generator"]
    assert (plan.run.total_steps, plan.run.batches_per_step) == (4, 4)
    assert a.used["generator"] == b.used["generator"] == plan.curve("lr").tolist()
    for name, tensor in weights(a).items():
        torch.testing.assert_close(tensor, weights(b)[name])


def test_each_accumulates_by_its_own_specification(caplog: pytest.LogCaptureFixture) -> None:
    """20 batches: 10 steps and 4."""
    net = made(Gan, {"generator": one(accumulate=2), "discriminator": one(accumulate=5)})
    assert told(caplog, net) == ""
    follows_its_plans(net)
    assert [plan.run.total_steps for plan in net.solver_plans.values()] == [10, 4]
    assert [plan.run.steps_per_epoch for plan in net.solver_plans.values()] == [5, 2]


def test_a_turn_may_repeat_what_the_specification_says_but_not_differ_from_it() -> None:
    accumulated = {name: one(accumulate=2) for name in PARTS}
    net = made(Gan, accumulated, accumulate=2)
    fit(net)
    follows_its_plans(net)
    message = (
        "solver_turn: accumulate: is not the 2 that generator has in its specification, and its plan; got 4; "
        "say it in one place; batches_per_step in place of accumulate leaves it to the turns"
    )
    with pytest.raises(SolverError, match=f"^{message}$"):
        fit(made(Gan, accumulated, accumulate=4))


def test_batches_per_step_leaves_accumulation_to_the_turns() -> None:
    """Four batches a step: two windows of two, every other one left out of the turns."""

    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "discriminator", batch)
        if batch_idx % 4 < 2:
            turn(net, "generator", batch, accumulate=2)

    net = made(Each, turns, two(generator=one(batches_per_step=4)))
    fit(net, loader(48))
    follows_its_plans(net)


CHANGING: dict[str, tuple[Any, str]] = {
    "in mid-run": ({0: 1, "1ep": 4}, "got 1 batch a step, 4 from 1ep on; give a number of batches"),
    "samples": (Accumulation(samples=8), "got 8 samples a step; give a number of batches"),
    "weighted": (Accumulation(2, weigh_by="tokens"), "got 2 batches a step, weighted by tokens; .* weigh the losses"),
    "kept": (Accumulation(2, keep_gradients=True), "got True; drop it, and write checkpoints between windows"),
}


@pytest.mark.parametrize(("how", "got"), CHANGING.values(), ids=CHANGING)
def test_accumulation_that_turns_cannot_make(how: Any, got: str) -> None:
    with pytest.raises(SolverError, match=f"cannot be had under manual optimisation; {got}"):
        fit(made(Gan, two(generator=one(accumulate=how))))


class Look(Callback):
    """The norm and the greatest value of the gradients with which each step is made."""

    role = "monitor"  # so that it acts after the clipping

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.values: list[float] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.callbacks = arrange(trainer.callbacks)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        self.values.append(float(max(g.abs().max() for g in gradients)))


def test_each_is_clipped_as_its_specification_says() -> None:
    """The generator by norm, the discriminator by value; each alone."""
    look = Look()
    clips = {"generator": one(clip=GlobalNorm(0.01)), "discriminator": one(clip=Value(0.003))}
    fit(made(Gan, clips), callbacks=[look], max_epochs=1)
    assert look.norms[::2] == pytest.approx([0.01] * 10, rel=1e-4)
    assert look.values[1::2] == pytest.approx([0.003] * 10)
    look = Look()
    fit(made(Gan, two(generator=one(clip=GlobalNorm(0.01)))), callbacks=[look], max_epochs=1)
    assert look.norms[::2] == pytest.approx([0.01] * 10, rel=1e-4)
    assert min(look.norms[1::2]) > 0.05


def test_a_window_is_clipped_once_and_as_a_whole() -> None:
    look = Look()
    clipped = {name: one(clip=GlobalNorm(0.01), accumulate=5) for name in PARTS}
    fit(made(Gan, clipped), callbacks=[look], max_epochs=1)
    assert look.norms == pytest.approx([0.01] * 4, rel=1e-4)


def test_the_limit_follows_the_steps_of_its_own_optimiser() -> None:
    """The generator makes a step for every other of the discriminator's."""

    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "discriminator", batch)
        if batch_idx % 2:
            turn(net, "generator", batch)

    look = Look()
    falling = GlobalNorm(0.01, schedule=Linear(end=0.1))
    solver = {name: one(clip=falling, batches_per_step=n) for name, n in zip(PARTS, (2, 1))}
    net = made(Each, turns, solver)
    fit(net, callbacks=[look])
    limits = {name: plan.curve("clip")[:, 0].tolist() for name, plan in net.solver_plans.items()}
    assert limits["discriminator"] == pytest.approx(falling.limits(total_steps=20).tolist())
    assert limits["generator"] == pytest.approx(falling.limits(total_steps=10).tolist())
    made_by = {"discriminator": [], "generator": []}
    norms = iter(look.norms)
    for batch in range(20):
        made_by["discriminator"].append(next(norms))
        if batch % 2:
            made_by["generator"].append(next(norms))
    for name in PARTS:
        assert made_by[name] == pytest.approx(limits[name], rel=1e-3)


def test_nonfinite_gradients_of_one_stop_that_one_only() -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        for name in PARTS:
            with net.solver_turn(name) as taken:
                wrong = name == "generator" and batch_idx in (1, 2)
                results[name].append(taken.step(net.loss_of(name, batch) * (float("nan") if wrong else 1.0)))

    results: dict[str, list[bool]] = {name: [] for name in PARTS}
    net = made(Each, turns, {name: one(nonfinite="skip", clip=GlobalNorm(1.0)) for name in PARTS})
    fit(net, max_epochs=1)
    assert results == {"generator": [True, False, False] + [True] * 7, "discriminator": [True] * 10}
    assert [part.scheduler.last_epoch for part in net.solver_parts.values()] == [8, 10]
    work = next(one for one in net.trainer.callbacks if isinstance(one, SolverClipping)).at_work
    assert {name: (one.found, one.in_a_row) for name, one in work.items()} == {
        "generator": (2, 0),
        "discriminator": (0, 0),
    }
    assert all(tensor.isfinite().all() for tensor in weights(net).values())
    with pytest.raises(
        SolverError, match=r"^generator\.nonfinite: the norm of the gradients is not finite at step 1; got"
    ):
        fit(made(Each, turns, two(generator=one(nonfinite="error"))))


def test_a_none_loss_leaves_its_batch_out() -> None:
    """Windows of two: one with both, one with one, one with none."""

    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator", accumulate=2) as taken:
            made = taken.step(None if batch_idx in (2, 4, 5) else net.loss_of("generator", batch))
        results.append(made)

    results: list[bool] = []
    net = made(Each, turns, two(generator=one(batches_per_step=2)))
    ran = fit(net, limit_train_batches=6, max_epochs=1)
    assert results == [False, True, False, True, False, False]
    assert ran.global_step == net.solver_schedulers["generator"].last_epoch == 2


def test_a_step_that_the_loss_scaler_skips_is_no_step() -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator") as taken:
            loss = net.loss_of("generator", batch)
            results.append(taken.step(loss * (float("inf") if batch_idx == 1 else 1.0)))

    results: list[bool] = []
    net = made(Each, turns, two(generator=one(clip=GlobalNorm(1.0))))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    half = MixedPrecision("16-mixed", "cpu", scaler)
    half.autocast_context_manager = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    fit(net, plugins=[half], limit_train_batches=3, max_epochs=1)
    assert results == [True, False, True]
    assert net.solver_schedulers["generator"].last_epoch == 2
    assert net.used["generator"][1] == net.used["generator"][2]


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_under_a_loss_scaler_is_of_the_true_gradient(fused: bool) -> None:
    plain = SolverSpec(optimizer=OptimizerSpec("SGD", {"lr": 0.1, "fused": fused}), clip=GlobalNorm(0.01))

    def run(scaled: bool) -> dict[str, Tensor]:
        net = made(Gan, dict.fromkeys(PARTS, plain))
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        half.autocast_context_manager = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        fit(net, max_epochs=1, plugins=[half] if scaled else None)
        return weights(net)

    with_scaler, without = run(True), run(False)
    for name, tensor in without.items():
        torch.testing.assert_close(with_scaler[name], tensor)


WRONG: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "name": (lambda net, b: turn(net, "genrator", b), "solver_turn: there is no optimiser of this name; got 'genrator'; did you mean"),
    "no name": (lambda net, b: turn(net, None, b), "whose turn is it.*give one of generator, discriminator"),  # type: ignore[arg-type]
    "accumulate": (lambda net, b: turn(net, "generator", b, accumulate=0), "solver_turn: accumulate: must be a whole number >= 1; got 0"),
    "changed": (lambda net, b: [turn(net, "generator", b, accumulate=n) for n in (3, 2)], "accumulate: is changed after 1 of 3 batches; got 2"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_turns(call: Any, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        fit(made(Each, lambda net, batch, batch_idx: call(net, batch)))


def test_turns_within_each_other_and_after_their_end() -> None:
    def within(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator"):
            turn(net, "discriminator", batch)

    def late(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator") as taken:
            pass
        taken.step(net.loss_of("generator", batch))

    with pytest.raises(SolverError, match="turns cannot lie within each other; got 'discriminator'"):
        fit(made(Each, within))
    with pytest.raises(SolverError, match="the turn is over; got 'generator'; call it inside"):
        fit(made(Each, late))


def test_losses_without_a_gradient() -> None:
    def detached(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator") as taken:
            taken.step(net.loss_of("generator", batch).detach())

    def number(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn("generator") as taken:
            taken.step(0.5)

    with pytest.raises(SolverError, match="the loss does not depend on the parameters of generator; got a tensor"):
        fit(made(Each, detached))
    with pytest.raises(SolverError, match=r"takes the loss; got 0\.5; give a tensor of one number"):
        fit(made(Each, number))


def test_turns_are_for_manual_optimisation() -> None:
    class Automatic(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            with self.solver_turn():
                pass

    with pytest.raises(SolverError, match=r"solver_turn: is for manual optimisation.*automatic_optimization = False"):
        fit(Automatic(one()))


class Single(Net):
    """One spec, manual optimisation."""

    def __init__(self, solver: SolverSpec, **turn: Any) -> None:
        super().__init__(solver)
        self.automatic_optimization = False
        self.turn = turn

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        with self.solver_turn(**self.turn) as taken:
            taken.step((self.head(self.backbone(batch)) - batch[:, :2]).square().mean())


def test_one_spec_under_manual_optimisation_is_as_under_automatic() -> None:
    manual, automatic = made(Single, one()), made(Net, one())
    fit(manual)
    fit(automatic)
    assert manual.used == automatic.used == manual.solver_plan.curve("lr").tolist()
    for name, tensor in weights(automatic).items():
        assert torch.equal(tensor, weights(manual)[name])


# ------------------------------------------------------------------ how long


class Told:
    """Stands for a Trainer that knows its data."""

    def __init__(self, batches: float, max_epochs: int | None = None, max_steps: int = -1) -> None:
        self.num_training_batches, self.max_epochs, self.max_steps = batches, max_epochs, max_steps
        self.limit_train_batches, self.train_dataloader, self.ckpt_path = 1.0, loader(), None
        self.world_size, self.strategy = 1, None


LENGTHS = {
    "epochs": (Told(10, 4), {"a": "1", "b": "1"}, {"a": 40, "b": 40}),
    "a fraction of the batches": (Told(10, 4), {"a": "5", "b": "1"}, {"a": 8, "b": 40}),
    "two steps a batch": (Told(10, 4), {"a": "1/2"}, {"a": 80}),
    "a begun step counts": (Told(10, 4), {"a": "3"}, {"a": 14}),
    "max_steps counts all": (Told(10, None, 100), {"a": "1", "b": "1"}, {"a": 50, "b": 50}),
    "max_steps of unequal": (Told(10, None, 60), {"a": "5", "b": "1"}, {"a": 10, "b": 50}),
    "max_steps in mid-batch": (Told(10, None, 7), {"a": "1", "b": "1/2"}, {"a": 3, "b": 6}),
    "what ends first": (Told(10, 2, 100), {"a": "1", "b": "1"}, {"a": 20, "b": 20}),
    "of unknown epochs": (Told(float("inf"), 2, 10), {"a": "1", "b": "1"}, {"a": 5, "b": 5}),
}  # fmt: skip


@pytest.mark.parametrize(("told", "each", "expected"), LENGTHS.values(), ids=LENGTHS)
def test_length_of_the_run(told: Any, each: dict[str, str], expected: dict[str, int]) -> None:
    runs = manual_run_lengths(told, {name: Fraction(text) for name, text in each.items()})
    assert {name: run.total_steps for name, run in runs.items()} == expected
    for name, run in runs.items():
        assert run.batches_per_step == Fraction(each[name])
        epoch = None if told.num_training_batches == float("inf") else told.num_training_batches / Fraction(each[name])
        assert run.steps_per_epoch == epoch
        assert run.samples_per_step == (4 if run.batches_per_step == 1 else None)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Told(10, None), "neither max_epochs nor max_steps ends the run"),
        (Told(float("inf"), 3), "the train loader has no length and max_steps is not set"),
        (Told(10, 0), "there is nothing to train"),
        (Told(0, 3), "there are no train batches"),
    ],
)
def test_a_length_that_is_not_known(told: Any, why: str) -> None:
    run = manual_run_lengths(told, {"a": Fraction(1)})["a"]
    assert run.total_steps is None
    assert why in str(run.unknown)


@pytest.mark.parametrize("max_steps", [1, 2, 7, 12, 13, 30])
@pytest.mark.parametrize("each", ["1", "1/2", "1/3"])
def test_max_steps_ends_the_run_where_the_plan_does(max_steps: int, each: str) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        for _ in range(int(1 / Fraction(each))):
            turn(net, "discriminator", batch)
        turn(net, "generator", batch)

    net = made(Each, turns, two(discriminator=one(batches_per_step=each)))
    fit(net, max_epochs=-1, max_steps=max_steps)
    follows_its_plans(net)


@pytest.mark.parametrize("first", [0, 4])
def test_a_critic_that_makes_five_steps_for_one(first: int, caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "discriminator", batch)
        if batch_idx % 5 == first:
            turn(net, "generator", batch)

    until = {"lr": [Linear(start=0.1, until="1ep"), Cosine(until="2ep")]}
    net = made(Each, turns, two(generator=one(batches_per_step=5, schedules=until)))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net)
    follows_its_plans(net)
    assert caplog.text == ""


def told(caplog: pytest.LogCaptureFixture, net: Any, **kwargs: Any) -> str:
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        fit(net, **kwargs)
    return caplog.text


def test_steps_that_the_plan_does_not_know_are_told_after_the_first_epoch(caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        turn(net, "generator", batch)
        if batch_idx % 2:
            turn(net, "discriminator", batch)

    text = told(caplog, made(Each, turns))
    assert (
        "5 optimiser steps of discriminator were made in the first epoch, 10 were planned: say batches_per_step, 1 "
        in text
    )
    assert "made for 20 optimiser steps of discriminator (batches_per_step 1), but the run made 10" in text
    assert "of generator" not in text


def test_a_run_that_is_as_planned_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, made()) == ""
    assert told(caplog, made(Single, one())) == ""
    assert told(caplog, made(), max_epochs=-1, max_steps=13) == ""


def test_a_run_that_is_stopped_on_purpose_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = trainer.global_step >= 6

    assert told(caplog, made(), callbacks=[Stop()]) == ""


def only_the_generator(net: Any, batch: Tensor, batch_idx: int) -> None:
    turn(net, "generator", batch)


IDLE = "discriminator has made no step: training_step never took its turn, self.solver_turn('discriminator')"


@pytest.mark.parametrize("schedules", [{}, {"lr": [Cosine()]}], ids=["without schedules", "with schedules"])
@pytest.mark.parametrize("run", [{}, {"max_epochs": 1}], ids=repr)
def test_an_optimiser_that_makes_no_step_is_told_once(
    schedules: Any, run: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    text = told(caplog, made(Each, only_the_generator, two(discriminator=one(schedules=schedules))), **run)
    assert [record.message for record in caplog.records] == [IDLE], text


def test_an_optimiser_that_makes_no_step_is_told_after_the_first_epoch(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(IDLE in caplog.text)

    told(caplog, made(Each, only_the_generator), callbacks=[Look()])
    assert seen == [False, True]


def test_an_optimiser_that_makes_no_step_before_the_run_is_stopped_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = trainer.global_step >= 3

    assert IDLE in told(caplog, made(Each, only_the_generator), callbacks=[Stop()])


def test_a_single_optimiser_that_makes_no_step_by_hand_is_told(caplog: pytest.LogCaptureFixture) -> None:
    net = made(Each, lambda net, batch, batch_idx: None, one(schedules={}))
    assert "solver has made no step: training_step never took its turn, self.solver_turn()" in told(caplog, net)


def test_turns_without_a_gradient_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        only_the_generator(net, batch, batch_idx)
        with net.solver_turn("discriminator") as taken:
            taken.step(None)

    text = told(caplog, made(Each, turns), max_epochs=1)
    assert "discriminator has made no step: none of the losses that its turns were given (10) led to one" in text


@pytest.mark.parametrize("each", [10, 11, 15])
def test_an_optimiser_that_waits_for_its_first_window_is_not_told(each: int, caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        only_the_generator(net, batch, batch_idx)
        turn(net, "discriminator", batch, accumulate=each)

    text = told(caplog, made(Each, turns, two(discriminator=one(batches_per_step=each))))
    assert "has made no step" not in text
    assert "the plan was made" not in text


def test_steps_by_hand_that_leave_the_schedules_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        for name, optimizer in zip(PARTS, net.optimizers()):
            optimizer.zero_grad()
            net.manual_backward(net.loss_of(name, batch))
            optimizer.step()

    text = told(caplog, made(Each, turns, two(generator=one(schedules={}))))
    assert "the schedules of discriminator never moved: under manual optimisation call self.lr_schedulers()" in text
    assert "of generator" not in text
    assert "made no step" not in text


def test_schedulers_may_be_driven_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    def turns(net: Any, batch: Tensor, batch_idx: int) -> None:
        for name, optimizer, scheduler in zip(PARTS, net.optimizers(), net.lr_schedulers()):
            optimizer.zero_grad()
            net.manual_backward(net.loss_of(name, batch))
            optimizer.step()
            scheduler.step()

    net = made(Each, turns)
    assert told(caplog, net) == ""
    follows_its_plans(net)


def test_fast_dev_run_allows_phases_beyond_it() -> None:
    long = {"lr": [Linear(start=0.1, until="1ep"), Cosine(until=1000)]}
    net = made(Gan, two(generator=one(schedules=long)))
    fit(net, fast_dev_run=3)
    assert {name: part.scheduler.last_epoch for name, part in net.solver_parts.items()} == dict.fromkeys(PARTS, 2)


def test_a_loader_without_length() -> None:
    net = made()
    fit(net, Stream(100), max_epochs=-1, max_steps=20)
    follows_its_plans(net)
    with pytest.raises(SolverError, match=r"generator\.schedules\.lr.*needs the length of the run"):
        fit(made(), Stream(100), max_epochs=2)


def test_a_second_fit_of_one_trainer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    net, ran = made(), trainer(max_epochs=2)
    ran.fit(net, loader())
    ran.fit_loop.max_epochs = 4
    for used in net.used.values():
        used.clear()
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        ran.fit(net, loader())
    for name, plan in net.solver_plans.items():
        assert net.used[name] == plan.curve("lr")[20:].tolist()
    assert "training goes on at step 20 of discriminator with a new optimiser" in caplog.text


# ------------------------------------------------------------------ resume


class StopAfter(Callback):
    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.batches:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


class Remember(Callback):
    """Keeps the state of the optimisers at the end."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.state = {n: copy.deepcopy(p.optimizer.state_dict()["state"]) for n, p in pl_module.solver_parts.items()}


def saved(tmp_path: Path, batches: int = 10, net: Any = None) -> Path:
    path = tmp_path / "x.ckpt"
    torch.manual_seed(0)
    trainer(max_epochs=2, callbacks=[StopAfter(batches, path), RandomState()]).fit(net or made(), loader())
    return path


def resumed(path: Path, net: Any, *callbacks: Callback) -> Any:
    again = trainer(max_epochs=2, callbacks=[RandomState(), *callbacks])
    again.fit(net, loader(), ckpt_path=path, weights_only=True)
    return again


@pytest.mark.parametrize("names", [PARTS, PARTS[::-1]], ids=["as it was", "in another order"])
def test_resume_is_bitwise_whatever_the_order_of_names(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    straight, end = made(), Remember()
    torch.manual_seed(0)
    trainer(max_epochs=2, callbacks=[RandomState(), end]).fit(straight, loader())
    again, other_end = made(Gan, {name: two()[name] for name in names}), Remember()
    path = saved(tmp_path)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed(path, again, other_end)
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(again)[name])
    assert [*again.solver_parts] == list(names)
    for name in PARTS:
        assert again.used[name] == straight.used[name][10:]
        for key, state in end.state[name].items():
            assert all(torch.equal(value, other_end.state[name][key][option]) for option, value in state.items())
    assert caplog.text == ""


def test_other_names_are_refused(tmp_path: Path) -> None:
    def single(net: Any, batch: Tensor, batch_idx: int) -> None:
        with net.solver_turn() as taken:
            taken.step(net.loss_of("discriminator", batch))

    path = saved(tmp_path)
    message = "ckpt_path: the checkpoint holds the states of other optimisers; got {} then, {} now; resume by the names"
    then = "generator, discriminator"
    with pytest.raises(SolverError, match=message.format(then, "g, d")):
        resumed(path, Gan({"g": one(only="generator.*"), "d": one(only="discriminator.*")}))
    with pytest.raises(SolverError, match=message.format(then, "solver")):
        resumed(path, made(Each, single, one()))
    alone = saved(tmp_path, net=made(Each, single, one()))
    with pytest.raises(SolverError, match=message.format("solver", then)):
        resumed(alone, made())
    bare = torch.load(path, weights_only=True)
    del bare["lightning_solver_parts"]
    torch.save(bare, path)
    with pytest.raises(SolverError, match=message.format("one of unknown name", then)):
        resumed(path, made())


def test_a_sharded_checkpoint_is_not_put_into_another_order() -> None:
    """It holds no list of optimiser states: the strategy restores them by their place in the run."""
    written = {"lightning_solver_parts": {"names": ["a", "b"], "gathered": {"a": 0, "b": 1}}, "lr_schedulers": [1, 2]}
    assert sort_states(copy.deepcopy(written), ["a", "b"]) == ["b: 1 batch"]
    with pytest.raises(SolverError, match=r"in another order than in the sharded.*got a, b then, b, a now; name them"):
        sort_states(copy.deepcopy(written), ["b", "a"])
    full = {**copy.deepcopy(written), "optimizer_states": ["A", "B"]}
    for _ in range(2):  # a strategy may have it loaded twice
        sort_states(full, ["b", "a"])
    assert (full["optimizer_states"], full["lr_schedulers"]) == (["B", "A"], [2, 1])


def test_a_changed_spec_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path)
    again = made(Gan, two(generator=one(0.5)))
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed(path, again)
    assert "optimizer.args.lr: 0.01 -> 0.5" in caplog.text
    assert again.used["generator"] == again.solver_plans["generator"].curve("lr")[10:].tolist()


@pytest.mark.parametrize("single", [True, False], ids=["automatic", "by turns"])
def test_samples_of_a_step_are_known_on_resume(single: bool, tmp_path: Path) -> None:
    scaled = one(base_batch_size=8)
    nets = [made(Net, scaled) if single else made(Gan, dict.fromkeys(PARTS, scaled)) for _ in range(2)]
    resumed(saved(tmp_path, net=nets[0]), nets[1])
    assert [run.samples_per_step for run in nets[1].run_lengths().values()] == [4] * len(nets[1].solver_parts)
    for plan in nets[1].solver_plans.values():
        assert plan.run.samples_per_step == 4
        assert plan.groups[0].options["lr"] == pytest.approx(0.005)


def test_gradients_of_a_window_are_not_in_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    each = {name: one(batches_per_step=4) for name in PARTS}
    path = saved(tmp_path, 10, made(Gan, each, accumulate=4))
    caplog.clear()
    again = made(Gan, each, accumulate=4)
    with caplog.at_level(logging.WARNING, "lightning_solver"):
        resumed(path, again)
    assert (
        "gathered by then are lost, and a new window begins\n  generator: 2 batches\n  discriminator: 2 b"
        in caplog.text
    )
    assert again.solver_schedulers["generator"].last_epoch == 4  # after 4, 8 of the first run, 14 and 18


def test_a_checkpoint_of_several_is_read_and_compared(tmp_path: Path) -> None:
    path = str(saved(tmp_path))
    found = stored_parts(path)
    assert {name: (one.spec, one.step) for name, one in found.items()} == {n: (s, 10) for n, s in two().items()}
    with pytest.raises(SolverError, match="holds several solvers; got generator, discriminator"):
        stored(path)
    run = RunLength(total_steps=20)
    assert compare_parts(found, found, run) == (False, "no difference")
    differ, text = compare_parts(found, {"generator": found["discriminator"]}, run)
    assert differ
    assert "generator\n" in text
    assert "optimizer.args.lr: 0.01 -> 0.02" in text
    assert "discriminator: only in a" in text


def test_the_learning_rate_monitor_logs_both(tmp_path: Path) -> None:
    fit(made(), callbacks=[LearningRateMonitor()], logger=CSVLogger(tmp_path), log_every_n_steps=1, max_epochs=1)
    head = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"lr/generator/default", "lr/discriminator/default"} <= set(head)


@pytest.mark.slow
def test_two_processes() -> None:
    done = start(Path(__file__).parent / "manual_cases.py")
    assert done.returncode == 0, done.stderr[-4000:]
