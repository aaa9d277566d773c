"""What is done about the gradients of one optimiser in a run: what the callbacks that clip fill in and others read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lightning_solver.clipping.clipper import Clipper
from lightning_solver.clipping.nonfinite import NonFinite
from lightning_solver.clipping.norms import Gradients
from lightning_solver.clipping.planned import PlannedClip
from lightning_solver.clipping.ways import Clipped


@dataclass
class AtWork:
    """What is done about the gradients of one optimiser in a run.

    Attributes:
        planned: What is clipped.
        clippers: The same at work.
        gradients: All gradients of the optimiser.
        nonfinite: What is done when they are not finite.
        where: The path of the clipping, for error messages.
        clipped: What the latest step measured, one for each clipping; none where it was left out.
        norm: The norm of all gradients before, where it was a by-product of the latest step.
        order: The order of that norm: that of a clipping of all gradients, else 2.
        found: How many steps have had gradients that were not finite.
        in_a_row: How many of them were the latest ones.
        steps: How many real steps the optimiser had made when that was last needed; a plan counts for itself.
        measure: Whether norms and shares are wanted that are no by-product of a clipping.
        before: What is called before anything is clipped in such a step.
    """

    planned: tuple[PlannedClip, ...]
    clippers: tuple[Clipper, ...]
    gradients: Gradients
    nonfinite: NonFinite | None
    where: str
    clipped: tuple[Clipped, ...] = ()
    norm: Tensor | None = None
    order: float = 2.0
    found: int = 0
    in_a_row: int = 0
    steps: int = 0
    measure: bool = field(default=False, repr=False)
    before: Callable[[], object] | None = field(default=None, repr=False)
