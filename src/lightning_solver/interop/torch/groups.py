"""The groups of an optimiser as rules."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Phases
from lightning_solver.interop.torch.made import Made, OwnGroup
from lightning_solver.interop.torch.selections import Selection, overlap
from lightning_solver.rule import Rule, Selector


def rules_of(made: Made, notes: Notes, schedules: Sequence[Mapping[str, Phases]] = ()) -> list[Rule]:
    """The rules that give every parameter what its group has, and leave out those of no group.

    Args:
        made: The optimiser.
        notes: Takes what is odd.
        schedules: For each group, the schedules that are its own.

    Raises:
        SolverError: A parameter that is in two groups, which torch refuses.
    """
    for one, other in itertools.combinations(made.groups, 2):
        glob = overlap(one.chosen, other.chosen)
        if glob is not None:
            do = "name each parameter once; torch refuses it too"
            raise SolverError(other.where, f"has parameters of {one.where}", got=glob, do=do)
    chosen = Selection(tuple(clause for group in made.groups for clause in group.chosen.clauses))
    none: dict[str, Any] = {"frozen": True, "name": "in no group", "unmatched": "allow"}
    rules = [Rule(**_read(choice), **none) for choice in (~chosen).parts()]
    if rules:
        notes.say(f"{made.where}.params", "parameters in no group are left out of the optimiser, and are never trained")
    for i, group in enumerate(made.groups):
        rules += _rules_of_group(group, schedules[i] if schedules else {})
    return rules


def _rules_of_group(group: OwnGroup, schedules: Mapping[str, Phases]) -> list[Rule]:
    settings = {key: value for key, value in group.options.items() if key in ("lr", "weight_decay")}
    others = {key: value for key, value in group.options.items() if key not in settings}
    fields: dict[str, Any] = {**settings, "set": others, "schedules": dict(schedules)}
    if not (settings or others or schedules):
        return []
    return [Rule(**_read(choice), **fields, name=group.name, unmatched="allow") for choice in group.chosen.parts()]


def _read(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rule, the exceptions read as selectors."""
    if "unless" not in choice:
        return dict(choice)
    unless = choice["unless"]
    several = isinstance(unless, list)
    read = tuple(Selector(**one) for one in unless) if several else Selector(**unless)
    return {**choice, "unless": read}
