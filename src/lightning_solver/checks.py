"""What is wrong or odd about a plan: the errors and notes that need groups and rules to be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_solver.accumulation import milestones
from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.groups import Group
from lightning_solver.laying import last_step
from lightning_solver.optimizers.composite import needs_closure
from lightning_solver.optimizers.modes import schedule_free_notes
from lightning_solver.plain import FrozenDict
from lightning_solver.rule import Rule
from lightning_solver.rules.cascade import Member, Settings
from lightning_solver.rules.depth import Depths
from lightning_solver.rules.inventory import Parameter, flat_parameters, is_flattened
from lightning_solver.rules.selection import Selection, Source
from lightning_solver.schedules.base import Curve
from lightning_solver.spec import SolverSpec


def refuse_flattened(module: nn.Module, trainable: Sequence[Parameter], sources: Sequence[Source]) -> None:
    """Refuse rules where FSDP1 has merged or flattened the parameters.

    Raises:
        SolverError: There are rules, or rules by dimension.
    """
    flat = flat_parameters(list(trainable))
    if flat and sources:
        do = "use FSDPStrategy(use_orig_params=True) or FSDP2, or set default_rules: false and drop the rules"
        what = "FSDP1 has merged the parameters into flat ones, so that rules cannot tell them apart"
        raise SolverError(sources[0].where, what, got=flat[0], do=do)
    if not is_flattened(module):
        return
    for source in sources:
        if "ndim" in source.rule.selectors():
            do = "select by name, kind or class, or use FSDP2 (ModelParallelStrategy)"
            what = "FSDP1 has flattened the parameters, so that their dimensions are lost"
            raise SolverError(f"{source.where}.ndim", what, do=do)


def try_groups(groups: Sequence[Group], settings: Mapping[int, Settings]) -> None:
    """Let the optimisers' classes check the options of every group, and the shapes of every parameter.

    Raises:
        SolverError: A class refuses them.
    """
    by_member: dict[int, list[Group]] = {}
    for group in groups:
        by_member.setdefault(id(group.member), []).append(group)
    for inner in by_member.values():
        recipe = inner[0].member.recipe
        for group in _extremes(inner):
            recipe.try_options(group.options, f"group {group.name} ({_why(group, settings)})")
        try:
            recipe.try_groups([(group.options, group.tensors) for group in inner])
        except SolverError as error:
            raise _blamed(inner, error) from error


def _blamed(groups: Sequence[Group], error: SolverError) -> SolverError:
    """The error of an optimiser that refuses parameters, with the names of those that it refuses."""
    recipe = groups[0].member.recipe
    refused: dict[tuple[int, ...], bool] = {}
    names = []
    for group in groups:
        for name, tensor in zip(group.names, group.tensors):
            shape = tuple(tensor.shape)
            if shape not in refused:
                try:
                    recipe.try_groups([(group.options, [tensor])])
                    refused[shape] = False
                except SolverError:
                    refused[shape] = True
            if refused[shape]:
                names.append(f"{name} of shape {list(shape)}")
    cls, reason = recipe.cls.__name__, str(error.__cause__ or "") or error.what
    if not names and len(groups) > 1:
        what = f"{cls} refuses several groups ({reason})"
        do = "give all parameters the same settings: set default_rules: false and drop the rules that split them"
        return SolverError(groups[0].member.where, what, got=", ".join(group.name for group in groups[:6]), do=do)
    if not names:
        return error
    do = "let another optimiser have them: a rule with kind: hidden, ndim: 2 or unless selects the others"
    what = f"{cls} refuses {len(names)} of its parameters ({reason})"
    return SolverError(groups[0].member.where, what, got=_first(names), do=do)


def _extremes(groups: Sequence[Group]) -> list[Group]:
    """Of groups that differ in ``lr`` and ``weight_decay`` alone, those with the least and the greatest of both."""
    alike: dict[Any, list[Group]] = {}
    for group in groups:
        rest = FrozenDict({key: value for key, value in group.options.items() if key not in ("lr", "weight_decay")})
        alike.setdefault(rest, []).append(group)
    found: dict[str, Group] = {}
    for inner in alike.values():
        for option in ("lr", "weight_decay"):
            if option in inner[0].options:
                ordered = sorted(inner, key=lambda group: float(group.options[option]))
                found.update({group.name: group for group in (ordered[0], ordered[-1])})
            else:
                found[inner[0].name] = inner[0]
    return list(found.values())


def check_frozen(spec: SolverSpec, run: RunLength, groups: Sequence[Group], notes: list[str]) -> None:
    """Something is trained at every step, and whatever is frozen is trained at some time.

    Raises:
        SolverError: There is a stretch in which everything is frozen, or what is to be unfrozen never is.
    """
    ever = [group for group in groups if group.frozen is not None]
    if not ever:
        return
    total = None if run.total_steps is None else int(run.total_steps)
    for group in ever:
        frozen = group.frozen
        late = [p for p in (frozen.until, frozen.since) if p and total is not None and p >= total] if frozen else []
        if late:
            what = f"is frozen {frozen}, but the run ends at step {total:,}"
            if spec.beyond_run == "error":
                do = "shorten it, write frozen: true, or set beyond_run: allow"
                raise SolverError(f"group {group.name}", what, do=do)
            notes.append(f"group {group.name}: {what}")
    if len(ever) < len(groups):
        return
    turns = {point for group in ever if group.frozen for point in (group.frozen.until, group.frozen.since) if point}
    for step in sorted({0, *(-(-turn.numerator // turn.denominator) for turn in turns)}):
        alive = any(group.frozen is None or not group.frozen.at(step) for group in groups)
        if not alive and (total is None or step < total):
            what = f"every parameter is frozen at step {step}, so that no step would ever be made"
            raise SolverError("rules", what, do="leave some of the parameters unfrozen at every step")


def refuse_closures(used: Sequence[Member]) -> None:
    """Refuse an optimiser that evaluates its closure several times a step, beside others.

    Raises:
        SolverError: There is one.
    """
    for member in used:
        if len(used) > 1 and needs_closure(member.recipe.cls):
            what = (
                f"{member.recipe.cls.__name__} evaluates its closure several times a step, in which no other can join"
            )
            raise SolverError(member.where, what, do="use it as the only optimiser")


def note_accumulation(spec: SolverSpec, run: RunLength, notes: list[str]) -> None:
    """Say which changes of the accumulation the run never reaches.

    Args:
        spec: The specification.
        run: The length of the run.
        notes: What is odd is added here.
    """
    how = spec.accumulation()
    if how is None or run.total_steps is None:
        return
    epochs: Any = len(run.epoch_ends) if run.epoch_ends is not None else None
    if epochs is None and run.steps_per_epoch is not None:
        epochs = run.total_steps / run.steps_per_epoch
    for point, number in milestones(how.batches or how.samples or 1, "accumulate"):
        ((value, unit),) = point.terms
        end = epochs if unit == "ep" else run.total_steps
        if value and end is not None and value >= end:
            notes.append(f"accumulate: {number} from {point} on is never reached: the run ends before")


def note_schedule_free(curves: Mapping[str, Curve], groups: Sequence[Group], run: RunLength, notes: list[str]) -> None:
    """What is odd about schedules of optimisers that need none."""
    steps = np.unique(np.linspace(0, last_step(run), 500).astype(np.int64))
    seen = {option: curve.over(steps) for option, curve in curves.items()}
    for member in dict.fromkeys(group.member for group in groups):
        columns = [i for i, group in enumerate(groups) if group.member is member]
        own = {option: values[:, columns] for option, values in seen.items()}
        notes.extend(f"schedules: {note}" for note in schedule_free_notes(member.recipe.cls, own))


def routes(selection: Selection, trained: Sequence[Parameter], settings: Mapping[int, Settings]) -> tuple[str, ...]:
    """Which matrices an optimiser that a rule has chosen by kind does not get, and what they are, in words."""
    lines = []
    chosen = {own.chosen_by for own in settings.values() if own.chosen_by is not None}
    for source in sorted(chosen, key=lambda source: source.where):
        if "hidden" not in source.rule.selectors().get("kind", ()) or source.rule.optimizer is None:
            continue
        rest: dict[str, list[str]] = {}
        for parameter in trained:
            own = settings[id(parameter.tensor)]
            other = own.member.recipe.cls.__name__ != _class_name(source)
            if own.chosen_by is not source and other and len(parameter.places[0].shape) >= 2:
                rest.setdefault(selection.nature(parameter), []).append(parameter.name)
        told = ", ".join(f"{_first(names)} ({nature})" for nature, names in rest.items())
        name = source.rule.optimizer.name
        lines.append(f"{source.label}: {name} gets the hidden matrices, {f'not {told}' if told else 'which are all'}")
    return tuple(lines)


def _class_name(source: Source) -> str:
    """Name of the class of the optimiser that a rule names."""
    assert source.rule.optimizer is not None
    return source.rule.optimizer.name.rpartition(".")[2]


def _first(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def note_depths(spec: SolverSpec, depths: Depths | None, notes: list[str]) -> None:
    """Note what is odd about depths and the decay by them."""
    decay = spec.decay()
    if decay is not None and decay.rate > 1:
        why = "so that layers learn faster the nearer they are to the input"
        notes.append(f"layer_decay: {decay.rate:g} is above 1, {why}")
    if depths is None and spec.depth != "auto":
        notes.append("depth: nothing asks for it, neither layer_decay nor a rule")
    if depths is not None and depths.unmatched is not None:
        notes.append(f"depth: {depths.unmatched}")


def note_unused(members: Sequence[Member], used: Sequence[Member], notes: list[str]) -> None:
    """Note optimisers that get no parameter."""
    for member in members:
        if member not in used:
            name = member.recipe.cls.__name__
            notes.append(f"{member.where} ({name}): no parameter is left for it, so that it is not built")


def _why(group: Group, settings: Mapping[int, Settings]) -> str:
    reasons = settings[id(group.tensors[0])].reasons
    sources = settings[id(group.tensors[0])].sources
    return ", ".join(f"{option}: {reasons[option]}" for option in sources) or "no rule"


def note_idle(
    sources: Sequence[Source],
    inventory: Sequence[Parameter],
    matched: Sequence[Sequence[tuple[int, ...]]],
    settings: Mapping[int, Settings],
    notes: list[str],
) -> None:
    """Rules that had no effect: they select only frozen parameters, or others override all that they say."""
    reached: set[int] = set()
    trained: set[int] = set()
    for parameter, names in zip(inventory, matched):
        found = {index for indices in names for index in indices}
        reached |= found
        own = settings.get(id(parameter.tensor))
        if own is not None:
            trained |= found if own.frozen is not True else {i for i in found if sources[i] is own.frozen_by}
    acting = {id(source) for known in {id(s): s for s in settings.values()}.values() for source in known.acting()}
    for index in sorted(reached):
        source = sources[index]
        if index not in trained:
            why = ": requires_grad is False in the module, which no rule undoes" if source.rule.freezes() else ""
            notes.append(f"{source.label}: selects only frozen parameters{why}")
        elif id(source) not in acting and source.where != "default_rules" and _says(source.rule):
            notes.append(f"{source.label}: later rules override all that it says")


def _says(rule: Rule) -> bool:
    """Whether a rule says more than to start afresh or not to freeze."""
    return bool(rule.settings() or rule.schedules or rule.optimizer or rule.freezes().keys() - {"frozen"})
