"""Optimisers of a foreign config: the arguments of torch's, and how arguments are read strictly."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.reading import Call, Name, Unread

_USUAL = "lr betas eps weight_decay foreach maximize capturable differentiable"

TORCH: Mapping[str, tuple[str, ...]] = {
    name: tuple(arguments.split())
    for name, arguments in {
        "ASGD": "lr lambd alpha t0 weight_decay foreach maximize differentiable capturable",
        "Adadelta": "lr rho eps weight_decay foreach capturable maximize differentiable",
        "Adafactor": "lr beta2_decay eps d weight_decay foreach maximize",
        "Adagrad": "lr lr_decay weight_decay initial_accumulator_value eps foreach maximize differentiable fused",
        "Adam": f"{_USUAL} amsgrad fused decoupled_weight_decay",
        "AdamW": f"{_USUAL} amsgrad fused",
        "Adamax": _USUAL,
        "LBFGS": "lr max_iter max_eval tolerance_grad tolerance_change history_size line_search_fn",
        "Muon": "lr weight_decay momentum nesterov ns_coefficients eps ns_steps adjust_lr_fn",
        "NAdam": f"{_USUAL} momentum_decay decoupled_weight_decay",
        "RAdam": f"{_USUAL} decoupled_weight_decay",
        "RMSprop": "lr alpha eps weight_decay momentum centered capturable foreach maximize differentiable",
        "Rprop": "lr etas step_sizes capturable foreach maximize differentiable",
        "SGD": "lr momentum dampening weight_decay nesterov maximize foreach differentiable fused",
        "SparseAdam": "lr betas eps maximize",
    }.items()
}
"""The optimisers of ``torch.optim`` and their arguments but ``params``."""


def read_arguments(data: Settings, keys: Iterable[str], name: str, known: Sequence[str] | None) -> dict[str, Any]:
    """The arguments that a config gives to an optimiser; those that it does not have are noted.

    Args:
        data: The mapping that holds them.
        keys: Their names.
        name: What the optimiser is called, for messages.
        known: The arguments that it has; ``None`` where that is not known.

    Raises:
        SolverError: A value that is no data, a number that is not finite, a learning rate or weight decay below 0.
    """
    found: dict[str, Any] = {}
    for key in keys:
        if known is not None and key not in known:
            data.ignore(key)
            data.notes.unknown(data.path(key), key, name, known)
        elif key in ("lr", "weight_decay"):
            value = data.number(key, low=0)
            if value is None:
                raise SolverError(data.path(key), "must be a number", got="None", do="give one, or leave it out")
            found[key] = value
        else:
            found[key] = plain_value(data.take(key), data.path(key))
    return found


def plain_value(value: Any, where: str) -> Any:
    """A value as plain data; a number that is written as a text, as YAML reads ``1e-3``, becomes a number.

    Raises:
        SolverError: A name, a call or a function, or a number that is not finite.
    """
    if isinstance(value, (Name, Call, Unread)):
        got = value.name if isinstance(value, Call) else value.text
        raise SolverError(where, "is not a literal", got=got, do="hand over the value itself")
    if isinstance(value, (list, tuple)):
        return type(value)(plain_value(item, where) for item in value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise SolverError(where, "must be a finite number", got=repr(value), do="give a finite number")
    return value
