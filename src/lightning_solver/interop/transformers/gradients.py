"""Clipping and accumulation, as ``TrainingArguments`` say them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lightning_solver.clipping import GlobalNorm
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.clip_arguments import read_limit
from lightning_solver.interop.transformers.optimizer import FIELDS as OPTIMIZER

FIELDS = ("max_grad_norm", "gradient_accumulation_steps", "average_tokens_across_devices")
"""Fields of ``TrainingArguments`` that are about gradients."""

_ACCELERATOR = "accelerator_config"
_STEPS = "gradient_accumulation_kwargs"


def read_gradients(settings: Settings, facts: Facts, notes: Notes) -> dict[str, Any]:
    """Fields of the spec: how gradients are clipped and accumulated.

    Args:
        settings: The fields of ``TrainingArguments``.
        facts: What the config leaves open.
        notes: Takes notes.

    Raises:
        SolverError: What transformers refuses, or what contradicts the facts.
    """
    fields: dict[str, Any] = {}
    limit = _limit(settings, notes)
    if limit:
        fields["clip"] = GlobalNorm(limit)
    batches, path = accumulated(settings)
    _rest_of_accelerator(settings, notes)
    told = facts.get("batches_per_step")
    if path in settings and told is not None and told != batches:
        got, do = f"{batches}, and facts {told}", "correct one of them"
        raise SolverError(settings.path(path), "contradicts the facts", got=got, do=do)
    if batches > 1:
        fields["accumulate"] = batches
    _tokens(settings, batches, settings.path(path), notes)
    return fields


def accumulated(settings: Settings) -> tuple[int, str]:
    """The batches of a step, and the field that says so.

    Args:
        settings: The fields of ``TrainingArguments``.

    Raises:
        SolverError: It is no whole number, or said twice.
    """
    key = "gradient_accumulation_steps"
    batches = settings.number(key, 1, low=1)
    if int(batches) != batches:
        raise SolverError(settings.path(key), "must be a whole number", got=repr(batches), do="correct it")
    inner = _accelerator(settings).get(_STEPS)
    other = inner.get("num_steps") if isinstance(inner, Mapping) else None
    if other is None:
        return int(batches), key
    path = f"{settings.path(_ACCELERATOR)}.{_STEPS}.num_steps"
    if isinstance(other, bool) or not isinstance(other, int) or other < 1:
        raise SolverError(path, "must be a whole number >= 1", got=repr(other), do="correct it")
    if batches > 1:
        got = f"{other} beside {key} {batches:g}"
        raise SolverError(path, "is given beside it, which transformers refuses", got=got, do="give one of them")
    return other, _ACCELERATOR


def _limit(settings: Settings, notes: Notes) -> float:
    """The greatest norm of all gradients; 0 for none."""
    key = "max_grad_norm"
    if key not in settings:
        if not settings.where and not any(name in settings for name in OPTIMIZER):
            return 0.0
        notes.say(settings.path(key), "is not given: gradients are clipped to a norm of 1, as in transformers")
        return 1.0
    if settings.take(key) is None:
        notes.say(settings.path(key), "is no number: nothing is clipped, as in transformers 4; release 5 fails")
        return 0.0
    if not settings.number(key) > 0:
        notes.say(settings.path(key), "is not above 0: nothing is clipped, as in transformers")
        return 0.0
    return read_limit(settings, key) or 0.0


def _accelerator(settings: Settings) -> Mapping[str, Any]:
    """``accelerator_config``: a mapping, or JSON; the path of a file is not opened."""
    given = settings.take(_ACCELERATOR)
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            path = settings.path(_ACCELERATOR)
            raise SolverError(path, f"is not JSON: {error}", got=repr(given)[:80], do="mend it") from error
    return given if isinstance(given, Mapping) else {}


def _rest_of_accelerator(settings: Settings, notes: Notes) -> None:
    """Note what else ``accelerator_config`` says."""
    if settings.take(_ACCELERATOR) is None:
        return
    given = _accelerator(settings)
    rest = [key for key in given if key != _STEPS]
    inner = given.get(_STEPS)
    others = [key for key in inner if key != "num_steps"] if isinstance(inner, Mapping) else []
    if rest or others or not given:
        notes.unmapped(
            settings.path(_ACCELERATOR), "is not part of the solver, but for the number of batches of a step"
        )


def _tokens(settings: Settings, batches: int, where: str, notes: Notes) -> None:
    """Say by what transformers weights the batches of a step, and the processes."""
    write = f"give the module a method tokens(batch), and write accumulate: {{batches: {batches}, weigh_by: tokens}}"
    which = "where the model takes num_items_in_batch"
    key = "average_tokens_across_devices"
    if batches > 1:
        notes.say(where, f"{which}, transformers weights the batches by their tokens: for that {write}")
    if key not in settings:
        return
    if settings.flag(key, True):
        notes.unmapped(settings.path(key), f"is not mapped: {which}, processes are weighted by their tokens; {write}")
    elif batches > 1:
        what = f"{which}, each process weights its own batches by tokens; here all count equally, or by weigh_by"
        notes.say(settings.path(key), what)
    else:
        notes.say(settings.path(key), "all processes count equally, as here")
