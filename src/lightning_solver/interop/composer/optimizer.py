"""The optimiser of a recipe: Composer's own, those of torch, and llm-foundry's by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes
from lightning_solver.interop.composer.decoupled import SIGNATURES, Decoupled
from lightning_solver.interop.composer.foundry import FOUNDRY, rules_of_foundry
from lightning_solver.interop.reading import Call, Name, Unread, read_python
from lightning_solver.interop.torch.groups import rules_of
from lightning_solver.interop.torch.made import Made
from lightning_solver.interop.torch.optimizer import OptimizerReader
from lightning_solver.interop.torch.optimizer_forms import is_optimizer, is_optimizer_call
from lightning_solver.interop.torch.script import Script, read_script, text_of
from lightning_solver.rule import Rule

KEYS = ("optimizers", "optimizer")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimiser as it is trained with here.

    Args:
        made: Its class, arguments and groups.
        rules: Rules that llm-foundry's config asks for, besides those of the groups.
    """

    made: Made
    rules: tuple[Rule, ...] = ()

    def settings(self, notes: Notes) -> dict[str, Any]:
        """The fields of a spec."""
        return {"optimizer": self.made.spec, "rules": [*rules_of(self.made, notes), *self.rules], "tied": "first"}


def script_of(config: Any) -> Script | None:
    """The script that a config is, where it makes an optimiser."""
    text = text_of(config)
    return None if text is None else read_script(text, SIGNATURES)


def without_optimizers(config: Any, script: Script) -> Any:
    """What else is in a script: its text, or of a file the assignments."""
    if isinstance(config, str) and "(" in config:
        return script.rest if "(" in script.rest else {}
    data = read_python(script.rest)
    return {key: value for key, value in data.items() if key not in script.used}


def read_optimizer(
    config: Any, where: str, script: Script | None, calls: Sequence[Call], notes: Notes
) -> Optimizer | None:
    """The optimiser of a recipe; ``None`` where there is none, or one that cannot be read.

    Args:
        config: What the trainer is given.
        where: Its path.
        script: The script around it.
        calls: The schedulers, of which OneCycleLR changes what Composer's decay is relative to.
        notes: Takes what is odd.
    """
    reader = OptimizerReader(notes, SIGNATURES)
    decoupled = Decoupled(calls, notes)
    found = [made for call in (script.optimizers if script is not None else ()) if (made := reader.written(call))]
    rules: tuple[Rule, ...] = ()
    for one in config if isinstance(config, (list, tuple)) else [config]:
        text = text_of(one)
        inner = None if text is None else read_script(text, SIGNATURES)
        if inner is not None:
            found += [made for call in inner.optimizers if (made := reader.written(call))]
        elif isinstance(one, Mapping) and one.get("name") in FOUNDRY:
            made, rules = _of_foundry(one, where, reader, decoupled, notes)
            found.append(made)
        elif is_optimizer(one):
            found.append(reader.instance(one, where))
        elif is_optimizer_call(one, SIGNATURES):
            found.append(reader.called(one, where))
        elif one is not None and not (isinstance(one, Name) and found):
            notes.unmapped(where, _why_not(one))
    if len(found) > 1:
        got = " and ".join(f"{made.where} ({made.spec.name})" for made in found)
        raise SolverError(where, "has several optimisers", got=got, do="import one at a time, each with its schedulers")
    return Optimizer(decoupled.native(found[0]), rules) if found else None


def _of_foundry(
    config: Mapping[str, Any], where: str, reader: OptimizerReader, decoupled: Decoupled, notes: Notes
) -> tuple[Made, tuple[Rule, ...]]:
    given = {**config, "name": FOUNDRY[config["name"]]}
    freeze, groups = given.pop("disable_grad", None), given.pop("param_groups", None)
    made = reader.called(given, where)
    return made, rules_of_foundry(made, freeze, groups, decoupled, notes)


def _why_not(config: Any) -> str:
    if isinstance(config, (Name, Unread)):
        return "is not mapped: what it is called with is not in the config"
    if isinstance(config, Mapping) and isinstance(config.get("name"), str):
        return (
            f"is not mapped: {config['name']!r} is no optimiser of llm-foundry; {suggestion(config['name'], FOUNDRY)}"
        )
    return "is not mapped: it is no optimiser of torch or Composer"
