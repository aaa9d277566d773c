"""What ``TrainingArguments`` and ``get_scheduler`` have in common: the schedule's name and its own arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Name
from lightning_solver.interop.transformers.policies import POLICIES


def scheduler_name(settings: Settings, key: str, default: str | None = None) -> str:
    """Value of ``lr_scheduler_type``, also where it is the member of an enumeration."""
    value = settings.take(key, default)
    value = value.text.rpartition(".")[2].lower() if isinstance(value, Name) else getattr(value, "value", value)
    if value == "reduce_on_plateau" and isinstance(settings.take(key), Name):  # SchedulerType.REDUCE_ON_PLATEAU
        value = "reduce_lr_on_plateau"
    if value is None:
        raise SolverError(settings.path(key), "is missing", do=f"give one of {', '.join(POLICIES)}")
    if value not in POLICIES:
        do = suggestion(str(value), POLICIES, "schedules")
        raise SolverError(settings.path(key), "there is no such schedule", got=repr(value), do=do)
    return str(value)


def own_arguments(settings: Settings, key: str, name: str, notes: Notes) -> tuple[dict[str, Any], str]:
    """The schedule's own arguments and their path; on the command line they may be JSON text."""
    given = settings.take(key) or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise SolverError(settings.path(key), f"is not JSON: {error}", got=repr(given), do="mend it") from error
    if name in ("constant", "constant_with_warmup") and given:
        notes.say(settings.path(key), f"has no effect with {name}, as in transformers")
        given = {}
    return mapping(given, settings.path(key)), settings.path(key)


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping with texts for keys."""
    if not isinstance(value, Mapping):
        raise SolverError(where, "must be a mapping", got=repr(value)[:120], do="write key: value")
    return {str(key): inner for key, inner in value.items()}


def note_unknown(given: Any, known: Sequence[str], where: str, owner: str, notes: Notes) -> None:
    """Note the arguments that transformers does not know."""
    for name in given:
        if name not in known:
            notes.unknown(f"{where}.{name}", name, owner, known)
