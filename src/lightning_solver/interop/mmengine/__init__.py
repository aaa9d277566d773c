"""MMEngine (MMPretrain 1.x, MMDetection 3.x, MMSegmentation 1.x, ...): ``param_scheduler``.

A scheduler of MMEngine works on what the group holds at the moment, from its ``begin`` to the step before its ``end``,
and touches nothing outside: each is read as a move, and the moves of an option are laid out as one schedule.
"""

from lightning_solver.interop.mmengine.entry import from_mmengine

__all__ = ["from_mmengine"]
