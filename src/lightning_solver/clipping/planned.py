"""What will be clipped in a run, worked out before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lightning_solver.clipping.clip import Clip, numbered_clips
from lightning_solver.clipping.clipper import Clipper, selected
from lightning_solver.durations import RunLength
from lightning_solver.rules.depth import Depths
from lightning_solver.schedules.base import Curve


@dataclass(frozen=True)
class PlannedClip:
    """A clipping of a plan.

    Args:
        clip: The clipping.
        names: The names of the parameters that it is for.
        groups: These parameters, by group of the optimiser.
        everything: Whether they are all that the optimiser trains.
        curve: How its limit moves; ``None`` if it does not.
    """

    clip: Clip
    names: tuple[str, ...]
    groups: tuple[tuple[Tensor, ...], ...]
    everything: bool
    curve: Curve | None

    def build(self) -> Clipper:
        """The clipping at work."""
        return Clipper(self.clip, self.groups)

    def limit(self, step: int) -> float | None:
        """The limit in a step (0-based); ``None`` for a kind that finds its own."""
        return self.clip.limit if self.curve is None else self.curve.at(step)[0]


def plan_clips(
    clips: Clip | Sequence[Clip] | None,
    module: nn.Module,
    groups: Sequence[Sequence[Tensor]],
    run: RunLength,
    *,
    names: Mapping[int, str],
    where: str = "clip",
    beyond: Literal["error", "allow"] = "error",
    depths: Callable[[], Depths] | None = None,
    notes: list[str],
) -> tuple[PlannedClip, ...]:
    """The clippings of a plan, in the order in which they act.

    Args:
        clips: One, or several that act one after another.
        module: The module.
        groups: The parameters that the optimiser trains, by group.
        run: The length of the run.
        names: ``id`` of a parameter -> its name.
        where: The path of the clippings, for error messages.
        beyond: ``allow`` if a phase of a limit may reach beyond the run.
        depths: Gives the depths of parameters, when a selector asks for them; by default as ``depth: auto`` does.
        notes: What is odd is added here.

    Raises:
        SolverError: A selector that selects nothing, or a schedule that does not fit the run.
    """
    found = []
    trained = [tensor for group in groups for tensor in group]
    for clip, path in numbered_clips(clips, where):
        chosen = {id(tensor) for tensor in selected(clip, module, trained, path, depths=depths, notes=notes)}
        by_group = tuple(tuple(tensor for tensor in group if id(tensor) in chosen) for group in groups)
        found.append(
            PlannedClip(
                clip=clip,
                names=tuple(names[id(tensor)] for group in by_group for tensor in group),
                groups=tuple(group for group in by_group if group),
                everything=len(chosen) == len(trained),
                curve=clip.curve(run, path, notes, beyond=beyond),
            )
        )
    return tuple(found)
