"""``get_scheduler`` and the functions behind it."""

from __future__ import annotations

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.reading import Call
from lightning_solver.interop.transformers.ask import Ask, Run
from lightning_solver.interop.transformers.fields import note_unknown, own_arguments, scheduler_name
from lightning_solver.interop.transformers.policies import FUNCTIONS, POLICIES


def read_function(call: Call, facts: Facts, notes: Notes) -> Ask:
    """``get_scheduler``, or one of the functions behind it."""
    where = call.name
    if call.name == "get_scheduler":
        order: tuple[str, ...] = (
            "name",
            "optimizer",
            "num_warmup_steps",
            "num_training_steps",
            "scheduler_specific_kwargs",
        )
        given = call.bound(order, where)
        note_unknown(given, order, where, call.name, notes)
        settings = Settings(given, where, notes)
        name = scheduler_name(settings, "name")
        own, own_where = own_arguments(settings, "scheduler_specific_kwargs", name, notes)
    else:
        name, order = FUNCTIONS[call.name], ("optimizer", *POLICIES[FUNCTIONS[call.name]].order)
        given = call.bound(order, where)
        settings = Settings(given, where, notes)
        outside = ("optimizer", "num_warmup_steps", "num_training_steps")
        own, own_where = {key: value for key, value in given.items() if key not in outside}, where
    policy = POLICIES[name]
    if "num_warmup_steps" in policy.order:
        settings.needed("num_warmup_steps")
    if "num_training_steps" in policy.order and name != "warmup_stable_decay":
        settings.needed("num_training_steps")
    warmup = exact(settings.number("num_warmup_steps", 0, low=0))
    total = settings.number("num_training_steps")
    if total is not None and total <= 0:
        raise SolverError(settings.path("num_training_steps"), "must be > 0", got=repr(total), do="correct it")
    steps = facts.get("total_iters")
    whole = total is not None and exact(total).denominator == 1
    return Ask(
        name=name,
        arguments=Settings(own, own_where, notes),
        given=own,
        run=Run(
            warmup=warmup,
            total=None if total is None else exact(total),
            relative=whole and (steps is None or steps == total),
            steps=steps,
            where=settings.path("num_training_steps"),
        ),
        default_lr=lambda key: facts.need("optimizer_default_lr", key, "is relative to the optimiser's own rate"),
        need_steps=lambda key: facts.need("total_iters", key, "needs the length of the run"),
        notes=notes,
    )
