"""Several optimisers as one, such as Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.optim import Optimizer

from lightning_solver.errors import SolverError
from lightning_solver.logs import report
from lightning_solver.optimizers.unhooked import unhooked_step

_CLASS = "member_class"
"""Key in the groups of a state dict: which class wrote the state of their parameters."""


class CompositeOptimizer(Optimizer):
    """One optimiser that steps several over disjoint parameters, each in turn.

    Lightning, loss scalers, schedulers and checkpoints see one: its groups are the very mappings that the members hold,
    and the members share its state. A state dict is of torch's own form. It also says which class wrote the state of
    each group, so that a parameter that has gone to a member of another class starts afresh, which is logged.

    A closure is evaluated once, for all. Hooks belong to the composite: those registered on it, and those common to all
    optimisers, run once a step; those registered on a member's step, and for after it has loaded, run too. Members are
    not to be stepped, saved or loaded by themselves. ``train()`` and ``eval()`` are there if a member has them
    (schedule-free optimisers do).

    Args:
        members: Name -> optimiser.
        order: The groups of all members in the order that they shall have; else member by member.

    Attributes:
        members: Name -> optimiser.

    Raises:
        SolverError: No members, a parameter in two of them, a member that needs a closure several times beside others,
            or an order that is not that of the members' groups.
    """

    # A loss scaler unscales before the step, as not every member could do it in its own.
    _step_supports_amp_scaling = False

    members: dict[str, Optimizer]

    def __init__(self, members: Mapping[str, Optimizer], order: Sequence[dict[str, Any]] | None = None) -> None:
        _refuse(members)
        groups = _in_order(members, order)
        super().__init__(groups, {})
        self.members = dict(members)
        self.defaults = _common_defaults(self.members)
        self._owners = _owners(self.members, self.param_groups)
        for name, member in self.members.items():
            own = [key for key in member.state if not isinstance(key, Tensor)]
            if own and any(key in self.state for key in own):
                do = "use it as the only optimiser"
                raise SolverError(
                    f"member {name}", "keeps state under a key that another one uses", got=f"{own}", do=do
                )
            self.state.update(member.state)
            member.state = self.state
        self.register_load_state_dict_pre_hook(_start_afresh)
        self.register_load_state_dict_post_hook(_tell_members)

    @property
    def group_classes(self) -> list[str]:
        """For each group, the dotted path of the class of the member that steps it."""
        return [_class_of(self.members[name]) for name, _ in self._owners]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every member, in their order.

        Args:
            closure: Evaluates the model anew and returns the loss; it is called once, before the first member steps.

        Returns:
            What the closure returned.
        """
        if len(self.members) == 1:
            (member,) = self.members.values()
            if closure is None and needs_closure(type(member)):
                do = "pass one: under fp16, whose loss scaler calls without, use bf16 or another optimiser"
                raise SolverError("optimizer.step", f"{type(member).__name__} needs a closure", got="None", do=do)
            loss: float | None = _step(member, closure)
            return loss
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members.values():
            _step(member)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for member in self.members.values():
            member.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "members" in self.__dict__:
            do = "put every parameter that will ever be trained into the optimiser from the start"
            raise SolverError("optimizer", "no group can be added to several optimisers at once", do=do)
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        for group, (name, _) in zip(saved["param_groups"], self._owners):
            group[_CLASS] = _class_of(self.members[name])
        return saved

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "eval"):
            members = self.__dict__.get("members", {}).values()
            having = [getattr(member, name) for member in members if callable(getattr(member, name, None))]
            if having:
                return lambda: [switch() for switch in having] and None
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def __getstate__(self) -> dict[str, Any]:
        packed = {
            name: (type(member), self._places_of(name), {**member.__getstate__(), "state": self._state_of(name)})
            for name, member in self.members.items()
        }
        return {**super().__getstate__(), "members": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what :meth:`load_state_dict` has read, or what was pickled."""
        packed = state.get("members")
        super().__setstate__({key: value for key, value in state.items() if key != "members"})
        for group in self.param_groups:
            group.pop(_CLASS, None)
        if packed is not None:
            self.members, owners = {}, {}
            for name, (cls, places, own) in packed.items():
                self.members[name] = cls.__new__(cls)
                self.members[name].__setstate__(own)
                owners.update({place: (name, index) for index, place in enumerate(places)})
            self._owners = [owners[place] for place in range(len(owners))]
            self.register_load_state_dict_pre_hook(_start_afresh)
            self.register_load_state_dict_post_hook(_tell_members)
        for name, member in self.members.items():
            # With its own part of the state: classes complete, here, what older versions did not save.
            member.__setstate__({"state": self._state_of(name), "param_groups": self._groups_of(name)})
            self.state.update(member.state)
            member.state = self.state

    def _places_of(self, name: str) -> list[int]:
        """Where the groups of a member are among all, in the order that it has them."""
        found = [(index, place) for place, (owner, index) in enumerate(self._owners) if owner == name]
        return [place for _, place in sorted(found)]

    def _groups_of(self, name: str) -> list[dict[str, Any]]:
        return [self.param_groups[place] for place in self._places_of(name)]

    def _state_of(self, name: str) -> defaultdict[Any, Any]:
        params = [param for group in self._groups_of(name) for param in group["params"]]
        return defaultdict(dict, {param: self.state[param] for param in params if param in self.state})


def _refuse(members: Mapping[str, Optimizer]) -> None:
    if not members:
        raise SolverError("optimizer", "a composite needs members", got="{}", do="give at least one optimiser")
    owner: dict[int, str] = {}
    for name, member in members.items():
        if len(members) > 1 and needs_closure(type(member)):
            what = f"{type(member).__name__} evaluates its closure several times a step, in which no other can join"
            raise SolverError(f"member {name}", what, do="use it as the only optimiser")
        for group in member.param_groups:
            for place, param in enumerate(group["params"]):
                other = owner.setdefault(id(param), name)
                if other != name:
                    label = group["param_names"][place] if "param_names" in group else f"of shape {list(param.shape)}"
                    do = "give each parameter to one"
                    raise SolverError(f"member {name}", f"has a parameter that {other} has too", got=label, do=do)


def needs_closure(cls: type[Optimizer]) -> bool:
    """Whether the step of an optimiser has to be given a closure, as that of LBFGS."""
    asked = list(inspect.signature(cls.step).parameters.values())[1:]
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in asked)


def _in_order(members: Mapping[str, Optimizer], order: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    groups = [group for member in members.values() for group in member.param_groups]
    if order is None:
        return groups
    if sorted(map(id, order)) != sorted(map(id, groups)):
        got = f"{len(order)} groups, of which {len({*map(id, order)} & {*map(id, groups)})} are theirs"
        do = f"give the {len(groups)} mappings in their param_groups, each once"
        raise SolverError("order", "must hold the groups of the members", got=got, do=do)
    return list(order)


def _owners(members: Mapping[str, Optimizer], groups: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """For each group: whose it is, and which of the owner's."""
    of = {id(group): (name, i) for name, member in members.items() for i, group in enumerate(member.param_groups)}
    return [of[id(group)] for group in groups]


def _common_defaults(members: Mapping[str, Optimizer]) -> dict[str, Any]:
    """The options that all members have with equal values."""
    first, *others = [member.defaults for member in members.values()]
    return {
        option: value
        for option, value in first.items()
        if all(option in other and _same(other[option], value) for other in others)
    }


def _same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and type(a) is type(b) and bool(a == b))


def _step(member: Optimizer, closure: Callable[[], float] | None = None) -> Any:
    """The step of a member with the hooks registered on it; those common to all optimisers see the composite's."""
    given: tuple[Any, ...] = () if closure is None else (closure,)
    if "step" in vars(member):  # put there by whoever has wrapped it
        return member.step(*given)
    args, kwargs = (member, *given), dict[str, Any]()
    with record_function(f"Optimizer.step#{type(member).__name__}.step"):
        for before in list(member._optimizer_step_pre_hooks.values()):
            changed = before(member, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        out = unhooked_step(type(member))(*args, **kwargs)
        for after in list(member._optimizer_step_post_hooks.values()):
            after(member, args, kwargs)
    return out


def _class_of(member: Optimizer) -> str:
    return f"{type(member).__module__}.{type(member).__qualname__}"


def _start_afresh(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict without the state that another class wrote for a parameter, and without the names of the classes."""
    groups = [dict(group) for group in state_dict["param_groups"]]
    wrote = [group.pop(_CLASS, None) for group in groups]
    assert isinstance(optimizer, CompositeOptimizer)
    mine = [_class_of(optimizer.members[name]) for name, _ in optimizer._owners]
    present = dict(zip(_keys(optimizer.param_groups), _spread(optimizer.param_groups, mine)))
    saved = zip(_keys(groups), _spread(groups, wrote), [index for group in groups for index in group["params"]])
    foreign = {index: (key, cls) for key, cls, index in saved if cls and present.get(key, cls) != cls}
    lost = {index: told for index, told in foreign.items() if index in state_dict["state"]}
    if lost:
        lines = [f"{key}: {cls} -> {present[key]}" for key, cls in lost.values()]
        report("parameters that another optimiser steps now start afresh:", lines)
    state = {index: value for index, value in state_dict["state"].items() if index not in lost}
    return {**state_dict, "state": state, "param_groups": groups}


def _tell_members(optimizer: Optimizer) -> None:
    """Run the hooks that members have for after they have loaded."""
    assert isinstance(optimizer, CompositeOptimizer)
    for member in optimizer.members.values():
        for hook in list(member._optimizer_load_state_dict_post_hooks.values()):
            hook(member)


def _keys(groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What tells the parameters of groups apart: their names, if all have them, else their places."""
    if all(isinstance(param, str) for group in groups for param in group["params"]):
        return [name for group in groups for name in group["params"]]  # as distributed checkpoints have them
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    return list(range(sum(len(group["params"]) for group in groups)))


def _spread(groups: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> list[Any]:
    """One value per parameter from one per group."""
    return [value for group, value in zip(groups, values) for _ in group["params"]]
