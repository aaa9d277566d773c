"""Optimiser state is carried over by parameter name, whatever the groups were when it was saved."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_solver.errors import SolverError
from lightning_solver.logs import report


def carry_state_by_name(optimizer: Optimizer) -> None:
    """Make ``optimizer.load_state_dict`` assign saved state by parameter name and keep the present settings.

    Torch assigns by position: with groups in another order, moments end up on the wrong tensors, silently.
    """
    optimizer.register_state_dict_post_hook(_sign)
    optimizer.register_load_state_dict_pre_hook(_carry)


def _sign(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Write the optimiser's class and the shapes into its state: moments of something else are of no use."""
    state_dict["optimizer"] = _class_of(optimizer)
    state_dict["shapes"] = _shapes(optimizer)
    return state_dict


def _shapes(optimizer: Optimizer) -> dict[str, list[int]]:
    return {
        name: list(tensor.shape)
        for group in optimizer.param_groups
        for name, tensor in zip(group["param_names"], group["params"])
    }


def _class_of(optimizer: Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _carry(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The saved state laid out as the present groups are, with their present settings."""
    saved = _by_name(state_dict)
    groups = optimizer.state_dict()["param_groups"]
    wrote = state_dict.get("optimizer", _class_of(optimizer))
    if wrote != _class_of(optimizer):
        report(f"the checkpoint was written with {wrote}: {_class_of(optimizer)} starts with fresh state")
        saved = {}
    now, then = _shapes(optimizer), state_dict.get("shapes", {})
    reshaped = [name for name in saved if name in now and name in then and now[name] != then[name]]
    saved = {name: state for name, state in saved.items() if name not in reshaped}
    state: dict[Any, Any] = {}
    new = []
    names = list(itertools.chain.from_iterable(group["param_names"] for group in groups))
    for name, index in zip(names, itertools.chain.from_iterable(group["params"] for group in groups)):
        if name in saved:
            state[index] = saved[name]
        elif name not in reshaped:
            new.append(name)
    gone = [name for name in saved if name not in set(names)]
    if saved and (new or gone or reshaped):
        lines = [f"new, starts afresh: {name}" for name in new] + [f"gone: {name}" for name in gone]
        lines += [f"of another shape, starts afresh: {name} ({then[name]} -> {now[name]})" for name in reshaped]
        report("the checkpoint's optimiser state fits only some of the parameters:", lines)
    return {**state_dict, "state": state, "param_groups": groups}


def _by_name(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter name -> its saved state."""
    found: dict[str, Any] = {}
    for i, group in enumerate(state_dict["param_groups"]):
        indices = group["params"]
        # Distributed checkpoints name parameters in "params" itself.
        names = indices if all(isinstance(index, str) for index in indices) else group.get("param_names")
        if names is None or len(names) != len(indices):
            do = "resume by the code that wrote it, or load the weights alone"
            what = "the saved state does not say which parameter it belongs to"
            raise SolverError(f"optimizer.param_groups[{i}]", what, got=f"keys {', '.join(group)}", do=do)
        for name, index in zip(names, indices):
            if index in state_dict["state"]:
                found[name] = state_dict["state"][index]
    return found
