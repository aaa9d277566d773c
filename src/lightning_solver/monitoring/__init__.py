"""What is watched while a model is trained: series by name, with what they were lately and over the whole run."""

from lightning_solver.monitoring.history import Histories, History
from lightning_solver.monitoring.series import SERIES

__all__ = ["SERIES", "Histories", "History"]
