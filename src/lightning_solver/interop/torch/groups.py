"""The groups of an optimiser as rules."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Phases
from lightning_solver.interop.torch.made import Made, OwnGroup
from lightning_solver.interop.torch.selections import Selection, overlap
from lightning_solver.rule import Rule, Selector


def rules_of(made: Made, notes: Notes, schedules: Sequence[Mapping[str, Phases]] = ()) -> list[Rule]:
    """The rules that give every parameter what its group has, and leave out those of no group.

    What the script names by its path has to be there: such a rule may not select nothing. Where it cannot be told which
    parameters some group has, no parameter is left out.

    Args:
        made: The optimiser.
        notes: Takes what is odd.
        schedules: For each group, the schedules that are its own.

    Raises:
        SolverError: A parameter that is in two groups, which torch refuses; groups with schedules of their own of which
            it cannot be told who is in them.
    """
    told = [group for group in made.groups if group.told]
    for group in made.groups:
        if schedules and not group.told:
            do = "write model.head.parameters(), or hand over an optimiser made over model.named_parameters()"
            what = "has a schedule of its own, and it cannot be told which parameters these are"
            raise SolverError(group.where, what, got=group.name, do=do)
    for one, other in itertools.combinations(told, 2):
        glob = overlap(one.chosen, other.chosen)
        if glob is not None:
            do = "name each parameter once; torch refuses it too"
            raise SolverError(other.where, f"has parameters of {one.where}", got=glob, do=do)
    rules: list[Rule] = []
    if len(told) == len(made.groups):
        chosen = Selection(tuple(clause for group in told for clause in group.chosen.clauses))
        for choice in (~chosen).parts():
            rules += _rules(choice, made.paths, frozen=True, name="in no group")
    if rules:
        notes.say(f"{made.where}.params", "parameters in no group are left out of the optimiser, and are never trained")
    for i, group in enumerate(made.groups):
        if group.told:
            rules += _rules_of_group(group, schedules[i] if schedules else {}, made.paths)
    checked = {glob for rule in rules if rule.unmatched == "error" for glob in rule.selectors()["match"]}
    others = sorted(made.paths - checked)
    if others:  # at first, where it changes nothing: it asks whether they are there
        rules.insert(0, Rule(match=_one_or_all(others), frozen=False, name="in the script"))
    return rules


def _rules_of_group(group: OwnGroup, schedules: Mapping[str, Phases], paths: Collection[str]) -> list[Rule]:
    settings = {key: value for key, value in group.options.items() if key in ("lr", "weight_decay")}
    others = {key: value for key, value in group.options.items() if key not in settings}
    fields: dict[str, Any] = {**settings, "set": others, "schedules": dict(schedules)}
    if not (settings or others or schedules):
        return []
    return [rule for choice in group.chosen.parts() for rule in _rules(choice, paths, **fields, name=group.name)]


def _rules(choice: Mapping[str, Any], paths: Collection[str], **fields: Any) -> list[Rule]:
    """The rules that select some parameters: those named by their paths have to be there, others need not."""
    if choice.keys() != {"match"}:
        return [Rule(**_read(choice), **fields, unmatched="allow")]
    globs = choice["match"] if isinstance(choice["match"], list) else [choice["match"]]
    named = [glob for glob in globs if glob in paths]
    others = [glob for glob in globs if glob not in paths]
    rules = [Rule(match=_one_or_all(named), **fields)] if named else []
    return [*rules, Rule(match=_one_or_all(others), **fields, unmatched="allow")] if others else rules


def _one_or_all(globs: list[str]) -> str | list[str]:
    return globs[0] if len(globs) == 1 else globs


def _read(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rule, the exceptions read as selectors."""
    if "unless" not in choice:
        return dict(choice)
    unless = choice["unless"]
    several = isinstance(unless, list)
    read = tuple(Selector(**one) for one in unless) if several else Selector(**unless)
    return {**choice, "unless": read}
