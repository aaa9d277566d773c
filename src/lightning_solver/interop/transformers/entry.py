"""How a transformers recipe is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Imported, Notes, imported_spec
from lightning_solver.interop.reading import load
from lightning_solver.interop.transformers.ask import Ask, Policy
from lightning_solver.interop.transformers.calls import find_call, is_arguments
from lightning_solver.interop.transformers.fields import note_unknown
from lightning_solver.interop.transformers.functions import read_function
from lightning_solver.interop.transformers.policies import POLICIES
from lightning_solver.interop.transformers.training_arguments import read_training_arguments


def from_transformers(config: Any, *, facts: Mapping[str, Any] | None = None, strict: bool = False) -> Imported:
    """Read the schedule of a transformers recipe as a spec, and of ``TrainingArguments`` all that is about steps.

    Args:
        config: ``{"TrainingArguments": {...}}``; the fields of ``TrainingArguments`` themselves; ``{"get_scheduler":
            {...}}`` or the arguments of one of the functions behind it by its name; the Python text of such a call; or
            the path of a ``.py``, ``.yaml`` or ``.json`` file with one of these.
        facts: What the config leaves open: ``total_iters``, the optimiser steps of the run, where it is not
            ``max_steps``; ``iters_per_epoch``, the batches of an epoch, for ``num_train_epochs``;
            ``optimizer_default_lr``, the rate given to the optimiser itself, to which ``lr_end`` and ``min_lr`` are
            relative, where the config has no ``learning_rate``.
        strict: Whether a key that is not mapped is an error.

    Returns:
        A spec with ``schedules.lr``, and notes. Of ``TrainingArguments`` it has the optimiser, what is not decayed and
        the clipping, which has a default, unless fields are given without that name and none of them is about the
        optimiser; and the accumulation.

    Raises:
        SolverError: What transformers refuses; a schedule of its that follows a metric in both directions
            (``greedy``); something that only a missing fact can tell; a config of another system.

    Example:
        >>> config = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1, "max_steps": 1000}
        >>> imported = from_transformers(config)
        >>> imported.spec.curve("lr", [1.0], total_steps=1000)[[0, 50, 100, 550], 0].round(9).tolist()
        [0.0, 0.5, 1.0, 0.5]
    """
    notes = Notes()
    known = Facts(facts, notes)
    call = find_call(load(config), notes)
    ask = read_training_arguments(call, known, notes) if is_arguments(call.name) else read_function(call, known, notes)
    policy = POLICIES[ask.name]
    _check_arguments(ask, policy)
    phases = policy.make(ask)
    ask.run.explain(policy, notes)
    return notes.imported(imported_spec({"lr": phases}, **ask.optimizer), strict)


def _check_arguments(ask: Ask, policy: Policy) -> None:
    arguments = ask.arguments
    own = [name for name in policy.order if name not in ("num_warmup_steps", "num_training_steps")]
    note_unknown(ask.given, own, arguments.where, ask.name, ask.notes)
    if arguments.take("last_epoch", -1) not in (-1, None):
        do = "leave it out; a checkpoint holds where the schedule stands"
        raise SolverError(arguments.path("last_epoch"), "is not read", got=repr(arguments.take("last_epoch")), do=do)
