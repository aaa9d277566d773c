"""The parts of a module that have an optimiser of their own: which parameters are whose, and what belongs together."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_solver.errors import SolverError, nearest, suggestion
from lightning_solver.plan import Plan
from lightning_solver.real_steps import RealSteps
from lightning_solver.rules.inventory import Parameter, take_inventory
from lightning_solver.scheduler import PlanScheduler
from lightning_solver.several import CHECKPOINT_KEY as _KEY
from lightning_solver.spec import SolverSpec


@dataclass
class Part:
    """An optimiser of a run with all that belongs to it.

    Args:
        name: The name of its spec; ``solver`` where there is one spec only.
        plan: Its plan.
        optimizer: The optimiser.
        scheduler: What moves its options; ``last_epoch`` is the number of steps that it has made.
        real_steps: Watches which of its steps are real.
        earlier: Steps that it made in an earlier ``fit`` of the same Trainer.
        gathered: Batches whose gradients wait for its next step.
        window: Of how many batches that step is.
        batches: Batches that its turns were given in this ``fit``.
        skipped: Steps that its turns did not make, as gradients were not finite, in the whole run.
    """

    name: str
    plan: Plan
    optimizer: Optimizer
    scheduler: PlanScheduler
    real_steps: RealSteps
    earlier: int = 0
    gathered: int = 0
    window: int = 1
    batches: int = 0
    skipped: int = 0

    @property
    def taken(self) -> int:
        """Steps of the run that are over, those that were skipped included: by them the length of a run is judged."""
        return self.scheduler.last_epoch + self.skipped

    @property
    def parameters(self) -> list[Any]:
        """The tensors that it trains."""
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]]


def batches_per_step(spec: SolverSpec) -> Fraction:
    """How many batches a step of this optimiser takes under manual optimisation.

    Args:
        spec: Its spec.

    Raises:
        SolverError: An accumulation that turns cannot make.
    """
    return Fraction(accumulation_of_turns(spec) if spec.batches_per_step is None else spec.batches_per_step)


def accumulation_of_turns(spec: SolverSpec) -> int:
    """How many batches a turn of this optimiser accumulates if it is not told.

    Args:
        spec: Its spec.

    Raises:
        SolverError: It changes in the run, is written in samples, is weighted, or is to be kept in checkpoints: turns
            cannot do that.
    """
    how = spec.accumulation()
    if how is None:
        return 1
    lost = "cannot be had under manual optimisation"
    if how.constant is None or how.weigh_by is not None:
        do = "give a number of batches; weigh the losses that turn.step is given yourself"
        raise SolverError("accumulate", lost, got=how.describe(), do=do)
    if how.keep_gradients:
        do = "drop it, and write checkpoints between windows"
        raise SolverError("accumulate.keep_gradients", lost, got="True", do=do)
    return how.constant


def share_out(specs: Mapping[str, SolverSpec], module: nn.Module) -> dict[str, SolverSpec]:
    """The specs with ``only`` filled in, once it is clear that each trainable parameter belongs to exactly one.

    Args:
        specs: The specs by name. A name is that of a submodule or parameter, unless ``only`` says what it stands for.
        module: The module.

    Raises:
        SolverError: A name that the module does not have; a glob that matches no parameter; a parameter that belongs to
            no spec, or to several.
    """
    full = {name: spec.replace(only=_patterns(name, spec, module)) for name, spec in specs.items()}
    inventory = take_inventory(module)
    for name, spec in specs.items():
        if spec.only is not None:
            _refuse_idle(name, full[name].only or (), inventory)
    lost: list[str] = []
    for parameter in inventory:
        owners = [name for name, spec in full.items() if _is_among(parameter, spec)]
        if len(owners) > 1:
            what = "would be trained by more than one optimiser"
            do = "narrow the settings only, so that it belongs to one"
            raise SolverError(parameter.name, what, got=" and ".join(owners), do=do)
        if not owners and parameter.tensor.requires_grad:
            lost.append(parameter.name)
    if lost:
        got = f"{len(lost)} such parameters" if len(lost) > 1 else f"optimisers {', '.join(full)}"
        do = "add an optimiser for it, let the setting only of one cover it, or freeze it (requires_grad_(False))"
        raise SolverError(lost[0], "is trainable, but no optimiser trains it", got=got, do=do)
    return full


def default_only(name: str, module: nn.Module) -> tuple[str, ...]:
    """The parameters that a name stands for; none where it is neither a submodule nor a parameter."""
    if name in dict(module.named_modules()):
        return (f"{name}.*",)
    return (name,) if name in dict(module.named_parameters()) else ()


def _patterns(name: str, spec: SolverSpec, module: nn.Module) -> Sequence[str]:
    if spec.only is not None:
        return (spec.only,) if isinstance(spec.only, str) else spec.only
    found = default_only(name, module)
    if not found:
        known = [known for known, _ in module.named_modules() if known]
        do = f"{suggestion(name, known, 'submodules')} Or say by only: [...] which parameters it trains"
        raise SolverError(f"solver.{name}", "the module has no submodule of this name", got=repr(name), do=do)
    return found


def _refuse_idle(name: str, patterns: Sequence[str], inventory: Sequence[Parameter]) -> None:
    """Refuse globs that match no parameter."""
    names = [place.name for parameter in inventory for place in parameter.places]
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(known, pattern) for known in names):
            continue
        bare = pattern.rstrip(".*?")
        depth = bare.count(".") + 1
        heads = list(dict.fromkeys(".".join(known.split(".")[:depth]) for known in names))
        close = nearest(bare, heads)
        do = f"nearest names: {', '.join(close)}" if close else f"names start with: {', '.join(heads[:8])}"
        raise SolverError(f"solver.{name}.only", "matches no parameter", got=repr(pattern), do=do)


def _is_among(parameter: Parameter, spec: SolverSpec) -> bool:
    patterns: Sequence[str] = spec.only or ()
    return any(fnmatch.fnmatchcase(place.name, pattern) for place in parameter.places for pattern in patterns)


# ------------------------------------------------------------------ checkpoints


def sign(checkpoint: dict[str, Any], parts: Mapping[str, Part]) -> None:
    """Note in a checkpoint whose the states are, which Lightning saves and restores by their place."""
    checkpoint[_KEY] = {
        "names": list(parts),
        "gathered": {part.name: part.gathered for part in parts.values()},
        "skipped": {part.name: part.skipped for part in parts.values()},
    }


def names_in(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """The names of the optimisers whose states a checkpoint holds; ``None`` where it does not say."""
    return list(checkpoint[_KEY]["names"]) if _KEY in checkpoint else None


def skipped_in(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """How many steps the turns of each optimiser had skipped when a checkpoint was written."""
    return dict(checkpoint.get(_KEY, {}).get("skipped", {}))


def sort_states(checkpoint: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Bring the states in a checkpoint into the order in which the present optimisers stand.

    Args:
        checkpoint: What was loaded; it is changed.
        names: The names of the present optimisers.

    Returns:
        What there is to say of it: the gradients that were lost.

    Raises:
        SolverError: The checkpoint holds the states of other optimisers, or of sharded ones in another order.
    """
    saved = names_in(checkpoint)
    if saved is None and len(names) == 1:
        return []
    if saved is None or set(saved) != set(names):
        then = "one of unknown name" if saved is None else ", ".join(saved)
        what = "the checkpoint holds the states of other optimisers"
        do = "resume by the names that it was written with, or load the weights alone"
        raise SolverError("ckpt_path", what, got=f"{then} then, {', '.join(names)} now", do=do)
    if saved != list(names) and "optimizer_states" not in checkpoint:
        what = "the optimisers stand in another order than in the sharded checkpoint, which is restored by place"
        do = "name them in the order in which it was written, or resume from a full checkpoint"
        raise SolverError("ckpt_path", what, got=f"{', '.join(saved)} then, {', '.join(names)} now", do=do)
    for key in ("optimizer_states", "lr_schedulers"):
        if key in checkpoint:
            checkpoint[key] = [checkpoint[key][saved.index(name)] for name in names]
    checkpoint[_KEY] = {**checkpoint[_KEY], "names": list(names)}
    return [
        f"{name}: {count} {'batch' if count == 1 else 'batches'}"
        for name, count in checkpoint[_KEY]["gathered"].items()
        if count
    ]
