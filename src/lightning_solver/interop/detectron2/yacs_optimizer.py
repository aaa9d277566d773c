"""The keys of ``SOLVER`` from which ``build_optimizer`` makes the optimiser, today's, of 2020, and of projects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_solver.errors import SolverError, suggestion
from lightning_solver.interop.base import Settings
from lightning_solver.interop.detectron2.groups import Groups, called, norm_rule, optional, read_groups
from lightning_solver.interop.detectron2.optimizer import fields_of
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.rule import Rule, Selector

_OF_ALL = ("BASE_LR", "MOMENTUM", "WEIGHT_DECAY")
_OF_PROJECTS = ("OPTIMIZER", "BACKBONE_MULTIPLIER", "WEIGHT_DECAY_EMBED")
_OF_DETECTRON2 = ("NESTEROV", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "BIAS_LR_FACTOR")

OPTIMIZER_KEYS = (*_OF_ALL, *_OF_DETECTRON2, *_OF_PROJECTS)
"""The keys that an optimiser is made from."""

TODAY, EARLY, MASK_FORMER, SPARSE = "build_optimizer", "build_optimizer of 2020", "Mask2Former", "Sparse R-CNN"
_PROJECTS = {"MASK_FORMER": MASK_FORMER, "SparseRCNN": SPARSE, "DiffusionDet": SPARSE, "DETR": SPARSE}
_BACKBONE = {MASK_FORMER: r"backbone.*\.", SPARSE: "backbone"}
_SWIN = r"(relative_position_bias_table|absolute_pos_embed)[^.]*$"


def read_yacs_optimizer(solver: Settings, builder: Any, model: Any) -> dict[str, Any]:
    """Fields of the spec, of ``SOLVER``; none where it says nothing about the optimiser.

    Args:
        solver: ``SOLVER``.
        builder: Who builds: today's ``build_optimizer`` (or ``None``), ``build_optimizer of 2020``, ``Mask2Former``,
            ``Sparse R-CNN``.
        model: ``MODEL``, by which projects with an own ``build_optimizer`` are told.

    Raises:
        SolverError: A builder that is not known, or what the builder refuses.
    """
    if builder is not None and builder not in _BUILDERS:
        do = suggestion(str(builder), _BUILDERS, "builders")
        raise SolverError("builder", "is not known", got=repr(builder), do=do)
    given = [key for key in OPTIMIZER_KEYS if key in solver]
    if not given:
        return {}
    if isinstance(solver.take("OPTIMIZER"), Mapping):
        what = "is a mapping in another system"
        raise SolverError(solver.path("OPTIMIZER"), what, got="a mapping", do="use interop.from_pet")
    who = builder or _who(solver, model)
    if who is None:
        own = ", ".join(key for key in _OF_PROJECTS if key in solver)
        what = (
            f"is not mapped: {own} belongs to a project whose build_optimizer is its own; "
            f"give builder: {MASK_FORMER!r} or {SPARSE!r} beside SOLVER"
        )
        for key in given:
            solver.ignore(key)
            solver.notes.unmapped(solver.path(key), what)
        return {}
    read, used = _BUILDERS[who]
    for key in given:
        if key not in used:
            solver.ignore(key)
            solver.notes.say(solver.path(key), f"is not read by {who}")
    return read(solver)


def _who(solver: Settings, model: Any) -> str | None:
    """The builder by the marks of the config; ``None`` where a project is not known."""
    if not any(key in solver for key in _OF_PROJECTS):
        return TODAY
    return project_of(solver, None, model)


def project_of(solver: Settings, builder: Any, model: Any) -> str | None:
    """The project whose functions make the optimiser; ``None`` where that is detectron2, or not known.

    Args:
        solver: ``SOLVER``.
        builder: Who builds, where the config says it.
        model: ``MODEL``, by which projects are told.
    """
    if builder is not None:
        return str(builder) if builder in (MASK_FORMER, SPARSE) else None
    if "WEIGHT_DECAY_EMBED" in solver:
        return MASK_FORMER
    marks = _PROJECTS if isinstance(model, Mapping) else {}
    return next((who for mark, who in marks.items() if mark in model), None)


def _today(solver: Settings) -> dict[str, Any]:
    arguments = {
        "base_lr": solver.number("BASE_LR", 0.001, low=0),
        "weight_decay_norm": optional(solver, "WEIGHT_DECAY_NORM", 0.0),
        "weight_decay_bias": optional(solver, "WEIGHT_DECAY_BIAS"),
        "bias_lr_factor": optional(solver, "BIAS_LR_FACTOR", 1.0),
    }
    return fields_of(_sgd(solver), read_groups(_Renamed(arguments, solver), None, None))


def _early(solver: Settings) -> dict[str, Any]:
    """Normalisation layers first, then the biases of all other modules."""
    factor = solver.number("BIAS_LR_FACTOR", 1.0, low=0)
    weight_decay = solver.number("WEIGHT_DECAY_BIAS", 1e-4, low=0)
    norm = norm_rule(solver.number("WEIGHT_DECAY_NORM", 0.0, low=0))
    bias = Rule(
        regex=called("bias"),
        unless=Selector(module_class=norm.module_class),
        lr_scale=None if factor == 1 else float(factor),
        weight_decay=float(weight_decay),
        name="bias",
        unmatched="allow",
    )
    solver.notes.say(
        solver.path("WEIGHT_DECAY_BIAS"), "does not reach the biases of normalisation layers, as it was in 2020"
    )
    return fields_of(_sgd(solver), Groups(rules=(norm, bias)))


def _mask_former(solver: Settings) -> dict[str, Any]:
    rules = [
        *_backbone(solver, MASK_FORMER, 0.1),
        Rule(regex=_SWIN, weight_decay=0.0, name="position", unmatched="allow"),
        norm_rule(solver.number("WEIGHT_DECAY_NORM", 0.0, low=0)),
        Rule(
            module_class="torch.nn.Embedding",
            weight_decay=float(solver.number("WEIGHT_DECAY_EMBED", 0.0, low=0)),
            name="embedding",
            unmatched="allow",
        ),
    ]
    return fields_of(_of_project(solver), Groups(rules=tuple(rules)))


def _sparse(solver: Settings) -> dict[str, Any]:
    return fields_of(_of_project(solver), Groups(rules=tuple(_backbone(solver, SPARSE, 1.0))))


def _backbone(solver: Settings, who: str, default: float) -> list[Rule]:
    factor = solver.number("BACKBONE_MULTIPLIER", default, low=0)
    if factor == 1:
        return []
    return [Rule(regex=_BACKBONE[who], lr_scale=float(factor), name="backbone", unmatched="allow")]


def _sgd(solver: Settings) -> OptimizerSpec:
    args = _common(solver)
    args["momentum"] = solver.number("MOMENTUM", 0.9, low=0)
    if solver.flag("NESTEROV", False):
        args["nesterov"] = True
    return OptimizerSpec("SGD", args)


def _of_project(solver: Settings) -> OptimizerSpec:
    if solver.choice("OPTIMIZER", ("SGD", "ADAMW"), "ADAMW") == "SGD":
        return OptimizerSpec("SGD", {**_common(solver), "momentum": solver.number("MOMENTUM", 0.9, low=0)})
    if "MOMENTUM" in solver:
        solver.ignore("MOMENTUM")
        solver.notes.say(solver.path("MOMENTUM"), "is not used by ADAMW")
    return OptimizerSpec("AdamW", _common(solver))


def _common(solver: Settings) -> dict[str, Any]:
    return {
        "lr": solver.number("BASE_LR", 0.001, low=0),
        "weight_decay": solver.number("WEIGHT_DECAY", 1e-4, low=0),
    }


class _Renamed(Settings):
    """Arguments of a function that were keys of ``SOLVER``, by whose names they are spoken of."""

    def __init__(self, data: Mapping[str, Any], solver: Settings) -> None:
        super().__init__(data, solver.where, solver.notes)

    def path(self, key: str) -> str:
        return super().path(key.upper())


_BUILDERS: Mapping[str, tuple[Callable[[Settings], dict[str, Any]], tuple[str, ...]]] = {
    TODAY: (_today, (*_OF_ALL, *_OF_DETECTRON2)),
    EARLY: (_early, (*_OF_ALL, *_OF_DETECTRON2)),
    MASK_FORMER: (_mask_former, (*_OF_ALL, *_OF_PROJECTS, "WEIGHT_DECAY_NORM")),
    SPARSE: (_sparse, (*_OF_ALL, "OPTIMIZER", "BACKBONE_MULTIPLIER")),
}
"""Who builds -> what reads the keys, and which are used."""
