"""The optimisers that a spec names, each with its own values and where these come from."""

from __future__ import annotations

import math

from lightning_solver.durations import RunLength
from lightning_solver.errors import SolverError
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.optimizers.recipe import Recipe, resolve_optimizer
from lightning_solver.plain import FrozenDict
from lightning_solver.rules.cascade import Member
from lightning_solver.rules.selection import Source
from lightning_solver.spec import SolverSpec


def lr_factor(spec: SolverSpec, run: RunLength) -> float:
    """By how much learning rates are scaled for the number of samples in a step.

    Raises:
        SolverError: The number of samples in a step is not known.
    """
    if spec.base_batch_size is None:
        return 1.0
    if run.samples_per_step is None:
        what = "needs the number of samples in an optimiser step, which is not known"
        do = "give RunLength(samples_per_step=...), or a loader with a batch size and constant accumulation"
        raise SolverError("base_batch_size", what, got=str(spec.base_batch_size), do=do)
    ratio = float(run.samples_per_step) / spec.base_batch_size
    return math.sqrt(ratio) if spec.batch_scaling == "sqrt" else ratio


def find_members(spec: SolverSpec, sources: list[Source], factor: float) -> tuple[list[Member], dict[int, Member]]:
    """The optimisers, the solver's own first, and which of the rules choose which.

    Args:
        spec: The spec; it has an optimiser.
        sources: Its rules.
        factor: Factor of learning rates for the number of samples in a step.

    Raises:
        SolverError: An unknown optimiser, or arguments that do not fit it.
    """
    assert spec.optimizer is not None
    own = _member(spec.optimizer, "optimizer", factor, spec.lr)
    found: dict[OptimizerSpec, Member] = {}
    chooses: dict[int, Member] = {}
    for index, source in enumerate(sources):
        named = source.rule.optimizer
        if named is None:
            continue
        if named not in found:
            same = named == spec.optimizer and spec.lr is None
            found[named] = own if same else _member(named, f"{source.where}.optimizer", factor, own=own)
        chooses[index] = found[named]
    return list(dict.fromkeys([own, *found.values()])), chooses


def _member(
    named: OptimizerSpec, where: str, factor: float, lr: float | None = None, own: Member | None = None
) -> Member:
    """An optimiser; one that a rule names without a learning rate takes that of the solver's ``own``."""
    taken = None if own is None or "lr" in named.args else own.recipe.defaults.get("lr")
    takes = isinstance(taken, (int, float))
    recipe = resolve_optimizer(named, taken if takes else lr, where)
    reasons = dict.fromkeys(recipe.defaults, f"default of {recipe.cls.__name__}")
    reasons.update({option: f"{where}.args" for option in named.args if option in reasons})
    if own is not None and takes:  # scaled already, where it has to be
        return Member(recipe, where, FrozenDict({**reasons, "lr": own.reasons["lr"]}))
    if lr is not None:
        reasons["lr"] = "solver lr"
        if "lr" in named.args:
            reasons["lr"] = f"solver lr, in place of {where}.args.lr {named.args['lr']:g}"
    if factor != 1 and "lr" in recipe.defaults:
        before = recipe.defaults["lr"]
        recipe = _at_rate(named, before * factor, where, recipe)
        reasons["lr"] += f", {before:g} x {factor:g} for the number of samples in a step"
    return Member(recipe, where, FrozenDict(reasons))


def _at_rate(named: OptimizerSpec, lr: float, where: str, recipe: Recipe) -> Recipe:
    if not isinstance(recipe.defaults["lr"], (int, float)):
        do = "give a number as lr, or drop base_batch_size"
        raise SolverError(f"{where}.args.lr", "cannot be scaled", got=repr(recipe.defaults["lr"]), do=do)
    return resolve_optimizer(named, lr, where)
