"""Configs of detectron2 and schedulers of fvcore, whose values are functions of the share of training that is done."""

from lightning_solver.interop.detectron2.entry import from_detectron2

__all__ = ["from_detectron2"]
