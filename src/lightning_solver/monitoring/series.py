"""The names of what is logged: which series there are, how groups are called in them, and which of them are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.plain import FrozenDict

SERIES: Mapping[str, str] = FrozenDict(
    {
        "lr": "learning rate that the step used; lr/<group> where there are several groups",
        "momentum": "momentum, or the first of betas",
        "weight_decay": "weight decay",
        "grad_norm": "norm of the gradients before clipping",
        "grad_norm_clipped": "the same after clipping",
        "clip_share": "mean part of what clipping looks at that it cut, since it was logged last",
        "clip_limit": "limit of the clipping",
        "update_ratio": "norm of what a step changed, over the norm of the weights",
        "decay": "decay/<average>: decay of the latest update of an average",
        "steps": "real optimiser steps so far",
        "skipped_steps": "steps that were begun and not made: no gradient, or one that was not finite",
        "nonfinite_steps": "steps with gradients that were not finite, where a policy looks for them",
        "batches_per_step": "batches that the step was really made of, in one process",
        "samples_per_step": "samples that it was made of, over all processes",
        "time": "time/step: seconds per step; time/data: seconds of these spent waiting for data",
        "loss_scale": "factor of a loss scaler",
    }
)
"""Name of a series, up to its first ``/``, -> what it is."""

ON_REQUEST = frozenset({"update_ratio"})
"""Series that are logged only where they are asked for."""


class Choice:
    """Which series are wanted.

    Args:
        wanted: Names, or what names begin with up to a ``/``; ``None`` for all but those on request.
        added: Series on request that are wanted besides.
        where: The path of the setting, for error messages.

    Raises:
        SolverError: A name that no series has.
    """

    def __init__(self, wanted: str | Sequence[str] | None, added: Sequence[str] = (), where: str = "series") -> None:
        self._where = where
        given = None if wanted is None else [wanted] if isinstance(wanted, str) else [*wanted]
        for name in given or ():
            if not isinstance(name, str) or name.partition("/")[0] not in SERIES:
                do = suggestion(name, SERIES, "series") if isinstance(name, str) else "give names of series"
                raise SolverError(where, "there is no series of this name", got=repr(name), do=do)
        if given is not None and not given:
            raise SolverError(where, "names no series", got="an empty list", do="name some, or leave out the callback")
        self._wanted = [name for name in SERIES if name not in ON_REQUEST] if given is None else given
        self._wanted = [*self._wanted, *added]

    def has(self, series: str) -> bool:
        """Whether anything of a series is wanted.

        Args:
            series: Its name up to the first ``/``.
        """
        return any(name.partition("/")[0] == series for name in self._wanted)

    def union(self, other: Choice) -> Choice:
        """What this one or another one wants.

        Args:
            other: The other one.
        """
        return Choice([*self._wanted, *other._wanted], where=self._where)

    def takes(self, name: str) -> bool:
        """Whether a series is wanted.

        Args:
            name: Its full name.
        """
        return any(name == wanted or name.startswith(f"{wanted}/") for wanted in self._wanted)

    def check(self, known: Iterable[str]) -> None:
        """Refuse names that select nothing.

        Args:
            known: The full names that there are; of a series that has none here nothing is checked.

        Raises:
            SolverError: A name with a ``/`` that no series has.
        """
        names = [*known]
        for wanted in self._wanted:
            head = wanted.partition("/")[0]
            alike = [name for name in names if name.partition("/")[0] == head]
            if "/" in wanted and not any(n == wanted or n.startswith(f"{wanted}/") for n in alike):
                do = suggestion(wanted, alike, f"series of {head}")
                raise SolverError(self._where, "there is no such series in this run", got=repr(wanted), do=do)


def safe(name: str) -> str:
    """A name of characters that every logger takes: letters, digits and ``_.-/``.

    Args:
        name: Any text.

    Example:
        >>> safe("blocks 0-3 (no decay)")
        'blocks_0-3_no_decay'
    """
    return re.sub(r"[^A-Za-z0-9_.\-/]+", "_", name).strip("_./") or "unnamed"


def unique(names: Iterable[str]) -> list[str]:
    """Names with a number behind those that were there before.

    Args:
        names: Some, perhaps alike.

    Example:
        >>> unique(["a", "a", "b"])
        ['a', 'a_2', 'b']
    """
    found: list[str] = []
    for name in names:
        candidate, count = name, 1
        while candidate in found:
            count += 1
            candidate = f"{name}_{count}"
        found.append(candidate)
    return found


def group_names(optimizer: Optimizer) -> list[str]:
    """The names of the parameter groups of an optimiser: their own where they have some, else their numbers.

    Args:
        optimizer: The optimiser.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    return unique(safe(str(group.get("name", index))) for index, group in enumerate(groups))


def check_name(name: object, where: str) -> str:
    """The name of a series of the user's own.

    Args:
        name: It.
        where: The path, for error messages.

    Raises:
        SolverError: A name that not every logger takes, or that one of our series has.
    """
    if not isinstance(name, str) or safe(name) != name:
        do = "use letters, digits and _ . - / in between"
        raise SolverError(where, "is no name that every logger takes", got=repr(name), do=do)
    if name.partition("/")[0] in SERIES or name in ("step", "epoch"):
        do = f"choose another one, such as my_{name}"
        raise SolverError(where, "is the name of a series that is logged anyway", got=repr(name), do=do)
    return name
