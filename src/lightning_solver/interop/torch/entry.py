"""What a user gives, as a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, Phases, imported_spec
from lightning_solver.interop.reading import load
from lightning_solver.interop.torch.averages import averages_of
from lightning_solver.interop.torch.group import one_group
from lightning_solver.interop.torch.groups import rules_of
from lightning_solver.interop.torch.made import Made
from lightning_solver.interop.torch.reading import Given, whole_of
from lightning_solver.interop.torch.script import text_of
from lightning_solver.schedules import PerGroup


def from_torch(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read schedulers, an optimiser, clipping and averages of the weights of torch as a spec.

    Args:
        config: The text of one or more constructor calls (``StepLR(optimizer, 30)``, also with assignments) or of a
            script with them; a mapping with ``class_path`` and ``init_args``, or of a class name to its arguments; such
            a mapping as Lightning wraps it (``scheduler``, ``interval``, ``frequency``, ``monitor``); a scheduler of
            torch itself, not yet stepped; an optimiser itself; a list of these, all stepped together; a mapping with
            ``schedulers`` and, beside it, ``optimizer``, ``step_on``, ``step_call`` (such as
            ``scheduler.step(epoch + i / iters)``) or ``swa_start``; a whole configuration of LightningCLI; the path of
            a file that holds one of these. An ``AveragedModel`` is read in any of these forms, in a mapping under
            ``average``; a script also says when it is updated, else it is after every step, or after ``swa_start``.
            ``clip_grad_norm_`` and ``clip_grad_value_`` are read wherever they stand in a script, in a mapping under
            ``clip``; of a Trainer ``gradient_clip_val`` and ``accumulate_grad_batches``.
        facts: ``step_on`` (``step`` or ``epoch``), unless the config says when ``step()`` is called or it is
            ``OneCycleLR`` or ``CyclicLR``; ``total_iters`` or ``epochs`` where the run is longer or shorter than the
            schedulers are made for; ``functions`` for lambdas that stand in a text; ``optimizer``; ``base_lr``;
            ``first_update``, the number of steps at the start after which an average is not updated.
        strict: Whether a key that is not mapped is an error.

    Raises:
        SolverError: What torch refuses, what cannot be known, several optimisers, and the few combinations that no
            schedule expresses. Groups of which it cannot be told which parameters they have are noted as not mapped.

    Example:
        >>> script = "SGD([{'params': net.base.parameters(), 'lr': 0.01}, {'params': net.head.parameters()}], lr=0.1)"
        >>> [rule.describe() for rule in from_torch(script).spec.rules]
        ['in the script', 'in no group', 'match base.*']
        >>> imported = from_torch("MultiStepLR(optimizer, milestones=[30, 80])", facts={"step_on": "epoch"})
        >>> imported.spec.to_dict()["schedules"]
        {'lr': {'class_path': 'MultiStep', 'init_args': {'at': ['30ep', '80ep']}}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    skipped = known.get("first_update")
    if skipped is not None:
        skipped = whole_of(skipped, "facts.first_update", 0)
    given = Given(known, notes)
    text = text_of(config)
    if text is not None:
        given.read_text(text, "config")
    else:
        given.read(load(config), "config")
    if not (given.entries or given.optimizers or given.averages or given.clips or given.accumulated):
        do = "give the text of a constructor call, such as StepLR(optimizer, 30)"
        raise SolverError("config", "has no scheduler or optimiser of torch", got=repr(config)[:120], do=do)
    swa = None if given.swa_start is None else (given.swa_start, _unit(given))
    averages = averages_of(given.averages, given.calls, swa, skipped, notes)
    gradients = {**given.clips.fields(), **({"accumulate": given.accumulated} if given.accumulated else {})}
    made = _one_optimizer(given.optimizers)
    given.optimizer = made
    groups = _schedules_of_groups(given) if given.entries else []
    schedules: dict[str, Phases] = {}
    for option in groups[0] if groups else ():
        each = [group[option] for group in groups]
        same = all(phases == each[0] for phases in each)
        schedules[option] = each[0] if same else PerGroup(each)
    if made is None:
        return notes.imported(imported_spec(schedules, averages=averages, **gradients), strict)
    own = [option for option, phases in schedules.items() if isinstance(phases, PerGroup)]
    rules = rules_of(made, notes, [{option: group[option] for option in own} for group in groups] if own else ())
    own_fields = {"optimizer": made.spec, "rules": rules, "tied": "first"}
    return notes.imported(imported_spec(schedules, averages=averages, **own_fields, **gradients), strict)


def _unit(given: Given) -> str:
    """What ``swa_start`` counts: the calls of ``step()``, which are taken to come once per epoch."""
    return "st" if (given.step_on or given.facts.get("step_on")) == "step" else "ep"


def _one_optimizer(optimizers: Sequence[Made]) -> Made | None:
    if len(optimizers) > 1:
        got = " and ".join(f"{made.where} ({made.spec.name})" for made in optimizers)
        first, *others = (made.where for made in optimizers)
        names = (where if where.isidentifier() else f"name_{i}" for i, where in enumerate((first, *others)))
        mapping = f"{{{', '.join(f'{name}: ...' for name in names)}}}"
        do = (
            f"drop {' and '.join(others)} with its schedulers from the config and import {first}, then the other way "
            f"round; a mapping of names to solvers trains them all, solver = {mapping}, each with only: [...]"
        )
        raise SolverError("config", "has several optimisers", got=got, do=do)
    return optimizers[0] if optimizers else None


def _schedules_of_groups(given: Given) -> list[dict[str, Phases]]:
    """The schedules of every group, or of one where all are alike."""
    first, sizes = one_group(given, 0)
    if not sizes:
        return [first]
    count = next(iter(sizes.values()))
    known = given.number_of_groups()
    _check_sizes(sizes, count if known is None else known)
    return [first, *(one_group(given, i)[0] for i in range(1, count))]


def _check_sizes(sizes: Mapping[str, int], expected: int) -> None:
    for where, size in sizes.items():
        if size != expected:
            got = f"{size} for {expected} groups"
            raise SolverError(where, "does not fit the number of groups", got=got, do="give one for each group")
