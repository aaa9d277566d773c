"""Callbacks for any Trainer; each also works alone, with any LightningModule."""

from lightning_solver.callbacks.averages import EMA, SWA, PowerEMA
from lightning_solver.callbacks.gradient_accumulation import GradientAccumulation
from lightning_solver.callbacks.gradient_clipping import GradientClipping
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.callbacks.random_state import RandomState

__all__ = ["EMA", "SWA", "GradientAccumulation", "GradientClipping", "OptimizerMode", "PowerEMA", "RandomState"]
