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

    @classmethod
    def instead(cls, key: str) -> str | None:
        if key in ("class_path", "init_args"):
            return "write name: and args: here, as in {name: AdamW, args: {lr: 0.001}}"
        return f"write it under args, as in {{name: AdamW, args: {{{key}: ...}}}}" if key in _USUAL else None


_USUAL = frozenset({"lr", "weight_decay", "momentum", "betas", "eps", "nesterov", "fused", "foreach"})
