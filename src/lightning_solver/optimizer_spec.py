"""An optimiser by name: what the user said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_solver.plain import Plain


@dataclass(frozen=True)
class OptimizerSpec(Plain):
    """The optimiser.

    Args:
        name: A class of ``torch.optim`` by name (``AdamW``), or the dotted path of any optimiser class.
        args: Its arguments but ``params``, checked against its signature when the plan is made.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
