"""What is done about gradients that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_solver.plain import Plain

Policy = Literal["error", "skip", "zero"]


@dataclass(frozen=True)
class NonFinite(Plain):
    """What is done when the norm of all gradients is not finite.

    To know it the process waits for the device once a step. A loss scaler (``16-mixed``) skips such steps by itself
    until its scale fits; they are counted, and only too many in a row are an error.

    Args:
        policy: ``error`` ends the run; ``skip`` leaves the step out, with which neither schedules nor averages move;
            ``zero`` puts 0 in the place of every number that is not finite, and makes the step.
        in_a_row: After how many such steps in a row the run ends whatever the policy is.
    """

    policy: Policy = "skip"
    in_a_row: int = 20

    def check(self) -> None:
        if self.in_a_row < 1:
            raise self._error("in_a_row", "must be at least 1", got=self.in_a_row, do="correct it")
