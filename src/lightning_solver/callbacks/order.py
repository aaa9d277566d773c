"""In which order callbacks act: it follows from what each needs done before it, not from the order in a list.

Lightning calls callbacks in the order of the Trainer's list, at every hook. Ours change places among themselves in it;
the others stay where the user has put them.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_solver.plain import FrozenDict


@dataclass(frozen=True)
class Role:
    """What a callback does in a run.

    Args:
        does: It, in a few words.
        after: The roles that must have acted before it.
    """

    does: str
    after: tuple[str, ...] = ()


ROLES: Mapping[str, Role] = FrozenDict(
    guard=Role("holds the run against its plan"),
    metrics=Role("hands metrics to the schedules that follow them", ("guard",)),
    accumulate=Role("scales losses, and gradients at the end, to what a window holds", ("guard",)),
    freeze=Role("drops the gradients of what is frozen", ("guard",)),
    clip=Role("looks whether gradients are finite, and clips them", ("accumulate", "freeze")),
    average=Role("takes in the weights that a step has made", ("clip",)),
    mode=Role("switches optimisers between training and evaluation", ("average",)),
    monitor=Role("logs what was done", ("metrics", "clip", "average", "mode")),
)
"""Role of a callback, which it names by an attribute ``role``, -> what it does."""


def arrange(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks with ours in the order in which they have to act, in the places that they hold.

    Args:
        callbacks: All callbacks of a Trainer.
    """
    places = [index for index, callback in enumerate(callbacks) if role_of(callback) is not None]
    ranks = {role: rank for rank, role in enumerate(_order())}
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
    return role if isinstance(role, str) and role in ROLES else None


def describe(callbacks: Iterable[Any]) -> list[str]:
    """The callbacks in the order in which they act, a line for each with a role.

    Args:
        callbacks: All callbacks of a Trainer.
    """
    found = [(type(callback).__name__, role_of(callback)) for callback in arrange([*callbacks])]
    width = max((len(name) for name, role in found if role), default=0)
    return [f"{name:<{width}}  {ROLES[role].does}" for name, role in found if role]


def _order() -> list[str]:
    """The roles, each after those that it needs; otherwise as they are written."""
    written = [*ROLES]
    sorter = graphlib.TopologicalSorter({name: role.after for name, role in ROLES.items()})
    sorter.prepare()
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=written.index)
        found += ready
        sorter.done(*ready)
    return found
