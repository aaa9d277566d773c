"""Parameters that share every setting form one group, with a name that tells what sets it apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_solver.optimizers import Recipe
from lightning_solver.rules.cascade import Settings
from lightning_solver.rules.inventory import Parameter


@dataclass(frozen=True)
class Group:
    """Parameters that share every setting.

    Args:
        name: Readable, unique, of characters that every logger takes.
        options: Option -> base value, before any schedule.
        names: Qualified names of its parameters.
        tensors: The parameters, in the order of ``names``.
    """

    name: str
    options: Mapping[str, Any]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @property
    def numel(self) -> int:
        """How many numbers its parameters hold."""
        return sum(tensor.numel() for tensor in self.tensors)


def group_parameters(
    trainable: Sequence[Parameter], settings: Mapping[int, Settings], recipe: Recipe
) -> tuple[Group, ...]:
    """The groups, in the order in which their first parameters come."""
    members: dict[Mapping[str, Any], list[Parameter]] = {}
    for parameter in trainable:
        members.setdefault(settings[id(parameter.tensor)].values, []).append(parameter)
    taken: set[str] = set()
    groups = []
    for options, parameters in members.items():
        name = _unique(_group_name(options, settings[id(parameters[0].tensor)], recipe), taken)
        names = tuple(parameter.name for parameter in parameters)
        groups.append(Group(name, options, names, tuple(parameter.tensor for parameter in parameters)))
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
            words[re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")] = None
    return ".".join(words) or "default"


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
