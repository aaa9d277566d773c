"""The kinds of clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_solver.clipping.clip import Clip
from lightning_solver.errors import SolverError

if TYPE_CHECKING:
    from lightning_solver.clipping.ways import Way

Order = float | Literal["inf"]


@dataclass(frozen=True)
class GlobalNorm(Clip):
    """All gradients together are scaled down to a norm (Pascanu et al. 2013).

    Args:
        max_norm: The greatest norm, above 0.
        norm_type: The order of the norm, above 0; ``inf`` for the greatest absolute value.
        eps: What is added to the norm that is divided by; torch's is 1e-6.
    """

    max_norm: float
    norm_type: Order = 2.0
    eps: float = 1e-6

    def check(self) -> None:
        super().check()
        check_norm(self, self.norm_type, self.eps)

    @property
    def limit(self) -> float:
        return self.max_norm

    @property
    def by_joint_norm(self) -> bool:
        return True

    @property
    def order(self) -> float:
        return math.inf if self.norm_type == "inf" else float(self.norm_type)

    def way(self) -> Way:
        from lightning_solver.clipping.ways import ByNorm

        return ByNorm(self.norm_type, self.eps)


@dataclass(frozen=True)
class GroupNorm(Clip):
    """The gradients of each parameter group together are scaled down to a norm.

    Args:
        max_norm: The greatest norm, above 0.
        norm_type: The order of the norm, above 0; ``inf`` for the greatest absolute value.
        eps: What is added to the norm that is divided by; torch's is 1e-6.
    """

    max_norm: float
    norm_type: Order = 2.0
    eps: float = 1e-6

    def check(self) -> None:
        super().check()
        check_norm(self, self.norm_type, self.eps)

    @property
    def limit(self) -> float:
        return self.max_norm

    @property
    def order(self) -> float:
        return math.inf if self.norm_type == "inf" else float(self.norm_type)

    def way(self) -> Way:
        from lightning_solver.clipping.ways import ByNorm

        return ByNorm(self.norm_type, self.eps, by_group=True)


@dataclass(frozen=True)
class ParameterNorm(Clip):
    """Each gradient is scaled down to a norm of its own: what detectron2 and Pet call ``norm``.

    Args:
        max_norm: The greatest norm, above 0.
        norm_type: The order of the norm, above 0; ``inf`` for the greatest absolute value.
        eps: What is added to the norm that is divided by; torch's is 1e-6.
    """

    max_norm: float
    norm_type: Order = 2.0
    eps: float = 1e-6

    def check(self) -> None:
        super().check()
        check_norm(self, self.norm_type, self.eps)

    @property
    def limit(self) -> float:
        return self.max_norm

    @property
    def order(self) -> float:
        return math.inf if self.norm_type == "inf" else float(self.norm_type)

    def way(self) -> Way:
        from lightning_solver.clipping.ways import ByParameter

        return ByParameter(self.norm_type, self.eps)


@dataclass(frozen=True)
class Value(Clip):
    """Each number of a gradient is cut off at a greatest absolute value.

    Args:
        max_value: It, above 0.
    """

    max_value: float

    @property
    def limit(self) -> float:
        return self.max_value

    @property
    def limited_by(self) -> str:
        return "max_value"

    def way(self) -> Way:
        from lightning_solver.clipping.ways import ByValue

        return ByValue()


@dataclass(frozen=True)
class AGC(Clip):
    """Adaptive gradient clipping (Brock et al. 2021): each unit is scaled down by the norm of its own weights.

    A unit is a row of a matrix, what belongs to one output channel of a convolution, or a whole vector. The norm of its
    gradient may be ``factor`` times the norm of its weights. The paper spares the last linear layer:
    ``unless: {kind: head}``.

    Args:
        factor: The greatest ratio of the norms, above 0.
        eps: The least norm of weights that is reckoned with, so that weights of 0 can leave it. With 0, as in Composer,
            the gradient of a unit whose weights are all 0 becomes 0 for good.
        norm_type: The order of the norms, above 0; ``inf`` for the greatest absolute value.
        spare_last: How many of the last parameters are spared: timm spares 2, which are often the weight and the bias
            of the head.
    """

    factor: float = 0.01
    eps: float = 1e-3
    norm_type: Order = 2.0
    spare_last: int = 0

    def check(self) -> None:
        super().check()
        check_norm(self, self.norm_type, self.eps)
        if self.spare_last < 0:
            raise self._error("spare_last", "must not be negative", got=self.spare_last, do="correct it")

    @property
    def limit(self) -> float:
        return self.factor

    @property
    def limited_by(self) -> str:
        return "factor"

    @property
    def spared(self) -> int:
        return self.spare_last

    def way(self) -> Way:
        from lightning_solver.clipping.units import ByUnit

        return ByUnit(self.norm_type, self.eps)


@dataclass(frozen=True)
class AutoClip(Clip):
    """All gradients together are scaled down to a percentile of their norms so far (Seetharaman et al. 2020).

    Norms that are not finite are not remembered.

    Args:
        percentile: Above 0, at most 100; the paper takes 10.
        window: Of how many of the latest steps, the present one included; the paper takes all.
        norm_type: The order of the norm, above 0; ``inf`` for the greatest absolute value.
    """

    percentile: float = 10.0
    window: int = 1000
    norm_type: Order = 2.0

    def check(self) -> None:
        super().check()
        check_norm(self, self.norm_type)
        if not 0 < self.percentile <= 100:
            do = "give a value above 0, at most 100"
            raise self._error("percentile", "is out of range", got=self.percentile, do=do)
        if self.window < 1:
            raise self._error("window", "must be at least 1", got=self.window, do="correct it")

    @property
    def limit(self) -> None:
        return None

    @property
    def by_joint_norm(self) -> bool:
        return True

    @property
    def order(self) -> float:
        return math.inf if self.norm_type == "inf" else float(self.norm_type)

    @property
    def learns(self) -> bool:
        return True

    def way(self) -> Way:
        from lightning_solver.clipping.adaptive import ByPercentile

        return ByPercentile(self)


@dataclass(frozen=True)
class ZClip(Clip):
    """Spikes of the norm of all gradients are scaled down (Kumar et al. 2025, "ZClip").

    The norm ``g`` is compared with its running mean ``m`` and standard deviation ``s``: where
    ``z = (g - m) / (s + 1e-6)`` is above ``threshold``, the gradients are scaled down to
    ``factor * (m + s * threshold ** 2 / z)``, the more the greater the spike is. The norm so reached enters the running
    statistics. Norms that are not finite do not.

    Args:
        threshold: The greatest z-score that is no spike, above 0.
        decay: Decay of the running statistics for one step, above 0 and below 1.
        warmup: Steps from which the first statistics are taken; at least 2.
        max_norm: The greatest norm in any case, in the first steps too; ``null`` for none.
        factor: Factor of what a spike is scaled down to, above 0 and at most 1.
    """

    threshold: float = 2.5
    decay: float = 0.97
    warmup: int = 25
    max_norm: float | None = None
    factor: float = 1.0

    def check(self) -> None:
        super().check()
        if not self.threshold > 0:
            raise self._error("threshold", "must be above 0", got=self.threshold, do="correct it")
        if not 0 < self.decay < 1:
            raise self._error("decay", "must be above 0 and below 1", got=self.decay, do="correct it")
        if self.warmup < 2:
            raise self._error("warmup", "must be at least 2", got=self.warmup, do="correct it")
        if not 0 < self.factor <= 1:
            raise self._error("factor", "must be above 0 and at most 1", got=self.factor, do="correct it")

    @property
    def limit(self) -> float | None:
        return self.max_norm

    @property
    def by_joint_norm(self) -> bool:
        return True

    @property
    def learns(self) -> bool:
        return True

    def way(self) -> Way:
        from lightning_solver.clipping.adaptive import ByDeviation

        return ByDeviation(self)


def check_norm(clip: Clip, norm_type: Order, eps: float = 0.0) -> None:
    """Refuse an order of a norm that is none, and what is added to norms if it is negative.

    Args:
        clip: The clipping.
        norm_type: The order.
        eps: What is added.

    Raises:
        SolverError: One of them makes no sense.
    """
    name = type(clip).__name__
    if norm_type != "inf" and not float(norm_type) > 0:
        raise SolverError(f"{name}.norm_type", "must be above 0, or inf", got=repr(norm_type), do="correct it")
    if eps < 0:
        raise SolverError(f"{name}.eps", "must not be negative", got=repr(eps), do="correct it")
