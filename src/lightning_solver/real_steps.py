"""Which calls of ``optimizer.step`` were real steps."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class RealSteps:
    """Watches an optimiser: a step counts if a gradient was there and the loss scaler found nothing non-finite.

    What does not count: a window whose every ``training_step`` returned ``None``, a step that a loss scaler skipped (a
    fused optimiser is called all the same, and skips inside), and the step with which torch initialises optimiser state
    when it restores a sharded checkpoint.

    Args:
        optimizer: The optimiser; it is given hooks.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._count = 0
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_load_state_dict_post_hook(self._forget)

    def take(self) -> int:
        """How many real steps were made since the last call."""
        count, self._count = self._count, 0
        return count

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        if any(tensor.grad is not None for group in optimizer.param_groups for tensor in group["params"]):
            self._count += 1

    def _forget(self, optimizer: Optimizer) -> None:
        self._count = 0


def loss_scaler(trainer: Any) -> Any:
    """The loss scaler of a Trainer, which skips steps by itself; ``None`` where its precision has none.

    Args:
        trainer: The Trainer.
    """
    return getattr(trainer.precision_plugin, "scaler", None)
