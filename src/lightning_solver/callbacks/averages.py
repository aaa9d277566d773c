"""Averages of the weights as callbacks, for any LightningModule: the arguments are those of the specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import LightningModule
from typing_extensions import TypedDict, Unpack

from lightning_solver import averaging
from lightning_solver.averaging.average import Average, UpdateBN, check_name
from lightning_solver.averaging.kinds import DecayWarmup
from lightning_solver.averaging.weight_sets import Entry
from lightning_solver.callbacks.averaging import Averaging


class WindowOptions(TypedDict, total=False):
    """What every average can be told but for when it begins; the defaults are in :class:`averaging.Average`."""

    until: int | str | None
    every_from: Literal["start", "run"]
    first: Literal["copy", "blend"]
    before: Literal["follow", "every", "hold"]
    only: str | Sequence[str] | None
    leave_out: str | Sequence[str] | None
    buffers: Literal["average", "copy"]
    dtype: Literal["auto", "same", "float32"]
    device: Literal["same", "cpu"]
    update_bn: bool | UpdateBN
    evaluated: bool | None
    evaluate_live: bool
    keep: Literal["average", "live"]
    resume_from: Literal["live", "average"]
    swap: Literal["auto", "copy"]
    snapshots: int | str | None


class AverageOptions(WindowOptions, total=False):
    """What every average can be told; the defaults are in :class:`averaging.Average`."""

    start: int | str
    every: int | str


class _One(Averaging):
    """One average, for any LightningModule."""

    def __init__(self, average: Average, name: str) -> None:
        super().__init__()
        check_name(name, f"{type(self).__name__}.name")
        self.average, self.name = average, name

    @property
    def state_key(self) -> str:
        """Of the name, so that several callbacks can go together."""
        return self._generate_state_key(name=self.name)

    def entries(self, module: LightningModule) -> dict[str, Entry]:
        return {self.name: Entry(self.average, where=f"{type(self).__name__}({self.name!r})")}


class EMA(_One):
    """Keeps an exponential moving average of the weights, and evaluates and saves it.

    What is validated is what is monitored, what every checkpoint has as its ``state_dict`` (one of weights alone too),
    and what ``test`` and ``predict`` see. Training goes on with the live weights, which full checkpoints hold as well;
    a resumed run is bitwise the straight one.

    Args:
        decay: From 0 to 1, for one optimiser step.
        half_life: In place of ``decay``: after how many steps (or ``5ep``, ``2%``) weights count half.
        warmup: How the decay comes to its value; at once by default.
        decay_per: What the decay is for where updates are further apart: one ``step``, or one ``update``.
        name: The name of the average; several must have different ones.
        **options: See :class:`lightning_solver.averaging.Average`.

    Raises:
        SolverError: A setting that makes no sense.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[EMA(decay=0.9999)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        decay: float | None = None,
        *,
        half_life: int | str | None = None,
        warmup: DecayWarmup | None = None,
        decay_per: Literal["step", "update"] = "step",
        name: str = "ema",
        **options: Unpack[AverageOptions],
    ) -> None:
        given: dict[str, Any] = {"half_life": half_life, "warmup": warmup, "decay_per": decay_per, **options}
        super().__init__(averaging.EMA(decay, **given), name)


class SWA(_One):
    """Keeps the equal average of the weights in the last part of a run, and evaluates and saves it.

    By default that of the ends of the epochs of the last quarter; the weights at the end of the run are among them, and
    the module gets the average whenever training ends. The learning rate is left alone: one for this part of the run is
    a phase of the schedule.

    Args:
        start: When the window begins: a number of steps, ``75%`` or ``30ep``.
        every: How often the weights are taken in: ``1ep``, or a number of steps.
        name: The name of the average; several must have different ones.
        **options: See :class:`lightning_solver.averaging.Average`.

    Raises:
        SolverError: A setting that makes no sense.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SWA(start="80%", update_bn=True)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        start: int | str = "75%",
        every: int | str = "1ep",
        *,
        name: str = "swa",
        **options: Unpack[WindowOptions],
    ) -> None:
        given: dict[str, Any] = {**options}
        super().__init__(averaging.SWA(start=start, every=every, **given), name)


class PowerEMA(_One):
    """Keeps an average by a power of time (Karras et al. 2024), whose length grows with the run.

    With ``snapshots`` of two of them, averages of any other length can be worked out after training.

    Args:
        sigma_rel: The length: the standard deviation of the times that are averaged, as a part of the run so far.
        gamma: In place of ``sigma_rel``: the exponent.
        name: The name of the average; several must have different ones.
        **options: See :class:`lightning_solver.averaging.Average`.

    Raises:
        SolverError: A setting that makes no sense.
    """

    def __init__(
        self,
        sigma_rel: float | None = None,
        *,
        gamma: float | None = None,
        name: str = "power_ema",
        **options: Unpack[AverageOptions],
    ) -> None:
        given: dict[str, Any] = {"gamma": gamma, **options}
        super().__init__(averaging.PowerEMA(sigma_rel, **given), name)
