"""The optimiser of a config: its class, its arguments, and what the groups go by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Settings
from lightning_solver.interop.optimizers import TORCH, read_arguments
from lightning_solver.interop.reading import Name
from lightning_solver.optimizer_spec import OptimizerSpec

_NO_ARGUMENTS = ("type", "_delete_", "_scope_")
_SCOPES = ("mmcls", "mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg", "mmselfsup")
_PATHS: Mapping[str, str] = {
    "Lion": "lion_pytorch.Lion",
    "SophiaG": "Sophia.SophiaG",
    "TorchAdafactor": "Adafactor",
    **{name: f"dadaptation.{name}" for name in ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptSGD")},
    **{
        name: f"bitsandbytes.optim.{name.removeprefix('bnb_')}"
        for name in (
            *("bnb_Adagrad", "bnb_Adam", "bnb_AdamW", "bnb_RMSprop", "bnb_SGD", "bnb_Lion", "Adagrad8bit"),
            *("Adagrad32bit", "Adam8bit", "Adam32bit", "AdamW8bit", "AdamW32bit", "PagedAdam", "PagedAdam8bit"),
            *("PagedAdam32bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "LAMB", "LAMB8bit", "LAMB32bit"),
            *("LARS8bit", "LARS32bit", "Lion8bit", "Lion32bit", "PagedLion", "RMSprop8bit", "SGD8bit", "AdEMAMix"),
        )
    },
}
"""Optimisers of other packages that MMEngine takes by a short name."""

_LAMB = "lr bias_correction betas eps weight_decay grad_averaging max_grad_norm trust_clip always_adapt"
_ADAN = "lr betas eps weight_decay max_grad_norm no_prox foreach"
_COPIES: Mapping[str, tuple[str, str]] = {"Lamb": ("timm.optim.Lamb", _LAMB), "Adan": ("timm.optim.Adan", _ADAN)}
"""Optimisers of MMPretrain whose arithmetic is that of another package: where it is, and their arguments."""

_OWN = "define it where Python finds it, and name that: spec.replace(optimizer=OptimizerSpec('package.Class', args))"


@dataclass(frozen=True)
class Base:
    """The optimiser of a config, and what the groups go by.

    Args:
        spec: The optimiser; ``None`` where it has no counterpart.
        lr: The learning rate that the config gives to it.
        weight_decay: The weight decay that the config gives to it.
        arguments: Its arguments, where they are known.
        peer: What the peer is called.
        where: Path of the optimiser in the config.
    """

    spec: OptimizerSpec | None
    lr: float | None
    weight_decay: float | None
    arguments: tuple[str, ...] | None
    peer: str
    where: str


def side_by_side(names: Iterable[str]) -> str:
    """What several optimisers are here: a mapping of their names to solvers."""
    return f"a mapping of names to solvers trains them: solver = {{{', '.join(f'{name}: ...' for name in names)}}}"


def read_base(data: Settings, config: Mapping[Any, Any], peer: str, not_arguments: tuple[str, ...] = ()) -> Base:
    """The optimiser of a config.

    Args:
        data: Its mapping.
        config: The same mapping, for its keys.
        peer: ``MMCV`` or ``MMEngine``.
        not_arguments: Keys that are no arguments of the optimiser.

    Raises:
        SolverError: No ``type``, or an argument that is no data.
    """
    data.needed("type")
    name = _named(data)
    keys = [str(key) for key in config if str(key) not in (*_NO_ARGUMENTS, *not_arguments)]
    data.ignore(*_NO_ARGUMENTS, *not_arguments)
    values = (data.number("lr"), data.number("weight_decay"))
    if name == "Adafactor" and peer == "MMEngine":
        data.notes.say(data.path("type"), "is the one of transformers in MMEngine; torch's is called TorchAdafactor")
        path, known = "transformers.optimization.Adafactor", None
    else:
        path = _PATHS.get(name, name) if peer == "MMEngine" else name
        known = TORCH.get(path)
    if name in _COPIES:
        path, arguments = _COPIES[name]
        known = tuple(arguments.split())
        what = f"is MMPretrain's, which does as {path} does: it is taken from there, and timm has to be installed"
        data.notes.say(data.path("type"), what)
    why = _why_not(name, path, data)
    if why is not None:
        data.ignore(*keys)
        data.notes.unmapped(data.path("type"), why)
        return Base(None, *values, None, peer, data.where)
    args = read_arguments(data, keys, name, known)
    if name == "Adan":
        args.pop("max_grad_norm", None)
    return Base(OptimizerSpec(path, args), *values, known, peer, data.where)


def _named(data: Settings) -> str:
    """The class, by torch's short name or a dotted path."""
    given = data.take("type")
    if isinstance(given, type):
        torch = given.__module__.partition(".")[0] == "torch"
        return given.__name__ if torch else f"{given.__module__}.{given.__qualname__}"
    if not isinstance(given, (str, Name)):
        do = "give the name of a class"
        raise SolverError(data.path("type"), "is not an optimiser", got=repr(given)[:120], do=do)
    text = given.text if isinstance(given, Name) else given
    package, _, short = text.rpartition(".")
    return short if package in ("torch.optim", "optim", *_SCOPES) else text


def _why_not(name: str, path: str, data: Settings) -> str | None:
    """Why an optimiser has no counterpart; ``None`` where it has one."""
    if name == "LARS":
        return (
            "is not mapped: MMPretrain's LARS has the learning rate inside its momentum, others have it outside, so "
            "that they differ as soon as the rate moves; install MMPretrain and name its class by the dotted path"
        )
    if name == "Adan" and data.number("max_grad_norm", 0.0):
        return "is not mapped: it clips by max_grad_norm, which timm's Adan does not; leave that to clipping"
    if name == "Adan" and data.take("no_prox", False) and data.take("foreach", True):
        return "is not mapped: MMPretrain's Adan only shrinks the weights with no_prox and foreach; give foreach=False"
    if name == "ZeroRedundancyOptimizer":
        return "is not mapped: take optimizer_type itself, and a sharding strategy of the Trainer"
    if "." in path or path in TORCH:
        return None
    return f"is not mapped: {name} is no optimiser of torch. {_OWN[0].upper()}{_OWN[1:]}"
