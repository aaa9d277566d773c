"""An optimiser as it was made: its class and arguments, and its groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.interop.torch.selections import Selection
from lightning_solver.optimizer_spec import OptimizerSpec


@dataclass(frozen=True)
class OwnGroup:
    """A parameter group.

    Args:
        where: Its path.
        chosen: Its parameters.
        options: What it has of its own.
        name: What it is called.
        told: Whether it is known which parameters these are; where not, ``chosen`` means nothing.
    """

    where: str
    chosen: Selection
    options: Mapping[str, Any]
    name: str | None = None
    told: bool = True


@dataclass(frozen=True)
class Made:
    """An optimiser with its groups.

    Args:
        where: Its path.
        spec: Its class and arguments.
        groups: Its groups, in order.
        paths: Globs that are paths of modules and parameters, ``backbone.*``: the module has to have them.
    """

    where: str
    spec: OptimizerSpec
    groups: tuple[OwnGroup, ...]
    paths: frozenset[str] = frozenset()

    def rates(self) -> list[float]:
        """The learning rates of the groups that say one, or whose optimiser does."""
        own = self.spec.args.get("lr")
        rates = [group.options.get("lr", own) for group in self.groups]
        return [rate for rate in rates if isinstance(rate, (int, float))]
