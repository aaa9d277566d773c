"""In which order callbacks act: it follows from what each needs done before it, not from the order in a list.

Lightning calls callbacks in the order of the Trainer's list, at every hook. Ours change places among themselves in it;
the others stay where the user has put them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lightning.pytorch import Callback

from lightning_solver.accumulation import Accumulates
from lightning_solver.roles import ROLES, Role, in_order
from lightning_solver.several import by_name

__all__ = ["ROLES", "STEP_HOOKS", "Role", "arrange", "describe", "rest", "role_of", "take_places"]

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""The hooks that Lightning calls around every optimiser step, in the order of a step."""


def take_places(trainer: Any) -> None:
    """Put the callbacks of a Trainer in order; called in the ``setup`` of each of ours.

    Hooks of a step in which one of ours does nothing are taken off it: Lightning leaves out what cannot be called, and
    around every call, also of a hook that does nothing, it spends some three microseconds.

    Args:
        trainer: The Trainer.
    """
    trainer.callbacks = arrange(trainer.callbacks)
    for callback in trainer.callbacks:
        if role_of(callback) is not None:
            for hook in STEP_HOOKS:
                vars(callback).pop(hook, None)
                if getattr(type(callback), hook) is getattr(Callback, hook):
                    vars(callback)[hook] = None


def rest(callback: Any) -> None:
    """Take one of ours off every hook of a step, as it has nothing to do in this run; the next one calls it again.

    Args:
        callback: It.
    """
    vars(callback).update(dict.fromkeys(STEP_HOOKS))


def arrange(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks with ours in the order in which they have to act, in the places that they hold.

    Args:
        callbacks: All callbacks of a Trainer.
    """
    places = [index for index, callback in enumerate(callbacks) if role_of(callback) is not None]
    ranks = {role: rank for rank, role in enumerate(in_order())}
    ours = sorted((callbacks[index] for index in places), key=lambda callback: ranks[role_of(callback) or ""])
    found = [*callbacks]
    for index, callback in zip(places, ours):
        found[index] = callback
    return found


def role_of(callback: Any) -> str | None:
    """The role of a callback; ``None`` of one that is not ours.

    Args:
        callback: It.
    """
    role = getattr(callback, "role", None)
    return role if isinstance(role, str) and role in ROLES and ROLES[role].by_callback else None


def describe(callbacks: Iterable[Any], *, idle: Collection[Any] = (), module: Any = None) -> list[str]:
    """The callbacks in the order in which they act, a line for each.

    Args:
        callbacks: All callbacks of a Trainer.
        idle: Those of them that have nothing to do in the run.
        module: The module that is trained, with which there is more to say.

    Example:
        >>> from lightning_solver.callbacks import EMA, GradientClipping
        >>> from lightning_solver.clipping import GlobalNorm
        >>> for line in describe([EMA(0.99), GradientClipping(GlobalNorm(1.0))]):
        ...     print(line)
        GradientClipping  clips gradients by GlobalNorm (max_norm 1)
        EMA               takes in the weights that a step has made
    """
    found = arrange([*callbacks])
    width = max((len(type(callback).__name__) for callback in found), default=0)
    without = {id(callback) for callback in idle}
    return [f"{type(one).__name__:<{width}}  {_does(one, id(one) in without, module)}" for one in found]


def _does(callback: Any, idle: bool, module: Any) -> str:
    """What a callback does, as far as it is known here."""
    role = role_of(callback)
    if idle:
        return "has nothing to do in this run"
    how = callback.accumulation(module) if isinstance(callback, Accumulates) and module is not None else None
    if how is not None and role is not None:
        return f"{ROLES[role].does}: {how.describe()}"
    looks_after = _clips(callback, module) if role == "clip" else None
    if looks_after is not None:
        return looks_after
    if role is not None:
        return ROLES[role].does
    package = type(callback).__module__.partition(".")[0]
    whose = {"lightning": "of Lightning", "lightning_solver": "of lightning-solver"}.get(package, "your own")
    hooks = [hook for hook in STEP_HOOKS if getattr(type(callback), hook, None) is not getattr(Callback, hook)]
    return whose + (f", in {', '.join(hooks)}" if hooks else ", in no hook of a step")


def _clips(callback: Any, module: Any) -> str | None:
    """What a callback does that looks after gradients, as far as that is known without a run."""
    own = getattr(callback, "_entry", None)
    solver = getattr(module, "solver", None)
    entries = [own] if own is not None else [*by_name(solver).values()] if solver is not None else []
    if not entries:
        return None
    looks, clips = any(one.nonfinite is not None for one in entries), [one.clip for one in entries if one.clip]
    found = ["looks whether gradients are finite"] * looks
    if clips:
        kinds = [one for given in clips for one in (given if isinstance(given, tuple) else (given,))]
        how = ", then ".join(dict.fromkeys(one.describe() for one in kinds))
        found.append(f"clips {'them' if looks else 'gradients'}" + (f" by {how}" if len(clips) == 1 else ""))
    return ", and ".join(found)
