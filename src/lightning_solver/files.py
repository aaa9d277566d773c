"""Specs on disk: solver blocks in YAML or JSON, alone or in a CLI configuration, and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.plain import thaw
from lightning_solver.several import ALONE, CHECKPOINT_KEY, Solver, by_name, read_solver
from lightning_solver.spec import SolverSpec

_BLOCKS = ("solver", "model.solver", "model.init_args.solver")
_WIDTH = 100


@dataclass(frozen=True)
class Stored:
    """What a file says of a solver.

    Args:
        label: How the file is called.
        spec: The spec.
        groups: The groups that a checkpoint's optimiser holds: option -> value of each; empty for other files.
        notes: What an importer had to say.
        step: Optimiser steps after which a checkpoint was written.
    """

    label: str
    spec: SolverSpec
    groups: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    step: int | None = None


def blocks(section: Any) -> Iterator[tuple[str, Any]]:
    """Where a configuration holds a solver: its own top-level key, or the model's argument of that name."""
    for key in _BLOCKS:
        block = section
        for name in key.split("."):
            block = block.get(name) if hasattr(block, "get") else None
        if block is not None:
            yield key, block


def names_a_module(path: str) -> bool:
    """Whether a YAML file is the configuration of a CLI that says which module it is about."""
    data = _loaded(path)
    sections = [data, *(data.get(name) for name in ("fit", "plan"))] if isinstance(data, Mapping) else []
    return any(isinstance(section, Mapping) and "model" in section for section in sections)


def stored(path: str) -> Stored:
    """Read a file with one solver; see :func:`stored_parts`.

    Args:
        path: Path of the file, such as ``solver.yaml``, ``last.ckpt`` or ``mmengine:config.py``.

    Raises:
        SolverError: No such file, no solver in it, several, or one that makes no sense.
    """
    found = stored_parts(path)
    if set(found) != {ALONE}:
        do = "read them by stored_parts"
        raise SolverError(path, "holds several solvers", got=", ".join(found), do=do)
    return found[ALONE]


def stored_parts(path: str) -> dict[str, Stored]:
    """Read a file: a block, a configuration with one, or a checkpoint; ``PEER:FILE`` is a config of another system.

    Args:
        path: Path of the file, such as ``solver.yaml``, ``last.ckpt`` or ``mmengine:config.py``.

    Returns:
        What it says of each optimiser by name; a single one is called ``solver``.

    Raises:
        SolverError: No such file, no solver in it, or one that makes no sense.
    """
    peer, colon, rest = path.partition(":")
    if colon and not Path(path).exists():
        imported = importer(peer)(Path(rest))
        return {ALONE: Stored(path, imported.spec, notes=imported.notes)}
    if not Path(path).is_file():
        do = "give a YAML or JSON file, a checkpoint, or peer:file for a config of another system"
        raise SolverError(path, "is not a file", do=do)
    if Path(path).suffix in (".yaml", ".yml", ".json"):
        found = by_name(_solver_in(_loaded(path), path))
        return {name: Stored(_label(path, name, found), spec) for name, spec in found.items()}
    if Path(path).suffix == ".py":
        raise SolverError(path, "is a Python config of another system", do=f"write PEER:{path}, as in mmengine:{path}")
    return _checkpoint(path)


def importer(peer: str) -> Any:
    """The importer of a peer by its name, such as ``mmengine``.

    Raises:
        SolverError: There is no such importer.
    """
    from lightning_solver import interop

    known = [name.removeprefix("from_") for name in interop.__all__ if name.startswith("from_")]
    if peer not in known:
        raise SolverError("peer", "there is no importer of this name", got=repr(peer), do=suggestion(peer, known))
    return getattr(interop, f"from_{peer}")


def _loaded(path: str) -> Any:
    import yaml
    from jsonargparse import get_loader

    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text) if path.endswith(".json") else get_loader("yaml")(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SolverError(path, f"cannot be read: {error}", do="mend it") from error


def _label(path: str, name: str, all_of_them: Any) -> str:
    return path if list(all_of_them) == [ALONE] else f"{path} ({name})"


def _solver_in(data: Any, path: str) -> Solver:
    if not isinstance(data, Mapping):
        raise SolverError(path, "holds no mapping", got=repr(data)[:80], do="give a solver block")
    sections = [data, *(data[name] for name in ("fit", "plan") if isinstance(data.get(name), Mapping))]
    for key, block in (found for section in sections for found in blocks(section)):
        return read_solver(block, key)
    if "model" in data or "trainer" in data:
        raise SolverError(path, "has no solver block", got=f"keys {', '.join(map(str, data))}", do="add solver:")
    return read_solver(data)


def _checkpoint(path: str) -> dict[str, Stored]:
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a file that is no checkpoint
        do = "give a YAML or JSON file, or a checkpoint that loads with weights_only=True"
        raise SolverError(path, f"cannot be read: {type(error).__name__}", do=do) from error
    states = data.get("lr_schedulers") if isinstance(data, Mapping) else None
    names = data.get(CHECKPOINT_KEY, {}).get("names", [ALONE]) if isinstance(data, Mapping) else []
    if not states or len(states) < len(names) or any("spec" not in state for state in states[: len(names)]):
        do = "give a checkpoint of a module with SolverMixin"
        raise SolverError(path, "holds no state of a solver", do=do)
    optimizers = data.get("optimizer_states", [])
    if names == [ALONE]:
        optimizers = [{"param_groups": [group for state in optimizers for group in state["param_groups"]]}]
    found = {}
    for i, (name, state) in enumerate(zip(names, states)):
        groups = tuple(optimizers[i]["param_groups"]) if i < len(optimizers) else ()
        spec = SolverSpec.from_dict(state["spec"], "saved spec")
        if name != ALONE and spec.only in ((name,), (f"{name}.*",)):
            spec = spec.replace(only=None)  # which the name alone says
        found[name] = Stored(_label(path, name, names), spec, groups, step=state["step"])
    return found


# ------------------------------------------------------------------ writing


def to_yaml(spec: SolverSpec) -> str:
    """The block as YAML, as a human writes it: short mappings on one line.

    Example:
        >>> from lightning_solver.schedules import Cosine, Linear
        >>> print(to_yaml(SolverSpec(schedules={"lr": [Linear(start=0.1, until="5ep"), Cosine()]})), end="")
        schedules:
          lr:
            - {class_path: Linear, init_args: {start: 0.1, until: 5ep}}
            - class_path: Cosine
    """
    return "".join(f"{line}\n" for line in _lines(thaw(spec))) or "{}\n"


def _lines(data: Any) -> list[str]:
    """YAML of a mapping or a list, line by line."""
    if isinstance(data, Mapping):
        return [line for key, value in data.items() for line in _entry(f"{key}:", value)]
    return [line for item in data for line in _item(item)]


def _entry(head: str, value: Any) -> list[str]:
    inline = _inline(value)
    nested = isinstance(value, (Mapping, list)) and bool(value)
    if not nested or (len(head) + len(inline) < _WIDTH and _short(value) and head != "schedules:"):
        return [f"{head} {inline}"]
    return [head, *(f"  {line}" for line in _lines(value))]


def _item(item: Any) -> list[str]:
    inline = _inline(item)
    single = isinstance(item, Mapping) and len(item) == 1
    if not isinstance(item, (Mapping, list)) or (len(inline) < _WIDTH and _short(item) and not single):
        return [f"- {inline}"]
    first, *rest = _lines(item)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _short(value: Any) -> bool:
    """Whether something reads well on one line: no list of mappings in it, and at most one level below a schedule."""
    if isinstance(value, list):
        return not any(isinstance(item, (Mapping, list)) for item in value)
    if isinstance(value, Mapping):
        inner = value.get("init_args", {}) if "class_path" in value else value
        return all(not isinstance(item, (Mapping, list)) or _short(item) for item in inner.values())
    return True


def _inline(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    return text.removesuffix("...\n").rstrip("\n")
