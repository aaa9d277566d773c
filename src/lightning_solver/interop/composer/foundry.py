"""Optimisers as llm-foundry's configs name them: groups by regular expression, and parameters that are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.composer.decoupled import SIGNATURES, Decoupled
from lightning_solver.interop.torch.made import Made
from lightning_solver.interop.torch.optimizer_classes import OPTIMIZERS
from lightning_solver.rule import Rule

FOUNDRY: Mapping[str, str] = {
    "adam": "torch.optim.Adam",
    "adamw": "torch.optim.AdamW",
    "decoupled_adamw": "composer.optim.DecoupledAdamW",
    "decoupled_sgdw": "composer.optim.DecoupledSGDW",
    "decoupled_lionw": "llmfoundry.optim.DecoupledLionW",
    "clip_lion": "llmfoundry.optim.DecoupledClipLion",
    "adalr_lion": "llmfoundry.optim.DecoupledAdaLRLion",
}
"""llm-foundry's names."""


def rules_of_foundry(made: Made, freeze: Any, groups: Any, decoupled: Decoupled, notes: Notes) -> tuple[Rule, ...]:
    """The rules of ``param_groups`` and ``disable_grad``.

    The first group whose expression is found in a name has the parameter; here the last rule that matches has it.

    Args:
        made: The optimiser as llm-foundry has it.
        freeze: ``disable_grad``.
        groups: ``param_groups``.
        decoupled: Works out weight decays.
        notes: Takes what is odd.
    """
    name, where = made.spec.name, f"{made.where}.param_groups"
    known = {**OPTIMIZERS, **SIGNATURES}.get(name)
    rules: list[Rule] = []
    if groups is not None and not isinstance(groups, (list, tuple)):
        raise SolverError(where, "must be a list of groups", got=repr(groups)[:80], do="write - param_str_match: ...")
    for i, group in enumerate(groups or ()):
        settings = Settings(group, f"{where}[{i}]", notes)
        pattern = settings.needed("param_str_match")
        options = {}
        for key in group:
            if known is not None and key not in (*known.split(), "param_str_match"):
                notes.unknown(settings.path(key), key, name, known.split())
            elif key != "param_str_match":
                options[key] = settings.number(key) if key in ("lr", "weight_decay") else settings.take(key)
        options = decoupled.options(made, options, settings.where)
        own = {key: options.pop(key) for key in ("lr", "weight_decay") if key in options}
        rules.insert(0, Rule(regex=pattern, fresh=True, **own, set=options, unmatched="allow"))
    if freeze is not None:
        rules.append(Rule(regex=freeze, frozen=True, name="disable_grad", unmatched="allow"))
    return tuple(rules)
