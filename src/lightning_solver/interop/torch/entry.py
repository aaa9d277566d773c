"""What a user gives, as a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, Phases, imported_spec
from lightning_solver.interop.reading import load
from lightning_solver.interop.torch.group import one_group
from lightning_solver.interop.torch.reading import Given
from lightning_solver.schedules import PerGroup


def from_torch(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read schedulers of torch as a spec.

    Args:
        config: The text of one or more constructor calls (``StepLR(optimizer, 30)``, also with assignments); a mapping
            with ``class_path`` and ``init_args``, or of a class name to its arguments; such a mapping as Lightning
            wraps it (``scheduler``, ``interval``, ``frequency``, ``monitor``); a scheduler of torch itself, not yet
            stepped; a list of these, all stepped together; a mapping with ``schedulers`` and, beside it, ``step_on``,
            ``step_call`` (such as ``scheduler.step(epoch + i / iters)``) or ``swa_start``; a whole configuration of
            LightningCLI; the path of a file that holds one of these.
        facts: ``step_on`` (``step`` or ``epoch``), unless the config says when ``step()`` is called or it is
            ``OneCycleLR`` or ``CyclicLR``; ``total_iters`` or ``epochs`` where the run is longer or shorter than the
            schedulers are made for; ``functions`` for lambdas that stand in a text; ``optimizer``; ``base_lr``.
        strict: Whether a key that is not mapped is an error.

    Raises:
        SolverError: What torch refuses, what cannot be known, and the few combinations that no schedule expresses.

    Example:
        >>> imported = from_torch("MultiStepLR(optimizer, milestones=[30, 80])", facts={"step_on": "epoch"})
        >>> imported.spec.to_dict()["schedules"]
        {'lr': {'class_path': 'MultiStep', 'init_args': {'at': ['30ep', '80ep']}}}
    """
    notes = Notes()
    known = Facts(facts, notes)
    given = Given(known, notes)
    given.read(load(config), "config")
    if not given.entries:
        do = "give the text of a constructor call, such as StepLR(optimizer, 30)"
        raise SolverError("config", "has no scheduler of torch", got=repr(config)[:120], do=do)
    first, sizes = one_group(given, 0)
    groups = [first]
    if sizes:
        count = next(iter(sizes.values()))
        _check_sizes(sizes, count, known)
        groups += [one_group(given, i)[0] for i in range(1, count)]
    schedules: dict[str, Phases] = {}
    for option in first:
        each = [group[option] for group in groups]
        same = all(phases == each[0] for phases in each)
        schedules[option] = each[0] if same else PerGroup(each)
    return notes.imported(imported_spec(schedules), strict)


def _check_sizes(sizes: Mapping[str, int], count: int, facts: Facts) -> None:
    base = facts.get("base_lr")
    expected = len(base) if isinstance(base, (list, tuple)) else count
    for where, size in sizes.items():
        if size != expected:
            got = f"{size} for {expected} groups"
            raise SolverError(where, "does not fit the number of groups", got=got, do="give one for each group")
