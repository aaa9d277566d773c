"""A JSON schema of the solver block, so that editors complete and check the YAML."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from lightning_solver.plain import Plain, field_hints, subclasses, thaw
from lightning_solver.schedules.base import Level
from lightning_solver.spec import SolverSpec

_NUMBER = r"([0-9]+(\.[0-9]+)?|[0-9]+/[1-9][0-9]*)(st|ep|%|ba|sp)?"
_DURATION = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_NUMBER}([+-]{_NUMBER})*$"}]
}
_DEPTH = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^((<=|>=|<|>)[0-9]+|[0-9]+-[0-9]+)$"}]}
_DEPTHS = {"anyOf": [*_DEPTH["anyOf"], {"type": "array", "items": _DEPTH}, {"type": "null"}]}
_COUNT = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": "^[1-9][0-9]*(/[1-9][0-9]*)?$"},
        {"type": "null"},
    ]
}
_POINT = r"([0-9]+(\.[0-9]+)?|[0-9]+/[1-9][0-9]*)(st|ep)?"
_AMOUNTS = {
    "type": "object",
    "patternProperties": {f"^{_POINT}$": {"type": "integer", "minimum": 1}},
    "additionalProperties": False,
    "minProperties": 1,
    "not": {"propertyNames": {"pattern": "[1-9]"}},  # one of them is 0
}
"""Points of a run, in epochs or in optimiser steps, and a number from each of them on."""
_SPECIAL: dict[tuple[str, str], dict[str, Any]] = {
    ("Rule", "depth"): _DEPTHS,
    ("Selector", "depth"): _DEPTHS,
    ("SolverSpec", "batches_per_step"): _COUNT,
}
"""Fields whose annotation admits more than they take, or other texts than durations."""
_LEVEL = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"enum": ["previous", "next"]},
        {
            "type": "object",
            "properties": {kind: {"type": "number"} for kind in ("base", "absolute", "scaled", "optimizer")},
            "additionalProperties": False,
            "minProperties": 1,
        },
    ]
}


def block_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the block that :meth:`SolverSpec.from_dict` reads."""
    writer = _Writer()
    root = writer.settings(SolverSpec)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "solver block of lightning-solver",
        **root,
        "$defs": dict(sorted(writer.definitions.items())),
    }


def config_schema() -> dict[str, Any]:
    """The JSON schema of a whole configuration of ``SolverCLI``: the block under ``solver`` or the model's argument.

    What belongs to Lightning is not looked at.
    """
    block = block_schema()
    definitions = block.pop("$defs")
    definitions["SolverSpec"] = {key: value for key, value in block.items() if key not in ("$schema", "title")}
    one = {"$ref": "#/$defs/SolverSpec"}
    # several solvers by the names of the submodules that they train
    solver = {"anyOf": [one, {"type": "object", "minProperties": 1, "additionalProperties": one}]}
    arguments = {"type": "object", "properties": {"solver": solver}}
    model = {"type": "object", "properties": {"solver": solver, "init_args": arguments}}
    part = {"type": "object", "properties": {"solver": solver, "model": model}}
    return {
        "$schema": block["$schema"],
        "title": "configuration of lightning-solver's SolverCLI",
        "type": "object",
        "properties": {**part["properties"], "fit": part, "plan": part},  # type: ignore[dict-item]
        "$defs": definitions,
    }


class _Writer:
    """Writes schemas of settings, each class once."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._named: dict[str, type[Plain]] = {}

    def settings(self, cls: type[Plain]) -> dict[str, Any]:
        """An object with the fields of a class."""
        described, properties, required = _described(cls), {}, []
        for field in dataclasses.fields(cls):
            schema = dict(_SPECIAL.get((cls.__name__, field.name)) or self.value(field_hints(cls)[field.name]))
            if field.name in described:
                schema["description"] = described[field.name]
            if field.default is not dataclasses.MISSING:
                schema["default"] = thaw(field.default)
            elif field.default_factory is dataclasses.MISSING:
                required.append(field.name)
            properties[field.name] = schema
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        known = {"type": "object", "description": summary, "properties": properties, "additionalProperties": False}
        return {**known, "required": required} if required else known

    def value(self, hint: Any) -> dict[str, Any]:
        """What an annotation admits."""
        if hint in (int | str, int | str | None):
            return _DURATION if hint == int | str else {"anyOf": [*_DURATION["anyOf"], {"type": "null"}]}
        if hint in (Level, Level | None):
            return _LEVEL if hint == Level else {"anyOf": [*_LEVEL["anyOf"], {"type": "null"}]}
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint == dict[int | str, int]:
            return _AMOUNTS
        if origin in (Union, types.UnionType) and dict[int | str, int] in inner:
            counts = [{"type": "integer", "minimum": 1} if choice is int else self.value(choice) for choice in inner]
            return {"anyOf": counts}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.value(choice) for choice in inner if typing.get_origin(choice) is not Callable]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin in (list, tuple, Sequence):
            return {"type": "array", "items": self.value(inner[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.value(inner[1])}
        simple = {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}
        if hint in simple:
            return {"type": simple[hint]}
        if isinstance(hint, type) and issubclass(hint, Plain):
            return self._reference(hint)
        return {}

    def _reference(self, cls: type[Plain]) -> dict[str, Any]:
        name = self._name(cls)
        if name not in self.definitions:
            self.definitions[name] = {}  # it may contain itself
            self.definitions[name] = self._choices(cls) if inspect.isabstract(cls) else self.settings(cls)
        return {"$ref": f"#/$defs/{name}"}

    def _name(self, cls: type[Plain]) -> str:
        """The name of a class, with its package where another class is called the same, as a schedule ``Clip`` is."""
        name = cls.__name__
        if self._named.setdefault(name, cls) is not cls:
            name = f"{name}_of_{cls.__module__.rpartition('.')[0].rpartition('.')[2]}"
        return name

    def _choices(self, base: type[Plain]) -> dict[str, Any]:
        """One of the classes that derive from an abstract one, by name; or a user's own by its dotted path."""
        choices: list[dict[str, Any]] = []
        bare = []
        for name, cls in sorted(subclasses(base).items()):
            arguments = self._reference(cls)
            needed = self.definitions[self._name(cls)].get("required", [])
            properties = {"class_path": {"const": name}, "init_args": arguments}
            required = ["class_path", "init_args"] if needed else ["class_path"]
            choices.append(
                {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
            )
            bare += [] if needed else [name]
        dotted = {"type": "string", "pattern": r"^[\w.]+\.\w+$"}
        own = {"class_path": dotted, "init_args": {"type": "object"}}
        choices.append({"type": "object", "properties": own, "required": ["class_path"], "additionalProperties": False})
        return {"description": (inspect.getdoc(base) or "").partition("\n")[0], "anyOf": [{"enum": bare}, *choices]}


def _described(cls: type[Any]) -> dict[str, str]:
    """Field -> what the docstring of the class, or of a base, says of it."""
    return {field: text for base in reversed(cls.__mro__) for field, text in _arguments(base.__doc__ or "").items()}


def _arguments(docstring: str) -> dict[str, str]:
    found = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    if found is None:
        return {}
    entries = re.split(r"\n(?=    \w+: )", "\n" + found[1].rstrip())
    pairs = (entry.strip().partition(": ") for entry in entries if entry.strip())
    return {name: re.sub(r"\s+", " ", text) for name, _, text in pairs}
