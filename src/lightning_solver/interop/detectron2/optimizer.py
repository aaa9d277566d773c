"""``optimizer`` of a LazyConfig, and ``get_default_optimizer_params``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.detectron2.arguments import only
from lightning_solver.interop.detectron2.factor import read_factor
from lightning_solver.interop.detectron2.groups import ARGUMENTS, Groups, read_groups
from lightning_solver.interop.optimizers import TORCH, read_arguments
from lightning_solver.interop.reading import Call, Name, Unread, read_calls
from lightning_solver.optimizer_spec import OptimizerSpec

PARAMS = "get_default_optimizer_params"
_CLASS_KEYS = ("_target_", "type", "class_path", "name")
_ABOVE = re.compile(r"\$\{(?:\.\.|optimizer\.)(\w+)\}")


def fields_of(optimizer: OptimizerSpec, groups: Groups) -> dict[str, Any]:
    """The fields of the spec that say how the optimiser is made; a tied parameter goes by its first name."""
    fields: dict[str, Any] = {"optimizer": optimizer, "tied": "first"}
    if groups.rules:
        fields["rules"] = groups.rules
    if groups.decay is not None:
        fields |= {"layer_decay": groups.decay.rate, "depth": f"detectron2_vit:{groups.decay.layers}"}
    return fields


def has_params(config: Any) -> bool:
    """Whether an optimiser is surely one of detectron2, as its parameters come from its function."""
    params = None
    if isinstance(config, Call):
        params = config.args[0] if config.args else config.kwargs.get("params")
    elif isinstance(config, Mapping):
        params = config.get("params")
    return _is_params(params)


def read_optimizer(
    config: Any, params: Any, notes: Notes, functions: Mapping[str, Any] | None, where: str = "optimizer"
) -> dict[str, Any]:
    """Fields of the spec, of an optimiser and what its parameters are.

    Args:
        config: A call, a mapping with ``_target_`` or ``type``, or the text of one of these.
        params: The arguments of ``get_default_optimizer_params`` where they are not in ``config``.
        notes: Takes what is not mapped.
        functions: Text of a function -> the function or its dotted path, for ``lr_factor_func``.
        where: Path of the optimiser.

    Raises:
        SolverError: What detectron2 refuses, or arguments that are no data.
    """
    if isinstance(config, str):
        config = only(read_calls(config, where), where)
    found = _class_and_arguments(config, where, notes)
    if found is None:
        return {}
    name, arguments = found
    known = TORCH.get(name)
    if "params" in arguments:
        if params is not None:
            do = f"leave {PARAMS} or {where}.params out"
            raise SolverError(f"{where}.params", f"is given beside {PARAMS}", do=do)
        params, inside = arguments.pop("params"), f"{where}.params"
    else:
        inside = PARAMS
    settings = Settings(arguments, where, notes)
    args = read_arguments(settings, arguments, name, known)
    groups = _groups(params, arguments, inside, notes, functions, name)
    for option, value in (("lr", groups.lr), ("weight_decay", groups.weight_decay)):
        if value is None:
            continue
        key = "base_lr" if option == "lr" else option
        if known is not None and option not in known:
            notes.unmapped(f"{inside}.{key}", f"is not mapped: {name} has no {option}")
            continue
        if option in args and args[option] != value:
            what = f"stands in no group: {key} of {PARAMS} is in every one of them"
            notes.say(f"{where}.{option}", what)
        args[option] = value
    return fields_of(OptimizerSpec(name, args), groups)


def _class_and_arguments(config: Any, where: str, notes: Notes) -> tuple[str, dict[str, Any]] | None:
    """Name of the class and its arguments; ``None``, and a note, where it is not known."""
    if isinstance(config, Call):
        name: Any = config.name
        arguments = config.bound(("params", *TORCH.get(name, ("lr",))), where)
    elif isinstance(config, Mapping):
        key = next((key for key in _CLASS_KEYS if key in config), None)
        if key is None:
            what = "is not mapped: it names no class; what a Python file imports is not followed"
            notes.unmapped(where, what)
            return None
        name = config[key]
        arguments = {str(other): value for other, value in config.items() if other != key}
        if isinstance(inner := arguments.get("init_args"), Mapping):
            arguments = {str(other): value for other, value in inner.items()}
    else:
        text = config.text if isinstance(config, (Name, Unread)) else repr(config)[:80]
        notes.unmapped(where, f"is not mapped: {text} is not data")
        return None
    if isinstance(name, type):
        name = f"{name.__module__}.{name.__qualname__}"
    name = name.text if isinstance(name, Name) else str(name)
    short = name.rpartition(".")[2]
    if short in TORCH and (name == short or name.startswith("torch.optim.")):
        return short, arguments
    if "." in name:
        return name, arguments
    notes.unmapped(where, f"is not mapped: torch has no optimiser {name}; name its class by a dotted path")
    return None


def _groups(
    params: Any,
    above: Mapping[str, Any],
    where: str,
    notes: Notes,
    functions: Mapping[str, Any] | None,
    name: str,
) -> Groups:
    if params is None or isinstance(params, Name) or (isinstance(params, Call) and params.name == "parameters"):
        return Groups()
    if isinstance(params, Call) and params.name == PARAMS:
        data = params.bound(ARGUMENTS, where)
    elif isinstance(params, Mapping) and (where == PARAMS or _is_params(params)):
        data = {str(key): value for key, value in params.items() if key not in _CLASS_KEYS}
    else:
        notes.unmapped(where, f"is not mapped: its groups are not made by {PARAMS}")
        return Groups()
    for key, value in data.items():
        if isinstance(value, str) and (link := _ABOVE.fullmatch(value)):
            if link[1] not in above:
                do = f"give {link[1]} to the optimiser, or write the number"
                raise SolverError(f"{where}.{key}", "stands for what is not there", got=value, do=do)
            data[key] = above[link[1]]
    factor = read_factor(data.pop("lr_factor_func", None), f"{where}.lr_factor_func", functions, notes)
    settings = Settings(data, where, notes)
    for key in data.keys() - set(ARGUMENTS):
        settings.ignore(key)
        notes.unknown(settings.path(key), key, PARAMS, ARGUMENTS)
    return read_groups(settings, factor, TORCH.get(name))


def _is_params(value: Any) -> bool:
    if isinstance(value, Call):
        return value.name == PARAMS
    if not isinstance(value, Mapping):
        return False
    name = next((value[key] for key in _CLASS_KEYS if key in value), "")
    name = getattr(name, "__name__", name)
    return str(name).rpartition(".")[2] == PARAMS
