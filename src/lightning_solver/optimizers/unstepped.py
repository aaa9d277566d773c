"""The state of sharded parameters that have never moved, without which torch loads no sharded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.stand_ins import quietly
from lightning_solver.optimizers.unhooked import trial_step


def fill_unstepped(optimizer: Optimizer, saved: dict[str, Any], recipes: Sequence[Recipe]) -> None:
    """Give sharded parameters that an optimiser has no state for yet the zeros from which it would start.

    A parameter that is frozen at first has none, and torch refuses to load a checkpoint of sharded parameters in which
    that of one is missing. Only done where a class that is given zeros takes the very step that it takes without.

    Args:
        optimizer: The optimiser.
        saved: What its ``state_dict`` is about to return; changed in place.
        recipes: The recipe of each group.
    """
    if not saved["state"] or not torch.distributed.is_available():
        return
    from torch.distributed.tensor import DTensor

    state, donors = saved["state"], dict[int, Mapping[str, Any]]()
    pairs = [
        (index, tensor, recipe)
        for group, live, recipe in zip(saved["param_groups"], optimizer.param_groups, recipes)
        for index, tensor in zip(group["params"], live["params"])
    ]
    for index, _, recipe in pairs:
        if index in state:
            donors.setdefault(id(recipe), state[index])
    fitting: dict[int, bool] = {}  # a class is tried once, whatever number of its parameters have not moved
    for index, tensor, recipe in pairs:
        if index in state or not isinstance(tensor, DTensor) or id(recipe) not in donors:
            continue
        if id(recipe) not in fitting:
            fitting[id(recipe)] = starts_from_zeros(recipe)
        if fitting[id(recipe)]:
            state[index] = {key: _zeros(value, tensor) for key, value in donors[id(recipe)].items()}


def _zeros(value: Any, param: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return type(value)()
    return torch.zeros_like(value) if value.ndim == 0 else torch.zeros_like(param, dtype=value.dtype)


def keys_of_state(recipe: Recipe, options: Mapping[str, Any], ndim: int) -> frozenset[str] | None:
    """What an optimiser keeps for a parameter after a step; ``None`` where that cannot be tried.

    Args:
        recipe: The optimiser.
        options: The options of the parameter's group.
        ndim: Number of dimensions of the parameter.
    """
    tried = nn.Parameter(torch.ones([2] * ndim))
    try:
        with quietly([]):
            optimizer = recipe.build([{"params": [tried], **recipe.changed(options)}])
            tried.grad = torch.full_like(tried, 0.1)
            trial_step(optimizer)
    except Exception:  # whatever a class may raise for a stand-in: it needs a closure, or sparse gradients
        return None
    return frozenset(key for key in optimizer.state.get(tried, ()) if isinstance(key, str))


def starts_from_zeros(recipe: Recipe) -> bool:
    """Whether an optimiser takes the same first step from a state of zeros as from none.

    Args:
        recipe: The optimiser.
    """
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    slope = torch.tensor([[0.1, 0.2], [-0.3, 0.4]])
    fresh, filled = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    try:
        with quietly([]):
            one, other = recipe.build([{"params": [fresh]}]), recipe.build([{"params": [filled]}])
            fresh.grad, filled.grad = slope.clone(), slope.clone()
            trial_step(one)
            other.state[filled] = {key: _zeros(value, filled) for key, value in one.state[fresh].items()}
            trial_step(other)
    except Exception:  # whatever a class may raise for a state that it has not made
        return False
    return torch.equal(fresh, filled)
