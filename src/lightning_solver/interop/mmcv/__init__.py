"""MMCV 1.x (MMClassification 0.x, MMDetection 2.x, MMSegmentation 0.x, ...): ``lr_config`` and ``momentum_config``."""

from lightning_solver.interop.mmcv.entry import from_mmcv

__all__ = ["from_mmcv"]
