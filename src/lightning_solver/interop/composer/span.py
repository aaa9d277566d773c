"""A time of the schedule once Composer has converted it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal


@dataclass(frozen=True)
class Span:
    """A time of the schedule, as Composer counts it and as a duration.

    Args:
        text: As a duration.
        unit: What Composer counts it in once it has converted it.
        count: How many of these, rounded down; ``None`` where the length of an epoch would be needed.
        steps: The same in steps, where it is known.
        epochs: The same in epochs, where it is known.
        whole: Whether it is the length of the run, so that a phase which ends there needs no end.
        share: The same as a share of the run, where that is all that is known.
    """

    text: int | str
    unit: Literal["ba", "sp"]
    count: int | None = None
    steps: Fraction | None = None
    epochs: Fraction | None = None
    whole: bool = False
    share: Fraction | None = None

    @property
    def empty(self) -> bool:
        """Whether it is nothing."""
        return self.count == 0 or self.epochs == 0

    def place(self, others: Sequence[Span]) -> Fraction | None:
        """What it is compared with ``others`` by; ``None`` where that is not known."""
        for name in ("steps", "epochs", "count", "share"):
            same = name != "count" or len({span.unit for span in others}) == 1
            if same and all(getattr(span, name) is not None for span in others):
                return Fraction(getattr(self, name))
        return None

    def before(self, other: Span) -> bool:
        """Whether it ends before another one; true where that is not known."""
        mine, its = (span.place([self, other]) for span in (self, other))
        return mine is None or its is None or mine < its
