"""Composer's optimisers with decoupled weight decay, as those that are relative to the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes
from lightning_solver.interop.reading import Call
from lightning_solver.interop.torch.made import Made
from lightning_solver.interop.torch.signatures import SIGNATURES as SCHEDULERS
from lightning_solver.optimizer_spec import OptimizerSpec

SIGNATURES = {
    "DecoupledSGDW": "lr momentum dampening weight_decay nesterov",
    "DecoupledAdamW": "lr betas eps weight_decay amsgrad",
}
"""Composer's optimisers, and their arguments after ``params``."""

_NATIVE = {"DecoupledSGDW": "SGDW", "DecoupledAdamW": "AdamW"}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DecoupledSGDW": {"weight_decay": 0.0},
    "DecoupledAdamW": {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 1e-5},
}
"""Where Composer's defaults are not those of the native class."""


class Decoupled:
    """Writes Composer's optimisers natively.

    Composer shrinks a parameter by ``lr / initial_lr * weight_decay`` in a step, the native classes by
    ``lr * weight_decay``: the native weight decay is Composer's over the learning rate that the group begins with.

    Args:
        schedulers: The schedulers; OneCycleLR changes the rate that groups begin with.
        notes: Takes what is odd.
    """

    def __init__(self, schedulers: Sequence[Call], notes: Notes) -> None:
        self._cycles = [call for call in _all(schedulers) if call.name == "OneCycleLR"]
        self._notes = notes

    def native(self, made: Made) -> Made:
        """An optimiser as it is written here; any but Composer's as it is."""
        name = made.spec.name
        if name not in _NATIVE:
            return made
        args = _with_defaults(made)
        if "lr" not in args:
            raise SolverError(f"{made.where}.lr", f"is missing, which {name} needs", do="add lr")
        groups = [
            dataclasses.replace(group, options=self.options(made, group.options, group.where, i))
            for i, group in enumerate(made.groups)
        ]
        own = self._decay(name, args, made.where, 0)
        if args["weight_decay"]:
            what = f"is given as {own:.10g}, {args['weight_decay']:g} over the first learning rate: {_NATIVE[name]} "
            what += f"multiplies it by the learning rate, {name} by the share of the first one"
            self._notes.say(f"{made.where}.weight_decay", what)
        spec = OptimizerSpec(_NATIVE[name], {**args, "weight_decay": own})
        return dataclasses.replace(made, spec=spec, groups=tuple(groups))

    def options(self, made: Made, given: Mapping[str, Any], where: str, group: int = 0) -> dict[str, Any]:
        """What a group has of its own, with the native weight decay where it differs from the optimiser's.

        Args:
            made: The optimiser as Composer has it.
            given: What its config says of the group.
            where: The path of the group.
            group: Its number.
        """
        name = made.spec.name
        if name not in _NATIVE:
            return dict(given)
        args = _with_defaults(made)
        decay = self._decay(name, {**args, **given}, where, group)
        same = not {"lr", "weight_decay"} & given.keys() and decay == self._decay(name, args, where, 0)
        return dict(given) if same else {**given, "weight_decay": decay}

    def _decay(self, name: str, options: Mapping[str, Any], where: str, group: int) -> float:
        """The native weight decay of a group."""
        lr, decay = options["lr"], options["weight_decay"]
        for key, value in (("lr", lr), ("weight_decay", decay)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SolverError(f"{where}.{key}", "must be a number", got=repr(value), do="correct it")
        if not decay:
            return 0.0
        first = self._first_rate(group, lr)
        if not first:
            what = f"is 0, at which {name} decays by the same share in every step: no learning rate says that"
            raise SolverError(f"{where}.lr", what, got=repr(lr), do="set weight_decay=0, or a learning rate above 0")
        return float(decay / first)

    def _first_rate(self, group: int, lr: float) -> float:
        """What is in a group under ``initial_lr`` once the schedulers are made."""
        for call in self._cycles:
            given = call.bound(SCHEDULERS[call.name].split(), "schedulers")
            top = given.get("max_lr")
            if isinstance(top, (list, tuple)):
                top = top[min(group, len(top) - 1)] if top else None
            if isinstance(top, (int, float)):
                lr = top / given.get("div_factor", 25.0)
                what = "sets the rate from which Composer measures the decay of the weights"
                self._notes.say("schedulers", f"{call.name} {what}")
        return lr


def _with_defaults(made: Made) -> dict[str, Any]:
    defaults = _DEFAULTS[made.spec.name]
    return {**made.spec.args, **{key: value for key, value in defaults.items() if key not in made.spec.args}}


def _all(calls: Sequence[Call]) -> Iterator[Call]:
    for call in calls:
        yield call
        for value in (*call.args, *call.kwargs.values()):
            yield from _all(
                [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Call)]
            )
