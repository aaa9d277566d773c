"""One checked specification of how a LightningModule is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_solver.durations import Duration, RunLength
from lightning_solver.errors import SolverError
from lightning_solver.factors import ByName, FanIn, LayerDecay
from lightning_solver.optimizer_spec import OptimizerSpec
from lightning_solver.rule import Rule, Selector
from lightning_solver.spec import SolverSpec

if TYPE_CHECKING:
    from lightning_solver.cli import SolverCLI
    from lightning_solver.mixin import SolverMixin
    from lightning_solver.plan import Plan

__version__ = "0.1.0"
__all__ = [
    "ByName",
    "Duration",
    "FanIn",
    "LayerDecay",
    "OptimizerSpec",
    "Plan",
    "Rule",
    "RunLength",
    "Selector",
    "SolverCLI",
    "SolverError",
    "SolverMixin",
    "SolverSpec",
]

# Loaded when first asked for: they need torch, Lightning and the command line's parser.
_LATER = {"SolverCLI": "cli", "SolverMixin": "mixin", "Plan": "plan"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(f"lightning_solver.{_LATER[name]}"), name)
    raise AttributeError(f"module 'lightning_solver' has no attribute {name!r}")
