"""Points of a run of MMEngine, and lengths."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Point:
    """A point of the run, or a length: epochs, iterations and shares of the run, added up."""

    epochs: Fraction = Fraction(0)
    batches: Fraction = Fraction(0)
    runs: Fraction = Fraction(0)

    def __add__(self, other: Point) -> Point:
        return Point(self.epochs + other.epochs, self.batches + other.batches, self.runs + other.runs)

    def __sub__(self, other: Point) -> Point:
        return self + other * -1

    def __mul__(self, by: Fraction | int) -> Point:
        return Point(self.epochs * by, self.batches * by, self.runs * by)


START, END = Point(), Point(runs=Fraction(1))
"""The beginning and the end of the run."""


def point_of(number: Fraction, unit: str) -> Point:
    """A number of epochs (``ep``) or of iterations (``st``) as a point."""
    return Point(epochs=number) if unit == "ep" else Point(batches=number)
