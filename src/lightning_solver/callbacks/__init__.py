"""Callbacks for any Trainer; each also works alone, with any LightningModule."""

from lightning_solver.callbacks.averages import EMA, SWA, PowerEMA
from lightning_solver.callbacks.optimizer_mode import OptimizerMode
from lightning_solver.callbacks.random_state import RandomState

__all__ = ["EMA", "SWA", "OptimizerMode", "PowerEMA", "RandomState"]
