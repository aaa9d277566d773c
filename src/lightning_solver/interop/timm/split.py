"""Which part of a config is about the optimiser, and which about the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes
from lightning_solver.interop.reading import Call, read_calls
from lightning_solver.interop.timm.groups import FUNCTIONS
from lightning_solver.interop.timm.keywords import Keywords
from lightning_solver.interop.timm.optimizer import CONSTRUCTORS, FACTORY, groups_of, of_class, of_factory, path_of
from lightning_solver.interop.timm.script import of_script
from lightning_solver.interop.timm.signatures import SIGNATURES

_MAKERS = ("create_optimizer_v2", "create_optimizer", "optimizer_kwargs")
_OWN = ("filter_bias_and_bn", "fallback_list", "fallback_no_weight_decay", "param_group_fn")


@dataclass(frozen=True)
class Parts:
    """A config in two parts.

    Args:
        optimizer: Fields of the spec; ``None`` where the config says nothing of the optimiser by itself.
        rest: What is left of the config; ``None`` if nothing.
    """

    optimizer: dict[str, Any] | None
    rest: Any


def split(config: Any, notes: Notes) -> Parts:
    """Read what is said of the optimiser, but for the arguments of ``train.py``, which say both.

    Raises:
        SolverError: What timm refuses, or several optimisers.
    """
    if isinstance(config, Mapping):
        return _of_mapping(config, notes)
    if not isinstance(config, (str, list, tuple, Call)):
        return Parts(None, config)
    calls = read_calls(config, "config")
    ours = [call for call in calls if _makes(call)]
    if not ours:
        groups = [call for call in calls if call.name in FUNCTIONS]
        return Parts(None, config) if not groups else _refuse(groups)
    rest = [call for call in calls if call not in ours and call.name not in FUNCTIONS]
    return Parts(_one(ours, notes), [call for call in rest if not _is_beside(call)] or None)


def _makes(call: Call) -> bool:
    return call.name in _MAKERS or call.name in CONSTRUCTORS


def _is_beside(call: Call) -> bool:
    """Whether a call makes the model."""
    return call.name == "create_model"


def _refuse(groups: list[Call]) -> Parts:
    do = "give the optimiser beside them, as in AdamW(param_groups_weight_decay(model), lr=1e-3)"
    raise SolverError("config", "groups of parameters without an optimiser", got=groups[0].name, do=do)


def _one(calls: list[Call], notes: Notes, groups: Call | None = None) -> dict[str, Any]:
    if len(calls) != 1:
        got = ", ".join(call.name for call in calls)
        raise SolverError("config", "must have one optimiser", got=got, do="give one; read several one by one")
    (call,) = calls
    if call.name in ("create_optimizer", "optimizer_kwargs"):
        do = f"give {{'{call.name}': {{...}}}} with the arguments themselves"
        raise SolverError("config", "takes its arguments from an object that is not here", got=call.name, do=do)
    if call.name == "create_optimizer_v2":
        return of_factory(Keywords(call.bound(FACTORY, call.name), call.name, notes))
    return _constructed(call.name, call, call.name, notes, groups)


def _constructed(path: str, call: Call, where: str, notes: Notes, groups: Call | None) -> dict[str, Any]:
    names = ("params", *SIGNATURES.get(path_of(path), ("lr",)))
    settings = Keywords(call.bound(names, where), where, notes)
    return of_class(path, settings, None if groups is None else groups_of(groups, settings))


def _of_mapping(config: Mapping[str, Any], notes: Notes) -> Parts:
    found: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    makers = [name for name in _MAKERS if name in config]
    if len(makers) > 1:
        raise SolverError("config", "must have one optimiser", got=" and ".join(makers), do="give one of them")
    for name in makers:
        taken.add(name)
        found[name] = _maker(name, config[name], notes)
    groups = [_groups_call(name, config[name]) for name in FUNCTIONS if name in config]
    if len(groups) > 1:
        got = " and ".join(call.name for call in groups)
        raise SolverError("config", "divides the parameters twice", got=got, do="give one of them")
    taken |= FUNCTIONS.keys() & config.keys()
    if _is_optimizer(config.get("optimizer")) and not found:
        taken.add("optimizer")
        found["optimizer"] = _stated(config["optimizer"], "optimizer", notes, groups[0] if groups else None)
    elif groups:
        _refuse(groups)
    if not found and _class_name(config) in CONSTRUCTORS:
        return Parts(_stated(config, "config", notes, None), None)
    if not found:
        values = [*config.values(), *config.get("calls", ())]
        calls = [value for value in values if isinstance(value, Call) and _makes(value)]
        if calls:
            found["calls"] = _one(_unique(calls), notes)
            taken |= {key for key, value in config.items() if isinstance(value, Call) and not _schedules(value)}
            taken |= {key for key, value in config.items() if key == "calls" and not any(map(_schedules, value))}
    if not found and "opt" in config and any(key in config for key in _OWN):
        keywords = {key: value for key, value in config.items() if key in FACTORY or key in ("eps", "betas")}
        taken |= keywords.keys()
        found["keywords"] = of_factory(Keywords(keywords, "", notes))
    if len(found) > 1:
        raise SolverError("config", "must have one optimiser", got=", ".join(found), do="give one of them")
    rest = {key: value for key, value in config.items() if key not in taken}
    return Parts(next(iter(found.values()), None), rest if rest or not found else None)


def _unique(calls: list[Call]) -> list[Call]:
    """Each call once: a variable and the call that it stands for are one."""
    return [call for i, call in enumerate(calls) if not any(call is other for other in calls[:i])]


def _schedules(value: Any) -> bool:
    return isinstance(value, Call) and ("Scheduler" in value.name or "scheduler" in value.name)


def _maker(name: str, given: Any, notes: Notes) -> dict[str, Any]:
    if name == "create_optimizer_v2":
        call = Call(name, (), given) if isinstance(given, Mapping) else read_calls(given, name)[0]
        return of_factory(Keywords(call.bound(FACTORY, name), name, notes))
    if not isinstance(given, Mapping):
        raise SolverError(name, "must be a mapping", got=repr(given)[:80], do="give the arguments by name")
    settings = Keywords({str(key).lstrip("-").replace("-", "_"): value for key, value in given.items()}, name, notes)
    fields = of_script(settings, complete=True)
    settings.rest(lambda _: "is not part of the optimiser")
    return fields


def _groups_call(name: str, given: Any) -> Call:
    if isinstance(given, Mapping):
        return Call(name, (), given)
    call = read_calls(given, name)[0]
    return Call(name, call.args, call.kwargs)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, (Call, Mapping)) or (isinstance(value, str) and "(" in value)


def _class_name(config: Mapping[str, Any]) -> str | None:
    """The class of a mapping with ``type`` and the like, or of one from its name to its arguments."""
    for key in ("class_path", "type", "_target_"):
        if isinstance(config.get(key), str):
            return str(config[key]).rpartition(".")[2]
    return str(next(iter(config))) if len(config) == 1 else None


def _stated(given: Any, where: str, notes: Notes, groups: Call | None) -> dict[str, Any]:
    """An optimiser that is given under a key of its own."""
    calls = read_calls(given, where)
    if len(calls) != 1:
        got, do = ", ".join(call.name for call in calls), "give one optimiser"
        raise SolverError(where, "must be one optimiser", got=got, do=do)
    (call,) = calls
    if call.name in _MAKERS:
        return _one([call], notes)
    path = call.name
    if isinstance(given, Mapping):
        path = next((str(given[key]) for key in ("class_path", "type", "_target_") if key in given), path)
    if "." not in path and path not in CONSTRUCTORS:
        do = "name it by its dotted path"
        raise SolverError(where, "is not an optimiser of torch or timm", got=repr(path), do=do)
    return _constructed(path, call, where, notes, groups)
