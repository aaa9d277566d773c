"""The step of an optimiser class as its author wrote it, without the hooks that torch wraps around it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def unhooked_step(cls: type[Optimizer]) -> Callable[..., Any]:
    """The step of a class, which runs neither the hooks of an object nor those common to all optimisers.

    Torch wraps the step of each class, when one is first made, into a function that runs the hooks. A step that is part
    of another one, or only tried, is none that they should see.

    Args:
        cls: The optimiser class.

    Returns:
        A function of the optimiser and what its step takes. What others have wrapped around the step stays.
    """
    step: Callable[..., Any] = cls.step
    if isinstance(step, types.FunctionType) and step.__code__ is _wrapper_code():
        inner: Callable[..., Any] = step.__wrapped__  # type: ignore[attr-defined]
        return inner
    return step


def trial_step(optimizer: Optimizer) -> None:
    """One step that nobody's hooks see, of an optimiser that is only tried.

    Args:
        optimizer: The optimiser; one with modes (schedule-free ones) is put into that of training first.
    """
    train = getattr(optimizer, "train", None)
    if callable(train):
        train()
    unhooked_step(type(optimizer))(optimizer)


@functools.cache
def _wrapper_code() -> types.CodeType:
    """The code of torch's wrapper. A mark on the function says less: ``functools.wraps`` copies marks."""
    wrapper: Any = Optimizer.profile_hook_step(_nothing)
    code: types.CodeType = wrapper.__code__
    return code


def _nothing() -> None:
    """A function to wrap."""
