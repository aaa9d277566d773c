"""Several specs for one module, each for a part of it, as a GAN needs them: a mapping of names to specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, nearest
from lightning_solver.plain import FrozenDict, field_hints
from lightning_solver.spec import SolverSpec

Solver = SolverSpec | Mapping[str, SolverSpec]
"""One spec for the whole module, or specs by the names of the parts that they train."""


def names_parts(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds several solvers by name, rather than the settings of one.

    Example:
        >>> names_parts({"generator": {"lr": 0.1}}), names_parts({"lr": 0.1}), names_parts({"optimiser": {}})
        (True, False, False)
    """
    fields = field_hints(SolverSpec)
    if any(isinstance(value, SolverSpec) for value in data.values()):
        return True
    if not data or any(key in fields or not isinstance(value, Mapping) for key, value in data.items()):
        return False
    told = any(key in fields for value in data.values() for key in value)
    return told or not any(nearest(str(key), fields) for key in data)


def read_solver(data: Any, where: str = "solver") -> Solver:
    """A spec or several, from plain data or from what is one already.

    Args:
        data: A spec or its mapping, or a mapping of names to either.
        where: Its path, for error messages.

    Raises:
        SolverError: An empty mapping, an unknown key, a value of the wrong type, or one that makes no sense.
    """
    if isinstance(data, SolverSpec):
        return data
    if isinstance(data, Mapping) and not data:
        do = "give optimizer: {name: AdamW, args: {lr: 0.001}}, or such a block by the name of each submodule"
        raise SolverError(where, "is an empty mapping", got="{}", do=do)
    if not isinstance(data, Mapping) or not names_parts(data):
        return SolverSpec.from_dict(data, where)
    for name in data:
        if not isinstance(name, str) or not name:
            do = "name the submodule that the optimiser trains"
            raise SolverError(where, "has a key that is no name", got=repr(name), do=do)
    return FrozenDict(
        {
            name: one if isinstance(one, SolverSpec) else SolverSpec.from_dict(one, f"{where}.{name}")
            for name, one in data.items()
        }
    )


def by_name(solver: Solver) -> dict[str, SolverSpec]:
    """The specs by name; a single one is called ``solver``."""
    return {ALONE: solver} if isinstance(solver, SolverSpec) else dict(solver)


ALONE = "solver"
"""What the optimiser of a single spec is called."""

CHECKPOINT_KEY = "lightning_solver_parts"
"""Where a checkpoint says whose optimiser states it holds."""
