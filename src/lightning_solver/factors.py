"""Factors that differ from parameter to parameter: by width, by name, by depth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.plain import Plain, import_dotted


@dataclass(frozen=True)
class Factor(Plain, ABC):
    """A factor worked out for each parameter. To make your own, derive a frozen dataclass and give ``of``."""

    @abstractmethod
    def of(self, name: str, shape: tuple[int, ...]) -> float:
        """The factor of one parameter.

        Args:
            name: Its qualified name.
            shape: Its shape.
        """


@dataclass(frozen=True)
class FanIn(Factor):
    """``(base / fan_in) ** power``: learning rates tuned on a narrow model carry over to a wide one.

    The rule of muP (Yang et al. 2022, "Tensor Programs V", table 8) for hidden and output matrices under Adam; it takes
    the initialisation and the output multiplier of that paper, which belong to the model.

    Args:
        base: Fan-in of the same matrix in the model in which the learning rate was tuned.
        power: 1 for Adam and its kin; 0 leaves the rate alone.

    Example:
        >>> FanIn(base=256).of("blocks.0.mlp.weight", (4096, 1024))
        0.25
    """

    base: int
    power: float = 1.0

    def check(self) -> None:
        if self.base < 1:
            raise self._error("base", "must be at least 1", got=self.base, do="give the fan-in of the base model")

    def of(self, name: str, shape: tuple[int, ...]) -> float:
        if len(shape) < 2:
            do = "let the rule select matrices only, with ndim: 2 or kind: hidden"
            raise SolverError(name, "has no fan-in, as it is no matrix", got=f"shape {tuple(shape)}", do=do)
        return float((self.base / math.prod(shape[1:])) ** self.power)


@dataclass(frozen=True)
class ByName(Factor):
    """What a Python function makes of the parameter's qualified name.

    Args:
        function: Dotted path of the function, or in Python the function itself; it takes a name and returns a number.
        root: Put in front of the names of parameters that the root module itself holds.

    Example:
        >>> ByName("builtins.len").of("head.bias", (10,))
        9.0
    """

    function: str | Callable[..., Any]
    root: str = ""

    def check(self) -> None:
        if not isinstance(self.function, str) and not callable(self.function):
            raise self._error("function", "is not a function", got=self.function, do="name a function of one text")
        if isinstance(self.function, str) and "." not in self.function:
            do = "give a dotted path such as package.module.name"
            raise self._error("function", "is not the path of a function", got=self.function, do=do)

    def of(self, name: str, shape: tuple[int, ...]) -> float:
        function: Any = self.function
        if isinstance(function, str):
            function = import_dotted(function, "ByName.function")
        seen = name if "." in name else self.root + name
        try:
            value = function(seen)
        except Exception as error:  # whatever a user's function may raise
            what = f"failed for {seen!r}: {type(error).__name__}: {error}"
            raise SolverError("ByName.function", what, got=repr(self.function), do="mend the function") from error
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            do = "return a finite number >= 0"
            raise SolverError("ByName.function", f"gave no factor for {seen!r}", got=repr(value), do=do)
        return float(value)


@dataclass(frozen=True)
class LayerDecay(Plain):
    """Layer-wise learning-rate decay: ``max(min_scale, rate ** (top - depth))``, 1 at the head.

    Source: Clark et al. (2020), "ELECTRA"; Bao et al. (2022), "BEiT".

    Args:
        rate: Factor from one depth to the one below it.
        min_scale: Least factor.
        freeze_below: Parameters with a smaller factor are left out of the optimiser.

    Example:
        >>> LayerDecay(0.5, min_scale=0.1).factor(depth=10, top=12), LayerDecay(0.5, min_scale=0.1).factor(0, 12)
        (0.25, 0.1)
    """

    rate: float
    min_scale: float = 0.0
    freeze_below: float = 0.0

    def check(self) -> None:
        for field in ("rate", "min_scale", "freeze_below"):
            value = getattr(self, field)
            if value < 0 or (field == "rate" and value == 0):
                what = "must be greater than 0" if field == "rate" else "must not be negative"
                raise self._error(field, what, got=value, do="correct it")
        if 0 < self.freeze_below <= self.min_scale:
            do = f"give more than min_scale, {self.min_scale:g}, or drop one of them"
            raise self._error("freeze_below", "would never freeze anything", got=self.freeze_below, do=do)

    def factor(self, depth: int, top: int) -> float:
        """The factor of a parameter.

        Args:
            depth: Its depth, 0 nearest the input.
            top: The greatest depth.
        """
        return float(max(self.min_scale, self.rate ** (top - depth)))
