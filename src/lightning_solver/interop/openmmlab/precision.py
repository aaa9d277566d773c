"""What a Trainer is given in place of a mixed precision that a config asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError


def trainer_words(scale: Any, where: str) -> str:
    """Which precision the Trainer is given for float16 with a scaled loss.

    Args:
        scale: ``loss_scale`` of the config: ``dynamic``, a number, or arguments of the scaler.
        where: Its path.

    Raises:
        SolverError: It is something else.
    """
    if scale == "dynamic":
        return "the precision belongs to the Trainer: Trainer(precision='16-mixed')"
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not number and not isinstance(scale, Mapping):
        do = "give dynamic, a number, or a mapping of arguments"
        raise SolverError(where, "is not a scale of the loss", got=repr(scale)[:120], do=do)
    scaler = f"torch.amp.GradScaler for loss_scale {dict(scale) if isinstance(scale, Mapping) else scale!r}"
    given = f"Trainer(plugins=MixedPrecision('16-mixed', 'cuda', scaler=...)) with a {scaler}"
    moves = ", which a GradScaler moves and theirs keeps" if number else ""
    return f"the precision belongs to the Trainer: {given}{moves}"
