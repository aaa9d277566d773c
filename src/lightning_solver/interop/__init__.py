"""Configs of other systems, read as specs that give the same numbers.

Every importer is called as ``from_x(config, *, facts=None, strict=False)`` and returns an :class:`Imported`.
"""

from lightning_solver.interop.base import Imported
from lightning_solver.interop.composer import from_composer
from lightning_solver.interop.detectron2 import from_detectron2
from lightning_solver.interop.mmcv import from_mmcv
from lightning_solver.interop.mmengine import from_mmengine
from lightning_solver.interop.pet import from_pet
from lightning_solver.interop.timm import from_timm
from lightning_solver.interop.torch import from_torch
from lightning_solver.interop.transformers import from_transformers

__all__ = [
    "Imported",
    "from_composer",
    "from_detectron2",
    "from_mmcv",
    "from_mmengine",
    "from_pet",
    "from_timm",
    "from_torch",
    "from_transformers",
]
