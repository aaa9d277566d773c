"""The forms that a config has: a class, a call of the factory, its keywords, or the arguments of the script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings, refuse_other_peers
from lightning_solver.interop.reading import Call, Name, Unread, read_calls
from lightning_solver.interop.timm.arguments import ARGUMENTS, CLASSES, FACTORY, SHARED
from lightning_solver.interop.timm.averages import SCRIPT
from lightning_solver.interop.timm.gradients import SCRIPT as GRADIENTS
from lightning_solver.interop.timm.script import MARKS

_FACTORIES = ("create_scheduler_v2", "create_scheduler", "scheduler_kwargs")
_MARKS = {*ARGUMENTS.values(), "sched_on_updates", "eval_metric", "stop_epoch", "model", *MARKS, *SCRIPT, *GRADIENTS}
_SCHEDULE = frozenset({*FACTORY, *SHARED, "sched_on_updates"} - {"seed"})


def says_schedule(config: Any) -> bool:
    """Whether there is anything of a schedule in what is left of a config when the optimiser is taken out."""
    if isinstance(config, Settings):
        return any(key in config for key in _SCHEDULE)
    if not isinstance(config, Mapping):
        return config is not None
    values = [*config.values(), *config.get("calls", ())]
    if any(isinstance(value, Call) and (value.name in CLASSES or value.name in _FACTORIES) for value in values):
        return True
    return bool(_names(config) & {*_SCHEDULE, *_FACTORIES, *CLASSES, "type", "class_path", "_target_"})


def says_arguments(config: Any) -> bool:
    """Whether there are arguments of ``train.py`` about optimiser, average or clipping in a config."""
    return isinstance(config, Mapping) and bool(_names(config) & {*MARKS, *SCRIPT, *GRADIENTS})


def _names(config: Mapping[str, Any]) -> set[str]:
    return {str(key).lstrip("-").replace("-", "_") for key in config}


def read_config(config: Any, notes: Notes) -> tuple[str, Settings]:
    """Whose arguments they are ("train.py" for those of the script), and the arguments."""
    if not isinstance(config, Mapping):
        return _called(config, "config", notes)
    refuse_other_peers(config, "from_timm")
    for name in _FACTORIES:
        if name in config:
            for key in config:
                if key != name:
                    notes.unmapped(str(key), "is not part of the schedules")
            inner = config[name]
            return _arguments(name, inner, notes) if isinstance(inner, Mapping) else _called(inner, name, notes)
    if any(key in config for key in ("type", "class_path", "_target_")) or (
        len(config) == 1 and set(config) & set(CLASSES)
    ):
        return _called(config, "config", notes)
    calls = [value for value in (*config.values(), *config.get("calls", ())) if isinstance(value, Call)]
    calls = [call for call in calls if call.name in CLASSES or call.name in _FACTORIES]
    return _called(calls, "config", notes) if calls else _flat(config, notes)


def _called(config: Any, where: str, notes: Notes) -> tuple[str, Settings]:
    calls = read_calls(config, where)
    if len(calls) != 1:
        got, do = ", ".join(call.name for call in calls), "give one; timm does not join several"
        raise SolverError(where, "must be one scheduler", got=got or repr(config)[:80], do=do)
    (call,) = calls
    if call.name in ("create_scheduler", "scheduler_kwargs"):
        do = "give {'create_scheduler': {...}} with the arguments themselves"
        raise SolverError(where, "takes its arguments from an object that is not here", got=call.name, do=do)
    names = CLASSES.get(call.name) or (FACTORY if call.name == "create_scheduler_v2" else None)
    if names is None:
        do = suggestion(call.name, [*CLASSES, *_FACTORIES], "schedulers")
        raise SolverError(where, "is not a scheduler of timm", got=repr(call.name), do=do)
    return _arguments(call.name, call.bound(("optimizer", *names), call.name), notes)


def _arguments(name: str, given: Mapping[str, Any], notes: Notes) -> tuple[str, Settings]:
    """The arguments of a class or of the factory."""
    data = {str(key): value for key, value in given.items() if key != "optimizer"}
    if isinstance(data.get("updates_per_epoch"), (Call, Name, Unread)):  # len(loader): a fact, where it matters
        del data["updates_per_epoch"]
    if name in ("create_scheduler", "scheduler_kwargs"):
        return name, Settings(_underscored(data, name), name, notes)
    return name, Settings(_known(data, CLASSES.get(name, FACTORY), name, name, notes), name, notes)


def _known(data: Mapping[str, Any], names: Iterable[str], owner: str, where: str, notes: Notes) -> dict[str, Any]:
    """The arguments that a function has; others are noted."""
    known = list(names)
    for key in data:
        if key not in known:
            notes.unknown(f"{where}.{key}" if where else key, key, owner, known)
    return {key: value for key, value in data.items() if key in known}


def _underscored(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in config.items():
        name = str(key).lstrip("-").replace("-", "_")
        name = "decay_rate" if name == "dr" else name
        if name in data:
            raise SolverError(f"{where}.{name}", "is given twice", got=repr(value)[:80], do="give it once")
        data[name] = value
    return data


def _flat(config: Mapping[str, Any], notes: Notes) -> tuple[str, Settings]:
    """Keywords of the factory, or arguments of the script: told apart by the names that only one of them has."""
    data = _underscored(config, "config")
    ours, theirs = (sorted(set(data) & names) for names in (set(FACTORY) - set(SHARED), _MARKS))
    if not set(data) & {*_SCHEDULE, *MARKS, *SCRIPT, *GRADIENTS}:
        do = "give the arguments of train.py, {'create_scheduler_v2': {...}}, or a class with its arguments"
        got = ", ".join(map(str, config))[:120] or "nothing"
        raise SolverError("config", "has nothing of timm's schedules, optimisers, averages or clipping", got=got, do=do)
    if ours and theirs:
        do = "give the keywords of create_scheduler_v2, or the arguments of train.py"
        what = "is a keyword of create_scheduler_v2 among arguments of train.py"
        raise SolverError(ours[0], what, got=", ".join(theirs), do=do)
    if theirs:
        return "train.py", Settings(data, "", notes)
    if not ours and "warmup_epochs" not in data:
        notes.say("config", "is read as keywords of create_scheduler_v2, which warms up for 0 epochs; train.py for 5")
    name = "create_scheduler_v2"
    return name, Settings(_known(data, FACTORY, name, "", notes), "", notes)
