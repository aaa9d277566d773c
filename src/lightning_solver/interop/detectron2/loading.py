"""Configs as data: files with their bases, and Python text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes
from lightning_solver.interop.detectron2.common import with_common
from lightning_solver.interop.reading import load, read_python

_KEYS = {"lr_multiplier", "SOLVER", "param_scheduler", "cfg", "_C"}


def loaded(config: Any, notes: Notes) -> Any:
    """The config as data: files read with their bases, and Python text of more than a call as a mapping."""
    if isinstance(config, str) and "=" in config and "\n" in config.strip():
        data = read_python(with_common(config, notes))
        keys = {*_KEYS, "optimizer"} if "get_default_optimizer_params" in config else _KEYS
        return data if keys & data.keys() else config
    data = load(config)
    if data is not config and str(config).endswith(".py"):
        text = Path(config).read_text(encoding="utf-8")
        changed = with_common(text, notes)
        return data if changed == text else read_python(changed, str(config))
    if data is not config and isinstance(data, Mapping):
        return _with_bases(data, Path(config))
    if isinstance(data, Mapping) and "_BASE_" in data:
        do = "give the path of the file, so that what it names can be read"
        raise SolverError("config._BASE_", "names files beneath this config", got=repr(data["_BASE_"]), do=do)
    return data


def _with_bases(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A yacs file with what its ``_BASE_`` files hold beneath it."""
    own = {key: value for key, value in data.items() if key != "_BASE_"}
    bases = data.get("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        file = path.parent / Path(str(base)).expanduser()
        merged = _merged(merged, _with_bases(load(file, f"{path}: _BASE_"), file))
    return _merged(merged, own)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            both[key] = _merged(below[key], above[key])
    return both
