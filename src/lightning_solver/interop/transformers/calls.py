"""The call that makes the schedule, as it is found in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, refuse_other_peers
from lightning_solver.interop.optimizers import TORCH
from lightning_solver.interop.reading import Call, read_calls
from lightning_solver.interop.transformers.fields import mapping
from lightning_solver.interop.transformers.policies import FUNCTIONS


def find_call(config: Any, notes: Notes) -> Call:
    """The call that makes the schedule."""
    if isinstance(config, (str, Call)):
        calls = everything = read_calls(config, "config")
    elif isinstance(config, Mapping):
        refuse_other_peers(config, "from_transformers")
        values = [value for value in config.values() if isinstance(value, Call)]
        everything = [*values, *(call for call in config.get("calls", ()) if isinstance(call, Call))]
        calls = [call for call in everything if _is_maker(call.name)]
        for key, value in config.items():
            if _is_maker(str(key)):
                calls.append(Call(str(key), (), mapping(value, str(key))))
        if not calls:
            return Call("", (), {str(key): value for key, value in config.items()})
        for key, value in config.items():
            if not _is_maker(str(key)) and not isinstance(value, Call) and key != "calls":
                notes.unmapped(str(key), "is not part of the schedules")
    else:
        do = "give a mapping, the text of a call, or the path of a file"
        raise SolverError("config", "is not a transformers recipe", got=repr(config)[:120], do=do)
    for call in everything:
        if call.name in TORCH:
            notes.unmapped(call.name, "is not mapped: it makes an optimiser by hand; read it with from_torch")
    known = [call for call in calls if _is_maker(call.name)]
    if len(known) != 1:
        names = [*FUNCTIONS, "get_scheduler", "TrainingArguments"]
        do = "give one of them" if known else suggestion(calls[0].name if calls else "", names, "calls")
        got = ", ".join(call.name for call in known or calls) or "nothing"
        raise SolverError("config", "needs one call that makes a schedule", got=got, do=do)
    return known[0]


def is_arguments(name: str) -> bool:
    """Whether these are the fields of ``TrainingArguments``."""
    return not name or name.endswith("TrainingArguments")


def _is_maker(name: str) -> bool:
    return name == "get_scheduler" or name in FUNCTIONS or name.endswith("TrainingArguments")
