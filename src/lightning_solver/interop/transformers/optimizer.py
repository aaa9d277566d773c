"""The optimiser that a ``Trainer`` makes of ``TrainingArguments``."""

from __future__ import annotations

from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Notes, Settings
from lightning_solver.interop.reading import Name
from lightning_solver.interop.transformers.groups import NOT_DECAYED
from lightning_solver.interop.transformers.optimizers import MEMBERS, NOT_MAPPED, OPTIMIZERS, Given
from lightning_solver.optimizer_spec import OptimizerSpec

_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
FIELDS = ("learning_rate", "weight_decay", *_ADAM, "optim", "optim_args", "optim_target_modules", "adafactor")
"""Fields of ``TrainingArguments`` that are about the optimiser."""


def read_optimizer(settings: Settings, notes: Notes) -> dict[str, Any]:
    """Fields of the spec: the optimiser and what is not decayed.

    Args:
        settings: The fields of ``TrainingArguments``.
        notes: Takes notes.

    Returns:
        Nothing where the config says nothing of the optimiser, or where it has no counterpart.

    Raises:
        SolverError: What transformers refuses.
    """
    if not settings.where and not any(key in settings for key in FIELDS):
        return {}
    name, where = _name(settings, notes)
    lr = float(settings.number("learning_rate", 5e-5, low=0))
    weight_decay = float(settings.number("weight_decay", 0.0, low=0))
    betas = tuple(float(settings.number(key, default)) for key, default in (("adam_beta1", 0.9), ("adam_beta2", 0.999)))
    eps = float(settings.number("adam_epsilon", 1e-8, low=0))
    own = Settings(_own(settings), settings.path("optim_args"), notes)
    settings.ignore("optim_target_modules")
    if name in NOT_MAPPED:
        notes.unmapped(where, f"{name} is not mapped: {NOT_MAPPED[name]}; name an optimiser of your own")
        for key in FIELDS:
            if key in settings and key not in ("optim", "adafactor"):
                notes.unmapped(settings.path(key), f"is not mapped, as {name} is not")
        return {}
    if "optim_target_modules" in settings:
        notes.say(settings.path("optim_target_modules"), f"has no effect with {name}, as in transformers")
    given = Given(name, {"betas": betas, "eps": eps}, weight_decay, settings.take("warmup_steps") or 0, own, notes)
    path, args = OPTIMIZERS[name](given)
    own.rest(lambda _: f"has no effect with {name}: transformers reads no such argument")
    for key, takes in (("adam_beta1", "betas"), ("adam_beta2", "betas"), ("adam_epsilon", "eps")):
        if key in settings and (takes not in args or args[takes] != given.adam[takes]) and "ademamix" not in name:
            notes.say(settings.path(key), f"has no effect with {name}, as in transformers")
    optimizer = OptimizerSpec(path, {"lr": lr, "weight_decay": weight_decay, **args})
    return {"optimizer": optimizer, "rules": NOT_DECAYED, "tied": "first"}


def _name(settings: Settings, notes: Notes) -> tuple[str, str]:
    """Value of ``optim``, also where it is the member of an enumeration, and its path."""
    value, where = settings.take("optim"), settings.path("optim")
    if isinstance(value, Name):
        member = value.text.rpartition(".")[2].lower()
        value = MEMBERS.get(member, member)
    value = getattr(value, "value", value)
    if settings.flag("adafactor", False):  # until release 5
        return "adafactor", settings.path("adafactor")
    if value is None:
        what = "is not given: AdamW is taken, as in transformers, which asks for its fused kernel from torch 2.8 on"
        notes.say(where, what)
        return "adamw_torch", where
    if value not in OPTIMIZERS and value not in NOT_MAPPED:
        do = suggestion(str(value), [*OPTIMIZERS, *NOT_MAPPED], "optimisers")
        raise SolverError(where, "transformers has no such optimiser", got=repr(value), do=do)
    return str(value), where


def _own(settings: Settings) -> dict[str, str]:
    """``optim_args``: ``"momentum=0.9, nesterov=true"``."""
    text = settings.take("optim_args")
    if not text:
        return {}
    pairs = [pair.split("=") for pair in str(text).replace(" ", "").split(",")]
    if not isinstance(text, str) or any(len(pair) != 2 for pair in pairs):
        do = "write momentum=0.9,nesterov=true"
        raise SolverError(settings.path("optim_args"), "must be a text of name=value", got=repr(text)[:80], do=do)
    return dict(pairs)
