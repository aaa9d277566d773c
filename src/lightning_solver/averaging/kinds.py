"""The averages: exponential, equal, and by a power of time."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_solver.averaging.average import Average, Moment, refuse_nothing
from lightning_solver.durations import Duration, RunLength
from lightning_solver.plain import Plain


@dataclass(frozen=True)
class DecayWarmup(Plain, ABC):
    """How the decay of an :class:`EMA` comes to its value. To make your own, derive a frozen dataclass."""

    @abstractmethod
    def share(self, share: float, since: int) -> float:
        """The share of the present weights.

        Args:
            share: What it is without the warm-up.
            since: Steps since the average began.
        """


@dataclass(frozen=True)
class PowerWarmup(DecayWarmup):
    """The decay rises as ``1 - (1 + t / gamma) ** -power``, ``t`` steps after the average began, up to its value.

    A young average so forgets what it began with. timm and ema_pytorch have it with gamma 1 and power 2/3, with which
    it reaches 0.999 after 31,600 steps; MMEngine's momentum annealing is gamma 100 and power 1, with which it is the
    equal average of all weights but for the first 100. TensorFlow's decay of ``(1 + t) / (10 + t)`` is gamma 9, power 1
    and ahead 1.

    Args:
        gamma: Steps, > 0.
        power: > 0.
        minimum: The least decay.
        ahead: What ``t`` is when the average begins, >= 0.
    """

    gamma: float = 1.0
    power: float = 2 / 3
    minimum: float = 0.0
    ahead: float = 0.0

    def check(self) -> None:
        for field in ("gamma", "power"):
            if getattr(self, field) <= 0:
                raise self._error(field, "must be above 0", got=getattr(self, field), do="correct it")
        if self.ahead < 0:
            raise self._error("ahead", "must not be negative", got=self.ahead, do="give a number of steps >= 0")
        if not 0 <= self.minimum <= 1:
            raise self._error("minimum", "must be a decay from 0 to 1", got=self.minimum, do="correct it")

    def share(self, share: float, since: int) -> float:
        young = float((1 + (since + self.ahead) / self.gamma) ** -self.power)
        return max(share, min(young, 1 - self.minimum))


@dataclass(frozen=True)
class ExponentialWarmup(DecayWarmup):
    """The share of the present weights falls from 1 to its value as ``exp(-t / steps)``, as the YOLO models have it.

    ``t`` is ``ahead`` steps more than those since the average began.

    Args:
        steps: Steps, > 0; 2000 is usual.
        ahead: What ``t`` is when the average begins, >= 0.

    Example:
        >>> [round(ExponentialWarmup(10).share(0.1, since), 3) for since in (0, 10, 100)]
        [0.914, 0.4, 0.1]
    """

    steps: float
    ahead: float = 1.0

    def check(self) -> None:
        if self.steps <= 0:
            raise self._error("steps", "must be above 0", got=self.steps, do="correct it")
        if self.ahead < 0:
            raise self._error("ahead", "must not be negative", got=self.ahead, do="give a number of steps >= 0")

    def share(self, share: float, since: int) -> float:
        return share + (1 - share) * math.exp(-(since + self.ahead) / self.steps)


@dataclass(frozen=True)
class SlowStart(DecayWarmup):
    """The share of the present weights is at most ``(1 + t) / (steps + t)``, ``t`` steps after the average began.

    So an average that begins with good weights takes in new ones carefully at first, as MMCV does it with 100 steps.

    Args:
        steps: Steps, > 0.
    """

    steps: float

    def check(self) -> None:
        if self.steps <= 0:
            raise self._error("steps", "must be above 0", got=self.steps, do="correct it")

    def share(self, share: float, since: int) -> float:
        return min(share, (1 + since) / (self.steps + since))


@dataclass(frozen=True)
class EMA(Average):
    """Exponential moving average: ``average = decay * average + (1 - decay) * weights`` (Polyak and Juditsky, 1992).

    Args:
        decay: From 0 to 1, for one step. Other systems say ``momentum`` for ``1 - decay``.
        half_life: In place of ``decay``: after how many steps (or ``5ep``, ``2%``, ``4096sp``) weights count half.
        warmup: How the decay comes to its value; at once by default.
        decay_per: What the decay is for, where updates are further apart: one ``step`` (it is raised to the number of
            steps then, so that the average is as long as with an update at every step), or one ``update``.

    Example:
        >>> EMA(decay=0.9).curve(total_steps=3).tolist()
        [1.0, 0.09999999999999998, 0.09999999999999998]
        >>> EMA(half_life="2ep", every=5).curve(total_steps=11, steps_per_epoch=5).round(3).tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.293, 0.0, 0.0, 0.0, 0.0, 0.293]
    """

    decay: float | None = None
    half_life: int | str | None = None
    warmup: DecayWarmup | None = None
    decay_per: Literal["step", "update"] = "step"

    def check(self) -> None:
        super().check()
        if (self.decay is None) == (self.half_life is None):
            got = None if self.decay is None else f"decay {self.decay:g} and half_life {self.half_life}"
            what = "is needed" if self.decay is None else "contradicts half_life"
            raise self._error("decay", what, got=got, do="give decay, such as 0.999, or half_life, such as 700")
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise self._error("decay", "must be from 0 to 1", got=self.decay, do="correct it")
        if self.half_life is not None:
            refuse_nothing(self.half_life, "EMA.half_life")
            if self.decay_per == "update":
                do = "drop one of the two"
                raise self._error("decay_per", "is for decay, and half_life is given", got=self.decay_per, do=do)

    def resolved(self, run: RunLength, where: str) -> EMA:
        if self.half_life is None:
            return self
        steps = Duration.parse(self.half_life, f"{where}.half_life").length(run, f"{where}.half_life")
        return dataclasses.replace(self, half_life=None, decay=2.0 ** (-1 / float(steps)))

    def share(self, moment: Moment) -> float:
        assert self.decay is not None, "resolved"
        share = 1.0 - self.decay
        if self.warmup is not None:
            share = self.warmup.share(share, moment.since)
        if self.decay_per == "step" and moment.elapsed > 1:
            return 1.0 - (1.0 - share) ** moment.elapsed
        return share


@dataclass(frozen=True)
class SWA(Average):
    """Equal average of the weights in a part of the run (Izmailov et al. 2018).

    By default that of the weights at the end of each epoch of the last quarter. With ``every=1`` it is the tail average
    over every step (Jain et al. 2018): ``SWA(start="90%", every=1)`` averages the last tenth of the run,
    ``SWA(start="100%-500st", every=1)`` the last 500 steps. The weights at the end of the run are among those averaged.

    A learning rate of its own is a phase of the schedule: ``Constant`` or ``Linear`` from ``start`` on.

    Example:
        >>> SWA(start=2, every=1).curve(total_steps=5).round(3).tolist()
        [1.0, 1.0, 0.5, 0.333, 0.25]
    """

    start: int | str = dataclasses.field(default="75%", kw_only=True)
    every: int | str = dataclasses.field(default="1ep", kw_only=True)

    takes_last: ClassVar[bool] = True

    def check(self) -> None:
        super().check()
        if self.first != "copy":
            do = "leave it out, or begin with the weights of the start of the run by start: 0"
            raise self._error("first", "has no meaning where all weights count the same", got=self.first, do=do)

    def share(self, moment: Moment) -> float:
        return 1.0 / (moment.updates + 1)


@dataclass(frozen=True)
class PowerEMA(Average):
    """Average by a power of time: the weights of step ``t`` count in proportion to ``t ** gamma`` (Karras et al. 2024).

    Its length grows with the run, so that the same setting suits runs of any length and nothing has to be warmed up.
    Snapshots of two of them, of ``sigma_rel`` 0.05 and 0.10, are enough to work out the average of any other length
    after training: give both ``snapshots``, and see ``lightning-solver average --sigma-rel``.

    The paper is "Analyzing and Improving the Training Dynamics of Diffusion Models"; section 3.1 and algorithms 2 and 3
    of its appendix C have the formulas.

    Args:
        sigma_rel: The length: the standard deviation of the times that are averaged, as a part of the run so far; above
            0 and below 0.28.
        gamma: In place of ``sigma_rel``: the exponent, >= 0; ``0`` averages all equally.

    Example:
        >>> round(PowerEMA(sigma_rel=0.1).exponent, 2), PowerEMA(gamma=0.0).curve(total_steps=3).round(3).tolist()
        (6.94, [1.0, 0.5, 0.333])
    """

    sigma_rel: float | None = None
    gamma: float | None = None

    def check(self) -> None:
        super().check()
        if (self.sigma_rel is None) == (self.gamma is None):
            what = "is needed" if self.gamma is None else "contradicts gamma"
            raise self._error("sigma_rel", what, got=self.sigma_rel, do="give sigma_rel, such as 0.1, or gamma")
        if self.sigma_rel is not None and not 0 < self.sigma_rel < 12**-0.5:
            do = f"give a part of the run so far, above 0 and below {12**-0.5:.3f}, which is the equal average"
            raise self._error("sigma_rel", "is out of range", got=self.sigma_rel, do=do)
        if self.gamma is not None and self.gamma < 0:
            raise self._error("gamma", "must not be negative", got=self.gamma, do="give a value >= 0")
        if self.first != "copy":
            do = "leave it out"
            raise self._error("first", "has no meaning, as the first weights are copied", got=self.first, do=do)

    @property
    def exponent(self) -> float:
        """The exponent gamma."""
        if self.gamma is not None:
            return self.gamma
        assert self.sigma_rel is not None
        return gamma_of(self.sigma_rel)

    def share(self, moment: Moment) -> float:
        rest: float = (1.0 - moment.elapsed / (moment.since + 1)) ** (self.exponent + 1)
        return 1.0 - rest


def gamma_of(sigma_rel: float) -> float:
    """The exponent of the power-function average of a length.

    Inverts ``sigma_rel = (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)``, eq. 127 of Karras et al. (2024).

    Args:
        sigma_rel: Above 0 and below ``12 ** -0.5``.

    Example:
        >>> round(gamma_of(0.05), 3), round(gamma_of(0.10), 3)
        (16.972, 6.937)
    """
    low, high = 0.0, 1.0
    while sigma_rel_of(high) > sigma_rel:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if sigma_rel_of(middle) > sigma_rel else (low, middle)


def sigma_rel_of(gamma: float) -> float:
    """The length of the power-function average of an exponent: the inverse of :func:`gamma_of`."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)
