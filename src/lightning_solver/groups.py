"""Parameters that share every setting form one group, with a name that tells what sets it apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_solver.optimizers.recipe import Recipe
from lightning_solver.rules.cascade import Settings
from lightning_solver.rules.inventory import Parameter
from lightning_solver.schedules.join import Phases


@dataclass(frozen=True)
class Group:
    """Parameters that share every setting.

    Args:
        name: Readable, unique, of characters that every logger takes.
        options: Option -> base value, before any schedule.
        scales: Option -> factor by which rules have scaled it, where they have.
        schedules: Option -> the schedule that a rule has given it and the path of that schedule.
        names: Qualified names of its parameters.
        tensors: The parameters, in the order of ``names``.
    """

    name: str
    options: Mapping[str, Any]
    scales: Mapping[str, float]
    schedules: Mapping[str, tuple[Phases, str]]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @property
    def numel(self) -> int:
        """How many numbers its parameters hold."""
        return sum(tensor.numel() for tensor in self.tensors)


def group_parameters(
    trainable: Sequence[Parameter], settings: Mapping[int, Settings], recipe: Recipe, *, by_scale: bool = False
) -> tuple[Group, ...]:
    """The groups, in the order in which their first parameters come.

    Args:
        trainable: The parameters.
        settings: What each of them gets, by ``id`` of its tensor.
        recipe: The optimiser.
        by_scale: Whether parameters of equal values that were scaled by different factors are told apart, as a
            schedule with ``scaled`` values moves them differently.
    """
    members: dict[Any, list[Parameter]] = {}
    for parameter in trainable:
        own = settings[id(parameter.tensor)]
        members.setdefault((own.values, own.schedules, own.scales if by_scale else None), []).append(parameter)
    taken: set[str] = set()
    groups = []
    for parameters in members.values():
        own = settings[id(parameters[0].tensor)]
        name = _unique(_group_name(own.values, own, recipe), taken)
        names = tuple(parameter.name for parameter in parameters)
        schedules = {
            option: (phases, f"{own.scheduled_by[option].where}.schedules.{option}")
            for option, phases in own.schedules.items()
        }
        tensors = tuple(parameter.tensor for parameter in parameters)
        groups.append(Group(name, own.values, own.scales, schedules, names, tensors))
    return tuple(groups)


def _group_name(options: Mapping[str, Any], settings: Settings, recipe: Recipe) -> str:
    """What sets a group apart from the optimiser's own values: names of rules, else the values themselves."""
    words: dict[str, None] = {}
    for option, value in options.items():
        base = recipe.defaults[option]
        if value == base:
            continue
        names = [name for source in settings.sources[option] if (name := source.rule.short_name())]
        if option == "weight_decay" and value == 0:
            names = ["no_decay"]
        elif not names and option == "lr" and base:
            names = [f"lr_x{value / base:.3g}"]
        for name in names or [f"{option}_{value}"]:
            words[_clean(name)] = None
    for option, source in settings.scheduled_by.items():
        words[_clean(source.rule.short_name() or f"{option}_schedule")] = None
    return ".".join(words) or "default"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
