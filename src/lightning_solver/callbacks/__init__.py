"""Callbacks for any Trainer; each also works alone, with any LightningModule."""

from lightning_solver.callbacks.averages import EMA, SWA, PowerEMA
from lightning_solver.callbacks.empty_cache import EmptyCache
from lightning_solver.callbacks.gradient_accumulation import GradientAccumulation
from lightning_solver.callbacks.gradient_clipping import GradientClipping
from lightning_solver.callbacks.monitor import SolverMonitor
from lightning_solver.callbacks.norm_statistics import SyncNormStatistics
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.callbacks.random_state import RandomState

__all__ = [
    "EMA",
    "SWA",
    "EmptyCache",
    "GradientAccumulation",
    "GradientClipping",
    "OptimizerMode",
    "PowerEMA",
    "RandomState",
    "SolverMonitor",
    "SyncNormStatistics",
]
