"""callbacks.order: who acts after whom follows from roles, not from the order of a list."""

from __future__ import annotations

import graphlib
import importlib
import inspect
import itertools
import pkgutil
import random
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_solver.callbacks as folder
from lightning_solver import roles
from lightning_solver.callbacks import EMA, SWA, GradientAccumulation, GradientClipping, PowerEMA
from lightning_solver.callbacks.order import ROLES, STEP_HOOKS, Role, arrange, describe, role_of
from lightning_solver.clipping import GlobalNorm
from lightning_solver.plain import FrozenDict
from lightning_solver.roles import in_order
from small import Net, loader, spec, trainer


class Acts(Callback):
    """Notes that it has acted."""

    def __init__(self, role: Any = None, name: str = "") -> None:
        self.name = name
        if role is not None:
            self.role = role


class Own(Callback):
    """Somebody's own, with a hook in the step."""

    def on_before_optimizer_step(self, *args: Any) -> None:
        pass


CALLBACK_ROLES = [name for name, role in ROLES.items() if role.by_callback]


def all_callbacks() -> list[type[Callback]]:
    """Every callback class of the package that can be made."""
    found: dict[type[Callback], None] = {}
    for info in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Callback) and value.__module__ == module.__name__:
                found[value] = None
    return [cls for cls in found if not inspect.isabstract(cls) and not cls.__name__.startswith("_")]


# ------------------------------------------------------------------ roles


def test_every_role_comes_after_those_that_it_needs() -> None:
    order = in_order()
    assert sorted(order) == sorted(ROLES)
    for name, role in ROLES.items():
        assert all(order.index(other) < order.index(name) for other in role.after), name


@pytest.mark.parametrize(
    ("first", "then"),
    [*itertools.pairwise(["guard", "accumulate", "clip", "step", "schedule", "average", "mode", "monitor", "random"])],
)
def test_what_a_step_is_made_of_is_in_order(first: str, then: str) -> None:
    assert in_order().index(first) < in_order().index(then)


def test_gradients_of_what_is_frozen_are_dropped_before_they_are_clipped() -> None:
    assert "freeze" in ROLES["clip"].after
    assert "accumulate" in ROLES["clip"].after


def test_no_circle_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = {**ROLES, "guard": Role("waits for the last", ("monitor",))}
    monkeypatch.setattr(roles, "ROLES", FrozenDict(circle))
    with pytest.raises(graphlib.CycleError):
        in_order()


def test_the_order_does_not_hang_on_how_roles_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = list(ROLES.items())
    random.Random(3).shuffle(shuffled)
    monkeypatch.setattr(roles, "ROLES", FrozenDict(dict(shuffled)))
    order = in_order()
    assert all(order.index(o) < order.index(name) for name, role in ROLES.items() for o in role.after)


def test_every_role_that_is_named_is_one() -> None:
    assert {other for role in ROLES.values() for other in role.after} <= set(ROLES)


def test_the_role_of_a_callback() -> None:
    assert role_of(Acts("clip")) == "clip"
    assert role_of(Acts("step")) is None  # which the Trainer does
    assert role_of(Acts("leader")) is None
    assert role_of(Acts(["clip"])) is None
    assert role_of(Own()) is None


def test_every_callback_that_acts_in_a_step_has_a_role() -> None:
    classes = all_callbacks()
    assert len(classes) > 10
    without = [
        cls.__name__
        for cls in classes
        if any(getattr(cls, hook) is not getattr(Callback, hook) for hook in STEP_HOOKS)
        and getattr(cls, "role", None) not in CALLBACK_ROLES
    ]
    assert without == []


def test_of_any_two_callbacks_with_roles_one_puts_them_in_order() -> None:
    """A single one has nothing to be put in order with."""
    lone = {cls.__name__ for cls in all_callbacks() if getattr(cls, "role", None) and cls.setup is Callback.setup}
    assert lone - {"Freezing", "FollowMetrics"} <= {"OptimizerMode"}  # those two only come with PlanGuard


# ------------------------------------------------------------------ arranging


@pytest.mark.parametrize("seed", range(20))
def test_a_shuffled_list_comes_in_order(seed: int) -> None:
    callbacks = [Acts(role) for role in CALLBACK_ROLES]
    random.Random(seed).shuffle(callbacks)
    before = [*callbacks]
    assert [role_of(one) for one in arrange(callbacks)] == [role for role in in_order() if role in CALLBACK_ROLES]
    assert callbacks == before


@pytest.mark.parametrize("seed", range(20))
def test_callbacks_of_others_keep_their_places(seed: int) -> None:
    callbacks = [Acts(role) for role in CALLBACK_ROLES] + [Acts(name=str(i)) for i in range(6)]
    random.Random(seed).shuffle(callbacks)
    arranged = arrange(callbacks)
    for before, after in zip(callbacks, arranged):
        assert (before is after) or (role_of(before) is not None and role_of(after) is not None)
    assert sorted(map(id, arranged)) == sorted(map(id, callbacks))


def test_those_of_one_role_stay_as_they_are() -> None:
    callbacks = [Acts("average", "a"), Acts("clip", "b"), Acts("average", "c"), Acts("average", "d"), Acts("clip", "e")]
    assert [one.name for one in arrange(callbacks)] == ["b", "e", "a", "c", "d"]
    assert arrange(arrange(callbacks)) == arrange(callbacks)


def test_nothing_and_nobody_of_ours() -> None:
    own = [Own(), Own()]
    assert arrange([]) == []
    assert arrange(own) == own


def test_a_trainers_list_is_arranged_when_it_fits() -> None:
    own, ema, clip, accumulate = Own(), EMA(0.9), GradientClipping(GlobalNorm(1.0)), GradientAccumulation(2)
    fit = trainer(max_epochs=1, callbacks=[ema, own, clip, accumulate])
    fit.fit(Net(spec()), loader())
    callbacks: list[Any] = fit.callbacks  # type: ignore[attr-defined]
    assert callbacks[1] is own
    found = [role_of(one) for one in callbacks if role_of(one) is not None]
    ranks = [in_order().index(role or "") for role in found]
    assert ranks == sorted(ranks)
    assert callbacks.index(accumulate) < callbacks.index(clip) < callbacks.index(ema)


# ------------------------------------------------------------------ words


def test_the_order_in_words() -> None:
    idle = SWA("50%", 1)
    told = describe([EMA(0.9), Own(), ModelCheckpoint(), idle, GradientAccumulation({0: 1, 5: 4})], idle=[idle])
    assert [" ".join(line.split()) for line in told] == [
        "GradientAccumulation scales losses, and gradients at the end, to what a window holds",
        "Own your own, in on_before_optimizer_step",
        "ModelCheckpoint of Lightning, in on_train_batch_end",
        "EMA takes in the weights that a step has made",
        "SWA has nothing to do in this run",
    ]
    assert len({line.index("  ") <= 20 for line in told}) == 1


def test_with_the_module_there_is_more_to_say() -> None:
    (line,) = describe([GradientAccumulation({0: 1, "5ep": 4})], module=Net(spec()))
    assert line.endswith("to what a window holds: 1 batch a step, 4 from 5ep on")


def test_a_callback_without_a_hook_of_a_step_is_said_to_be_so() -> None:
    assert describe([Acts()]) == ["Acts  your own, in no hook of a step"]
    assert describe([]) == []


def test_power_ema_has_the_role_of_the_averages() -> None:
    assert PowerEMA.role == EMA.role == "average"


def test_what_has_nothing_to_do_in_a_run_is_not_called_in_its_steps_and_is_again_in_the_next() -> None:
    net = Net(spec())
    for accumulate in (None, 2):
        net.solver = spec(accumulate=accumulate)
        fit = trainer(max_epochs=1)
        fit.fit(net, loader())
        hooks = {type(one).__name__: one.on_before_backward for one in fit.callbacks if role_of(one)}
        assert hooks["SolverClipping"] is hooks["Freezing"] is None
        assert callable(hooks["SolverAccumulation"]) is (accumulate is not None)
