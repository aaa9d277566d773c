"""Parameters that share every setting form one group, with a name that tells what sets it apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_solver.plain import FrozenDict
from lightning_solver.rules.cascade import Member, Settings
from lightning_solver.rules.freezing import Frozen
from lightning_solver.rules.inventory import Parameter
from lightning_solver.schedules.join import Phases


@dataclass(frozen=True)
class Group:
    """Parameters that share every setting.

    Args:
        name: Readable, unique, of characters that every logger takes.
        member: The optimiser that has them.
        options: Option -> base value, before any schedule.
        scales: Option -> factor by which rules have scaled it, where they have.
        schedules: Option -> the schedule that a rule has given it and the path of that schedule.
        frozen: The stretches in which they do not move; ``None`` for never.
        names: Qualified names of its parameters.
        tensors: The parameters, in the order of ``names``.
    """

    name: str
    member: Member
    options: Mapping[str, Any]
    scales: Mapping[str, float]
    schedules: Mapping[str, tuple[Phases, str]]
    frozen: Frozen | None
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @property
    def numel(self) -> int:
        """How many numbers its parameters hold."""
        return sum(tensor.numel() for tensor in self.tensors)


def group_parameters(
    trained: Sequence[Parameter], settings: Mapping[int, Settings], *, by_scale: bool = False, several: bool = False
) -> tuple[Group, ...]:
    """The groups, in the order in which their first parameters come.

    Args:
        trained: The parameters that the optimiser gets.
        settings: What each of them gets, by ``id`` of its tensor.
        by_scale: Whether parameters of equal values that were scaled by different factors are told apart, as a
            schedule with ``scaled`` values moves them differently.
        several: Whether there are several optimisers, which the names of groups tell then.
    """
    alike: dict[int, list[Parameter]] = {}  # most parameters share their settings with others
    for parameter in trained:
        alike.setdefault(id(settings[id(parameter.tensor)]), []).append(parameter)
    members: dict[Any, list[list[Parameter]]] = {}
    for parameters in alike.values():
        own = settings[id(parameters[0].tensor)]
        key = (id(own.member), own.values, own.schedules, own.frozen, own.scales if by_scale else None)
        members.setdefault(key, []).append(parameters)
    order = {id(parameter.tensor): i for i, parameter in enumerate(trained)}
    taken: set[str] = set()
    groups = []
    for runs in members.values():
        parameters = runs[0]
        if len(runs) > 1:
            parameters = sorted((p for run in runs for p in run), key=lambda p: order[id(p.tensor)])
        own = settings[id(parameters[0].tensor)]
        schedules = {
            option: (phases, f"{own.scheduled_by[option].where}.schedules.{option}")
            for option, phases in own.schedules.items()
        }
        group = Group(
            name=_unique(_group_name(own, several), taken),
            member=own.member,
            options=own.values,
            scales=own.scales,
            schedules=FrozenDict(schedules),
            frozen=own.frozen if isinstance(own.frozen, Frozen) else None,
            names=tuple(parameter.name for parameter in parameters),
            tensors=tuple(parameter.tensor for parameter in parameters),
        )
        groups.append(group)
    return tuple(groups)


def _group_name(settings: Settings, several: bool) -> str:
    """What sets a group apart from the optimiser's own values: names of rules, else the values themselves."""
    words: dict[str, None] = {}
    defaults = settings.member.recipe.defaults
    if several:
        words[_clean(settings.member.recipe.cls.__name__.lower())] = None
    for option, value in settings.values.items():
        base = defaults[option]
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
    if isinstance(settings.frozen, Frozen) and settings.frozen_by is not None:
        words[_clean(settings.frozen_by.rule.short_name() or "frozen")] = None
    return ".".join(words) or "default"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.") or "rule"


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
