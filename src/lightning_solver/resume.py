"""Optimiser state is carried over by parameter name, whatever the groups were when it was saved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.optimizers.composite import CompositeOptimizer
from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.optimizers.unstepped import fill_unstepped, keys_of_state

_KEY = "lightning_solver"
_BOOKKEEPING = frozenset({"params", "param_names", "name", "initial_lr"})


Settings = tuple[Sequence[Mapping[str, Any]], Collection[str], Sequence[Recipe]]


def carry_state_by_name(optimizer: Optimizer, settings: Callable[[], Settings]) -> None:
    """Make ``optimizer.load_state_dict`` assign saved state by parameter name and keep the present settings.

    Torch assigns by position: with groups in another order, moments end up on the wrong tensors, silently.

    Args:
        optimizer: The optimiser; it is given hooks.
        settings: Gives the options of each group as the plan of the moment has them, the options that schedules move,
            and the recipe of each group. What else has changed in a group, the optimiser itself keeps there (a step
            count, an estimate of the learning rate), and it is state.
    """

    def sign(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        planned, moved, recipes = settings()
        fill_unstepped(optimizer, state_dict, recipes)
        own = [_kept_by_the_class(group, p, moved) for group, p in zip(state_dict["param_groups"], planned)]
        state_dict[_KEY] = {"classes": _classes(optimizer), "shapes": _shapes(optimizer), "own": own}
        return state_dict

    optimizer.register_state_dict_post_hook(sign)
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, saved: _carry(optimizer, saved, settings()))


def _kept_by_the_class(group: Mapping[str, Any], planned: Mapping[str, Any], moved: Collection[str]) -> dict[str, Any]:
    return {
        key: value
        for key, value in group.items()
        if key not in _BOOKKEEPING and key not in moved and not (key in planned and _equal(value, planned[key]))
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    return bool(a == b) or (isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and list(a) == list(b))


def _classes(optimizer: Optimizer) -> list[str]:
    """For each group, the dotted path of the class that steps it."""
    if isinstance(optimizer, CompositeOptimizer):
        return optimizer.group_classes
    return [f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"] * len(optimizer.param_groups)


def _shapes(optimizer: Optimizer) -> dict[str, list[int]]:
    return {
        name: list(tensor.shape)
        for group in optimizer.param_groups
        for name, tensor in zip(group["param_names"], group["params"])
    }


def _carry(optimizer: Optimizer, state_dict: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The saved state laid out as the present groups are, with their present settings."""
    saved_groups = [_names(group, i) for i, group in enumerate(state_dict["param_groups"])]
    present = optimizer.state_dict()
    groups = [dict(group) for group in present["param_groups"]]
    signed = state_dict.get(_KEY, {})
    present_classes = {n: c for group, c in zip(groups, _classes(optimizer)) for n in group["param_names"]}
    wrote = {n: c for names, c in zip(saved_groups, signed.get("classes", ())) for n in names}
    moved = {name for name, cls in present_classes.items() if wrote.get(name, cls) != cls}
    if moved and moved == present_classes.keys():
        then_classes, now_classes = (" and ".join(dict.fromkeys(of.values())) for of in (wrote, present_classes))
        report(f"the checkpoint was written with {then_classes}: {now_classes} starts with fresh state")
        return {**state_dict, "state": {}, "param_groups": groups}
    states = {
        name: state_dict["state"][index]
        for names, group in zip(saved_groups, state_dict["param_groups"])
        for name, index in zip(names, group["params"])
        if index in state_dict["state"]
    }
    now, then = _shapes(optimizer), signed.get("shapes", {})
    known = set(itertools.chain.from_iterable(saved_groups))
    reshaped = [name for name in now if name in known and then.get(name, now[name]) != now[name]]
    new = [name for name in now if name not in known]
    gone = [name for name in known if name not in now]
    if new or gone or reshaped or moved:
        lines = [f"new, starts afresh: {name}" for name in new] + [f"gone: {name}" for name in sorted(gone)]
        lines += [f"of another shape, starts afresh: {name} ({then[name]} -> {now[name]})" for name in reshaped]
        lines += [f"now of {present_classes[name]}, starts afresh: {name}" for name in sorted(moved)]
        report("the checkpoint's optimiser state fits only some of the parameters:", lines)
    state = {
        index: states[name]
        for group in groups
        for name, index in zip(group["param_names"], group["params"])
        if name in states and name not in reshaped and name not in moved
    }
    lacking = _lacking(groups, optimizer, state, settings)
    if lacking:
        lines = [f"{name} ({', '.join(sorted(keys))}), starts afresh" for name, (_, keys) in lacking.items()]
        report("the checkpoint lacks state that the present options need:", lines)
        for index, _ in lacking.values():
            del state[index]
    _carry_own(groups, saved_groups, _own_of(state_dict, signed, groups))
    return {**state_dict, "state": state, "param_groups": groups}


def _lacking(
    groups: Sequence[Mapping[str, Any]],
    optimizer: Optimizer,
    state: Mapping[Any, Mapping[str, Any]],
    settings: Settings,
) -> dict[str, tuple[Any, set[str]]]:
    """Parameters whose saved state lacks what the present options make: name -> index, missing keys."""
    planned, _, recipes = settings
    found: dict[str, tuple[Any, set[str]]] = {}
    known: dict[Any, frozenset[str] | None] = {}
    for group, live, options, recipe in zip(groups, optimizer.param_groups, planned, recipes):
        rest = repr(sorted((key, repr(value)) for key, value in options.items() if key not in ("lr", "weight_decay")))
        for name, index, tensor in zip(group["param_names"], group["params"], live["params"]):
            if index not in state:
                continue
            key = (id(recipe), rest, tensor.ndim)
            if key not in known:
                known[key] = keys_of_state(recipe, options, tensor.ndim)
            missing = (known[key] or frozenset()) - state[index].keys()
            if missing:
                found[name] = index, set(missing)
    return found


def _names(group: Mapping[str, Any], place: int) -> list[str]:
    """The parameters of a saved group."""
    indices = group["params"]
    # Distributed checkpoints name parameters in "params" itself.
    names = indices if all(isinstance(index, str) for index in indices) else group.get("param_names")
    if names is None or len(names) != len(indices):
        do = "resume by the code that wrote it, or load the weights alone"
        what = "the saved state does not say which parameter it belongs to"
        raise SolverError(f"optimizer.param_groups[{place}]", what, got=f"keys {', '.join(group)}", do=do)
    return list(names)


def _own_of(state_dict: Mapping[str, Any], signed: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the class keeps in each saved group; from a file without the signature, the keys that no plan knows."""
    if "own" in signed:
        return list(signed["own"])
    planned = {key for group in groups for key in group} | _BOOKKEEPING
    return [{k: v for k, v in group.items() if k not in planned} for group in state_dict["param_groups"]]


def _carry_own(groups: list[dict[str, Any]], saved: Sequence[Sequence[str]], own: Sequence[Mapping[str, Any]]) -> None:
    """Give each present group what the class kept in the saved groups of its parameters."""
    came_from = {name: i for i, names in enumerate(saved) for name in names}
    for group in groups:
        sources = dict.fromkeys(came_from[name] for name in group["param_names"] if name in came_from)
        for source in sources:
            for key, value in own[source].items():
                if any(not _equal(own[other].get(key), value) for other in sources):
                    what = f"the optimiser kept different values of {key} in groups that are one now"
                    got = ", ".join(repr(own[other].get(key)) for other in sources)
                    do = "resume by rules that keep these groups apart"
                    raise SolverError(f"group {group['name']}", what, got=got, do=do)
                group[key] = value
