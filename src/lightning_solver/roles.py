"""What is done around an optimiser step, and what of it needs what done before it."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_solver.plain import FrozenDict


@dataclass(frozen=True)
class Role:
    """What somebody does in a run.

    Args:
        does: It, in a few words.
        after: The roles that must have acted before it.
        by_callback: Whether a callback does it; the Trainer's loop does otherwise.
    """

    does: str
    after: tuple[str, ...] = ()
    by_callback: bool = True


ROLES: Mapping[str, Role] = FrozenDict(
    guard=Role("holds the run against its plan"),
    metrics=Role("hands metrics to the schedules that follow them", ("guard",)),
    accumulate=Role("scales losses, and gradients at the end, to what a window holds", ("guard",)),
    freeze=Role("drops the gradients of what is frozen", ("guard",)),
    clip=Role("looks whether gradients are finite, and clips them", ("accumulate", "freeze")),
    step=Role("makes the step", ("clip",), by_callback=False),
    schedule=Role("moves what is scheduled", ("step",), by_callback=False),
    norms=Role("brings the statistics of norms together over processes", ("guard",)),
    average=Role("takes in the weights that a step has made", ("schedule", "norms")),
    mode=Role("switches optimisers between training and evaluation", ("average",)),
    monitor=Role("logs what was done", ("metrics", "clip", "average", "mode")),
    cache=Role("empties the cache of the device", ("monitor",)),
    random=Role("saves and restores the state of random numbers", ("cache",)),
)
"""Role -> what it is. A callback names its own by an attribute ``role``."""


def in_order() -> list[str]:
    """The roles, each after those that it needs; otherwise as they are written.

    Example:
        >>> in_order().index("clip") < in_order().index("step") < in_order().index("average")
        True
    """
    written = [*ROLES]
    sorter = graphlib.TopologicalSorter({name: role.after for name, role in ROLES.items()})
    sorter.prepare()  # which refuses a circle
    found: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=written.index)
        found.append(ready.pop(0))
        sorter.done(found[-1])
    return found
