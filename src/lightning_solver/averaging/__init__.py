"""Averages of the weights: what is averaged and when is plain data; the tensors come in when training starts."""

from lightning_solver.averaging.average import Average, UpdateBN
from lightning_solver.averaging.kinds import EMA, SWA, DecayWarmup, ExponentialWarmup, PowerEMA, PowerWarmup, SlowStart

__all__ = [
    "EMA",
    "SWA",
    "Average",
    "DecayWarmup",
    "ExponentialWarmup",
    "PowerEMA",
    "PowerWarmup",
    "SlowStart",
    "UpdateBN",
]
